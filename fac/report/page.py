"""A report as HTML.

Texts of datasets and models are hostile. Jinja escapes all that a template prints, what browsers do
not show is made visible on the way, and the page's own policy loads nothing and runs nothing: the
one style sheet is allowed by its hash, so an attribute `style` would not count either.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fac.markup import clean
from fac.questions.outlook import percent
from fac.questions.results import ledger_rows
from fac.report.content import DEPTHS, Report

HERE = Path(__file__).parent


def as_html(report: Report) -> str:
    """The report as one HTML document that loads nothing."""
    style = (HERE / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html")
    return template.render(style=style, policy=policy, depths=DEPTHS, **report._asdict())


def file_name(dataset: str, anchor: str) -> str:
    """What a report of a dataset against an anchor is called as a file."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{dataset}-against-{anchor}").strip("-.")
    return f"{words}.html"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _share,
        "count": "{:,}".format,
        "figure": _figure,
        "at": _at,
        "ledger": ledger_rows,
    }
    return environment


def _visible(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _share(value: float | None) -> str:
    """A share as the headline has it."""
    return "not defined" if value is None or math.isnan(value) else percent(value)


def _figure(value: float | None, form: str = "{:,.2f}") -> str:
    return "not defined" if value is None or math.isnan(value) else form.format(value)


def _at(share: float) -> str:
    """A share as a place along the width of a drawing."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
