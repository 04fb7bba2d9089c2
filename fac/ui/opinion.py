"""What another SAE says of a comparison's certain gaps: a section that opens."""

from __future__ import annotations

import streamlit as st

from fac.matching import MATCHED
from fac.questions.comparison import Comparison
from fac.questions.opinion import (
    FREQUENT,
    Opinion,
    commands,
    counterpart,
    counterpart_runs,
    named,
    others_of,
    second_opinion,
)
from fac.ui import views
from fac.ui.stores import stores
from fac.ui.tables import Pager, table
from fac.ui.text import Row, plain

TITLE = "Second opinion: what another SAE says"
COLUMNS = (
    *("feature", "name", "second", "n_anchor", "n_dataset"),
    *("r", "partner_name", "partner_n_anchor", "partner_n_dataset"),
)


def show_opinion(comparison: Comparison) -> None:
    """Whether the SAEs that also measured both sides confirm the certain gaps, once it is asked
    for: matching takes a while."""
    with st.expander(TITLE, icon=":material/rule:"), views.guard():
        measures = others_of(stores(), comparison)
        others = [run for run in measures if _ready(comparison, run)]
        if not others:
            _say_how(comparison, waits=bool(measures))
            return
        facts = {run: stores().runs.manifest(run).facts for run in others}
        titles = {run: f"{each.sae_name} ({each.encoder})" for run, each in facts.items()}
        other: str = others[0]
        if len(others) > 1:
            other = st.selectbox("The other SAE", others, format_func=titles.__getitem__)
        else:
            st.caption(f"The other SAE: {plain(titles[other])}")
        if views.get_param("opinion", "", valid=lambda run: run in others) != other:
            st.caption("Its features are matched over all texts, which takes up to a minute.")
            views.action_button("Ask it", "rule", views.set_param, "opinion", other)
            return
        with st.spinner("Matching the features of both"):
            there = counterpart(stores(), comparison, other)
            opinion = second_opinion(stores(), comparison, there)
        _draw(comparison, opinion)


def _say_how(comparison: Comparison, *, waits: bool) -> None:
    """What to do where no other SAE can be asked yet."""
    if waits:
        st.caption("Another SAE has measured both; its measures are being prepared for browsing.")
        return
    lines = commands(stores(), comparison)
    how = (
        "Train one with another seed on texts such as these, or name one that you have after "
        "`--sae`, and measure both datasets with it. In a terminal:"
        if "train-sae" in lines[0]
        else "One has measured a part of this comparison; measure the rest with it. In a terminal:"
    )
    st.markdown(
        "A gap may be one of the text, or an accident of one SAE: what a second SAE sees too is "
        f"confirmed here. {how}"
    )
    st.code("\n".join(lines), language="sh")


def _ready(comparison: Comparison, run: str) -> bool:
    return all(map(stores().cache.ready, (run, *counterpart_runs(stores(), comparison, run))))


def _partner(row: Row) -> str:
    return "" if row["partner"] is None else f"#{row['partner']} {row['partner_name']}"


def _draw(comparison: Comparison, opinion: Opinion) -> None:
    st.markdown(plain(opinion.headline))
    match, chance = opinion.matching, opinion.shuffled
    views.cards(
        (
            "Match rate",
            views.share(match.every.share),
            f"{match.every.matched:,} of {match.every.n:,} relevant features of the anchor have a "
            f"partner there: whose peaks have the highest r with theirs, above {MATCHED:g}.",
        ),
        (
            "Frequent ones",
            views.share(match.frequent.share),
            f"{match.frequent.matched:,} of {match.frequent.n:,} that fire in {FREQUENT:.0%} of "
            "the samples or more.",
        ),
        (
            "By chance",
            views.share(chance.every.share),
            "The match rate with the other SAE's samples permuted: there should be none.",
        ),
        (
            "Confirmed",
            f"{opinion.confirmed:,}",
            "Certain gaps whose partner the dataset lacks or shows too rarely there too.",
        ),
        (
            "Not confirmed",
            f"{opinion.not_confirmed:,}",
            "Certain gaps whose partner the dataset shows there as often as is expected, or "
            "nearly.",
        ),
        (
            "No opinion",
            f"{opinion.no_opinion:,}",
            "Certain gaps without a partner, or whose partner the other anchor barely shows.",
        ),
    )
    if opinion.note:
        st.caption(plain(opinion.note))
    if opinion.rows:
        pager = Pager("opinion", comparison, opinion.other_anchor, size=20)
        page = named(stores(), comparison, opinion, opinion.rows[pager.offset :][: pager.size])
        rows = [{**row, "second": row["verdict"], "partner_name": _partner(row)} for row in page]
        table(rows, COLUMNS, key="opinion", opens="gap", height=390)
        pager.draw(len(opinion.rows), "certain gap")
