"""The command that writes a comparison as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.markup import escape
from typer import Option

from fac.cli import frame
from fac.cli.frame import Answer, ComparisonOptions, command, out, perform
from fac.questions.by_name import build_caches
from fac.questions.explanations import explain_runs
from fac.questions.families import families_run, families_spec
from fac.report import as_html, report
from fac.store import Stores


@command("report")
def report_(
    stores: Stores,
    options: ComparisonOptions,
    out_: Annotated[Path, Option("--out", help="HTML file to write.")],
    with_: frame.With = None,
    gaps: Annotated[int, Option(min=0, help="Certain gaps with their evidence.")] = 20,
    families: Annotated[int, Option(min=0, help="Families with an example.")] = 20,
) -> Answer:
    """A comparison as one HTML file: no script, nothing from elsewhere, to send and to print."""
    comparison = options.comparison(stores, with_)
    build_caches(stores, explain_runs(stores.runs, comparison.anchor))
    if families_run(stores, comparison) is None:
        what = f"grouping the features of {options.anchor}"
        perform(stores.runs.workspace, families_spec(comparison), what)
    with frame.progress_bar("writing the report"):
        content = report(stores, comparison, n_gaps=gaps, n_families=families)
        html = as_html(content)
    frame.write_lines(out_, [html])
    data: dict[str, Any] = {
        "out": str(out_),
        "bytes": out_.stat().st_size,
        "threshold": comparison.threshold,
        "headline": content.outlook.headline,
        "fac": content.coverage.fac,
        "certain": content.outlook.counts.certain,
        "command": " ".join(content.command),
    }

    def show() -> None:
        out.print(escape(content.outlook.headline), soft_wrap=True, highlight=False)
        out.print(f"{escape(str(out_))}: {data['bytes']:,} bytes", soft_wrap=True, highlight=False)

    return Answer(data, show)
