"""Commands about meaning: explain, judge, what people decided, and how far they agree."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fac import agreement, compare, review
from fac.cli.frame import (
    Answer,
    MinSupport,
    Threshold,
    WorkspaceOption,
    app,
    build_caches,
    command,
    listing,
    out,
    perform,
    readable,
)
from fac.config import (
    EXPLAINERS,
    JUDGES,
    ExplainSpec,
    JudgeSpec,
    Workspace,
    model_scores,
    workspace,
)
from fac.errors import InputError
from fac.schema import LEVELS
from fac.store.cache import Cache
from fac.store.decisions import Decisions
from fac.store.runs import Runs

decisions_app = typer.Typer(help="What people decided, as JSON lines.")
review_app = typer.Typer(help="The same export and import, by the name of its page.")
app.add_typer(decisions_app, name="decisions")
app.add_typer(review_app, name="review")

Measured = Annotated[str, typer.Argument(help="Measured dataset whose features are meant.")]
Features = Annotated[
    str | None, typer.Option(help="Only these: ids separated by commas, or a file of ids.")
]
MissingFrom = Annotated[
    str | None, typer.Option(help="Only the features that this measured dataset lacks.")
]
ChatModelOption = Annotated[str, typer.Option("--model", help="Name the server knows it by.")]
Endpoint = Annotated[
    str, typer.Option(help="OpenAI-compatible base URL; default OPENAI_BASE_URL, else OpenAI.")
]
BudgetTokens = Annotated[int | None, typer.Option(help="Stop before using more tokens.")]
BudgetUsd = Annotated[float | None, typer.Option(help="Stop before spending more dollars.")]
PriceIn = Annotated[float | None, typer.Option(help="Dollars per million prompt tokens.")]
PriceOut = Annotated[float | None, typer.Option(help="Dollars per million completion tokens.")]
Concurrency = Annotated[int, typer.Option(help="Questions on their way at once.")]
Attempt = Annotated[int, typer.Option(help="Another number asks anew what was answered before.")]


@command("explain")
def explain(
    name: Measured,
    explainer: Annotated[
        str,
        typer.Option(
            help=", ".join(
                f"{name} ({EXPLAINERS[name].title}"
                f"{', with --file' if EXPLAINERS[name].needs_file else ''})"
                for name in EXPLAINERS
            )
        ),
    ] = "tokens",
    features: Features = None,
    missing_from: MissingFrom = None,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    score: Annotated[
        list[str] | None,
        typer.Option(help=f"{' or '.join(model_scores())}, by --model; repeatable."),
    ] = None,
    scored: Annotated[
        str, typer.Option(help="Run of explanations to score instead of making new ones.")
    ] = "",
    file: Annotated[str, typer.Option(help="JSON lines of explanations to import.")] = "",
    model: ChatModelOption = "",
    endpoint: Endpoint = "",
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    concurrency: Concurrency = 8,
    attempt: Attempt = 0,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Explain features, and score the explanations on samples they were not made from."""
    place = workspace(workspace_)
    runs = Runs(place)
    measure = runs.resolve("measure", name)
    if scored:
        scored = runs.resolve("explain", scored)
        given = runs.manifest(scored)["spec"]
        explainer, file = given["explainer"], given["source"]
    spec = ExplainSpec(
        measure=measure,
        explainer=explainer,
        features=_features(place, measure, features, missing_from, threshold, min_support),
        scores=tuple(score or ()),
        explanations=scored,
        source=str(Path(file).resolve()) if file else "",
        model=model,
        endpoint=endpoint,
        attempt=attempt,
        budget_tokens=budget_tokens,
        budget_usd=budget_usd,
        price_in=price_in,
        price_out=price_out,
        concurrency=concurrency,
    )
    run_id = perform(place, spec, "explaining")
    return _told(runs, run_id, ("name", "explainer", "source", "n_features"))


