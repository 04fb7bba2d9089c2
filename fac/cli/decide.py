"""Commands about meaning: explain, judge, what people decide, and how far they agree."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from fac import agreement, interpret, review
from fac.cli import frame
from fac.cli.frame import Answer, ComparisonOptions, app, command, listing, out, perform
from fac.config import EXPLAINERS, JUDGES, ExplainSpec, JudgeSpec, Workspace, model_scores
from fac.datasets import json_line
from fac.endpoints import Endpoints
from fac.errors import InputError
from fac.generator.connection import read_connections
from fac.generator.rate import rate_of
from fac.interpret.imported import in_counts
from fac.questions.by_name import CLEAR, build_caches, read_threshold
from fac.questions.catalogue import anchor_of
from fac.questions.estimates import asking, in_words
from fac.questions.explanations import explain_runs, outgoing, score_figures
from fac.questions.gap_evidence import gap_features
from fac.questions.ratings import (
    KEPT_COUNTS,
    human_check,
    is_ordinal,
    kept_rows,
    ratings_matrix,
    scale_of,
)
from fac.questions.relevance import judged_anew, listed_ids, read_relevance, scope, task_profiles
from fac.questions.samples import looked, sample_states
from fac.registry import Registry
from fac.review.samples import DROP, KEEP, WRONG_LABEL, SampleState
from fac.schema import LEAST_SCORED
from fac.store import Stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs

decisions_app = typer.Typer(help="What people decided, as JSON lines.")
review_app = typer.Typer(help="The same export and import, by the name of its page.")
app.add_typer(decisions_app, name="decisions")
app.add_typer(review_app, name="review")

EXPLAINED = ("name", "explainer", "source", "n_features")
"""What an explain run says of itself."""

Measured = Annotated[str, Argument(help="Measured dataset whose features are meant.")]


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features a command is about."""

    features: frame.Features = None
    missing_from: Annotated[str | None, Option(help="Gaps of this measured dataset.")] = None
    every: Annotated[
        bool, Option("--all", help="Every feature that fires; so where none of these is given.")
    ] = False
    limit: Annotated[
        int | None,
        Option(min=1, help="With --missing-from: only so many gaps, certain ones first."),
    ] = None
    threshold: frame.Threshold = CLEAR
    min_support: frame.MinSupport = 1

    def ids(self, stores: Stores, measure: str) -> tuple[tuple[int, ...], dict[str, float]]:
        """Of a measure run, () for every feature that fires; and `threshold`, where it decided
        which they are."""
        if (self.features is not None) + (self.missing_from is not None) + self.every > 1:
            raise InputError("Give --features, --missing-from or --all, one of them.")
        if self.limit is not None and self.missing_from is None:
            raise InputError("--limit is of the gaps of a dataset: give --missing-from too.")
        if self.features is not None:
            return tuple(feature_ids(self.features)), {}
        if self.missing_from is None:
            return (), {}
        comparison = ComparisonOptions(
            anchor=measure,
            dataset=self.missing_from,
            threshold=self.threshold,
            min_support=self.min_support,
        ).comparison(stores)
        gaps = gap_features(stores, comparison)
        if not gaps:
            raise InputError(
                f"{self.missing_from} lacks nothing above {comparison.threshold:g}; nothing to "
                f"explain."
            )
        return tuple(sorted(gaps[: self.limit])), {"threshold": comparison.threshold}

    def in_words(self, name: str) -> str:
        """Which they are, of the measured dataset of that name."""
        if self.features is not None:
            return "the features of --features"
        if self.missing_from is not None:
            most = "" if self.limit is None else f"at most {self.limit:,} of "
            return f"{most}the gaps of {self.missing_from}"
        others = "" if self.every else " (--missing-from DATASET: about its gaps alone)"
        return f"every feature that fires in {name}{others}"


