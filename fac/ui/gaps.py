"""Coverage of a dataset as pages ask for it: relevance and threshold chosen once, answers kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import streamlit as st

from fac import compare
from fac.config import PairsSpec, SynthesizeSpec
from fac.schema import EVERY_ROLE, ROLES, CoverageResult
from fac.ui.findings import is_synthetic, measured, pair_states, sae_of, titles
from fac.ui.meaning import EVERY_FEATURE, Relevance, explained, tasks_with_verdicts
from fac.ui.stores import cache, runs, stores, workspace
from fac.ui.text import Row, plain
from fac.ui.views import (
    COVERAGE,
    DATASETS,
    FEATURES,
    PAIRS,
    REVIEW,
    SYNTHESIS,
    get_param,
    param_widget,
)

EVERYTHING = Relevance(EVERY_FEATURE)


class Step(NamedTuple):
    """One thing worth doing now, as a card with a link."""

    title: str
    why: str
    icon: str
    page: str
    link: str
    view: dict[str, str]
    """Query parameters of the link."""


def next_steps(
    found: Mapping[str, Row], anchor: str, dataset: str, result: CoverageResult
) -> list[Step]:
    """What a person would sensibly do next, most useful first."""
    steps, shown = [], titles(found)
    pair = {"anchor": shown[anchor], "dataset": shown[dataset]}
    done = {run["facts"]["dataset"] for run in found.values()}
    waiting = [
        run
        for run in runs().list("dataset")
        if run["run"] not in done and not is_synthetic(run["run"])
    ]
    if waiting:
        name = waiting[0]["facts"]["name"]
        steps.append(
            Step(
                f"Measure {plain(name)}",
                "It has been read, but nobody has looked which features it shows.",
                ":material/speed:",
                DATASETS,
                "Open it",
                {"open": waiting[0]["run"]},
            )
        )
    if result.n_missing and dataset != anchor:
        steps.append(
            Step(
                f"Read the {result.n_missing:,} gaps of {plain(shown[dataset])}",
                "Ranked by how common they are in the anchor, with examples and near misses.",
                ":material/donut_large:",
                COVERAGE,
                "See what is missing",
                {**pair, **_threshold_in_use()},
            )
        )
        explains = bool(explained(anchor))
        if explains and (making := _making_step(anchor, dataset, pair)):
            steps.append(making)
        steps.append(
            Step(
                "Review what the gaps are called" if explains else "Explain the gaps",
                "One explanation at a time, by keyboard, blind to what others said."
                if explains
                else "A feature is a number until it has a name: from its tokens, without any key.",
                ":material/rate_review:",
                REVIEW,
                "Review them" if explains else "Explain them",
                pair,
            )
        )
    steps.append(
        Step(
            "Add a dataset of your own",
            "JSONL, CSV, Parquet or a Hugging Face id; plain text or chat.",
            ":material/upload_file:",
            DATASETS,
            "Add a dataset",
            {"add": "yes"},
        )
    )
    steps.append(
        Step(
            "Wander through the features",
            "A map of the dictionary; every point opens its examples.",
            ":material/scatter_plot:",
            FEATURES,
            "Open the map",
            {"dataset": shown[anchor]},
        )
    )
    return steps[:3]


def _making_step(anchor: str, dataset: str, link: dict[str, str]) -> Step | None:
    """Pairs, their approval, or the synthesis from them, whichever is next; None once it ran."""
    made = (m for m in runs().list(PairsSpec.step) if m["inputs"][:2] == [anchor, dataset])
    newest = next(made, None)
    if newest is None:
        return Step(
            "Write pairs for the gaps",
            "A text that fires each gap and a twin that does not; you approve them before "
            "anything is written from them.",
            ":material/compare:",
            PAIRS,
            "Write pairs",
            {**link, "features": "best", **_threshold_in_use()},
        )
    run = newest["run"]
    standing = pair_states(run)
    states = Counter(one.state for one in standing.values())
    if n := states["undecided"]:
        return Step(
            f"Approve {n:,} pair{'s'[: n != 1]}",
            "One at a time, by keyboard. Nothing is written from a pair that nobody approved.",
            ":material/compare:",
            PAIRS,
            "Decide on them",
            {"pairs": run},
        )
    n = states["approved"]
    # A pilot took some of them; what was approved since nobody has written from yet.
    written = {
        pair
        for m in runs().list(SynthesizeSpec.step)
        if m["inputs"][0] == run
        for pair in m["spec"]["approved"]
    }
    if all(s.version.row["pair"] in written for s in standing.values() if s.state == "approved"):
        return None
    return Step(
        f"Synthesize from {n:,} approved pair{'s'[: n != 1]}",
        "Samples that provably fire the gaps; a pilot says what they will take.",
        ":material/science:",
        SYNTHESIS,
        "See what it takes",
        {"pairs": run},
    )


def _threshold_in_use() -> dict[str, str]:
    value = get_param("threshold", 0.0, read=float)
    return {"threshold": str(value)} if value else {}


def pick_relevance(anchor: str) -> Relevance:
    """Which features count: all, or those that matter for a task somebody judged."""
    judged = tasks_with_verdicts(anchor)
    options = [EVERY_FEATURE, *judged]
    given = st.selectbox(
        "Relevant",
        options,
        format_func=lambda name: "all features" if name == EVERY_FEATURE else f"for {name}",
        width=190,
        help="All leaves out features that fire in nearly every sample. A task takes those that "
        "its judge puts at maybe or above; what people decided goes before the judge.",
        **param_widget("relevant", EVERY_FEATURE, valid=options.__contains__),
    )
    return judged.get(given, EVERYTHING)


def look_relevance(anchor: str) -> Relevance:
    """The relevance chosen on another page, without drawing its picker."""
    judged = tasks_with_verdicts(anchor)
    return judged.get(get_param("relevant", EVERY_FEATURE), EVERYTHING)


def judged_words(anchor: str, relevance: Relevance) -> str:
    """What the judge of the chosen task left out, as a sentence; "" where it left out nothing."""
    if relevance.given == EVERY_FEATURE:
        return ""
    return compare.judged_words(runs(), cache(), anchor, relevance.given)


def gap_settings() -> Row:
    """Threshold, role and support as the coverage page left them, or as the URL has them."""
    return {
        "threshold": get_param("threshold", 0.0, read=float, valid=lambda value: value >= 0),
        "role": get_param("role", EVERY_ROLE, valid=lambda role: role in (EVERY_ROLE, *ROLES)),
        "min_support": get_param("support", 1, read=int, valid=lambda value: 1 <= value <= 1000),
    }


def gaps_in_link(asked: Row) -> dict[str, str]:
    """Query parameters that carry the settings of `gap_settings` and the relevance."""
    view = {"threshold": f"{asked['threshold']:g}", "role": asked["role"]}
    return {**view, "support": str(asked["min_support"]), "relevant": asked["relevance"].given}


def relevant_words(relevance: Relevance, threshold: float) -> str:
    """What the anchor's features have to be to count."""
    words = "relevant" if relevance.given == EVERY_FEATURE else f"relevant for {relevance.given}"
    return f"{words}, above {threshold:g}" if threshold else words


