"""Explanations made elsewhere, in the form of Neuronpedia's export."""

from __future__ import annotations

import json

from fac.config import ExplainSpec
from fac.interpret import imported
from fac.interpret.parts import Explainer, FeatureExplanation, OpenExplainer, repeating
from fac.store.runs import Runs

METHOD = "by rows"  # changes when the same file would give other explanations


def _open(spec: ExplainSpec, runs: Runs) -> OpenExplainer:
    """The explanations of the spec's file; its digest is their version. Raises as
    `imported.read`."""
    rows = imported.read(spec.source, runs.manifest(spec.measure).facts, spec.author)
    texts = {
        feature: FeatureExplanation(
            text=entry.text, source=entry.author, inputs=json.dumps(entry.inputs)
        )
        for feature, entry in rows.by_feature.items()
    }
    return repeating(texts, version=f"{rows.digest[:12]} {METHOD}")._replace(rows=rows)


EXPLAINER = Explainer(
    title="imported", job_title="from a file", preference=1, open=_open, needs_file=True
)
