"""What leaves a workspace: exports as the page and the command ask for them, with what people
decided on the samples."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from fac import export
from fac.config import RetouchSpec, SynthesizeSpec
from fac.coverage import is_active
from fac.export import Edit, Exported, Opinion, Plan
from fac.manifest import SynthesisManifest
from fac.questions.families import families_run, names_by_feature
from fac.questions.results import question_of
from fac.questions.samples import looked, sample_states
from fac.review.samples import Looked, SampleState
from fac.store import Stores


def opinions(stores: Stores, run: str) -> dict[str, Opinion]:
    """What people say of the kept samples of a synthesis, by candidate. An edit counts once
    somebody decided on it."""
    measuring = {
        job.spec["candidate"]
        for job in stores.queue.live()
        if job.step == RetouchSpec.step and job.spec["synthetic"] == run
    }
    threshold = stores.runs.manifest(run).spec.threshold
    return {
        name: _opinion(stores, state, threshold)._replace(
            waits=state.before is not None, measuring=name in measuring
        )
        for name, state in sample_states(stores, run).items()
    }


def _opinion(stores: Stores, newest: SampleState, threshold: float) -> Opinion:
    state, edit = newest.settled, None
    if state.version is not state.versions[0]:
        run, row = state.version.run, state.version.row
        hits = stores.runs.table(run, "hits").to_pylist()
        hit = next(hit for hit in hits if hit["feature"] == state.feature)
        fires = tuple(hit["feature"] for hit in hits if is_active(hit["peak"], threshold))
        edit = Edit(run, row["messages"], row["extra"], hit, fires)
    return Opinion(state.state, state.reviewers, state.right_label, edit)


class Revision(NamedTuple):
    """What people changed of the samples that a synthesis kept, whose facts stay as they are."""

    counts: Looked
    rows: int
    """That an export has by now, in the usual columns."""

    def words(self) -> str:
        """The changes as a sentence."""
        counts = self.counts
        parts = (
            (counts.dropped, "dropped"),
            (counts.edited, "edited"),
            (counts.wrong_label, "said to have another label"),
            (counts.disagreed, "that people disagree on"),
        )
        changes = ", ".join(f"{n:,} {what}" for n, what in parts if n)
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return (
            f"The figures are of the {counts.samples:,} samples that were kept; people looked at "
            f"them since ({changes}), and an export has {rows}."
        )


def revision(stores: Stores, run: str) -> Revision | None:
    """What people changed of a synthesis's kept samples; None where they changed nothing."""
    counts = looked(stores, run)
    if not (counts.dropped or counts.edited or counts.wrong_label or counts.disagreed):
        return None
    chosen = export.selection(run, runs=stores.runs, opinions=opinions(stores, run))
    return Revision(counts, len(chosen.rows))


def plan(
    stores: Stores, run: str, *, format: str = "jsonl", form: str = "", reviewed: bool = False
) -> Plan:
    """What an export would hold; arguments and errors as of fac.export.export."""
    how: dict[str, Any] = {"format": format, "form": form, "reviewed": reviewed}
    return export.plan_export(run, **how, **_beside(stores, run))


def write(
    stores: Stores,
    run: str,
    out: Path,
    *,
    format: str = "jsonl",
    form: str = "",
    reviewed: bool = False,
) -> Exported:
    """Writes an export; arguments and errors as of fac.export.export."""
    how: dict[str, Any] = {"format": format, "form": form, "reviewed": reviewed}
    return export.export(run, out, **how, **_beside(stores, run))


def _beside(stores: Stores, run: str) -> dict[str, Any]:
    """What an export rests on beside the run: opinions of people and names of families."""
    return {
        "runs": stores.runs,
        "opinions": opinions(stores, run),
        "families": families(stores, run),
    }


def families(stores: Stores, run: str) -> dict[int, str] | None:
    """What the families of a synthesis's gaps are called, by gap; None where the anchor's features
    are not grouped as its question has it."""
    manifest = stores.runs.manifest(run)
    if manifest.step != SynthesizeSpec.step or not stores.runs.find(manifest.spec.pairs):
        return None
    grouped = families_run(stores, question_of(stores, manifest))
    return names_by_feature(stores, grouped) if grouped else None


def export_name(manifest: SynthesisManifest) -> str:
    """What a file of this synthesis is called, without its ending."""
    facts = manifest.facts
    name = f"{facts.name}-{facts.method}-{manifest.run.rsplit('-', 1)[1][:6]}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "kept"


def file_name(manifest: SynthesisManifest, format: str) -> str:
    """What is downloaded is called: an archive where an export is more than one file."""
    if export.EXPORT_FORMATS[format].several_files:
        return f"{export_name(manifest)}-{format}.zip"
    return f"{export_name(manifest)}.{format}"


def export_file(
    stores: Stores,
    manifest: SynthesisManifest,
    format: str,
    form: str,
    *,
    reviewed: bool = False,
    card: bool = False,
) -> bytes:
    """An export as one file, several in an archive with their card; or the card alone."""
    target = export.EXPORT_FORMATS[format]
    suffix = "" if target.data_file else (Path(file_name(manifest, format)).suffix)
    suffix = ".jsonl" if suffix == ".zip" else suffix
    with tempfile.TemporaryDirectory(prefix="fac-export-") as folder:
        out = Path(folder) / f"{export_name(manifest)}{suffix}"
        files = write(stores, manifest.run, out, format=format, form=form, reviewed=reviewed)
        if card:
            return files.card.read_bytes()
        return _archive(Path(folder)) if target.several_files else files.path.read_bytes()


def _archive(folder: Path) -> bytes:
    """All files below a folder; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            about = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, path.read_bytes())
    return buffer.getvalue()