def gap_settings_words(asked: Row, relevance: Relevance) -> str:
    """Which gaps these settings mean."""
    words = [f"above {asked['threshold']:g}"]
    if asked["role"] != EVERY_ROLE:
        words.append(f"tokens of the {asked['role']}")
    if asked["min_support"] > 1:
        words.append(f"in {asked['min_support']} or more samples of the anchor")
    if relevance.given != EVERY_FEATURE:
        words.append(f"relevant for {relevance.given}")
    return f"Gaps {', '.join(words)}; the Coverage page sets this."


@st.cache_data(max_entries=256, show_spinner=False)
def _coverage(
    root: Path,
    anchor: str,
    dataset: str,
    relevance: Relevance,
    threshold: float,
    min_support: int,
    role: str,
    also: tuple[str, ...],
) -> CoverageResult:
    return compare.coverage_of(
        stores(root).cache,
        anchor,
        dataset,
        threshold=threshold,
        min_support=min_support,
        role=role,
        relevant=_relevant(root, anchor, relevance, role),
        also=also,
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def _relevant(root: Path, anchor: str, relevance: Relevance, role: str) -> np.ndarray:
    """The relevant features, bool `[n_features]`; nobody may change it."""
    known = stores(root)
    found = compare.relevant_set(
        relevance.given,
        known.cache,
        anchor,
        runs=known.runs,
        role=role,
        overrides=dict(relevance.overrides),
    )
    found.flags.writeable = False
    return found


def coverage(
    anchor: str,
    dataset: str,
    *,
    relevance: Relevance = EVERYTHING,
    threshold: float = 0.0,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    also: tuple[str, ...] = (),
) -> CoverageResult:
    """FAC over the relevant features, of the dataset together with the runs in `also`. Runs never
    change, so an answer is kept once computed."""
    root = workspace().root
    return _coverage(root, anchor, dataset, relevance, threshold, min_support, role, also)


@st.cache_data(max_entries=64, show_spinner=False)
def _curve(
    root: Path, anchor: str, dataset: str, relevance: Relevance, min_support: int, role: str
) -> list[Row]:
    known = stores(root)
    return compare.curve(
        known.cache,
        anchor,
        dataset,
        runs=known.runs,
        role=role,
        relevant_given=relevance.given,
        overrides=dict(relevance.overrides),
        min_support=min_support,
    )


def curve(
    anchor: str,
    dataset: str,
    *,
    relevance: Relevance = EVERYTHING,
    min_support: int = 1,
    role: str = EVERY_ROLE,
) -> list[Row]:
    """FAC on the rungs of the threshold ladder, as far as the slider goes."""
    rows = _curve(workspace().root, anchor, dataset, relevance, min_support, role)
    top = slider_top(anchor, dataset)
    return [row for row in rows if row["threshold"] <= top]


def by_role(
    anchor: str, dataset: str, *, relevance: Relevance, threshold: float, min_support: int
) -> list[Row]:
    """FAC of each role's tokens: role, fac and counts."""
    return _by_role(workspace().root, anchor, dataset, relevance, threshold, min_support)


@st.cache_data(max_entries=64, show_spinner=False)
def _by_role(
    root: Path, anchor: str, dataset: str, relevance: Relevance, threshold: float, min_support: int
) -> list[Row]:
    known = stores(root)
    return compare.by_role(
        known.cache,
        anchor,
        dataset,
        runs=known.runs,
        threshold=threshold,
        min_support=min_support,
        relevant_given=relevance.given,
        overrides=dict(relevance.overrides),
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _gaps(
    root: Path,
    anchor: str,
    dataset: str,
    relevance: Relevance,
    threshold: float,
    min_support: int,
    role: str,
    rests_on: tuple[str, ...],
) -> compare.Gaps:
    """All of them, from which every page, order and search of the list is taken. `rests_on` are
    the explain runs and, last, the run of the SAE where that can be shown."""
    known = stores(root)
    return compare.gaps(
        known.cache,
        anchor,
        dataset,
        threshold=threshold,
        min_support=min_support,
        role=role,
        relevant=_relevant(root, anchor, relevance, role),
        explained=rests_on[:-1],
    )


def gap_table(
    anchor: str,
    dataset: str,
    *,
    relevance: Relevance = EVERYTHING,
    threshold: float = 0.0,
    min_support: int = 1,
    role: str = EVERY_ROLE,
    **listing: Any,
) -> tuple[list[Row], int]:
    """One page of the gaps among the relevant features, and how many there are."""
    rests_on = (*explained(anchor), sae_of(measured()[anchor]) or "")
    asked = (relevance, threshold, min_support, role, rests_on)
    found = _gaps(workspace().root, anchor, dataset, *asked)
    return compare.gaps_page(found, **listing)


def changes(before: str, after: str, *, added: bool = False) -> Row:
    """Features gained and lost between two runs, as ids and counts; what is `added` to the first
    replaces nothing."""
    return compare.changes(cache(), before, after, threshold=0.0, role=EVERY_ROLE, added=added)


def support_after(before: str, after: str, *, added: bool = False) -> np.ndarray:
    """Samples of the second run in which each feature fires, int64 `[n_features]`; with those of
    the first where it is `added`."""
    shown = cache().support(after, 0.0)
    return shown + cache().support(before, 0.0) if added else shown


def threshold_slider(anchor: str, dataset: str) -> float:
    """How strongly a feature must fire before it counts; one setting for all pages."""
    top = slider_top(anchor, dataset)
    return st.slider(
        "Threshold",
        0.0,
        top,
        step=slider_step(top),
        format="%.2f",
        help="A feature is active in a sample when its peak is strictly above. At 0 a single "
        "token anywhere is enough; higher asks for a clear activation.",
        **param_widget("threshold", 0.0, read=float, valid=lambda value: 0 <= value <= top),
    )


def slider_top(anchor: str, dataset: str) -> float:
    """Where the anchor has lost nine tenths of its features: beyond, little is left to ask."""
    rows = _curve(workspace().root, anchor, dataset, EVERYTHING, 1, EVERY_ROLE)
    few = rows[0]["n_anchor"] / 10
    return max(
        next((r["threshold"] for r in rows if r["n_anchor"] < few), rows[-1]["threshold"]), 0.1
    )


def slider_step(top: float) -> float:
    """A round step that cuts the way to `top` into one or two hundred."""
    return 10.0 ** math.floor(math.log10(top / 100))
