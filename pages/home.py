"""Where things stand, and the next sensible thing to do."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import streamlit as st

from fac.config import IngestSpec, PairsSpec, SynthesizeSpec
from fac.manifest import DatasetManifest, MeasureManifest, PairsManifest, SynthesisManifest
from fac.questions import catalogue
from fac.questions.comparison import Comparison, coverage, telling_curve
from fac.questions.explanations import explained, n_explained
from fac.questions.pairs import pair_states
from fac.questions.relevance import EVERY_FEATURE
from fac.questions.results import last_synthesis
from fac.schema import CoverageResult
from fac.ui import pickers, views
from fac.ui.bars import curve_html, fac_bars_html, funnel_html
from fac.ui.jobs import arriving, demo_job, progress, retry
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.text import plain

PAGE = {"title": "Home", "section": "", "icon": "home", "order": 0}


@st.fragment(run_every="500ms")
@views.guard()
def show_arrival() -> None:
    """The first minute of a workspace: the demo's job, until there is something to look at."""
    job = demo_job()
    if not arriving() and catalogue.measured(stores()):
        st.rerun()
    if job is None or job.status in ("done", "cancelled"):
        pickers.stop_if_nothing_measured({})
    elif job.status == "failed":
        st.error(plain(job.error or "The demo could not be set up."), icon=":material/error:")
        st.button("Try again", on_click=retry, args=(job.id,), icon=":material/refresh:")
        views.link("datasets", "Or start with a dataset of your own", icon="")
    else:
        with st.container(border=True):
            st.markdown("#### Setting up the demo")
            st.markdown(
                "A broad anchor and a narrow dataset, already measured with a small model: "
                "in a moment you see what the second lacks against the first."
            )
            progress(job)


@st.fragment
@views.guard()
def answer(anchor: str, dataset: str) -> None:
    """Coverage at the threshold in use, and what to do about it."""
    manifests = catalogue.measured(stores())
    names, summary = catalogue.titles(manifests), stores().cache.summary(anchor)
    threshold = pickers.threshold_picker(anchor, dataset)
    comparisons = {
        run: Comparison(anchor, run, threshold, relevance=pickers.relevance_in_url(anchor))
        for run in catalogue.comparable(manifests, anchor)
    }
    results = {run: coverage(stores(), comparison) for run, comparison in comparisons.items()}
    result = results[dataset]
    views.cards(
        ("Coverage (FAC)", views.share(result.fac), "Covered, of what the anchor shows."),
        ("Covered", f"{result.n_covered:,}", "Features of the anchor that the dataset shows too."),
        ("Missing", f"{result.n_missing:,}", "Features of the anchor that the dataset lacks."),
        (
            "Samples",
            f"{manifests[dataset].facts.n_samples:,}",
            f"Samples in the dataset; the anchor has {summary['n_samples']:,}.",
        ),
    )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("#### From the dictionary to what is covered")
        stages = [
            ("dictionary", summary["n_features"]),
            ("alive in the anchor", summary["n_alive"]),
            ("explained", n_explained(stores(), anchor)),
            (relevant_words(comparisons[dataset]), result.n_anchor),
            ("covered", result.n_covered),
        ]
        st.html(funnel_html(stages, result.n_missing))
    with right.container(border=True, height="stretch"):
        st.markdown("#### Coverage of every dataset")
        bars = [
            {"name": names[run], "run": run, **each._asdict()}
            for run, each in results.items()
            if run != anchor
        ]
        if bars:
            st.html(fac_bars_html(bars, dataset))
        else:
            st.caption("Only the anchor has been measured. Add a dataset to see how it compares.")
        st.html(curve_html(telling_curve(stores(), comparisons[dataset]), threshold))
    st.markdown("#### Next")
    with st.container(horizontal=True, gap="small"):
        for step in islice(next_steps(manifests, anchor, dataset, result), 3):
            with st.container(border=True, width="stretch", height="stretch", gap="xsmall"):
                st.markdown(f"{step.icon} **{step.title}**")
                st.caption(step.why)
                views.link(step.page, step.link, **step.view)
    if newest := last_synthesis(stores(), dataset):
        hit, gaps = newest.facts.gaps_hit, newest.facts.gaps
        words = f"The last synthesis filled {hit:,} of {gaps:,} gaps"
        views.link("synthesis", f"{words}: see its samples", synthesis=newest.run)


