"""RQ1 on chats, without labels: does a model answer better after rows that fill gaps than others?

One begins with a few chats and adds others of equal tokens; a fresh LoRA adapter learns from both,
and the loss on answers that nobody chose from says what that was worth. Then feature by feature
(RQ2): is it where the added rows' features fire that the loss falls?
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.config import ExperimentSpec
from fac.experiments.arms import ARMS, FILLING, MORE, NONE, NULL, RANDOM, SHUFFLED, WRITTEN, Draw
from fac.experiments.chats import ChatMaterial, chat_material, chats_suffice
from fac.experiments.effects import Resampled, in_words
from fac.experiments.run import Experiment, Piece, Row, Says
from fac.experiments.sentences import REST_AT_RANDOM, of_written
from fac.manifest import ExperimentFacts

CHOICES = NONE, RANDOM, FILLING, SHUFFLED, NULL, MORE
"""Arms beside those of written rows."""

ANSWERS, FIRING = "loss on held-out chats", "loss where features fire"
MISSING, OTHERS = "features still missing", "features of other rows"

NEAR = 8
"""Tokens on either side of a peak that are where its feature fires."""


def added(data: ChatMaterial, draw: Draw, arm: str) -> np.ndarray:
    """The rows that an arm adds, one of CHOICES or the run of written rows: bool `[n]`."""
    choose = data.written[arm].added if arm in data.written else ARMS[arm]
    return choose(data.pool, draw)


def pieces(spec: ExperimentSpec) -> list[Piece]:
    return [
        Piece(f"{size} chats, draw {draw + 1}, {arm}", size, draw, arm)
        for size in spec.labels
        for draw in range(spec.draws)
        for arm in (*CHOICES, *spec.written)
    ]


def measure(spec: ExperimentSpec, data: ChatMaterial, piece: Piece) -> Iterator[Row]:
    draw = data.draw(piece.size, piece.draw)
    rate = data.rate(draw)
    rows = draw.begin | added(data, draw, piece.arm)
    counts = data.pool.incidence(np.arange(len(data.chats)))
    there = counts.counts(draw.begin | draw.free) > 0
    nats = data.losses(np.flatnonzero(rows), data.test, rate, draw.seed).nats
    before, after = (float(each.mean(dtype=np.float64)) for each in (data.before.nats, nats))
    yield {
        "outcome": ANSWERS,
        "size": piece.size,
        "draw": piece.draw,
        "arm": data.written[piece.arm].arm if piece.arm in data.written else piece.arm,
        "figures": {
            "rows": int(rows.sum()),
            "tokens": int(data.pool.tokens[rows].sum()),
            "fac": float((counts.counts(rows) > 0)[there].mean()),
            "loss": after,
            "gain": before - after,
            "rate": rate,
        },
        "scores": nats,
    }


class _Losses(NamedTuple):
    """After one beginning, nats of the tokens that are judged."""

    size: int
    after: dict[str, np.ndarray]  # of every arm, float64 [draws, n_tokens]
    resampled: Resampled


def effects(spec: ExperimentSpec, data: ChatMaterial, rows: list[Row]) -> list[Row]:
    """Every arm beside random rows of equal tokens, the arm in question beside rows chosen in the
    same way by the features of other rows; then where features fire."""
    resampled = Resampled(np.ones(len(data.test), bool), spec.draws, spec.seed)
    by_size = []
    for size in spec.labels:
        after = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["draw"]):
            if row["size"] == size:
                after[row["arm"]].append(np.asarray(row["scores"], np.float64))
        by_arm = {arm: np.array(each) for arm, each in after.items()}
        by_size.append(_Losses(size, by_arm, resampled))
    return [
        *(row for losses in by_size for row in _on_answers(spec, data, losses)),
        *(row for losses in by_size for row in _where_features_fire(spec, data, losses)),
    ]


def _on_answers(spec: ExperimentSpec, data: ChatMaterial, losses: _Losses) -> Iterator[Row]:
    n = len(data.test)
    counts = np.bincount(data.before.chat, minlength=n)
    before = data.before.nats.astype(np.float64)

    def gains(arm: str) -> np.ndarray:
        return before - losses.after[arm]

    for arm, against in [*((arm, RANDOM) for arm in losses.after), (FILLING, SHUFFLED)]:
        apart = gains(arm) - gains(against)
        sums = [np.bincount(data.before.chat, each, minlength=n) for each in apart]
        means = np.stack([losses.resampled.ratios(each, counts) for each in sums])
        low, high = _interval(losses.resampled, means)
        yield {
            "outcome": ANSWERS,
            "size": losses.size,
            "arm": arm,
            "against": against,
            "value": float(gains(arm).mean()),
            "difference": float(apart.mean()),
            "low": low,
            "high": high,
        }


def _interval(resampled: Resampled, differences: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean over draws of differences `[draws, resamples]`."""
    low, high = np.nanpercentile(resampled.means(differences), [2.5, 97.5])
    return float(low), float(high)


