"""How often a way of writing fires the gap it writes for in its own words, at equal tokens.

    python -m benchmarks.synthesis --workspace DIR --out FILE

takes gaps of the demo at random among those that enough anchor samples show, at clear firing, and
lets every method of `fac synthesize` write for the same ones, in the dataset's own shape and
through the same filter, all gates on: every text of a method beyond the tokens that each may use
for a gap is thrown away unseen, those of step 1 and of the turns that go with a text included.
Approvals come from this script, in a workspace of its own. Beside the methods stand texts that no
model wrote (`paste-only`), and what a model writes after words that it was told to begin with
(`continuation only`). Finished parts are runs like any other, so a second start goes on; where
gates have become stricter since, a kept text that they drop does not count, and nothing was
written in its place.
`--show FILE` prints the table of what an earlier `--out FILE` wrote; the README's comes from
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
from fac.config import PairsSpec, RescoreSpec, SynthesizeSpec, Workspace
from fac.generator.writer import Request, Writer, Written
from fac.jobs.steps import Steps, decoder_directions
from fac.prompts import drafts
from fac.questions.comparison import Comparison, clear_firing, coverage
from fac.questions.explanations import explain_runs
from fac.schema import Chat
from fac.store import open_stores
from fac.store.decisions import Decisions
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts
from fac.synthesis import gates
from fac.synthesis.gates import Norms
from fac.synthesis.own_words import borrowed
from fac.synthesis.plan import chats_in
from fac.synthesis.scoring import score

REVIEWER = "benchmark"
OVER = "beyond the tokens that every method has"

METHODS: dict[str, dict[str, Any]] = {
    "unguided": {"method": "unguided", "both": True, "seeds": 1},
    "random feature": {"method": "random", "both": True, "seeds": 1},
    "one-step": {"method": "one-step", "both": True},
    "one-step, told the words": {"method": "words", "both": True, "seeds": 1},
    "two-step": {"method": "two-step"},
    "two-step, another gap's negative": {"method": "two-step", "swapped": True},
    "two-step, not pushed": {"method": "two-step", "strength": 0.0},
}
"""Name -> what its spec says. `both`: with the tokens that two steps use together. `seeds`: of how
many seeds, where it is no part of the comparison. `swapped`: every pair with the negative of the
next. `strength`: of the push along the feature's direction.
"""

PASTE, CONTINUED = "paste-only", "continuation only"
"""The positive's words up to its peak, and a sentence; and these words as a model goes on, of one
seed."""

FIXED = "That is all I wanted to say about it."
TURN = 70  # tokens of a gap that no text begins with: for a turn that goes with one that fires
BEGUN = 12  # words of a positive that its opening has at most

Progress = Callable[..., None]


class Rationed:
    """A writer whose texts count for a gap until they have used its tokens, in however many
    calls."""

    def __init__(self, writer: Writer, tokens: int, method: str):
        self._writer = writer
        self._left: dict[str, int] = defaultdict(lambda: tokens)  # by gap
        self._turn = min(TURN, tokens // 4)
        self._full: set[str] = set()  # gaps for which no further text is begun
        self.chats, self.notes = writer.chats, writer.notes
        # No text of another method's run stands in for one that would count against the ration.
        self.identity = f"{writer.identity}, {tokens} tokens, {method}"

    def write(
        self,
        requests: Sequence[Request],
        *,
        record: Callable[[Written], None],
        done: Mapping[str, Written],
        **how: Any,
    ) -> dict[str, Written]:
        """As `fac.generator.writer.Writer.write`; only what counts is recorded."""
        texts = {}
        # What no ration is left for need not be written to be thrown away.
        asked = [request for request in requests if self._room(request.key) > 0]
        written = self._writer.write(asked, record=lambda text: None, done=done, **how)
        for key in sorted(written):  # method/feature/number/style
            text, gap = written[key], _gap(key)
            if text.tokens <= self._room(key):
                self._left[gap] -= text.tokens
                texts[key] = text
                if key not in done:
                    record(text)
            elif _is_first(key):
                self._full.add(gap)
            else:
                self._left[gap] = 0
        return {request.key: texts.get(request.key, _over(request.key)) for request in requests}

    def _room(self, key: str) -> int:
        """Tokens that the text of this key may have."""
        gap = _gap(key)
        if not _is_first(key):
            return self._left[gap]
        return 0 if gap in self._full else self._left[gap] - self._turn


def _gap(key: str) -> str:
    return key.split("/")[1]


def _is_first(key: str) -> bool:
    """Whether it is the turn of a text that is written first."""
    return key.count("/") == 3


def _over(key: str) -> Written:
    return Written(key, "", False, 0, OVER, 0, None)


def measure(
    workspace: Workspace,
    *,
    gaps: int,
    min_support: int,
    seeds: int,
    step_1: int,
    step_2: int,
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    """One row per seed and method: hits by gap, FAC before and after, tokens, seconds."""
    runs, steps = Runs(workspace), Steps(workspace)
    anchor, dataset = (runs.resolve("measure", name) for name in (demo.ANCHOR, demo.SEED))
    threshold, features = choose(workspace, anchor, dataset, gaps, min_support)
    measured = runs.manifest(anchor).spec
    encoder = steps.encoder(measured, report)
    doors: dict[str, Any] = {"runs": runs, "encoder": encoder, "progress": report}
    doors["direction"] = decoder_directions(encoder.sae)
    likelihood = steps.likelihood(measured, report)
    norms = gates.norms_of(texts_of(runs, dataset), texts_of(runs, anchor))
    rows = []
    for seed in range(seeds):
        how: dict[str, Any] = {
            "threshold": threshold,
            "profile": "chat",
            "seed": seed,
            "max_new_tokens": max_new_tokens,
        }
        first = PairsSpec(
            anchor=anchor,
            dataset=dataset,
            features=tuple(features),
            explanations=tuple(explain_runs(runs, anchor)),
            candidates=texts_in(step_1 // 2),
            **how,
        )
        pairs = synthesis.make_pairs(
            first, writer=Rationed(steps.writer(first, report), step_1, "step 1"), **doors
        )
        as_proposed = approve(workspace, runs, pairs)
        swap_negatives(runs, encoder, pairs)
        as_swapped = approve(workspace, runs, pairs, swapped=True)
        for name, asks in METHODS.items():
            if seed >= asks.get("seeds", seeds):
                continue
            approved = as_swapped if asks.get("swapped") else as_proposed
            two_steps = asks["method"] == "two-step"
            tokens = step_2 + (step_1 if asks.get("both") else 0)
            spec = SynthesizeSpec(
                pairs=pairs,
                approved=tuple(row["pair"] for row in approved) if two_steps else (),
                method=asks["method"],
                strength=asks.get("strength", SynthesizeSpec.strength),
                candidates=texts_in(tokens),
                rows=len(approved) if two_steps else len(features),
                **how,
            )
            writer = Rationed(steps.writer(spec, report), tokens, name)
            run = synthesis.synthesize(
                spec, approved=approved, writer=writer, likelihood=likelihood, **doors
            )
            rows.append(row_of(runs, run, name, seed, features, norms))
            rows[-1]["like_negative"] = like_negative(runs, run, as_proposed)
            report(0, 0, f"seed {seed}, {name}: {sum(rows[-1]['hit'])} of {len(features)} gaps")
        plain = steps.writer(first, report)
        for name in (PASTE,) if seed else (PASTE, CONTINUED):
            ration = Rationed(plain, step_2, name) if name == CONTINUED else None
            more = texts_in(step_2)
            rows.append(begun(name, as_proposed, features, first, ration, encoder, more))
            report(0, 0, f"seed {seed}, {name}: {sum(rows[-1]['hit'])} of {len(features)} gaps")
    return rows


def texts_of(runs: Runs, measure: str) -> list[Chat]:
    """The chats of a measured dataset that norms are taken from."""
    return gates.sampled([*chats_in(runs, runs.manifest(measure).facts.dataset)], gates.MOST)


def texts_in(tokens: int) -> int:
    """How many texts are asked for, so that shorter ones than usual use all tokens up."""
    return min(64, max(1, tokens // 14))


def row_of(
    runs: Runs, run: str, method: str, seed: int, features: Sequence[int], norms: Norms
) -> dict[str, Any]:
    """What a synthesis amounts to: of what is kept, the texts without a flaw by these norms. A gap
    without a pair is one that two steps do not fill."""
    facts, judged = runs.manifest(run).facts, runs.table(run, "verdicts").to_pylist()
    texts = {row["candidate"]: row["messages"] for row in runs.table(run, "candidates").to_pylist()}
    kept_rows = [verdict for verdict in judged if verdict["kept"]]
    fine = [row for row in kept_rows if not gates.flaw(texts[row["candidate"]], norms)]
    kept = {row["feature"] for row in fine}
    gains, all_gains = ({f for row in rows for f in row["gains"]} for rows in (fine, kept_rows))
    share = len(gains) / len(all_gains) if all_gains else 1.0
    of_gap: dict[int, int] = defaultdict(int)
    steps = (run,) if METHODS[method].get("both") else (run, facts.pairs)
    for step in steps:
        for candidate in runs.table(step, "candidates", ["feature", "tokens"]).to_pylist():
            of_gap[candidate["feature"]] += candidate["tokens"]
    anywhere = kept | {v["feature"] for v in judged if v["reason"] == verdicts.BORROWED}
    return {
        "seed": seed,
        "method": method,
        "hit": [feature in kept for feature in features],
        "any": [feature in anywhere for feature in features],
        "kept": facts.kept,
        "newly_dropped": len(kept_rows) - len(fine),
        "dropped": facts.dropped,
        "unchecked": facts.unchecked,
        "fac_before": facts.fac_before,
        "fac_after": facts.fac_before + share * (facts.fac_after - facts.fac_before),
        "tokens": sum(of_gap.values()),
        "most_tokens": max(of_gap.values(), default=0),
        "seconds": facts.seconds,
        "run": run,
    }


def begun(
    name: str,
    approved: Sequence[Mapping[str, Any]],
    features: Sequence[int],
    spec: PairsSpec,
    writer: Writer | None,
    encoder: Any,
    texts_a_gap: int,
) -> dict[str, Any]:
    """Texts that begin with the positive's own words up to its peak: with a fixed sentence after
    them, or what the writer goes on with. No gate is asked, so that nothing but the words counts
    against them."""
    texts: list[tuple[int, str, str, str]] = []  # gap, opening, text, positive
    requests, rows = [], {}
    for row in approved:
        side = [m["content"] for m in row["positive"]]
        values = np.asarray(row["positive_activations"])
        spoken = "".join(row["positive_tokens"][: int(values.argmax()) + 1]).split()
        opening = " ".join(spoken[-BEGUN:])
        if writer is None:
            texts.append((row["feature"], opening, f"{opening} {FIXED}", "\n".join(side)))
            continue
        for number in range(texts_a_gap):
            key = f"continued/{row['feature']:06d}/{number:02d}/begun"
            begin = drafts.Opening(f"A list of messages:\n- {opening}", opening)
            requests.append(Request(key, opening=begin))
            rows[key] = (row["feature"], opening, "\n".join(side))
    tokens = 0
    if writer is not None:
        written = writer.write(
            requests,
            seed=spec.seed,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            done={},
            record=lambda _: None,
            progress=lambda *_: None,
        )
        tokens = sum(text.tokens for text in written.values())
        for key, text in written.items():
            if not text.failure:
                gap, opening, positive = rows[key]
                texts.append((gap, opening, opening + text.text, positive))
    chats = [[{"role": "user", "content": text}] for _, _, text, _ in texts]
    taken = [
        {0: borrowed(text, [positive], len(verdicts.words(opening)))}
        for _, opening, text, positive in texts
    ]
    scores = score(
        encoder,
        chats,
        features,
        threshold=spec.threshold,
        borrowed=lambda number: taken[number],
        progress=lambda *_: None,
    )
    anywhere, own = set(), set()
    for (gap, *_), hits in zip(texts, scores.hits, strict=True):
        hit = hits.get(gap)
        if hit and verdicts.active(hit.peak, spec.threshold):
            anywhere.add(gap)
        if hit and verdicts.active(hit.own_peak or 0.0, spec.threshold):
            own.add(gap)
    return {
        "seed": spec.seed,
        "method": name,
        "hit": [feature in own for feature in features],
        "any": [feature in anywhere for feature in features],
        "fac_before": None,
        "fac_after": None,
        "tokens": tokens,
        "seconds": 0.0,
    }


def like_negative(runs: Runs, run: str, approved: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By gap, how alike what was written and the gap's own negative, as it was proposed, are: the
    mean Jaccard of words over all texts."""
    negatives = {
        row["feature"]: {*verdicts.words(" ".join(m["content"] for m in row["negative"]))}
        for row in approved
    }
    likeness = defaultdict(list)
    for row in runs.table(run, "candidates").to_pylist():
        other = negatives.get(row["feature"])
        mine = {*verdicts.words(" ".join(m["content"] for m in row["messages"]))}
        if other and mine:
            likeness[str(row["feature"])].append(len(mine & other) / len(mine | other))
    return {feature: float(np.mean(values)) for feature, values in likeness.items()}


