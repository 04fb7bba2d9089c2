"""Commands that make data: pairs for the gaps, their approval, synthesis, export."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from fac import compare, review
from fac import export as exports
from fac.cli.decide import (
    BudgetUsd,
    Concurrency,
    Endpoint,
    Features,
    PriceIn,
    PriceOut,
    feature_ids,
)
from fac.cli.frame import (
    Address,
    Anchor,
    Answer,
    Dataset,
    Executor,
    MinSupport,
    Relevant,
    Threshold,
    Workers,
    WorkspaceOption,
    build_caches,
    command,
    listing,
    out,
    perform,
)
from fac.config import (
    METHODS,
    WRITERS,
    PairsSpec,
    SynthesizeSpec,
    Workspace,
    digest,
    inherited,
    workspace,
)
from fac.errors import InputError
from fac.executor import Where, choose_executor
from fac.prompts import profiles
from fac.questions.relevance import people_verdicts
from fac.store import open_stores
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.runs import Runs

Writer = Annotated[str | None, typer.Option(help=f"What writes: {', '.join(WRITERS)}.")]
Profile = Annotated[
    str | None, typer.Option(help=f"The form of a sample: {', '.join(profiles.PROFILES)}.")
]
Model = Annotated[
    str | None,
    typer.Option(help="What writes: `demo`, a folder, a hub id; the name a server knows it by."),
]
Budget = Annotated[int | None, typer.Option(help="Stop before using more tokens.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same machine: same texts.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2.")]
NewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="Longest text.")]
Strength = Annotated[
    float | None, typer.Option(help="Of steering, in units of the feature's usual peak.")
]
Batch = Annotated[int, typer.Option(min=1, help="Texts a local model writes at once.")]
Pairs = Annotated[str, typer.Argument(help="Run of pairs, or the name of its dataset.")]
Attempt = Annotated[int | None, typer.Option(help="Another number writes anew.")]


@command("pairs")
def pairs(
    anchor: Anchor,
    dataset: Dataset,
    features: Features = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Without --features: only the best supported gaps.")
    ] = None,
    candidates: Annotated[int, typer.Option(help="Texts written per gap.")] = 4,
    margin: Annotated[
        float, typer.Option(help="A positive fires by so much above threshold and negative.")
    ] = PairsSpec.margin,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    relevant: Relevant = "all",
    profile: Profile = None,
    writer: Writer = None,
    model: Model = None,
    endpoint: Endpoint = "",
    seed: Seed = None,
    temperature: Temperature = None,
    max_new_tokens: NewTokens = None,
    strength: Strength = None,
    attempt: Attempt = None,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    concurrency: Concurrency = 8,
    batch: Batch = PairsSpec.batch,
    executor: Executor = None,
    address: Address = None,
    workers: Workers = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Step 1: for every gap a text that fires the feature and a near-twin that does not."""
    where = choose_executor(executor, address, workers)
    place = workspace(workspace_)
    runs = Runs(place)
    sides = runs.resolve("measure", anchor), runs.resolve("measure", dataset)
    if features is not None:
        wanted = feature_ids(features)
    else:
        wanted = _gaps(place, *sides, threshold, min_support, relevant, limit)
    spec = PairsSpec(
        anchor=sides[0],
        dataset=sides[1],
        features=tuple(wanted),
        explanations=tuple(compare.explained_by(runs, sides[0])),
        candidates=candidates,
        margin=margin,
        threshold=threshold,
        endpoint=endpoint,
        budget_tokens=budget,
        budget_usd=budget_usd,
        price_in=price_in,
        price_out=price_out,
        concurrency=concurrency,
        batch=batch,
        **_given(
            profile=profile,
            writer=writer,
            model=model,
            seed=seed,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            strength=strength,
            attempt=attempt,
        ),
    )
    run_id = perform(place, spec, "writing pairs", where)
    rows = runs.table(run_id, "pairs", ["feature", "status", "reason"]).to_pylist()
    failed = [
        {"feature": row["feature"], "reason": row["reason"]}
        for row in rows
        if row["status"] == "failed"
    ]
    data = {"run": run_id, "pairs": len(rows) - len(failed), "failed": failed}

    def show() -> None:
        listing({**data, "failed": len(failed)})()
        for row in failed[:10]:
            out.print(f"  feature {row['feature']}: {escape(row['reason'])}", soft_wrap=True)
        if len(failed) > 10:
            out.print(f"  … and {len(failed) - 10} more")

    return Answer(data, show)


