"""What a finished run says of itself: its spec, its inputs by name, and the facts of its step.

On disk a manifest is one JSON object (see fac.store.runs); read, it is a frozen record. Facts that
an older version did not write have the default of their field; facts that this version does not
know stay in the JSON and are shown with it, but have no attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import PurePath
from typing import Any, ClassVar, Generic, Self, TypeVar

from fac import config
from fac.config import Spec
from fac.endpoints import without_secrets
from fac.schema import EVERY_FEATURE, EVERY_ROLE

Counts = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a step established. Every field has a default, which old manifests are read with."""

    omitted: ClassVar[tuple[str, ...]] = ()
    """Fields that the JSON leaves out where they are None: they do not apply to every such run."""

    json_names: ClassVar[Mapping[str, str]] = {}  # fields that the JSON has under another name
    name: str = ""  # what the run is called: its dataset's name, or the dictionary's

    def as_json(self) -> dict[str, Any]:
        """The facts as a manifest holds them."""
        return {
            self.json_names.get(name, name): value
            for name, value in asdict(self).items()
            if value is not None or name not in self.omitted
        }

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """The facts of a manifest's JSON."""
        keys = {cls.json_names.get(each.name, each.name): each.name for each in fields(cls)}
        return cls(**{keys[k]: value for k, value in content.items() if k in keys})


@dataclass(frozen=True, kw_only=True)
class DatasetFacts(Facts):
    omitted = ("layout", "columns", "beside", "note", "unread", "relabelled")
    source: str = ""  # file name or `hf:ID`; the synthesis run that the samples were kept from
    n_samples: int = 0
    duplicates: int = 0
    n_rejected: int = 0
    kind: str = ""  # how the source was written (json, csv, ...), or `synthetic`, `pilot`, `fill`
    layout: str | None = None
    columns: Sequence[str] | None = None  # columns that became the chat
    beside: Sequence[str] | None = None  # of the first rows, kept in meta; None for none
    note: str | None = None  # what a reader of the samples should know about their layout
    roles: Counts = field(default_factory=dict)  # messages by role
    labels: Counts = field(default_factory=dict)  # samples by label, most common first
    unread: Counts | None = None  # messages by what they say beside their text; None for nothing
    relabelled: int | None = None  # duplicates that brought a label their text had not yet; None: 0

    @property
    def says_beside(self) -> str:
        """A sentence about columns that became neither text nor label, "" where there are none."""
        if not self.beside:
            return ""
        names = ", ".join(repr(name) for name in self.beside)
        return f"Kept beside the texts, not measured: {names}."

    @property
    def says_unread(self) -> str:
        """A sentence about what messages say beside their text, "" where none does."""
        if not self.unread:
            return ""
        parts = (f"{n:,} {name!r}" for name, n in self.unread.items())
        return f"Messages also hold {', '.join(parts)}: this is no part of the samples."

    @property
    def says_relabelled(self) -> str:
        """A sentence about texts that have several labels, "" where none has."""
        if not self.relabelled:
            return ""
        many = self.relabelled > 1
        return (
            f"{self.relabelled:,} duplicate{'s' * many} {'have' if many else 'has'} another label "
            "than the sample that was kept: of a text's labels the first counts."
        )

    @property
    def is_synthetic(self) -> bool:
        return self.kind in ("synthetic", "pilot")


