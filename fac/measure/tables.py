"""The four tables of a measure run, from its finished parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa

from fac import schema
from fac.measure.ordering import FeatureSort, strength_keys, weaker_share
from fac.measure.parts import PART_ACTIVATIONS, near_columns
from fac.measure.scratch import FinishedParts
from fac.measure.spans import span_table
from fac.schema import ROLES
from fac.store.runs import ParquetAppender

MERGE_ROWS = 1_000_000
"""Activations sorted in memory at once when the parts become one table."""

TEXT_ROWS = 62_500
"""The same for rows with tokens."""

Note = Callable[[str], None]
"""Says what is being written; what it raises ends the writing."""


def write_tables(parts: FinishedParts, note: Note) -> dict[str, Any]:
    """Writes the tables to the scratch folder; returns the facts they establish."""
    spans = parts.examples.spans()
    _write_activations(parts, spans, note)
    facts = _write_texts(parts, spans, note)
    return {
        **facts,
        "n_samples": parts.n_samples,
        "features_fired": int((parts.support > 0).sum()),
        "seconds": round(parts.seconds, 3),
        "tokens_per_second": round(facts["tokens"] / max(parts.seconds, 1e-9), 1),
    }


def _write_activations(parts: FinishedParts, spans: dict[str, np.ndarray], note: Note) -> None:
    """Writes activations.parquet; fills in the quantiles of the spans."""
    path = parts.scratch / "activations.parquet"
    with (
        FeatureSort(
            parts.scratch, "activations", PART_ACTIVATIONS, parts.support, MERGE_ROWS
        ) as sorting,
        ParquetAppender(path, schema.ACTIVATIONS) as appender,
    ):
        for number in parts.numbers:
            note("sorting the activations by feature")
            sorting.add(parts.table(number, "activations"))
        for first, last, table in sorting.ranges():
            note("writing the activations")
            keys = strength_keys(table)
            # Stable, so that equals stay in the order of the parts; and quick on sorted runs.
            order = np.argsort(keys, kind="stable")
            table, keys = table.take(pa.array(order)), keys[order]
            here = slice(*np.searchsorted(spans["feature"], [first, last]))
            spans["quantile"][here] = weaker_share(
                table, keys, {k: spans[k][here] for k in ("feature", "peak", "sample", "role")}
            )
            code = table.column("role").combine_chunks()
            role = pa.DictionaryArray.from_arrays(code, pa.array(ROLES))
            appender.append(table.set_column(table.schema.get_field_index("role"), "role", role))


class _SpanFile:
    """Spans or near misses with their tokens, from the texts of one part after another."""

    def __init__(self, parts: FinishedParts, name: str, rows: dict[str, np.ndarray]):
        self.rows, self.path = rows, parts.scratch / f"{name}.parquet"
        table_schema = {"spans": schema.SPANS, "near": schema.NEAR}[name]
        sizes = np.bincount(rows["feature"], minlength=parts.n_features)
        self.sorting = FeatureSort(parts.scratch, name, table_schema, sizes, TEXT_ROWS)
        self._by_sample = np.argsort(rows["sample"], kind="stable")
        self._samples = rows["sample"][self._by_sample]

    def add(self, texts: pa.Table, start: int) -> None:
        """The rows of the part that begins with this sample."""
        here = slice(*np.searchsorted(self._samples, [start, start + len(texts)]))
        self.sorting.add(span_table(texts, start, self.rows, np.sort(self._by_sample[here])))

    def write(self) -> None:
        kind = [("kind", "descending")] if "kind" in self.sorting.schema.names else []
        order = [("feature", "ascending"), *kind, ("rank", "ascending")]
        with ParquetAppender(self.path, self.sorting.schema) as appender:
            for _first, _last, table in self.sorting.ranges():
                appender.append(table.sort_by(order))


def _write_texts(parts: FinishedParts, spans: dict[str, np.ndarray], note: Note) -> dict[str, Any]:
    """Spans and near misses with their tokens, and the lengths of the samples."""
    by_role = dict.fromkeys(ROLES, 0)
    tokens = cut = empty = 0
    files = [
        _SpanFile(parts, "spans", spans),
        _SpanFile(parts, "near", near_columns(parts.near)),
    ]
    lengths_path = parts.scratch / "sample_tokens.parquet"
    with ExitStack() as stack:
        lengths = stack.enter_context(ParquetAppender(lengths_path, schema.SAMPLE_TOKENS))
        for file in files:
            stack.enter_context(file.sorting)
        for number in parts.numbers:
            note("writing the examples")
            start = parts.start(number)
            texts = parts.table(number, "texts")
            content = np.stack([texts.column(f"n_{role}").to_numpy() for role in ROLES])
            for role, n in zip(ROLES, content.sum(1).tolist(), strict=True):
                by_role[role] += n
            n_tokens, n_cut = texts.column("n_tokens"), texts.column("n_cut")
            tokens += int(n_tokens.to_numpy().sum())
            cut += int((n_cut.to_numpy() > 0).sum())
            empty += int((content.sum(0) == 0).sum())
            sample = np.arange(start, start + len(texts), dtype=np.int32)
            columns = {"n_tokens": n_tokens, "n_cut": n_cut}
            columns |= {"sample": pa.array(sample), "n_content": pa.array(content.sum(0))}
            lengths.append(pa.table(columns))
            for file in files:
                file.add(texts, start)
        for file in files:
            note("writing the examples")
            file.write()
    return {
        "tokens": tokens,
        "content_tokens": sum(by_role.values()),
        "content_tokens_by_role": by_role,
        "n_cut": cut,
        "n_empty": empty,
    }