def _gaps(
    place: Workspace,
    anchor: str,
    dataset: str,
    threshold: float,
    min_support: int,
    relevant: str,
    limit: int | None,
) -> list[int]:
    """What the dataset lacks, best supported by the anchor first."""
    runs = Runs(place)
    judged = compare.relevance_runs(runs, anchor)
    build_caches(place, [anchor, dataset, *filter(None, [judged.get(relevant)])])
    with closing(Cache(place.cache)) as handle:
        people: dict[int, str] = {}
        if relevant in judged:
            said = people_verdicts(open_stores(place, remember=False), anchor, relevant)
            people = {feature: one.verdict for feature, one in said.items() if one.verdict}
        wanted = compare.relevant_set(relevant, handle, anchor, runs=runs, overrides=people)
        asked: dict[str, Any] = {
            "threshold": threshold,
            "min_support": min_support,
            "relevant": wanted,
        }
        missing = compare.coverage_of(handle, anchor, dataset, **asked).missing
        if not len(missing):
            raise InputError("The dataset lacks nothing at this threshold: there is no gap.")
        rows, _ = compare.gap_table(handle, anchor, dataset, limit=limit or len(missing), **asked)
    return [row["feature"] for row in rows]


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the spec knows what holds for the others."""
    return {name: value for name, value in options.items() if value is not None}


@command("approve")
def approve(
    pairs: Pairs,
    reviewer: Annotated[str, typer.Option(help="Who approves, by name.")],
    all_: Annotated[bool, typer.Option("--all", help="Every proposed pair.")] = False,
    ids: Annotated[
        str | None, typer.Option(help="These: ids of pairs or features, separated by commas.")
    ] = None,
    above: Annotated[
        float | None, typer.Option(help="Those whose positive fires more strongly than this.")
    ] = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Approve pairs as they are now; nothing else is ever written from."""
    if sum((all_, ids is not None, above is not None)) != 1:
        raise InputError("Say which pairs you approve: --all, --ids or --above SCORE, one of them.")
    place = workspace(workspace_)
    runs, store = Runs(place), Decisions(place.decisions)
    run_id = _pairs_run(runs, pairs)
    newest = _newest(runs, run_id)
    chosen = _named(newest, ids) if ids is not None else [*newest.values()]
    if above is not None:
        chosen = [one for one in chosen if one[1]["positive_peak"] > above]
    said = {
        (d.subject, d.seen)
        for d in store.current("pair", reviewer=reviewer)
        if d.verdict == review.APPROVE
    }
    for run, row in chosen:
        item = review.pair_item(run, row)
        if (item.subject, digest(item.content)) not in said:
            store.add(reviewer, item.kind, item.subject, item.content, review.APPROVE)
    data = {"approved": len(chosen), "run": run_id, "pairs": [row["pair"] for _, row in chosen]}
    return Answer(data, listing({"approved": len(chosen), "run": run_id, "reviewer": reviewer}))


Versioned = tuple[str, dict[str, Any]]
"""The run a pair lies in, and its row of schema.PAIRS."""


def _pairs_run(runs: Runs, name: str) -> str:
    """The id behind a pairs run, or the name of the dataset that it is about."""
    if runs.find(name) and runs.manifest(name)["step"] in ("pairs", "rescore"):
        return name
    return runs.resolve("pairs", name)


def _newest(runs: Runs, pairs_run: str) -> dict[int, Versioned]:
    """Of every proposed pair its last version, by feature."""
    found: dict[int, Versioned] = {}
    for manifest, rows in review.pair_versions(runs, pairs_run):
        found |= {r["feature"]: (manifest["run"], r) for r in rows if r["status"] == "proposed"}
    return dict(sorted(found.items()))


def _named(newest: dict[int, Versioned], ids: str) -> list[Versioned]:
    """The pairs with these ids, or of these features."""
    by_pair = {row["pair"]: (run, row) for run, row in newest.values()}
    found = []
    for part in filter(None, (part.strip().removeprefix("#") for part in ids.split(","))):
        feature = int(part) if part.isascii() and part.isdigit() else None
        if part in by_pair:
            found.append(by_pair[part])
        elif feature in newest:
            found.append(newest[feature])
        else:
            raise InputError(
                f"No proposed pair has the id or the feature {part!r}: it failed, was edited "
                f"since, or belongs to another run."
            )
    if not found:
        raise InputError(f"--ids takes ids of pairs or features such as 12,407, got {ids!r}.")
    return found


DEFAULT_METHOD, *BASELINES = METHODS

TOLD = (
    *("kept", "dropped", "hit_rate", "fac_before", "fac_after", "miss_hit_rate"),
    *("features_gained", "tokens", "seconds", "cost"),
)


