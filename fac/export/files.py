"""Writes the kept samples of a synthesis as a file or folder for training, with a dataset card.

Before an export gets its name it is read back as `ingest` would read it, so it can be measured
again: nothing may be rejected, and no text and no label may have changed.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fac.datasets import formats_in_order, in_a_row, json_line, read_samples, sample_id
from fac.errors import BadRow, InputError, disk_room
from fac.export.card import MADE_BY, counted, dataset_card
from fac.export.forms import (
    ANSWERED_FORMS,
    FORMS,
    LLAMAFACTORY_STAGES,
    OPENAI_LEAST,
    TRL_COMMANDS,
    Columns,
    axolotl_columns,
    axolotl_settings,
    columns_of,
    export_table,
    forms_of,
    llamafactory_columns,
    llamafactory_description,
    openai_columns,
    trl_settings,
)
from fac.export.lineage import LINEAGE, ExportRow, SynthesisRun
from fac.export.people import Opinion, Selection, select
from fac.families import of_most
from fac.store.processes import BEFORE, scratch
from fac.store.runs import Runs

CARD = "README.md"


class Target(NamedTuple):
    """How an export lies on disk, and for whom."""

    title: str
    write: Callable[[pa.Table, Path], None]  # the same rows give the same bytes
    data_file: str = ""
    """Where the rows lie in the folder that an export is; empty where it is a file."""

    columns: Callable[[Columns], Columns] = dict  # of a form -> as the trainer calls them
    form_of: Mapping[str, str] = {}  # forms it has no words for -> the one that stands in
    lineage_beside: bool = False  # a file of its own, where a row may have no key more
    description: str = ""  # the file of the folder that tells the trainer what the rows are

    describe: Callable[[str, Sequence[str], str, str], str] = lambda *_: ""
    """(form, columns, file of the rows, name of the export) -> what that file holds."""

    @property
    def several_files(self) -> bool:
        return bool(self.data_file or self.lineage_beside)


def _targets() -> dict[str, Target]:
    targets = {
        name: Target(format.title, *format.export)
        for name, format in formats_in_order()
        if format.export
    }
    lines = targets["jsonl"].write
    openai = Target("OpenAI", lines, "", openai_columns, ANSWERED_FORMS, lineage_beside=True)
    llamafactory = Target(
        "LLaMA-Factory",
        lines,
        "data.jsonl",
        llamafactory_columns,
        description="dataset_info.json",
        describe=_dataset_info,
    )
    trl = Target(
        "TRL",
        lines,
        "data.jsonl",
        form_of=ANSWERED_FORMS,
        description="trl.yaml",
        describe=lambda form, columns, data, _: trl_settings(form, columns, data),
    )
    axolotl = Target(
        "Axolotl",
        lines,
        "data.jsonl",
        axolotl_columns,
        ANSWERED_FORMS,
        description="axolotl.yaml",
        describe=lambda form, columns, data, _: axolotl_settings(form, columns, data),
    )
    return {
        **targets,
        "openai": openai,
        "llamafactory": llamafactory,
        "trl": trl,
        "axolotl": axolotl,
    }


def _dataset_info(form: str, columns: Sequence[str], data: str, name: str) -> str:
    """LLaMA-Factory's, which knows an export by a name without blanks or commas."""
    plain_name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "kept"
    return json_line({plain_name: llamafactory_description(columns, data)})


EXPORT_FORMATS = _targets()
"""How samples are written, by the format's name."""


class Plan(NamedTuple):
    """What an export will hold."""

    synthesis: SynthesisRun
    format: str  # one of EXPORT_FORMATS
    form: str  # one of FORMS
    selection: Selection  # which rows leave, and why others do not
    rows: list[Columns]  # those rows as they will be written, without their lineage
    anchor_compared: bool  # whether they were compared with the anchor's own samples
    notes: tuple[str, ...]  # sentences: what such rows are for, and what else one should know


class Exported(NamedTuple):
    """What was written."""

    plan: Plan
    path: Path  # the file, or the folder
    card: Path
    lineage: Path | None  # where it lies beside the rows

    @property
    def rows(self) -> int:
        return len(self.plan.rows)

    @property
    def form(self) -> str:
        return self.plan.form


