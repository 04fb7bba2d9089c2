"""Write something and see which features it fires, on which token, and whether a dataset has them."""

import streamlit as st

from fac import charts, ui

EXAMPLE = "Whisk two eggs with a spoon of sugar, then fold in the flour."


def choose_on_dots() -> None:
    if chosen := ui.selected_points(st.session_state["dots"]):
        ui.keep("feature", chosen[0][0])


@st.fragment(run_every="1s")
@ui.guard()
def waiting(job_id: int) -> None:
    """Until the worker has read the text; the first time it also loads the model."""
    job = ui.queue().job(job_id)
    if job.status == "done":
        st.session_state["probe"] = job.run_id
        st.session_state["probe_job"] = None
        st.rerun()
    elif job.status in ("failed", "cancelled"):
        st.error(ui.plain(job.error or "The job was cancelled."), icon=":material/error:")
    else:
        ui.progress(job)
        st.caption("The model stays loaded, so the next text is read at once.")
        st.skeleton(height=160)


def show(run: str, dataset: str, found: dict[str, ui.Row]) -> None:
    text = ui.probe(run)
    if not text.features:
        st.info("No feature fires on this text. Try a longer one.", icon=":material/info:")
        return
    support = ui.cache().features_page(dataset, ids=list(text.features))[0]
    known = {row["feature"]: row for row in support}
    strongest = ui.probe_rows(text, known)
    feature = ui.look(
        "feature", strongest[0]["feature"], read=int, valid=text.features.__contains__
    )

    left, right = st.columns([4, 3], gap="medium")
    with left:
        with st.container(border=True):
            st.markdown(f"**Where {ui.plain(ui.called(feature, known[feature]['label']))} fires**")
            values = text.features[feature]
            st.html(
                ui.tokens_html(text.tokens, values, peak=values.index(max(values)), breaks=True)
            )
            st.page_link(
                ui.FEATURES,
                label="The whole feature",
                icon=":material/arrow_forward:",
                query_params={"feature": str(feature)},
            )
        with st.container(border=True):
            st.markdown("**The strongest features, token by token**")
            rows = [
                (row["feature"], row["label"], text.features[row["feature"]])
                for row in strongest[:14]
            ]
            st.plotly_chart(
                charts.token_dots(text.tokens, rows),
                key="dots",
                on_select=choose_on_dots,
                selection_mode="points",
                config=ui.CHART,
            )
    with right:
        position = st.selectbox(
            "Token",
            [None, *range(len(text.tokens))],
            key=f"token of {run}",
            format_func=lambda i: (
                "every token" if i is None else f"{i}: {ui.clean(text.tokens[i])!r}"
            ),
        )
        rows = [
            row for row in strongest if position is None or text.features[row["feature"]][position]
        ]
        missing = sum(row["n_samples"] == 0 for row in rows)
        name = ui.plain(found[dataset]["facts"]["name"])
        st.caption(f"{len(rows):,} features, {missing:,} of them never fire in {name}")
        pager = ui.Pager("probe", run, position)
        ui.table(
            rows[pager.offset : pager.offset + pager.size],
            {
                "feature": st.column_config.NumberColumn("#", width=56, format="%d"),
                "label": st.column_config.TextColumn("Peaks on", width=180),
                "peak": st.column_config.NumberColumn("Here", format="%.2f"),
                "n_samples": st.column_config.NumberColumn(
                    "Samples", format="localized", help="Samples of the dataset that show it."
                ),
                "state": st.column_config.TextColumn("Dataset"),
            },
            key="probe",
            opens="feature",
            height=520,
        )
        pager.draw(len(rows), "features")


found = ui.measured()
with st.container(horizontal=True, vertical_alignment="bottom"):
    st.title("Playground", width="stretch")
    ui.stop_if_nothing_measured(found)
    anchor = ui.default_anchor(found)
    dataset = ui.pick(
        "Does this dataset have them?",
        "dataset",
        found,
        ui.default_dataset(found, anchor),
        width=280,
    )
with st.form("text", border=False):
    written = st.text_area("Text", value=EXAMPLE, height=110, label_visibility="collapsed")
    sent = st.form_submit_button("Read its features", type="primary", icon=":material/play_arrow:")
if sent and written.strip():
    st.session_state["probe_job"] = ui.start_probe(written, found[dataset])
    st.session_state["probe"] = None

if st.session_state.get("probe_job"):
    waiting(st.session_state["probe_job"])
elif st.session_state.get("probe"):
    show(st.session_state["probe"], dataset, found)
else:
    st.caption("A text goes through the same model and SAE that measured the dataset.")
