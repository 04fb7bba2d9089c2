"""A dataset -> which features fire where: activations, examples and near misses, as one run.

Memory does not grow with the dataset: samples pass in parts of PART, each part's activations go to
disk, and what is kept across parts is bounded by the dictionary (a few examples a feature). A
finished part is never computed again, so a killed measure continues and ends in the same bytes.
Re-measuring an export is this same function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fac import schema
from fac.config import MeasureSpec
from fac.encoder import Encoder, NearMisses, Reading
from fac.errors import disk_room
from fac.models import Rendered
from fac.schema import EVERY_ROLE, ROLES, Activations
from fac.store.runs import ParquetAppender, Runs, write_table

Progress = Callable[..., None]

PART = 1024
"""Samples between two points a restart can continue from."""

TOP = 10
"""Strongest examples kept per feature."""

SPREAD = 10
"""Examples shown over the quantiles of a feature's peaks, beside the strongest."""

SPREAD_POOL = 24
"""Uniformly drawn examples from which the spread is chosen."""

BEFORE, AFTER = 32, 8
"""Tokens of a span up to and including the peak (paper: 32), and of context after it."""

MERGE_ROWS = 4_000_000
"""Rows sorted in memory at once when the parts become one table."""


def measure(
    spec: MeasureSpec, *, runs: Runs, encoder: Encoder, sae_run: str, progress: Progress
) -> str:
    """Measure a dataset run with an encoder; returns the measure run's id.

    The run holds every peak above `spec.floor`; what counts as active is asked later with any
    threshold. `progress(done, total, note)` counts samples and may raise Cancelled, which keeps
    the finished parts.
    """
    run_id = spec.run_id(spec.dataset, encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        source = runs.manifest(spec.dataset)
        work = _Work(spec, runs, encoder, runs.scratch(run_id), source["facts"]["n_samples"])
        work.read(progress)
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
    """One measure in progress: its scratch folder and what is carried from part to part."""

    def __init__(
        self, spec: MeasureSpec, runs: Runs, encoder: Encoder, scratch: Path, n_samples: int
    ):
        self.spec, self.runs, self.encoder, self.scratch = spec, runs, encoder, scratch
        self.n_samples = n_samples
        self.roles = ROLES if spec.role == EVERY_ROLE else (spec.role,)
        self.seconds = 0.0
        self.near = NearMisses.none(encoder.n_features)
        self.examples = _Examples(encoder.n_features)
        self.counts = np.zeros(encoder.n_features, np.int64)
        self.done = 0
        self._restore()

    # -- pass one: the model -----------------------------------------------------------------

    def read(self, progress: Progress) -> None:
        """Every part not yet on disk goes through the encoder."""
        begun, tokens = time.monotonic(), 0
        spent = self.seconds
        first = self.done * PART
        progress(min(first, self.n_samples), self.n_samples, "reading the first batch")
        for number, start, chats in self._parts():
            if number < self.done:
                continue
            pooled, finished = [], start
            for reading in self.encoder.read(chats, self.roles):
                pooled.append(self._take(reading, start))
                finished += len(reading.samples)
                tokens += sum(len(r.ids) for r in reading.rendered)
                elapsed = time.monotonic() - begun
                left = elapsed / (finished - first) * (self.n_samples - finished)
                note = f"{tokens / elapsed:,.0f} tokens/s, {_span_of(left)} left"
                progress(finished, self.n_samples, note)
            self.seconds = spent + time.monotonic() - begun
            self._save(number, pooled)

    def _parts(self) -> Iterator[tuple[int, int, list[schema.Chat]]]:
        """(number, index of the first sample, chats), always cut at the same samples."""
        waiting: list[schema.Chat] = []
        number = 0
        for batch in self.runs.batches(self.spec.dataset, "samples"):
            waiting += batch.column("messages").to_pylist()
            while len(waiting) >= PART:
                yield number, number * PART, waiting[:PART]
                waiting, number = waiting[PART:], number + 1
        if waiting:
            yield number, number * PART, waiting

    def _take(self, reading: Reading, start: int) -> Activations:
        keep = reading.value > self.spec.floor
        if not keep.all():
            reading = reading._replace(
                **{
                    name: getattr(reading, name)[keep]
                    for name in ("sample", "position", "feature", "value", "role")
                }
            )
        pooled = reading.pooled()
        self.examples.offer(reading, pooled, start)
        near = reading.near
        self.near = self.near.merged(
            near._replace(sample=np.where(near.sample < 0, -1, near.sample + start))
        )
        return pooled._replace(sample=pooled.sample + np.int32(start))

    def _save(self, number: int, pooled: list[Activations]) -> None:
        """State first, activations last: the part exists once its activations do."""
        joined = Activations(*(np.concatenate(column) for column in zip(*pooled, strict=True)))
        self.counts += np.bincount(joined.feature, minlength=len(self.counts))
        state = self.scratch / f"_state-{number:06d}.npz"
        arrays: dict[str, Any] = {"seconds": self.seconds, "counts": self.counts}
        arrays |= {f"near_{name}": array for name, array in self.near._asdict().items()}
        arrays |= {f"example_{k}": array for k, array in self.examples.columns.items()}
        with disk_room("the state of the measure"):
            partial = state.with_suffix(".part")
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.rename(state)
        write_table(self._part(number), _activation_table(joined), schema.ACTIVATIONS)
        self.done = number + 1
        if number:
            (self.scratch / f"_state-{number - 1:06d}.npz").unlink(missing_ok=True)

    def _restore(self) -> None:
        while self._part(self.done).exists():
            self.done += 1
        if not self.done:
            return
        with np.load(self.scratch / f"_state-{self.done - 1:06d}.npz") as state:
            self.seconds = float(state["seconds"])
            self.counts = state["counts"]
            self.near = NearMisses(*(state[f"near_{name}"] for name in NearMisses._fields))
            self.examples.columns = {k: state[f"example_{k}"] for k in self.examples.columns}
        self.examples.close()

    def _part(self, number: int) -> Path:
        return self.scratch / f"_part-{number:06d}.parquet"

    # -- pass two: the tables ----------------------------------------------------------------

    def write_tables(self, progress: Progress) -> dict[str, Any]:
        """The four tables of the run, from the parts; returns the facts they establish."""
        progress(self.n_samples, self.n_samples, "sorting the activations by feature")
        chosen = self.examples.chosen(self._merge_activations())
        facts, parts = self._write_texts(chosen)
        for name, table_schema in (("spans", schema.SPANS), ("near", schema.NEAR)):
            sizes = np.bincount(
                chosen["feature"] if name == "spans" else self._near_rows()["feature"],
                minlength=self.encoder.n_features,
            )
            with ParquetAppender(self.scratch / f"{name}.parquet", table_schema) as out:
                for first, last in _ranges(sizes, MERGE_ROWS // 64):
                    out.append(_sorted_texts([_slice(p[name], first, last) for p in parts]))
        return {
            **facts,
            "n_samples": self.n_samples,
            "features_fired": int((self.counts > 0).sum()),
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(facts["tokens"] / max(self.seconds, 1e-9), 1),
        }

    def _merge_activations(self) -> Iterator[tuple[int, int, pa.Table]]:
        """Writes activations.parquet; yields each sorted range of features as it is written."""
        paths = [self._part(number) for number in range(self.done)]
        out_path = self.scratch / "activations.parquet"
        with ParquetAppender(out_path, schema.ACTIVATIONS) as out:
            for first, last in _ranges(self.counts, MERGE_ROWS):
                rows = pa.concat_tables(_slice(path, first, last) for path in paths)
                rows = rows.take(_by_feature_and_peak(rows))
                out.append(rows)
                yield first, last, rows

    def _near_rows(self) -> dict[str, np.ndarray]:
        rank, feature = np.nonzero(self.near.sample >= 0)
        return {
            "feature": feature.astype(np.int32),
            "rank": rank.astype(np.int32),
            "sample": self.near.sample[rank, feature],
            "position": self.near.position[rank, feature],
            "pre": self.near.pre[rank, feature],
        }

    def _write_texts(
        self, spans: dict[str, np.ndarray]
    ) -> tuple[dict[str, Any], list[dict[str, Path]]]:
        """The tokens behind spans and near misses: the texts are read once more, not the model."""
        near = self._near_rows()
        by_role = dict.fromkeys(ROLES, 0)
        tokens = cut = empty = 0
        parts = []
        with ParquetAppender(
            self.scratch / "sample_tokens.parquet", schema.SAMPLE_TOKENS
        ) as lengths:
            for number, start, chats in self._parts():
                rendered = self.encoder.render(chats)
                texts = _Texts(rendered, start)
                content = [np.isin(r.role, [ROLES.index(x) for x in self.roles]) for r in rendered]
                for code, role in enumerate(ROLES):
                    by_role[role] += sum(
                        int((r.role[c] == code).sum())
                        for r, c in zip(rendered, content, strict=True)
                    )
                tokens += sum(len(r.ids) for r in rendered)
                cut += sum(r.cut > 0 for r in rendered)
                empty += sum(not c.any() for c in content)
                lengths.append(
                    pa.table(
                        {
                            "sample": np.arange(start, start + len(chats)),
                            "n_tokens": [len(r.ids) for r in rendered],
                            "n_content": [int(c.sum()) for c in content],
                            "n_cut": [r.cut for r in rendered],
                        }
                    )
                )
                paths = {}
                for name, rows in (("spans", spans), ("near", near)):
                    paths[name] = self.scratch / f"_{name}-{number:06d}.parquet"
                    table = texts.with_tokens(rows, len(chats))
                    wanted = schema.SPANS if name == "spans" else schema.NEAR
                    write_table(paths[name], table, wanted)
                parts.append(paths)
        facts = {
            "tokens": tokens,
            "content_tokens": sum(by_role.values()),
            "content_tokens_by_role": by_role,
            "n_cut": cut,
            "n_empty": empty,
        }
        return facts, parts


class _Examples:
    """The examples that stand for each feature, chosen while the data streams by.

    For every feature the TOP strongest rows, and SPREAD_POOL rows drawn uniformly from all that
    fired: each row gets a fixed pseudo-random priority from its coordinates and the lowest stay,
    so the draw depends neither on the order of the parts nor on a restart.
    """

    def __init__(self, n_features: int):
        self.n_features = n_features
        width = BEFORE + AFTER
        self.columns: dict[str, np.ndarray] = {
            "feature": np.zeros(0, np.int32),
            "sample": np.zeros(0, np.int32),
            "role": np.zeros(0, np.int8),
            "position": np.zeros(0, np.int32),
            "peak": np.zeros(0, np.float32),
            "priority": np.zeros(0, np.uint64),
            "first": np.zeros(0, np.int32),
            "length": np.zeros(0, np.int32),
            "window": np.zeros((0, width), np.float16),
        }
        self.close()

    def close(self) -> None:
        """Recompute what a row must beat to enter."""
        self.weakest = np.full(self.n_features, -np.inf, np.float32)
        self.latest = np.full(self.n_features, np.iinfo(np.uint64).max, np.uint64)
        c = self.columns
        rank, draw = self._ranks()
        last = rank == TOP - 1
        self.weakest[c["feature"][last]] = c["peak"][last]
        last = draw == SPREAD_POOL - 1
        self.latest[c["feature"][last]] = c["priority"][last]

    def _ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Place of each row within its feature, by strength and by priority."""
        c = self.columns
        by_peak = np.lexsort((c["role"], c["sample"], -c["peak"], c["feature"]))
        by_draw = np.lexsort((c["priority"], c["feature"]))
        return _rank_within(c["feature"], by_peak), _rank_within(c["feature"], by_draw)

    def offer(self, reading: Reading, pooled: Activations, start: int) -> None:
        """Rows of one batch; `start` turns its sample numbers into the dataset's."""
        sample = pooled.sample.astype(np.int64) + start
        priority = _priority(sample, pooled.role, pooled.feature)
        enters = (pooled.peak > self.weakest[pooled.feature]) | (
            priority < self.latest[pooled.feature]
        )
        rows = np.flatnonzero(enters)
        if not len(rows):
            return
        first, length, window = _windows(reading, pooled, rows)
        new = {
            "feature": pooled.feature[rows],
            "sample": sample[rows].astype(np.int32),
            "role": pooled.role[rows],
            "position": pooled.position[rows],
            "peak": pooled.peak[rows],
            "priority": priority[rows],
            "first": first,
            "length": length,
            "window": window,
        }
        self.columns = {k: np.concatenate([self.columns[k], new[k]]) for k in self.columns}
        by_peak, by_draw = self._ranks()
        stays = (by_peak < TOP) | (by_draw < SPREAD_POOL)
        self.columns = {k: column[stays] for k, column in self.columns.items()}
        self.close()

    def chosen(self, ranges: Iterator[tuple[int, int, pa.Table]]) -> dict[str, np.ndarray]:
        """The final spans with kind, rank and quantile, sorted by (feature, kind, rank)."""
        c = self.columns
        quantile = np.zeros(len(c["feature"]), np.float32)
        for first, last, rows in ranges:
            mine = np.flatnonzero((c["feature"] >= first) & (c["feature"] < last))
            feature = rows.column("feature").to_numpy()
            size = np.bincount(feature - first, minlength=last - first)
            begins = np.concatenate([[0], np.cumsum(size)])[:-1]
            keys = _row_key(
                feature, rows.column("sample").to_numpy(), _role_codes(rows.column("role"))
            )
            order = np.argsort(keys, kind="stable")
            asked = _row_key(c["feature"][mine], c["sample"][mine], c["role"][mine])
            found = order[np.searchsorted(keys[order], asked)]
            own = c["feature"][mine] - first
            stronger = found - begins[own]
            quantile[mine] = (size[own] - 1 - stronger) / size[own]
        by_peak, by_draw = self._ranks()
        top = by_peak < TOP
        spread = _evenly(c["feature"], by_peak, ~top & (by_draw < SPREAD_POOL))
        picked = np.flatnonzero(top | spread)
        out = {k: column[picked] for k, column in c.items() if k != "priority"}
        out["quantile"] = quantile[picked]
        out["is_spread"] = ~top[picked]
        order = np.lexsort((by_peak[picked], out["is_spread"], out["feature"]))
        out = {k: column[order] for k, column in out.items()}
        group = out["feature"].astype(np.int64) * 2 + out["is_spread"]
        out["rank"] = _rank_within(group, np.arange(len(group))).astype(np.int32)
        return out


class _Texts:
    """Token texts of one part of the dataset, ready to be cut into windows."""

    def __init__(self, rendered: Sequence[Rendered], start: int):
        self.start = start
        self.rendered = rendered
        pieces = [r.pieces(0, len(r.ids)) for r in rendered]
        self.pieces = pa.array([piece for row in pieces for piece in row], pa.string())
        self.base = np.concatenate([[0], np.cumsum([len(row) for row in pieces])])

    def with_tokens(self, rows: dict[str, np.ndarray], n: int) -> pa.Table:
        """The rows whose sample lies in this part, with `tokens`, `peak_index`, `role`."""
        here = np.flatnonzero((rows["sample"] >= self.start) & (rows["sample"] < self.start + n))
        mine = {k: column[here] for k, column in rows.items()}
        local = mine["sample"] - self.start
        if "first" not in mine:
            windows = [
                _window(self.rendered[s], int(p))
                for s, p in zip(local, mine["position"], strict=True)
            ]
            mine["first"] = np.array([w[0] for w in windows], np.int32)
            mine["length"] = np.array([w[1] for w in windows], np.int32)
            mine["role"] = np.array(
                [self.rendered[s].role[p] for s, p in zip(local, mine["position"], strict=True)],
                np.int8,
            )
        offsets = np.concatenate([[0], np.cumsum(mine["length"])]).astype(np.int32)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], mine["length"])
        flat = np.repeat(self.base[local] + mine["first"], mine["length"]) + within
        columns: dict[str, Any] = {k: mine[k] for k in ("feature", "rank", "sample", "position")}
        columns["role"] = pa.DictionaryArray.from_arrays(mine["role"], pa.array(ROLES))
        columns["peak_index"] = mine["position"] - mine["first"]
        columns["tokens"] = pa.ListArray.from_arrays(offsets, self.pieces.take(pa.array(flat)))
        if "pre" in mine:
            columns["pre"] = mine["pre"]
        else:
            columns["kind"] = np.where(mine["is_spread"], "spread", "top")
            columns["quantile"] = mine["quantile"]
            columns["peak"] = mine["peak"]
            kept = np.arange(BEFORE + AFTER) < mine["length"][:, None]
            columns["activations"] = pa.ListArray.from_arrays(
                offsets, mine["window"][kept].astype(np.float32)
            )
        return pa.table(columns)


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


