"""A large workspace that nobody measured: what browsing costs, without weeks of a GPU.

    python -m benchmarks.large_store --workspace DIR
    python -m fac cache rebuild --workspace DIR

writes the runs of an anchor and of a smaller dataset of one SAE as the program itself writes them:
two `dataset` runs, the `sae` run, a `measure` run of each dataset, and an `explain` run of the
anchor that has a text for every second feature. Texts are recombined from the demo's sentences.
Each feature fires on its own number of tokens, drawn from the texts' tokens: that number follows a
power law with a log-normal spread, so a few features are in nearly every text, most in few, and
some in none; peaks are log-normal above one threshold. The rest follows from the draws as in a real
measure. The same arguments give the same tables. Features pass in blocks, so memory does not grow
with the activations.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import DEMO_INPUTS, ExplainSpec, IngestSpec, MeasureSpec, SaeSpec, Workspace, digest
from fac.datasets import sample_id
from fac.errors import InputError
from fac.manifest import DatasetFacts, ExplainFacts, MeasureFacts, SaeFacts
from fac.measure.parts import SPREAD, TOP
from fac.measure.spans import AFTER, BEFORE
from fac.schema import ROLES
from fac.store.runs import ParquetAppender, Runs, write_table

DRAWS_PER_BLOCK = 4_000_000
"""Firing tokens in memory at once, unless one feature has more."""

THRESHOLD = 5.0
"""Of every feature's JumpReLU: no peak is at or below it."""

NEAR = 3
"""Highest pre-activations kept per feature."""

SCAFFOLD = 4
"""Tokens of the chat template in front of a message."""

SYSTEM_PROMPTS = (
    "You are a patient teacher. Explain every step in plain words.",
    "You are the assistant of a small shop. Be brief and polite.",
    "You answer as a careful librarian who names the books that were used.",
)

LABELS = ("everyday", "everyday", "everyday", "sensitive")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is asked for. Raises InputError for a size that makes no store."""

    features: int = 65_536
    samples: int = 50_000
    activations: int = 100_000_000
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features < 20 or self.samples < 20 or not 0 < self.share <= 1:
            raise InputError(
                f"A large store has at least 20 features and 20 samples, and a dataset of a share "
                f"above 0 and up to 1 of them, got {self}."
            )
        if not 1 <= self.activations / self.samples <= self.features / 2:
            raise InputError(
                f"{self.activations:,} activations of {self.samples:,} samples are not between 1 "
                f"and half of {self.features:,} features each: give another --activations."
            )

    @property
    def name(self) -> str:
        return f"synthetic-{self.features}@{digest(vars(self))}"


class Corpus(NamedTuple):
    """Texts with every content token in one row. A slot is one message: (sample, role)."""

    chats: list[schema.Chat]
    labels: list[str]
    pieces: pa.Array
    """The text of every token, string `[tokens]`."""

    first: np.ndarray
    """Where each slot's tokens begin, int64 `[slots + 1]`."""

    slot: np.ndarray
    """Which slot a token lies in, int32 `[tokens]`."""

    sample: np.ndarray
    """int32 `[slots]`."""

    role: np.ndarray
    """int8 index into ROLES `[slots]`."""

    position: np.ndarray
    """A token's place in its sample's rendered chat, int32 `[tokens]`."""