@command("judge")
def judge(
    name: Measured,
    task: Annotated[str, typer.Option(help="A task profile, built in or of tasks.toml.")],
    judge_: Annotated[
        str, typer.Option("--judge", help="llm, or labels: firing rates by a label of the data.")
    ] = "llm",
    label: Annotated[str, typer.Option(help="The label that marks the task.")] = "",
    features: Features = None,
    missing_from: MissingFrom = None,
    threshold: Threshold = 0.0,
    min_support: MinSupport = 1,
    model: ChatModelOption = "",
    endpoint: Endpoint = "",
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    concurrency: Concurrency = 8,
    attempt: Attempt = 0,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Which features matter for a task: a language model's verdicts, or a contrast of labels."""
    place = workspace(workspace_)
    runs = Runs(place)
    measure = runs.resolve("measure", name)
    profiles = compare.task_profiles(runs)
    if task not in profiles:
        raise InputError(
            f"There is no task profile {task!r}: {', '.join(sorted(profiles))} are known; "
            f"{place.tasks} holds your own."
        )
    by_model = judge_ in JUDGES and JUDGES[judge_].needs_model
    spec = JudgeSpec(
        measure=measure,
        task=task,
        title=profiles[task].title,
        rubric=profiles[task].rubric,
        judge=judge_,
        label=label,
        features=_features(place, measure, features, missing_from, threshold, min_support),
        explanations=tuple(compare.explained_by(runs, measure)) if by_model else (),
        model=model,
        endpoint=endpoint,
        attempt=attempt,
        budget_tokens=budget_tokens,
        budget_usd=budget_usd,
        price_in=price_in,
        price_out=price_out,
        concurrency=concurrency,
    )
    run_id = perform(place, spec, "judging")
    return _told(runs, run_id, ("name", "task", "judge", "source", "n_features"))


def _features(
    place: Workspace,
    measure: str,
    features: str | None,
    missing_from: str | None,
    threshold: float,
    min_support: int,
) -> tuple[int, ...]:
    """The features a command is about; none given is every one that fires."""
    if features is not None and missing_from is not None:
        raise InputError("Give --features or --missing-from, not both.")
    if features is not None:
        return tuple(feature_ids(features))
    if missing_from is None:
        return ()
    runs = Runs(place)
    dataset = runs.resolve("measure", missing_from)
    build_caches(place, [measure, dataset])
    with closing(Cache(place.cache)) as handle:
        relevant = compare.relevant_set("all", handle, measure, runs=runs)
        found = compare.coverage_of(
            handle,
            measure,
            dataset,
            threshold=threshold,
            min_support=min_support,
            relevant=relevant,
        )
    if not len(found.missing):
        raise InputError(f"{missing_from} lacks nothing at this threshold; nothing to explain.")
    return tuple(found.missing.tolist())


def feature_ids(given: str) -> list[int]:
    if Path(given).is_file():
        return [feature for _, feature in compare.listed_ids(Path(given))]
    parts = [part.strip().removeprefix("#") for part in given.split(",") if part.strip()]
    wrong = next((part for part in parts if not (part.isascii() and part.isdigit())), None)
    if wrong is not None or not parts:
        raise InputError(
            f"--features takes numbers such as 12,407 or a file of them, got {wrong or given!r}."
        )
    return [int(part) for part in parts]


def _told(runs: Runs, run_id: str, named: tuple[str, ...]) -> Answer:
    facts = runs.manifest(run_id)["facts"]
    data = {"run": run_id, **{key: facts[key] for key in named}, "counts": facts["counts"]}
    data |= {key: facts[key] for key in ("scores", "asked", "tokens", "cost") if key in facts}

    def show() -> None:
        flat = {key: value for key, value in data.items() if not isinstance(value, dict)}
        flat |= {key: f"{count:,}" for key, count in facts["counts"].items()}
        for score, found in facts.get("scores", {}).items():
            flat[f"median {score}"] = f"{found['median']:.4f} over {found['n']:,} features"
        flat |= {key: f"{count:,}" for key, count in facts.get("asked", {}).items() if count}
        listing(flat)()

    return Answer(data, show)


# --- decisions ------------------------------------------------------------------------------------


def export(
    out_: Annotated[
        Path | None, typer.Option("--out", help="File of JSON lines; standard output if not given.")
    ] = None,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Write every decision with what was shown, as JSON lines."""
    store = Decisions(workspace(workspace_).decisions)
    lines = [*store.export()]
    if out_:
        try:
            out_.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{str(out_)!r} cannot be written: {error.strerror}.") from error
    data = {"rows": len(lines), "out": str(out_) if out_ else None}

    def show() -> None:
        if out_:
            listing(data)()
        else:
            for line in lines:
                out.file.write(line + "\n")

    return Answer(data if out_ else {**data, "decisions": [json.loads(x) for x in lines]}, show)


def import_(
    source: Annotated[Path, typer.Argument(help="File of JSON lines that an export wrote.")],
    workspace_: WorkspaceOption = None,
) -> Answer:
    """Add decisions of an export; what is here already stays as it is. Exit 1 if a line is bad."""
    store = Decisions(workspace(workspace_).decisions)
    try:
        lines = source.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read: {error}.") from error
    found = store.load(lines)
    rejected = found["rejected"]

    def show() -> None:
        listing({**found, "rejected": len(rejected)})()
        for row in rejected[:10]:
            out.print(f"  line {row['line']}: {escape(row['reason'])}")

    first = f"line {rejected[0]['line']}: {rejected[0]['reason']}" if rejected else ""
    refusal = f"{len(rejected)} lines were not taken; {first}" if rejected else ""
    return Answer(found, show, refusal=refusal)


for _group in (decisions_app, review_app):
    command("export", group=_group)(export)
    command("import", group=_group)(import_)


@command("agreement")
def agreement_(
    kind: Annotated[str, typer.Option(help="explanation or relevance.")] = "explanation",
    task: Annotated[str, typer.Option(help="Of relevance decisions, only this task's.")] = "",
    resamples: Annotated[int, typer.Option(min=50, help="Of the bootstrap.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    workspace_: WorkspaceOption = None,
) -> Answer:
    """How far reviewers agree: raw, kappa, alpha, AC1 and AC2, with intervals."""
    if kind not in ("explanation", "relevance"):
        raise InputError(f"--kind takes explanation or relevance, got {kind!r}.")
    current = Decisions(workspace(workspace_).decisions).current(kind)
    if task:
        about = {d.subject: review.read_subject(d.subject) for d in current}
        current = [d for d in current if (of := about[d.subject]) and of.task == task]
    ratings, subjects, reviewers = review.ratings_matrix(current, kind)
    found = agreement.summary(ratings, len(LEVELS), ordinal=True, seed=seed, resamples=resamples)
    pairs = agreement.pairwise(
        ratings, reviewers, len(LEVELS), ordinal=True, seed=seed, resamples=resamples
    )
    check = review.human_check(d for d in current if d.kind == kind)
    data = {
        "kind": kind,
        "items": len(subjects),
        "reviewers": reviewers,
        "coefficients": [c._asdict() for c in found],
        "pairs": [
            {**p._asdict(), "coefficients": [c._asdict() for c in p.coefficients]} for p in pairs
        ],
        "human_check": check._asdict(),
    }

    def show() -> None:
        table = Table(title=f"{len(subjects):,} items, {len(reviewers):,} reviewers")
        for column in ("coefficient", "value", "95 % interval", "items"):
            table.add_column(column, justify="left" if column == "coefficient" else "right")
        for c in found:
            defined = not math.isnan(c.value)
            value = f"{c.value:.4f}" if defined else "not defined"
            interval = f"{c.low:.3f} to {c.high:.3f}" if defined else escape(c.undefined)
            if defined and math.isnan(c.low):
                interval = "every resample is the same"
            table.add_row(c.name, value, interval, readable(c.n_items))
        out.print(table)
        listing(check._asdict())()

    return Answer(data, show)
