"""Rows of explanations that were made elsewhere, in the form of Neuronpedia's export: each is held
against a measure run, and what is left out is listed with why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fac.datasets.layout import FORBIDDEN, SourceRow, bad_row, in_words
from fac.datasets.sources import open_source, readable
from fac.errors import InputError
from fac.manifest import MeasureFacts
from fac.prompts.form import MAX_TEXT

UNREADABLE = "not readable"
NO_FEATURE = "without a feature"
BEYOND = "of a feature that the dictionary lacks"
NO_TEXT = "without a text"
TOO_LONG = f"longer than {MAX_TEXT:,} characters"
MODEL = "of another model"
SAE = "of another SAE"
AGAIN = "followed by another of the same feature"
AUTHOR = "by other authors"
"""Why rows are left out, to follow their number."""

AUTHORS = ("explanationModelName", "typeName")
"""Columns that say who made an explanation: the model, and the method."""


class UnfitRow(ValueError):
    """Why a row is left out."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Entry(NamedTuple):
    """A row that can be read."""

    row: SourceRow
    feature: int
    text: str
    author: str
    model: str  # Neuronpedia's `modelId`; "" where the row names none
    sae: str  # its `layer`, such as 20-gemmascope-res-16k; "" where the row names none
    file: str

    @property
    def inputs(self) -> dict[str, Any]:
        """Where it comes from, and who made it in the words of the file."""
        columns = self.row.columns or {}
        names = {name: str(columns[name]) for name in AUTHORS if columns.get(name)}
        return {"file": self.file, "line": self.row.line, **names}


@dataclass
class Imported:
    """What a file says of a measure run's features."""

    name: str  # of the file, or of several
    digest: str
    authors: Counter[str] = field(default_factory=Counter)  # of the rows that fit
    by_feature: dict[int, Entry] = field(default_factory=dict)  # the rows that count, ascending
    left_out: Counter[str] = field(default_factory=Counter)  # the others, by kind
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """Rows of schema.REJECTED: those that are left out, but for those of other authors."""

    doubts: Sequence[str] = ()  # sentences on what could not be compared

    def leave_out(self, row: SourceRow, unfit: UnfitRow) -> None:
        bad = bad_row(row, unfit.reason)
        self.left_out[unfit.kind] += 1
        self.rejected.append({"line": bad.line, "reason": bad.reason})


def read(address: str, facts: MeasureFacts, author: str = "") -> Imported:
    """The rows of a file, of several by a pattern, or of a folder of files: of one author where one
    is named, and of each feature the last.

    A row has the feature as `feature` or `index` (a number or its digits) and the text as
    `description`, `explanation` or `text`, of at most MAX_TEXT characters. Its author is what
    AUTHORS say, else the file. `modelId` and `layer` must be those of the run, where they are
    there. Raises InputError for what cannot be read, where no row can be taken, and for an author
    who has none.
    """
    source, _ = open_source(address)
    compared, fitting = _Compared(facts), list[Entry]()
    with readable(source.name):
        rows = Imported(source.name, source.digest(lambda *_: None))
        for row in source.rows():
            try:
                entry = _entry(row, row.file or source.name, facts.n_features)
                compared.check(entry)
            except UnfitRow as unfit:
                rows.leave_out(row, unfit)
            else:
                fitting.append(entry)
    chosen = compared.one_sae(fitting)
    rows.doubts = compared.doubts("", chosen)
    lasts: dict[int, Entry] = {}
    for entry in fitting:
        if entry.sae not in ("", chosen):
            reason = f"it is of {entry.sae}, more rows are of {chosen}"
            rows.leave_out(entry.row, UnfitRow(SAE, reason))
            continue
        rows.authors[entry.author] += 1
        if author and entry.author != author:
            rows.left_out[AUTHOR] += 1
            continue
        if earlier := lasts.get(entry.feature):
            reason = f"feature {entry.feature} is explained again at line {entry.row.line}"
            rows.leave_out(earlier.row, UnfitRow(AGAIN, reason))
        lasts[entry.feature] = entry
    rows.by_feature = dict(sorted(lasts.items()))
    if not rows.authors:
        raise InputError(_nothing(rows, facts))
    if not lasts:
        names = ", ".join(rows.authors)
        raise InputError(f"{rows.name} has nothing by {author!r}: {names} are its authors.")
    return rows


def _nothing(rows: Imported, facts: MeasureFacts) -> str:
    """Why a file gives nothing."""
    if not rows.rejected:
        return f"{rows.name} holds no explanations."
    first = f"line {rows.rejected[0]['line']}: {rows.rejected[0]['reason']}"
    what = f"{rows.name} explains no feature of {facts.name}: {in_counts(rows.left_out)}"
    hint = " If they say that wrongly, take `modelId` and `layer` out of them."
    return f"{what}. The first, {first}.{hint if {MODEL, SAE} & {*rows.left_out} else ''}"


def in_counts(left_out: Mapping[str, int]) -> str:
    """How many rows are left out, by kind."""
    counts = Counter(left_out).most_common()
    return ", ".join(f"{n:,} {'row' if n == 1 else 'rows'} {kind}" for kind, n in counts)


