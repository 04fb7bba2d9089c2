"""What a gap costs to fill, by rows that exist and by rows that are written.

    python -m benchmarks.filling --workspace DIR [--gaps 60]

Two datasets lack something for certain: the demo's, about kitchens, and 200 chats of small talk
against 2,000 chats of the corpus. For the same certain gaps of each, drawn at random where there
are more than `--gaps`: the fewest rows of a pool of unused chats (`fac fill`), what the measured
model writes in two steps and keeps (all gates on, approvals from this script), both together, and
random rows of the pool, of as many tokens as the chosen ones have. Beside it the pool on all
certain gaps. A gap is filled where one row fires it above the threshold of clear firing. Measuring
takes twenty minutes on two cores, writing ten; a second start goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.believe import CORPUS
from benchmarks.families import measured
from benchmarks.synthesis import approve, report
from fac import demo, synthesis
from fac.config import IngestSpec, MeasureSpec, PairsSpec, SynthesizeSpec, Workspace
from fac.jobs.steps import Steps, decoder_directions
from fac.questions.by_name import build_caches
from fac.questions.comparison import Comparison, clear_firing
from fac.questions.explanations import explain_runs
from fac.questions.fill import Budget, Figures, fill
from fac.questions.gap_evidence import KINDS, certain_features
from fac.questions.shape import shape_of
from fac.store import Stores, open_stores
from fac.store.runs import Runs

NARROW = "chitchat"
SAMPLES = 2000  # of the corpus, as the anchor
SIZES = {"small-talk": 200, "pool": 1000}
CANDIDATES = 24  # texts a gap, at most


class Task(NamedTuple):
    """What lacks something, and where rows could come from: measure runs."""

    name: str
    anchor: str
    dataset: str
    pool: str


class Way(NamedTuple):
    """One way to fill the same gaps."""

    name: str
    rows: float
    tokens: float
    """Content tokens of its rows."""
    filled: float
    """Certain gaps."""
    of: int
    written: int = 0
    """Tokens that a model wrote for it, those of dropped texts included."""


def write_files(folder: Path, sizes: Mapping[str, int], without: Path) -> dict[str, Path]:
    """Chats of the corpus drawn at random, each in one file at most and none of those `without`:
    of small talk alone, and of all sources."""
    with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
        chats = [*dict.fromkeys(lines)]
    random.Random(0).shuffle(chats)
    taken = {*without.read_text("utf-8").splitlines(keepends=True)}
    paths = {}
    for name, size in sizes.items():
        chats = [chat for chat in chats if chat not in taken]
        fits = [c for c in chats if name == "pool" or json.loads(c)["source"] == NARROW]
        taken = {*fits[:size]}
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(fits[:size]), "utf-8")
    return paths


def tasks(steps: Steps, part: float) -> list[Task]:
    """Everything measured, of `part` of the chats."""
    root = steps.workspace.root
    corpus = measured(steps, max(int(SAMPLES * part), 1))
    sizes = {name: max(int(size * part), 1) for name, size in SIZES.items()}
    runs = {}
    for name, path in write_files(root, sizes, root / "corpus.jsonl").items():
        dataset = steps.perform(IngestSpec(name=name, source=str(path), on_bad="skip"), report)
        runs[name] = steps.perform(MeasureSpec(dataset=dataset), report)
    anchor, seed = (Runs(steps.workspace).resolve("measure", n) for n in (demo.ANCHOR, demo.SEED))
    return [
        Task("the demo", anchor, seed, runs["pool"]),
        Task("the corpus", corpus, runs["small-talk"], runs["pool"]),
    ]


def ways(workspace: Workspace, steps: Steps, task: Task, gaps: int) -> list[Way]:
    """Every way for the same gaps, and the pool for all of them."""
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        build_caches(stores, (task.anchor, task.dataset, task.pool))
        comparison = Comparison(
            task.anchor, task.dataset, threshold=clear_firing(stores, task.anchor)
        )
        everything = sorted(
            feature for kind in KINDS for feature in certain_features(stores, comparison, kind)
        )
        if not everything:
            return []
        chosen = np.random.default_rng(0).permutation(everything)[:gaps]
        features = tuple(sorted(chosen.tolist()))
        pool, chance, left = _of_pool(stores, comparison, task.pool, features, "")
        run, written = synthesized(steps, stores, comparison, features)
        kept = steps.perform(MeasureSpec(dataset=run), report) if run else ""
        if kept:
            build_caches(stores, [kept])
        rest = _of_kept(stores, comparison, kept, left, written)
        both = Way(
            "both: the pool, then writing for the rest",
            pool.rows + rest.rows,
            pool.tokens + rest.tokens,
            pool.filled + rest.filled,
            len(features),
            rest.written,
        )
        rows = [pool, _of_kept(stores, comparison, kept, features, written), both, chance]
        if len(everything) > len(features):
            rows += _of_pool(stores, comparison, task.pool, tuple(everything), ", all gaps")[:2]
        return rows


def _of_pool(
    stores: Stores, comparison: Comparison, pool: str, features: tuple[int, ...], which: str
) -> tuple[Way, Way, tuple[int, ...]]:
    """The chosen rows, random ones, and the gaps that the chosen ones leave."""
    answer = fill(stores, comparison, pool, Budget(), features)

    def way(name: str, figures: Figures) -> Way:
        return Way(name + which, figures.rows, figures.tokens, figures.certain, len(features))

    left = tuple(sorted(answer.left))
    return way("pool", answer.chosen), way("random rows of it", answer.random.mean), left


def _of_kept(
    stores: Stores,
    comparison: Comparison,
    measure: str,
    features: tuple[int, ...],
    written: Mapping[int, int],
) -> Way:
    """The fewest kept rows that do what all of them do. `written`: tokens by gap."""
    tokens = sum(written.get(feature, 0) for feature in features)
    none = Way("writing, two steps", 0, 0, 0, len(features), tokens)
    if not measure or not features:
        return none
    figures = fill(stores, comparison, measure, Budget(), features).chosen
    return none._replace(rows=figures.rows, tokens=figures.tokens, filled=figures.certain)


def synthesized(
    steps: Steps, stores: Stores, comparison: Comparison, features: Sequence[int]
) -> tuple[str, Counter[int]]:
    """The dataset of what was kept for these gaps, "" where nothing was, and by gap the tokens of
    all that was written for it."""
    runs, measure = stores.runs, stores.runs.manifest(comparison.anchor).spec
    explained = explain_runs(runs, runs.resolve("measure", demo.ANCHOR))  # of the same SAE
    encoder = steps.encoder(measure, report)
    doors: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": report}
    doors["direction"] = decoder_directions(encoder.sae)
    how: dict[str, Any] = {
        "threshold": comparison.threshold,
        "profile": shape_of(stores, comparison.dataset).profile,
        "max_new_tokens": 40,
    }
    first = PairsSpec(
        anchor=comparison.anchor,
        dataset=comparison.dataset,
        features=tuple(features),
        explanations=tuple(explained),
        candidates=2,
        **how,
    )
    pairs = synthesis.make_pairs(first, writer=steps.writer(first, report), **doors)
    approved = approve(steps.workspace, runs, pairs)
    spec = SynthesizeSpec(
        pairs=pairs,
        approved=tuple(row["pair"] for row in approved),
        candidates=CANDIDATES,
        rows=len(approved),
        **how,
    )
    run = synthesis.synthesize(
        spec,
        approved=approved,
        writer=steps.writer(spec, report),
        likelihood=steps.likelihood(measure, report),
        **doors,
    )
    written: Counter[int] = Counter()
    for step in (pairs, run):
        for row in runs.table(step, "candidates", ["feature", "tokens"]).to_pylist():
            written[row["feature"]] += row["tokens"]
    return runs.manifest(run).facts.kept_dataset, written


def table(task: str, rows: Sequence[Way]) -> str:
    """As the README shows it."""
    if not rows:
        return f"No gap of {task} is certain."
    lines = [
        f"| {task} | certain gaps filled | rows | tokens | rows a gap | tokens a gap "
        "| written a gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in rows:
        per_gap = [
            f"{n / way.filled:,.{d}f}" if way.filled else ""
            for n, d in ((way.rows, 1), (way.tokens, 0), (way.written, 0))
        ]
        if not way.written:
            per_gap[2] = ""
        lines.append(
            f"| {way.name} | {way.filled:,.0f} of {way.of:,} | {way.rows:,.0f} "
            f"| {way.tokens:,.0f} | {' | '.join(per_gap)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, writes, prints a table each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, required=True, help="a folder of its own")
    parser.add_argument("--gaps", type=int, default=60, help="certain gaps, at most")
    parser.add_argument("--part", type=float, default=1.0, help="of the chats")
    options = parser.parse_args()
    workspace = Workspace(options.workspace.resolve())
    demo.materialise(workspace, lambda *_: None)
    steps = Steps(workspace)
    for task in tasks(steps, options.part):
        print(table(task.name, ways(workspace, steps, task, options.gaps)), flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
