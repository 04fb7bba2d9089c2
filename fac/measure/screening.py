"""Which samples of a dataset a model's chat template refuses: found before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from fac.config import MeasureSpec
from fac.errors import InputError, Progress
from fac.models import Checked
from fac.schema import REJECTED_SAMPLES, Chat
from fac.store.runs import Runs

PAGE = 1024  # Samples that are checked before the progress hears of them

Check = Callable[[Sequence[Chat]], Iterable[Checked]]


class RejectedSample(NamedTuple):
    line: int | None  # in the file that its dataset was read from
    reason: str


class Screened(NamedTuple):
    """What a chat template makes of a dataset's samples."""

    rejected: Mapping[int, RejectedSample]  # by row of the dataset
    n_shortened: int = 0  # samples of which it leaves out or moves a part

    def table(self) -> pa.Table:
        """`schema.REJECTED_SAMPLES`."""
        rows = [{"sample": sample, **row._asdict()} for sample, row in self.rejected.items()]
        return pa.Table.from_pylist(rows, REJECTED_SAMPLES)


def screen(spec: MeasureSpec, *, runs: Runs, check: Check, progress: Progress) -> Screened:
    """What the chat template of a spec's model makes of its dataset.

    Raises InputError for the first sample it refuses, unless the spec says skip, and where it
    refuses all of them.
    """
    facts = runs.manifest(spec.dataset).facts
    rejected: dict[int, RejectedSample] = {}
    done = n_shortened = 0
    for batch in runs.batches(spec.dataset, "samples", columns=["messages", "meta"], rows=PAGE):
        progress(done, facts.n_samples, "looking for samples that the chat template refuses")
        chats, metas = (batch.column(name).to_pylist() for name in ("messages", "meta"))
        for sample, (checked, meta) in enumerate(zip(check(chats), metas, strict=True), done):
            n_shortened += checked.shortened
            if checked.refusal:
                line = json.loads(meta or "{}").get("line")
                rejected[sample] = RejectedSample(line, f"{checked.refusal}.")
                if spec.on_bad == "stop":
                    why = checked.refusal[0].lower() + checked.refusal[1:]
                    raise InputError(
                        f"{_named(sample, line)} of {facts.name} cannot be measured: {why}; "
                        f"correct it, or give --on-bad skip to leave such samples out and have "
                        f"them listed."
                    )
        done += len(batch)
    if rejected and len(rejected) == done:
        first = min(rejected)
        line, reason = rejected[first]
        raise InputError(
            f"None of the {done:,} samples of {facts.name} can be measured with this model; "
            f"{_named(first, line)}: {reason}"
        )
    return Screened(rejected, n_shortened)


def _named(sample: int, line: int | None) -> str:
    return f"Sample {sample + 1:,}" if line is None else f"Line {line:,}"