def _where_features_fire(
    spec: ExperimentSpec, data: ChatMaterial, losses: _Losses
) -> Iterator[Row]:
    """Differences in differences of loss.

    Beside features still missing: how much more an arm than the beginning alone lowers the loss
    where features fire that its rows are the first to show, less the same where features fire that
    they do not show either. Common features fire among more of everything, so beside features of
    other rows: how much more an arm lowers the loss than another draw of random rows where only its
    own rows' features fire, less the same where only the others' do.
    """
    near = _Near(data)
    counts = data.pool.incidence(np.arange(len(data.chats)))
    for arm in (RANDOM, FILLING):
        beside: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        for number in range(spec.draws):
            draw = data.draw(losses.size, number)
            lacking = counts.counts(draw.begin) == 0
            mine, others = (
                lacking & (counts.counts(added(data, draw, which)) > 0) for which in (arm, NULL)
            )
            loss = {which: losses.after[which][number] for which in (arm, NONE, NULL)}
            beside[MISSING].append((loss[NONE] - loss[arm], mine, lacking & ~mine))
            beside[OTHERS].append((loss[NULL] - loss[arm], mine & ~others, others & ~mine))
        for against, draws in beside.items():
            if row := near.difference(draws, losses.resampled):
                yield {
                    "outcome": FIRING,
                    "size": losses.size,
                    "arm": arm,
                    "against": against,
                    **row,
                }


class _Near:
    """Means of what is measured of tokens, over where features fire: each feature counts alike."""

    def __init__(self, data: ChatMaterial):
        from scipy.sparse import csr_matrix

        self._row, feature, position = data.peaks
        self._feature = np.searchsorted(data.pool.relevant, feature)
        wide = int(data.before.position.max(initial=0)) + 2 * NEAR
        at = data.before.chat.astype(np.int64) * wide + data.before.position
        first = np.searchsorted(at, self._row * wide + np.maximum(position - NEAR, 0))
        last = np.searchsorted(at, self._row * wide + position + NEAR, side="right")
        lengths = last - first
        tokens = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        begins = np.concatenate([[0], np.cumsum(lengths)])
        shape = (len(first), len(at))
        self._average = csr_matrix((np.repeat(1 / lengths, lengths), tokens, begins), shape)
        fires = np.bincount(self._feature, minlength=len(data.pool.relevant))
        self._weight = 1 / fires[self._feature]
        self._n_test = len(data.test)

    def difference(
        self, draws: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], resampled: Resampled
    ) -> dict[str, Any] | None:
        """Of (gain `[n_tokens]`, features, other features, both bool `[relevant]`) a draw: the mean
        gain where the first fire, less that where the others do, with its interval. None where in
        some draw either fire nowhere."""
        values, differences, spread = [], [], []
        for gain, features, others in draws:
            here = self._average @ gain
            means, resamples = [], []
            for group in (features, others):
                weight = self._weight * group[self._feature]
                if not weight.any():
                    return None
                sums, counts = (
                    np.bincount(self._row, each, minlength=self._n_test)
                    for each in (weight * here, weight)
                )
                means.append(float(sums.sum() / counts.sum()))
                resamples.append(resampled.ratios(sums, counts))
            values.append(means[0])
            differences.append(means[0] - means[1])
            spread.append(resamples[0] - resamples[1])
        low, high = _interval(resampled, np.stack(spread))
        value, difference = float(np.mean(values)), float(np.mean(differences))
        return {"value": value, "difference": difference, "low": low, "high": high}


Effects = dict[tuple[str, str, str], Row]
"""Rows of one size by outcome, arm and what it is set beside."""


def says(rows: list[Row], facts: ExperimentFacts, spec: ExperimentSpec) -> Says:
    by_size: dict[int, Effects] = defaultdict(dict)
    for row in rows:
        by_size[row["size"]][row["outcome"], row["arm"], row["against"]] = row
    return Says(
        " ".join(f"{size} chats: {_conclusion(effect)}" for size, effect in by_size.items()),
        " ".join(f"{size} chats: {_controls(effect)}" for size, effect in by_size.items()),
        _note(by_size[spec.labels[0]], facts, spec),
    )


