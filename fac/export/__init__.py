"""A step: the kept samples of a synthesis as a file or folder for training, row by row with the
reason why it is there, and a dataset card.

Owns: the columns of an export, its lineage, the card.
Does not own: what is kept (`fac.synthesis`), how a file format is read and written
(`fac.datasets`), where runs lie (the `runs` it is given).

Before an export gets its name it is read back as `ingest` would read it, so it can be measured
again: nothing may be rejected, and no text may have changed.

rows  their columns, and why each is there
card  what a reader of the file needs to know
here  written beside its place, read back, then moved there
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fac.datasets import formats_in_order, in_a_row, read_samples
from fac.errors import BadRow, InputError, disk_room
from fac.export.card import MADE_BY, dataset_card
from fac.export.rows import FORM_OF, FORMS, ExportRow, Provenance, SynthesisRun, export_table
from fac.store.runs import Runs

__all__ = ["EXPORT_FORMATS", "FORM_OF", "FORMS", "Exported", "Provenance", "export", "provenance"]

EXPORT_FORMATS = {name: format.export for name, format in formats_in_order() if format.export}
"""How samples are written, by the format's name."""

CARD = "README.md"


class Exported(NamedTuple):
    """What was written."""

    rows: int
    form: str
    """One of FORMS."""
    path: Path
    """The file, or the folder."""
    card: Path


def export(
    run_id: str, out: Path, *, runs: Runs, format: str = "jsonl", form: str = ""
) -> Exported:
    """Writes the kept samples of a synthesis to `out`, by feature and then best first, and a card.

    The card lies in the folder, or beside the file as NAME.card.md. `form` is one of FORMS; ""
    takes what the run's profile says. The same run gives the same bytes; whatever is wrong, `out`
    stays as it was. Raises InputError for a run without kept samples, samples that do not have the
    form, and an `out` that cannot be written or holds something else.
    """
    synthesis = SynthesisRun(run_id, runs)
    form = form or FORM_OF.get(synthesis.spec.profile, "chat")
    for choice, choices in ((format, EXPORT_FORMATS), (form, FORMS)):
        if choice not in choices:
            raise InputError(f"An export is one of {', '.join(choices)}; got {choice!r}.")
    rows = synthesis.export_rows()
    table = export_table(rows, form)
    write, data_file = EXPORT_FORMATS[format]
    if data_file:
        _must_be_an_export(out)
    elif out.is_dir():
        folders = in_a_row([name for name, written in EXPORT_FORMATS.items() if written.data_file])
        raise InputError(f"{str(out)!r} is a folder: name a file, or give --format {folders}.")
    with _temporary_folder(out) as folder:
        whole = folder / out.name
        data = whole / data_file
        data.parent.mkdir(parents=True, exist_ok=True)
        write(table, data)
        _read_back(data, rows)
        text = dataset_card(synthesis, table, form, data_file or out.name)
        card = whole / CARD if data_file else folder / f"{out.stem}.card.md"
        card.write_text(text, encoding="utf-8")
        if data_file:
            if out.exists():
                out.rename(folder / "before")
            whole.rename(out)
            return Exported(len(rows), form, out, out / CARD)
        whole.replace(out)
        return Exported(len(rows), form, out, card.replace(out.with_name(card.name)))


def provenance(run_id: str, row: int | str, *, runs: Runs) -> Provenance:
    """What led to a row of the run's export: its number from 0, or its candidate.

    Every row names its run and its candidate, so an exported file is enough to ask. Raises
    InputError for a row that the export does not have.
    """
    synthesis = SynthesisRun(run_id, runs)
    rows = synthesis.export_rows()
    candidates = [row.lineage["candidate"] for row in rows]
    number = candidates.index(row) if row in candidates else row
    if isinstance(number, str) or not 0 <= number < len(rows):
        raise InputError(
            f"The export of {run_id} has the rows 0 to {len(rows) - 1}, none of them is {row!r}."
        )
    return synthesis.provenance(rows[number])


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards."""
    if not out.name or out.name == "..":
        raise InputError(f"{str(out)!r} is no name for an export: give a file or a new folder.")
    try:
        with disk_room(out.name):
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
                yield Path(folder)
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror}.") from error


def _must_be_an_export(out: Path) -> None:
    """Raises InputError where `out` is something else than an export, which is not replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    card = out / CARD
    tagged = card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")
    if not tagged or {path.name for path in out.iterdir()} != {CARD, "data"}:
        raise InputError(f"{str(out)!r} holds something else than an export: name a new folder.")


def _read_back(path: Path, rows: Sequence[ExportRow]) -> None:
    """Raises InputError where `ingest` would refuse a row or find another text in it."""
    for row, exported in zip(read_samples(path), rows, strict=True):
        name = exported.lineage["candidate"]
        if isinstance(row, BadRow):
            raise InputError(
                f"The text of {name} can be no sample ({row.reason}): synthesize with another seed."
            )
        if row.sample_id != exported.lineage["sample_id"]:
            raise InputError(
                f"The text of {name} would be read back as {row.messages!r:.80}: choose the form "
                f"chat."
            )