@dataclass(frozen=True, kw_only=True)
class ChatOptions(frame.SpendOptions):
    """The language model that is asked; the fields are those of the specs."""

    model: Annotated[
        str, Option("--model", help="Name the server knows it by; else as endpoints.toml says.")
    ] = ""
    endpoint: Annotated[
        str, Option(help="OpenAI-compatible base URL; default OPENAI_BASE_URL, else OpenAI.")
    ] = ""
    budget_tokens: Annotated[int | None, Option(help="Stop before using more tokens.")] = None
    attempt: Annotated[int, Option(help="Another number asks anew what was answered before.")] = 0
    batch: Annotated[
        bool,
        Option("--batch", help="By the provider's batch interface: within a day, mostly for less."),
    ] = False

    def settings(self, endpoints: Endpoints, task: str) -> dict[str, Any]:
        """As the specs call them, with the default of a task, "" for none, and listed prices."""
        if self.batch and not task:
            raise InputError("--batch is for a language model, and here none is asked.")
        values = asdict(self)
        values["in_batch"] = values.pop("batch")
        return endpoints.priced(endpoints.usual(values, task))


def say_asking(
    stores: Stores, spec: ExplainSpec | JudgeSpec, endpoints: Endpoints, features: str
) -> None:
    """On stderr, before a language model is asked: about which features, and what that may take.
    The form of a page says the same. Raises InputError for an endpoint that is not to be asked."""
    endpoint = endpoints.of(spec.endpoint, spec.model)
    endpoint.read_key()
    build_caches(stores, [spec.measure])
    tested = read_connections(stores.runs.workspace.root / "connections.json")
    last = tested.get((endpoint.url, spec.model))
    amount = asking(stores, spec, last.pace if last else None, rate_of(endpoint))
    words = f"{spec.model} is asked about {features}. {in_words(spec, amount)}"
    frame.err.print(escape(words), soft_wrap=True, highlight=False)


def feature_ids(text: str) -> list[int]:
    """Of a list of ids, or of the file that it names."""
    if Path(text).is_file():
        return [feature for _, feature in listed_ids(Path(text))]
    parts = [part.strip().removeprefix("#") for part in text.split(",") if part.strip()]
    wrong = next((part for part in parts if not (part.isascii() and part.isdigit())), None)
    if wrong is not None or not parts:
        raise InputError(
            f"--features takes numbers such as 12,407 or a file of them, got {wrong or text!r}."
        )
    return [int(part) for part in parts]


def _titles(parts: Registry[Any], needs: str, option: str) -> str:
    """The choices of an option: each part with its title, and the option that some need."""
    return ", ".join(
        f"{name} ({part.title}, with --{option})"
        if getattr(part, needs)
        else f"{name} ({part.title})"
        for name, part in parts.items()
    )


@command("explain")
def explain(
    *,
    stores: Stores,
    name: Measured,
    explainer: Annotated[
        str, Option(help=_titles(EXPLAINERS, "needs_file", "file"))
    ] = ExplainSpec.explainer,
    which: FeatureOptions,
    score: Annotated[
        list[str] | None, Option(help=f"{' or '.join(model_scores())}, by --model; repeatable.")
    ] = None,
    scored: Annotated[str, Option(help="Run of explanations to score instead of new ones.")] = "",
    file: Annotated[
        str,
        Option(
            help="Explanations to import, as Neuronpedia exports them: a file, a folder of them or "
            "a quoted pattern; each author's are a run."
        ),
    ] = "",
    chat: ChatOptions,
    key: frame.KeyOptions,
) -> Answer:
    """Explain features, and score the explanations on samples they were not made from."""
    runs = stores.runs
    measure, author = runs.resolve("measure", name), ""
    if scored:
        scored = runs.resolve("explain", scored)
        before = runs.manifest(scored).spec
        explainer, file, author = before.explainer, before.source, before.author
    features, threshold = which.ids(stores, measure)
    endpoints = key.endpoints(runs.workspace, chat.endpoint)
    asks = bool(score) or (explainer in EXPLAINERS and EXPLAINERS[explainer].needs_model)
    spec = ExplainSpec(
        measure=measure,
        explainer=explainer,
        features=features,
        scores=tuple(score or ()),
        explanations=scored,
        source=str(Path(file).resolve()) if file else "",
        author=author,
        **chat.settings(endpoints, "explain" if asks else ""),
    )
    answers = []
    for each in interpret.by_author(spec, runs):
        if each.model and asks:
            say_asking(stores, each, endpoints, which.in_words(name))
        run_id = perform(runs.workspace, each, "explaining", endpoints=endpoints)
        build_caches(stores, [run_id])
        figures = threshold | score_figures(stores, run_id)
        answers.append(_interpreted(runs, run_id, EXPLAINED, figures))
    if len(answers) == 1:
        return answers[0]

    def show() -> None:
        for answer in answers:
            answer.show()

    return Answer({"runs": [answer.data for answer in answers]}, show)


