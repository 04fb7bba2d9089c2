"""What is kept, beside what people wrote: a file to read without knowing which is which.

    python -m benchmarks.kept --workspace DIR --out FILE [--each 40]

measures two sets of ../shared/data with the demo's model and SAE, writes for what each of them
lacks (harmless comments against all comments; instructions against the demo's anchor) until
`--each` samples are kept, all gates on. FILE.jsonl has the kept ones and as many real ones of the
same set in random order; which is which stands in FILE.key.json. It prints how many of either the
gates would drop, how many leave a doubt, and to how many the label check's held-out judge gives
the label. Approvals come from this script, in a workspace of its own. A second start goes on.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gates import DATA, Likelihood
from benchmarks.synthesis import approve, report
from fac import demo, synthesis
from fac.config import IngestSpec, MeasureSpec, PairsSpec, SynthesizeSpec, Workspace
from fac.encoder import Encoder
from fac.jobs.steps import Steps, decoder_directions
from fac.questions.comparison import Comparison, clear_firing, coverage
from fac.questions.explanations import explain_runs
from fac.questions.shape import TOXIC, shape_of
from fac.schema import Chat
from fac.store import open_stores
from fac.store.runs import Runs
from fac.synthesis import gates, labels
from fac.synthesis.doubts import doubts
from fac.synthesis.filter import FLAWS

TOXICITY, INSTRUCTIONS = "toxicity", "instructions"
FILES = {TOXICITY: "toxicity_surge.jsonl", INSTRUCTIONS: "instructions_seed_tasks.jsonl"}
GAPS = 160  # at random, of those that enough anchor samples show
CANDIDATES = 24  # texts a gap, at most
ROOM = 60  # tokens of a message, at most


def measured(steps: Steps, name: str, path: Path, label: str | None = None) -> str:
    """The measure run of a file."""
    spec = IngestSpec(name=name, source=str(path), label_field=label, on_bad="skip")
    return steps.perform(MeasureSpec(dataset=steps.perform(spec, report)), report)


def comparisons(workspace: Workspace, steps: Steps) -> dict[str, tuple[str, str]]:
    """By set the measures of the anchor and of what lacks something."""
    harmless = workspace.root / "harmless.jsonl"
    lines = (DATA / FILES[TOXICITY]).read_text("utf-8").splitlines()
    others = [line for line in lines if str(json.loads(line)["label"]) != TOXIC]
    harmless.write_text("".join(f"{line}\n" for line in others), "utf-8")
    comments = measured(steps, TOXICITY, DATA / FILES[TOXICITY], "label")
    return {
        TOXICITY: (comments, measured(steps, "harmless", harmless, "label")),
        INSTRUCTIONS: (
            Runs(workspace).resolve("measure", demo.ANCHOR),
            measured(steps, INSTRUCTIONS, DATA / FILES[INSTRUCTIONS]),
        ),
    }


def synthesized(
    workspace: Workspace, steps: Steps, name: str, anchor: str, dataset: str, rows: int
) -> str:
    """The synthesis that keeps so many rows, or as many as there are."""
    runs = Runs(workspace)
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        threshold = clear_firing(stores, anchor)
        comparison = Comparison(anchor, dataset, threshold=threshold, min_support=3)
        missing = coverage(stores, comparison).missing
        profile = "toxicity" if name == TOXICITY else shape_of(stores, dataset).profile
    features = np.random.default_rng(0).permutation(missing)[:GAPS].tolist()
    measure = runs.manifest(anchor).spec
    encoder = steps.encoder(measure, report)
    doors: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": report}
    doors["direction"] = decoder_directions(encoder.sae)
    how: dict[str, Any] = {"threshold": threshold, "profile": profile, "max_new_tokens": ROOM}
    explained = explain_runs(runs, runs.resolve("measure", demo.ANCHOR))
    first = PairsSpec(
        anchor=anchor,
        dataset=dataset,
        features=tuple(sorted(features)),
        explanations=tuple(explained),
        candidates=2,
        **how,
    )
    pairs = synthesis.make_pairs(first, writer=steps.writer(first, report), **doors)
    approved = approve(workspace, runs, pairs)
    spec = SynthesizeSpec(
        pairs=pairs,
        approved=tuple(row["pair"] for row in approved),
        candidates=CANDIDATES,
        rows=min(rows, len(approved)),
        labels=anchor if name == TOXICITY else "",
        **how,
    )
    return synthesis.synthesize(
        spec,
        approved=approved,
        writer=steps.writer(spec, report),
        likelihood=steps.likelihood(measure, report),
        **doors,
    )


def flaws(
    chats: Sequence[Chat], dataset: Sequence[Chat], anchor: Sequence[Chat], likelihood: Likelihood
) -> tuple[Counter[str], int]:
    """How many texts each gate would drop by the norms of dataset and anchor, "" are those that
    pass; and how many leave a doubt."""
    losses = [likelihood(gates.sampled(texts, gates.READ)) for texts in (dataset, anchor)]
    norms = gates.norms_of(dataset, anchor, losses)
    nats = likelihood(chats)
    dropped = Counter(gates.flaw(c, norms, True, n) for c, n in zip(chats, nats, strict=True))
    return dropped, sum(bool(doubts(c, norms, n)) for c, n in zip(chats, nats, strict=True))


def chats_of(runs: Runs, dataset: str, label: str = "") -> list[Chat]:
    """The samples of a dataset run, those with a label where one is named."""
    table = runs.table(dataset, "samples", ["messages", "label"])
    return [
        [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
        for row in table.to_pylist()
        if not label or row["label"] == label
    ]


def agreement(runs: Runs, encoder: Encoder, measure: str, chats: Sequence[Chat]) -> float | None:
    """To which share the probe gives the label that learned from the half the check did not."""
    samples = labels.labelled(runs, measure)
    assert samples is not None  # this set is labelled
    peaks = labels.peak_matrix(encoder.encode(chats), len(chats), encoder.n_features)
    return labels.agreement(samples, [peaks[n] for n in range(len(chats))], TOXIC)


def main() -> None:
    """Writes the file and its key, and prints what there is to say of either kind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, required=True, help="a folder of its own")
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    parser.add_argument("--each", type=int, default=40, help="samples of each set and kind")
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    demo.materialise(workspace, lambda *_: None)
    runs, steps = Runs(workspace), Steps(workspace)
    draw, rows = random.Random(0), list[tuple[str, str, Chat]]()
    print(f"| set | texts | dropped by the gates | {' | '.join(FLAWS)} | doubtful | label agreed |")
    print(f"|---|---|---|{'---|' * len(FLAWS)}---|---|")
    for name, (anchor, dataset) in comparisons(workspace, steps).items():
        run = synthesized(workspace, steps, name, anchor, dataset, options.each)
        facts = runs.manifest(run).facts
        kept = chats_of(runs, facts.kept_dataset)
        # Real ones of the kind that is asked for: comments with the label, chats of the dataset.
        imported = {each: runs.manifest(each).facts.dataset for each in (anchor, dataset)}
        source = (anchor, TOXIC) if name == TOXICITY else (dataset, "")
        pool = chats_of(runs, imported[source[0]], source[1])
        real = draw.sample(pool, min(options.each, len(pool)))
        print(f"{name}: {run}, {facts.tokens:,} tokens, dropped {facts.dropped}", flush=True)
        encoder = steps.encoder(runs.manifest(anchor).spec, report)
        likelihood = steps.likelihood(runs.manifest(anchor).spec, report)
        assert likelihood is not None  # the demo's model is at hand
        mine, theirs = (
            [chat for chat in chats_of(runs, imported[measure]) if chat not in real]
            for measure in (dataset, anchor)
        )
        for kind, chats in (("kept", kept), ("real", real)):
            counts, doubtful = flaws(chats, mine, theirs, likelihood)
            agreed = agreement(runs, encoder, anchor, chats) if name == TOXICITY else None
            rows += [(name, kind, chat) for chat in chats]
            by_gate = " | ".join(str(counts[gate]) for gate in FLAWS)
            label = "" if agreed is None else f"{agreed:.2f}"
            dropped = f"{1 - counts[''] / len(chats):.1%}"
            figures = f"{len(chats)} | {dropped} | {by_gate} | {doubtful} | {label}"
            print(f"| {name}, {kind} | {figures} |", flush=True)
    draw.shuffle(rows)
    with options.out.with_suffix(".jsonl").open("w", encoding="utf-8") as lines:
        for n, (name, _, chat) in enumerate(rows):
            line = {"number": n, "set": name, "messages": chat}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    key = {n: kind for n, (_, kind, _) in enumerate(rows)}
    options.out.with_suffix(".key.json").write_text(json.dumps(key, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