def _entry(row: SourceRow, file: str, n_features: int) -> Entry:
    columns = row.columns
    if columns is None:
        raise UnfitRow(UNREADABLE, row.problem)
    index: Any = columns.get("feature", columns.get("index"))
    if isinstance(index, bool) or not re.fullmatch("[0-9]{1,15}", str(index)):
        value = repr(index)[:40] if isinstance(index, str | int) else in_words(index)
        raise UnfitRow(NO_FEATURE, f"`feature` or `index` must be a number, got {value}")
    texts = (columns.get(name) for name in ("description", "explanation", "text"))
    text = next((t.strip() for t in texts if isinstance(t, str) and t.strip()), None)
    if text is None:
        raise UnfitRow(NO_TEXT, "no text in `description`, `explanation` or `text`")
    if len(text) > MAX_TEXT:
        raise UnfitRow(TOO_LONG, f"the text has {len(text):,} characters, above {MAX_TEXT:,}")
    author = ", ".join(str(columns[name]) for name in AUTHORS if columns.get(name)) or file
    if sign := FORBIDDEN.search(text) or FORBIDDEN.search(author):
        raise UnfitRow(UNREADABLE, f"it holds the control character U+{ord(sign[0]):04X}")
    if (feature := int(index)) >= n_features:
        there = f"this dictionary has 0 to {n_features - 1}"
        raise UnfitRow(BEYOND, f"there is no feature {feature}: {there}")
    names = (columns.get(name) for name in ("modelId", "layer"))
    model, sae = ("" if name is None else str(name).strip() for name in names)
    return Entry(row, feature, text, author[:200], model, sae, file)


# Sets of SAEs, by what Neuronpedia calls them: those that read another place than the stream
# between blocks, and the stream after the block of their number, or before it.
_ELSEWHERE = re.compile(r"-(gemmascope-|llamascope-)?(mlp|att|attn|transcoder|clt)\b")
_AFTER = re.compile(r"scope|post")
_BEFORE = re.compile(r"res-jb|res-pre")


def sae_id(facts: MeasureFacts) -> str:
    """What an export calls a measure run's SAE, as Neuronpedia's `layer`: a block, and that the
    stream before it is read."""
    name = re.sub(r"[^a-z0-9]+", "-", facts.sae_name.lower()).strip("-")
    return f"{facts.layer}-res-pre-{name}"


class _Compared:
    """What rows say of their model and SAE, held against a measure run."""

    def __init__(self, facts: MeasureFacts):
        self.facts = facts
        self._verdicts: dict[tuple[str, str], UnfitRow | None] = {}
        self._doubts: dict[str, dict[str, None]] = {}  # sentences, by SAE

    def check(self, entry: Entry) -> None:
        """Raises UnfitRow for a row of another model or SAE."""
        key = entry.model, entry.sae
        if key not in self._verdicts:
            self._verdicts[key] = self._model(*key) or self._sae(entry.sae)
        if unfit := self._verdicts[key]:
            raise UnfitRow(unfit.kind, unfit.reason)

    def one_sae(self, entries: Sequence[Entry]) -> str:
        """Of the SAEs that fit the one that counts: the run's own, or else that of most rows.
        Raises InputError where two have as many."""
        counts = Counter(entry.sae for entry in entries if entry.sae)
        sae = sae_id(self.facts)
        first, second, *_ = [*counts.most_common(2), ("", 0), ("", 0)]
        if sae in counts or first[1] > second[1] or not counts:
            return sae if sae in counts else first[0]
        raise InputError(
            f"{first[1]:,} rows are of {first[0]} and as many of {second[0]}, and either may be "
            f"the SAE of {self.facts.name}: give a file with the rows of one."
        )

    def doubts(self, *saes: str) -> list[str]:
        """Sentences on what is open about rows of these SAEs."""
        return [*dict.fromkeys(each for sae in saes for each in self._doubts.get(sae, {}))]

    def _doubt(self, sae: str, sentence: str) -> None:
        self._doubts.setdefault(sae, {})[sentence] = None

    def _model(self, model: str, sae: str) -> UnfitRow | None:
        # With it come the readers of SAEs, which a page that names explainers has no use for.
        from fac.preflight.metadata import same_model

        name, run = self.facts.model_name, self.facts.name
        alike = same_model(model, name) if model else True
        if alike is False and not self.facts.is_folder:
            return UnfitRow(MODEL, f"it is of {model}; {run} was measured with {name}")
        if not alike:
            says = f"Its rows name the model {model}, {run} was measured with {name}"
            self._doubt(sae, f"{says}: whether features mean the same in both is not known.")
        return None

    def _sae(self, sae: str) -> UnfitRow | None:
        from fac.saes import layer_of_hook

        layer, run = self.facts.layer, self.facts.name
        if not sae or sae == sae_id(self.facts):
            return None
        if _ELSEWHERE.search(sae):
            reads = f"{sae} reads something else than the residual stream between blocks"
            return UnfitRow(SAE, f"{reads}; {run} was measured there")
        hook, number = layer_of_hook(sae), re.match(r"\d{1,4}(?!\w)", sae)
        if hook is not None:
            layers = [hook]
        elif number:
            block = int(number[0])
            is_after, is_before = _AFTER.search(sae), _BEFORE.search(sae)
            layers = [block] * (not is_after) + [block + 1] * (not is_before)
        else:
            self._doubt(sae, f"Its rows name their layer as {sae!r}, which says no number.")
            return None
        if layer not in layers:
            reads = f"{sae} reads layer {' or '.join(map(str, layers))}"
            return UnfitRow(SAE, f"{reads}; {run} was measured at layer {layer}")
        if len(layers) > 1:
            reads = f"Its rows are of {sae}, which may read the stream before that block or after"
            self._doubt(sae, f"{reads}; {run} was measured at layer {layer}.")
        return None