@command("synthesize")
def synthesize(
    pairs: Pairs,
    per_feature: Annotated[
        int | None, typer.Option(help="Texts written per approved pair; of the pairs if not given.")
    ] = None,
    keep: Annotated[int, typer.Option(help="Best samples kept per gap.")] = SynthesizeSpec.keep,
    only_needed: Annotated[
        bool, typer.Option("--only-needed", help="Drop samples whose gaps better ones all cover.")
    ] = False,
    method: Annotated[
        str, typer.Option(help=f"{DEFAULT_METHOD}, or a baseline: {', '.join(BASELINES)}.")
    ] = DEFAULT_METHOD,
    threshold: Annotated[
        float | None, typer.Option(help="A sample is kept above this; of the pairs if not given.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="File no sample may overlap with; repeatable.")
    ] = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Only a few gaps, and what all of them would take.")
    ] = False,
    profile: Profile = None,
    writer: Writer = None,
    model: Model = None,
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible base URL; of the pairs if not given.")
    ] = None,
    seed: Seed = None,
    temperature: Temperature = None,
    max_new_tokens: NewTokens = None,
    strength: Strength = None,
    attempt: Attempt = None,
    budget: Budget = None,
    budget_usd: BudgetUsd = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    concurrency: Concurrency = 8,
    batch: Batch = SynthesizeSpec.batch,
    executor: Executor = None,
    address: Address = None,
    workers: Workers = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Step 2: samples from the approved pairs, each kept or dropped with a reason."""
    where = choose_executor(executor, address, workers)
    place = workspace(workspace_)
    runs = Runs(place)
    run_id = _pairs_run(runs, pairs)
    approved = review.approved_pairs(Decisions(place.decisions), runs, run_id)
    asked = _given(
        profile=profile,
        writer=writer,
        model=model,
        endpoint=endpoint,
        seed=seed,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        strength=strength,
        attempt=attempt,
        candidates=per_feature,
        threshold=threshold,
    )
    spec = SynthesizeSpec(
        pairs=run_id,
        approved=tuple(row["pair"] for row in approved),
        method=method,
        keep=keep,
        only_needed=only_needed,
        evaluation=tuple(str(path.resolve()) for path in evaluation or ()),
        budget_tokens=budget,
        budget_usd=budget_usd,
        price_in=price_in,
        price_out=price_out,
        concurrency=concurrency,
        batch=batch,
        **{**inherited(runs.manifest(run_id)["spec"], writer), **asked},
    )
    if pilot:
        return _pilot(place, spec, where)
    made = perform(place, spec, "synthesizing", where)
    facts = runs.manifest(made)["facts"]
    data = {"run": made, "dataset": facts["kept_dataset"], **{key: facts[key] for key in TOLD}}

    def show() -> None:
        flat = {key: value for key, value in data.items() if key != "dropped"}
        listing(flat | {f"dropped: {why}": n for why, n in facts["dropped"].items()})()

    return Answer(data, show)


def _pilot(place: Workspace, spec: SynthesizeSpec, where: Where) -> Answer:
    """Writes for a few of the pairs; their texts count, the whole run does not write them again."""
    from fac import synthesis  # with the encoder's room, which no other command of this file needs

    if not spec.approved:
        raise InputError("A pilot needs approved pairs: approve some with `fac approve`.")
    few = replace(spec, approved=synthesis.pilot_pairs(spec.approved))
    run_id = perform(place, few, "trying a few gaps", where)
    found = synthesis.forecast(Runs(place).manifest(run_id), len(spec.approved))
    return Answer(found._asdict(), listing(found._asdict()))


@command("export")
def export(
    run: Annotated[str, typer.Argument(help="Run of a synthesis, or its name.")],
    out_: Annotated[Path, typer.Option("--out", help="File, or folder for the format hf.")],
    format_: Annotated[
        str, typer.Option("--format", help=f"{', '.join(exports.EXPORT_FORMATS)}.")
    ] = next(iter(exports.EXPORT_FORMATS)),
    form: Annotated[
        str, typer.Option(help=f"{', '.join(exports.FORMS)}; by the profile if not given.")
    ] = "",
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Write the kept samples with their lineage, and a dataset card."""
    runs = Runs(workspace(workspace_))
    found = exports.export(
        runs.resolve("synthetic", run), out_, runs=runs, format=format_, form=form
    )
    data = {
        "rows": found.rows,
        "form": found.form,
        "format": format_,
        "out": str(found.path),
        "card": str(found.card),
    }
    return Answer(data, listing(data))
