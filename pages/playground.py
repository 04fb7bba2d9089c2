"""Write something: which features fire, on which token, and whether a dataset has them."""

import streamlit as st

from fac import charts, ui

EXAMPLE = "Whisk two eggs with a spoon of sugar, then fold in the flour."
DOTS = 14


def choose_on_dots() -> None:
    if chosen := ui.selected_points(st.session_state["dots"]):
        ui.set_param("feature", ui.point_id(chosen[0]))


@st.fragment(run_every="1s")
@ui.guard()
def waiting(job_id: int) -> None:
    """Until the worker has read the text; the first time it also loads the model."""
    job = ui.queue().job(job_id)
    if job.status in ("waiting", "running"):
        ui.progress(job)
        st.caption("The first text takes longer: the model is loaded. Then it stays.")
        st.skeleton(height=160)
        return
    del st.session_state["probe_job"]
    if job.status == "done":
        ui.set_param("probe", job.run_id)
    else:
        st.session_state["probe_error"] = job.error or "The job was cancelled."
    st.rerun()


def show_tokens(text: ui.Probe, rows: list[ui.Row], feature: int) -> None:
    """One feature over the whole text, then the strongest ones side by side."""
    label = next(row["label"] for row in rows if row["feature"] == feature)
    values = text.features[feature]
    with st.container(border=True):
        st.markdown(f"**Where {ui.plain(ui.called(feature, label))} fires**")
        peak = values.index(max(values))
        st.html(ui.tokens_html(text.tokens, values, peak=peak, breaks=True, faded=text.scaffold))
        ui.link(ui.FEATURES, "The whole feature", feature=str(feature))
    with st.container(border=True):
        st.markdown("**The strongest features, token by token**")
        dots = [(row["feature"], row["label"], text.features[row["feature"]]) for row in rows]
        st.plotly_chart(
            charts.token_dots(text.tokens, dots[:DOTS]),
            key="dots",
            on_select=choose_on_dots,
            selection_mode="points",
            config=ui.CHART,
        )


def show_features(text: ui.Probe, dataset: str, name: str, run: str) -> None:
    """The features of the text, or of one token of it, and whether the dataset has them."""
    token = st.selectbox(
        "Token",
        [None, *range(len(text.tokens))],
        key=f"token of {run}",
        format_func=lambda i: "every token" if i is None else f"{i}  {ui.clean(text.tokens[i])!r}",
    )
    rows = ui.probe_rows(text, dataset, token)
    lacking = sum(row["n_samples"] == 0 for row in rows)
    st.caption(f"{lacking:,} of {len(rows):,} never fire in {ui.plain(name)}")
    pager = ui.Pager("probe", run, token)
    shown = rows[pager.offset : pager.offset + pager.size]
    columns = ("feature", "label", "peak", "n_samples")
    ui.table(shown, columns, key="probe", opens="feature", height=460)
    pager.draw(len(rows), "feature")


found = ui.measured()
with st.container(horizontal=True, vertical_alignment="bottom"):
    ui.title("Playground", width="stretch")
    ui.stop_if_nothing_measured(found)
    usual = ui.default_dataset(found, ui.default_anchor(found))
    dataset = ui.pick("Does this dataset have them?", "dataset", found, usual, width=280)
facts = found[dataset]["facts"]

run = ui.get_param("probe", "", valid=ui.runs().find)
with st.form("text", border=False):
    before = ui.runs().manifest(run)["facts"]["text"] if run else EXAMPLE
    written = st.text_area("Text", value=before, height=110, label_visibility="collapsed")
    sent = st.form_submit_button("Read its features", type="primary", icon=":material/play_arrow:")
if sent and written.strip():
    st.session_state.pop("probe_error", None)
    st.session_state["probe_job"] = ui.start_probe(written, found[dataset])

if "probe_job" in st.session_state:
    waiting(st.session_state["probe_job"])
elif "probe_error" in st.session_state:
    st.error(ui.plain(st.session_state["probe_error"]), icon=":material/error:")
elif not run:
    st.caption("A text goes through the same model and SAE that measured the dataset.")
elif ui.runs().manifest(run)["facts"]["encoder"] != facts["encoder"]:
    st.info("That dataset was measured with another model or SAE: read the text again.")
elif not (text := ui.probe(run)).features:
    st.info("No feature fires on this text. Try a longer one.", icon=":material/info:")
else:
    rows = ui.probe_rows(text, dataset)
    chosen = ui.get_param(
        "feature", rows[0]["feature"], read=int, valid=lambda feature: feature in text.features
    )
    left, right = st.columns([4, 3], gap="medium")
    with left:
        show_tokens(text, rows, chosen)
    with right:
        show_features(text, dataset, facts["name"], run)
