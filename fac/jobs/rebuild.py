"""The demo's runs, computed anew from its committed samples, and what they say of coverage."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from fac import demo
from fac.config import ExplainSpec, IngestSpec, MeasureSpec, Workspace
from fac.jobs.loading import Progress
from fac.jobs.steps import Steps
from fac.questions.comparison import Comparison, coverage
from fac.store import open_stores
from fac.store.runs import Runs


def rebuild_demo(workspace: Workspace, progress: Progress) -> list[str]:
    """Recompute the demo's runs from `data/demo/` in a folder of their own, compare, bring them in.

    Returns the run ids. Raises GateFailed when FAC or the missing set differ from the committed
    runs'; what was computed then stays in the folder for a look.
    """
    apart = Workspace(workspace.root / "rebuild")
    shutil.rmtree(apart.root, ignore_errors=True)
    steps = Steps(apart, models=workspace.models)
    for name, path in demo.INPUTS.items():
        source = steps.perform(IngestSpec(name=name, source=str(path)), progress)
        measured = steps.perform(MeasureSpec(dataset=source), progress)
        if name == demo.ANCHOR:
            steps.perform(ExplainSpec(measure=measured), progress)
    rebuilt = demo.run_ids(steps.runs)
    if demo.run_ids(Runs(demo.COMMITTED)):
        committed = demo.materialise(workspace, progress)
        demo.must_agree(headline(workspace, committed), headline(apart, rebuilt))
    demo.bring_in(steps.runs, workspace, progress)
    shutil.rmtree(apart.root)
    return rebuilt


def headline(workspace: Workspace, run_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """FAC and missing set of the demo's seed against its anchor, at threshold 0.

    Of several measures with these names, such as one with another model, those in `run_ids` count;
    by default the newest.
    """
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        measures = {
            manifest.facts.name: manifest.run
            for manifest in reversed(stores.runs.list(MeasureSpec.step))
            if run_ids is None or manifest.run in run_ids
        }
        anchor, seed = (measures[name] for name in demo.INPUTS)
        result = coverage(stores, Comparison(anchor, seed))
    return {"fac": result.fac, "n_missing": result.n_missing, "missing": result.missing.tolist()}
