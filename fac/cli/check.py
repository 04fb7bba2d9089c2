"""The command that is a gate for CI: whether a dataset holds up against another one."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from fac.cli import frame
from fac.cli.frame import Answer, QuestionOptions, command, listing, out, perform
from fac.config import IngestSpec, MeasureSpec
from fac.errors import InputError
from fac.questions.by_name import build_caches
from fac.questions.explanations import explain_runs
from fac.questions.families import families_run, families_spec
from fac.questions.gate import Rules, gate
from fac.report import gate_markdown
from fac.store import Stores

STDOUT = "-"


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """The rules; the fields are those of fac.questions.gate.Rules. A gap is certain where chance
    does not explain it: of all called so, at most 5 % are expected to be false."""

    min_fac: Annotated[float | None, Option(min=0, max=1, help="Fail below this FAC.")] = None
    no_regress: Annotated[bool, Option("--no-regress", help="Fail if a feature is lost.")] = False
    max_certain_gaps: Annotated[
        int | None,
        Option(
            min=0,
            help="Fail above so many certain gaps: absent or too rare, and not by chance (of all "
            "called certain, at most 5 % are expected to be false).",
        ),
    ] = None
    no_new_certain_gaps: Annotated[
        bool,
        Option(
            "--no-new-certain-gaps",
            help="Fail if a gap is certain that is not certain with the baseline.",
        ),
    ] = False
    no_lost_family: Annotated[
        bool,
        Option(
            "--no-lost-family",
            help="Fail if more than half of a family's features are certain gaps, and no more than "
            "half are with the baseline.",
        ),
    ] = False


@command("check")
def check(
    *,
    stores: Stores,
    new: Annotated[str, Argument(help="Measured dataset, or a file to read and measure.")],
    baseline: Annotated[str, Option(help="Measured dataset it must hold up against.")],
    anchor: Annotated[str | None, Option(help="What matters; by default the baseline.")] = None,
    rules: RuleOptions,
    markdown: Annotated[
        str | None,
        Option(
            help="Markdown file for a pull request, - for stdout; adds to $GITHUB_STEP_SUMMARY."
        ),
    ] = None,
    with_: frame.With = None,
    options: QuestionOptions,
) -> Answer:
    """A coverage gate for CI: exit 1 when a rule fails."""
    measure = _measured(stores, new, baseline)
    comparison = options.asked_of(stores, anchor or baseline, measure, with_)
    before = options.asked_of(stores, anchor or baseline, baseline)
    if rules.no_lost_family and families_run(stores, before) is None:
        what = f"grouping the features of {anchor or baseline}"
        perform(stores.runs.workspace, families_spec(before), what)
    if markdown:  # which names gaps
        build_caches(stores, explain_runs(stores.runs, comparison.anchor))
    result = gate(stores, before, comparison, Rules(**asdict(rules)))
    changed, families = result.change, result.lost_families
    figures = changed.after._asdict()
    del figures["missing"]
    data: dict[str, Any] = {
        **figures,
        "threshold": comparison.threshold,
        "fac_before": changed.before.fac,
        "n_missing_before": changed.before.n_missing,
        "certain_gaps": result.certain,
        "certain_gaps_before": result.certain_before,
        "gained": result.gained,
        "lost": result.lost,
        "new_certain_gaps": result.new_certain,
        "lost_families": families,
        **asdict(rules),
        "passed": not result.failures,
    }
    text = gate_markdown(stores, before, comparison, result) if markdown else ""
    if markdown and markdown != STDOUT:
        _write(Path(markdown), text)
    counted = ("gained", "lost", "new_certain_gaps", "lost_families")
    counts = {name: None if data[name] is None else len(data[name]) for name in counted}

    def show() -> None:
        if markdown == STDOUT:
            out.file.write(text)
        else:
            listing({**data, **counts})()

    if markdown == STDOUT:
        data["markdown"] = text
    failures = "; ".join(result.failures)
    return Answer(data, show, refusal=f"{failures}." if failures else "")


def _write(path: Path, text: str) -> None:
    """To what a step of GitHub Actions has said already this is added; any other file is new."""
    mode = "a" if str(path) == os.environ.get("GITHUB_STEP_SUMMARY") else "w"
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.") from error


def _measured(stores: Stores, new: str, baseline: str) -> str:
    """What names a measured dataset; a file is read and measured first, as the baseline was."""
    manifests = stores.runs.list(MeasureSpec.step)
    if any(new in (m.facts.name, m.run) for m in manifests) or not Path(new).is_file():
        return new
    before = stores.runs.manifest(stores.runs.resolve("measure", baseline)).spec
    workspace, what = stores.runs.workspace, f"measuring {new}"
    source = perform(workspace, IngestSpec(name=Path(new).stem, source=new), what)
    return perform(workspace, replace(before, dataset=source), what)
