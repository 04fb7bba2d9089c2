"""Heads on a frozen model: what is learned from few labels, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

STATES, FEATURES = "raw activations", "SAE features"
"""Heads: logistic regression on the mean residual stream, and on log(1 + peak) of each feature."""

PENALTIES = (0.001, 0.01, 0.1)
"""scikit-learn's C, the inverse of the L2 penalty: the sweep that every arm has, decided by
cross-validation within what is learned from."""

FOLDS = 3


def scores(inputs: Any, positive: np.ndarray, learned: np.ndarray, test: np.ndarray) -> np.ndarray:
    """P(positive) of the test rows by a head that learned from others: float64 `[n_test]`.

    `inputs` `[n, d]`, dense or csr; `positive` bool `[n]`; `learned` and `test` int64, the same
    row of `learned` as often as it counts. Both labels must be among what is learned from.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, StandardScaler

    labels = positive[learned]
    rarer = int(min(labels.sum(), (~labels).sum()))
    dense = isinstance(inputs, np.ndarray)
    scaler = StandardScaler() if dense else MaxAbsScaler()
    head: Any
    if rarer < 2:
        head = LogisticRegression(C=PENALTIES[1], max_iter=500)
    else:
        folds = StratifiedKFold(min(FOLDS, rarer), shuffle=True, random_state=0)
        head = LogisticRegressionCV(
            Cs=list(PENALTIES),
            cv=folds,
            scoring="neg_log_loss",
            max_iter=500,
            l1_ratios=(0,),
            use_legacy_attributes=False,
        )
    pipeline = make_pipeline(scaler, head).fit(inputs[learned], labels)
    chance: np.ndarray = pipeline.predict_proba(inputs[test])[:, 1]
    return chance


def margins(apart: np.ndarray, learned: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Reward of the better text of each test pair less that of the worse one, by a linear reward
    that learned from other pairs: float64 `[n_test]`.

    `apart` `[n, d]` is what the model holds of the better text less what it holds of the worse;
    `learned` and `test` int64. P(better) = 1 / (1 + exp(-margin)) (Bradley and Terry 1952), so that
    it is a logistic regression of the differences without an intercept; the sign with which a pair
    is read changes nothing, and half of them are turned around because two classes are needed.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import KFold

    pairs = apart[learned].astype(np.float64)
    scale = np.sqrt((pairs**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    turned = np.arange(len(pairs)) % 2 == 1
    read = np.where(turned[:, None], -pairs, pairs) / scale
    head: Any
    if len(pairs) < 2 * FOLDS:
        head = LogisticRegression(C=PENALTIES[1], max_iter=500, fit_intercept=False)
    else:
        head = LogisticRegressionCV(
            Cs=list(PENALTIES),
            cv=KFold(FOLDS, shuffle=True, random_state=0),
            scoring="neg_log_loss",
            max_iter=500,
            l1_ratios=(0,),
            fit_intercept=False,
            use_legacy_attributes=False,
        )
    reward = head.fit(read, ~turned).coef_[0]
    margin: np.ndarray = apart[test] / scale @ reward
    return margin


def worth(chance: np.ndarray, positive: np.ndarray) -> Mapping[str, float]:
    """AUPRC, AUROC and mean nats of scores `[n]` for bool `[n]`."""
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    return {
        "auprc": float(average_precision_score(positive, chance)),
        "auroc": float(roc_auc_score(positive, chance)),
        "nats": float(log_loss(positive, chance, labels=[False, True])),
    }
