"""Commands that make data: pairs for the gaps, their approval, synthesis, export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from fac import export as export_
from fac import review
from fac.cli import frame
from fac.cli.decide import feature_ids
from fac.cli.families import FamilyOptions
from fac.cli.frame import Answer, ComparisonOptions, WhereOptions, command, listing, perform
from fac.config import (
    ANSWERERS,
    METHODS,
    WRITERS,
    PairsSpec,
    SynthesizeSpec,
    Workspace,
    WriteSpec,
    digest,
)
from fac.endpoints import Endpoints
from fac.errors import InputError
from fac.executor import Where
from fac.manifest import SynthesisFacts
from fac.prompts.profiles import PROFILES
from fac.questions import exports
from fac.questions.by_name import build_caches, read_threshold
from fac.questions.comparison import Comparison
from fac.questions.explanations import explain_runs
from fac.questions.gap_evidence import missing_or_rare
from fac.questions.pairs import authors, inherited, origins_in_words, question_fields, question_of
from fac.questions.shape import shape_of
from fac.store import Stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs

Pairs = Annotated[str, Argument(help="Run of pairs, or the name of its dataset.")]


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How texts are written; the fields are those of the specs."""

    profile: Annotated[
        str | None,
        Option(help=f"Form: {', '.join(PROFILES)}; else the dataset's own, or that of the pairs."),
    ] = None
    answers: Annotated[
        str | None,
        Option(
            help=f"Who answers messages: {', '.join(filter(None, ANSWERERS))}; else the writer."
        ),
    ] = None
    writer: Annotated[str | None, Option(help=f"What writes: {', '.join(WRITERS)}.")] = None
    model: Annotated[
        str | None,
        Option(
            help="What writes: `demo`, a folder, a .gguf file, a hub id, else the measured model; "
            "the name a server knows it by."
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        Option(
            help="OpenAI-compatible base URL; of the pairs when synthesizing, else default "
            "OPENAI_BASE_URL, else OpenAI."
        ),
    ] = None
    seed: Annotated[int | None, Option(help="Same seed, same machine: same texts.")] = None
    temperature: Annotated[float | None, Option(help="0 to 2.")] = None
    max_new_tokens: Annotated[int | None, Option("--max-new-tokens", help="Longest text.")] = None
    strength: Annotated[float | None, Option(help="Steering, in usual peaks; 0: none.")] = None
    attempt: Annotated[int | None, Option(help="Another number writes anew.")] = None

    def settings(self) -> dict[str, Any]:
        """Without those that were left out; the spec knows what holds for them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LimitOptions(frame.SpendOptions):
    """What writing may cost, and how much is written at once."""

    budget: Annotated[int | None, Option(help="Stop before using more tokens.")] = None
    batch: Annotated[int, Option(min=1, help="Texts written at once, locally.")] = WriteSpec.batch

    def settings(self) -> dict[str, Any]:
        """As the specs call them."""
        values = asdict(self)
        return {"budget_tokens": values.pop("budget"), **values}


@command("pairs")
def pairs_(
    *,
    stores: Stores,
    options: ComparisonOptions,
    features: frame.Features = None,
    limit: Annotated[
        int | None, Option(min=1, help="Without --features: only so many gaps, certain ones first.")
    ] = None,
    families: FamilyOptions,
    candidates: Annotated[int, Option(help="Texts written per gap.")] = 4,
    margin: Annotated[
        float, Option(help="A positive fires by so much above threshold and negative.")
    ] = PairsSpec.margin,
    writing: WriteOptions,
    limits: LimitOptions,
    key: frame.KeyOptions,
    where: WhereOptions,
) -> Answer:
    """Step 1: for every gap a text that fires it and the most similar one that stays silent."""
    executor, runs = where.choose(), stores.runs
    comparison = options.comparison(stores)
    if features is not None and families.family:
        raise InputError("Give --features or --family, not both.")
    if features is not None:
        gaps = families.few(stores, comparison, feature_ids(features))
    else:
        gaps = families.named(stores, comparison) or _gaps(stores, comparison)
        gaps = families.few(stores, comparison, gaps)[:limit]
    shape = shape_of(stores, comparison.dataset)
    settings = {"profile": shape.profile, **writing.settings(), **limits.settings()}
    settings, endpoints = _of_server(runs.workspace, settings, key, writing.endpoint, "pairs")
    spec = PairsSpec(
        features=tuple(gaps),
        explanations=tuple(explain_runs(runs, comparison.anchor)),
        candidates=candidates,
        margin=margin,
        **question_fields(stores, comparison),
        **settings,
    )
    run_id = perform(runs.workspace, spec, "writing pairs", executor, endpoints)
    columns = ["feature", "status", "reason", "origin", "negative_origin"]
    rows = runs.table(run_id, "pairs", columns).to_pylist()
    failed = [{k: r[k] for k in ("feature", "reason")} for r in rows if r["status"] == "failed"]
    facts = runs.manifest(run_id).facts
    data: dict[str, Any] = {"run": run_id, "threshold": comparison.threshold}
    data |= {"profile": spec.profile, "dataset_shape": shape.profile}
    data |= {"pairs": len(rows) - len(failed), "failed": failed}
    data |= {"positives": dict(facts.origins), "negatives": dict(facts.negatives)}
    data["anchor_texts"] = {  # the gaps whose side is shown to the writer and never exported
        side: [row["feature"] for row in rows if row[column] == "anchor"]
        for side, column in (("positive", "origin"), ("negative", "negative_origin"))
    }
    texts = authors(runs, run_id)
    data |= {"texts": texts, "problems": dict(facts.problems), "note": facts.note}
    first = [f"feature {gap['feature']}: {gap['reason']}" for gap in failed]
    first += [
        f"feature {each['feature']}: positive by {each['positive']}, negative by {each['negative']}"
        for each in texts
    ]
    figures: dict[str, Any] = {name: data[name] for name in ("run", "threshold", "pairs")}
    chosen = "" if writing.profile else f" (the data are {shape.reason})"
    figures |= {"profile": f"{PROFILES[spec.profile].title}{chosen}"}
    figures |= {"failed": len(failed), **origins_in_words(facts)}
    if facts.problems:
        figures["without a text"] = ", ".join(f"{why} {n:,}" for why, n in facts.problems.items())
    figures |= {"note": facts.note} if facts.note else {}
    show, refusal = listing(figures, first[: frame.LISTED], len(first)), ""
    if not data["pairs"]:
        refusal = f"No gap of {len(gaps):,} has a pair: {failed[0]['reason']}."
    return Answer(data, show, refusal=refusal)


def _gaps(stores: Stores, comparison: Comparison) -> list[int]:
    """What the dataset lacks, or else what it shows too rarely, certain gaps first."""
    features = missing_or_rare(stores, comparison)
    if not features:
        raise InputError(
            f"The dataset lacks nothing above {comparison.threshold:g}: there is no gap."
        )
    return features


@command("approve")
def approve(
    workspace: Workspace,
    pairs: Pairs,
    reviewer: Annotated[str, Option(help="Who approves, by name.")],
    all_: Annotated[bool, Option("--all", help="Every proposed pair.")] = False,
    ids: Annotated[str | None, Option(help="Ids of pairs or features, by commas.")] = None,
    above: Annotated[float | None, Option(help="Those whose positive fires above this.")] = None,
) -> Answer:
    """Approve pairs as they are now; nothing else is ever written from."""
    if sum((all_, ids is not None, above is not None)) != 1:
        raise InputError("Say which pairs you approve: --all, --ids or --above SCORE, one of them.")
    runs, decisions = Runs(workspace), Decisions(workspace.decisions)
    run_id = _pairs_run(runs, pairs)
    newest = _newest(runs, run_id)
    versions = _named(newest, ids) if ids is not None else [*newest.values()]
    if above is not None:
        versions = [(run, row) for run, row in versions if row["positive_peak"] > above]
    approvals = {
        (decision.subject, decision.seen)
        for decision in decisions.current("pair", reviewer=reviewer)
        if decision.verdict == review.APPROVE
    }
    reasons = [review.UNSEEN] if ids is None else []
    for run, row in versions:
        item = review.pair_item(run, row)
        if (item.subject, digest(item.content)) not in approvals:
            about = (item.kind, item.subject, item.content)
            decisions.add(reviewer, *about, review.APPROVE, reasons=reasons)
    data = {"approved": len(versions), "run": run_id, "pairs": [row["pair"] for _, row in versions]}
    return Answer(data, listing({"approved": len(versions), "run": run_id, "reviewer": reviewer}))


Versioned = tuple[str, dict[str, Any]]  # The run a pair lies in, and its row of schema.PAIRS


def _pairs_run(runs: Runs, name: str) -> str:
    """The id behind a pairs run, or the name of the dataset that it is about."""
    if runs.find(name) and runs.manifest(name).step in ("pairs", "rescore"):
        return name
    return runs.resolve("pairs", name)


def _newest(runs: Runs, pairs_run: str) -> dict[int, Versioned]:
    """Of every proposed pair its last version, by feature."""
    newest = {
        row["feature"]: (manifest.run, row)
        for manifest, rows in review.pair_versions(runs, pairs_run)
        for row in rows
        if row["status"] == "proposed"
    }
    return dict(sorted(newest.items()))


def _named(newest: dict[int, Versioned], ids: str) -> list[Versioned]:
    """The pairs with these ids, or of these features."""
    by_pair = {row["pair"]: (run, row) for run, row in newest.values()}
    versions = []
    for part in filter(None, (part.strip().removeprefix("#") for part in ids.split(","))):
        feature = int(part) if part.isascii() and part.isdigit() else None
        if part in by_pair:
            versions.append(by_pair[part])
        elif feature in newest:
            versions.append(newest[feature])
        else:
            raise InputError(
                f"No proposed pair has the id or the feature {part!r}: it failed, was edited "
                f"since, or belongs to another run."
            )
    if not versions:
        raise InputError(f"--ids takes ids of pairs or features such as 12,407, got {ids!r}.")
    return versions


DEFAULT_METHOD, *BASELINES = METHODS

RATES = {"hit_rate": "own-words hit rate", "any_hit_rate": "fires anywhere"}
"""The two rates of a synthesis, what counts first, with their names for people."""

OUTCOME = (
    *("profile", "relevant", "role", "min_support", "kept", "dropped", "gaps", "gaps_hit"),
    *(f"{rate}{end}" for rate in RATES for end in ("", "_low", "_high")),
    *("any_gaps_hit", "unchecked", "doubtful", "doubts", "label_auroc", "tried", "note"),
    *("answered_by", "answers"),
    *("fac_before", "fac_after", "n_anchor", "n_missing", "miss_hit_rate", "features_gained"),
    *("tokens", "seconds", "cost"),
)
"""The facts of a synthesis that are answered."""

IN_WORDS = ("relevant", "role", "min_support", "fac_before", "fac_after", "features_gained")


@command("synthesize")
def synthesize(
    *,
    stores: Stores,
    pairs: Pairs,
    per_feature: Annotated[
        int | None, Option(help="Texts per approved pair; else the pairs'.")
    ] = None,
    keep: Annotated[int, Option(help="Best samples kept per gap.")] = SynthesizeSpec.keep,
    only_needed: Annotated[
        bool, Option("--only-needed", help="Drop samples whose gaps better ones all cover.")
    ] = False,
    method: Annotated[
        str, Option(help=f"{DEFAULT_METHOD}, or a baseline: {', '.join(BASELINES)}.")
    ] = DEFAULT_METHOD,
    threshold: Annotated[
        str | None, Option(help="Samples stay above this number, or `clear`; else the pairs'.")
    ] = None,
    rows: Annotated[
        int, Option(help="Samples to keep, exactly; 0 writes once for every gap.")
    ] = SynthesizeSpec.rows,
    hold_out: Annotated[
        list[Path] | None,
        Option(
            *("--hold-out", "--evaluation"),
            help="File that no sample may overlap with, such as a test set; repeatable.",
        ),
    ] = None,
    labels_from: Annotated[
        str | None,
        Option(help="Measured dataset that the label check learns from; else DATASET or ANCHOR."),
    ] = None,
    pilot: Annotated[
        bool, Option("--pilot", help="Only a few gaps, and what all would take.")
    ] = False,
    families: FamilyOptions,
    writing: WriteOptions,
    limits: LimitOptions,
    key: frame.KeyOptions,
    where: WhereOptions,
) -> Answer:
    """Step 2: samples from the approved pairs, each kept or dropped with a reason."""
    executor, runs = where.choose(), stores.runs
    run_id = _pairs_run(runs, pairs)
    approved = review.approved_pairs(stores.decisions, runs, run_id)
    if families.family or families.per_family:
        approved = _of_families(stores, run_id, approved, families)
    settings = inherited(runs.manifest(run_id).spec.as_json(), writing.writer)
    settings |= writing.settings()
    settings |= {"candidates": per_feature} if per_feature is not None else {}
    if threshold is not None:
        anchor = runs.manifest(run_id).facts.anchor
        build_caches(stores, [anchor])
        settings["threshold"] = read_threshold(stores, anchor, threshold)
    settings, endpoints = _of_server(
        runs.workspace, settings | limits.settings(), key, writing.endpoint, "synthesis"
    )
    spec = SynthesizeSpec(
        pairs=run_id,
        approved=tuple(row["pair"] for row in approved),
        method=method,
        keep=keep,
        only_needed=only_needed,
        rows=rows,
        evaluation=tuple(str(path.resolve()) for path in hold_out or ()),
        labels=runs.resolve("measure", labels_from) if labels_from else "",
        **settings,
    )
    if pilot:
        return _pilot(runs.workspace, spec, executor, endpoints)
    synthesis_run = perform(runs.workspace, spec, "synthesizing", executor, endpoints)
    facts = runs.manifest(synthesis_run).facts
    data = {"run": synthesis_run, "dataset": facts.kept_dataset, "threshold": spec.threshold}
    data |= {name: getattr(facts, name) for name in OUTCOME}
    refusal = facts.note if not facts.kept or facts.kept < rows else ""
    return Answer(data, _outcome(data, facts), refusal=refusal)


def _of_families(
    stores: Stores, run: str, approved: list[dict[str, Any]], families: FamilyOptions
) -> list[dict[str, Any]]:
    """The approved pairs whose gaps are of the families, and of each as many as asked for."""
    question = question_of(stores, run)
    build_caches(stores, question.runs + (question.anchor,))
    named = families.named(stores, question)
    gaps = [row["feature"] for row in approved]
    if named is not None and not (gaps := [gap for gap in gaps if gap in {*named}]):
        raise InputError("No approved pair is of a gap of these families: approve one first.")
    few = {*families.few(stores, question, gaps)}
    return [row for row in approved if row["feature"] in few]


def _outcome(data: dict[str, Any], facts: SynthesisFacts) -> Callable[[], None]:
    """What came of a synthesis, for people: what is kept and both rates first."""
    rows = {name: data[name] for name in ("run", "dataset", "threshold")}
    rows |= {"profile": PROFILES[facts.profile].title, "kept": facts.kept}
    hits = {"hit_rate": facts.gaps_hit, "any_hit_rate": facts.any_gaps_hit}
    for rate, words in RATES.items():
        rows[words] = _share(hits[rate], facts.gaps, *(data[rate + e] for e in ("_low", "_high")))
    if facts.answered_by:
        rows["answers"] = f"{facts.answers:,}, by {facts.answered_by}"
    rows |= {f"dropped: {why}": n for why, n in facts.dropped.items()}
    rows |= {"not checked": ", ".join(facts.unchecked)} if facts.unchecked else {}
    rows |= {f"doubt: {doubt}": n for doubt, n in facts.doubts.items()}
    rows |= {name: data[name] for name in IN_WORDS}
    rows["missing that is hit"] = facts.miss_hit_rate
    rows |= {name: data[name] for name in ("tokens", "seconds", "cost")}
    lines = [
        f"feature {gap['feature']}: nothing in {gap['texts']:,} texts; they peak at "
        f"{gap['peak']:.3g}, on words of their own at {gap['own_peak']:.3g}, and of that text the "
        f"verdict is {gap['reason']}"
        for gap in facts.tried
    ]
    return listing(rows, lines[: frame.LISTED], len(lines))


def _share(hits: int, gaps: int, low: float | None, high: float | None) -> str:
    if low is None or high is None or not gaps:
        return "not measured"
    return f"{hits / gaps:.0%} ({hits:,} of {gaps:,} gaps; 95 % interval {low:.0%} to {high:.0%})"


def _of_server(
    workspace: Workspace,
    settings: dict[str, Any],
    key: frame.KeyOptions,
    url: str | None,
    task: str,
) -> tuple[dict[str, Any], Endpoints | None]:
    """The settings with the default of a task and listed prices, and the endpoints to choose from,
    where a server writes."""
    writer = settings.get("writer") or WriteSpec.writer
    if writer not in WRITERS or not WRITERS[writer].server:
        if key.key_variable:
            raise InputError("--key-variable is for a server: give --writer openai.")
        return settings, None
    endpoints = key.endpoints(workspace, url)
    return endpoints.priced(endpoints.usual(settings, task)), endpoints


def _pilot(
    workspace: Workspace, spec: SynthesizeSpec, where: Where, endpoints: Endpoints | None
) -> Answer:
    """Writes for a few of the pairs; their texts count, the whole run does not write them again."""
    from fac import synthesis  # with the encoder's room, which no other command of this file needs

    if not spec.approved:
        raise InputError("A pilot needs approved pairs: approve some with `fac approve`.")
    few = replace(spec, approved=synthesis.pilot_pairs(spec.approved), rows=0, pilot=True)
    run_id = perform(workspace, few, "trying a few gaps", where, endpoints)
    forecast = synthesis.forecast(Runs(workspace).manifest(run_id), len(spec.approved))
    data = {**forecast._asdict(), "threshold": spec.threshold}
    return Answer(data, listing(data))


@command("export")
def export(
    stores: Stores,
    run: Annotated[str, Argument(help="Run of a synthesis, or its name.")],
    out_: Annotated[
        Path, Option("--out", help="File; folder for hf, llamafactory, trl and axolotl.")
    ],
    format_: Annotated[
        str, Option("--format", help=f"{', '.join(export_.EXPORT_FORMATS)}.")
    ] = next(iter(export_.EXPORT_FORMATS)),
    form: Annotated[str, Option(help=f"{', '.join(export_.FORMS)}; else by the profile.")] = "",
    reviewed: Annotated[
        bool, Option("--reviewed", help="Only what people kept, edited or gave a label.")
    ] = False,
) -> Answer:
    """Write the kept samples for training, with their lineage and a dataset card."""
    run_id = stores.runs.resolve("synthetic", run)
    exported = exports.write(stores, run_id, out_, format=format_, form=form, reviewed=reviewed)
    chosen = exported.plan.selection
    low, high = chosen.interval or (None, None)
    data = {"rows": exported.rows, "form": exported.form, "format": format_}
    data |= {"out": str(exported.path), "card": str(exported.card)}
    data |= {"lineage": str(exported.lineage)} if exported.lineage else {}
    data |= {"kept": chosen.kept, "left_out": chosen.left_out, "looked_at": chosen.looked_at}
    data |= {"reviewers": chosen.reviewers, "share_kept": chosen.share}
    data |= {"share_low": low, "share_high": high, "edited": chosen.edited}
    data |= {"relabelled": chosen.relabelled, "unlabelled": chosen.unlabelled}
    data |= {"waiting": chosen.waiting, "measuring": chosen.measuring}
    data |= {"held_out": dict(exported.plan.synthesis.facts.evaluation)}
    data |= {"notes": exported.plan.notes}
    words = {name: data[name] for name in ("rows", "form", "format", "out", "card")}
    lines = [
        f"Left out: {export_.counted(chosen.left_out)}.",
        f"Looked at: {export_.looked_at_in_words(chosen)}.",
        *(f"{words_}." for words_ in [export_.awaited_in_words(chosen)] if words_),
        *exported.plan.notes,
    ]
    return Answer(data, listing(words, lines))
