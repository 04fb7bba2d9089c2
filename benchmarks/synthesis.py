"""How often a way of writing fires the gap it writes for, at equal generated tokens.

    python -m benchmarks.synthesis --workspace DIR

takes gaps of the demo at random among those that enough anchor samples show, and lets every method
of `fac synthesize` write for the same ones, through the same filter: every text of a method beyond
the tokens that each may use for a gap is thrown away unseen. Approvals come from this script, in a
workspace of its own. Finished parts are runs like any other, so a second start goes on. `--show
FILE` prints the table of what an earlier `--out FILE` wrote; the README's comes from
benchmarks/synthesis.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from fac import demo, review, synthesis
from fac.config import PairsSpec, SynthesizeSpec, Workspace
from fac.generator.writer import Request, Writer, Written
from fac.jobs.steps import Steps, decoder_directions
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.store import open_stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs

REVIEWER = "benchmark"
OVER = "beyond the tokens that every method has"

METHODS: dict[str, dict[str, Any]] = {
    "unguided": {"method": "unguided"},
    "random feature": {"method": "random"},
    "one-step": {"method": "one-step"},
    "one-step, tokens of both steps": {"method": "one-step", "twice": True},
    "two-step": {"method": "two-step"},
    "two-step, steered": {"method": "two-step", "writer": "steered"},
    "two-step, pairs from anchor samples": {"method": "two-step", "step_1": False},
}
"""Name -> what its spec says. `twice`: one step with the tokens that two steps use together.
`step_1`: False where the anchor's own samples are the positives, so that no text of step 1 counts.
"""

Progress = Callable[..., None]


class Rationed:
    """A writer whose texts count for a gap until they have used its tokens."""

    def __init__(self, writer: Writer, tokens: int):
        self._writer, self._tokens = writer, tokens
        # Not the ration: what one run wrote, another with more candidates need not write again.
        self.chats = writer.chats
        self.identity = writer.identity if tokens else f"{writer.identity}, nothing"

    def write(
        self,
        requests: Sequence[Request],
        *,
        record: Callable[[Written], None],
        done: Mapping[str, Written],
        **how: Any,
    ) -> dict[str, Written]:
        """As `fac.generator.writer.Writer.write`; only what counts is recorded."""
        if not self._tokens:
            return {
                request.key: Written(request.key, "", False, 0, OVER, 0, None)
                for request in requests
            }
        written = self._writer.write(requests, record=lambda text: None, done=done, **how)
        used: dict[str, int] = defaultdict(int)
        texts = {}
        for key in sorted(written):  # method/feature/number/style
            text, gap = written[key], key.split("/")[1]
            if used[gap] + text.tokens <= self._tokens:
                used[gap] += text.tokens
                texts[key] = text
                if key not in done:
                    record(text)
            else:
                used[gap] = self._tokens
                texts[key] = Written(key, "", False, 0, OVER, 0, None)
        return {request.key: texts[request.key] for request in requests}


def measure(
    workspace: Workspace,
    *,
    gaps: int,
    min_support: int,
    seeds: int,
    candidates: int,
    tokens: int,
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    """One row per seed and method: kept samples by gap, FAC before and after, tokens, seconds."""
    runs, steps = Runs(workspace), Steps(workspace)
    anchor, dataset = (runs.resolve("measure", name) for name in (demo.ANCHOR, demo.SEED))
    features = choose(workspace, anchor, dataset, gaps, min_support)
    encoder = steps.encoder(runs.manifest(anchor).spec, report)
    doors: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": report}
    doors["direction"] = decoder_directions(encoder.sae)
    rows = []
    for seed in range(seeds):
        first = PairsSpec(
            anchor=anchor,
            dataset=dataset,
            features=tuple(features),
            explanations=tuple(explain_runs(runs, anchor)),
            candidates=candidates,
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        plain = steps.writer(first, report)
        proposed = {
            step_1: synthesis.make_pairs(first, writer=Rationed(plain, ration), **doors)
            for step_1, ration in ((True, tokens), (False, 0))
        }
        for name, how in METHODS.items():
            more = 2 if how.get("twice") else 1
            pairs = proposed[how.get("step_1", True)]
            approved = approve(workspace, runs, pairs)
            named = tuple(row["pair"] for row in approved) if how["method"] == "two-step" else ()
            spec = SynthesizeSpec(
                pairs=pairs,
                approved=named,
                method=how["method"],
                writer=how.get("writer", "local"),
                candidates=candidates * more,
                seed=seed,
                max_new_tokens=max_new_tokens,
            )
            writer = Rationed(steps.writer(spec, report), tokens * more)
            run = synthesis.synthesize(spec, approved=approved, writer=writer, **doors)
            facts = runs.manifest(run).facts
            verdicts = runs.table(run, "verdicts").to_pylist()
            kept = {v["feature"] for v in verdicts if v["kept"]}
            report(0, 0, f"seed {seed}, {name}: {len(kept)} of {len(features)} gaps")
            rows.append(
                {
                    "seed": seed,
                    "method": name,
                    # A gap without a pair is a gap that two steps do not fill.
                    "hit": [feature in kept for feature in features],
                    "kept": facts.kept,
                    "dropped": facts.dropped,
                    "origins": runs.manifest(pairs).facts.origins,
                    "fac_before": facts.fac_before,
                    "fac_after": facts.fac_after,
                    "tokens": facts.tokens,
                    "seconds": facts.seconds,
                    "run": run,
                }
            )
    return rows


def choose(
    workspace: Workspace, anchor: str, dataset: str, gaps: int, min_support: int
) -> list[int]:
    """Gaps that at least so many anchor samples show, drawn at random, always the same ones."""
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        pool = coverage(stores, Comparison(anchor, dataset, min_support=min_support)).missing
    if len(pool) < gaps:
        sys.exit(f"Only {len(pool)} gaps have a support of {min_support}, {gaps} were asked for.")
    return sorted(np.random.default_rng(0).choice(pool, gaps, replace=False).tolist())


def approve(workspace: Workspace, runs: Runs, pairs: str) -> list[dict[str, Any]]:
    """Approves every proposed pair, as somebody who looks at none would."""
    store = Decisions(workspace.decisions)
    approved = {row["pair"] for row in review.approved_pairs(store, runs, pairs)}
    for row in runs.table(pairs, "pairs").to_pylist():
        if row["status"] == "proposed" and row["pair"] not in approved:
            item = review.pair_item(pairs, row)
            store.add(REVIEWER, item.kind, item.subject, item.content, review.APPROVE)
    return review.approved_pairs(store, runs, pairs)


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over gaps: float `[gaps]`, each a mean over seeds."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per method: hit rate and its distance from two-step, FAC gain, tokens."""
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    hits = {
        name: np.mean([row["hit"] for row in group], axis=0) for name, group in by_method.items()
    }
    rows_by_method = []
    for name, group in by_method.items():
        gains = [row["fac_after"] - row["fac_before"] for row in group]
        ahead = hits["two-step"] - hits[name]
        rows_by_method.append(
            {
                "method": name,
                "hit_rate": float(hits[name].mean()),
                "hit_rate_interval": interval(hits[name]),
                "two_step_ahead": float(ahead.mean()),
                "two_step_ahead_interval": interval(ahead),
                "fac_gain": float(np.mean(gains)),
                "fac_gain_range": (min(gains), max(gains)),
                "tokens": float(np.mean([row["tokens"] for row in group])),
                "seconds": float(np.mean([row["seconds"] for row in group])),
            }
        )
    return rows_by_method