def _row_key(feature: np.ndarray, sample: np.ndarray, role: np.ndarray) -> np.ndarray:
    return (feature.astype(np.int64) * 2**32 + sample) * 4 + role


def _role_codes(column: pa.ChunkedArray) -> np.ndarray:
    """int8 index into ROLES, whatever the dictionary of the chunk."""
    texts = column.cast(pa.string()).combine_chunks()
    return pc.index_in(texts, pa.array(ROLES)).to_numpy(zero_copy_only=False).astype(np.int8)


def _activation_table(rows: Activations) -> pa.Table:
    """As stored: sorted by (feature, peak descending, sample, role)."""
    order = np.lexsort((rows.role, rows.sample, -rows.peak, rows.feature))
    columns: dict[str, Any] = {k: column[order] for k, column in rows._asdict().items()}
    columns["role"] = pa.DictionaryArray.from_arrays(rows.role[order], pa.array(ROLES))
    return pa.table({name: columns[name] for name in schema.ACTIVATIONS.names})


def _by_feature_and_peak(rows: pa.Table) -> np.ndarray:
    return np.lexsort(
        (
            _role_codes(rows.column("role")),
            rows.column("sample").to_numpy(),
            -rows.column("peak").to_numpy(),
            rows.column("feature").to_numpy(),
        )
    )


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


def _slice(path: Path, first: int, last: int) -> pa.Table:
    return pq.read_table(path, filters=[("feature", ">=", first), ("feature", "<", last)])


def _sorted_texts(parts: list[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(parts)
    keys = [("feature", "ascending"), ("rank", "ascending")]
    if "kind" in rows.column_names:
        keys.insert(1, ("kind", "descending"))
    return rows.sort_by(keys)


def _span_of(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