@dataclass(frozen=True, kw_only=True)
class MeasureFacts(Facts):
    omitted = ("despite", "doubt")
    dataset: str = ""
    sae_run: str = ""  # the run that describes the dictionary
    encoder: str = ""  # model, layer, SAE and revisions: where equal, features mean the same
    n_features: int = 0
    role: str = ""
    layer: int = 0
    model: str = ""
    sae: str = ""
    despite: str | None = None  # why an SAE was taken that says it belongs elsewhere
    doubt: str | None = None  # what the SAE leaves open about where it belongs
    tokens: int = 0  # of the rendered chats, as far as they were read
    content_tokens: int = 0
    content_tokens_by_role: Counts = field(default_factory=dict)
    n_cut: int = 0  # samples longer than was read
    n_empty: int = 0  # samples without any content token
    n_rejected: int = 0  # samples left out: the model's chat template refuses them
    n_shortened: int = 0  # samples of which the template leaves out or moves a part
    n_samples: int = 0  # of the dataset, those left out included
    features_fired: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Without what is left out where nothing is, as manifests were before it was counted."""
        counted = ("n_rejected", "n_shortened")
        return {k: v for k, v in super().as_json().items() if v or k not in counted}

    @property
    def n_read(self) -> int:
        """Samples that could show a feature."""
        return self.n_samples - self.n_rejected

    @property
    def says_left_out(self) -> str:
        """What the model's chat template keeps from being read, in sentences; "" where nothing."""
        sentences = []
        if self.n_rejected:
            sentences.append(
                f"{self.n_rejected:,} of {self.n_samples:,} samples of {self.name} were left out: "
                "the model's chat template refuses them."
            )
        if self.n_shortened:
            sentences.append(
                f"{self.n_shortened:,} of {self.n_samples:,} samples of {self.name} were read "
                "without parts that the model's chat template leaves out or moves, such as "
                "thoughts of earlier turns."
            )
        return " ".join(sentences)

    @property
    def provenance(self) -> str:
        """What the texts were read with and, where that was doubtful, why."""
        return self.encoder + (f", despite its metadata: {self.override}" if self.override else "")

    @property
    def override(self) -> str:
        """The reason for which an SAE was taken that does not fit; "" where it needed none."""
        return (self.despite or "") if self.doubt else ""

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder or a file, which may be called anything."""
        return self.model.startswith(("/", ".", "~"))

    @property
    def model_name(self) -> str:
        """What people call the model, of a folder or a file too."""
        return self.encoder.partition("/layer")[0].rpartition("@")[0] or self.model

    @property
    def sae_name(self) -> str:
        """What people call the SAE: of a folder or a file the last part of its path."""
        is_path = self.sae.startswith(("/", ".", "~"))
        return (PurePath(self.sae).name if is_path else self.sae) or self.encoder


@dataclass(frozen=True, kw_only=True)
class SaeFacts(Facts):
    model: str = ""
    layer: int = 0
    sae: str = ""
    identity: str = ""  # of the encoder: model, layer and SAE with their revisions
    n_features: int = 0
    d_model: int = 0


@dataclass(frozen=True, kw_only=True)
class ProbeFacts(Facts):
    omitted = ("doubt",)
    text: str = ""
    sae_run: str = ""
    n_features: int = 0
    encoder: str = ""
    doubt: str | None = None  # what the SAE leaves open about where it belongs

    def as_json(self) -> dict[str, Any]:
        facts = super().as_json()
        del facts["name"]  # a text has none
        return facts


@dataclass(frozen=True, kw_only=True)
class InterpretFacts(Facts):
    """What explanations and verdicts on relevance have in common."""

    omitted: ClassVar[tuple[str, ...]] = ("replies", "tokens", "note")
    json_names = {"replies": "asked"}
    measure: str = ""
    n_features: int = 0  # that were explained or judged
    source: str = ""  # who answered: model and server, method and version, a label, a file
    counts: Counts = field(default_factory=dict)  # features by status of the explanation, or level
    replies: Counts | None = None  # by what became of them; None where no language model was asked
    tokens: int | None = None
    cost: float | None = None  # US dollars; None where no price is known or nothing was asked
    note: str | None = None  # sentences on what the server did not take; None for nothing

    def as_json(self) -> dict[str, Any]:
        facts = super().as_json()
        if self.replies is None:  # nothing was asked, so nothing has a cost
            del facts["cost"]
        return facts


@dataclass(frozen=True, kw_only=True)
class ExplainFacts(InterpretFacts):
    omitted = (*InterpretFacts.omitted, "too_few", "by_length", "left_out")
    explainer: str = ""
    silent: int | None = None  # asked for, but never fire; None where the run was stopped
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # n features, median
    too_few: int | None = None  # features that fire in too few samples for an AUROC
    by_length: float | None = None  # median AUROC of a text's length alone on the same samples
    left_out: Counts | None = None  # rows of a file by why they were not taken; None without one


@dataclass(frozen=True, kw_only=True)
class RelevanceFacts(InterpretFacts):
    task: str = ""
    judge: str = ""


@dataclass(frozen=True, kw_only=True)
class FamiliesFacts(Facts):
    measure: str = ""
    n_features: int = 0  # that fire often enough, and not nearly everywhere
    n_families: int = 0
    n_members: int = 0  # features in a family
    n_unnamed: int = 0  # families whose members have no word in common
    nearest: int = 0  # of each feature that were compared; 0: every pair
    n_firing: int = 0  # features that fire at all
    n_on_map: int | None = None  # laid out; None in runs of earlier versions, which have no map
    recall: float | None = None  # of those most like each on the map; None where all are compared


@dataclass(frozen=True, kw_only=True)
class ExperimentFacts(Facts):
    measure: str = ""
    experiment: str = ""
    n_rows: int = 0  # with a label
    n_positive: int = 0
    n_test: int = 0
    n_leaks: int = 0  # rows that nearly repeat a text of the test rows, and were left out
    n_unlabelled: int = 0
    left_out: Counts = field(default_factory=dict)  # prompts by why they do not judge
    base_rate: float = 0.0  # of the test rows that are positive: AUPRC of guessing
    seconds: float = 0.0  # since it was last begun
    piece_seconds: float = 0.0  # mean of the pieces measured since then; 0 where there were none
    arm_seconds: float = 0.0  # the same, of pieces that are one arm alone, as those of LoRA are


@dataclass(frozen=True, kw_only=True)
class SpentFacts(Facts):
    """The ledger of a step that writes."""

    writer: str | None = None  # who wrote; None where nobody did
    n_candidates: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    cost: float | None = None  # US dollars; None where no price is known


@dataclass(frozen=True, kw_only=True)
class PairsFacts(SpentFacts):
    """Of pairs, and of one pair as a person edited it, for which nothing was written."""

    omitted = ("writer", "note")
    anchor: str = ""
    dataset: str = ""
    encoder: str = ""
    profile: str = ""
    explanations: Sequence[str] = ()
    threshold: float = 0.0
    margin: float = 0.0
    model: str = ""
    features: Sequence[int] = ()  # the gaps
    pairs: int = 0  # proposed ones
    failed: Counts = field(default_factory=dict)  # gaps without a pair, by reason
    role: str = EVERY_ROLE  # whose tokens count
    origins: Counts = field(default_factory=dict)  # proposed pairs by where the positive comes from
    negatives: Counts = field(default_factory=dict)  # the same by where the negative comes from
    compared: int = 0  # texts that a negative was chosen from, at most
    problems: Counts = field(default_factory=dict)  # candidates without a usable text, by reason
    note: str | None = None  # sentences on what a server did not take; None for nothing

    def as_json(self) -> dict[str, Any]:
        facts = super().as_json()
        if self.writer is None:
            names = {each.name for each in fields(SpentFacts)} - {"name"}
            names |= {"origins", "negatives", "compared", "problems"}
            facts = {k: v for k, v in facts.items() if k not in names}
        return facts


@dataclass(frozen=True, kw_only=True)
class SynthesisFacts(SpentFacts):
    pairs: str = ""
    anchor: str = ""
    dataset: str = ""
    encoder: str = ""
    method: str = ""
    profile: str = ""
    kept_dataset: str = ""  # the dataset run of what is kept; "" where nothing is
    decisions: str = ""  # digest of the approvals that the pairs rest on
    approvers: Sequence[str] = ()

    evaluation: Mapping[str, str] = field(default_factory=dict)
    """Files that no sample may overlap with: name to digest."""

    kept: int = 0
    dropped: Counts = field(default_factory=dict)  # candidates by why they were dropped
    accepted: int = 0  # candidates that passed the filter, kept or beaten
    gaps: int = 0
    gaps_hit: int = 0
    hit_rate: float = 0.0  # share of gaps with a kept sample, which fires on its own words
    hit_rate_low: float = 0.0
    hit_rate_high: float = 0.0
    any_gaps_hit: int = 0
    any_hit_rate: float | None = None
    """Share of gaps where some text fires at all and passes every other check; None in runs that
    told no words apart."""

    any_hit_rate_low: float | None = None
    any_hit_rate_high: float | None = None
    unchecked: Sequence[str] = ()  # quality gates that nothing was at hand for
    doubtful: int = 0  # kept samples that leave a doubt, and which doubts these are
    doubts: Counts = field(default_factory=dict)
    label_auroc: float | None = None  # of the label check, cross-validated, and its 95 % interval
    label_auroc_low: float | None = None
    label_auroc_high: float | None = None
    label_rows: int = 0  # samples that the check learned from: one half of the labelled ones
    label_threshold: float | None = None
    """Probability from which on a label is confirmed; None where none would be right often
    enough."""

    label_precision: float | None = None  # cross-validated, of what is confirmed
    label_agreement: float | None = None
    """Share of kept samples to which a probe that learned from the other half gives their label."""

    tried: Sequence[Mapping[str, Any]] = ()
    """Of each gap that gave nothing: `feature`, `texts` written, `peak` and `own_peak`, the
    highest of any of them, and the `reason` for which the text with that own peak was dropped."""

    note: str = ""
    """Sentences where nothing was kept, or fewer rows than were asked for, and on what a server did
    not take; or ""."""

    answered_by: str = ""  # who wrote the answers of the samples; "" where nobody did
    answers: int = 0  # answers that were written; their tokens are among `tokens`
    relevant: str = EVERY_FEATURE  # which features count for what follows, and
    min_support: int = 1  # how many samples of the anchor must show one, and
    role: str = EVERY_ROLE  # whose tokens count
    fac_before: float | None = None
    fac_after: float | None = None
    fac_unfiltered: float | None = None
    """FAC with everything that was written, kept or not. All three None where undefined."""

    n_anchor: int = 0
    n_missing: int = 0
    miss_hit_rate: float | None = None
    features_gained: int = 0
    gained: Sequence[int] = ()
    gained_unasked: Sequence[int] = ()
    still_missing: Sequence[int] = ()
    curve: Sequence[int] = ()  # gaps covered by the first 1, 2, ... kept samples of the cover
    drift: float | None = None
    """Cosine between the mean peaks of the dataset's samples and of those with the kept ones: 1
    where what the dataset is like on average stays the same. None where either is nothing."""

    risen: Sequence[Mapping[str, Any]] = ()
    """The features whose share of samples rises most with the kept ones: `feature`, share `before`
    and `after`."""

    tokens_per_feature: float | None = None  # of this step, prompts not counted
    seconds_per_feature: float | None = None
    cost_per_feature: float | None = None

    pairs_tokens: float = 0.0
    """What the pairs of these gaps took, an equal share of their run for each gap; 0 for a method
    that needs none."""

    pairs_seconds: float = 0.0
    pairs_cost: float | None = None  # None where no price is known, or there is none

    tokens_per_gap: float | None = None
    """Of both steps, per gap that the dataset did not show and kept samples fire."""

    seconds_per_gap: float | None = None
    cost_per_gap: float | None = None


@dataclass(frozen=True, kw_only=True)
class RetouchFacts(Facts):
    """Of one kept sample as a person edited it."""

    synthetic: str = ""
    anchor: str = ""
    encoder: str = ""
    candidate: str = ""
    feature: int = -1
    threshold: float = 0.0
    peak: float = 0.0  # of the edited text, for the gap it was written for
    own_peak: float = 0.0  # the highest on its own words
    kept: int = 0  # 1 where it still passes, else 0
    reason: str = ""  # why it does not


@dataclass(frozen=True, kw_only=True)
class PreflightFacts(Facts):
    """Whether an SAE belongs to a model and layer; the name is the SAE's."""

    omitted = ("quality",)
    encoder: str = ""
    verdict: str = ""  # in a sentence
    belongs: bool = False  # whether nothing speaks against it
    findings: Sequence[Mapping[str, Any]] = ()  # of fac.preflight.Finding
    quality: Mapping[str, float] | None = None  # of fac.saes.Quality; None of another width
    samples: int = 0  # that were tried
    texts: str = ""  # whose

    @property
    def layers(self) -> list[tuple[int, float, float]]:
        """Layer, FVU and L0 of each layer that was compared."""
        return [
            (layer, fvu, l0)
            for finding in self.findings
            for layer, fvu, l0 in finding.get("layers", ())
        ]

    @property
    def refused(self) -> bool:
        """Whether the SAE's metadata says that it belongs elsewhere: measuring needs a reason."""
        metadata = ("model", "hook point", "layer", "width", "normalisation")
        return any(each["ok"] is False and each["check"] in metadata for each in self.findings)