@command("explanations")
def explanations(
    stores: Stores,
    name: Measured,
    out_: Annotated[Path, Option("--out", help="JSON lines; a name in .gz is gzipped.")],
) -> Answer:
    """Write what features are said to be, in Neuronpedia's form, as `explain --file` reads it."""
    runs = stores.runs
    measure = runs.resolve("measure", name)
    build_caches(stores, [measure])
    for each in (anchor_of(stores, measure), measure):
        build_caches(stores, explain_runs(runs, each))
    answer = outgoing(stores, measure)
    if not answer.rows:
        raise InputError(f"{name} has no explanation with a text: `fac explain {name}` makes some.")
    frame.write_lines(out_, map(json_line, answer.rows))
    features = len({row["index"] for row in answer.rows})
    data = {"rows": len(answer.rows), "features": features, "left_out": dict(answer.left_out)}
    data |= {"out": str(out_)}
    left_out = ", ".join(f"{n:,} {why}" for why, n in answer.left_out.items())
    return Answer(data, listing({**data, "left_out": left_out or "0"}))


@command("judge")
def judge(
    *,
    stores: Stores,
    name: Measured,
    task: Annotated[str, Option(help="A task profile, built in or of tasks.toml.")],
    judge_: Annotated[
        str, Option("--judge", help=_titles(JUDGES, "needs_label", "label"))
    ] = JudgeSpec.judge,
    label: Annotated[str, Option(help="The label that marks the task.")] = "",
    labels_from: Annotated[
        str, Option(help="Measured dataset of the same encoder that has the labels; else NAME.")
    ] = "",
    which: FeatureOptions,
    chat: ChatOptions,
    key: frame.KeyOptions,
) -> Answer:
    """Which features matter for a task: a language model's verdicts, or a contrast of labels.

    A contrast of labels counts what peaks above --threshold. Verdicts count for every anchor of
    the same encoder that has none about itself.
    """
    runs = stores.runs
    measure = runs.resolve("measure", name)
    profiles = task_profiles(runs)
    if task not in profiles:
        raise InputError(
            f"There is no task profile {task!r}: {', '.join(sorted(profiles))} are known; "
            f"{runs.workspace.tasks} holds your own."
        )
    by_model = judge_ in JUDGES and JUDGES[judge_].needs_model
    by_label = judge_ in JUDGES and JUDGES[judge_].needs_label
    labels = runs.resolve("measure", labels_from) if labels_from else measure
    build_caches(stores, [measure])
    features, threshold = which.ids(stores, measure)
    endpoints = key.endpoints(runs.workspace, chat.endpoint)
    spec = JudgeSpec(
        measure=measure,
        task=task,
        title=profiles[task].title,
        rubric=profiles[task].rubric,
        judge=judge_,
        label=label,
        labels="" if labels == measure else labels,
        threshold=read_threshold(stores, measure, which.threshold) if by_label else 0.0,
        features=features,
        explanations=tuple(explain_runs(runs, measure)) if by_model else (),
        **chat.settings(endpoints, "judge" if by_model else ""),
    )
    spec = judged_anew(runs, spec)
    if by_model:
        say_asking(stores, spec, endpoints, which.in_words(name))
    run_id = perform(runs.workspace, spec, "judging", endpoints=endpoints)
    names = ("name", "task", "judge", "source", "n_features")
    build_caches(stores, [run_id])
    more = {**threshold, "scope": scope(stores, measure, read_relevance(stores, measure, task))}
    if by_label:
        more["threshold"] = spec.threshold
    return _interpreted(runs, run_id, names, more)