def plan_export(
    run_id: str,
    *,
    runs: Runs,
    format: str = "jsonl",
    form: str = "",
    opinions: Mapping[str, Opinion] | None = None,
    reviewed: bool = False,
    families: Mapping[int, str] | None = None,
) -> Plan:
    """The rows that an export of a synthesis will have; arguments as of `export`."""
    synthesis = SynthesisRun(run_id, runs)
    form = form or forms_of(synthesis.spec.profile)[0]
    for choice, choices in ((format, EXPORT_FORMATS), (form, FORMS)):
        if choice not in choices:
            raise InputError(f"An export is one of {', '.join(choices)}; got {choice!r}.")
    chosen, anchor_compared = _chosen(synthesis, form, opinions or {}, reviewed)
    if not chosen.rows:
        raise InputError(
            f"None of the {chosen.kept:,} kept samples of {run_id} may leave: "
            f"{counted(chosen.left_out)}."
        )
    if families is not None:
        named = [_with_families(synthesis, r, opinions or {}, families) for r in chosen.rows]
        chosen = chosen._replace(rows=named)
    rows = _written(chosen.rows, format, form)
    notes = _notes(format, form, chosen.rows)
    return Plan(synthesis, format, form, chosen, rows, anchor_compared, notes)


def _with_families(
    synthesis: SynthesisRun,
    row: ExportRow,
    opinions: Mapping[str, Opinion],
    families: Mapping[int, str],
) -> ExportRow:
    """A row whose lineage says of which families it fires gaps: those of most gaps first."""
    candidate, lineage = row.lineage["candidate"], row.lineage
    fires: Sequence[int] = synthesis.fires(candidate)
    if lineage["review"]["edit"] and (edit := opinions[candidate].edit):
        fires = edit.fires
    return row._replace(lineage={**lineage, "families": of_most(fires, families)})


def selection(run_id: str, *, runs: Runs, opinions: Mapping[str, Opinion]) -> Selection:
    """Which kept samples of a synthesis leave in the form that its profile says, if any."""
    synthesis = SynthesisRun(run_id, runs)
    return _chosen(synthesis, forms_of(synthesis.spec.profile)[0], opinions, False)[0]


def _chosen(
    synthesis: SynthesisRun, form: str, opinions: Mapping[str, Opinion], reviewed: bool
) -> tuple[Selection, bool]:
    """What leaves, and whether it was compared with the anchor's own samples."""
    rows = synthesis.export_rows()
    edits = [each.edit.messages for each in opinions.values() if each.edit]
    anchor = synthesis.of_anchor([*(row.messages for row in rows), *edits])
    needs_label = form == "classification"
    how: dict[str, Any] = {"reviewed": reviewed, "needs_label": needs_label, "anchor": anchor or ()}
    return select(rows, opinions, **how), anchor is not None


def first_line(plan: Plan) -> str:
    """The first row of a plan as JSON Lines have it, with its lineage."""
    rows = _written(plan.selection.rows, "jsonl", plan.form)
    columns = {name: value for row in rows for name, value in row.items()}  # null where it has none
    lineage = plan.selection.rows[0].lineage
    return json_line(export_table([rows[0], columns], [lineage] * 2).to_pylist()[0])


def refusals(plan: Plan) -> dict[str, str]:
    """The formats that cannot hold the rows of a plan, and why."""
    reasons = {}
    for name in EXPORT_FORMATS:
        try:
            _written(plan.selection.rows, name, plan.form)
        except InputError as error:
            reasons[name] = str(error)
    return reasons


def _written(rows: Sequence[ExportRow], format: str, form: str) -> list[Columns]:
    """Rows of a form as a format has them. Raises InputError where it cannot."""
    target = EXPORT_FORMATS[format]
    written_as = target.form_of.get(form, form)
    return [target.columns(columns_of(row, written_as)) for row in rows]


def _notes(format: str, form: str, rows: Sequence[ExportRow]) -> tuple[str, ...]:
    notes, n = [FORMS[form].use], len(rows)
    if form == "chat" and (asks := sum(row.messages[-1]["role"] == "user" for row in rows)):
        notes.append(
            f"{asks:,} of them end with the user's message: there is no answer to learn from, and "
            f"SFTTrainer would learn to write the message."
        )
    target = EXPORT_FORMATS[format]
    if form in target.form_of:
        what = {"classification": "the label", "choice": "the matching answer"}[form]
        notes.append(f"{target.title}'s rows are chats, so {what} is what the assistant answers.")
    if format == "openai" and n < OPENAI_LEAST:
        notes.append(f"OpenAI asks for at least {OPENAI_LEAST} rows; these are {n}.")
    if format == "llamafactory":
        notes.append(f"LLaMA-Factory trains on them with `stage: {LLAMAFACTORY_STAGES[form]}`.")
    if format == "trl":
        learns = TRL_COMMANDS[target.form_of.get(form, form)]
        notes.append(
            f"TRL trains on them with `trl {learns} --config trl.yaml --model_name_or_path MODEL`."
        )
    if format == "axolotl":
        notes.append("Axolotl trains on them with axolotl.yaml, which lacks its `base_model`.")
    return tuple(notes)


