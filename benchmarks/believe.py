"""How far gaps, intervals and forecasts can be believed: `python -m benchmarks.believe`.

Chats of the corpus, a third each from three sources, are measured once with the demo model (ten
minutes on two cores; a killed measure goes on). Then everything is drawn from them at random, where
the truth is known: halves of one population have no gaps; a source against the mix has true ones,
which a half that the test did not see confirms; FAC at given sizes and features at twice the size
are averages over the repeats, which the intervals should cover.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import REPOSITORY, IngestSpec, MeasureSpec, Workspace
from fac.interpret.judges.labels import contrast
from fac.jobs.steps import Steps
from fac.schema import SURELY_RELEVANT
from fac.store.runs import Runs
from fac.uncertainty import (
    Incidence,
    fac_interval,
    gap_test,
    growth,
    rarefaction,
    split_draws,
    yardstick,
)

CORPUS = REPOSITORY.parent / "shared" / "data" / "sae_corpus.jsonl.gz"
TOXICITY = REPOSITORY.parent / "shared" / "data" / "toxicity_surge.jsonl"

SETTINGS = ((400, 100), (400, 200), (400, 400), (800, 100), (800, 400), (1200, 600))
"""Samples of the anchor and of the dataset, for intervals of FAC."""

SIZES = (100, 200, 400, 600, 800, 1200)
"""Samples from which twice as many are forecast."""


class Population(NamedTuple):
    """Measured samples, from which everything is drawn."""

    sample: np.ndarray
    feature: np.ndarray
    """int `[pairs]`: which sample fires which feature above the threshold."""

    tokens: np.ndarray
    """int `[n_samples]`: content tokens."""

    label: np.ndarray
    """str `[n_samples]`."""

    n_features: int

    @property
    def n_samples(self) -> int:
        return len(self.tokens)

    def part(self, samples: np.ndarray) -> Incidence:
        """Some of the samples, renumbered in their order."""
        number = np.full(self.n_samples, -1)
        number[samples] = np.arange(len(samples))
        inside = number[self.sample] >= 0
        sample = number[self.sample[inside]]
        return Incidence(sample, self.feature[inside], len(samples), self.n_features)

    def support(self, samples: np.ndarray) -> np.ndarray:
        return self.part(samples).support()


def load(runs: Runs, measure: str, threshold: float | None) -> tuple[Population, float]:
    """A measured dataset at a threshold, by default that of clear firing: its median peak."""
    facts = runs.manifest(measure).facts
    table = runs.table(measure, "activations", ["sample", "feature", "peak"])
    peak = table["peak"].to_numpy()
    threshold = float(np.median(peak)) if threshold is None else threshold
    clear = peak > threshold
    pairs = np.stack([table[name].to_numpy()[clear] for name in ("sample", "feature")])
    sample, feature = np.unique(pairs, axis=1)
    tokens = runs.table(measure, "sample_tokens", ["sample", "n_content"])
    content = np.zeros(facts.n_samples, np.int64)
    content[tokens["sample"].to_numpy()] = tokens["n_content"].to_numpy()
    labels = runs.table(facts.dataset, "samples", ["label"])["label"].to_numpy()
    return Population(sample, feature, content, labels.astype(str), facts.n_features), threshold


def write_corpus(folder: Path, each: int) -> list[Path]:
    """`each` chats of every source in random order, and half of them with half of the words of each
    message: in `part` the first or the second, by lot; in `cut` always the first."""
    by_source: dict[str, list[Any]] = {}
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            by_source.setdefault(row["source"].split("/")[0], []).append(row["messages"])
    draw = random.Random(0)
    rows = []
    for source, chats in sorted(by_source.items()):
        drawn = {json.dumps(chat): chat for chat in draw.sample(chats, each)}  # each once
        rows += [{"messages": chat, "label": source} for chat in drawn.values()]
    draw.shuffle(rows)
    half = rows[: len(rows) // 2]
    part = [{**r, "messages": [_half(m, draw.random() < 0.5) for m in r["messages"]]} for r in half]
    cut = [{**r, "messages": [_half(m, True) for m in r["messages"]]} for r in half]
    paths = []
    for name, chats in (("mix", rows), ("part", part), ("cut", cut)):
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in chats), "utf-8")
    return paths


def _half(message: dict[str, str], first: bool) -> dict[str, str]:
    words = message["content"].split(" ")
    n = max(len(words) // 2, 1)
    return {**message, "content": " ".join(words[:n] if first else words[-n:])}


def measured(workspace: Workspace, paths: Sequence[Path]) -> list[str]:
    """The measure run of every file; what was measured before is taken as it is."""
    steps = Steps(workspace)

    def progress(done: int, total: int, note: str = "") -> None:
        if done % 200 == 0:
            print(f"{done:,} of {total:,} {note}", flush=True)

    ids = []
    for path in paths:
        spec = IngestSpec(name=path.stem, source=str(path), label_field="label", on_bad="skip")
        dataset = steps.perform(spec, progress)
        ids.append(steps.perform(MeasureSpec(dataset=dataset), progress))
    return ids


# --- what is checked ------------------------------------------------------------------------------


def tested(
    population: Population, anchor: np.ndarray, dataset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features that the dataset's samples show too seldom: significantly, and for certain."""
    in_anchor, in_dataset = population.support(anchor), population.support(dataset)
    candidates = np.flatnonzero(in_anchor)
    test = gap_test(
        in_anchor[candidates],
        in_dataset[candidates],
        anchor_tokens=int(population.tokens[anchor].sum()),
        dataset_tokens=int(population.tokens[dataset].sum()),
    )
    return candidates[test.significant], candidates[test.certain]


