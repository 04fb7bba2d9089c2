"""Two datasets, or two versions of one: which features were gained and which were lost."""

from functools import partial

import streamlit as st

from fac import charts, ui
from fac.questions.results import synthesis_behind, was_made_for
from fac.ui.stores import stores


def choose_on_scatter() -> None:
    ids = [ui.point_id(data) for data in ui.selected_points(st.session_state["scatter"])]
    if ids:
        ui.set_param("feature", ids[0])


ui.title("Compare")
found = ui.measured()
ui.stop_if_nothing_measured(found)
if len(found) == 1:
    ui.empty(
        "Two are needed",
        "Measure a second dataset, or a new version of the first.",
        icon=":material/compare_arrows:",
        page=ui.DATASETS,
        link="Add a dataset",
    )
    st.stop()

default_anchor = ui.default_anchor(found)
newest = ui.default_dataset(found, default_anchor)
one, two, three = st.columns(3)
with one:
    before = ui.pick("Before", "before", found, ui.default_dataset(found, newest))
with two:
    after = ui.pick("After", "after", found, newest)
with three:
    anchor = ui.pick("Against the anchor", "anchor", found, default_anchor)

titles = ui.titles(found)
for run in dict.fromkeys((before, after)):
    if made := synthesis_behind(stores(), found[run]["facts"]["dataset"]):
        name = ui.plain(titles[run])
        ui.link(ui.SYNTHESIS, f"How {name} was made, and why each row is there", synthesis=made)
added = was_made_for(stores(), found[after], before) and st.toggle(
    f"Together with {ui.plain(titles[before])}",
    help="These samples were made to be added, not to replace anything.",
    **ui.param_widget("together", True, read="True".__eq__),
)
changed = ui.changes(before, after, added=added)
was = ui.coverage(anchor, before)
now = ui.coverage(anchor, before, also=(after,)) if added else ui.coverage(anchor, after)
card = partial(st.metric, border=True, height="stretch")
with st.container(horizontal=True, gap="small"):
    change = ui.points(now.fac - was.fac)
    card("FAC", ui.share(now.fac), change, help=f"It was {ui.share(was.fac)} before.")
    card("Gained", f"{changed['n_gained']:,}", help="Features only the second shows.")
    card("Lost", f"{changed['n_lost']:,}", help="Features only the first shows.")
    more = now.n_covered - was.n_covered
    card("Covered of the anchor", f"{now.n_covered:,}", more, help="Features of the anchor.")

left, right = st.columns([4, 3], gap="medium")
with left.container(border=True):
    st.markdown("**Samples that show each feature**")
    figure = charts.support_scatter(
        ui.cache().support(before, 0.0),
        ui.support_after(before, after, added=added),
        names=(titles[before], "both together" if added else titles[after]),
    )
    st.plotly_chart(
        figure,
        key="scatter",
        on_select=choose_on_scatter,
        selection_mode="points",
        config={"displaylogo": False},
        alt="Support of each feature before and after",
    )
    st.caption(
        "Teal was gained, amber was lost, grey is in both; of very many, shades show where they "
        "are and points some of them. Click a point to see its examples."
    )
with right:
    sides = ("lost", "gained") if changed["n_lost"] else ("gained", "lost")
    side = ui.choice("Features", sides, "side", label_visibility="collapsed")
    ids, shows = changed[side], after if side == "gained" else before
    if len(ids):
        pager = ui.Pager("changes", before, after, side)
        rows, total = ui.cache().features_page(
            shows, ids=ids, offset=pager.offset, limit=pager.size
        )
        columns = ("feature", "label", "n_samples", "max_peak")
        ui.table(rows, columns, key="changes", opens="feature")
        pager.draw(total, "feature", side)
    else:
        rows = []
        st.caption(f"No feature was {side}.")

feature = ui.get_param("feature", rows[0]["feature"] if rows else None, read=int)
if feature is not None and (facts := ui.cache().feature(after, feature)) is not None:
    label = facts["label"] or (ui.cache().feature(before, feature) or facts)["label"]
    st.subheader(ui.plain(ui.called(feature, label)), anchor=False)
    for column, run in zip(st.columns(2, gap="medium"), (before, after), strict=True):
        with column.container(border=True):
            st.markdown(f"**{ui.plain(titles[run])}**")
            spans = ui.cache().spans(run, feature, "top")[:5]
            if spans:
                ui.show_examples(spans)
            else:
                st.caption("It never fires here. What comes nearest:")
                ui.show_near(ui.cache().near(run, feature, sae_run=ui.sae_of(found[run]))[:3])
