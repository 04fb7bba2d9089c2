"""How many real texts the quality gates drop, which should be few: their false positives.

    python -m benchmarks.gates [--messages 300] [--without-loss] [--labels WORKSPACE MEASURE]

takes the chats of each set in ../shared/data in two halves at random: one says what its texts are
like, messages of the other are judged. The loss is that of the demo model, whole chats read. With
--labels also what the label check is worth for every label of a measured dataset.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fac.agreement import wilson
from fac.config import REPOSITORY, MeasureSpec, Workspace
from fac.jobs.steps import load_subject, locate, silent
from fac.schema import ROLES, Chat
from fac.store.runs import Runs
from fac.synthesis import gates, labels
from fac.synthesis.filter import FLAWS

DATA = REPOSITORY.parent / "shared" / "data"
SETS = ("instructions_seed_tasks.jsonl", "toxicity_surge.jsonl", "sae_corpus.jsonl.gz")
CHATS = 2000  # of each set, at most

Likelihood = Callable[[Sequence[Chat]], np.ndarray]


def chats_of(path: Path) -> list[Chat]:
    """The chats of a set, in an order of their own."""
    opens = gzip.open if path.suffix == ".gz" else open
    with opens(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row.get("messages") or [{"role": "user", "content": row["text"]}] for row in rows]
    return random.Random(0).sample(texts, min(len(texts), CHATS))


def judged(chats: Sequence[Chat], messages: int, likelihood: Likelihood | None) -> Counter[str]:
    """How many messages of one half each gate drops by the norms of the other; "" are those that
    pass."""
    half = len(chats) // 2
    others = gates.sampled(chats[:half], gates.READ)
    losses = [likelihood(others)] if likelihood else []
    norms = gates.norms_of(chats[:half], (), losses)
    each = [(chat, message) for chat in chats[half:] for message in chat]
    each = random.Random(1).sample(each, min(messages, len(each)))
    read = list({id(chat): chat for chat, _ in each}.values())
    nats = likelihood(read) if likelihood else np.full((len(read), 2, len(ROLES)), np.nan)
    by_chat = {id(chat): row for chat, row in zip(read, nats, strict=True)}
    return Counter(gates.flaw([m], norms, True, by_chat[id(chat)]) for chat, m in each)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--without-loss", action="store_true")
    parser.add_argument("--labels", nargs=2, metavar=("WORKSPACE", "MEASURE"))
    options = parser.parse_args(arguments)
    likelihood = None
    if not options.without_loss:
        spec = MeasureSpec(dataset="")
        located = locate(spec.model, Path(os.environ.get("FAC_MODELS", "models")), silent)
        likelihood = load_subject(located, spec.layer).likelihood
    print(f"| real texts | messages | dropped | {' | '.join(FLAWS)} |")
    print(f"|---|---|---|{'---|' * len(FLAWS)}")
    for name in SETS:
        counts = judged(chats_of(DATA / name), options.messages, likelihood)
        total, dropped = counts.total(), counts.total() - counts[""]
        low, high = wilson(dropped, total)
        by_gate = " | ".join(str(counts[gate]) for gate in FLAWS)
        print(f"| {name} | {total} | {dropped / total:.1%} ({low:.1%} to {high:.1%}) | {by_gate} |")
        sys.stdout.flush()
    if options.labels:
        workspace, name = options.labels
        show_labels(Runs(Workspace(Path(workspace))), name)


def show_labels(runs: Runs, name: str) -> None:
    """What the label check is worth, and how often the other half's probe agrees with the labels
    that it confirms."""
    samples = labels.labelled(runs, runs.resolve("measure", name))
    if samples is None:
        raise SystemExit(f"{name} has no labels, or one alone.")
    print("\n| label | rows | AUROC | confirmed from | precision | held out: precision, recall |")
    print("|---|---|---|---|---|---|")
    others = np.flatnonzero(samples.half == 1)
    for label in np.unique(samples.labels).tolist():
        if (check := labels.learn(samples, label)) is None:
            continue
        confirmed = check.probabilities(samples.peaks[others]) >= check.threshold
        right = samples.labels[others] == label
        print(
            f"| {label} | {check.rows} | {check.auroc:.3f} ({check.low:.3f} to {check.high:.3f}) "
            f"| {check.threshold:.2f} | {check.precision:.2f} | {right[confirmed].mean():.2f}, "
            f"{confirmed[right].mean():.2f} |"
        )


if __name__ == "__main__":
    main()
