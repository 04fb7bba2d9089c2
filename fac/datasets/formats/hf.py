"""Datasets of the Hugging Face hub, and folders in the hub's layout."""

import errno
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from fac.datasets import sources
from fac.datasets.layout import SourceRow, listed
from fac.datasets.sources import BatchSource, Export, Format, Origin
from fac.errors import InputError, Progress, ServiceError, disk_full, first_line

SCHEME = "hf:"


class _HubSource(BatchSource):
    def __init__(self, origin: Origin):
        super().__init__(origin)
        source = origin.address
        name, *parts = re.split(r":(?![^\[]*\])", source.removeprefix(SCHEME))  # not in train[:9]
        name, _, revision = name.partition("@")
        if not name or len(parts) > 2 or not all(parts):
            raise InputError(
                f"{source!r} names no dataset: write hf:ID, hf:ID:SPLIT or hf:ID:CONFIG:SPLIT."
            )
        split = parts[-1] if parts else None
        config = parts[0] if len(parts) == 2 else None
        self._data = _load_from_hub(name, config, split, revision or None)
        if split is None:
            splits = [*self._data]
            if len(splits) > 1 and "train" not in splits:
                raise InputError(
                    f"The hub dataset {name!r} has the splits {listed(splits)}: "
                    f"name one, as in hf:{name}:{splits[0]}."
                )
            split = "train" if "train" in splits else splits[0]
            self._data = self._data[split]
        public = Path(name).name if Path(name).is_dir() else name
        self.name = SCHEME + public + (f"@{revision}" if revision else "")
        self.name += "".join(f":{part}" for part in (config, split) if part)
        self.columns = sources.readable_columns(self._data.features.arrow_schema)
        self.total = len(self._data)

    def digest(self, report: Progress) -> str:
        sha = hashlib.sha256(repr(sorted(self._data.features.items())).encode())
        for batch in self.batches():
            sha.update(batch.serialize())
            report(0, self.total, "checking the rows")
        return sha.hexdigest()

    def rows(self) -> Iterator[SourceRow]:
        named = {
            column: feature.names
            for column, feature in self._data.features.items()
            if hasattr(feature, "names")  # ClassLabel stores numbers
        }
        for row in super().rows():
            for column, names in named.items():
                code = row.columns.get(column) if row.columns else None
                if row.columns and isinstance(code, int) and 0 <= code < len(names):
                    row.columns[column] = names[code]
            yield row

    def batches(self) -> Iterator[pa.RecordBatch]:
        readable = self._data.select_columns([*self.columns]).with_format("arrow")
        for table in readable.iter(batch_size=sources.BATCH_ROWS):
            yield from table.to_batches()


def _load_from_hub(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """The dataset, or its splits by name where no split is named."""
    import datasets  # takes a second, and only the worker ever asks for it

    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ValueError,  # a config or split it has not
        RuntimeError,  # it would run code of its own
    ) as error:
        raise InputError(
            f"The hub dataset {name!r} cannot be used: {first_line(error)[:300]}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(disk_full(f"the copy of {name}")) from error
        raise ServiceError(
            f"The hub did not serve {name!r} ({first_line(error)[:300].rstrip('.')}): check the "
            f"network and start it again."
        ) from error


FORMAT = Format(
    title="Hugging Face",
    preference=5,
    kind="hf",
    scheme=SCHEME,
    open=_HubSource,
    export=Export(sources.write_parquet, "data/train-00000-of-00001.parquet"),
)
