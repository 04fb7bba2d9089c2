"""Where things stand, and the next sensible thing to do."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import streamlit as st

from fac.config import PairsSpec, SynthesizeSpec
from fac.manifest import MeasureManifest, PairsManifest, SynthesisManifest
from fac.questions import catalogue
from fac.questions.comparison import Comparison, certainty, coverage, telling_curve
from fac.questions.explanations import explained, n_explained
from fac.questions.gap_evidence import BADGES, KINDS, GapCounts, gap_features
from fac.questions.gaps import GapList, gap_page
from fac.questions.outlook import outlook
from fac.questions.pairs import pair_states
from fac.questions.relevance import EVERY_FEATURE
from fac.questions.results import last_synthesis, rare_words, reach
from fac.questions.samples import looked
from fac.schema import CoverageResult
from fac.ui import pickers, views
from fac.ui.access import needing
from fac.ui.bars import curve_html, fac_bars_html, funnel_html
from fac.ui.families import say_families
from fac.ui.jobs import arriving, demo_job, progress, retry
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.text import Row, plain

PAGE = {"title": "Home", "section": "", "icon": "home", "order": 0}

FIRST_GAPS = 5  # named on this page


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
        views.action_button("Try again", "refresh", retry, job.id, **needing("launch"))
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
def answer(manifests: Mapping[str, MeasureManifest]) -> None:
    """What is lacking, how sure that is, and what to do about it."""
    names = catalogue.titles(manifests)
    pickers.warn_of_strays(manifests)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        anchor, dataset = pickers.pick_pair(manifests)
        if dataset not in catalogue.comparable(manifests, anchor):
            st.warning(
                f"{plain(names[dataset])} was measured with another model or SAE than "
                f"{plain(names[anchor])}, so their features are not the same. Choose another pair.",
                icon=":material/link_off:",
            )
            return
        pickers.threshold_picker(anchor, dataset)
    comparisons = {
        run: pickers.comparison_in_url(anchor, run)
        for run in catalogue.comparable(manifests, anchor)
    }
    comparison = comparisons[dataset]
    results = {run: coverage(stores(), each) for run, each in comparisons.items()}
    result, story = results[dataset], outlook(stores(), comparison)
    counts = story.counts
    views.lead(story)
    say_families(comparison)
    view = {"anchor": names[anchor], "dataset": names[dataset], **pickers.url_of(comparison)}
    left, right = st.columns([3, 2], gap="medium")
    with left.container(border=True, height="stretch", key="lacking"):
        lacking(comparison, counts, view)
    with right.container(border=True, height="stretch"):
        st.markdown("#### Coverage (FAC) of every dataset")
        datasets(comparisons, results, names, dataset)
    views.cards(
        ("Coverage (FAC)", views.share(result.fac), "Covered, of what the anchor shows."),
        ("Covered", f"{result.n_covered:,}", "Features of the anchor that the dataset shows too."),
        ("Missing", f"{result.n_missing:,}", "Features of the anchor that the dataset lacks."),
        ("Certain", f"{counts.certain:,}", "Gaps that chance does not explain."),
        (
            "Samples",
            f"{manifests[dataset].facts.n_samples:,}",
            f"In the dataset; the anchor has {manifests[anchor].facts.n_samples:,}.",
        ),
    )
    for run in dict.fromkeys((anchor, dataset)):
        if left_out := manifests[run].facts.says_left_out:
            st.caption(plain(left_out))
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("#### From the dictionary to what is covered")
        summary = stores().cache.summary(anchor)
        stages = [
            ("dictionary", summary["n_features"]),
            ("alive in the anchor", summary["n_alive"]),
            ("explained", n_explained(stores(), anchor)),
            (relevant_words(comparison), result.n_anchor),
            ("covered", result.n_covered),
        ]
        st.html(funnel_html(stages, result.n_missing))
    with right.container(border=True, height="stretch"):
        st.markdown("#### Coverage at every threshold")
        st.html(curve_html(telling_curve(stores(), comparison), comparison.threshold))
    st.markdown("#### Next")
    with st.container(horizontal=True, gap="small", key="next"):
        for step in islice(next_steps(manifests, comparison, counts, view), 3):
            with st.container(border=True, width="stretch", height="stretch", gap="xsmall"):
                st.markdown(f"{step.icon} **{step.title}**")
                st.caption(step.why)
                views.link(step.page, step.link, **step.view)
    if newest := last_synthesis(stores(), dataset):
        hit, gaps = newest.facts.gaps_hit, newest.facts.gaps
        words = f"The last synthesis has a sample for {hit:,} of {gaps:,} gaps"
        views.link("synthesis", f"{words}: see them", synthesis=newest.run)
        standing = reach(stores(), newest).words()
        st.caption(plain(f"{standing} {rare_words(stores(), newest, manifests)}".strip()))


def lacking(comparison: Comparison, counts: GapCounts, view: dict[str, str]) -> None:
    """The first gaps by name, each a link to its evidence: certain ones where there are any, else
    what may be missing by chance."""
    certain, possible, _ = BADGES
    badge, total = (certain, counts.certain) if counts.certain else (possible, counts.possible)
    st.markdown(f"#### {'What is' if counts.certain else 'Nothing is'} certainly lacking")
    if not counts.certain:
        st.caption(
            "It does not show these, which chance could explain:"
            if counts.possible
            else "It shows everything that counts about as often as its size lets one expect."
        )
    # Absent ones first, as in the sentence above: of them nobody has to ask how rare is too rare.
    rows: list[Row] = []
    for kind in KINDS:
        listing = GapList(badge=badge, kind=kind)
        rows += gap_page(stores(), comparison, listing, limit=FIRST_GAPS - len(rows))[0]
    for row in rows:
        name = plain(f"{row['name']} #{row['feature']}")
        feature = str(row["feature"])
        words = f"{name} :gray[{expected_words(row)}]"
        views.link("coverage", words, icon="", gap=feature, badge=badge, **view)
    if total > len(rows):
        views.link("coverage", f"All {total:,}", badge=badge, **view)


def expected_words(row: Row) -> str:
    """How many samples show it of those that would be expected to, kept on one line."""
    n, expected = row["n_dataset"], row["expected"]
    if expected is None:
        return ""
    decimals = 1 if expected < 10 else 0
    return f"{n:,} of {expected:,.{decimals}f} expected".replace(" ", "\N{NO-BREAK SPACE}")


def datasets(
    comparisons: Mapping[str, Comparison],
    results: Mapping[str, CoverageResult],
    names: Mapping[str, str],
    dataset: str,
) -> None:
    """FAC of every dataset; the chosen one with its interval and its yardstick."""
    anchor = comparisons[dataset].anchor
    bars: list[Row] = [
        {"name": names[run], "run": run, **each._asdict()}
        for run, each in results.items()
        if run != anchor
    ]
    if not bars:
        st.caption("Only the anchor has been measured. Add a dataset to see how it compares.")
        return
    doubt = certainty(stores(), comparisons[dataset])
    for bar in bars:
        if bar["run"] == dataset:
            bar |= views.ends_of(doubt)
    st.html(fac_bars_html(bars, dataset))
    st.caption(views.doubt_words(doubt))


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
    manifests: Mapping[str, MeasureManifest],
    comparison: Comparison,
    counts: GapCounts,
    view: dict[str, str],
) -> Iterator[Step]:
    """What a person would sensibly do next, most useful first."""
    anchor, dataset = comparison.anchor, comparison.dataset
    names = catalogue.titles(manifests)
    done = {manifest.facts.dataset for manifest in manifests.values()}
    waiting = [
        each
        for each in catalogue.datasets(stores())
        if each.run not in done and not each.facts.is_synthetic
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
    if gap_features(stores(), comparison):
        certain, possible = f"{counts.certain:,} certain", f"{counts.possible:,} possible"
        yield Step(
            f"Read the {certain if counts.certain else possible} gaps of {plain(names[dataset])}",
            "Chance does not explain them: each with examples and the dataset's nearest misses."
            if counts.certain
            else "Chance could explain each of them; examples and near misses may say more.",
            ":material/donut_large:",
            "coverage",
            "See what is missing",
            {**view, "badge": BADGES[not counts.certain]},
        )
        explains = bool(explained(stores(), anchor))
        if explains and (step := synthesis_step(anchor, dataset, counts.certain, view)):
            yield step
        yield Step(
            "Review what the gaps are called" if explains else "Explain the gaps",
            "One explanation at a time, by keyboard, blind to what others said."
            if explains
            else "A feature is a number until it has a name: from its tokens, without any key.",
            ":material/rate_review:",
            "review",
            "Review them" if explains else "Explain them",
            {"anchor": view["anchor"], "dataset": view["dataset"]},
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


def samples_step(manifest: SynthesisManifest) -> Step | None:
    """What a synthesis kept, until somebody began to look through it."""
    n = manifest.facts.kept
    if not n or looked(stores(), manifest.run).looked:
        return None
    return Step(
        f"Look through {n:,} kept sample{'s'[: n != 1]}",
        "One at a time, by keyboard: what you drop does not leave with an export.",
        ":material/rate_review:",
        "review",
        "Look through them",
        {"kind": "sample", "synthesis": manifest.run},
    )


def synthesis_step(anchor: str, dataset: str, n_certain: int, view: dict[str, str]) -> Step | None:
    """Pairs, their approval, the synthesis from them, or a look through what it kept, whichever is
    next; None after that, and where no gap is certain that pairs could be begun for."""
    runs = stores().runs
    pairs: list[PairsManifest] = runs.list(PairsSpec.step)
    of_both = (m.run for m in pairs if (m.inputs.anchor, m.inputs.dataset) == (anchor, dataset))
    run = next(of_both, None)
    if run is None and not n_certain:
        return None
    if run is None:
        return Step(
            "Write pairs for the certain gaps",
            "A text that fires each gap beside the most similar one that stays silent; you "
            "approve them before anything is written from them.",
            ":material/compare:",
            "pairs",
            "Write pairs",
            {**view, "features": "best"},
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
    syntheses: list[SynthesisManifest] = runs.list(SynthesizeSpec.step)
    real = [m for m in syntheses if m.inputs.pairs == run and not m.spec.pilot]
    written = {pair for manifest in real for pair in manifest.spec.approved}
    approved = (state for state in states.values() if state.state == "approved")
    if all(state.version.row["pair"] in written for state in approved):
        return samples_step(real[0]) if real else None
    return Step(
        f"Synthesize from {n:,} approved pair{'s'[: n != 1]}",
        "Samples that provably fire the gaps; a pilot says what they will take.",
        ":material/science:",
        "synthesis",
        "See what it takes",
        {"pairs": run},
    )


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

answer(manifests)
