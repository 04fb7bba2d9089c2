"""What samples of a measured dataset fire, as one sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from fac.store.runs import Runs


def peaks_of(runs: Runs, measure: str, samples: np.ndarray) -> Any:
    """The highest peak of each feature in some samples, whatever role: scipy csr float32
    `[samples, n_features]`, row i of `samples[i]`, numbers in the dataset, each once."""
    facts = runs.manifest(measure).facts
    number = np.full(runs.manifest(facts.dataset).facts.n_samples, -1)
    number[samples] = np.arange(len(samples))
    rows, features = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    values = [np.zeros(0, np.float32)]
    for batch in runs.batches(measure, "activations", columns=["sample", "feature", "peak"]):
        sample, feature, peak = (batch.column(i).to_numpy() for i in range(3))
        inside = number[sample] >= 0
        rows.append(number[sample[inside]])
        features.append(feature[inside])
        values.append(peak[inside])
    row, feature, peak = (np.concatenate(column) for column in (rows, features, values))
    return highest(row, feature, peak, len(samples), facts.n_features)


def highest(row: np.ndarray, feature: np.ndarray, peak: np.ndarray, n: int, n_features: int) -> Any:
    """scipy csr float32 `[n, n_features]` of entries, of several of one cell the highest."""
    from scipy.sparse import csr_matrix

    order = np.lexsort((-peak, feature, row))
    cells = row[order].astype(np.int64) * n_features + feature[order]
    _, first = np.unique(cells, return_index=True)
    at = order[first]
    return csr_matrix((peak[at], (row[at], feature[at])), shape=(n, n_features), dtype=np.float32)