def _interpreted(runs: Runs, run_id: str, names: tuple[str, ...], more: dict[str, Any]) -> Answer:
    """What a finished run says of itself, under these names and what it counted and spent, and
    `more`: the threshold that its features were chosen by, the `score_figures` of explanations, how
    much a figure within the task speaks of."""
    facts = runs.manifest(run_id).facts.as_json()
    data = {"run": run_id, **{name: facts[name] for name in names}, **more}
    data["counts"] = facts["counts"]
    further = ("asked", "tokens", "cost", "note", "left_out")
    data |= {key: facts[key] for key in further if key in facts}
    rejected: list[dict[str, Any]] = []
    if "left_out" in data:
        data["rejected"] = rejected = runs.table(run_id, "rejected").to_pylist()

    def show() -> None:
        flat = {key: value for key, value in data.items() if not isinstance(value, dict)}
        flat |= {key: f"{count:,}" for key, count in facts["counts"].items()}
        for score, of_score in data.get("scores", {}).items():
            flat[f"median {score}"] = f"{of_score['median']:.4f} over {of_score['n']:,} features"
        if (by_length := flat.pop("by_length", None)) is not None:
            flat["by length"] = f"{by_length:.4f}, what the length of a text alone reaches"
        if too_few := flat.pop("too_few", 0):
            words = f"fire in fewer than {LEAST_SCORED} samples and have no score"
            flat["too few"] = f"{too_few:,} features {words}"
        flat |= {key: f"{count:,}" for key, count in facts.get("asked", {}).items() if count}
        if "left_out" in data:
            flat["left out"] = in_counts(data["left_out"])
            del flat["rejected"]
        listing(flat, frame.first_rejected(rejected), len(rejected))()

    return Answer(data, show)


# --- decisions ------------------------------------------------------------------------------------


def export(
    workspace: Workspace,
    out_: Annotated[Path | None, Option("--out", help="JSON lines; else standard output.")] = None,
) -> Answer:
    """Write every decision with what was shown, as JSON lines."""
    store = Decisions(workspace.decisions)
    lines = [*store.export()]
    if out_:
        frame.write_lines(out_, lines)
    data = {"rows": len(lines), "out": str(out_) if out_ else None}

    def show() -> None:
        if out_:
            listing(data)()
        else:
            for line in lines:
                out.file.write(line + "\n")

    return Answer(data if out_ else {**data, "decisions": [json.loads(x) for x in lines]}, show)


def import_(
    workspace: Workspace,
    source: Annotated[Path, Argument(help="File of JSON lines that an export wrote.")],
) -> Answer:
    """Add decisions of an export; what is here already stays as it is. Exit 1 if a line is bad."""
    store = Decisions(workspace.decisions)
    try:
        lines = source.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read: {error}.") from error
    data = store.load(lines)
    rejected = [f"line {row['line']}: {row['reason']}" for row in data["rejected"]]
    show = listing({**data, "rejected": len(rejected)}, rejected[: frame.LISTED])
    refusal = f"{len(rejected)} lines were not taken; {rejected[0]}" if rejected else ""
    return Answer(data, show, refusal=refusal)


for _group in (decisions_app, review_app):
    command("export", group=_group)(export)
    command("import", group=_group)(import_)


KEPT_FIGURES = ("run", "samples", "n", *KEPT_COUNTS, "value", "low", "high", "people")


@command("agreement")
def agreement_(
    stores: Stores,
    kind: Annotated[str, Option(help="explanation, relevance or sample.")] = "explanation",
    task: Annotated[str, Option(help="Of relevance decisions, only this task's.")] = "",
    resamples: Annotated[int, Option(min=50, help="Of the bootstrap.")] = 500,
    seed: Annotated[int, Option(help="Of the bootstrap.")] = 0,
) -> Answer:
    """How far reviewers agree: raw, kappa, alpha, AC1 and AC2, with intervals."""
    if kind not in ("explanation", "relevance", "sample"):
        raise InputError(f"--kind takes explanation, relevance or sample, got {kind!r}.")
    current = stores.decisions.current(kind)
    if task:
        about = {d.subject: review.read_subject(d.subject) for d in current}
        current = [d for d in current if (of := about[d.subject]) and of.task == task]
    scale = scale_of(kind)
    ratings, subjects, reviewers = ratings_matrix(current, kind, scale)
    options: dict[str, Any] = {"ordinal": is_ordinal(kind), "seed": seed, "resamples": resamples}
    coefficients = agreement.summary(ratings, len(scale), **options)
    pairs = agreement.between_raters(ratings, reviewers, len(scale), **options)
    data: dict[str, Any] = {
        "kind": kind,
        "items": len(subjects),
        "reviewers": reviewers,
        "coefficients": [c._asdict() for c in coefficients],
        "pairs": [
            {**p._asdict(), "coefficients": [c._asdict() for c in p.coefficients]} for p in pairs
        ],
    }
    if kind == "sample":
        data["kept"] = [{name: row[name] for name in KEPT_FIGURES} for row in kept_rows(stores)]
    else:
        data["human_check"] = human_check(current)._asdict()

    def show() -> None:
        table = Table(title=f"{len(subjects):,} items, {len(reviewers):,} reviewers")
        for column in ("coefficient", "value", "95 % interval", "items"):
            table.add_column(column, justify="left" if column == "coefficient" else "right")
        for c in coefficients:
            defined = not math.isnan(c.value)
            value = f"{c.value:.4f}" if defined else "not defined"
            interval = f"{c.low:.3f} to {c.high:.3f}" if defined else escape(c.undefined)
            if defined and math.isnan(c.low):
                interval = "every resample is the same"
            table.add_row(c.name, value, interval, frame.readable(c.n_items))
        out.print(table)
        for figures in data.get("kept", [data.get("human_check", {})]):
            listing(figures)()

    return Answer(data, show)


