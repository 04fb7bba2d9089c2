"""Which pairs a synthesis may write from: those that people approved, as they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fac.config import METHODS, RescoreSpec, SynthesizeSpec, digest
from fac.errors import InputError
from fac.store.runs import Runs
from fac.synthesis.pairs import PROPOSED, pair_id
from fac.synthesis.plan import Row


def approved_as_they_are(
    spec: SynthesizeSpec, runs: Runs, approved: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """The pairs that the spec names, by feature, with who approved them. Raises InputError naming
    the pair where nobody approved it, or approved something else than what is in the run; and where
    the method needs pairs and none is named."""
    by_id = {row["pair"]: row for row in approved}
    pairs = []
    for name in dict.fromkeys(spec.approved):
        if name not in by_id:
            raise InputError(
                f"Nobody approved the pair {name} as it is now: approve it again (`fac approve "
                f"{spec.pairs}`), or leave it out."
            )
        row = dict(by_id[name])
        if why := _unlike(row, spec.pairs, runs):
            raise InputError(
                f"The approval of the pair {name} (feature {row['feature']}) does not count: "
                f"{why}. Look at it and approve it again."
            )
        pairs.append(row)
    if not pairs and METHODS[spec.method].needs_pairs:
        raise InputError(
            f"No approved pair is named, and {spec.method} writes from nothing else: approve pairs "
            f"first."
        )
    features = Counter(row["feature"] for row in pairs)
    if double := [feature for feature, n in features.items() if n > 1]:
        raise InputError(f"Feature {double[0]} has two approved pairs: name one of them.")
    return sorted(pairs, key=lambda row: row["feature"])


def _unlike(row: Mapping[str, Any], pairs_run: str, runs: Runs) -> str:
    """Why an approval is not one of this very pair; "" where it is."""
    content = row["content"]
    if digest(content) != row["seen"]:
        return "what was approved does not have its hash"
    if not _edited_from(runs, row["run"], pairs_run):
        return f"it lies in {row['run']}, which does not come from {pairs_run}"
    of_feature = runs.rows(row["run"], "pairs", [row["feature"]]).to_pylist()
    stored = [pair for pair in of_feature if pair["pair"] == row["pair"]]
    if not stored or stored[0]["status"] != PROPOSED:
        return f"the run {row['run']} has no such pair"
    (pair,) = stored
    if pair_id(pair["feature"], pair["positive"], pair["negative"]) != row["pair"]:
        return "its texts are not those it is named after"
    if any(row[name] != pair[name] for name in pair):
        return "it changed since"
    approved = {"pairs": row["run"], "pair": row["pair"], "feature": row["feature"]}
    for side in ("positive", "negative"):
        approved |= {side: pair[side], f"{side}_peak": round(float(pair[f"{side}_peak"]), 4)}
    if any(content.get(name) != value for name, value in approved.items()):
        return "something else was approved"
    return ""


def _edited_from(runs: Runs, run_id: str, pairs_run: str) -> bool:
    """Whether a run is the pairs run or, by one or more edits, comes from it."""
    while run_id != pairs_run:
        manifest = runs.manifest(run_id)
        if manifest.step != RescoreSpec.step:
            return False
        run_id = manifest.inputs.pairs
    return True
