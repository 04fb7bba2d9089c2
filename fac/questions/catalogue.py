"""What there is to look at: measured runs and what they are called, features, samples, a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import pyarrow as pa

from fac.config import IngestSpec, MeasureSpec
from fac.errors import InputError
from fac.manifest import DatasetManifest, MeasureFacts, MeasureManifest
from fac.schema import EVERY_ROLE
from fac.store import Stores
from fac.store.memo import remembered_for_good

Row = dict[str, Any]


PILOT = "pilot"
"""The kind of a dataset that a pilot kept: a trial, and nobody's choice."""


CHOSEN = "fill"
"""The kind of a dataset whose samples were chosen from a pool to fill gaps."""

ADDITIONS = ("synthetic", PILOT, CHOSEN)
"""Kinds of datasets that are there to be added to another."""


def datasets(stores: Stores) -> list[DatasetManifest]:
    """Manifests of the datasets, newest first; what pilots kept is left out."""
    return [each for each in stores.runs.list(IngestSpec.step) if each.facts.kind != PILOT]


def free_name(stores: Stores, name: str) -> str:
    """The name, with a number behind it where a dataset has it already."""
    taken = {each.facts.name for each in datasets(stores)}
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def measured(stores: Stores) -> dict[str, MeasureManifest]:
    """Manifests of the measure runs that can be shown, by run id, newest first; what pilots kept
    is left out."""
    manifests = stores.runs.list(MeasureSpec.step)
    return {
        m.run: m
        for m in manifests
        if stores.cache.ready(m.run) and kind_of(stores, m.facts.dataset) != PILOT
    }


def titles(manifests: Mapping[str, MeasureManifest]) -> dict[str, str]:
    """What each run is called: its dataset's name; where that repeats also what tells the runs
    apart, such as their SAEs, and a piece of the id where nothing else does; and always why an SAE
    was taken that says it belongs elsewhere."""
    names = {}
    for run, manifest in manifests.items():
        traits = _traits(manifest.facts)
        same = [m for m in manifests.values() if m.facts.name == manifest.facts.name]
        others = [_traits(each.facts) for each in same if each is not manifest]
        telling = [t for i, t in enumerate(traits) if any(t != other[i] for other in others)]
        if traits in others:
            telling.append(run.rsplit("-", 1)[1][:6])
        if manifest.facts.override:
            telling.append(f"despite: {manifest.facts.override}")
        names[run] = " · ".join([manifest.facts.name, *telling])
    return names


def _traits(facts: MeasureFacts) -> tuple[str, ...]:
    """What may tell measures of one dataset apart, in words."""
    role = "all roles" if facts.role == EVERY_ROLE else f"{facts.role} alone"
    return f"SAE {facts.sae_name}", f"layer {facts.layer}", f"model {facts.model}", role


def runs_called(manifests: Mapping[str, MeasureManifest], text: str) -> list[str]:
    """The runs that an id, a title or the name of a dataset may mean, newest first."""
    if text in manifests:
        return [text]
    by_title = {title: run for run, title in titles(manifests).items()}
    if text in by_title:
        return [by_title[text]]
    return [run for run, manifest in manifests.items() if manifest.facts.name == text]


def run_called(manifests: Mapping[str, MeasureManifest], text: str, encoder: str = "") -> str:
    """Of the runs that a text may mean the newest of this encoder, or else of the one that was
    first to measure; "" where there is none."""
    runs = runs_called(manifests, text)
    encoders = [manifests[run].facts.encoder for run in runs]
    if not runs:
        return ""
    return runs[encoders.index(encoder if encoder in encoders else encoders[-1])]


def encoder_called(manifests: Mapping[str, MeasureManifest], texts: Iterable[str]) -> str:
    """The encoder that measured all that these name, those at odds with what stands before them
    left out; of several the one that was first, and "" where nothing is named."""
    shared: list[str] = []
    for text in texts:
        encoders = [manifests[run].facts.encoder for run in runs_called(manifests, text)]
        shared = [each for each in shared if each in encoders] or shared or encoders
    return shared[-1] if shared else ""


def runs_alike(stores: Stores, names: Sequence[str]) -> list[str]:
    """The measure runs behind ids and names that are to be compared: of a name with several runs
    the newest of the one encoder that measured everything named.

    Raises InputError, with the runs, where several encoders did, and as Runs.resolve does.
    """
    same = [stores.runs.namesakes(MeasureSpec.step, name) for name in names]
    shared = set.intersection(*({m.facts.encoder for m in each} for each in same))
    if not shared:
        return [stores.runs.resolve(MeasureSpec.step, name) for name in names]
    if len(shared) > 1:
        choices = [f"{name} is {_either(each)}" for name, each in zip(names, same, strict=True)]
        raise InputError(
            f"All of these were measured with {len(shared)} SAEs, so give run ids of one instead "
            f"of names: {'; '.join(dict.fromkeys(choices))}."
        )
    return [next(m.run for m in each if m.facts.encoder in shared) for each in same]


def _either(manifests: Sequence[MeasureManifest]) -> str:
    return " or ".join(f"{each.run} (SAE {each.facts.sae_name})" for each in manifests)


