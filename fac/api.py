"""The door for programs: a workspace, the steps that fill it and the questions that pages ask.

    import fac

    explorer = fac.Explorer("my-workspace")
    explorer.ingest("my.jsonl", name="mine"), explorer.measure("mine")
    comparison = explorer.comparison("demo-anchor", "mine")
    explorer.coverage(comparison).fac, explorer.gaps(comparison).to_pandas()

Nothing is computed here: steps are those of fac/jobs, answers those of fac/questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from fac import config, demo, schema
from fac.config import IngestSpec, MeasureSpec, Spec
from fac.errors import InputError, Progress
from fac.jobs.steps import Steps, silent
from fac.manifest import AnyManifest, DatasetManifest, MeasureManifest
from fac.questions import catalogue
from fac.questions.by_name import CLEAR, build_caches, comparison_by_name
from fac.questions.comparison import Certainty, Comparison, certainty, coverage
from fac.questions.explanations import (
    Explanation,
    explain_runs,
    explained,
    explanations_of,
    names,
)
from fac.questions.gap_evidence import gap_counts
from fac.questions.gaps import GapList, gap_table
from fac.questions.outlook import Outlook, outlook
from fac.schema import EVERY_FEATURE, EVERY_ROLE, CoverageResult
from fac.store import Stores, open_stores

EXAMPLES = pa.schema([field for field in schema.SPANS if field.name != "feature"])
NEAR_MISSES = pa.schema(
    [*(field for field in schema.NEAR if field.name != "feature"), ("ratio", pa.float64())]
)


class Explorer:
    """One workspace. Closed by `close`, or as a context manager.

    Datasets go by their names or the ids of their runs, features by their numbers in the SAE's
    dictionary. Tables are Arrow: `.to_pandas()` makes a data frame of one, `.to_pylist()` rows.
    Whatever is wrong with what comes in is an InputError, one sentence, as the commands say it.
    """

    def __init__(self, workspace: str | Path | None = None):
        """Opens a folder; nothing is created before something is written. None is the folder that
        commands take: FAC_WORKSPACE, else the usual one (fac.config.workspace)."""
        self.workspace = config.workspace(workspace)

    @cached_property
    def stores(self) -> Stores:
        """Runs, caches, queue and decisions of the workspace, for all of fac.questions."""
        return open_stores(self.workspace, remember=False)

    @cached_property
    def _steps(self) -> Steps:
        """The model that was loaded last stays loaded."""
        return Steps(self.workspace)

    def close(self) -> None:
        """Lets the caches go; a question opens them again."""
        if "stores" in vars(self):
            self.stores.cache.close()
            del self.stores

    def __enter__(self) -> Explorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- steps ------------------------------------------------------------------------------------

    def perform(self, spec: Spec, *, progress: Progress = silent) -> AnyManifest:
        """Carries out any step, as its spec in fac.config says, and returns what its run says of
        itself; a step that was carried out before is not repeated."""
        return self.stores.runs.manifest(self._steps.perform(spec, progress))

    def demo(self, *, progress: Progress = silent) -> list[str]:
        """Brings the demo in, without a model; returns the ids of its runs."""
        return demo.materialise(self.workspace, progress)

    def ingest(
        self,
        source: str | Path,
        *,
        name: str,
        text_field: str | None = None,
        messages_field: str | None = None,
        label_field: str | None = None,
        on_bad: str = "stop",
        progress: Progress = silent,
    ) -> DatasetManifest:
        """Reads a file, or `hf:ID` of the Hugging Face hub, as a dataset of that name; its `facts`
        count samples, duplicates and rejected rows. Arguments as of IngestSpec."""
        spec = IngestSpec(
            name=name,
            source=str(source),
            text_field=text_field,
            messages_field=messages_field,
            label_field=label_field,
            on_bad=on_bad,
        )
        return self.perform(spec, progress=progress)

    def measure(
        self,
        dataset: str,
        *,
        model: str = MeasureSpec.model,
        layer: int = MeasureSpec.layer,
        sae: str = MeasureSpec.sae,
        despite: str = "",
        role: str = EVERY_ROLE,
        floor: float = 0.0,
        max_tokens: int = MeasureSpec.max_tokens,
        on_bad: str = "stop",
        progress: Progress = silent,
    ) -> MeasureManifest:
        """Activations, examples and near misses of a dataset; its `facts` count tokens, features
        that fired and samples left out. Arguments as of MeasureSpec. Loads the model, which stays
        loaded for the next one."""
        spec = MeasureSpec(
            dataset=self.stores.runs.resolve(IngestSpec.step, dataset),
            model=model,
            layer=layer,
            sae=sae,
            despite=despite,
            role=role,
            floor=floor,
            max_tokens=max_tokens,
            on_bad=on_bad,
        )
        return self.perform(spec, progress=progress)

    # --- what there is ----------------------------------------------------------------------------

    def datasets(self) -> list[DatasetManifest]:
        """The datasets that were read, newest first."""
        return catalogue.datasets(self.stores)

    def measured(self) -> list[MeasureManifest]:
        """The datasets that were measured, newest first."""
        return [*catalogue.measured(self.stores).values()]

    def samples(self, dataset: str) -> pa.Table:
        """The samples of a dataset, in the order in which examples number them: schema.SAMPLES."""
        return self.stores.runs.table(self.stores.runs.resolve(IngestSpec.step, dataset), "samples")

    # --- a comparison -----------------------------------------------------------------------------

    def comparison(
        self,
        anchor: str,
        dataset: str,
        added: Iterable[str] = (),
        *,
        threshold: float | str = CLEAR,
        min_support: int = 1,
        role: str = EVERY_ROLE,
        relevant: str = EVERY_FEATURE,
        maybe: bool = False,
    ) -> Comparison:
        """The question of coverage: a measured dataset, with others that would be added to it,
        against a measured anchor. `threshold` is a number, a feature fires where its peak is above,
        or `clear` for clear firing; `relevant` is `all`, a judged task or a file of feature ids."""
        return comparison_by_name(
            self.stores,
            anchor,
            dataset,
            added,
            threshold=threshold,
            min_support=min_support,
            role=role,
            relevant=relevant,
            maybe=maybe,
        )

    def coverage(self, comparison: Comparison) -> CoverageResult:
        """FAC and the ids of the missing features (arXiv 2602.10388)."""
        return coverage(self.stores, comparison)

    def certainty(self, comparison: Comparison) -> Certainty:
        """FAC's 95 % interval, and what random text of the dataset's size would cover."""
        return certainty(self.stores, comparison)

    def outlook(self, comparison: Comparison) -> Outlook:
        """What is lacking and what to do, in two sentences, and how many gaps there are."""
        return outlook(self.stores, comparison)

    def gaps(
        self,
        comparison: Comparison,
        *,
        badge: str = "any",
        kind: str = "any",
        search: str = "",
        limit: int | None = None,
    ) -> pa.Table:
        """The gaps with the evidence for each, certain ones first: the columns that
        fac.questions.gaps.gap_table lists. None is no limit."""
        explaining = explain_runs(self.stores.runs, comparison.anchor)
        build_caches(self.stores, explaining)
        most = gap_counts(self.stores, comparison).n_asked if limit is None else limit
        listing = GapList(search=search, badge=badge, kind=kind)
        table, _ = gap_table(self.stores, comparison, listing, explain_runs=explaining, limit=most)
        return table

    # --- features ---------------------------------------------------------------------------------

    def features(
        self,
        dataset: str,
        *,
        search: str = "",
        only: str = "alive",
        sort: str = "feature",
        limit: int | None = None,
    ) -> pa.Table:
        """The features of a measured dataset: how many samples fire each and how strongly, the
        tokens it peaks on, its name and explanation (columns of Cache.features_page, and `name`).
        `only` is alive, silent or all."""
        run, anchor, about = self._about(dataset)
        most = self.stores.cache.summary(run)["n_features"] if limit is None else limit
        rows, _ = self.stores.cache.features_page(
            run,
            search=search,
            only=only,
            sort=sort,
            descending=sort != "feature",
            limit=most,
            **about,
        )
        features = [row["feature"] for row in rows]
        table = self.stores.cache.described(run, np.array(features, np.int64), **about)
        by_feature = names(self.stores, anchor, features, run=run)
        return table.append_column("name", pa.array(map(by_feature.get, features), pa.string()))

    def examples(self, dataset: str, feature: int, *, kind: str | None = None) -> pa.Table:
        """Where a feature fires in a measured dataset: its strongest spans (kind `top`) and some
        over all strengths (`spread`), both unless one is named. `sample` is a row of `samples`,
        `tokens` and `activations` go together, `text` is the tokens in a row."""
        if kind not in (None, "top", "spread"):
            raise InputError(f"Examples are top or spread, got {kind!r}.")
        run = self._feature_run(dataset, feature)
        return _with_text(self.stores.cache.spans(run, feature, kind), EXAMPLES)

    def near_misses(self, dataset: str, feature: int, *, threshold: float = 0.0) -> pa.Table:
        """Where a feature came closest to firing in a measured dataset, whether or not it did; as
        `examples`, and `ratio` is the pre-activation over the level to reach."""
        run = self._feature_run(dataset, feature)
        sae = self._about(run)[2]["sae_run"]
        rows = self.stores.cache.near(run, feature, sae_run=sae, threshold=threshold)
        return _with_text(rows, NEAR_MISSES)

    def explanations(self, dataset: str, feature: int) -> list[Explanation]:
        """Explanations of a feature side by side, preferred first, with their held-out scores and
        what people said of them."""
        run = self._feature_run(dataset, feature)
        self._about(run)
        return explanations_of(self.stores, run, feature)

    def _about(self, dataset: str) -> tuple[str, str, dict[str, Any]]:
        """A measure run, the anchor in which its features are named, and what a table of features
        takes beside it. The caches of all are built."""
        stores = self.stores
        run = stores.runs.resolve(MeasureSpec.step, dataset)
        build_caches(stores, [run])
        anchor, manifest = catalogue.anchor_of(stores, run), stores.runs.manifest(run)
        beside = [each for about in (anchor, run) for each in explain_runs(stores.runs, about)]
        if stores.runs.find(manifest.facts.sae_run):
            beside.append(manifest.facts.sae_run)
        build_caches(stores, dict.fromkeys(beside))
        sae = catalogue.sae_of(stores, manifest)
        return run, anchor, {"sae_run": sae, "explained": explained(stores, run)}

    def _feature_run(self, dataset: str, feature: int) -> str:
        """The measure run, once its dictionary is known to have the feature."""
        run = self.stores.runs.resolve(MeasureSpec.step, dataset)
        build_caches(self.stores, [run])
        size = self.stores.cache.summary(run)["n_features"]
        if not 0 <= feature < size:
            raise InputError(f"This dictionary has features 0 to {size - 1:,}, got {feature}.")
        return run


def _with_text(rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Spans as a table, with their tokens in a row as `text`."""
    table = pa.Table.from_pylist([*rows], columns)
    texts = ["".join(row["tokens"]) for row in rows]
    return table.append_column("text", pa.array(texts, pa.string()))
