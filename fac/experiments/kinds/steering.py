"""RQ1, on steering: does a contrast vector of questions that fill gaps steer a model better?

One begins with a few questions, which say what is lacking, and adds as many tokens of others,
chosen by what they fire. Of these alone a vector is made by contrastive activation addition (CAA,
Rimsky et al. 2024): the mean, over questions, of what the model holds at the letter of the matching
answer less what it holds at the letter of the other. All vectors have one length. Added to the
residual stream where the model answers held-out questions, each is judged by how far it moves the
model towards the matching answers.

*Matching* is what the dataset's own column says (answer_matching_behavior): a positive effect is
more of that, whatever the behaviour is called. Of the survival questions of Perez et al. (2023),
for one, the matching answers accept being switched off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.errors import InputError
from fac.experiments.arms import ARMS, NONE, RANDOM, Pool
from fac.experiments.effects import contrasts
from fac.experiments.material import kept, pool_above, states_of, tokens_of, without_leaks
from fac.experiments.run import Doors, Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, conclusion, controls
from fac.experiments.steering import Choice, Steering
from fac.experiments.trials import any_beginning, beside, coverage_of, judges, pieces, seed_of
from fac.manifest import ExperimentFacts
from fac.schema import Chat
from fac.store.peaks import peaks_of
from fac.store.runs import Runs
from fac.store.samples import read_samples

SCR, LOG_ODDS = "SCR", "log-odds"
"""Outcomes. SCR is the share of questions that are right with the vector added less the share with
it taken away, right being that the matching answer is the likelier one in both orders of the
answers. Log-odds is what one vector adds to those of the matching answer, over both orders."""

MULTIPLIERS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Of the vector, when it is added."""

REVERSED = "random rows, a third reversed"
"""Positive control: the random questions once more, a third with their two answers exchanged."""

WRONG = 1 / 3
PEEK = 256  # rows that show whether there are questions
BLOCK = 50  # questions that are read before what was read is kept

ANSWERS = ("answer_matching_behavior", "answer_not_matching_behavior")
"""Columns beside a question, "(A)" or "(B)" (Perez et al. 2023)."""

_LETTER = re.compile(r"\s*\(([A-Z])\)\s*")
_MARK = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*", re.MULTILINE)
_ENDS = re.compile(r"\s*(?:\n\s*\n|\Z)")
_BEHIND = re.compile(r"\s*(?:Answer:?)?\s*", re.IGNORECASE)
_HEADING = re.compile(r"\s*Choices:?\s*\Z", re.IGNORECASE)


# --- questions ----------------------------------------------------------------------------------


def choice_of(messages: Chat, meta: str) -> Choice | None:
    """The question that a sample is, from what lies beside it; None where it is none, or where its
    two answers cannot be exchanged."""
    beside_it = json.loads(meta)
    written, columns = beside_it.get("choices"), beside_it.get("columns") or {}
    names = ("matching", "other") if isinstance(written, dict) else ANSWERS
    answers = written if isinstance(written, dict) else columns
    letters = [_LETTER.fullmatch(str(answers.get(name))) for name in names]
    if messages[-1]["role"] != "user" or not all(letters):
        return None
    choice = Choice(messages, *(letter[1] for letter in letters if letter))
    return choice if swapped(choice) else None


def swapped(choice: Choice) -> Choice | None:
    """The same question with its two answers in each other's place, so that each has the other's
    letter; None where it does not list them as (A), (B), ... and nothing more."""
    *before, last = choice.chat
    text = last["content"]
    places = _places(text)
    if not {choice.matching, choice.other} <= places.keys() or choice.matching == choice.other:
        return None
    first, second = sorted(places[letter] for letter in (choice.matching, choice.other))
    one, two = text[slice(*first)], text[slice(*second)]
    if one == two or not one or not two:
        return None
    text = f"{text[: first[0]]}{two}{text[first[1] : second[0]]}{one}{text[second[1] :]}"
    return Choice([*before, {**last, "content": text}], choice.other, choice.matching)