def default_anchor(stores: Stores, manifests: Mapping[str, MeasureManifest]) -> str:
    """The run in which most features fire: what could be shown is best said by what shows most.

    Of equals the one with more samples, then the older. What a synthesis made, or what nothing can
    be compared with, only where there is nothing else.
    """
    encoders = Counter(manifest.facts.encoder for manifest in manifests.values())

    def rank(run: str) -> tuple[bool, bool, int, int]:
        facts = manifests[run].facts
        collected = not is_synthetic(stores, facts.dataset)
        return collected, encoders[facts.encoder] > 1, facts.features_fired, facts.n_samples

    return max(reversed([*manifests]), key=rank)  # the first of equals; the newest stand first


def default_dataset(stores: Stores, manifests: Mapping[str, MeasureManifest], anchor: str) -> str:
    """The newest run that can be compared with the anchor and is not it; of a few synthesized
    samples, or of some that were chosen to fill gaps, only where there is no other, since they are
    there to be added to one."""
    others = [run for run in comparable(manifests, anchor) if run != anchor]
    others = others or [run for run in manifests if run != anchor]
    collected = (r for r in others if kind_of(stores, manifests[r].facts.dataset) not in ADDITIONS)
    return next(collected, next(iter(others), anchor))


def is_synthetic(stores: Stores, dataset: str) -> bool:
    """Whether a dataset run holds the samples of a synthesis."""
    return kind_of(stores, dataset) in ("synthetic", PILOT)


def kind_of(stores: Stores, dataset: str) -> str:
    """How the source of a dataset run was written, `synthetic` or `pilot`; "" where it is gone."""
    runs = stores.runs
    return str(runs.manifest(dataset).facts.kind) if runs.find(dataset) else ""


def comparable(manifests: Mapping[str, MeasureManifest], anchor: str) -> list[str]:
    """Runs whose features mean the same as the anchor's: same model, layer and SAE."""
    encoder = manifests[anchor].facts.encoder
    return [run for run, m in manifests.items() if m.facts.encoder == encoder]


def anchor_of(stores: Stores, run: str) -> str:
    """The run that a run's features are named and explained in where nobody chose another: the
    default anchor of what can be compared with it, which may be the run itself."""
    manifests = measured(stores)
    return default_anchor(stores, {key: manifests[key] for key in comparable(manifests, run)})


def sae_of(stores: Stores, manifest: MeasureManifest) -> str | None:
    """The run about a measure run's dictionary itself; None while it cannot be shown."""
    return manifest.facts.sae_run if stores.cache.ready(manifest.facts.sae_run) else None


def usual_encoder(stores: Stores) -> MeasureFacts | MeasureSpec:
    """Model, layer and SAE of the anchor, so that what is measured next can be compared with it."""
    manifests = measured(stores)
    if not manifests:
        return MeasureSpec(dataset="")
    return manifests[default_anchor(stores, manifests)].facts


def samples(
    stores: Stores, dataset: str, *, search: str, offset: int, limit: int
) -> tuple[list[Row], int]:
    """Samples of a dataset run whose text or label holds `search`, and how many there are."""
    table = _samples(stores, dataset)
    if not (needle := search.casefold()):
        return table.slice(offset, limit).to_pylist(), table.num_rows
    texts = _searchable(stores, dataset)["text"].to_pylist()
    matches = [row for row, text in enumerate(texts) if needle in text]
    page = pa.array(matches[offset : offset + limit], pa.int64())
    return table.take(page).to_pylist(), len(matches)


@remembered_for_good
def _samples(stores: Stores, dataset: str) -> pa.Table:
    return stores.runs.table(dataset, "samples")


@remembered_for_good
def _searchable(stores: Stores, dataset: str) -> pa.Table:
    """The texts and the label of every sample, in lower case."""
    rows = _samples(stores, dataset).select(["messages", "label"]).to_pylist()
    texts = [
        "\n".join([*(m["content"] or "" for m in row["messages"]), row["label"] or ""]).casefold()
        for row in rows
    ]
    return pa.table({"text": pa.array(texts, pa.string())})


class Probe(NamedTuple):
    """One text and what fires on it."""

    tokens: list[str]
    scaffold: set[int]
    """Tokens of the chat template, which belong to nobody."""

    features: dict[int, list[float]]
    """Feature -> its activation on every token, 0 where silent."""


def probe(stores: Stores, run: str) -> Probe:
    """A finished probe run."""
    table = stores.runs.table(run, "tokens", ["token", "role"]).to_pydict()
    tokens, roles = table["token"], table["role"]
    features: dict[int, list[float]] = {}
    for row in stores.runs.table(run, "activations").to_pylist():
        values = features.setdefault(row["feature"], [0.0] * len(tokens))
        values[row["position"]] = row["value"]
    return Probe(tokens, {i for i, role in enumerate(roles) if role is None}, features)


def probe_rows(stores: Stores, text: Probe, dataset: str, token: int | None = None) -> list[Row]:
    """The features of a text, or of one of its tokens, strongest first, and their support."""
    peaks = {
        feature: max(values) if token is None else values[token]
        for feature, values in text.features.items()
    }
    firing = [feature for feature, peak in peaks.items() if peak > 0]
    rows, _ = stores.cache.features_page(dataset, ids=firing, limit=len(firing))
    rows = [{**row, "peak": peaks[row["feature"]]} for row in rows]
    return sorted(rows, key=lambda row: -row["peak"])
