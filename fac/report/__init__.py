"""A comparison as one HTML file that needs nothing else: no script, no font, no network; a gate as
Markdown."""

from fac.report.content import Report, report
from fac.report.markdown import gate_markdown
from fac.report.page import as_html, file_name

__all__ = ["Report", "as_html", "file_name", "gate_markdown", "report"]
