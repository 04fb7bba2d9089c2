"""The families of a comparison's gaps: a table of them, and the gaps of the one that is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from fac.questions.comparison import Comparison
from fac.questions.explanations import names
from fac.questions.families import (
    UNNAMED,
    call_family,
    families_changed,
    families_run,
    families_spec,
    gap_families,
    gaps_of_family,
    take_name_back,
)
from fac.ui.access import needing
from fac.ui.jobs import counted, progress, start
from fac.ui.review import reviewer
from fac.ui.stores import stores
from fac.ui.tables import Pager, table
from fac.ui.text import Row, clean, plain
from fac.ui.views import action_button, get_param, link, param_multiselect, param_widget
from fac.ui.writing import question_view

TITLE = "Families: which topics the gaps are about"
NAMED = 4  # gaps of a family that the list of families names
LONGEST = 80  # characters of a name
CHANGED = "Families: which topics this fills"
OF_A_CHANGE = ("family_name", "was", "is", "change")
COLUMNS = ("family_name", "size", "certain", "lacks", "missing", "under", "possible")
LOOKS = {
    "family_name": st.column_config.TextColumn(
        "Family", width=230, help="What its features peak on."
    ),
    "size": st.column_config.NumberColumn(
        "Features", width=74, format="localized", help="Of it that count and the anchor shows."
    ),
    "missing": st.column_config.NumberColumn(
        "Absent", width=70, format="localized", help="Gaps that no sample of the dataset shows."
    ),
    "lacks": st.column_config.TextColumn(
        "What is missing", width=400, help="Its gaps, certain ones first."
    ),
}
MOST = 1000  # gaps of each family, in the field that asks for a few
OF_A_GAP = ("feature", "name", "badge", "kind", "n_anchor", "n_dataset")


def show_families(comparison: Comparison) -> None:
    """A section: families with the most certain gaps first, and below them the gaps of one."""
    run = families_run(stores(), comparison)
    with st.container(border=True, key="families"):
        st.subheader(TITLE, anchor=False)
        if run is None:
            offer(comparison)
            return
        result = gap_families(stores(), comparison, run)
        if result.headline:
            st.markdown(plain(result.headline))
        if result.rows:
            show_gaps(comparison, chosen(comparison, result.rows))
        st.caption(
            plain(result.note) + " Features that fire clearly in the same samples of the anchor, "
            "more than chance makes them, are a family; its name is what they peak on."
        )


def say_families(comparison: Comparison) -> None:
    """In which families most of what is certainly lacking lies, where that is computed."""
    run = families_run(stores(), comparison)
    if run and (sentence := gap_families(stores(), comparison, run).headline):
        st.caption(f":material/workspaces: {plain(sentence)}")


def show_changed_families(before: Comparison, after: Comparison) -> None:
    """Which families a change filled, and which it emptied."""
    run = families_run(stores(), before)
    if run is None:
        offer(before)
        return
    change = families_changed(stores(), before, after, run)
    if change.headline:
        st.caption(f":material/workspaces: {plain(change.headline)}")
    if not change.rows:
        st.caption(":material/workspaces: No family shows more of its features, or fewer.")
        return
    with st.expander(CHANGED, icon=":material/workspaces:"):
        pager = Pager("changed-families", before, after, size=20)
        rows = [
            {
                **row,
                "family_name": row["name"],
                "was": f"{row['before']:,} of {row['size']:,}",
                "is": f"{row['after']:,} of {row['size']:,}",
                "change": f"{row['change']:+,}",
            }
            for row in change.rows[pager.offset :][: pager.size]
        ]
        table(rows, OF_A_CHANGE, key="changed-families")
        n = len(change.rows)
        pager.draw(n, "family" if n == 1 else "familie")
        st.caption("Features of a family that count, and that the anchor shows, in the dataset.")


def offer(
    comparison: Comparison,
    why: str = "Gaps that fire in the same samples are often one topic: group them once.",
    button: str = "Group the gaps",
    icon: str = "workspaces",
    announcement: str = "Grouping the features of the anchor into families",
) -> None:
    """Families, and the map with them, are computed once, by the worker; how far it is."""
    spec = families_spec(comparison)
    for job in stores().queue.live():
        if job.step == spec.step and job.spec == spec.as_json():
            st.fragment(_how_far, run_every="2s")(job.id)
            return
    st.caption(why)
    action_button(button, icon, start, spec, announcement, **needing("launch"))


def _how_far(number: int) -> None:
    """Of a job; the page runs anew when it has ended."""
    progress(stores().queue.job(number))


def chosen(comparison: Comparison, families: list[Row]) -> Row:
    """The table of families a page at a time, over the whole width; the one that is open."""
    pager = Pager("families", comparison, size=10)
    page = families[pager.offset :][: pager.size]
    gaps = [feature for row in page for feature in row["features"][:NAMED]]
    by_feature = names(stores(), comparison.anchor, gaps)
    rows = [
        {
            **row,
            "family_name": row["name"],
            "missing": row["absent"],
            "lacks": _lacks(row["features"], by_feature),
        }
        for row in page
    ]
    options: Row = {"key": "families", "opens": "family", "id_column": "family", "more": LOOKS}
    table(rows, COLUMNS, height=390, **options)
    pager.draw(len(families), "family" if len(families) == 1 else "familie")
    by_number = {row["family"]: row for row in families}
    first = rows[0]["family"]
    number = get_param("family", first, read=int, valid=by_number.__contains__)
    return by_number[number]


def _lacks(gaps: Sequence[int], by_feature: Mapping[int, str]) -> str:
    """The first gaps of a family by name, and how many more there are."""
    first = [by_feature[gap] or f"#{gap}" for gap in gaps[:NAMED]]
    more = f" and {len(gaps) - NAMED:,} more" if len(gaps) > NAMED else ""
    return ", ".join(dict.fromkeys(first)) + more


def show_gaps(comparison: Comparison, row: Row) -> None:
    """The gaps of one family; choosing one opens its evidence above."""
    words = "a gap" if len(row["features"]) == 1 else counted(len(row["features"]), "gap")
    with st.container(horizontal=True, vertical_alignment="center"):
        by = f" · named by {plain(row['named_by'])}" if row["named_by"] else ""
        st.markdown(f"**{plain(row['name'])}**: {words}{by}", width="stretch")
        with st.popover("Rename", icon=":material/edit:", width="content"):
            rename(comparison, row)
    pager = Pager("of-family", comparison, row["family"], size=20)
    part = {**row, "features": row["features"][pager.offset :][: pager.size]}
    gaps = gaps_of_family(stores(), comparison, part)
    table(gaps, OF_A_GAP, key="of-family", opens="gap", height=280)
    pager.draw(len(row["features"]), "gap")
    view = {**question_view(comparison), "families": str(row["family"])}
    with st.container(horizontal=True, gap="medium"):
        link("fill", "Fill them from a pool", icon=":material/format_color_fill:", **view)
        link("pairs", "Write for them", icon=":material/compare:", features="best", **view)


def rename(comparison: Comparison, row: Row) -> None:
    """What somebody calls a family, kept as a decision about exactly its members."""
    run = families_run(stores(), comparison)
    assert run is not None  # there is a row of it
    who = reviewer()
    key = f"name of {run} {row['family']}"
    usual = row["name"] if row["name"] != UNNAMED else ""
    st.text_input("What is it called?", usual, max_chars=LONGEST, key=key)
    number = row["family"]

    def save() -> None:
        call_family(stores(), run, number, st.session_state[key], str(who))

    with st.container(horizontal=True):
        is_new = bool(who) and st.session_state[key].strip() not in ("", row["name"])
        action_button("Call it so", "check", save, disabled=not is_new, type="primary")
        if who and who == row["named_by"]:
            action_button("Take it back", "undo", take_name_back, stores(), run, number, who)
    st.caption("The name holds for as long as these very features are a family.")


# --- choosing families on other pages -------------------------------------------------------------


def pick_families(comparison: Comparison, rows: Sequence[Row], label: str) -> list[Row]:
    """The families that are chosen among these rows, as the address of this page has them; none
    where all gaps are meant."""
    by_number = {str(row["family"]): row for row in rows}

    def words(number: str) -> str:
        row = by_number[number]
        return f"{clean(row['name'])} · {row['certain']:,} certain of {len(row['features']):,}"

    chosen, strays = param_multiselect(
        label,
        "families",
        [*by_number],
        of=str(comparison),
        format_func=words,
        placeholder="All gaps",
    )
    if strays:
        named = plain(", ".join(strays)[:80])
        st.caption(f":material/search_off: Of the families in the link, {named} have no gaps here.")
    return [by_number[number] for number in chosen]


def pick_few() -> int | None:
    """Of each family so many gaps, None for all; in the address of this page."""
    help = (
        "So many of each family are asked for: those whose samples in the anchor fire most of its "
        "other gaps. A kept sample counts for every gap that it fires."
    )
    tie = param_widget("few", None, read=int, valid=lambda n: n is None or 1 <= n <= MOST)
    n = st.number_input(
        "Gaps a family", 1, MOST, None, width=130, placeholder="All", help=help, **tie
    )
    return None if n is None else int(n)


def families_in_words(rows: Sequence[Row]) -> str:
    """Which families are meant, in Markdown."""
    first = ", ".join(f"“{plain(row['name'])}”" for row in rows[:3])
    more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
    return f"Only gaps of {first}{more}."