def write(workspace: Workspace, size: Size, progress: Any = lambda note: None) -> dict[str, str]:
    """Writes the runs that are not there yet; returns their ids by what they are."""
    runs = Runs(workspace)
    rng = np.random.default_rng([size.seed, 0])
    sentences = _sentences()
    n_dataset = max(1, round(size.samples * size.share))
    texts = {
        "anchor": _corpus(sentences, size.samples, [size.seed, 1]),
        "dataset": _corpus(sentences, n_dataset, [size.seed, 2]),
    }
    ids = {}
    for what, corpus in texts.items():
        progress(f"writing the texts of the {what}")
        ids[f"{what} texts"] = _write_dataset(runs, size, f"large-{what}", corpus)
    progress("writing the SAE's features")
    ids["sae"] = _write_sae(runs, size, texts["anchor"].pieces)

    rank = rng.permutation(size.features)
    rate = (rank + 1000.0) ** -1.4 * np.exp(rng.standard_normal(size.features))
    rate[rng.random(size.features) < 0.03] = 0
    scale = np.exp(1 + 0.7 * rng.standard_normal(size.features)).astype(np.float32)
    rate *= _factor(rate, texts["anchor"], size.activations)
    # The dataset is about other things: some features are rarer, some are not there at all.
    other = rate * size.share * np.exp(rng.standard_normal(size.features) - 0.5)
    other[rng.random(size.features) < 0.05] = 0
    for what, draws in (("anchor", rate), ("dataset", other)):
        measure = _Measure(runs, size, what, texts[what], ids, draws, scale, progress)
        ids[what] = measure.run()
    progress("writing explanations")
    ids["explain"] = _write_explanations(runs, size, ids["anchor"])
    return ids


# ---- texts --------------------------------------------------------------------------------------


def _sentences() -> dict[str, list[str]]:
    """The demo anchor's sentences, by who says them."""
    by_role: dict[str, set[str]] = {"user": set(), "assistant": set()}
    for line in (DEMO_INPUTS / "anchor.jsonl").read_text("utf-8").splitlines():
        for message in json.loads(line)["messages"]:
            parts = re.split(r"(?<=[.!?])\s+", message["content"])
            by_role[message["role"]] |= {part for part in parts if len(part.split()) > 2}
    return {role: sorted(texts) for role, texts in by_role.items()}