# --- kept samples ---------------------------------------------------------------------------------


@command("keep")
def keep(
    stores: Stores,
    run: Annotated[str, Argument(help="Synthesis, or the name of the dataset it is for.")],
    reviewer: Annotated[str, Option(help="Who decides, by name.")],
    all_: Annotated[bool, Option("--all", help="Every kept sample nobody decided on.")] = False,
    ids: Annotated[str | None, Option(help="Candidates or features, by commas.")] = None,
    drop: Annotated[bool, Option("--drop", help="Nobody should train on them.")] = False,
    wrong_label: Annotated[bool, Option("--wrong-label", help="Their label is wrong.")] = False,
    label: Annotated[str, Option(help="The right one, with --wrong-label.")] = "",
) -> Answer:
    """Say of samples that a synthesis kept, as they are now, that one would train on them, or not.

    What is dropped leaves with no export; `fac export --reviewed` takes what was kept alone.
    """
    if all_ == (ids is not None):
        raise InputError("Say which samples you mean: --all or --ids, one of them.")
    if drop and wrong_label:
        raise InputError("Give --drop or --wrong-label, not both.")
    if label and not wrong_label:
        raise InputError("--label says what is right where --wrong-label says what is not.")
    verdict = DROP if drop else WRONG_LABEL if wrong_label else KEEP
    synthesis = stores.runs.resolve("synthetic", run)
    states = sample_states(stores, synthesis)
    chosen = [state for state in states.values() if state.state == "undecided"]
    if ids is not None:
        chosen = _named_samples([*states.values()], ids)
    unlabelled = (each.candidate for each in chosen if "label" not in each.version.row["extra"])
    if wrong_label and (name := next(unlabelled, None)):
        raise InputError(f"The sample {name} has no label that could be wrong.")
    mine = {
        (decision.subject, decision.seen): (decision.verdict, decision.edited_text or "")
        for decision in stores.decisions.current("sample", reviewer=reviewer)
    }
    for state in chosen:
        item, seen = state.version.item, state.version.seen
        if mine.get((item.subject, seen)) != (verdict, label):
            about = (reviewer, item.kind, item.subject, item.content)
            stores.decisions.add(*about, verdict, edited_text=label or None)
    data: dict[str, Any] = {"decided": len(chosen), "verdict": verdict, "run": synthesis}
    data |= looked(stores, synthesis)._asdict()
    return Answer(data, listing({**data, "reviewers": ", ".join(data["reviewers"])}))


def _named_samples(states: list[SampleState], ids: str) -> list[SampleState]:
    """The samples with these candidates' names, or of these features."""
    chosen: dict[str, SampleState] = {}
    for part in filter(None, (part.strip().removeprefix("#") for part in ids.split(","))):
        named = [state for state in states if part in (state.candidate, str(state.feature))]
        if not named:
            raise InputError(f"No kept sample has the name or the feature {part!r}.")
        chosen |= {state.candidate: state for state in named}
    if not chosen:
        raise InputError(f"--ids takes candidates or features such as 12,407, got {ids!r}.")
    return [*chosen.values()]
