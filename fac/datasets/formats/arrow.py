"""Arrow files, and the folders that `Dataset.save_to_disk` writes them into."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from fac.datasets.sources import (
    BATCH_ROWS,
    BatchSource,
    Format,
    Origin,
    in_a_row,
    readable_columns,
)
from fac.errors import InputError, Progress, first_line

STATE, SPLITS = "state.json", "dataset_dict.json"
STREAM, FILE = b"\xff\xff\xff\xff", b"ARROW1"  # how Arrow's two forms of a file begin


class _ArrowSource(BatchSource):
    def __init__(self, origin: Origin):
        super().__init__(origin)
        if origin.zipped:
            raise InputError(f"{self.name} is Arrow inside gzip: unzip it first.")
        self.paths = _files_of(origin.path, self.name)
        with ExitStack() as stack:
            readers = [stack.enter_context(_reader(path)) for path in self.paths]
            self.columns = readable_columns(readers[0].schema)
        self.total = sum(map(_n_rows, self.paths))

    def batches(self) -> Iterator[pa.RecordBatch]:
        for path in self.paths:
            with _reader(path) as reader:
                for batch in _batches(reader):
                    some = batch.select([*self.columns])
                    _check(some)
                    for start in range(0, len(some), BATCH_ROWS):
                        yield some.slice(start, BATCH_ROWS)

    def digest(self, report: Progress) -> str:
        """The hash of the files with rows, one after another."""
        sha = hashlib.sha256()
        for number, path in enumerate(self.paths):
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
            report(number + 1, len(self.paths), "checking the files")
        return sha.hexdigest()


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def _files_of(path: Path, name: str) -> list[Path]:
    """The files with rows. Raises InputError for a folder of splits, for one of which rows were
    selected, and where a file is missing."""
    if path.is_file():
        return [path]
    try:
        if not (path / STATE).is_file():
            splits = json.loads((path / SPLITS).read_bytes())["splits"]
            raise InputError(
                f"{name} holds the splits {in_a_row(splits, 'and')}: give one of them, such as "
                f"{path / splits[0]}."
            )
        state = json.loads((path / STATE).read_bytes())
        files = [path / Path(each["filename"]).name for each in state["_data_files"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{name} is no whole folder of save_to_disk: write it again.") from error
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(
            f"{name} keeps a selection of its rows apart: call flatten_indices() before "
            f"save_to_disk."
        )
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{name} lacks the file {missing[0]}: write or fetch it again.")
    if not files:
        raise InputError(f"{name} has no rows: give a dataset with at least one sample.")
    return files


@contextmanager
def _reader(path: Path) -> Iterator[pa.RecordBatchStreamReader | pa.RecordBatchFileReader]:
    with pa.memory_map(str(path)) as file:
        is_file = file.read(len(FILE)) == FILE
        file.seek(0)
        try:
            with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file) as reader:
                yield reader
        except (pa.ArrowException, OSError) as error:
            reason = first_line(error).rstrip(".")[:200]
            raise InputError(
                f"{path.name} is not a whole Arrow file ({reason}): write or fetch it again."
            ) from error


def _batches(
    reader: pa.RecordBatchStreamReader | pa.RecordBatchFileReader,
) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        yield from reader


AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


def _check(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid for a batch that points beyond itself: Arrow would follow, and the
    process end. Texts that are not UTF-8 are bad rows, as in every file."""
    for column in batch.columns:
        as_bytes = AS_BYTES.get(column.type)
        (column.view(as_bytes) if as_bytes else column).validate(full=True)


def _n_rows(path: Path) -> int:
    with _reader(path) as reader:
        return sum(map(len, _batches(reader)))


FORMAT = Format(
    title="Arrow",
    preference=6,
    kind="arrow",
    suffixes=(".arrow",),
    magic=STREAM,
    holds_folder=is_saved,
    open=_ArrowSource,
)