def swap_negatives(runs: Runs, encoder: Any, pairs: str) -> None:
    """Every pair once more, with the negative of the next one that is silent on its gap, turn by
    turn, as a person could have edited it."""
    rows = [row for row in runs.table(pairs, "pairs").to_pylist() if row["status"] == "proposed"]
    for number, row in enumerate(rows):
        for other in (*rows[number + 1 :], *rows[:number]):
            if len(other["negative"]) == len(row["negative"]) and _edited(
                runs, encoder, pairs, row, other
            ):
                break


def _edited(
    runs: Runs, encoder: Any, pairs: str, row: Mapping[str, Any], other: Mapping[str, Any]
) -> bool:
    """Whether the pair with the other one's negative is one."""
    run = pairs
    for turn, message in enumerate(other["negative"]):
        spec = RescoreSpec(
            pairs=run,
            feature=row["feature"],
            positive=row["positive"][turn]["content"],
            negative=message["content"],
            turn=turn,
        )
        run = synthesis.rescore(spec, runs=runs, encoder=encoder, progress=lambda *_: None)
        if not runs.manifest(run).facts.pairs:
            return False
    return True


def choose(
    workspace: Workspace, anchor: str, dataset: str, gaps: int, min_support: int
) -> tuple[float, list[int]]:
    """Clear firing, and gaps at it that at least so many anchor samples show, drawn at random,
    always the same ones."""
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        threshold = clear_firing(stores, anchor)
        comparison = Comparison(anchor, dataset, threshold=threshold, min_support=min_support)
        pool = coverage(stores, comparison).missing
    if len(pool) < gaps:
        sys.exit(f"Only {len(pool)} gaps have a support of {min_support}, {gaps} were asked for.")
    chosen = np.random.default_rng(0).choice(pool, gaps, replace=False)
    return threshold, sorted(chosen.tolist())


