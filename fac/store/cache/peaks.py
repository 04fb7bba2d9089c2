"""What is asked of a measure run's peaks themselves, where counts of samples do not do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fac.schema import EVERY_ROLE
from fac.store.cache.files import Files, role_code, sql_name

PEAKS_OF = """
    SELECT feature, sample, peak FROM {run}.activations
    WHERE feature >= {first} AND feature < {beyond} AND {of_role}
"""


class Peaks(NamedTuple):
    """Every stored peak of some features, one per feature and sample, in the order of features."""

    feature: np.ndarray
    """int32 `[peaks]`"""
    sample: np.ndarray
    """int32 `[peaks]`"""
    peak: np.ndarray
    """float32 `[peaks]`"""


class PeakQueries(Files):
    """Peaks by feature and sample."""

    def peaks(self, run: str, role: str, first: int, beyond: int) -> Peaks:
        """Those of the features from `first` to before `beyond`, over the tokens of a role or, of
        every role, the highest of each sample; not remembered, as there are many."""
        of_role = "strongest" if role == EVERY_ROLE else f"role = {role_code(role)}"
        names = {"run": sql_name(run), "first": int(first), "beyond": int(beyond)}
        with self._reading(run) as cursor:
            columns = cursor.execute(PEAKS_OF.format(of_role=of_role, **names)).fetchnumpy()
        return Peaks(*(np.asarray(columns[name]) for name in Peaks._fields))
