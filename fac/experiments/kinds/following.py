"""RQ1 on instruction following: does a model do more of what prompts ask once it has learned from
rows that fill gaps?

As in `chats` one begins with a few chats and adds others of equal tokens, and a fresh LoRA adapter
learns from both; then it answers prompts whose constraints a program verifies, as those of IFEval,
taking the likeliest token each time.

What a piece costs, by the demo model's speeds on two cores that nothing else uses: it learns from
20 chats and 4,000 tokens, 7,000 or so, at 130 to 300 a second, half a minute to a minute, and
answers 40 prompts with 96 tokens each, 3,840, which one after another are 70 a second and together
more, a minute at most. Three draws of six arms so are about half an hour, rather less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.errors import InputError
from fac.experiments.chats import ChatMaterial, chat_material, chats_suffice, keep
from fac.experiments.effects import Contrast, Resampled
from fac.experiments.kinds.chats import added, pieces
from fac.experiments.lora import Answers, Recipe
from fac.experiments.material import without_leaks
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, conclusion, controls
from fac.experiments.trials import beside, coverage_of
from fac.experiments.verifiable import Accuracy, Task, Verdict, accuracy, task_of, verdicts
from fac.manifest import ExperimentFacts
from fac.schema import Chat
from fac.store.runs import Runs

INSTRUCTIONS, PROMPTS = "constraints followed", "prompts followed in full"

WORDS_A_TOKEN = 0.75
"""Of English, for which prompts an answer of so many tokens can follow."""

LEAST = 4  # prompts


class Prompts(NamedTuple):
    """Prompts of a dataset whose constraints are all checked, and short enough to be followed."""

    tasks: list[Task]
    chats: list[Chat]
    """Of each task what the model is told."""

    left_out: Mapping[str, int]
    """Prompts by why they do not judge."""


@dataclass(frozen=True)
class Following:
    """Chats to learn from, and prompts to follow."""

    chats: ChatMaterial
    prompts: Prompts
    before: tuple[float, float]
    """Shares of the constraints and of the prompts that the model follows as it is."""

    answers: Answers

    def facts(self) -> Mapping[str, Any]:
        """Fields of ExperimentFacts."""
        left_out = dict(self.prompts.left_out)
        return {
            **self.chats.facts(),
            "n_test": len(self.prompts.tasks),
            "n_leaks": left_out.get(REPEATED, 0),
            "left_out": left_out,
        }

    def judged(
        self, learned: list[Chat], recipe: Recipe, tokens: int
    ) -> tuple[list[list[Verdict]], float]:
        """Verdicts on the answers to all prompts, and the share of answers that the limit cut."""
        answers = self.answers(learned, self.prompts.chats, recipe, tokens)
        tasks = zip(self.prompts.tasks, answers, strict=True)
        cut = float(np.mean([not answer.finished for answer in answers]))
        return [verdicts(task, answer.text) for task, answer in tasks], cut


UNSPOKEN = "ask for a language, which nothing here checks"
REPEATED = "nearly repeat a row that may be learned from"
NOT_DRAWN = "were not drawn"


def _prompts(spec: ExperimentSpec, runs: Runs) -> Prompts:
    """Raises InputError where no dataset is named or fewer than LEAST prompts of it are left."""
    if not spec.prompts:
        raise InputError(
            "Following takes prompts with verifiable constraints, such as IFEval's: add their file "
            "as a dataset, or name it with --prompts."
        )
    fits = int(WORDS_A_TOKEN * spec.new_tokens)
    too_long = f"take more than {fits} words to follow"
    tasks: list[Task] = []
    chats: list[Chat] = []
    problems: list[str] = []
    left_out = {UNSPOKEN: 0, too_long: 0}
    for row in runs.table(spec.prompts, "samples", ["messages", "meta"]).to_pylist():
        chat = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
        if chat[-1]["role"] == "assistant":
            chat.pop()
        meta = json.loads(row["meta"])
        name = f"in row {meta.get('line', '?')}"
        try:
            if not chat:
                raise InputError(f"Prompt {name} is an answer alone.")
            task = task_of(meta.get("columns", {}), chat[-1]["content"], name)
        except InputError as problem:
            problems.append(str(problem))
            continue
        if not task.is_checked:
            left_out[UNSPOKEN] += 1
        elif task.words > fits:
            left_out[too_long] += 1
        else:
            tasks.append(task)
            chats.append(chat)
    if problems:
        left_out[f"have constraints that cannot be read (such as: {problems[0]})"] = len(problems)
    prompts = Prompts(tasks, chats, left_out)
    _must_suffice(spec, runs, prompts)
    return prompts


def _must_suffice(spec: ExperimentSpec, runs: Runs, prompts: Prompts) -> None:
    if len(prompts.tasks) >= LEAST:
        return
    name = runs.manifest(spec.prompts).facts.name
    reasons = _listed(prompts.left_out) or "it has no more"
    raise InputError(
        f"{len(prompts.tasks)} prompts of {name} can judge, {LEAST} are needed; of the others: "
        f"{reasons}."
    )


def _listed(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{n:,} {why}" for why, n in left_out.items() if n)


def prompts_suffice(spec: ExperimentSpec, runs: Runs) -> None:
    """Reads prompts but none of the rows to learn from, so that it can be asked before anything is
    queued. Raises InputError as `material` does, even if no prompt resembles a row."""
    _prompts(spec, runs)
    chats_suffice(spec, runs, judges=False)


def material(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Following:
    """Reads a measured dataset and prompts, and has the model answer them as it is, which stays in
    `scratch`. Raises InputError where there are too few of either, or no model."""
    prompts = _prompts(spec, runs)
    if doors.answers is None:
        raise InputError("Nobody here can finetune a model: LoRA runs in the worker's process.")
    chats = chat_material(spec, runs, doors, scratch, judges=False)
    n, m = len(chats.chats), len(prompts.chats)
    both = [*chats.chats, *prompts.chats]
    apart = without_leaks(both, np.arange(n), np.arange(n, n + m)) - n
    rows = np.random.default_rng(spec.seed).permutation(apart)[: spec.most_test]
    prompts = Prompts(
        [prompts.tasks[row] for row in np.sort(rows)],
        [prompts.chats[row] for row in np.sort(rows)],
        {**prompts.left_out, REPEATED: m - len(apart), NOT_DRAWN: len(apart) - len(rows)},
    )
    _must_suffice(spec, runs, prompts)
    data = Following(chats, prompts, (0.0, 0.0), doors.answers)
    path = scratch / "before.npy"
    if not path.exists():
        judged, _ = data.judged([], Recipe(0.0), spec.new_tokens)
        keep(path, np.array(accuracy(judged)[:2]))
    instructions, whole = np.load(path).tolist()
    return Following(chats, prompts, (instructions, whole), doors.answers)


def measure(spec: ExperimentSpec, data: Following, piece: Piece) -> Iterator[Row]:
    chats = data.chats
    arm = chats.written[piece.arm].arm if piece.arm in chats.written else piece.arm
    draw = chats.draw(piece.size, piece.draw)
    rate = chats.rate(draw)
    more = added(chats, draw, piece.arm)
    rows = draw.begin | more
    learned = [chats.chats[row] for row in np.flatnonzero(rows)]
    judged, cut = data.judged(learned, Recipe(rate, draw.seed), spec.new_tokens)
    shares = accuracy(judged)
    about = {
        "rows": int(rows.sum()),
        "tokens": int(chats.pool.tokens[rows].sum()),
        "fac": coverage_of(chats.pool, draw)(more),
        "cut": cut,
        "rate": rate,
    }
    n_followed = np.array([sum(bool(each.strict) for each in answer) for answer in judged])
    for outcome, scores, figures in (
        (INSTRUCTIONS, n_followed, _figures(shares, data.before, 0)),
        (PROMPTS, n_followed == _constraints(data.prompts), _figures(shares, data.before, 1)),
    ):
        yield {
            "outcome": outcome,
            "size": piece.size,
            "draw": piece.draw,
            "arm": arm,
            "figures": {**about, **figures},
            "scores": scores.astype(np.float32),
        }


def _constraints(prompts: Prompts) -> np.ndarray:
    """How many each prompt has: int64 `[n_prompts]`."""
    return np.array([len(task.constraints) for task in prompts.tasks])


def _figures(shares: Accuracy, before: tuple[float, float], level: int) -> dict[str, float]:
    """Of the constraints, level 0, or of the prompts, 1."""
    strict = (shares.instructions, shares.prompts)[level]
    loose = (shares.instructions_loose, shares.prompts_loose)[level]
    return {"accuracy": strict, "loose": loose, "before": before[level]}


def effects(spec: ExperimentSpec, data: Following, rows: list[Row]) -> list[Row]:
    """Differences of strict accuracy, paired by prompt and draw."""
    resampled = Resampled(np.ones(len(data.prompts.tasks), bool), spec.draws, spec.seed)
    constraints = _constraints(data.prompts)
    counts = {INSTRUCTIONS: constraints, PROMPTS: np.ones_like(constraints)}
    scores: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for row in sorted(rows, key=lambda row: row["draw"]):
        by_arm = scores.setdefault((row["outcome"], row["size"]), {})
        by_arm.setdefault(row["arm"], []).append(row["scores"])
    result = []
    for (outcome, size), by_arm in sorted(scores.items(), key=lambda item: item[0]):
        n_followed = {arm: np.array(each, np.float64) for arm, each in by_arm.items()}
        of, total = counts[outcome], counts[outcome].sum()
        for arm, against in beside([*n_followed]):
            apart = n_followed[arm] - n_followed[against]
            about = {
                "outcome": outcome,
                "size": size,
                "arm": arm,
                "against": against,
                "value": float(n_followed[arm].mean(axis=0).sum() / total),
                "difference": float(apart.mean(axis=0).sum() / total),
            }
            shares = np.stack([resampled.ratios(each, of) for each in apart])
            result.append(Contrast(about, resampled.means(shares)).row())
    return result


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    figures = {row["outcome"]: row["figures"] for row in rows}
    kind = f" labelled {spec.label!r}" if spec.label else ""
    begun = ", ".join(map(str, spec.labels))
    cut = float(np.mean([row["figures"]["cut"] for row in rows]))
    parts = [
        f"{facts.n_rows:,} chats, of which {begun}{kind} are begun with, {spec.tokens:,} tokens "
        f"added, {spec.draws} draws. {facts.n_test:,} prompts judge, answered with at most "
        f"{spec.new_tokens} tokens, of which the model as it is follows "
        f"{figures[PROMPTS]['before']:.2f} in full and {figures[INSTRUCTIONS]['before']:.2f} of "
        f"their constraints; {cut:.2f} of all answers are cut at that limit.",
    ]
    if left_out := _listed(facts.left_out):
        parts.append(f"Left out of the prompts: {left_out}.")
    parts += ["That an answer is English is not verified.", REST_AT_RANDOM]
    return Says(conclusion(rows, "chats"), controls(rows), " ".join(parts))


EXPERIMENT = Experiment(
    title="Do rows that fill gaps teach the model to follow instructions?",
    value="accuracy",
    columns={"rows": "rows", "fac": "FAC", "loose": "loosely", "cut": "cut"},
    pieces=pieces,
    material=material,
    measure=measure,
    effects=effects,
    facts=Following.facts,
    says=says,
    check=prompts_suffice,
    takes=("written", "prompts"),
    defaults={"labels": (20,), "draws": 3},
    label="begun with",
    preference=4,
)
