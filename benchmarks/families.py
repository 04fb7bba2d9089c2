"""Whether families are topics: `python -m benchmarks.families --workspace DIR [--samples 2000]`.

Chats of the corpus, drawn at random, are measured once with the demo model (ten minutes on two
cores; a killed measure goes on). Their features are grouped as `fac families` does, and for every
family it is asked how alike the words are on which its members peak: the cosine of the input
embeddings of their peak tokens, averaged over each feature's strongest spans, then over the pairs
of a family, then over families. Beside it random groups of the same sizes of the same features,
and the families that only the nearest of each feature give, as on dictionaries too large for all
pairs: which share of the pairs of members stay together, and which share of theirs are right.

Then the map: the same cosine of each feature and the ten that lie nearest, less that of all pairs,
and Clark and Evans' ratio (1954), the mean distance to the nearest over that of points strewn
at random, 1 for noise; beside the map of decoder directions of the SAE's own run. `--cost` prints
the seconds and the memory of families and map alone, of any measured dataset.
"""

from __future__ import annotations

import argparse
import gzip
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from benchmarks.believe import CORPUS
from benchmarks.synthesis import report
from fac import families
from fac.config import FamiliesSpec, IngestSpec, MeasureSpec, Workspace
from fac.coverage import everywhere_relevant
from fac.interpret.grouping import feature_map, incidence
from fac.jobs.steps import Steps
from fac.store.runs import Runs

TARGET = 0.04
"""By which families are to beat random groups."""

MAP_TARGET, STREWN = 4.0, 0.8
"""How many times as coherent as the map of directions the new one is to be, and how clustered."""

ON_MAP_NEAR = 10

REPEATS = 20
"""Random groupings."""


def measured(steps: Steps, samples: int) -> str:
    """The measure run of chats drawn at random."""
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        drawn = random.Random(0).sample([*lines], samples)
    path = steps.workspace.root / "corpus.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(drawn), "utf-8")
    dataset = steps.perform(IngestSpec(name="corpus", source=str(path)), report)
    return steps.perform(MeasureSpec(dataset=dataset), report)


def peak_embeddings(runs: Runs, measure: str, steps: Steps) -> np.ndarray:
    """The mean input embedding of each feature's peak tokens, at length 1: float32 `[n_features,
    d_model]`, 0 where it has none."""
    model = steps.encoder(runs.manifest(measure).spec, report).model
    tokens = model.tokenizer
    table = model.model.get_input_embeddings().weight.detach().float().cpu().numpy()
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    means = np.zeros((runs.manifest(measure).facts.n_features, table.shape[1]), np.float32)
    spans = runs.table(measure, "spans", ["feature", "kind", "peak_index", "tokens"])
    spans = spans.filter(pc.equal(spans["kind"], "top"))
    for feature, at, words in zip(
        *(spans[name].to_pylist() for name in ("feature", "peak_index", "tokens")), strict=True
    ):
        ids = tokens.encode(words[at], add_special_tokens=False)
        if len(ids) == 1:  # else it is a part of a character
            means[feature] += table[ids[0]]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return means / np.where(lengths > 0, lengths, 1)


def coherence(vectors: np.ndarray, family: np.ndarray) -> float:
    """The mean cosine of two members of a family, averaged over families. `vectors` are `[n, d]` of
    length 1, `family` int `[n]`, -1 for none."""
    means = []
    for number in range(family.max() + 1):
        members = vectors[family == number]
        n, total = len(members), members.sum(axis=0)
        means.append(float((total @ total - n) / (n * (n - 1))))
    return float(np.mean(means))


def map_coherence(vectors: np.ndarray, xy: np.ndarray, k: int = ON_MAP_NEAR) -> float:
    """The mean cosine of features and the k that lie nearest to each, less that of all pairs.

    `vectors` are `[n, d]` of length 1, `xy` `[n, 2]`.
    """
    from scipy.spatial import cKDTree

    near = cKDTree(xy).query(xy, k + 1)[1]
    # Where several lie in one place, oneself need not come first.
    others = np.array([[j for j in row if j != i][:k] for i, row in enumerate(near.tolist())])
    n, total = len(vectors), vectors.sum(axis=0)
    nearby = float(np.einsum("nd,nkd->nk", vectors, vectors[others]).mean())
    return nearby - float((total @ total - n) / (n * (n - 1)))


def clark_evans(xy: np.ndarray) -> float:
    """The mean distance of points `[n, 2]` to the nearest, over that of as many points strewn at
    random over their convex hull: 1 / (2 sqrt(n / area))."""
    from scipy.spatial import ConvexHull, cKDTree

    nearest = cKDTree(xy).query(xy, 2)[0][:, 1].mean()
    return float(2 * nearest * np.sqrt(len(xy) / ConvexHull(xy).volume))