@dataclass(frozen=True, kw_only=True)
class TrainingFacts(Facts):
    """Of an SAE that was trained here; the name is its own."""

    folder: str = ""  # where it lies, as what reads texts takes it
    recipe: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)  # on the samples held out


@dataclass(frozen=True, kw_only=True)
class FetchFacts(Facts):
    """Of a model that was fetched; the name is what a spec calls it."""

    identity: str = ""
    terms: str = ""  # address of the terms that were accepted; "" where there were none


FACTS: dict[str, type[Facts]] = {
    config.IngestSpec.step: DatasetFacts,
    config.MeasureSpec.step: MeasureFacts,
    config.SaeSpec.step: SaeFacts,
    config.ProbeSpec.step: ProbeFacts,
    config.ExplainSpec.step: ExplainFacts,
    config.JudgeSpec.step: RelevanceFacts,
    config.FamiliesSpec.step: FamiliesFacts,
    config.ExperimentSpec.step: ExperimentFacts,
    config.PairsSpec.step: PairsFacts,
    config.RescoreSpec.step: PairsFacts,
    config.SynthesizeSpec.step: SynthesisFacts,
    config.RetouchSpec.step: RetouchFacts,
    config.PreflightSpec.step: PreflightFacts,
    config.TrainSpec.step: TrainingFacts,
    config.FetchSpec.step: FetchFacts,
}
"""The record of each step's facts."""

