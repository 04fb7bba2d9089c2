"""The families of a comparison's gaps: a table of them, and the gaps of the one that is chosen."""

from __future__ import annotations

import streamlit as st

from fac.questions.comparison import Comparison
from fac.questions.families import (
    families_run,
    families_spec,
    gap_families,
    gaps_of_family,
)
from fac.ui.jobs import counted, start
from fac.ui.stores import stores
from fac.ui.tables import Pager, table
from fac.ui.text import Row, plain
from fac.ui.views import action_button, get_param

TITLE = "Families: which topics the gaps are about"
COLUMNS = ("family_name", "n_covered", "certain", "possible")
OF_A_GAP = ("feature", "name", "badge", "kind")


def show_families(comparison: Comparison) -> None:
    """A section that opens: families with the most certain gaps first, each with its gaps."""
    run = families_run(stores(), comparison)
    with st.expander(TITLE, icon=":material/workspaces:"):
        if run is None:
            offer(comparison)
            return
        result = gap_families(stores(), comparison, run)
        if result.headline:
            st.markdown(plain(result.headline))
        if result.rows:
            left, right = st.columns([6, 5], gap="medium")
            with left:
                row = chosen(comparison, result.rows)
            with right:
                show_gaps(comparison, row)
        st.caption(
            plain(result.note) + " Features that fire clearly in the same samples of the anchor, "
            "more than chance makes them, are a family; its name is what they peak on."
        )


def say_families(comparison: Comparison) -> None:
    """In which families most of what is certainly lacking lies, where that is computed."""
    run = families_run(stores(), comparison)
    if run and (sentence := gap_families(stores(), comparison, run).headline):
        st.caption(f":material/workspaces: {plain(sentence)}")


def offer(comparison: Comparison) -> None:
    """Families are computed once, by the worker."""
    spec = families_spec(comparison)
    for job in stores().queue.live():
        if job.step == spec.step and job.spec == spec.as_json():
            st.caption("The features are being grouped; this takes a few seconds.")
            return
    st.caption("Gaps that fire in the same samples are often one topic: group them once.")
    announcement = "Grouping the features of the anchor into families"
    action_button("Group the gaps", "workspaces", start, spec, announcement)


def chosen(comparison: Comparison, families: list[Row]) -> Row:
    """The table of families a page at a time; the one that is open."""
    pager = Pager("families", comparison, size=20)
    rows = [
        {
            **row,
            "family_name": row["name"],
            "n_covered": f"{row['covered']:,} of {row['size']:,}",
        }
        for row in families[pager.offset :][: pager.size]
    ]
    table(rows, COLUMNS, key="families", opens="family", id_column="family", height=390)
    pager.draw(len(families), "family" if len(families) == 1 else "familie")
    by_number = {row["family"]: row for row in families}
    first = rows[0]["family"]
    number = get_param("family", first, read=int, valid=by_number.__contains__)
    return by_number[number]


def show_gaps(comparison: Comparison, row: Row) -> None:
    """The gaps of one family; choosing one opens its evidence above."""
    words = "a gap" if len(row["features"]) == 1 else counted(len(row["features"]), "gap")
    st.markdown(f"**{plain(row['name'])}**: {words}")
    pager = Pager("of-family", comparison, row["family"], size=20)
    part = {**row, "features": row["features"][pager.offset :][: pager.size]}
    gaps = gaps_of_family(stores(), comparison, part)
    table(gaps, OF_A_GAP, key="of-family", opens="gap", height=350)
    pager.draw(len(row["features"]), "gap")