def table(methods: Sequence[Mapping[str, Any]]) -> str:
    """The summary as the README shows it."""
    lines = [
        "| method | own-feature hit rate | two-step is ahead by | FAC gain | tokens |",
        "|---|---|---|---|---|",
    ]
    for row in methods:
        low, high = row["hit_rate_interval"]
        less, more = row["two_step_ahead_interval"]
        least, most = row["fac_gain_range"]
        ahead = f"{100 * row['two_step_ahead']:+.0f} ({100 * less:+.0f} to {100 * more:+.0f})"
        lines.append(
            f"| {row['method']} | {row['hit_rate']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {'' if row['method'] == 'two-step' else ahead} "
            f"| {row['fac_gain']:.4f} ({least:.4f} to {most:.4f}) | {row['tokens']:,.0f} |"
        )
    return "\n".join(lines)


_begun = time.monotonic()


def report(done: int, total: int, note: str = "") -> None:
    """A line now and then on standard error."""
    if not total or done == total:
        print(f"{time.monotonic() - _begun:6.0f} s  {note}", file=sys.stderr, flush=True)


def main() -> None:
    """Measures, prints the table, and writes all numbers beside the workspace if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--workspace", type=Path, help="a folder of its own")
    where.add_argument("--show", type=Path, help="print the table of an earlier measurement")
    parser.add_argument("--gaps", type=int, default=60)
    parser.add_argument("--min-support", type=int, default=4, help="anchor samples that show it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=5, help="texts per gap, at most")
    parser.add_argument("--tokens", type=int, default=120, help="generated per gap, at most")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="longest text")
    parser.add_argument("--out", type=Path, help="every number as JSON")
    arguments = vars(parser.parse_args())
    if earlier := arguments.pop("show"):
        print(table(summary(json.loads(earlier.read_text("utf-8"))["rows"])))
        return
    out, workspace = arguments.pop("out"), Workspace(arguments.pop("workspace"))
    demo.materialise(workspace, lambda *_: None)
    rows = measure(workspace, **arguments)
    methods = summary(rows)
    if out:
        text = json.dumps({"asked": arguments, "methods": methods, "rows": rows}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")
    print(table(methods))


if __name__ == "__main__":
    main()
