"""A spec -> the step that carries it out, with real encoders and writers.

A new step is one more entry of HANDLERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fac import demo, review
from fac.config import (
    WRITERS,
    DemoSpec,
    ExplainSpec,
    IngestSpec,
    JudgeSpec,
    MeasureSpec,
    PairsSpec,
    ProbeSpec,
    RescoreSpec,
    SaeSpec,
    Spec,
    SynthesizeSpec,
    Workspace,
    WriteSpec,
)
from fac.errors import InputError
from fac.executor import Pool, RayEncoder, RayWriter, Where, choose_executor
from fac.ingest import ingest
from fac.jobs.loading import (
    LastLoaded,
    Progress,
    decoder_directions,
    load_encoder,
    load_generator,
    load_writer,
    locate,
    precision,
    silent,
)
from fac.store import cache
from fac.store.decisions import Decisions
from fac.store.runs import Runs

if TYPE_CHECKING:
    from fac.encoder import Encoder, SaeEncoder
    from fac.generator import LocalGenerator
    from fac.generator.writer import Writer

LOADING = "waiting for the workers to load the model"


class Steps:
    """Carries out specs in one workspace; the last encoder and the last writer stay loaded."""

    def __init__(
        self, workspace: Workspace, *, models: Path | None = None, where: Where | None = None
    ):
        """`where` models run; by default as the environment says, see `choose_executor`."""
        self.workspace = workspace
        self.models = models or workspace.models
        self.where = where or choose_executor()
        self.runs = Runs(workspace)
        self.encoders: LastLoaded[SaeEncoder] = LastLoaded()
        self._generators: LastLoaded[LocalGenerator] = LastLoaded()
        self._pool: Pool | None = None
        self._while_writing = ExitStack()  # Closes what a writer opened

    def perform(self, spec: Spec, progress: Progress) -> str:
        """Run one step to its end; returns the id of its run.

        Raises FacError subclasses with a sentence; Cancelled keeps what is done.
        """
        handler = HANDLERS.get(type(spec))
        if handler is None:
            raise InputError(f"No step carries out a {type(spec).__name__}.")
        return handler(self, spec, progress)

    def encoder(self, spec: MeasureSpec | SaeSpec | ProbeSpec, progress: Progress) -> SaeEncoder:
        """The encoder a spec asks for, loaded once.

        Raises InputError when the SAE reads another width than the model has.
        """
        arguments = _encoder_arguments(spec)

        def load() -> SaeEncoder:
            progress(0, 1, "loading the model and the SAE")
            return load_encoder(*arguments, self.models, progress)

        return self.encoders.get(arguments, load)

    def reader(self, spec: MeasureSpec, progress: Progress) -> Encoder:
        """What a spec's texts are read with, wherever that is: `encoder`, or workers of Ray."""
        if self.where.executor == "local":
            return self.encoder(spec, progress)
        factory = partial(load_encoder, *_encoder_arguments(spec), self.models)
        return RayEncoder(self._workers(progress), factory, partial(progress, 0, 1, LOADING))

    def _workers(self, progress: Progress) -> Pool:
        """The pool, started once."""
        if self._pool is None:
            progress(0, 1, "starting the workers of Ray")
            self._pool = Pool(self.where)
        return self._pool

    def writer(self, spec: WriteSpec, progress: Progress) -> Writer:
        """What writes texts for a spec. A local model is loaded once.

        Replies of a server are kept in a file of the spec's own from the moment they arrive, since
        the run that will hold them is named after who answers.
        """
        from fac.generator.writer import Means

        local = partial(self._local_writer, progress=progress)
        means = Means(local, self._paid_replies(spec), self._while_writing)
        return WRITERS[spec.writer].open(spec, means)

    def _local_writer(self, spec: WriteSpec, progress: Progress) -> Writer:
        from fac.generator.writers.local import LocalWriter

        model, budget = spec.model or MeasureSpec.model, spec.budget_tokens
        if self.where.executor == "ray":
            factory = partial(load_writer, model, self.models, spec.batch)
            waiting = partial(progress, 0, 1, LOADING)
            pool = self._workers(progress)
            return RayWriter(pool, factory, budget_tokens=budget, waiting=waiting)
        located = locate(model, self.models, progress)

        def load() -> LocalGenerator:
            progress(0, 1, "loading the model that writes")
            return load_generator(located)

        generator = self._generators.get(located.identity, load)
        return LocalWriter(generator, located.identity, batch=spec.batch, budget_tokens=budget)

    def _paid_replies(self, spec: WriteSpec) -> Path:
        return self.runs.root / spec.step / f".replies-{spec.run_id()}.jsonl"

    @contextmanager
    def writing(
        self, spec: PairsSpec | SynthesizeSpec, anchor: str, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """What pairs and samples are written with: the arguments `encoder`, `writer`, `direction`.

        When the run holds the replies of a server, the file of them is no longer needed.
        """
        measured = self.runs.manifest(anchor).spec
        encoder = self.reader(measured, progress)
        with self._while_writing:
            doors: dict[str, Any] = {"encoder": encoder, "writer": self.writer(spec, progress)}
            if WRITERS[spec.writer].steers:
                doors["direction"] = self._directions(encoder, measured)
            yield doors
        self._paid_replies(spec).unlink(missing_ok=True)

    def _directions(self, encoder: Encoder, spec: MeasureSpec) -> Callable[[int], np.ndarray]:
        if isinstance(encoder, RayEncoder):
            from fac.saes import load_sae

            return decoder_directions(load_sae(spec.sae, "cpu"))
        return decoder_directions(self.encoder(spec, silent).sae)

    def describe_sae(
        self, spec: SaeSpec, progress: Progress, encoder: SaeEncoder | None = None
    ) -> str:
        """The run that describes an encoder's SAE, computed once; returns its id."""
        from fac.dictionary import describe

        encoder = encoder or self.encoder(spec, progress)
        run_id = describe(spec, runs=self.runs, encoder=encoder, progress=progress)
        self.build_cache(run_id, progress)
        return run_id

    def build_cache(self, run_id: str, progress: Progress) -> None:
        """Unless it is there."""
        with closing(cache.Cache(self.workspace.cache)) as caches:
            if caches.ready(run_id):
                return
        progress(1, 1, "building the cache for browsing")
        cache.build(self.runs, run_id, self.workspace.cache)

    @contextmanager
    def browsable(self, step: str, source: str) -> Iterator[None]:
        """Runs of a step that were made from `source` can be browsed afterwards: the new one, and
        what a stopped run left complete."""
        try:
            yield
        finally:
            for manifest in self.runs.list(step):
                if manifest.inputs.ids[0] == source:
                    self.build_cache(manifest.run, silent)


def _measure(steps: Steps, spec: MeasureSpec, progress: Progress) -> str:
    from fac.measure import measure

    steps.runs.manifest(spec.dataset)  # a dataset that is gone is told before a model is loaded
    encoder = steps.reader(spec, progress)
    sae, executor = _sae_of(spec), None
    if isinstance(encoder, RayEncoder):
        executor = encoder.read_parts
        sae_run = sae.run_id(encoder.identity)
        if not steps.runs.find(sae_run):  # which needs the weights here, once
            steps.describe_sae(sae, progress, steps.encoder(spec, progress))
            steps.encoders.forget()
    else:
        sae_run = steps.describe_sae(sae, progress, steps.encoder(spec, progress))
    run_id = measure(
        spec,
        runs=steps.runs,
        encoder=encoder,
        sae_run=sae_run,
        progress=progress,
        executor=executor,
    )
    steps.build_cache(run_id, progress)
    return run_id


def _probe(steps: Steps, spec: ProbeSpec, progress: Progress) -> str:
    from fac.probe import probe

    encoder = steps.encoder(spec, progress)
    sae_run = _sae_of(spec).run_id(encoder.identity)
    return probe(spec, runs=steps.runs, encoder=encoder, sae_run=sae_run)


def _interpret(steps: Steps, spec: ExplainSpec | JudgeSpec, progress: Progress) -> str:
    from fac import interpret
    from fac.generator.batch_chat import chat_of

    act: Any = interpret.explain if isinstance(spec, ExplainSpec) else interpret.judge
    with steps.browsable(spec.step, spec.measure):
        return act(spec, runs=steps.runs, ask=partial(chat_of, spec), progress=progress)


def _pairs(steps: Steps, spec: PairsSpec, progress: Progress) -> str:
    from fac.synthesis import make_pairs

    with (
        steps.browsable(spec.step, spec.anchor),
        steps.writing(spec, spec.anchor, progress) as doors,
    ):
        return make_pairs(spec, runs=steps.runs, progress=progress, **doors)


def _rescore(steps: Steps, spec: RescoreSpec, progress: Progress) -> str:
    from fac.synthesis import rescore

    anchor = steps.runs.manifest(spec.pairs).facts.anchor
    encoder = steps.reader(steps.runs.manifest(anchor).spec, progress)
    with steps.browsable(spec.step, spec.pairs):
        return rescore(spec, runs=steps.runs, encoder=encoder, progress=progress)


def _synthesize(steps: Steps, spec: SynthesizeSpec, progress: Progress) -> str:
    from fac.synthesis import synthesize

    anchor = steps.runs.manifest(spec.pairs).facts.anchor
    decisions = Decisions(steps.workspace.decisions)
    with steps.browsable(spec.step, spec.pairs), steps.writing(spec, anchor, progress) as doors:
        approved = review.approved_pairs(decisions, steps.runs, spec.pairs)
        return synthesize(spec, approved=approved, runs=steps.runs, progress=progress, **doors)


HANDLERS: dict[type[Spec], Callable[[Steps, Any, Progress], str]] = {
    IngestSpec: lambda steps, spec, progress: ingest(spec, runs=steps.runs, progress=progress),
    DemoSpec: lambda steps, _, progress: demo.materialise(steps.workspace, progress)[-1],
    SaeSpec: lambda steps, spec, progress: steps.describe_sae(spec, progress),
    MeasureSpec: _measure,
    ProbeSpec: _probe,
    ExplainSpec: _interpret,
    JudgeSpec: _interpret,
    PairsSpec: _pairs,
    RescoreSpec: _rescore,
    SynthesizeSpec: _synthesize,
}
"""What carries out a spec: (steps, spec, progress) -> the id of its run."""


def _sae_of(spec: MeasureSpec | ProbeSpec) -> SaeSpec:
    return SaeSpec(model=spec.model, layer=spec.layer, sae=spec.sae)


def _encoder_arguments(spec: MeasureSpec | SaeSpec | ProbeSpec) -> tuple[str, int, str, int, str]:
    """What `load_encoder` needs to know of a spec and of this machine's choice."""
    limit = getattr(spec, "max_tokens", MeasureSpec.max_tokens)
    return spec.model, spec.layer, spec.sae, limit, precision()
