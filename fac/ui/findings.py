"""What there is to look at: measured runs and their names, features, samples, a probed text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import streamlit as st

from fac import review
from fac.config import MeasureSpec, ProbeSpec
from fac.review import PairState
from fac.ui.jobs import demo_job, start
from fac.ui.stores import cache, decisions, runs, stores, workspace
from fac.ui.text import Row
from fac.ui.views import DATASETS, HOME, empty, param_widget


def measured() -> dict[str, Row]:
    """Manifests of the measure runs that can be shown, by run id, newest first."""
    shown = cache()
    return {run["run"]: run for run in runs().list("measure") if shown.ready(run["run"])}


def titles(found: Mapping[str, Row]) -> dict[str, str]:
    """What each run is called: its dataset's name, with a piece of the id where names repeat."""
    names = [run["facts"]["name"] for run in found.values()]
    return {
        key: name if names.count(name) == 1 else f"{name} · {key.rsplit('-', 1)[1][:6]}"
        for key, name in zip(found, names, strict=True)
    }


def default_anchor(found: Mapping[str, Row]) -> str:
    """The run that calls itself an anchor, else the one with the most samples."""
    facts = {key: run["facts"] for key, run in found.items()}
    return max(
        facts, key=lambda k: ("anchor" in facts[k]["name"].casefold(), facts[k]["n_samples"])
    )


def default_dataset(found: Mapping[str, Row], anchor: str) -> str:
    """The newest run that is not the anchor; of a few synthesized samples only where there is no
    other, since they were made to be added to one."""
    others = [key for key in found if key != anchor]
    own = (key for key in others if not is_synthetic(found[key]["facts"]["dataset"]))
    return next(own, next(iter(others), anchor))


def is_synthetic(dataset: str) -> bool:
    """Whether a dataset run is what a synthesis kept."""
    known = runs()
    return known.find(dataset) and known.manifest(dataset)["facts"].get("kind") == "synthetic"


def pick(label: str, name: str, found: Mapping[str, Row], default: str, **options: Any) -> str:
    """A run id from `found`; the URL may hold the id or the name."""
    shown = titles(found)
    ids = {title: key for key, title in shown.items()}
    # The URL carries the title, which a person can read; an id is understood too.
    tie = param_widget(name, shown[default], read=lambda t: shown.get(t, t), valid=ids.__contains__)
    return ids[st.selectbox(label, list(ids), **tie, **options)]


def comparable(found: Mapping[str, Row], anchor: str) -> list[str]:
    """Runs whose features mean the same as the anchor's: same model, layer and SAE."""
    encoder = found[anchor]["facts"]["encoder"]
    return [key for key, run in found.items() if run["facts"]["encoder"] == encoder]


def anchor_of(run: str) -> str:
    """The run that a run's features are explained in: its anchor, which may be itself."""
    found = measured()
    return default_anchor({key: found[key] for key in comparable(found, run)})


def labels(run: str, features: Sequence[int]) -> dict[int, str]:
    """What features peak on in a run; where they are silent there, in the anchor."""
    named: dict[int, str] = {}
    for place in (anchor_of(run), run):
        rows, _ = cache().features_page(place, ids=features, limit=len(features))
        named |= {row["feature"]: row["label"] for row in rows if row["label"]}
    return {feature: named.get(feature, "") for feature in features}


def sae_of(run: Row) -> str | None:
    """The run that holds what is known of the dictionary itself; None while it is not drawn."""
    sae = run["facts"]["sae_run"]
    return sae if cache().ready(sae) else None


def stop_if_nothing_measured(found: Mapping[str, Row]) -> None:
    """Says what to do first and ends the page, unless something has been measured."""
    if found:
        return
    job = demo_job()
    if job and job.status in ("waiting", "running"):
        empty(
            "The demo is on its way",
            "Two small datasets are being prepared. The first page shows how far they are.",
            icon=":material/hourglass_top:",
            page=HOME,
            link="Watch it arrive",
        )
    elif hidden := len(runs().list(MeasureSpec.step)):
        empty(
            "Being prepared for browsing",
            f"{hidden:,} measured datasets get their cache anew, as after an update. That takes "
            f"seconds each, minutes for very large ones; the first page shows them as they arrive.",
            icon=":material/hourglass_top:",
            page=HOME,
            link="Watch them arrive",
        )
    else:
        empty(
            "Nothing has been measured yet",
            "Add a dataset, then press Measure: its features appear here.",
            icon=":material/database:",
            page=DATASETS,
            link="Add a dataset",
        )
    st.stop()