def _corpus(sentences: dict[str, list[str]], n: int, seed: list[int]) -> Corpus:
    """`n` different chats of sentences drawn by a Zipf law, a tenth with a system prompt."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for role, pool in sentences.items():
        weight = 1 / (np.arange(len(pool)) + 50.0)
        how_many = np.clip(np.exp(1.1 + 0.5 * rng.standard_normal(n)), 1, 20).astype(int)
        order = rng.permutation(len(pool))
        which = order[rng.choice(len(pool), how_many.sum(), p=weight / weight.sum())]
        drawn[role] = np.split(which, np.cumsum(how_many)[:-1])
    system = rng.random(n) < 0.1
    labels = rng.integers(0, len(LABELS), n)
    chats: list[schema.Chat] = []
    pieces: list[str] = []
    lengths, samples, roles = [], [], []
    for i in range(n):
        turns = {role: " ".join(sentences[role][j] for j in drawn[role][i]) for role in drawn}
        turns["user"] += f" (Question {i + 1}.)"  # no two samples are the same
        if system[i]:
            turns = {"system": SYSTEM_PROMPTS[i % len(SYSTEM_PROMPTS)], **turns}
        chats.append([{"role": role, "content": text} for role, text in turns.items()])
        for role, text in turns.items():
            words = re.findall(r"\s*\S+", text)
            pieces += words
            lengths.append(len(words))
            samples.append(i)
            roles.append(ROLES.index(role))
    length = np.array(lengths)
    first = np.concatenate([[0], np.cumsum(length)])
    slot = np.repeat(np.arange(len(length), dtype=np.int32), length)
    sample = np.array(samples, np.int32)
    opening = np.searchsorted(sample, np.arange(n))  # the first slot of each sample
    turn = np.arange(len(sample)) - opening[sample]
    begins = first[opening][sample] - SCAFFOLD * (turn + 1)
    position = (np.arange(first[-1]) - begins[slot]).astype(np.int32)
    return Corpus(
        chats,
        [LABELS[i] for i in labels],
        pa.array(pieces, pa.string()),
        first,
        slot,
        sample,
        np.array(roles, np.int8),
        position,
    )


def _write_dataset(runs: Runs, size: Size, name: str, corpus: Corpus) -> str:
    spec = IngestSpec(name=name, source=f"{name}.jsonl")
    run = spec.run_id(size.name)
    if runs.find(run):
        return run
    with runs.exclusive(run):
        rows = {
            "sample_id": [sample_id(chat) for chat in corpus.chats],
            "messages": corpus.chats,
            "label": corpus.labels,
            "meta": [json.dumps({"line": i + 1}) for i in range(len(corpus.chats))],
        }
        scratch = runs.scratch(run)
        write_table(scratch / "samples.parquet", pa.table(rows, schema.SAMPLES), schema.SAMPLES)
        write_table(scratch / "rejected.parquet", schema.REJECTED.empty_table(), schema.REJECTED)
        counts = np.bincount(corpus.role, minlength=len(ROLES)).tolist()
        runs.publish(
            run,
            spec=spec,
            inputs=[size.name],
            seconds=0,
            facts=DatasetFacts(
                name=name,
                source=str(spec.source),
                n_samples=len(corpus.chats),
                duplicates=0,
                n_rejected=0,
                kind="json",
                layout="messages",
                columns=["label", "messages"],
                roles=dict(zip(ROLES, counts, strict=True)),
                labels={label: corpus.labels.count(label) for label in sorted(set(LABELS))},
            ),
        )
    return run


# ---- the dictionary -----------------------------------------------------------------------------


def _identity(size: Size) -> str:
    return f"synthetic@{size.seed}/layer15/{size.name}/max1024"


def _write_sae(runs: Runs, size: Size, pieces: pa.Array) -> str:
    """A map of clusters; neighbours are those on the map."""
    from scipy.spatial import cKDTree  # comes with the map's own requirement

    spec = SaeSpec(model="synthetic", sae=size.name)
    run = spec.run_id(_identity(size))
    if runs.find(run):
        return run
    with runs.exclusive(run):
        rng = np.random.default_rng([size.seed, 3])
        n = size.features
        clusters = max(1, n // 100)
        centre = 10 * rng.standard_normal((clusters, 2))
        spread = 0.1 + 0.3 * rng.random(clusters)
        home = rng.integers(0, clusters, n)
        xy = centre[home] + spread[home, None] * rng.standard_normal((n, 2))
        far, near = cKDTree(xy).query(xy, 11)
        lens = np.sort(rng.integers(0, len(pieces), (n, 20)), axis=1)
        words = pieces.take(pa.array(lens.ravel())).to_pylist()
        tokens = [words[i : i + 10] for i in range(0, len(words), 10)]
        columns = {
            "feature": np.arange(n),
            "threshold": np.full(n, THRESHOLD, np.float32),
            "x": xy[:, 0],
            "y": xy[:, 1],
            "promotes": tokens[::2],
            "suppresses": tokens[1::2],
            "neighbours": [*near[:, 1:].astype(np.int32)],
            "cosines": [*(0.8 * np.exp(-2 * far[:, 1:])).astype(np.float32)],
        }
        out = runs.scratch(run) / "features.parquet"
        write_table(out, pa.table(columns), schema.SAE_FEATURES)
        runs.publish(
            run,
            spec=spec,
            inputs=[],
            seconds=0,
            facts=SaeFacts(
                name=size.name,
                model=spec.model,
                layer=spec.layer,
                sae=spec.sae,
                identity=_identity(size),
                n_features=n,
                d_model=4096,
            ),
        )
    return run


# ---- activations --------------------------------------------------------------------------------


def _factor(rate: np.ndarray, corpus: Corpus, wanted: int) -> float:
    """By what to multiply the rates so that about `wanted` (message, feature) pairs come out.

    A message of l of T tokens shows a feature of k tokens with probability 1 - exp(-k l / T).
    """
    length = np.diff(corpus.first) / corpus.first[-1]
    typical = np.quantile(length, (np.arange(50) + 0.5) / 50)
    low, high = 0.0, float(corpus.first[-1]) / rate.max()
    for _ in range(60):
        middle = (low + high) / 2
        k = middle * rate[:, None]
        expected = (1 - np.exp(-k * typical)).sum() * len(length) / len(typical)
        low, high = (middle, high) if expected < wanted else (low, middle)
    return low


class _Measure:
    """One measure run: `draws` firing tokens are expected per feature, `scale` spreads peaks."""

    def __init__(
        self,
        runs: Runs,
        size: Size,
        what: str,
        corpus: Corpus,
        ids: dict[str, str],
        draws: np.ndarray,
        scale: np.ndarray,
        progress: Any,
    ):
        self.runs, self.size, self.corpus, self.scale = runs, size, corpus, scale
        self.what, self.progress, self.sae_run = what, progress, ids["sae"]
        self.spec = MeasureSpec(dataset=ids[f"{what} texts"], model="synthetic", sae=size.name)
        self.seed = [size.seed, 4, len(what)]
        self.draws = np.random.default_rng(self.seed).poisson(draws)

    def run(self) -> str:
        run = self.spec.run_id(self.spec.dataset, _identity(self.size))
        if self.runs.find(run):
            return run
        with self.runs.exclusive(run):
            scratch = self.runs.scratch(run)
            fired = self._write_activations(scratch)
            self._write_lengths(scratch)
            by_role = np.bincount(self.corpus.role[self.corpus.slot], minlength=len(ROLES)).tolist()
            tokens = len(self.corpus.slot)
            self.runs.publish(
                run,
                spec=self.spec,
                inputs=[self.spec.dataset],
                seconds=0,
                facts=MeasureFacts(
                    name=f"large-{self.what}",
                    dataset=self.spec.dataset,
                    sae_run=self.sae_run,
                    encoder=_identity(self.size),
                    n_features=self.size.features,
                    role=self.spec.role,
                    layer=self.spec.layer,
                    model=self.spec.model,
                    sae=self.spec.sae,
                    tokens=tokens + SCAFFOLD * len(self.corpus.sample),
                    content_tokens=tokens,
                    content_tokens_by_role=dict(zip(ROLES, by_role, strict=True)),
                    n_cut=0,
                    n_empty=0,
                    n_samples=len(self.corpus.chats),
                    features_fired=fired,
                    seconds=0.0,
                    tokens_per_second=0.0,
                ),
            )
        return run

    def _write_activations(self, scratch: Path) -> int:
        """Activations, spans and near misses, block by block; returns how many features fired."""
        fired = 0
        with (
            ParquetAppender(scratch / "activations.parquet", schema.ACTIVATIONS) as rows,
            ParquetAppender(scratch / "spans.parquet", schema.SPANS) as spans,
            ParquetAppender(scratch / "near.parquet", schema.NEAR) as near,
        ):
            for first, last in self._blocks():
                self.progress(f"{self.what}: {rows.rows:,} activations, feature {first:,}")
                rng = np.random.default_rng([*self.seed, first])
                feature, token, peak, n_tokens = self._fire(first, last, rng)
                slot = self.corpus.slot[token]
                rows.append(
                    pa.table(
                        {
                            "sample": self.corpus.sample[slot],
                            "role": _roles(self.corpus.role[slot]),
                            "feature": feature,
                            "peak": peak,
                            "position": self.corpus.position[token],
                            "n_tokens": n_tokens,
                        }
                    )
                )
                counts = np.bincount(feature - first, minlength=last - first)
                fired += int((counts > 0).sum())
                begins = np.concatenate([[0], np.cumsum(counts)])[:-1]
                spans.append(self._spans(first, counts, begins, token, peak, rng))
                near.append(self._near(first, counts, begins, token, peak, rng))
        return fired

    def _blocks(self) -> Iterator[tuple[int, int]]:
        most = 2**32 // len(self.corpus.sample)  # a (feature, slot) of a block fits 32 bits
        first, held = 0, 0
        for feature, n in enumerate(self.draws.tolist()):
            if held and (held + n > DRAWS_PER_BLOCK or feature - first == most):
                yield first, feature
                first, held = feature, 0
            held += n
        yield first, len(self.draws)

    def _fire(
        self, first: int, last: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Feature, token of the peak, peak and number of firing tokens of every (feature, slot), as
        a measure sorts them: by (feature, peak descending, sample, role)."""
        local = np.repeat(np.arange(last - first, dtype=np.uint64), self.draws[first:last])
        token = rng.integers(0, len(self.corpus.slot), len(local), dtype=np.int32)
        value = np.exp(rng.standard_normal(len(local), np.float32))
        value *= self.scale[first + local.astype(np.int64)]
        value += np.float32(THRESHOLD)
        # Positive floats sort like their bits: the highest of each (feature, slot) comes first.
        key = local * np.uint64(len(self.corpus.sample)) + self.corpus.slot[token].astype(np.uint64)
        order = np.argsort((key << np.uint64(32)) | _falling(value))
        key = key[order]
        heads = np.flatnonzero(np.diff(key, prepend=key[:1] + np.uint64(1)))
        n_tokens = np.diff(np.append(heads, len(key)))
        highest = order[heads]
        local, token, value = local[highest], token[highest], value[highest]
        # Slots are in order of (sample, role), and a stable sort keeps that among equal peaks.
        order = np.argsort((local << np.uint64(32)) | _falling(value), kind="stable")
        feature = (first + local[order]).astype(np.int32)
        return feature, token[order], value[order], n_tokens[order].astype(np.int32)

    def _spans(
        self,
        first: int,
        counts: np.ndarray,
        begins: np.ndarray,
        token: np.ndarray,
        peak: np.ndarray,
        rng: np.random.Generator,
    ) -> pa.Table:
        """The strongest rows, and rows evenly over the weaker ones' quantiles."""
        slots = np.arange(TOP + SPREAD)
        beyond = np.maximum(counts - TOP, 0)[:, None]
        spread = TOP + ((slots[TOP:] - TOP) * 2 + 1) * beyond // (2 * SPREAD)
        where = np.concatenate([np.broadcast_to(slots[:TOP], (len(counts), TOP)), spread], axis=1)
        fresh = np.diff(where, axis=1, prepend=-1) > 0
        local, column = np.nonzero((where < counts[:, None]) & fresh)
        within = where[local, column]
        row = begins[local] + within
        is_spread = column >= TOP
        group = local * 2 + is_spread
        rank = np.arange(len(group)) - np.searchsorted(group, group)
        table, offsets, at = self._windows(token[row])
        # What else of the window fires is made up: a tenth of its tokens, below the peak.
        flat = peak[row].repeat(np.diff(offsets)) * rng.random(offsets[-1], np.float32)
        flat[rng.random(offsets[-1], np.float32) > 0.1] = 0
        flat[offsets[:-1] + at] = peak[row]
        flat = flat.astype(np.float16).astype(np.float32)  # as a measure keeps them
        return pa.table(
            {
                "feature": first + local,
                "kind": np.where(is_spread, "spread", "top"),
                "rank": rank,
                "quantile": (counts[local] - 1 - within) / counts[local],
                "peak": peak[row],
                "activations": pa.ListArray.from_arrays(offsets, flat),
                **table,
            }
        )

    def _near(
        self,
        first: int,
        counts: np.ndarray,
        begins: np.ndarray,
        token: np.ndarray,
        peak: np.ndarray,
        rng: np.random.Generator,
    ) -> pa.Table:
        """The highest pre-activations: the peaks, and below the threshold where there are none."""
        local = np.repeat(np.arange(len(counts)), NEAR)
        rank = np.tile(np.arange(NEAR), len(counts))
        fires = rank < counts[local]
        row = np.where(fires, begins[local] + rank, 0)
        at = rng.integers(0, len(self.corpus.slot), len(local), dtype=np.int32)
        below = np.sort(rng.random((len(counts), NEAR), np.float32), axis=1)[:, ::-1].ravel()
        pre = np.float32(THRESHOLD) * below
        if len(token):
            at, pre = np.where(fires, token[row], at), np.where(fires, peak[row], pre)
        table, _, _ = self._windows(at)
        return pa.table({"feature": first + local, "rank": rank, "pre": pre, **table})

    def _windows(self, token: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """Columns that say where these tokens are and what stands around them, where each window
        begins in one long row of tokens, and the token's place within its window."""
        corpus = self.corpus
        slot = corpus.slot[token]
        first = np.maximum(corpus.first[slot], token - BEFORE + 1)
        length = np.minimum(corpus.first[slot + 1], token + AFTER + 1) - first
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
        flat = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], length)
        columns = {
            "sample": corpus.sample[slot],
            "role": _roles(corpus.role[slot]),
            "position": corpus.position[token],
            "peak_index": token - first,
            "tokens": pa.ListArray.from_arrays(offsets, corpus.pieces.take(pa.array(flat))),
        }
        return columns, offsets, token - first

    def _write_lengths(self, scratch: Path) -> None:
        n = len(self.corpus.chats)
        content = np.bincount(self.corpus.sample[self.corpus.slot], minlength=n)
        scaffold = SCAFFOLD * np.bincount(self.corpus.sample, minlength=n)
        table = pa.table(
            {
                "sample": np.arange(n),
                "n_tokens": content + scaffold,
                "n_content": content,
                "n_cut": np.zeros(n, np.int32),
            }
        )
        write_table(scratch / "sample_tokens.parquet", table, schema.SAMPLE_TOKENS)


