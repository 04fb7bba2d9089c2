"""A dataset -> which features fire where: activations, examples and near misses, as one run.

The dataset is cut into parts of PART samples. A part is a unit of its own: `read_part` turns its
chats into tables, on whatever machine; the parts' results merge to the same run in whatever order
they come. A finished part lies on disk and is never computed again, so a killed measure continues
and ends in the same bytes. Re-measuring an export is this same function.

Memory does not grow with the dataset: what is kept across parts is bounded by the dictionary (a few
examples a feature), and the parts become sorted tables by way of files, one range of features each.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fac import schema
from fac.config import MeasureSpec
from fac.encoder import Encoder, NearMisses, Reading
from fac.errors import disk_room
from fac.models import SCAFFOLD, Rendered
from fac.schema import EVERY_ROLE, ROLES, Activations, Chat
from fac.store.runs import ParquetAppender, Runs, write_table

Progress = Callable[..., None]

PART = 1024
"""Samples read as a unit, and between two points a restart can continue from."""

TOP = 10
"""Strongest examples kept per feature."""

SPREAD = 10
"""Examples shown over the quantiles of a feature's peaks, beside the strongest."""

SPREAD_POOL = 24
"""Uniformly drawn examples from which the spread is chosen."""

BEFORE, AFTER = 32, 8
"""Tokens of a span up to and including the peak (paper: 32), and of context after it."""

MERGE_ROWS = 1_000_000
"""Activations sorted in memory at once when the parts become one table."""

TEXT_ROWS = 62_500
"""The same for rows with tokens."""

RANGES = 256
"""Files at most that a table is sorted through; beyond that many, each becomes larger."""

HELD_ROWS = 500_000
"""Examples of one part held before the weaker ones are dropped."""


# --- one part -------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """What a row must reach to be among the examples or near misses kept so far.

    All have shape `[n_features]`. Rows below it can never be in the result, so it makes a part's
    result smaller and changes nothing in the end, whichever parts it comes from.
    """

    peak: np.ndarray
    """float32: the weakest of TOP."""

    priority: np.ndarray
    """uint64: the highest of SPREAD_POOL."""

    near: np.ndarray
    """float32: the lowest pre-activation kept."""

    @classmethod
    def none(cls, n_features: int) -> Bar:
        """Everything reaches it."""
        return cls(
            np.full(n_features, -np.inf, np.float32),
            np.full(n_features, np.iinfo(np.uint64).max, np.uint64),
            np.full(n_features, -np.inf, np.float32),
        )


class Task(NamedTuple):
    """One part to be read: all that a machine without the workspace needs to be told."""

    number: int
    start: int
    """Row of its first sample in the dataset."""

    chats: list[Chat]
    roles: tuple[str, ...]
    floor: float
    """Peaks at or below are not stored."""

    bar: Bar


class Part(NamedTuple):
    """What one part of a dataset looks like through the SAE; samples are rows of the dataset."""

    activations: pa.Table
    """ACTIVATIONS, sorted by (feature, peak descending, sample, role)."""

    examples: pa.Table
    """EXAMPLES: of every feature the TOP strongest rows and SPREAD_POOL drawn ones."""

    near: pa.Table
    """NEAR: of every feature the highest pre-activations."""

    texts: pa.Table
    """TEXTS: one row per sample, in order."""


ACTIVATIONS = pa.schema(
    [schema.ACTIVATIONS.field(name) for name in ("sample", "feature", "peak")]
    + [pa.field("role", pa.int8())]
    + [schema.ACTIVATIONS.field(name) for name in ("position", "n_tokens")]
)

EXAMPLES = pa.schema(
    [
        *(("feature", pa.int32()), ("sample", pa.int32()), ("role", pa.int8())),
        *(("position", pa.int32()), ("peak", pa.float32()), ("priority", pa.uint64())),
        *(("first", pa.int32()), ("length", pa.int32())),  # of the span, in tokens
        ("window", pa.binary(2 * (BEFORE + AFTER))),  # float16 activations of the span's tokens
    ]
)

NEAR = pa.schema(
    [
        *(("feature", pa.int32()), ("rank", pa.int8()), ("sample", pa.int32())),
        *(("position", pa.int32()), ("pre", pa.float32())),
    ]
)

TEXTS = pa.schema(
    [
        ("n_tokens", pa.int32()),
        ("n_cut", pa.int32()),
        *((f"n_{role}", pa.int32()) for role in ROLES),  # content tokens; 0 of a role not asked for
        # what fac.models.Rendered holds, but for the ids:
        *(
            ("text", pa.large_string()),
            ("role", pa.list_(pa.int8())),
            ("turn", pa.list_(pa.int16())),
        ),
        *(("starts", pa.list_(pa.int32())), ("ends", pa.list_(pa.int32()))),
    ]
)

TABLES = {"examples": EXAMPLES, "near": NEAR, "texts": TEXTS, "activations": ACTIVATIONS}


def read_part(encoder: Encoder, task: Task, told: Callable[[int, int], None]) -> Part:
    """Read one part. told(samples, tokens) is called after every batch, with the batch's own
    numbers; what it raises ends the reading."""
    found = _Examples(encoder.n_features, task.bar)
    near = NearMisses.none(encoder.n_features)
    pooled: list[Activations] = []
    rendered: list[Rendered | None] = [None] * len(task.chats)
    for reading in encoder.read(task.chats, task.roles):
        for place, one in zip(reading.samples, reading.rendered, strict=True):
            rendered[place] = one
        reading = _above(reading, task.floor)
        rows = reading.pooled()
        own = rows._replace(sample=rows.sample + np.int32(task.start))
        found.offer(_windowed(reading, rows, own, found.bar))
        _merge_near(near, reading.near, task.start)
        pooled.append(own)
        told(len(reading.samples), sum(len(one.ids) for one in reading.rendered))
    found.prune()
    return Part(
        _activation_table(pooled),
        found.table(),
        _near_table(near, task.bar.near),
        _text_table([one for one in rendered if one is not None], task.roles),
    )


def _above(reading: Reading, floor: float) -> Reading:
    keep = reading.value > floor
    if keep.all():
        return reading
    names = ("sample", "position", "feature", "value", "role")
    return reading._replace(**{name: getattr(reading, name)[keep] for name in names})


def _merge_near(near: NearMisses, batch: NearMisses, start: int) -> None:
    """Brings a batch's near misses into `near`: only where the batch has any that may stay."""
    better = np.flatnonzero(batch.pre[0] >= near.pre[-1])
    sample = batch.sample[:, better]
    own = NearMisses(
        batch.pre[:, better],
        np.where(sample < 0, -1, sample + np.int32(start)).astype(np.int32),
        batch.position[:, better],
    )
    merged = NearMisses(*(array[:, better] for array in near)).merged(own)
    for array, fresh in zip(near, merged, strict=True):
        array[:, better] = fresh


