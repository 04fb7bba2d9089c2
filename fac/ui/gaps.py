"""Names of before, until no page uses them."""

from __future__ import annotations

from typing import Any

from fac.questions import comparison, gaps
from fac.questions.comparison import Comparison
from fac.questions.relevance import Relevance
from fac.schema import CoverageResult
from fac.ui.pickers import comparison_in_url, gaps_in_words, relevance_in_url, url_of
from fac.ui.stores import stores
from fac.ui.text import Row

look_relevance = relevance_in_url


def coverage(anchor: str, dataset: str, **settings: Any) -> CoverageResult:
    return comparison.coverage(stores(), Comparison(anchor, dataset, **settings))


def gap_table(
    anchor: str, dataset: str, *, limit: int = 50, offset: int = 0, **settings: Any
) -> tuple[list[Row], int]:
    question = Comparison(anchor, dataset, **settings)
    return gaps.gap_page(stores(), question, limit=limit, offset=offset)


def gap_settings() -> Row:
    asked = comparison_in_url("", "")
    return {"threshold": asked.threshold, "role": asked.role, "min_support": asked.min_support}


def gap_settings_words(settings: Row, relevance: Relevance) -> str:
    return gaps_in_words(Comparison("", "", **{**settings, "relevance": relevance}))


def gaps_in_link(settings: Row) -> dict[str, str]:
    return url_of(Comparison("", "", **settings))
