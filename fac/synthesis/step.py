"""A step that writes for gaps, from what it asks to its run; a stop keeps the gaps that are done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, Self, TypeVar

import pyarrow as pa

from fac.config import WriteSpec
from fac.encoder import Encoder
from fac.errors import InputError
from fac.generator.writer import Writer
from fac.schema import CANDIDATES, HITS, REPLIES
from fac.store.runs import Runs, write_table
from fac.synthesis import candidates
from fac.synthesis.candidates import Candidate
from fac.synthesis.hits import Hit, hit_table
from fac.synthesis.plan import Ask, Direction, Progress
from fac.synthesis.writing import Stopped, Texts, reply_key, write

SpecT = TypeVar("SpecT", bound=WriteSpec)


class Step(ABC, Generic[SpecT]):
    """What is asked of whom, and what the answers amount to."""

    plan: list[Ask]
    run_id: str

    def __init__(
        self,
        spec: SpecT,
        *,
        runs: Runs,
        encoder: Encoder,
        writer: Writer,
        direction: Direction | None,
    ):
        self.spec, self.runs, self.encoder, self.writer = spec, runs, encoder, writer
        self.direction = direction
        self.doors = {"runs": runs, "encoder": encoder, "writer": writer, "direction": direction}

    @abstractmethod
    def publish(self, texts: Texts, progress: Progress) -> None:
        """Measures what was written and finishes the run."""

    @abstractmethod
    def part(self, lacking: Collection[int], stopped: Stopped) -> tuple[Self, int]:
        """The step for the gaps that lack no text, and how many these are.

        Raises `stopped`, or why no part of the step can be finished, where there is none.
        """

    def run(self, progress: Progress) -> str:
        """Writes what is not there yet and publishes; the run's id.

        Raises what stopped the writing, after publishing the gaps whose texts are all there.
        """
        if self.runs.find(self.run_id):
            return self.run_id
        how = {"runs": self.runs, "run_id": self.run_id, "writer": self.writer}
        with self.runs.exclusive(self.run_id):
            texts = write(self.plan, self.spec, **how, progress=progress)
            if texts.stopped is None:
                self.publish(texts, progress)
                return self.run_id
            lacking = {ask.feature for ask in self.plan if ask.request.key not in texts.written}
            part, complete = self.part(lacking, texts.stopped)
            if not self.runs.find(part.run_id):
                with self.runs.exclusive(part.run_id):
                    part.publish(texts, quiet)
            raise type(texts.stopped)(
                f"{str(texts.stopped).rstrip('.')}. {complete:,} gaps are complete and kept "
                f"({part.run_id}); started again, nothing is written twice."
            )

    def reply_keys(self) -> list[str]:
        """Of every text that is asked for."""
        return [reply_key(ask, self.spec, self.writer.identity) for ask in self.plan]

    def candidates(self, texts: Texts) -> list[Candidate]:
        """What was written, in the order of the plan."""
        return [
            candidates.read(ask, self.spec, texts.written[ask.request.key]) for ask in self.plan
        ]

    def write_tables(
        self,
        written: Sequence[Candidate],
        hits: Sequence[Mapping[int, Hit]],
        **tables: tuple[Sequence[Mapping[str, object]], pa.Schema],
    ) -> None:
        """The tables of every step that writes, and others as rows with their schema."""
        folder = self.runs.scratch(self.run_id)
        replies = candidates.reply_table(written, self.spec, self.writer.identity)
        for name, table, schema in (
            ("candidates", candidates.candidate_table(written, self.spec), CANDIDATES),
            ("hits", hit_table([each.name for each in written], hits), HITS),
            ("replies", replies, REPLIES),
            *((name, pa.Table.from_pylist([*rows], s), s) for name, (rows, s) in tables.items()),
        ):
            write_table(folder / f"{name}.parquet", table, schema)


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody is asked whether to go on: the rest is quick."""


def same_encoder(runs: Runs, measures: Iterable[str], encoder: Encoder) -> None:
    """Raises InputError where a measure was made by another encoder: peaks would not compare."""
    for run in measures:
        other = runs.manifest(run).facts.encoder
        if other != encoder.identity:
            raise InputError(
                f"{run} was measured with {other}, not with {encoder.identity}: measure anchor and "
                f"dataset with one model and one SAE."
            )