def _activation_table(parts: list[Activations]) -> pa.Table:
    if not parts:
        return ACTIVATIONS.empty_table()
    rows = Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.lexsort((rows.role, rows.sample, -rows.peak, rows.feature))
    columns = {name: column[order] for name, column in rows._asdict().items()}
    return pa.table({name: columns[name] for name in ACTIVATIONS.names}, ACTIVATIONS)


def _near_table(near: NearMisses, bar: np.ndarray) -> pa.Table:
    rank, feature = np.nonzero((near.sample >= 0) & (near.pre >= bar))
    columns = {
        "feature": feature,
        "rank": rank,
        "sample": near.sample[rank, feature],
        "position": near.position[rank, feature],
        "pre": near.pre[rank, feature],
    }
    return pa.table({k: pa.array(v, NEAR.field(k).type) for k, v in columns.items()}, NEAR)


def _text_table(rendered: list[Rendered], roles: Sequence[str]) -> pa.Table:
    offsets = np.concatenate([[0], np.cumsum([len(one.ids) for one in rendered])]).astype(np.int32)

    def lists(name: str) -> pa.ListArray:
        arrays = [getattr(one, name) for one in rendered]
        flat = pa.array(np.concatenate(arrays), TEXTS.field(name).type.value_type)
        return pa.ListArray.from_arrays(offsets, flat)

    if not rendered:
        return TEXTS.empty_table()
    columns: dict[str, Any] = {
        "n_tokens": np.diff(offsets),
        "n_cut": [one.cut for one in rendered],
        # what lies beyond the last token read was cut
        "text": [one.text[: int(one.ends[-1]) if len(one.ends) else 0] for one in rendered],
        **{name: lists(name) for name in ("role", "turn", "starts", "ends")},
    }
    for code, role in enumerate(ROLES):
        asked = role in roles
        columns[f"n_{role}"] = [int((one.role == code).sum()) if asked else 0 for one in rendered]
    return pa.table({k: pa.array(columns[k], TEXTS.field(k).type) for k in TEXTS.names}, TEXTS)


