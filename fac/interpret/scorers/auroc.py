"""How well an explanation's prediction ranks samples that it was not made from."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fac.interpret.parts import Explanations, Scorer, score_row
from fac.interpret.step_run import ExplainRun
from fac.schema import LEAST_SCORED

Z = 1.959963984540054  # half-width of a 95 % normal interval


class Auroc(NamedTuple):
    """With its 95 % interval, NaN where undefined; of n samples, of which n_positive fire."""

    value: float
    low: float
    high: float
    n: int
    n_positive: int


def auroc(predicted: np.ndarray, fires: np.ndarray) -> Auroc:
    """Chance that a firing sample is ranked above a silent one; ties count half.

    `predicted` float `[n]`, `fires` bool `[n]`. Undefined unless both kinds occur. The interval is
    Newcombe's method 5 (Stat. Med. 2006): the values that lie within Z standard errors, with the
    error taken at the value itself, so that it is sound for one positive and for a perfect score.
    """
    from scipy.optimize import brentq

    value, positives = _area(predicted, fires), int(fires.sum())
    negatives = len(fires) - positives
    if math.isnan(value):
        return Auroc(value, math.nan, math.nan, len(fires), positives)
    pairs, spread = positives * negatives, (positives + negatives) / 2 - 1

    def beyond(truth: float) -> float:
        inner = 1 + spread * (1 - truth) / (2 - truth) + spread * truth / (1 + truth)
        return abs(value - truth) - Z * math.sqrt(max(truth * (1 - truth) * inner / pairs, 0.0))

    inside = min(max(value, 1e-12), 1 - 1e-12)  # at 0 and 1 the standard error itself is 0
    low = brentq(beyond, 0.0, inside) if value > 0 else 0.0
    high = brentq(beyond, inside, 1.0) if value < 1 else 1.0
    return Auroc(value, float(low), float(high), len(fires), positives)


def _area(predicted: np.ndarray, fires: np.ndarray) -> float:
    """The value of `auroc`; NaN where undefined."""
    from scipy.stats import rankdata

    positives = int(fires.sum())
    negatives = len(fires) - positives
    if not positives or not negatives:
        return math.nan
    above = float(rankdata(predicted)[fires].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def _score(run: ExplainRun, explanations: Explanations) -> None:
    """Of every prediction, and beside it what the length of a text alone reaches. A feature that
    fires in fewer than LEAST_SCORED samples has no score."""
    for feature, explanation in explanations.items():
        if explanation.prediction is None:
            continue
        predicted, fires = explanation.prediction
        if explanation.n_firing < LEAST_SCORED:
            estimate = Auroc(math.nan, math.nan, math.nan, len(fires), int(fires.sum()))
        else:
            estimate = auroc(predicted, fires)
        explanation.scores.append(score_row(feature, "auroc", estimate))
        if explanation.lengths is not None and not math.isnan(estimate.value):
            explanation.by_length = _area(explanation.lengths, fires)


SCORER = Scorer(
    title="AUROC",
    meaning="How well the explanation's words rank held-out samples: firing before silent ones. "
    "Not for features that fire in fewer than ten samples.",
    preference=0,
    score=_score,
)
