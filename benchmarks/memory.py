"""Peak memory of a measure against the size of its dataset.

    python -m benchmarks.memory --samples 2000 200000

measures datasets of short texts, all different, each in a process of its own, and tells the highest
resident set the kernel saw (`ru_maxrss`). The model has random weights, a few thousand of them, and
the SAE the width of the demo's, so that a text costs milliseconds; what `fac measure` holds beside
the model (tables, examples, near misses) depends on samples and width and is what is measured here.
`--fake` goes without a model at all, which shows the cost of everything else at a million samples.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fac import schema
from fac.config import REPOSITORY, IngestSpec, MeasureSpec, Workspace
from fac.encoder import Encoder, NearMisses, Reading
from fac.manifest import DatasetFacts
from fac.measure import measure
from fac.models import ROLES, Chat, Rendered
from fac.schema import Activations
from fac.store.runs import ParquetAppender, Runs

CONTENT = 8
"""Content tokens of a text, about."""


def dataset(runs: Runs, samples: int) -> str:
    """A dataset run of short texts, all different, written a piece at a time."""
    spec = IngestSpec(name=f"short-{samples}", source="-")
    run_id = spec.run_id()
    words = ["the", "oven", "is", "hot", "bread", "river", "garden", "what", "capital", "loaf"]
    draw = np.random.default_rng(0)
    with ParquetAppender(runs.scratch(run_id) / "samples.parquet", schema.SAMPLES) as out:
        for first in range(0, samples, 10_000):
            rows = range(first, min(first + 10_000, samples))
            texts = [f"{i} " + " ".join(draw.choice(words, CONTENT - 3)) for i in rows]
            out.append(
                pa.table(
                    {
                        "sample_id": [f"{i:016x}" for i in rows],
                        "messages": [[{"role": "user", "content": text}] for text in texts],
                        "label": pa.nulls(len(texts), pa.string()),
                        "meta": ["{}"] * len(texts),
                    },
                    schema=schema.SAMPLES,
                )
            )
    facts = DatasetFacts(name=spec.name, n_samples=samples)
    runs.publish(run_id, spec=spec, inputs=[], facts=facts, seconds=0.0)
    return run_id


class FakeEncoder:
    """Fires features at random, as many a token as a usual SAE, with frequencies of a power law."""

    def __init__(self, n_features: int, active: int = 26, rows: int = 256):
        self.n_features, self.active, self.rows = n_features, active, rows
        self.identity = f"fake/{n_features}"
        self._share = np.cumsum(1.0 / np.arange(1, n_features + 1) ** 0.7)
        self._share /= self._share[-1]

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """Every word is a token."""
        texts = []
        for chat in chats:
            text = chat[0]["content"]
            lengths = np.array([len(word) for word in text.split(" ")], np.int32)
            ends = (np.cumsum(lengths + 1) - 1).astype(np.int32)
            zeros = np.zeros(len(ends), np.int32)
            role = np.full(len(ends), ROLES.index("user"), np.int8)
            turn = zeros.astype(np.int16)
            texts.append(Rendered(zeros, role, turn, ends - lengths, ends, text, 0))
        return texts

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """See `Encoder`."""
        (activations,) = (reading.pooled() for reading in self.read(chats))
        return activations

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """See `Encoder`; the same for the same first text."""
        rendered = self.render(chats)
        draw = np.random.default_rng(len(rendered[0].text) + int(rendered[0].text.split()[0]))
        for first in range(0, len(chats), self.rows):
            batch = rendered[first : first + self.rows]
            samples = np.arange(first, first + len(batch))
            sample = np.repeat(samples, [len(text.ids) for text in batch])
            position = np.concatenate([np.arange(len(text.ids)) for text in batch])
            token = np.repeat(np.arange(len(sample)), self.active)
            drawn = np.searchsorted(self._share, draw.random(len(token)))
            key = np.unique(token * self.n_features + drawn)  # a feature fires once on a token
            token, feature = np.divmod(key, self.n_features)
            near = NearMisses.none(self.n_features)
            near.pre[0] = draw.random(self.n_features, np.float32)
            near.sample[0] = draw.choice(samples, self.n_features)
            near.position[0] = 0
            yield Reading(
                samples=samples.tolist(),
                rendered=batch,
                sample=sample[token].astype(np.int32),
                position=position[token].astype(np.int32),
                feature=feature.astype(np.int32),
                value=draw.random(len(key), np.float32) + np.float32(0.01),
                role=np.full(len(key), ROLES.index("user"), np.int8),
                near=near,
            )


def random_encoder(folder: Path, width: int) -> Encoder:
    """A Llama of random weights under an SAE of random weights that fires about as a real one."""
    from fac.encoder import SaeEncoder
    from fac.models import SubjectModel
    from fac.saes import load_sae

    tiny: Any = import_module("tests.tiny")  # where models of random weights are made

    model, sae = folder / "model", folder / "sae"
    if not sae.exists():
        tiny.llama(model, template=None)
        tiny.sae(sae, "topk", n_features=width)
        tiny.edit_json(sae / "cfg.json", k=26)
    return SaeEncoder(SubjectModel(model, layer=2), load_sae(str(sae), "cpu"), "random")


def child(samples: int, width: int, fake: bool, root: Path) -> dict[str, Any]:
    """One measure in this process; what it took."""
    runs = Runs(Workspace(root / str(samples)))
    encoder = FakeEncoder(width) if fake else random_encoder(root, width)
    source = dataset(runs, samples)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    last: list[float] = []

    def watch(done: int, total: int, note: str = "") -> None:
        if done == total and note.startswith("sorting") and not last:
            last.append(time.monotonic())

    begun = time.monotonic()
    spec = MeasureSpec(dataset=source)
    how: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": watch}
    run_id = measure(spec, sae_run="sae-0", **how)
    ended = time.monotonic()
    manifest = runs.manifest(run_id)
    return {
        "samples": samples,
        "rows": manifest.files["activations.parquet"]["rows"],
        "before": before / 1024,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "reading": last[0] - begun,
        "tables": ended - last[0],
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[2_000, 200_000])
    parser.add_argument("--width", type=int, default=8_192, help="features of the SAE")
    parser.add_argument("--fake", action="store_true", help="without any model")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(child(options.samples[0], options.width, options.fake, options.child)))
        return
    print("| samples | activations | reading, s | tables, s | peak RSS, MB | above the first, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    first = None
    with tempfile.TemporaryDirectory() as root:
        for samples in options.samples:
            command = [sys.executable, "-m", "benchmarks.memory", "--child", root]
            command += ["--samples", str(samples), "--width", str(options.width)]
            ended = subprocess.run(
                [*command, *(["--fake"] if options.fake else [])],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
            row = json.loads(ended.stdout.splitlines()[-1])
            first = first or row["peak"]
            print(
                f"| {row['samples']:,} | {row['rows']:,} | {row['reading']:.0f} "
                f"| {row['tables']:.0f} | {row['peak']:,.0f} | {row['peak'] - first:+,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