def relevant_words(comparison: Comparison) -> str:
    """What the anchor's features have to be to count."""
    task, threshold = comparison.relevance.name, comparison.threshold
    words = "relevant" if task == EVERY_FEATURE else f"relevant for {task}"
    return f"{words}, above {threshold:g}" if threshold else words


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
    manifests: Mapping[str, MeasureManifest], anchor: str, dataset: str, result: CoverageResult
) -> Iterator[Step]:
    """What a person would sensibly do next, most useful first."""
    names = catalogue.titles(manifests)
    pair = {"anchor": names[anchor], "dataset": names[dataset]}
    done = {manifest.facts.dataset for manifest in manifests.values()}
    datasets: list[DatasetManifest] = stores().runs.list(IngestSpec.step)
    waiting = [
        d for d in datasets if d.run not in done and not catalogue.is_synthetic(stores(), d.run)
    ]
    if waiting:
        yield Step(
            f"Measure {plain(waiting[0].facts.name)}",
            "It has been read, but nobody has looked which features it shows.",
            ":material/speed:",
            "datasets",
            "Open it",
            {"open": waiting[0].run},
        )
    if result.n_missing and dataset != anchor:
        yield Step(
            f"Read the {result.n_missing:,} gaps of {plain(names[dataset])}",
            "Ranked by how common they are in the anchor, with examples and near misses.",
            ":material/donut_large:",
            "coverage",
            "See what is missing",
            {**pair, **threshold_in_use()},
        )
        explains = bool(explained(stores(), anchor))
        if explains and (step := synthesis_step(anchor, dataset, pair)):
            yield step
        yield Step(
            "Review what the gaps are called" if explains else "Explain the gaps",
            "One explanation at a time, by keyboard, blind to what others said."
            if explains
            else "A feature is a number until it has a name: from its tokens, without any key.",
            ":material/rate_review:",
            "review",
            "Review them" if explains else "Explain them",
            pair,
        )
    yield Step(
        "Add a dataset of your own",
        "JSONL, CSV, Parquet or a Hugging Face id; plain text or chat.",
        ":material/upload_file:",
        "datasets",
        "Add a dataset",
        {"add": "yes"},
    )
    yield Step(
        "Wander through the features",
        "A map of the dictionary; every point opens its examples.",
        ":material/scatter_plot:",
        "features",
        "Open the map",
        {"dataset": names[anchor]},
    )


def synthesis_step(anchor: str, dataset: str, view: dict[str, str]) -> Step | None:
    """Pairs, their approval, or the synthesis from them, whichever is next; None once it ran."""
    runs = stores().runs
    pairs: list[PairsManifest] = runs.list(PairsSpec.step)
    of_both = (m.run for m in pairs if (m.inputs.anchor, m.inputs.dataset) == (anchor, dataset))
    run = next(of_both, None)
    if run is None:
        return Step(
            "Write pairs for the gaps",
            "A text that fires each gap and a twin that does not; you approve them before "
            "anything is written from them.",
            ":material/compare:",
            "pairs",
            "Write pairs",
            {**view, "features": "best", **threshold_in_use()},
        )
    states = pair_states(stores(), run)
    counts = Counter(state.state for state in states.values())
    if n := counts["undecided"]:
        return Step(
            f"Approve {n:,} pair{'s'[: n != 1]}",
            "One at a time, by keyboard. Nothing is written from a pair that nobody approved.",
            ":material/compare:",
            "pairs",
            "Decide on them",
            {"pairs": run},
        )
    n = counts["approved"]
    # A pilot took some of them; what was approved since nobody has written from yet.
    syntheses: list[SynthesisManifest] = runs.list(SynthesizeSpec.step)
    written = {pair for m in syntheses if m.inputs.pairs == run for pair in m.spec.approved}
    approved = (state for state in states.values() if state.state == "approved")
    if all(state.version.row["pair"] in written for state in approved):
        return None
    return Step(
        f"Synthesize from {n:,} approved pair{'s'[: n != 1]}",
        "Samples that provably fire the gaps; a pilot says what they will take.",
        ":material/science:",
        "synthesis",
        "See what it takes",
        {"pairs": run},
    )


def threshold_in_use() -> dict[str, str]:
    value = views.get_param("threshold", 0.0, read=float)
    return {"threshold": str(value)} if value else {}


title("Where things stand")

manifests = catalogue.measured(stores())
if not manifests or arriving():
    show_arrival()
    if arriving():
        # Still frames: moving ones would take from the cores that the demo is waiting for.
        for column in st.columns(4):
            column.container(border=True, height=96)
        st.container(border=True, height=280)
    st.stop()

anchor_column, dataset_column = st.columns(2)
with anchor_column:
    anchor = pickers.pick_anchor("Anchor: what could be shown", manifests)
with dataset_column:
    usual = catalogue.default_dataset(stores(), manifests, anchor)
    dataset = pickers.pick_run("Dataset: what is shown", "dataset", manifests, usual)

if dataset not in catalogue.comparable(manifests, anchor):
    names = catalogue.titles(manifests)
    st.warning(
        f"{plain(names[dataset])} was measured with another model or SAE than "
        f"{plain(names[anchor])}, so their features are not the same. Choose another pair.",
        icon=":material/link_off:",
    )
    st.stop()
answer(anchor, dataset)