def export(
    run_id: str,
    out: Path,
    *,
    runs: Runs,
    format: str = "jsonl",
    form: str = "",
    opinions: Mapping[str, Opinion] | None = None,
    reviewed: bool = False,
    families: Mapping[int, str] | None = None,
) -> Exported:
    """Writes the kept samples of a synthesis to `out`, by feature and then best first, and a card.
    The card lies in the folder, or beside the file as NAME.card.md; lineage that rows have no place
    for lies there too, as NAME.lineage.jsonl. `form` is one of FORMS; "" takes what the run's
    profile says. `opinions` is what people say of samples, by candidate: what they dropped stays;
    `reviewed` exports only what they kept; `families` is what the families of gaps are called, by
    gap, None where nothing groups them. The same run, opinions and names give the same bytes;
    whatever is wrong, `out` stays as it was. Raises InputError for a run without samples that may
    leave, samples that do not have the form, and an `out` that cannot be written or holds something
    else."""
    plan = plan_export(
        run_id,
        runs=runs,
        format=format,
        form=form,
        opinions=opinions,
        reviewed=reviewed,
        families=families,
    )
    target = EXPORT_FORMATS[format]
    if target.data_file:
        _must_be_an_export(out)
    elif out.is_dir():
        folders = in_a_row([name for name, each in EXPORT_FORMATS.items() if each.data_file])
        raise InputError(f"{str(out)!r} is a folder: name a file, or give --format {folders}.")
    with _temporary_folder(out) as folder:
        whole = folder / out.name
        data = whole / target.data_file
        data.parent.mkdir(parents=True, exist_ok=True)
        lineages = [row.lineage for row in plan.selection.rows]
        table = export_table(plan.rows, None if target.lineage_beside else lineages)
        target.write(table, data)
        _read_back(data, plan)
        text = dataset_card(plan, table.column_names, target.data_file or out.name)
        card = whole / CARD if target.data_file else folder / f"{out.stem}.card.md"
        card.write_text(text, encoding="utf-8")
        if target.description:
            written_as = target.form_of.get(plan.form, plan.form)
            about = target.describe(written_as, table.column_names, target.data_file, out.name)
            (whole / target.description).write_text(about, encoding="utf-8")
        if target.data_file:
            _put(whole, out, folder / BEFORE)
            return Exported(plan, out, out / CARD, None)
        lineage = None
        if target.lineage_beside:
            beside = folder / f"{out.stem}.lineage.jsonl"
            target.write(pa.Table.from_pylist(lineages, pa.schema([*LINEAGE])), beside)
            lineage = beside.replace(out.with_name(beside.name))
        whole.replace(out)
        return Exported(plan, out, card.replace(out.with_name(card.name)), lineage)


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards."""
    if not out.name or out.name == "..":
        raise InputError(f"{str(out)!r} is no name for an export: give a file or a new folder.")
    try:
        with disk_room(out.name), scratch(out.parent) as folder:
            yield folder
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror}.") from error


AT_WORKING_DIRECTORY, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def _put(whole: Path, out: Path, before: Path) -> None:
    """Puts a folder in the place of another in one step; in two, the old one moving to `before`,
    where the system or the disk has no such step."""
    if not out.exists():
        whole.rename(out)
        return
    exchange: Any = None
    with suppress(AttributeError):
        exchange = ctypes.CDLL(None).renameat2
    paths = (AT_WORKING_DIRECTORY, bytes(whole), AT_WORKING_DIRECTORY, bytes(out))
    if exchange is None or exchange(*paths, EXCHANGE):
        out.rename(before)
        whole.rename(out)


def _must_be_an_export(out: Path) -> None:
    """Raises InputError where `out` is something else than an export, which is not replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    card = out / CARD
    tagged = card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")
    names = {path.name for path in out.iterdir()} if tagged else set()
    folders = [each for each in EXPORT_FORMATS.values() if each.data_file]
    rows = {Path(each.data_file).parts[0] for each in folders}
    if not names or not names <= {CARD, *rows, *(each.description for each in folders)}:
        raise InputError(f"{str(out)!r} holds something else than an export: name a new folder.")


def _read_back(path: Path, plan: Plan) -> None:
    """Raises InputError where `ingest` would refuse a row, or find another text or label in it."""
    form = EXPORT_FORMATS[plan.format].form_of.get(plan.form, plan.form)
    written = zip(plan.selection.rows, plan.rows, strict=True)
    for back, (exported, columns) in zip(read_samples(path), written, strict=True):
        name = exported.lineage["candidate"]
        if isinstance(back, BadRow):
            raise InputError(
                f"The text of {name} can be no sample ({back.reason}): synthesize with another "
                f"seed."
            )
        as_read = (back.sample_id, back.label)
        if as_read != (sample_id(FORMS[form].chat(exported)), columns.get("label")):
            raise InputError(
                f"The text of {name} would be read back as {back.messages!r:.80}: choose the form "
                f"chat."
            )