def usual_encoder() -> Row:
    """Model, layer and SAE of the anchor, so that what is measured next can be compared with it."""
    found = measured()
    facts = found[default_anchor(found)]["facts"] if found else MeasureSpec(dataset="").as_json()
    return {name: facts[name] for name in ("model", "layer", "sae")}


def start_probe(text: str, like: Row) -> int:
    """Reads a text with the model and SAE that measured a dataset."""
    facts = like["facts"]
    spec = ProbeSpec(text=text, model=facts["model"], layer=facts["layer"], sae=facts["sae"])
    return start(spec, "Reading the text")


class Probe(NamedTuple):
    """One text and what fires on it."""

    tokens: list[str]
    scaffold: set[int]
    """Tokens of the chat template, which belong to nobody."""

    features: dict[int, list[float]]
    """Feature -> its activation on every token, 0 where silent."""


def probe(run: str) -> Probe:
    """A finished probe run."""
    table = runs().table(run, "tokens", ["token", "role"]).to_pydict()
    tokens, roles = table["token"], table["role"]
    features: dict[int, list[float]] = {}
    for row in runs().table(run, "activations").to_pylist():
        values = features.setdefault(row["feature"], [0.0] * len(tokens))
        values[row["position"]] = row["value"]
    return Probe(tokens, {i for i, role in enumerate(roles) if role is None}, features)


def probe_rows(text: Probe, dataset: str, token: int | None = None) -> list[Row]:
    """The features of a text, or of one of its tokens, strongest first, and their support."""
    strength = {
        feature: max(values) if token is None else values[token]
        for feature, values in text.features.items()
    }
    firing = [feature for feature, value in strength.items() if value > 0]
    known, _ = cache().features_page(dataset, ids=firing, limit=len(firing))
    names = labels(dataset, firing)
    rows = [
        {
            **row,
            "label": names[row["feature"]],
            "peak": strength[row["feature"]],
        }
        for row in known
    ]
    return sorted(rows, key=lambda row: -row["peak"])


def samples(run: str, *, search: str, offset: int, limit: int) -> tuple[list[Row], int]:
    """Samples of a dataset run whose text or label holds `search`, and how many there are."""
    everything = _samples(workspace().root, run)
    wanted = search.casefold()
    hits = [
        index
        for index, text in enumerate(everything["_text"].to_pylist() if wanted else ())
        if wanted in text
    ]
    chosen = (
        everything.take(pa.array(hits[offset : offset + limit], pa.int64()))
        if wanted
        else everything.slice(offset, limit)
    )
    return chosen.to_pylist(), len(hits) if wanted else everything.num_rows


@st.cache_resource(max_entries=4, show_spinner=False)
def _samples(root: Path, run: str) -> pa.Table:
    found = stores(root).runs.table(run, "samples")
    texts = [
        "\n".join([*(m["content"] or "" for m in row["messages"]), row["label"] or ""]).casefold()
        for row in found.select(["messages", "label"]).to_pylist()
    ]
    return found.append_column("_text", pa.array(texts, pa.string()))


# --- pairs ------------------------------------------------------------------------------------


def pair_states(run: str) -> dict[int, PairState]:
    """Where the pair of every gap of a pairs run stands, by feature: versions, edits, verdicts."""
    root = workspace().root
    family = [(m, _pair_rows(root, m["run"])) for m in review.pair_family(runs(), run)]
    return review.pair_states(decisions().current("pair"), family)


@st.cache_resource(max_entries=256, show_spinner=False)
def _pair_rows(root: Path, run: str) -> list[Row]:
    """The pairs of a run, which never changes."""
    return stores(root).runs.table(run, "pairs").to_pylist()
