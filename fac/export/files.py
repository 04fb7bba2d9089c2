"""Where an export is written: beside its place first, read back, then moved there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fac.datasets import export_formats, read_samples
from fac.errors import BadRow, InputError, disk_room
from fac.export.lineage import ExportRow

EXPORT_FORMATS = export_formats()
"""How samples are written, by the format's name."""

CARD = "README.md"
MADE_BY = "fac-explorer"
"""A tag of the card, by which a folder is known as an export."""


@contextmanager
def temporary_folder(out: Path) -> Iterator[Path]:
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


def must_be_an_export(out: Path) -> None:
    """Raises InputError where `out` is something else than an export, which is not replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    card = out / CARD
    tagged = card.is_file() and MADE_BY in card.read_text("utf-8", errors="replace")
    if not tagged or {path.name for path in out.iterdir()} != {CARD, "data"}:
        raise InputError(f"{str(out)!r} holds something else than an export: name a new folder.")


def read_back(path: Path, rows: Sequence[ExportRow]) -> None:
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