class _Examples:
    """The examples that stand for each feature, chosen while the data streams by.

    For every feature the TOP strongest rows, and SPREAD_POOL rows drawn uniformly from all that
    fired: each row gets a fixed pseudo-random priority from its coordinates and the lowest stay,
    so the draw depends neither on the order of the parts nor on a restart.
    """

    def __init__(self, n_features: int, bar: Bar):
        self.n_features = n_features
        self.columns = _example_columns(EXAMPLES.empty_table())
        self.bar = Bar(bar.peak.copy(), bar.priority.copy(), bar.near)
        self._waiting: list[dict[str, np.ndarray]] = []

    def offer(self, rows: dict[str, np.ndarray]) -> None:
        """Rows that may enter."""
        if len(rows["feature"]):
            self._waiting.append(rows)
        if sum(len(one["feature"]) for one in self._waiting) > HELD_ROWS:
            self.prune()

    def prune(self) -> None:
        """Drops what others of its feature have driven out. Only features that something new was
        offered for are looked at, fewer and fewer as the bar rises."""
        if not self._waiting:
            return
        names = EXAMPLES.names
        new = {k: np.concatenate([one[k] for one in self._waiting]) for k in names}
        self._waiting = []
        touched = np.zeros(self.n_features, bool)
        touched[new["feature"]] = True
        old = touched[self.columns["feature"]]
        mixed = {k: np.concatenate([self.columns[k][old], new[k]]) for k in names}
        by_peak, by_draw = _ranks(mixed)
        for bar, column, last in (
            (self.bar.peak, "peak", by_peak == TOP - 1),
            (self.bar.priority, "priority", by_draw == SPREAD_POOL - 1),
        ):
            bar[mixed["feature"][last]] = mixed[column][last]
        stays = (by_peak < TOP) | (by_draw < SPREAD_POOL)
        self.columns = {k: np.concatenate([self.columns[k][~old], mixed[k][stays]]) for k in names}

    def table(self) -> pa.Table:
        """EXAMPLES."""
        columns = {k: v for k, v in self.columns.items() if k != "window"}
        window = self.columns["window"]
        packed = pa.Array.from_buffers(
            EXAMPLES.field("window").type, len(window), [None, pa.py_buffer(window.tobytes())]
        )
        return pa.table({**columns, "window": packed}, EXAMPLES)


def _example_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """EXAMPLES as arrays; `window` is float16 `[rows, BEFORE + AFTER]`."""
    columns = {k: table.column(k).to_numpy() for k in EXAMPLES.names if k != "window"}
    packed = b"".join(
        chunk.buffers()[1][80 * chunk.offset : 80 * (chunk.offset + len(chunk))].to_pybytes()
        for chunk in table.column("window").chunks
        if len(chunk)
    )
    return {**columns, "window": np.frombuffer(packed, np.float16).reshape(-1, BEFORE + AFTER)}


