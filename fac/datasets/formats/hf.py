"""Datasets of the Hugging Face hub, and folders in the hub's layout."""

import errno
import hashlib
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pyarrow as pa

from fac.datasets import sources
from fac.datasets.layout import SourceRow, listed
from fac.datasets.sources import BatchSource, Export, Format, Origin, Source
from fac.errors import InputError, Progress, ServiceError, disk_full, first_line

SCHEME = "hf:"

AWAY = (
    "The hub cannot be reached and {!r} was not fetched before: check the network and start it "
    "again."
)

PATIENCE = 10.0
"""Seconds until a hub that does not answer is taken as out of reach."""


SHOWN_ROWS = 100
"""Rows that the hub shows at once, at most."""

NO_TEXT = ("Image", "Audio", "Video", "Pdf")
"""Kinds of columns that hold neither text nor numbers."""


class _Address(NamedTuple):
    """`hf:ID[@REVISION][:[CONFIG:]SPLIT]`, taken apart."""

    name: str  # of the hub, or a folder
    revision: str | None
    config: str | None
    split: str | None

    @classmethod
    def read(cls, source: str) -> Self:
        """Raises InputError for what names no dataset."""
        name, *parts = re.split(r":(?![^\[]*\])", source.removeprefix(SCHEME))  # not in train[:9]
        name, _, revision = name.partition("@")
        if not name or len(parts) > 2 or not all(parts):
            raise InputError(
                f"{source!r} names no dataset: write hf:ID, hf:ID:SPLIT or hf:ID:CONFIG:SPLIT."
            )
        config = parts[0] if len(parts) == 2 else None
        return cls(name, revision or None, config, parts[-1] if parts else None)

    def split_of(self, splits: Sequence[str]) -> str:
        """The split that is meant where none is named. Raises InputError where that is open."""
        if len(splits) > 1 and "train" not in splits:
            raise InputError(
                f"The hub dataset {self.name!r} has the splits {listed(splits)}: "
                f"name one, as in hf:{self.name}:{splits[0]}."
            )
        return "train" if "train" in splits else splits[0]


class _HubSource(BatchSource):
    def __init__(self, origin: Origin):
        super().__init__(origin)
        name, revision, config, split = address = _Address.read(origin.address)
        self._data = _load_from_hub(name, config, split, revision)
        if split is None:
            split = address.split_of([*self._data])
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


class _ShownRows(Source):
    """The first rows of a dataset as the hub shows them on its page, which fetches no file."""

    def __init__(self, origin: Origin):
        super().__init__(origin)
        address = _Address.read(origin.address)
        if address.revision or "[" in (address.split or ""):
            of = "a revision" if address.revision else "a part of a split"
            raise InputError(f"The hub shows no rows of {of}: they are seen once they are read.")
        config, split = self._place(address)
        place = {"dataset": address.name, "config": config, "split": split}
        shown = _answer_of_hub("rows", **place, offset=0, length=SHOWN_ROWS)
        try:
            self._types = {each["name"]: each["type"] for each in shown["features"]}
            self._rows = [
                (row["row_idx"], row["row"], row["truncated_cells"]) for row in shown["rows"]
            ]
            self.total = int(shown["num_rows_total"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(f"The hub shows rows in no form that is known ({error}).") from error
        self.columns = [
            name for name in self._types if self._about(name).get("_type") not in NO_TEXT
        ]

    def _place(self, address: _Address) -> tuple[str, str]:
        """The config and split that are read."""
        try:
            there = _answer_of_hub("splits", dataset=address.name)["splits"]
            places = [(str(each["config"]), str(each["split"])) for each in there]
        except (KeyError, TypeError) as error:
            raise ServiceError(
                f"The hub lists splits in no form that is known ({error})."
            ) from error
        configs = list(dict.fromkeys(config for config, _ in places))
        config = address.config or ("default" if "default" in configs else "".join(configs[:1]))
        if not address.config and config != "default" and len(configs) > 1:
            raise InputError(
                f"The hub dataset {address.name!r} has the configs {listed(configs)}: name one, as "
                f"in hf:{address.name}:{configs[0]}:train."
            )
        splits = [split for each, split in places if each == config]
        if not splits or (address.split and address.split not in splits):
            names = listed([":".join(place) for place in places])
            raise InputError(f"The hub dataset {address.name!r} has {names}: name one of them.")
        return config, address.split or address.split_of(splits)

    def rows(self) -> Iterator[SourceRow]:
        for number, (index, row, cut) in enumerate(self._rows, start=1):
            self.done = number
            columns = {name: row.get(name) for name in self.columns}
            # A text is shown up to where it was cut; what has parts is then no longer any.
            if any(self._about(name).get("_type") != "Value" for name in {*cut} & {*columns}):
                continue
            for name, value in columns.items():
                names = self._about(name).get("names", ())
                if isinstance(value, int) and 0 <= value < len(names):
                    columns[name] = names[value]
            yield SourceRow(index + 1, columns)

    def _about(self, column: str) -> Mapping[str, Any]:
        """Its type, where that has a name."""
        type = self._types[column]
        return type if isinstance(type, Mapping) else {}

    def share(self, n_rows: int) -> float:
        return min(n_rows / self.total, 1.0) if self.total else 1.0


def _answer_of_hub(what: str, **query: object) -> Any:
    """What the hub's viewer of datasets answers. Raises ServiceError where nobody answers,
    InputError with the hub's own words where it refuses."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    viewer = address.rstrip("/").replace("https://", "https://datasets-server.", 1)
    away = "The hub cannot be reached, so its rows are seen once they are read."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ServiceError(away)
    try:
        with urlopen(f"{viewer}/{what}?{urlencode(query)}", timeout=PATIENCE) as answer:
            return json.load(answer)
    except HTTPError as error:
        try:
            why = str(json.load(error)["error"])
        except (ValueError, KeyError, TypeError, OSError):
            why = f"{error.code} {error.reason}"
        raise InputError(
            f"The hub shows no rows of {query['dataset']!r}: {first_line(ValueError(why))[:300]}"
        ) from error
    except OSError as error:
        raise ServiceError(away) from error
    except ValueError as error:
        raise ServiceError(
            f"The hub's answer cannot be read ({first_line(error)[:100]})."
        ) from error


def _look(origin: Origin) -> Source:
    name = _Address.read(origin.address).name
    return _HubSource(origin) if Path(name).is_dir() else _ShownRows(origin)


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
    look=_look,
    export=Export(sources.write_parquet, "data/train-00000-of-00001.parquet"),
)