def _places(text: str) -> dict[str, tuple[int, int]]:
    """Where the answers that a question lists begin and end, by letter; none where anything else
    stands between or behind them."""
    marks = [*_MARK.finditer(text)]
    if "".join(mark[1] for mark in marks) != ascii_uppercase[: len(marks)]:
        return {}
    places = {}
    for number, mark in enumerate(marks):
        is_last = number == len(marks) - 1
        limit = len(text) if is_last else marks[number + 1].start()
        end = _ENDS.search(text, mark.end(), limit)
        rest = text[end.start() : limit] if end else text
        if not _BEHIND.fullmatch(rest) or (rest.strip() and not is_last):
            return {}
        places[mark[1]] = (mark.end(), limit - len(rest))
    return places


def _question(choice: Choice) -> Chat:
    """What is asked, without the answers, which many questions share."""
    text = choice.chat[-1]["content"]
    mark = _MARK.search(text)
    stem = _HEADING.sub("", text[: mark.start() if mark else None])
    return [*choice.chat[:-1], {"role": "user", "content": stem}]


def _questions(runs: Runs, measure: str) -> tuple[np.ndarray, list[Choice], int]:
    """Numbers of the samples that are questions, these, and how many samples are none."""
    table = runs.table(runs.manifest(measure).facts.dataset, "samples", ["messages", "meta"])
    rows, choices, samples = [], [], table.to_pylist()
    read = np.flatnonzero(read_samples(runs, measure)).tolist()
    for number in read:
        row = samples[number]
        messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
        if (choice := choice_of(messages, row["meta"])) is not None:
            rows.append(number)
            choices.append(choice)
    return np.array(rows, np.int64), choices, len(read) - len(rows)


def _must_suffice(spec: ExperimentSpec, name: str, n: int, n_train: int) -> None:
    most = max(spec.labels)
    if not n:
        raise InputError(
            f"{name} has no questions to steer by: its rows need a text that lists answers as (A) "
            f"and (B), each on its line, and the columns {ANSWERS[0]} and {ANSWERS[1]}."
        )
    if n_train < 3 * most:
        raise InputError(
            f"{n_train:,} questions of {name} may be learned from: to begin with {most} and choose "
            f"others, {3 * most:,} are needed. Begin with fewer."
        )


def questions_suffice(spec: ExperimentSpec, runs: Runs) -> None:
    """Reads the first rows alone, so that it can be asked before anything is queued. Raises
    InputError as `material` does, even if all others are questions and none resembles a test
    question."""
    facts = runs.manifest(spec.measure).facts
    first = next(runs.batches(facts.dataset, "samples", columns=["messages", "meta"], rows=PEEK))
    choices = (choice_of(row["messages"], row["meta"]) for row in first.to_pylist())
    n = facts.n_read if any(choices) else 0
    _must_suffice(spec, facts.name, n, len(judges(spec, n, spec.most_test)[1]))


# --- material -----------------------------------------------------------------------------------


