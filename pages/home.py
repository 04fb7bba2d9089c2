"""Where things stand, and the next sensible thing to do."""

from typing import Any

import streamlit as st

from fac import ui
from fac.questions.results import last_synthesis
from fac.ui.stores import stores


@st.fragment(run_every="500ms")
@ui.guard()
def arriving() -> None:
    """The first minute of a workspace: the demo's job, until there is something to look at."""
    job = ui.demo_job()
    if not ui.arriving() and ui.measured():
        st.rerun()
    if job is None or job.status in ("done", "cancelled"):
        ui.stop_if_nothing_measured({})
    elif job.status == "failed":
        st.error(ui.plain(job.error or "The demo could not be set up."), icon=":material/error:")
        st.button("Try again", on_click=ui.retry, args=(job.id,), icon=":material/refresh:")
        st.page_link(ui.DATASETS, label="Or start with a dataset of your own")
    else:
        with st.container(border=True):
            st.markdown("#### Setting up the demo")
            st.markdown(
                "A broad anchor and a narrow dataset, already measured with a small model: "
                "in a moment you see what the second lacks against the first."
            )
            ui.progress(job)


@st.fragment
@ui.guard()
def answer(anchor: str, dataset: str) -> None:
    """Coverage at the threshold in use, and what to do about it."""
    found = ui.measured()
    titles, summary = ui.titles(found), ui.cache().summary(anchor)
    threshold = ui.threshold_slider(anchor, dataset)
    relevance = ui.look_relevance(anchor)
    asked: dict[str, Any] = {"relevance": relevance, "threshold": threshold}
    results = {run: ui.coverage(anchor, run, **asked) for run in ui.comparable(found, anchor)}
    result = results[dataset]
    ui.cards(
        ("Coverage (FAC)", ui.share(result.fac), "Covered, of what the anchor shows."),
        ("Covered", f"{result.n_covered:,}", "Features of the anchor that the dataset shows too."),
        ("Missing", f"{result.n_missing:,}", "Features of the anchor that the dataset lacks."),
        (
            "Samples",
            f"{found[dataset]['facts']['n_samples']:,}",
            f"Samples in the dataset; the anchor has {summary['n_samples']:,}.",
        ),
    )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("#### From the dictionary to what is covered")
        stages = [
            ("dictionary", summary["n_features"]),
            ("alive in the anchor", summary["n_alive"]),
            ("explained", ui.n_explained(anchor)),
            (ui.relevant_words(relevance, threshold), result.n_anchor),
            ("covered", result.n_covered),
        ]
        st.html(ui.funnel_html(stages, result.n_missing))
    with right.container(border=True, height="stretch"):
        st.markdown("#### Coverage of every dataset")
        bars = [
            {"name": titles[run], "run": run, **each._asdict()}
            for run, each in results.items()
            if run != anchor
        ]
        if bars:
            st.html(ui.fac_bars_html(bars, dataset))
        else:
            st.caption("Only the anchor has been measured. Add a dataset to see how it compares.")
        st.html(ui.curve_html(ui.curve(anchor, dataset, relevance=relevance), threshold))
    st.markdown("#### Next")
    with st.container(horizontal=True, gap="small"):
        for step in ui.next_steps(found, anchor, dataset, result):
            with st.container(border=True, width="stretch", height="stretch", gap="xsmall"):
                st.markdown(f"{step.icon} **{step.title}**")
                st.caption(step.why)
                ui.link(step.page, step.link, **step.view)
    if made := last_synthesis(stores(), dataset):
        facts = made["facts"]
        words = f"The last synthesis filled {facts['gaps_hit']:,} of {facts['gaps']:,} gaps"
        ui.link(ui.SYNTHESIS, f"{words}: see its samples", synthesis=made["run"])


ui.title("Where things stand")

found = ui.measured()
if not found or ui.arriving():
    arriving()
    if ui.arriving():
        # Still frames: moving ones would take from the cores that the demo is waiting for.
        for column in st.columns(4):
            column.container(border=True, height=96)
        st.container(border=True, height=280)
    st.stop()

anchor_column, dataset_column = st.columns(2)
with anchor_column:
    anchor = ui.pick("Anchor: what could be shown", "anchor", found, ui.default_anchor(found))
with dataset_column:
    dataset = ui.pick("Dataset: what is shown", "dataset", found, ui.default_dataset(found, anchor))

if dataset not in ui.comparable(found, anchor):
    titles = ui.titles(found)
    st.warning(
        f"{ui.plain(titles[dataset])} was measured with another model or SAE than "
        f"{ui.plain(titles[anchor])}, so their features are not the same. Choose another pair.",
        icon=":material/link_off:",
    )
    st.stop()
answer(anchor, dataset)
