"""The cache: one DuckDB file per run, derived from its parquet, written once and only read after.

`build` writes cache/<run id>.duckdb under another name and renames it; `Cache` attaches such files
read-only and answers what pages and commands ask. The run id is the version, so nothing is ever
invalidated; a file may be deleted any day and built again. The only DuckDB code.

Each kind of run has a module with its tables, what fills them and what is asked of them. Texts that
are searched have a `folded` form, in lower case, beside them. Tables of a measure run, sorted by
feature so that one feature's rows lie together:
    activations  every stored peak; `strongest` marks the row of the loudest role of its sample,
                 so that "samples, whatever the role" is a plain count
    features     one row per feature of the dictionary, silent ones included
    rungs        the threshold grid: the thresholds that pages offer, and finer ones between them
                 where many peaks lie
    ladder       samples above each of them, per role and feature
    by_peak      the same peaks sorted by peak: those between two thresholds lie together
    spans, near, samples, meta
"""

from fac.store.cache.build import CACHED, build
from fac.store.cache.candidates import CandidateQueries
from fac.store.cache.features import HISTOGRAM_BINS, SORTABLE, FeatureQueries
from fac.store.cache.files import NotReady
from fac.store.cache.interpret import RelevanceQueries
from fac.store.cache.support import SupportQueries


class Cache(FeatureQueries, SupportQueries, RelevanceQueries, CandidateQueries):
    """Reads the caches of a folder; one per process is enough, and threads may share it."""


__all__ = ["CACHED", "HISTOGRAM_BINS", "SORTABLE", "Cache", "NotReady", "build"]