INPUTS: dict[str, tuple[str, ...]] = {
    config.IngestSpec.step: ("source",),
    config.MeasureSpec.step: ("dataset",),
    config.ExplainSpec.step: ("measure",),
    config.JudgeSpec.step: ("measure",),
    config.FamiliesSpec.step: ("measure",),
    config.ExperimentSpec.step: ("measure",),
    config.PairsSpec.step: ("anchor", "dataset"),
    config.RescoreSpec.step: ("pairs",),
    config.SynthesizeSpec.step: ("pairs",),
    config.RetouchSpec.step: ("synthetic",),
    config.PreflightSpec.step: ("dataset",),
    config.TrainSpec.step: ("dataset",),
}
"""What a step's inputs are called, in their order; whatever follows are explanations."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The runs that a run was made from, "" or () where its step has no such input."""

    ids: tuple[str, ...] = ()  # all of them, in the order of the JSON
    source: str = ""  # of a dataset: the digest of its file, or the synthesis it was kept from
    dataset: str = ""
    measure: str = ""
    anchor: str = ""
    pairs: str = ""
    synthetic: str = ""
    explanations: tuple[str, ...] = ()

    @classmethod
    def read(cls, step: str, ids: Sequence[str]) -> Inputs:
        """The inputs of a run of this step, as its manifest lists them."""
        names = INPUTS.get(step, ())
        named: dict[str, Any] = dict(zip(names, ids, strict=False))
        return cls(ids=tuple(ids), explanations=tuple(ids[len(names) :]), **named)


