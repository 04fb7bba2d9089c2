"""Preflights that were made."""

from __future__ import annotations

from fac.config import PreflightSpec
from fac.manifest import PreflightManifest
from fac.store import Stores


def newest_preflight(stores: Stores, spec: PreflightSpec) -> PreflightManifest | None:
    """The newest with this model, layer, SAE and these texts; None where there is none."""
    content = spec.as_json()
    runs = stores.runs.list(PreflightSpec.step)
    return next((each for each in runs if dict(each.content["spec"]) == content), None)