def approve(
    workspace: Workspace, runs: Runs, pairs: str, *, swapped: bool = False
) -> list[dict[str, Any]]:
    """Approves every proposed pair, as somebody who looks at none would: as it was proposed, or as
    it was edited last."""
    store, versions = Decisions(workspace.decisions), review.pair_versions(runs, pairs)
    versions = versions if swapped else versions[:1]
    states = review.pair_states(store.current("pair"), versions)
    for gap in states.values():
        newest = [version for version in gap.versions if version.proposed][-1:]
        for version in newest:
            if not version.approved:
                item = version.item
                store.add(REVIEWER, item.kind, item.subject, item.content, review.APPROVE)
    return review.approved_of(review.pair_states(store.current("pair"), versions))


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over gaps: float `[gaps]`, each a mean over seeds."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per method: own-words hit rate and its distance from two-step on the same seeds, how
    often it fires anywhere, FAC gain, tokens a gap."""
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    two_step = {row["seed"]: np.asarray(row["hit"], float) for row in by_method["two-step"]}
    rows_by_method = []
    for name, group in by_method.items():
        hit = np.mean([row["hit"] for row in group], axis=0)
        ahead = np.mean([two_step[row["seed"]] for row in group], axis=0) - hit
        gains = [r["fac_after"] - r["fac_before"] for r in group if r["fac_after"] is not None]
        rows_by_method.append(
            {
                "method": name,
                "seeds": len(group),
                "hit_rate": float(hit.mean()),
                "hit_rate_interval": interval(hit),
                "any_hit_rate": float(np.mean([row["any"] for row in group])),
                "two_step_ahead": float(ahead.mean()),
                "two_step_ahead_interval": interval(ahead),
                "fac_gain": float(np.mean(gains)) if gains else None,
                "tokens": float(np.mean([row["tokens"] / len(hit) for row in group])),
                "seconds": float(np.mean([row["seconds"] for row in group])),
            }
        )
    return rows_by_method


def table(methods: Sequence[Mapping[str, Any]]) -> str:
    """The summary as the README shows it."""
    lines = [
        "| method | own-words hit rate | fires anywhere | two-step is ahead by | FAC gain "
        "| tokens a gap |",
        "|---|---|---|---|---|---|",
    ]
    for row in methods:
        low, high = row["hit_rate_interval"]
        less, more = row["two_step_ahead_interval"]
        ahead = f"{100 * row['two_step_ahead']:+.0f} ({100 * less:+.0f} to {100 * more:+.0f})"
        name = row["method"] + (", one seed" if row["seeds"] == 1 else "")
        lines.append(
            f"| {name} | {row['hit_rate']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['any_hit_rate']:.2f} "
            f"| {'' if row['method'] == 'two-step' else ahead} "
            f"| {'' if row['fac_gain'] is None else format(row['fac_gain'], '.4f')} "
            f"| {row['tokens']:,.0f} |"
        )
    return "\n".join(lines)


def negatives_effect(rows: Sequence[Mapping[str, Any]]) -> str:
    """What another gap's negative changes: paired over gaps, each a mean over seeds."""
    mine, theirs = (
        [row for row in rows if row["method"] == name]
        for name in ("two-step", "two-step, another gap's negative")
    )
    alike: dict[str, list[float]] = defaultdict(list)
    for own, swapped in zip(mine, theirs, strict=False):
        for gap, value in own["like_negative"].items():
            if gap in swapped["like_negative"]:
                alike[gap].append(swapped["like_negative"][gap] - value)
    values = np.array([np.mean(each) for each in alike.values()])
    low, high = interval(values)
    return (
        f"With another gap's negative the texts are more like their own one by {values.mean():.4f} "
        f"({low:.4f} to {high:.4f}; Jaccard of words, {len(values)} gaps)."
    )