def null_splits(population: Population, splits: int, rng: np.random.Generator) -> list[int]:
    """Certain gaps between random halves of one population."""
    counts = []
    for _ in range(splits):
        first, second = np.array_split(rng.permutation(population.n_samples), 2)
        counts.append(len(tested(population, first, second)[1]))
    return counts


def held_out(
    population: Population, source: str, repeats: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Gaps of one source against the others, on average, and the share of them that a half of the
    source which the test did not see fires at most half as often as expected: of the significant
    ones and of the certain ones."""
    counts = np.zeros((2, 2))
    mine, rest = (np.flatnonzero((population.label == source) == same) for same in (True, False))
    for _ in range(repeats):
        dataset, unseen = np.array_split(rng.permutation(mine), 2)
        anchor = rng.permutation(rest)[: population.n_samples // 2]
        rate = population.tokens[unseen].sum() / population.tokens[anchor].sum()
        confirmed = population.support(unseen) <= population.support(anchor) * rate / 2
        for sums, gaps in zip(counts, tested(population, anchor, dataset), strict=True):
            sums += (len(gaps), confirmed[gaps].sum())
    return [(float(n / repeats), float(sure / n) if n else float("nan")) for n, sure in counts]


def interval_of_fac(
    population: Population, n_anchor: int, n_dataset: int, repeats: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """(mean FAC, share of the intervals that cover it, mean half-width)."""
    intervals = []
    for _ in range(repeats):
        order = rng.permutation(population.n_samples)
        anchor, dataset = order[:n_anchor], order[n_anchor : n_anchor + n_dataset]
        intervals.append(
            fac_interval(population.part(anchor).firing(), population.part(dataset).firing())
        )
    truth = float(np.mean([each.value for each in intervals]))
    covered = np.mean([each.low <= truth <= each.high for each in intervals])
    return truth, float(covered), float(np.mean([each.high - each.low for each in intervals])) / 2


def forecast(
    population: Population, n: int, repeats: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Of n samples doubled: (new features by rarefaction, share covered, mean half-width)."""
    whole = population.support(np.arange(population.n_samples))
    at_n, at_twice = rarefaction(whole, population.n_samples, np.array([n, 2 * n]))
    truth, intervals = float(at_twice - at_n), []
    for _ in range(repeats):
        part = population.part(rng.permutation(population.n_samples)[:n]).firing()
        intervals.append(growth(part, 1.0))
    covered = np.mean([each.low <= truth <= each.high for each in intervals])
    return truth, float(covered), float(np.mean([each.high - each.low for each in intervals])) / 2


def carried_over(
    population: Population, source: str, n_dataset: int, repeats: int, rng: np.random.Generator
) -> tuple[int, float, float]:
    """Content tokens of samples of a source, the yardstick's median of half the population at that
    size, and what fresh samples of the other half as long cover of it; medians of the repeats."""
    figures = []
    for _ in range(repeats):
        anchor, rest = np.array_split(rng.permutation(population.n_samples), 2)
        dataset = rest[population.label[rest] == source][:n_dataset]
        size = int(population.tokens[dataset].sum())
        there = population.part(anchor)
        order = np.argsort(there.feature, kind="stable")
        there = there._replace(sample=there.sample[order], feature=there.feature[order])
        shows, in_dataset = there.support() > 0, population.support(dataset) > 0
        draws = split_draws(population.tokens[anchor], size, words=1, rng=rng)
        of_halves = yardstick(there, draws, in_dataset)
        fresh = rng.permutation(rest)
        fresh = fresh[: int(np.searchsorted(np.cumsum(population.tokens[fresh]), size)) + 1]
        median = of_halves.of_whole(float(in_dataset[shows].mean())).median
        figures.append((size, median, (population.support(fresh) > 0)[shows].mean()))
    size, median, truth = np.median(figures, axis=0)
    return int(size), float(median), float(truth)


def cut_against_whole(whole: Population, cut: Population) -> tuple[int, int]:
    """Certain gaps of text cut to half against other, whole text: by tokens and by samples."""
    n = cut.n_samples
    anchor = np.arange(whole.n_samples // 2, whole.n_samples)
    in_anchor, in_cut = whole.support(anchor), cut.support(np.arange(n))
    features = np.flatnonzero(in_anchor)
    counts = []
    for exposure in (
        {"anchor_tokens": int(whole.tokens[anchor].sum()), "dataset_tokens": int(cut.tokens.sum())},
        {"anchor_tokens": len(anchor), "dataset_tokens": n},
    ):
        test = gap_test(in_anchor[features], in_cut[features], **exposure)
        counts.append(int(test.certain.sum()))
    return counts[0], counts[1]


def relevance(runs: Runs, measure: str, label: str, threshold: float) -> tuple[int, int, int, int]:
    """Features relevant for a label and for its absence: as they are, and stratified."""
    carries = _carries(runs, measure, label)
    counts = [
        _n_relevant(runs, measure, has, threshold, n_strata)
        for n_strata in (1, 0)
        for has in (carries, ~carries)
    ]
    return counts[0], counts[1], counts[2], counts[3]


def permuted(
    runs: Runs,
    measure: str,
    label: str,
    threshold: float,
    times: int,
    rng: np.random.Generator,
) -> float:
    """Relevant features, on average, where the labels mean nothing."""
    carries = _carries(runs, measure, label)
    counts = [_n_relevant(runs, measure, rng.permutation(carries), threshold) for _ in range(times)]
    return float(np.mean(counts))


def by_length(
    runs: Runs, measure: str, threshold: float, times: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Relevant features, on average, where long texts carry a label by their length alone: as they
    are, and stratified."""
    population, _ = load(runs, measure, threshold)
    length = np.log1p(np.bincount(population.sample, minlength=population.n_samples))
    chance = 1 / (1 + np.exp(-1.5 * (length - length.mean()) / length.std()))
    labels = [rng.random(population.n_samples) < chance for _ in range(times)]
    plain, stratified = (
        float(np.mean([_n_relevant(runs, measure, has, threshold, n) for has in labels]))
        for n in (1, 0)
    )
    return plain, stratified


def _carries(runs: Runs, measure: str, label: str) -> np.ndarray:
    dataset = runs.manifest(measure).facts.dataset
    labels = runs.table(dataset, "samples", ["label"])["label"].to_pylist()
    return np.array([each == label for each in labels])


def _n_relevant(
    runs: Runs, measure: str, carries: np.ndarray, threshold: float, n_strata: int = 0
) -> int:
    """Features that the judge calls relevant, as it does."""
    every = np.ones(len(carries), bool)
    levels = contrast(runs, measure, carries, every, threshold, n_strata=n_strata).levels()
    return sum(level in SURELY_RELEVANT for level in levels)


# --- the tables -----------------------------------------------------------------------------------


def report(
    whole: Population, part: Population, cut: Population, options: argparse.Namespace
) -> Iterator[str]:
    """Every table, line by line."""
    rng = np.random.default_rng(options.seed)
    counts = null_splits(whole, options.splits, rng)
    yield f"Null: {np.mean(counts):.2f} certain gaps a split ({max(counts)} at most), "
    yield f"of {options.splits} random halves of {whole.n_samples:,} chats."
    yield "\n| source against the others | significant | confirmed | certain gaps | confirmed |"
    yield "|---|---|---|---|---|"
    for source in sorted(set(whole.label)):
        figures = held_out(whole, source, options.splits, rng)
        yield (
            f"| {source} | " + " | ".join(f"{n:,.0f} | {share:.2f}" for n, share in figures) + " |"
        )
    yield "\n| anchor | dataset | FAC | covered | half-width |"
    yield "|---|---|---|---|---|"
    for n_anchor, n_dataset in SETTINGS:
        if n_anchor + n_dataset > whole.n_samples:
            yield f"| {n_anchor:,} | {n_dataset:,} | too few chats | | |"
            continue
        value, share, half = interval_of_fac(whole, n_anchor, n_dataset, options.repeats, rng)
        yield f"| {n_anchor:,} | {n_dataset:,} | {value:.3f} | {share:.2f} | {half:.3f} |"
    yield "\n| samples | new features at twice as many | covered | half-width |"
    yield "|---|---|---|---|"
    for n in SIZES:
        if 2 * n > whole.n_samples:
            yield f"| {n:,} | too few chats | | |"
            continue
        value, share, half = forecast(whole, n, options.repeats, rng)
        yield f"| {n:,} | {value:,.0f} | {share:.2f} | {half:,.0f} |"
    yield "\n| dataset | tokens | yardstick | fresh text as long |"
    yield "|---|---|---|---|"
    for source in sorted(set(whole.label)):
        for n in (50, 200):
            size, median, truth = carried_over(whole, source, n, options.splits, rng)
            yield f"| {n} of {source} | {size:,} | {median:.3f} | {truth:.3f} |"
    yield "\n| half of every message | certain gaps by tokens | by samples |"
    yield "|---|---|---|"
    for name, halves in (("the first or the second, by lot", part), ("the first", cut)):
        by_tokens, by_samples = cut_against_whole(whole, halves)
        yield f"| {name} | {by_tokens:,} | {by_samples:,} |"


def report_on_labels(
    runs: Runs, measure: str, threshold: float, rng: np.random.Generator
) -> Iterator[str]:
    """How much of what a label marks is length, at clear firing and at the paper's threshold."""
    yield (
        "\n| peaks above | relevant for label 1 | 0 | given active features: 1 | 0 | permuted "
        "| label by length | the same given active features |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for level in (threshold, 0.0):
        counts = " | ".join(f"{n:,}" for n in relevance(runs, measure, "1", level))
        chance = permuted(runs, measure, "1", level, 20, rng)
        plain, stratified = by_length(runs, measure, level, 20, rng)
        yield f"| {level:.2f} | {counts} | {chance:.2f} | {plain:,.1f} | {stratified:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--each", type=int, default=800, help="Chats of each source.")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threshold", type=float, help="By default the median peak.")
    parser.add_argument("--only-labels", action="store_true", help="No chats of the corpus.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve())
    workspace.inputs.mkdir(parents=True, exist_ok=True)
    runs = Runs(workspace)
    (toxic,) = measured(workspace, [TOXICITY])
    _, clear = load(runs, toxic, options.threshold)
    for line in report_on_labels(runs, toxic, clear, np.random.default_rng(options.seed)):
        print(line, flush=True)
    if options.only_labels:
        return
    mix, part, cut = measured(workspace, write_corpus(workspace.inputs, options.each))
    whole, threshold = load(runs, mix, options.threshold)
    print(f"\nClear firing: peaks above {threshold:.2f}.\n")
    by_lot, first = (load(runs, run, threshold)[0] for run in (part, cut))
    for line in report(whole, by_lot, first, options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