class Agreement(NamedTuple):
    """Of pairs of features in one family: the share that is also in one of another grouping, and
    the other way round."""

    recall: float
    precision: float


def agreement(family: np.ndarray, other: np.ndarray) -> Agreement:
    """How far a second grouping has the pairs of the first, int `[n]` each, -1 for none."""
    both = (family >= 0) & (other >= 0)
    code = family[both].astype(np.int64) << 32 | other[both]
    shared = _pairs(np.unique(code, return_counts=True)[1])
    one, two = (_pairs(np.bincount(each[each >= 0])) for each in (family, other))
    return Agreement(shared / one if one else np.nan, shared / two if two else np.nan)


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def cost(spec: FamiliesSpec, runs: Runs, pairs: Any, features: np.ndarray) -> dict[str, float]:
    """Seconds of families and of the map, how many of those most like each the map has (all, where
    all pairs are compared), and the most memory this process has held, in GB."""
    begun = time.perf_counter()
    alike = families.compared(pairs, features)
    families.grouped(alike, len(features))
    del alike
    grouped = time.perf_counter()
    places, recall = feature_map(spec, runs, features)
    return {
        "features": len(features),
        "on the map": len(places),
        "recall of its neighbours": 1.0 if recall is None else round(recall, 3),
        "seconds of families": round(grouped - begun, 1),
        "seconds of the map": round(time.perf_counter() - grouped, 1),
        "peak memory, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def show(figures: dict[str, float]) -> None:
    for name, figure in figures.items():
        print(f"{name:>28}  {figure:,}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Families against random groups.")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--measure", help="Name or id of a measured dataset, instead of the corpus")
    parser.add_argument("--cost", action="store_true", help="Time and memory alone")
    options = parser.parse_args(arguments)
    workspace = Workspace(options.workspace.resolve())
    steps, runs = Steps(workspace), Runs(workspace)
    named = options.measure
    measure = runs.resolve("measure", named) if named else measured(steps, options.samples)
    peak = runs.table(measure, "activations", ["peak"])["peak"].to_numpy()
    threshold = float(f"{np.median(peak):.3g}")
    spec = FamiliesSpec(measure=measure, threshold=threshold)
    pairs = incidence(spec, runs)
    support = pairs.sum(axis=0, dtype=np.int64)
    asked = np.flatnonzero(everywhere_relevant(support, pairs.shape[0], FamiliesSpec.min_support))
    if options.cost:
        show(cost(spec, runs, pairs, asked))
        return
    vectors = peak_embeddings(runs, measure, steps)
    asked = asked[vectors[asked].any(axis=1)]
    alike = families.compared(pairs, asked)
    family = np.full(pairs.shape[1], -1, np.int32)
    family[asked] = families.grouped(alike, len(asked))
    del alike
    places, _ = feature_map(spec, runs, asked)
    sizes = np.bincount(family[family >= 0])
    of_families = coherence(vectors, family)
    rng, random_ones = np.random.default_rng(0), []
    for _ in range(REPEATS):
        shuffled = np.full(len(family), -1)
        shuffled[asked] = rng.permutation(family[asked])
        random_ones.append(coherence(vectors, shuffled))
    few = agreement(family, families.group(pairs, asked, exact=0))
    figures = {
        "features": len(asked),
        "families": len(sizes),
        "in families": int(sizes.sum()),
        "largest": int(sizes[0]),
        "cosine in families": round(of_families, 3),
        "in random groups": round(float(np.mean(random_ones)), 3),
        "highest of random": round(max(random_ones), 3),
        f"of {families.NEAREST} nearest, recall": round(few.recall, 3),
        "precision": round(few.precision, 3),
    }
    show(figures)
    better = of_families - float(np.mean(random_ones))
    print(f"{better:+.3f}: {'at least' if better >= TARGET else 'below'} the {TARGET} asked for")

    laid_out = places["feature"].to_numpy()
    of_directions = runs.table(runs.manifest(measure).facts.sae_run, "features", ["x", "y"])
    maps = {
        "by co-activation": np.stack([places[axis].to_numpy() for axis in ("x", "y")], axis=1),
        "by direction": np.stack([of_directions[axis].to_numpy() for axis in ("x", "y")], axis=1)[
            laid_out
        ],
    }
    coherent = {name: map_coherence(vectors[laid_out], xy) for name, xy in maps.items()}
    strewn = {name: clark_evans(xy) for name, xy in maps.items()}
    show({f"coherence {name}": round(value, 3) for name, value in coherent.items()})
    show({f"Clark-Evans {name}": round(value, 3) for name, value in strewn.items()})
    new, old = coherent.values()
    met = new >= MAP_TARGET * old and strewn["by co-activation"] <= STREWN
    print(f"{new / old:.1f} times as coherent: {'as' if met else 'not what is'} asked for")


if __name__ == "__main__":
    main()