def newer_gates(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many kept texts do not count, "" for none."""
    kept, fallen = (sum(row.get(name, 0) for row in rows) for name in ("kept", "newly_dropped"))
    if not fallen:
        return ""
    return (
        f"{fallen} of {kept:,} kept texts have a flaw by gates that are newer than they are: these "
        f"count as no hits, and nothing was written in their place."
    )


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
    parser.add_argument("--step-1", type=int, default=60, help="tokens per gap, at most")
    parser.add_argument("--step-2", type=int, default=540, help="tokens per gap, at most")
    parser.add_argument("--max-new-tokens", type=int, default=40, help="longest text")
    parser.add_argument("--out", type=Path, help="every number as JSON")
    arguments = vars(parser.parse_args())
    if earlier := arguments.pop("show"):
        rows = json.loads(earlier.read_text("utf-8"))["rows"]
        print(table(summary(rows)), negatives_effect(rows), newer_gates(rows), sep="\n\n")
        return
    out, workspace = arguments.pop("out"), Workspace(arguments.pop("workspace"))
    demo.materialise(workspace, lambda *_: None)
    rows = measure(workspace, **arguments)
    methods = summary(rows)
    if out:
        text = json.dumps({"asked": arguments, "methods": methods, "rows": rows}, indent=1)
        out.write_text(text + "\n", encoding="utf-8")
    print(table(methods), negatives_effect(rows), newer_gates(rows), sep="\n\n")


if __name__ == "__main__":
    main()