SpecT = TypeVar("SpecT", bound=Spec, covariant=True)
FactsT = TypeVar("FactsT", bound=Facts, covariant=True)


@dataclass(frozen=True)
class Manifest(Generic[SpecT, FactsT]):
    """What a finished run says of itself."""

    content: Mapping[str, Any]  # the JSON object
    run: str
    step: str
    created: str  # ISO time
    seconds: float
    files: Mapping[str, Mapping[str, Any]]  # of each file: sha256, bytes and, for a table, rows
    inputs: Inputs
    facts: FactsT

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """The manifest of this JSON object."""
        step = content["step"]
        return cls(
            content=content,
            run=content["run"],
            step=step,
            created=content["created"],
            seconds=content.get("seconds", 0.0),
            files=content["files"],
            inputs=Inputs.read(step, content["inputs"]),
            facts=FACTS.get(step, Facts).read(content["facts"]),  # type: ignore[arg-type]
        )

    @cached_property
    def spec(self) -> SpecT:
        """What the step was asked. Raises InputError for one that this version cannot read."""
        fields = dict(self.content["spec"])
        if "endpoint" in fields:
            fields["endpoint"] = without_secrets(fields["endpoint"])
        return config.read_spec(self.step, fields)  # type: ignore[return-value]


AnyManifest = Manifest[Any, Any]
PreflightManifest = Manifest[config.PreflightSpec, PreflightFacts]
TrainingManifest = Manifest[config.TrainSpec, TrainingFacts]
DatasetManifest = Manifest[config.IngestSpec, DatasetFacts]
MeasureManifest = Manifest[config.MeasureSpec, MeasureFacts]
PairsManifest = Manifest[config.PairsSpec, PairsFacts]
SynthesisManifest = Manifest[config.SynthesizeSpec, SynthesisFacts]