def _conclusion(effect: Effects) -> str:
    chance, shuffled = (effect[ANSWERS, FILLING, other] for other in (RANDOM, SHUFFLED))
    if chance["high"] < 0:
        verdict = "rows that fill gaps teach less than random rows of equal tokens"
    elif chance["low"] > 0 and shuffled["low"] > 0:
        verdict = "rows that fill gaps teach more than random rows of equal tokens"
    elif chance["low"] > 0:
        verdict = (
            "rows that fill gaps beat random rows, but no more than rows chosen by the features of "
            "others, so it need not be what they fire that helps"
        )
    else:
        verdict = "whether filling gaps helps cannot be told"
    parts = [
        f"{verdict} (nats per token of held-out chats: {in_words(chance, 4)}; beside random "
        f"features {in_words(shuffled, 4)})."
    ]
    parts += [
        of_written([row], 4)
        for (outcome, arm, _), row in effect.items()
        if outcome == ANSWERS and arm.startswith(WRITTEN)
    ]
    parts += [_by_feature(effect, arm) for arm in (RANDOM, FILLING)]
    return " ".join(filter(None, parts))


def _by_feature(effect: Effects, arm: str) -> str:
    missing, others = (effect.get((FIRING, arm, against)) for against in (MISSING, OTHERS))
    if missing is None or others is None:
        return ""
    if others["low"] > 0:
        verdict = "the loss falls more where the features of its rows fire"
    elif others["high"] < 0:
        verdict = "the loss falls less where the features of its rows fire"
    else:
        verdict = "that the loss falls where its features fire cannot be told"
    return (
        f"Feature by feature, {arm}: {verdict} (beside features of other rows "
        f"{in_words(others, 4)}, beside features still missing {in_words(missing, 4)})."
    )


def _controls(effect: Effects) -> str:
    """Whether the instrument sees what is there, and nothing where nothing is."""
    more, null, less = (effect[ANSWERS, arm, RANDOM] for arm in (MORE, NULL, NONE))
    width = (null["high"] - null["low"]) / 2
    return (
        f"twice the tokens are {'' if more['low'] > 0 else 'not '}seen to help "
        f"({in_words(more, 4)}), nothing added is {'' if less['high'] < 0 else 'not '}seen to be "
        f"worse ({in_words(less, 4)}), another draw of random rows "
        f"{'does not differ' if null['low'] <= 0 <= null['high'] else 'differs'} "
        f"({in_words(null, 4)}); differences below about {width:.4f} cannot be seen."
    )


def _note(effect: Effects, facts: ExperimentFacts, spec: ExperimentSpec) -> str:
    kind = f" labelled {spec.label!r}" if spec.label else ""
    begun = ", ".join(map(str, spec.labels))
    figures = effect[ANSWERS, RANDOM, RANDOM]["figures"]
    parts = [
        f"{facts.n_rows:,} chats; {facts.n_test:,} test, {begun}{kind} are begun with, "
        f"{spec.tokens:,} tokens added, {spec.draws} draws; before learning the loss is "
        f"{figures['loss'] + figures['gain']:.4f} nats per token.",
        "One epoch of LoRA on the assistant's tokens, or on the whole text where nobody answers.",
    ]
    if len(spec.rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in spec.rates)
        parts.append(
            f"Of the learning rates {rates} each draw takes what does better within its beginning, "
            "for all arms alike."
        )
    if facts.n_leaks:
        parts.append(f"Left out: rows that nearly repeat a test row ({facts.n_leaks:,}).")
    if not any(outcome == FIRING for outcome, *_ in effect):
        parts.append("Too few features fire in what is judged to go feature by feature.")
    parts.append(REST_AT_RANDOM)
    return " ".join(parts)


EXPERIMENT = Experiment(
    title="Do rows that fill gaps teach the model to answer better?",
    value="gain",
    columns={"rows": "rows", "tokens": "tokens", "fac": "FAC", "loss": "loss"},
    pieces=pieces,
    material=chat_material,
    measure=measure,
    effects=effects,
    facts=ChatMaterial.facts,
    says=says,
    check=chats_suffice,
    takes=("written",),
    defaults={"labels": (30,), "draws": 3},
    label="begun with",
    preference=2,
)