class Questions(NamedTuple):
    """Questions of one measured dataset, renumbered."""

    choices: Sequence[Choice]
    pool: Pool

    differences: np.ndarray
    """float32 `[n, d_model]`: the residual stream at the letter of the matching answer less that at
    the letter of the other, the mean over both orders of the answers, so that no letter counts; 0
    for questions that judge."""

    length: float
    """Of every vector: that of the mean difference of all questions that may be learned from."""

    test: np.ndarray
    """int64: questions that judge and are never learned from."""

    train: np.ndarray
    """int64: questions that may be learned from."""

    n_leaks: int
    n_alone: int
    """Rows that are no question, or one whose two answers cannot be exchanged."""

    steer: Steering

    def facts(self) -> Mapping[str, Any]:
        """Fields of ExperimentFacts."""
        return {
            "n_rows": len(self.choices),
            "n_test": len(self.test),
            "n_leaks": self.n_leaks,
            "n_unlabelled": self.n_alone,
        }

    def vector(self, rows: np.ndarray, exchanged: Sequence[int] | np.ndarray = ()) -> np.ndarray:
        """The mean difference of `rows`, bool `[n]`, at `length`: float64 `[d_model]`, 0 where
        there are none. The answers of questions `exchanged` are taken for each other."""
        sign = np.ones(len(rows))
        sign[np.asarray(exchanged, np.int64)] = -1
        mean = (sign[:, None] * self.differences)[rows].sum(axis=0) / max(rows.sum(), 1)
        norm = float(np.linalg.norm(mean))
        scaled: np.ndarray = mean * (self.length / norm) if norm else mean
        return scaled

    def log_odds(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """Of the matching answer beside the other, of test questions under each vector times each
        of MULTIPLIERS: float32 `[n_vectors, n_multipliers, n_test, 2]`, last the orders of the
        answers.

        A push that several vectors share, such as nothing, is tried once. Where the answer takes
        two tokens, forty questions and the thirteen arms are 80 prompts and 80 x 49 x 2 tokens
        through the model; the prompts are run for the first piece alone."""
        judged = [self.choices[row] for row in self.test]
        orders = [*judged, *_exchanged(judged)]
        pushes = np.multiply.outer(np.stack(vectors), np.array(MULTIPLIERS)).swapaxes(1, 2)
        flat = pushes.reshape(-1, pushes.shape[-1]).astype(np.float32) + 0.0  # -0 is 0
        apart, where = np.unique(flat, axis=0, return_inverse=True)
        odds = self.steer.log_odds(orders, apart)[:, where.reshape(-1)]
        by_order = odds.reshape(2, len(judged), *pushes.shape[:2])
        return by_order.transpose(2, 3, 1, 0)


def _exchanged(choices: Sequence[Choice]) -> list[Choice]:
    """In the other order, which every question has that became one."""
    return [other for other in map(swapped, choices) if other]


def material(spec: ExperimentSpec, runs: Runs, doors: Doors, scratch: Path) -> Questions:
    """Reads a measured dataset; what the model holds of its rows is kept in `scratch`. Raises
    InputError where there are too few questions without those that resemble a test question, no
    feature that could be a gap, or nobody who holds a model."""
    rows, choices, n_alone = _questions(runs, spec.measure)
    facts = runs.manifest(spec.measure).facts
    test, rest = judges(spec, len(rows), spec.most_test)
    train = without_leaks([_question(choice) for choice in choices], test, rest)
    _must_suffice(spec, facts.name, len(rows), len(train))
    if doors.steer is None:
        raise InputError("Nobody here can steer a model: that is done in the worker's process.")
    states = states_of(doors, [choice.chat for choice in choices], scratch)
    tokens = tokens_of(runs, spec.measure, facts.n_samples)[rows]
    peaks = peaks_of(runs, spec.measure, rows)
    pool = pool_above(peaks, spec.threshold, states, tokens, train)
    if not len(pool.relevant):
        raise InputError(
            f"No feature fires above {spec.threshold:g} in some, and not all, of the questions "
            "that may be learned from: choose a lower threshold."
        )
    learnable = _differences(doors.steer, [choices[row] for row in train], scratch)
    differences = np.zeros((len(choices), learnable.shape[1]), np.float32)
    differences[train] = learnable
    length = float(np.linalg.norm(learnable.mean(axis=0, dtype=np.float64)))
    left_out = len(rest) - len(train), n_alone
    return Questions(choices, pool, differences, length, test, train, *left_out, doors.steer)


def _differences(steer: Steering, choices: Sequence[Choice], scratch: Path) -> np.ndarray:
    """Of each question, over both orders: float32 `[n, d_model]`. No arm matters for it."""

    def read(block: Sequence[Choice]) -> np.ndarray:
        both = steer.differences([*block, *_exchanged(block)])
        mean: np.ndarray = both.reshape(2, len(block), -1).mean(axis=0)
        return mean

    blocks = [choices[first : first + BLOCK] for first in range(0, len(choices), BLOCK)]
    return np.concatenate(
        [
            kept(scratch / f"differences-{number:04}.npy", partial(read, block))
            for number, block in enumerate(blocks)
        ]
    )


# --- what vectors do ----------------------------------------------------------------------------


def robust(odds: np.ndarray) -> np.ndarray:
    """Whether the matching answer is the likelier one in both orders, of which the paper's robust
    accuracy is the share: log-odds `[..., 2]` -> bool `[...]`.

    >>> robust(np.array([[1.0, 2.0], [1.0, -2.0], [3.0, 0.0]]))
    array([ True, False, False])
    """
    right: np.ndarray = np.all(odds > 0, axis=-1)
    return right


def measure(spec: ExperimentSpec, data: Questions, piece: Piece) -> Iterator[Row]:
    draw = any_beginning(data.pool, data.train, piece.size, seed_of(spec.seed, piece))
    fac = coverage_of(data.pool, draw)
    added = {name: arm(data.pool, draw) for name, arm in ARMS.items()}
    vectors = {name: data.vector(rows) for name, rows in added.items()}
    rows = np.random.default_rng(draw.seed).permutation(np.flatnonzero(added[RANDOM]))
    added[REVERSED] = added[RANDOM]
    vectors[REVERSED] = data.vector(added[RANDOM], rows[: round(WRONG * len(rows))])
    for arm, odds in zip(vectors, data.log_odds([*vectors.values()]), strict=True):
        less, more = odds[MULTIPLIERS.index(-1.0)], odds[MULTIPLIERS.index(1.0)]
        right = robust(odds)
        moved = {
            SCR: robust(more).astype(np.float32) - robust(less),
            LOG_ODDS: (more - less).mean(axis=-1) / 2,
        }
        at = {SCR: right.mean(axis=1), LOG_ODDS: odds.mean(axis=(1, 2), dtype=np.float64)}
        for outcome, effect in moved.items():
            yield {
                "outcome": outcome,
                "size": piece.size,
                "draw": piece.draw,
                "arm": arm,
                "figures": {
                    "rows": int(added[arm].sum()),
                    "tokens": int(data.pool.tokens[added[arm]].sum()),
                    "fac": fac(added[arm]),
                    "effect": float(effect.mean(dtype=np.float64)),
                    **{
                        f"at {multiplier:g}": float(value)
                        for multiplier, value in zip(MULTIPLIERS, at[outcome], strict=True)
                    },
                },
                "scores": effect.astype(np.float32),
            }


def effects(spec: ExperimentSpec, data: Questions, rows: list[Row]) -> list[Row]:
    """Differences of the effect, resampled over test questions, both orders of one together, and
    draws."""
    judged = np.ones(len(data.test), bool)
    return [each.row() for each in contrasts(rows, judged, spec.seed, beside, "effect")]


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    unsteered = next(
        row["figures"]["at 0"] for row in rows if (row["outcome"], row["arm"]) == (SCR, NONE)
    )
    left = {
        "questions that nearly repeat a test question": facts.n_leaks,
        "rows that are no question or whose two answers cannot be exchanged": facts.n_unlabelled,
    }
    left_out = ", ".join(f"{what} ({n:,})" for what, n in left.items() if n)
    note = (
        f"{facts.n_rows:,} questions; {facts.n_test:,} test, of which {unsteered:.0%} are right "
        "without a vector: the matching answer is the likelier one in both orders. SCR: the share "
        "that is right with the vector added, less with it taken away. Log-odds: nats by which it "
        "makes the matching answer likelier."
    )
    note += f" Left out: {left_out}." if left_out else ""
    words = f"{note} {REST_AT_RANDOM}"
    return Says(conclusion(rows, "questions"), controls(rows, REVERSED), words)


EXPERIMENT = Experiment(
    title="Do questions that fill gaps make a vector that steers better?",
    value="effect",
    columns={"rows": "questions", "fac": "FAC", "at -1": "at -1", "at 1": "at +1"},
    pieces=partial(pieces, unit="questions"),
    material=material,
    measure=measure,
    effects=effects,
    facts=Questions.facts,
    says=says,
    check=questions_suffice,
    defaults={"labels": (20,), "draws": 8},
    label="",
    preference=4,
)