def _ranks(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Place of each row within its feature, by strength and by priority."""
    by_peak = np.lexsort((rows["role"], rows["sample"], -rows["peak"], rows["feature"]))
    by_draw = np.lexsort((rows["priority"], rows["feature"]))
    return _rank_within(rows["feature"], by_peak), _rank_within(rows["feature"], by_draw)


def _windowed(
    reading: Reading, pooled: Activations, own: Activations, bar: Bar
) -> dict[str, np.ndarray]:
    """The batch's rows that reach the bar, with their spans; `own` numbers samples as the dataset
    does."""
    priority = _priority(own.sample, own.role, own.feature)
    # A row equal to the bar may precede it by its sample: parts come in any order.
    rows = np.flatnonzero(
        (own.peak >= bar.peak[own.feature]) | (priority <= bar.priority[own.feature])
    )
    first, length, window = _windows(reading, pooled, rows)
    return {
        **{k: getattr(own, k)[rows] for k in ("feature", "sample", "role", "position", "peak")},
        "priority": priority[rows],
        "first": first,
        "length": length,
        "window": window,
    }


# --- all of them ----------------------------------------------------------------------------------

Tell = Callable[[int, int], None]
"""(samples, tokens) read so far in this call; called often, and what it raises ends the reading."""

Executor = Callable[[Iterable[Task], Tell], Iterator[tuple[int, Part]]]
"""Reads parts somewhere; gives each one's number and result, in any order."""


def one_by_one(encoder: Encoder) -> Executor:
    """The executor `local`: the parts one after another in this process."""

    def read(tasks: Iterable[Task], tell: Tell) -> Iterator[tuple[int, Part]]:
        samples = tokens = 0

        def told(more_samples: int, more_tokens: int) -> None:
            nonlocal samples, tokens
            samples, tokens = samples + more_samples, tokens + more_tokens
            tell(samples, tokens)

        for task in tasks:
            yield task.number, read_part(encoder, task, told)

    return read


def measure(
    spec: MeasureSpec,
    *,
    runs: Runs,
    encoder: Encoder,
    sae_run: str,
    progress: Progress,
    executor: Executor | None = None,
) -> str:
    """Measure a dataset run with an encoder; returns the measure run's id.

    The run holds every peak above `spec.floor`; what counts as active is asked later with any
    threshold. `progress(done, total, note)` counts samples and may raise Cancelled, which keeps
    the finished parts. An executor says where the parts are read, by default here; the run is the
    same. With one, the encoder only says who it is.
    """
    run_id = spec.run_id(spec.dataset, encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        source = runs.manifest(spec.dataset)
        n_samples = source["facts"]["n_samples"]
        work = _Work(spec, runs, encoder.n_features, runs.scratch(run_id), n_samples)
        work.read(executor or one_by_one(encoder), progress)
        facts = work.write_tables(progress)
        runs.publish(
            run_id,
            spec=spec,
            inputs=[spec.dataset],
            seconds=work.seconds,
            facts={
                "name": source["facts"]["name"],
                "dataset": spec.dataset,
                "sae_run": sae_run,
                "encoder": encoder.identity,
                "n_features": encoder.n_features,
                "role": spec.role,
                "layer": spec.layer,
                "model": spec.model,
                "sae": spec.sae,
                **facts,
            },
        )
    return run_id


class _Work:
    """One measure in progress: its scratch folder and what the parts there come to."""

    def __init__(
        self, spec: MeasureSpec, runs: Runs, n_features: int, scratch: Path, n_samples: int
    ):
        self.spec, self.runs, self.scratch = spec, runs, scratch
        self.n_features, self.n_samples = n_features, n_samples
        self.roles = ROLES if spec.role == EVERY_ROLE else (spec.role,)
        self.parts = -(-n_samples // PART)
        self.seconds = 0.0
        self.near = NearMisses.none(n_features)
        self.examples = _Examples(n_features, Bar.none(n_features))
        self.counts = np.zeros(n_features, np.int64)
        self.finished = 0
        """Samples of the parts that were on disk."""
        for number in range(self.parts):
            if (folder := self._folder(number)).exists():
                tables = {name: _read(folder, name) for name in ("examples", "near")}
                self._take(_read(folder, "activations", ["feature"]), **tables)
                self.seconds += float((folder / "seconds").read_text("ascii"))
                self.finished += min(PART, n_samples - number * PART)

    def _folder(self, number: int) -> Path:
        return self.scratch / f"_part-{number:06d}"

    # -- pass one: the model -----------------------------------------------------------------

    def read(self, executor: Executor, progress: Progress) -> None:
        """Every part not yet on disk goes through the executor."""
        begun = kept = time.monotonic()

        def tell(samples: int, tokens: int) -> None:
            note = "reading the first batch"
            if samples:
                elapsed = time.monotonic() - begun
                left = elapsed / samples * (self.n_samples - self.finished - samples)
                note = f"{tokens / elapsed:,.0f} tokens/s, {_span_of(left)} left"
            progress(self.finished + samples, self.n_samples, note)

        tell(0, 0)
        for number, part in executor(self._tasks(), tell):
            now = time.monotonic()
            self._save(number, part, now - kept)
            self.seconds, kept = self.seconds + now - kept, now
            self._take(part.activations, examples=part.examples, near=part.near)

    def _tasks(self) -> Iterator[Task]:
        """The parts that are not on disk, always cut at the same samples."""
        waiting: list[pa.Array] = []
        number = 0
        batches = self.runs.batches(self.spec.dataset, "samples", columns=["messages"], rows=PART)
        for batch in batches:
            waiting.append(batch.column("messages"))
            held = sum(map(len, waiting))
            while held >= PART or (held and number * PART + held == self.n_samples):
                joined = pa.concat_arrays(waiting)
                waiting, held = [joined[PART:]], max(0, held - PART)
                if not self._folder(number).exists():
                    chats = joined[:PART].to_pylist()
                    bar = self.examples.bar._replace(near=self.near.pre[-1])
                    start = number * PART
                    yield Task(number, start, chats, self.roles, self.spec.floor, bar)
                number += 1

    def _save(self, number: int, part: Part, seconds: float) -> None:
        """All of a part or nothing: its folder gets its name when everything is in it."""
        folder = self._folder(number)
        partial = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        with disk_room("a part of the measure"):
            partial.mkdir()
            (partial / "seconds").write_text(repr(seconds), "ascii")
            for name, table_schema in TABLES.items():
                write_table(partial / f"{name}.parquet", getattr(part, name), table_schema)
            partial.rename(folder)

    def _take(self, activations: pa.Table, *, examples: pa.Table, near: pa.Table) -> None:
        """Brings a part's result into that of all."""
        feature = activations.column("feature").to_numpy()
        self.counts += np.bincount(feature, minlength=self.n_features)
        self.examples.offer(_example_columns(examples))
        self.examples.prune()
        best = NearMisses.none(self.n_features)
        row = {name: near.column(name).to_numpy() for name in NEAR.names}
        place = row["rank"], row["feature"]
        best.pre[place], best.sample[place], best.position[place] = (
            row[name] for name in ("pre", "sample", "position")
        )
        # Where the bar kept out the better ranks none follow, so rows of a feature leave no gaps.
        _merge_near(self.near, best, 0)

    # -- pass two: the tables ----------------------------------------------------------------

    def write_tables(self, progress: Progress) -> dict[str, Any]:
        """The four tables of the run, from the parts; returns the facts they establish."""

        def tell(note: str) -> None:
            progress(self.n_samples, self.n_samples, note)

        chosen = self._write_activations(tell)
        rank, feature = np.nonzero(self.near.sample >= 0)
        near = {
            "feature": feature.astype(np.int32),
            "rank": rank.astype(np.int32),
            "sample": self.near.sample[rank, feature],
            "position": self.near.position[rank, feature],
            "pre": self.near.pre[rank, feature],
        }
        facts = self._write_texts(chosen, near, tell)
        return {
            **facts,
            "n_samples": self.n_samples,
            "features_fired": int((self.counts > 0).sum()),
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(facts["tokens"] / max(self.seconds, 1e-9), 1),
        }

    def _write_activations(self, tell: Callable[[str], None]) -> dict[str, np.ndarray]:
        """Writes activations.parquet; returns the spans to show, by (feature, kind, rank)."""
        rows = self.examples.columns
        by_peak, by_draw = _ranks(rows)
        top = by_peak < TOP
        spread = _evenly(rows["feature"], by_peak, ~top & (by_draw < SPREAD_POOL))
        picked = np.flatnonzero(top | spread)
        chosen = {k: column[picked] for k, column in rows.items() if k != "priority"}
        chosen["is_spread"] = ~top[picked]
        order = np.lexsort((by_peak[picked], chosen["is_spread"], chosen["feature"]))
        chosen = {k: column[order] for k, column in chosen.items()}
        group = chosen["feature"].astype(np.int64) * 2 + chosen["is_spread"]
        chosen["rank"] = _rank_within(group, np.arange(len(group))).astype(np.int32)
        chosen["quantile"] = np.zeros(len(group), np.float32)

        sorting = _Sorting(self.scratch, "activations", ACTIVATIONS, self.counts, MERGE_ROWS)
        with (
            sorting,
            ParquetAppender(self.scratch / "activations.parquet", schema.ACTIVATIONS) as out,
        ):
            for number in range(self.parts):
                tell("sorting the activations by feature")
                sorting.add(_read(self._folder(number), "activations"))
            for first, last, table in sorting.ranges():
                tell("writing the activations")
                keys = _strength_keys(table)
                # Stable, so that equals stay in the order of the parts; and quick on sorted runs.
                order = np.argsort(keys, kind="stable")
                table, keys = table.take(pa.array(order)), keys[order]
                here = slice(*np.searchsorted(chosen["feature"], [first, last]))
                chosen["quantile"][here] = _weaker(
                    table, keys, {k: chosen[k][here] for k in ("feature", "peak", "sample", "role")}
                )
                code = table.column("role").combine_chunks()
                role = pa.DictionaryArray.from_arrays(code, pa.array(ROLES))
                at = table.schema.get_field_index("role")
                out.append(table.set_column(at, "role", role))
        return chosen

    def _write_texts(
        self,
        spans: dict[str, np.ndarray],
        near: dict[str, np.ndarray],
        tell: Callable[[str], None],
    ) -> dict[str, Any]:
        """Spans and near misses with their tokens, and the lengths of the samples."""
        by_role = dict.fromkeys(ROLES, 0)
        tokens = cut = empty = 0
        with ExitStack() as stack:
            lengths = stack.enter_context(
                ParquetAppender(self.scratch / "sample_tokens.parquet", schema.SAMPLE_TOKENS)
            )
            sortings = []
            for name, rows in (("spans", spans), ("near", near)):
                sizes = np.bincount(rows["feature"], minlength=self.n_features)
                wanted = {"spans": schema.SPANS, "near": schema.NEAR}[name]
                sorting = _Sorting(self.scratch, name, wanted, sizes, TEXT_ROWS)
                by_sample = np.argsort(rows["sample"], kind="stable")
                sortings.append((rows, by_sample, stack.enter_context(sorting)))
            for number in range(self.parts):
                tell("writing the examples")
                start = number * PART
                texts = _read(self._folder(number), "texts")
                content = np.stack([texts.column(f"n_{role}").to_numpy() for role in ROLES])
                for role, n in zip(ROLES, content.sum(1).tolist(), strict=True):
                    by_role[role] += n
                own = texts.select(["n_tokens", "n_cut"])
                tokens += int(own.column("n_tokens").to_numpy().sum())
                cut += int((own.column("n_cut").to_numpy() > 0).sum())
                empty += int((content.sum(0) == 0).sum())
                place = np.arange(start, start + len(own), dtype=np.int32)
                own = own.append_column("sample", pa.array(place))
                lengths.append(own.append_column("n_content", pa.array(content.sum(0))))
                for rows, by_sample, sorting in sortings:
                    bounds = [start, start + len(own)]
                    found = slice(*np.searchsorted(rows["sample"][by_sample], bounds))
                    sorting.add(_with_tokens(texts, start, rows, np.sort(by_sample[found])))
            for _rows, _by_sample, sorting in sortings:
                tell("writing the examples")
                path = self.scratch / f"{sorting.name}.parquet"
                with ParquetAppender(path, sorting.schema) as out:
                    for _first, _last, table in sorting.ranges():
                        keys = [("feature", "ascending"), ("rank", "ascending")]
                        if "kind" in table.column_names:
                            keys.insert(1, ("kind", "descending"))
                        out.append(table.sort_by(keys))
        return {
            "tokens": tokens,
            "content_tokens": sum(by_role.values()),
            "content_tokens_by_role": by_role,
            "n_cut": cut,
            "n_empty": empty,
        }


def _read(folder: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    with pq.ParquetFile(folder / f"{name}.parquet") as file:
        return file.read(columns)


class _Sorting:
    """Tables sorted by feature go in, ranges of features come out: an external sort.

    Every table is read once and every row written once more, so the time grows with the rows and
    not with parts times ranges; what is in memory is one table or one range.
    """

    def __init__(
        self, scratch: Path, name: str, table_schema: pa.Schema, sizes: np.ndarray, limit: int
    ):
        self.name, self.schema = name, table_schema
        self._home = scratch / f"_sorting-{name}"
        self._ranges = [*_ranges(sizes, max(limit, int(sizes.sum()) // RANGES))]
        self._files = ExitStack()

    def __enter__(self) -> _Sorting:
        shutil.rmtree(self._home, ignore_errors=True)
        with disk_room(f"the table {self.name}"):
            self._home.mkdir()
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers = [
                self._files.enter_context(
                    pa.ipc.new_stream(
                        self._files.enter_context(pa.OSFile(str(self._path(i)), "wb")),
                        self.schema,
                        options=options,
                    )
                )
                for i in range(len(self._ranges))
            ]
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._home / f"{number:06d}.arrow"

    def add(self, table: pa.Table) -> None:
        """Rows sorted by feature."""
        table = table.select(self.schema.names).cast(self.schema).combine_chunks()
        bounds = [first for first, _ in self._ranges] + [self._ranges[-1][1]]
        cuts = np.searchsorted(table.column("feature").to_numpy(), bounds).tolist()
        with disk_room(f"the table {self.name}"):
            for writer, (low, high) in zip(self._writers, pairwise(cuts), strict=True):
                if high > low:
                    writer.write_table(table.slice(low, high - low))

    def ranges(self) -> Iterator[tuple[int, int, pa.Table]]:
        """(first feature, one past the last, all their rows: in the order they were added)."""
        with disk_room(f"the table {self.name}"):
            self._files.close()
        for number, (first, last) in enumerate(self._ranges):
            with pa.OSFile(str(self._path(number))) as file:
                table = pa.ipc.open_stream(file).read_all()
            self._path(number).unlink()
            yield first, last, table


def _strength_keys(rows: pa.Table | Mapping[str, np.ndarray]) -> np.ndarray:
    """uint64 that sorts by (feature, peak descending). Peaks are above zero, and the bits of such
    floats are in the order of their values."""
    feature, peak = (_array(rows[name]) for name in ("feature", "peak"))
    bits = np.ascontiguousarray(peak, np.float32).view(np.uint32)
    return (feature.astype(np.uint64) << np.uint64(32)) | (~bits).astype(np.uint64)


def _array(column: pa.ChunkedArray | np.ndarray) -> np.ndarray:
    return column if isinstance(column, np.ndarray) else column.to_numpy()


def _weaker(table: pa.Table, keys: np.ndarray, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The share of its feature's rows that come after each of these rows in the sorted table."""
    place = np.searchsorted(keys, _strength_keys(rows), side="left")
    beyond = np.searchsorted(keys, _strength_keys(rows), side="right")
    ties = np.flatnonzero(beyond - place > 1)
    if len(ties):  # which stand in the order of sample and role
        sample, role = (table.column(name).to_numpy() for name in ("sample", "role"))
        order = sample.astype(np.int64) * 4 + role
        asked = rows["sample"].astype(np.int64) * 4 + rows["role"]
        for i in ties.tolist():
            place[i] += np.searchsorted(order[place[i] : beyond[i]], asked[i])
    feature = rows["feature"].astype(np.uint64)
    begins = np.searchsorted(keys, feature << np.uint64(32))
    size = np.searchsorted(keys, (feature + np.uint64(1)) << np.uint64(32)) - begins
    return (size - 1 - (place - begins)) / size


# --- tokens ---------------------------------------------------------------------------------------


def _with_tokens(
    texts: pa.Table, start: int, rows: Mapping[str, np.ndarray], here: np.ndarray
) -> pa.Table:
    """SPANS, or NEAR where the rows have a `pre`: the rows `here`, whose samples lie in this part.

    Tokens are cut only of samples that are asked for.
    """
    mine = {k: column[here] for k, column in rows.items()}
    asked, local = np.unique(mine["sample"] - start, return_inverse=True)
    rendered = _rendered(texts.take(pa.array(asked)))
    pieces = [one.pieces(0, len(one.role)) for one in rendered]
    base = np.concatenate([[0], np.cumsum([len(row) for row in pieces], dtype=np.int64)])
    if "first" not in mine:
        places = [*zip(local.tolist(), mine["position"].tolist(), strict=True)]
        windows = [_window(rendered[i], position) for i, position in places]
        mine["first"] = np.array([first for first, _ in windows], np.int32)
        mine["length"] = np.array([length for _, length in windows], np.int32)
        mine["role"] = np.array([rendered[i].role[p] for i, p in places], np.int8)
    offsets = np.concatenate([[0], np.cumsum(mine["length"])]).astype(np.int32)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], mine["length"])
    flat = np.repeat(base[local] + mine["first"], mine["length"]) + within
    every = pa.array([piece for row in pieces for piece in row], pa.string())
    columns: dict[str, Any] = {k: mine[k] for k in ("feature", "rank", "sample", "position")}
    columns["role"] = pa.DictionaryArray.from_arrays(mine["role"], pa.array(ROLES))
    columns["peak_index"] = mine["position"] - mine["first"]
    columns["tokens"] = pa.ListArray.from_arrays(offsets, every.take(pa.array(flat)))
    if "pre" in mine:
        columns["pre"] = mine["pre"]
    else:
        columns["kind"] = pa.array(np.where(mine["is_spread"], "spread", "top"), pa.string())
        columns["quantile"] = mine["quantile"]
        columns["peak"] = mine["peak"]
        kept = np.arange(BEFORE + AFTER) < mine["length"][:, None]
        columns["activations"] = pa.ListArray.from_arrays(
            offsets, pa.array(mine["window"][kept].astype(np.float32))
        )
    return pa.table(columns)


def _rendered(texts: pa.Table) -> list[Rendered]:
    """TEXTS as they were before, but for the ids, which nobody needs any more."""
    names = ("role", "turn", "starts", "ends")
    lists = {name: texts.column(name).combine_chunks() for name in names}
    offsets = lists["role"].offsets.to_numpy()
    flat = {name: column.values.to_numpy() for name, column in lists.items()}
    return [
        Rendered(
            ids=np.full(last - first, SCAFFOLD, np.int32),
            **{name: values[first:last] for name, values in flat.items()},
            text=text,
            cut=cut,
        )
        for first, last, text, cut in zip(
            offsets.tolist(),
            offsets[1:].tolist(),
            texts.column("text").to_pylist(),
            texts.column("n_cut").to_pylist(),
            strict=False,
        )
    ]


def _window(rendered: Rendered, position: int) -> tuple[int, int]:
    """(first token, length) of the span around a peak, never beyond its message."""
    same = rendered.turn == rendered.turn[position]
    first = max(0, position - BEFORE + 1)
    last = min(len(same), position + AFTER + 1)
    outside = np.flatnonzero(~same[first:position])
    if len(outside):
        first += int(outside[-1]) + 1
    outside = np.flatnonzero(~same[position:last])
    if len(outside):
        last = position + int(outside[0])
    return first, last - first


def _windows(
    reading: Reading, pooled: Activations, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First token, length and float16 activations `[rows, BEFORE + AFTER]` of each row's span."""
    place = {sample: r for sample, r in zip(reading.samples, reading.rendered, strict=True)}
    bounds: dict[tuple[int, int], tuple[int, int]] = {}
    sample, position = pooled.sample[rows], pooled.position[rows]
    first = np.zeros(len(rows), np.int32)
    length = np.zeros(len(rows), np.int32)
    for i, key in enumerate(zip(sample.tolist(), position.tolist(), strict=True)):
        if key not in bounds:
            bounds[key] = _window(place[key[0]], key[1])
        first[i], length[i] = bounds[key]
    longest = 1 + max(len(r.ids) for r in reading.rendered)

    def key_of(s: np.ndarray, f: np.ndarray, p: np.ndarray) -> np.ndarray:
        return (s.astype(np.int64) * 2**31 + f) * longest + p

    keys = key_of(reading.sample, reading.feature, reading.position)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    low = np.searchsorted(keys, key_of(sample, pooled.feature[rows], first))
    high = np.searchsorted(keys, key_of(sample, pooled.feature[rows], first + length))
    count = high - low
    row = np.repeat(np.arange(len(rows)), count)
    entry = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + low[row]]
    window = np.zeros((len(rows), BEFORE + AFTER), np.float16)
    window[row, reading.position[entry] - first[row]] = reading.value[entry]
    return first, length, window


def _priority(sample: np.ndarray, role: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random uint64 per row (splitmix64 of its coordinates)."""
    z: np.ndarray = (
        (sample.astype(np.uint64) << np.uint64(34))
        ^ (feature.astype(np.uint64) << np.uint64(2))
        ^ role.astype(np.uint64)
    )
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _rank_within(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Place of each row among those of its group, where `order` sorts by (group, ...)."""
    ordered = group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1)) if len(order) else order
    sizes = np.diff(np.append(starts, len(ordered)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def _evenly(group: np.ndarray, by_peak: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Mask of at most SPREAD allowed rows per group, evenly over their order of strength."""
    rows = np.flatnonzero(allowed)
    order = np.lexsort((by_peak[rows], group[rows]))
    place = _rank_within(group[rows], order)
    size = np.bincount(group[rows])[group[rows]] if len(rows) else place
    # Of n rows keep those where the running count of SPREAD/n steps to a new whole number.
    share = np.minimum(1.0, SPREAD / np.maximum(size, 1))
    keep = np.floor((place + 1) * share + 1e-9) > np.floor(place * share + 1e-9)
    mask = np.zeros(len(group), bool)
    mask[rows[keep]] = True
    return mask


def _ranges(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Feature ranges [first, last) of at most `limit` rows (or one feature)."""
    first, held = 0, 0
    for feature, size in enumerate(sizes.tolist()):
        if held and held + size > limit:
            yield first, feature
            first, held = feature, 0
        held += size
    if len(sizes):
        yield first, len(sizes)


def _span_of(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
