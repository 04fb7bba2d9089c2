"""Write something: which features fire, on which token, and whether a dataset has them."""

from functools import partial

import streamlit as st

from fac import charts
from fac.config import ProbeSpec
from fac.questions import catalogue
from fac.questions.explanations import with_names
from fac.ui import pickers, views
from fac.ui.access import needing
from fac.ui.explanations import headline
from fac.ui.jobs import progress, start
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, open_point, table
from fac.ui.text import Row, clean, plain, tokens_html

PAGE = {"title": "Playground", "section": "Measure", "icon": "edit_note", "order": 50}

EXAMPLE = "Whisk two eggs with a spoon of sugar, then fold in the flour."
DOTS = 14


@st.fragment(run_every="1s")
@views.guard()
def waiting(job_id: int) -> None:
    """Until the worker has read the text; the first time it also loads the model."""
    job = stores().queue.job(job_id)
    if job.status in ("waiting", "running"):
        progress(job)
        st.caption("The first text takes longer: the model is loaded. Then it stays.")
        st.skeleton(height=160)
        return
    del st.session_state["probe_job"]
    if job.status == "done":
        views.set_param("probe", job.run_id)
    else:
        st.session_state["probe_error"] = job.error or "The job was cancelled."
    st.rerun()


def show_tokens(text: catalogue.Probe, rows: list[Row], feature: int, name: str) -> None:
    """One feature over the whole text, then the strongest ones side by side."""
    values = text.features[feature]
    with st.container(border=True):
        st.markdown(f"**Where {name} fires**")
        peak = values.index(max(values))
        st.html(tokens_html(text.tokens, values, peak=peak, breaks=True, faded=text.scaffold))
        views.link("features", "The whole feature", feature=str(feature))
    with st.container(border=True):
        st.markdown("**The strongest features, token by token**")
        dots = [(row["feature"], row["name"], text.features[row["feature"]]) for row in rows]
        st.plotly_chart(
            charts.token_dots(text.tokens, dots),
            key="dots",
            on_select=partial(open_point, "dots"),
            selection_mode="points",
            config=views.CHART,
        )


def show_features(text: catalogue.Probe, anchor: str, dataset: str, name: str, run: str) -> None:
    """The features of the text, or of one token of it, and whether the dataset has them."""
    token = st.selectbox(
        "Token",
        [None, *range(len(text.tokens))],
        key=f"token of {run}",
        format_func=lambda i: "every token" if i is None else f"{i}  {clean(text.tokens[i])!r}",
    )
    rows = catalogue.probe_rows(stores(), text, dataset, token)
    lacking = sum(row["n_samples"] == 0 for row in rows)
    st.caption(f"{lacking:,} of {len(rows):,} never fire in {plain(name)}")
    pager = Pager("probe", run, token)
    page = rows[pager.offset : pager.offset + pager.size]
    page = with_names(stores(), anchor, page, run=dataset)
    columns = ("feature", "name", "peak", "n_samples")
    table(page, columns, key="probe", opens="feature", height=460)
    pager.draw(len(rows), "feature")


manifests, runs = catalogue.measured(stores()), stores().runs
with st.container(horizontal=True, vertical_alignment="bottom"):
    title("Playground", width="stretch")
    pickers.stop_if_nothing_measured(manifests)
    usual = catalogue.default_dataset(
        stores(), manifests, catalogue.default_anchor(stores(), manifests)
    )
    dataset = pickers.pick_run(
        "Does this dataset have them?", "dataset", manifests, usual, width=280
    )
pickers.warn_of_strays(manifests)
facts, anchor = manifests[dataset].facts, pickers.anchor_in_url(manifests, dataset)

run = views.get_param("probe", "", valid=runs.find)
with st.form("text", border=False):
    before = runs.manifest(run).facts.text if run else EXAMPLE
    written = st.text_area("Text", value=before, height=110, label_visibility="collapsed")
    tie = needing("launch", type="primary", icon=":material/play_arrow:")
    sent = st.form_submit_button("Read its features", **tie)
if sent and written.strip():
    st.session_state.pop("probe_error", None)
    spec = ProbeSpec(
        text=written,
        model=facts.model,
        layer=facts.layer,
        sae=facts.sae,
        despite=facts.despite or "",
    )
    st.session_state["probe_job"] = start(spec, "Reading the text")

if "probe_job" in st.session_state:
    waiting(st.session_state["probe_job"])
elif "probe_error" in st.session_state:
    st.error(plain(st.session_state["probe_error"]), icon=":material/error:")
elif not run:
    st.caption("A text goes through the same model and SAE that measured the dataset.")
elif runs.manifest(run).facts.encoder != facts.encoder:
    st.info("That dataset was measured with another model or SAE: read the text again.")
elif not (text := catalogue.probe(stores(), run)).features:
    st.info("No feature fires on this text. Try a longer one.", icon=":material/info:")
else:
    rows = catalogue.probe_rows(stores(), text, dataset)
    strongest = rows[0]["feature"]
    feature = views.get_param("feature", strongest, read=int, valid=text.features.__contains__)
    left, right = st.columns([4, 3], gap="medium")
    with left:
        firsts = with_names(stores(), anchor, rows[:DOTS], run=dataset)
        show_tokens(text, firsts, feature, headline(anchor, feature, dataset))
    with right:
        show_features(text, anchor, dataset, facts.name, run)
