"""The button that makes a report of a comparison."""

from __future__ import annotations

from functools import partial

import streamlit as st

from fac import report
from fac.questions.comparison import Comparison, name_of
from fac.ui.stores import stores


def report_button(comparison: Comparison) -> None:
    """The comparison as one HTML file, made when somebody asks for it."""
    sides = (name_of(stores(), *comparison.runs), name_of(stores(), comparison.anchor))
    st.download_button(
        "Report",
        partial(_html, comparison),
        report.file_name(*sides),
        "text/html",
        on_click="ignore",
        icon=":material/description:",
        help="Figures, families and certain gaps with their evidence as one HTML file, to send "
        "and to print. `fac report` writes the same.",
    )


def _html(comparison: Comparison) -> str:
    return report.as_html(report.report(stores(), comparison))
