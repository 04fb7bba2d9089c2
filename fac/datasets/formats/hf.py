"""Datasets of the Hugging Face hub, and folders in the hub's layout."""

import errno
import hashlib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pyarrow as pa

from fac.datasets import sources
from fac.datasets.layout import SourceRow, listed
from fac.datasets.sources import BatchSource, Export, Format, Origin
from fac.errors import InputError, Progress, ServiceError, disk_full, first_line

SCHEME = "hf:"

AWAY = (
    "The hub cannot be reached and {!r} was not fetched before: check the network and start it "
    "again."
)

PATIENCE = 10.0
"""Seconds until a hub that does not answer is taken as out of reach."""


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
    """The dataset, or its splits by name where no split is named. A folder is read as it is now,
    whatever was read before under its name or what its card says; where the hub cannot be reached,
    the copy that was fetched before."""
    import datasets  # takes a second, and only the worker ever asks for it

    how: dict[str, Any] = {}
    is_away = False
    if Path(name).is_dir():
        how = {"download_mode": "force_redownload", "verification_mode": "no_checks"}
    else:
        is_away = _is_away()
    try:
        with _offline() if is_away else nullcontext():
            return datasets.load_dataset(name, config, split=split, revision=revision, **how)
    except (
        datasets.exceptions.DatasetsError,
        FileNotFoundError,
        ValueError,  # a config or split it has not
        RuntimeError,  # it would run code of its own
    ) as error:
        if is_away:
            raise ServiceError(AWAY.format(name)) from error
        raise InputError(
            f"The hub dataset {name!r} cannot be used: {first_line(error)[:300]}"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(disk_full(f"the copy of {name}")) from error
        if is_away:
            raise ServiceError(AWAY.format(name)) from error
        raise ServiceError(
            f"The hub did not serve {name!r} ({first_line(error)[:300].rstrip('.')}): check the "
            f"network and start it again."
        ) from error


def _is_away() -> bool:
    """Whether nobody answers at the hub's address: asked once and shortly, for the hub's client
    asks again and again."""
    from huggingface_hub import constants

    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE):
            return False
    except HTTPError:  # an answer
        return False
    except URLError as error:
        return not isinstance(error.reason, ssl.SSLError)  # its client may trust whom we do not
    except OSError:
        return True


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's client takes what it fetched before and asks nobody."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


FORMAT = Format(
    title="Hugging Face",
    preference=5,
    kind="hf",
    scheme=SCHEME,
    open=_HubSource,
    export=Export(sources.write_parquet, "data/train-00000-of-00001.parquet"),
)