def _falling(peak: np.ndarray) -> np.ndarray:
    """Positive float32 as uint64 that sort the other way round."""
    return (~peak.view(np.uint32)).astype(np.uint64)


def _roles(codes: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes, pa.array(ROLES))


# ---- explanations -------------------------------------------------------------------------------


def _write_explanations(runs: Runs, size: Size, measure_run: str) -> str:
    """Of every feature that fires: the odd ones could not be told, the others have a text of their
    spans' tokens, a made-up score and the test that would have been used."""
    spec = ExplainSpec(measure=measure_run)
    run = spec.run_id(measure_run)
    if runs.find(run):
        return run
    with runs.exclusive(run):
        rng = np.random.default_rng([size.seed, 5])
        scratch = runs.scratch(run)
        spans = runs.table(measure_run, "spans", ["feature", "kind", "rank"])
        feature = spans["feature"].to_numpy()
        fired = np.unique(feature)
        explained = fired[fired % 2 == 0]
        peaks_of: dict[int, list[tuple[str, list[Any]]]] = {i: [] for i in explained.tolist()}
        for batch in runs.batches(measure_run, "spans"):
            for row in batch.drop_columns(["activations", "quantile", "peak"]).to_pylist():
                if row["kind"] == "top" and row["feature"] in peaks_of:
                    word = row["tokens"][row["peak_index"]].strip()
                    at = [row["sample"], row["role"], row["position"]]
                    peaks_of[row["feature"]].append((word, at))
        texts, inputs = [], []
        for peaks in peaks_of.values():
            words = list(dict.fromkeys(word for word, _ in peaks))
            quoted = ", ".join(f"“{word}”" for word in words[:3])
            after = ", ".join(f"“{word}”" for word in words[3:6])
            texts.append(f"Peaks on {quoted}" + (f", in samples that say {after}" if after else ""))
            inputs.append(json.dumps({"spans": [at for _, at in peaks], "promotes": []}))
        has_text = fired % 2 == 0
        text_of, inputs_of = iter(texts), iter(inputs)
        table = {
            "feature": fired,
            "explainer": ["tokens"] * len(fired),
            "text": [next(text_of) if ok else None for ok in has_text],
            "status": np.where(has_text, "explained", "cannot_tell"),
            "reason": np.where(has_text, "", "the examples have nothing in common"),
            "source": ["synthetic"] * len(fired),
            "prompt_hash": [""] * len(fired),
            "inputs": [next(inputs_of) if ok else "{}" for ok in has_text],
        }
        write_table(scratch / "explanations.parquet", pa.table(table), schema.EXPLANATIONS)
        n = len(explained)
        value = np.clip(0.73 + 0.1 * rng.standard_normal(n), 0, 1)
        scores = {
            "feature": explained,
            "score": ["auroc"] * n,
            "value": value,
            "low": np.maximum(value - 0.08, 0),
            "high": np.minimum(value + 0.08, 1),
            "n": np.full(n, 1000),
            "n_positive": rng.integers(20, 200, n),
            "n_unreadable": np.zeros(n, int),
        }
        write_table(scratch / "scores.parquet", pa.table(scores), schema.SCORES)
        write_table(scratch / "examples.parquet", _examples(spans, rng), schema.EXAMPLES)
        write_table(scratch / "replies.parquet", schema.REPLIES.empty_table(), schema.REPLIES)
        runs.publish(
            run,
            spec=spec,
            inputs=[measure_run],
            seconds=0,
            facts=ExplainFacts(
                name="large-anchor",
                measure=measure_run,
                explainer="tokens",
                source="synthetic",
                n_features=len(fired),
                silent=0,
                counts={"cannot_tell": len(fired) - n, "explained": n},
                scores={"auroc": {"n": n, "median": float(np.median(value))}},
            ),
        )
    return run


def _examples(spans: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Of every explained feature: half its spans, and as many of other features."""
    feature = spans["feature"].to_numpy()
    positive = np.flatnonzero((feature % 2 == 0) & (spans["rank"].to_numpy() % 2 == 1))
    negative = rng.integers(0, len(spans), len(positive))
    about = np.concatenate([feature[positive], feature[positive]])
    source = np.concatenate([positive, negative])
    fires = np.arange(len(source)) < len(positive)
    keep = fires | (feature[source] != about)
    about, source, fires = about[keep], source[keep], fires[keep]
    order = np.lexsort((rng.random(len(about)), about))
    about, source, fires = about[order], source[order], fires[order]
    never = pa.nulls(len(about), pa.bool_())
    return pa.table(
        {
            "feature": about,
            "number": np.arange(len(about)) - np.searchsorted(about, about),
            "source_feature": feature[source],
            "source_kind": spans["kind"].take(pa.array(source)),
            "source_rank": spans["rank"].take(pa.array(source)),
            "positive": fires,
            "hard": np.zeros(len(about), bool),
            "detected": never,
            "fuzzed": never,
            "fuzz_right": never,
        }
    )


# ---- the command --------------------------------------------------------------------------------


def add_size(parser: argparse.ArgumentParser) -> None:
    """The options that make a Size."""
    default = Size()
    parser.add_argument("--features", type=int, default=default.features)
    parser.add_argument("--samples", type=int, default=default.samples)
    parser.add_argument(
        "--activations", type=int, default=default.activations, help="of the anchor, about"
    )
    parser.add_argument(
        "--share", type=float, default=default.share, help="of the anchor's size: the dataset's"
    )
    parser.add_argument("--seed", type=int, default=default.seed)


def size_of(args: argparse.Namespace) -> Size:
    return Size(**{name: getattr(args, name) for name in Size.__dataclass_fields__})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_store", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--workspace", type=Path, required=True)
    add_size(parser)
    args = parser.parse_args(arguments)
    workspace = Workspace(args.workspace.resolve())
    begun = time.monotonic()
    ids = write(workspace, size_of(args), lambda note: print(note, file=sys.stderr, flush=True))
    out = ["| run | what | largest table, rows | MB |", "|---|---|---|---|"]
    for what, run in ids.items():
        files = Runs(workspace).manifest(run).files
        most = max(facts["rows"] for facts in files.values())
        size = sum(facts["bytes"] for facts in files.values()) / 1e6
        out.append(f"| {run} | {what} | {most:,} | {size:,.1f} |")
    sys.stdout.write("\n".join(out) + "\n")
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
