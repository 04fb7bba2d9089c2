"""A spec -> the step that carries it out, with real encoders and writers of this machine.

A new step is one more entry of HANDLERS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import numpy as np

from fac import config, demo, review
from fac.config import (
    WRITERS,
    AskSpec,
    MeasureSpec,
    ProbeSpec,
    SaeSpec,
    Spec,
    Workspace,
    WriteSpec,
)
from fac.endpoints import Endpoints, read_endpoints
from fac.errors import InputError, Progress, plainly
from fac.executor import Pool, RayEncoder, RayWriter, Where, choose_executor
from fac.ingest import ingest
from fac.prompts.profiles import later_parts
from fac.store import cache
from fac.store.decisions import Decisions
from fac.store.runs import Runs

if TYPE_CHECKING:
    from fac.encoder import Encoder, SaeEncoder
    from fac.experiments.lora import Finetuner
    from fac.generator import LocalGenerator
    from fac.generator.writer import Writer
    from fac.generator.writers.local import LocalWriter
    from fac.measure import Check
    from fac.models import Chat, Located, SubjectModel
    from fac.saes import Sae
    from fac.synthesis.answers import Likelihood

T = TypeVar("T")

PRECISIONS = ("float32", "bfloat16")
LOADING = "waiting for the workers to load the model"


class LastLoaded(Generic[T]):
    """The model of a kind that was loaded last; there is room for no second one."""

    def __init__(self) -> None:
        self._loaded: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        """The one of that key, loaded unless it is there."""
        if self._loaded is None or not self.has(key):
            self._loaded = None
            self._loaded = key, load()
        return self._loaded[1]

    def has(self, key: Hashable) -> bool:
        return self._loaded is not None and self._loaded[0] == key

    def forget(self) -> None:
        self._loaded = None


def silent(done: int, total: int, note: str = "") -> None:
    """Progress of what is too quick to report on, and must not be interrupted."""


def locate(model: str, home: Path, progress: Progress) -> Located:
    """Where a model lies; the demo model is fetched if need be, which `progress` is told of."""
    from fac.models import locate_model

    return locate_model(model, home, partial(progress, 0, 1))


def device() -> str:
    """FAC_DEVICE, a device or a way to spread models over all, else `cuda` where there is one, else
    `cpu`."""
    from fac.models import pick_device

    return os.environ.get("FAC_DEVICE") or pick_device()


def sae_device() -> str:
    """The device of what reads a model's stream."""
    from fac.models import tensor_device

    return tensor_device(device())


def precision() -> str:
    """FAC_DTYPE: what a subject model's weights and residual stream are held in, else float32."""
    from fac.models import QUANTISED

    dtype = os.environ.get("FAC_DTYPE") or PRECISIONS[0]
    if dtype not in (*PRECISIONS, *QUANTISED):
        every = ", ".join((*PRECISIONS, *QUANTISED[:-1]))
        raise InputError(f"FAC_DTYPE takes {every} or {QUANTISED[-1]}, got {dtype!r}.")
    return dtype


def asks_server(spec: Spec) -> TypeGuard[AskSpec]:
    """Whether a step asks a server of language models."""
    if isinstance(spec, WriteSpec):
        return bool(WRITERS[spec.writer].server)
    return isinstance(spec, AskSpec) and bool(spec.model)


def load_subject(located: Located, layer: int, **options: Any) -> SubjectModel:
    """A subject model on this machine's device; for `options` see SubjectModel."""
    from fac.models import SubjectModel

    return SubjectModel(
        located.folder, layer=layer, device=device(), revision=located.revision, **options
    )


def load_encoder(
    model: str,
    layer: int,
    sae: str,
    max_tokens: int,
    dtype: str,
    home: Path,
    progress: Progress = silent,
    despite: str = "",
) -> SaeEncoder:
    """A subject model and its SAE on this machine; models lie in FAC_MODELS, or else in `home`.

    Raises InputError, before the model is loaded, when the SAE says it belongs elsewhere, unless
    `despite` holds the reason to take it all the same.
    """
    from fac.encoder import SaeEncoder
    from fac.models import hub_unless_offline
    from fac.preflight import card_of, doubt_of, match, must_match
    from fac.saes import load_sae

    with hub_unless_offline(model, sae):
        located = locate(model, Path(os.environ.get("FAC_MODELS") or home), progress)
        dictionary = load_sae(sae, sae_device())
        findings = match(dictionary, card_of(located), layer)
        must_match(findings, sae, despite)
        subject = load_subject(located, layer, dtype=dtype, max_tokens=max_tokens)
    return SaeEncoder(subject, dictionary, located.identity, doubt_of(findings, despite))


def load_generator(located: Located) -> LocalGenerator:
    """A model of this machine that writes."""
    from fac.generator import LocalGenerator
    from fac.models import keep_freed_memory

    keep_freed_memory()
    return LocalGenerator(located.folder, device=device(), revision=located.revision)


def load_writer(model: str, home: Path, batch: int) -> LocalWriter:
    """The same as a writer; models lie in FAC_MODELS, or else in `home`."""
    from fac.generator.writers.local import LocalWriter

    located = locate(model, Path(os.environ.get("FAC_MODELS") or home), silent)
    return LocalWriter(load_generator(located), located.identity, batch=batch)


def decoder_directions(sae: Sae) -> Callable[[int], np.ndarray]:
    """The decoder direction of each feature at length 1, float32 `[d_model]`."""
    decoder = sae.decoder
    return lambda feature: decoder[feature] / np.linalg.norm(decoder[feature])


class Steps:
    """Carries out specs in one workspace; the last encoder and the last writer stay loaded."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        models: Path | None = None,
        where: Where | None = None,
        endpoints: Endpoints | None = None,
    ):
        """`where` models run; by default as the environment says, see `choose_executor`.
        `endpoints` that may be asked; by default what the operator lists when a step begins."""
        self.workspace = workspace
        self.models = models or workspace.models
        self.where = where or choose_executor()
        self._endpoints = endpoints
        self.runs = Runs(workspace)
        self.encoders: LastLoaded[SaeEncoder] = LastLoaded()
        self._generators: LastLoaded[LocalGenerator] = LastLoaded()
        self._pool: Pool | None = None
        self._losses: dict[str, np.ndarray] = {}  # of texts, nats per token of each role
        self._while_writing = ExitStack()  # Closes what a writer opened

    def perform(self, spec: Spec, progress: Progress) -> str:
        """Run one step to its end; returns the id of its run.

        Raises FacError subclasses with a sentence; Cancelled keeps what is done.
        """
        handler = HANDLERS.get(type(spec))
        if handler is None:
            raise InputError(f"No step carries out a {type(spec).__name__}.")
        if asks_server(spec):  # an address that is refused ends it before any work
            self.endpoints.of(spec.endpoint, spec.model)
        with plainly():
            return handler(self, spec, progress)

    @property
    def endpoints(self) -> Endpoints:
        """The servers that may be asked. Raises InputError as `read_endpoints`."""
        return self._endpoints or read_endpoints(self.workspace.endpoints)

    def encoder(self, spec: MeasureSpec | SaeSpec | ProbeSpec, progress: Progress) -> SaeEncoder:
        """The encoder a spec asks for, loaded once.

        Raises InputError when the SAE says it belongs elsewhere and the spec has no reason to take
        it despite that.
        """
        arguments = _encoder_arguments(spec)

        def load() -> SaeEncoder:
            progress(0, 1, "loading the model and the SAE")
            return load_encoder(*arguments, self.models, progress, spec.despite)

        return self.encoders.get((*arguments, spec.despite), load)

    def finetuner(
        self, spec: MeasureSpec, note: Callable[[str], None], progress: Progress
    ) -> Finetuner:
        """The model that a spec measures with, to learn by LoRA; `note` hears how far it is."""
        from fac.experiments.lora import Finetuner

        return Finetuner(self.encoder(spec, progress).model, note)

    def reader(self, spec: MeasureSpec, progress: Progress) -> SaeEncoder | RayEncoder:
        """What a spec's texts are read with, wherever that is: `encoder`, or workers of Ray."""
        if self.where.executor == "local":
            return self.encoder(spec, progress)
        arguments = _encoder_arguments(spec)
        factory = partial(load_encoder, *arguments, self.models, despite=spec.despite)
        return RayEncoder(self._workers(progress), factory, partial(progress, 0, 1, LOADING))

    def checker(self, spec: MeasureSpec, progress: Progress) -> Check:
        """What tells which chats a spec's model can read. Of a model in this process that is not
        loaded it is the tokenizer alone."""
        from fac.models import ChatRenderer, hub_unless_offline, pretrained_tokenizer

        if self.where.executor != "local" or self.encoders.has(_encoder_arguments(spec)):
            return self.reader(spec, progress).check
        with hub_unless_offline(spec.model):
            located = locate(spec.model, self.models, progress)
            tokenizer = pretrained_tokenizer(located.folder, revision=located.revision)
        return ChatRenderer(tokenizer, spec.max_tokens).check

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
        means = Means(local, self._paid_replies(spec), self._while_writing, self.endpoints)
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
        self, spec: config.PairsSpec | config.SynthesizeSpec, anchor: str, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """What pairs and samples are written with: the arguments `encoder`, `writer`, `direction`
        and, where another than the writer answers what is written, `answerer`. Where the spec names
        no model, the measured one writes.

        When the run holds the replies of a server, the file of them is no longer needed.
        """
        measured = self.runs.manifest(anchor).spec
        encoder = self.reader(measured, progress)
        of_measured = spec if spec.model else replace(spec, model=measured.model)
        with self._while_writing:
            doors: dict[str, Any] = {
                "encoder": encoder,
                "writer": self.writer(of_measured, progress),
            }
            kind, is_last = WRITERS[spec.writer], isinstance(spec, config.SynthesizeSpec)
            itself = not kind.server and of_measured.model == measured.model
            if kind.steers or (is_last and itself and spec.strength):
                doors["direction"] = self._directions(encoder, measured)
            if spec.answers == "local" and later_parts(spec.profile):
                local = replace(spec, model=measured.model)
                doors["answerer"] = self._local_writer(local, progress)
            yield doors
        self._paid_replies(spec).unlink(missing_ok=True)

    def _directions(self, encoder: Encoder, spec: MeasureSpec) -> Callable[[int], np.ndarray]:
        if isinstance(encoder, RayEncoder):
            from fac.saes import load_sae

            return decoder_directions(load_sae(spec.sae, "cpu"))
        return decoder_directions(self.encoder(spec, silent).sae)

    def likelihood(self, spec: MeasureSpec, progress: Progress) -> Likelihood | None:
        """How odd the subject model finds texts, each read once in this process. None where there
        is no model here: it is with workers of Ray."""
        from fac.encoder import SaeEncoder

        encoder, losses = self.reader(spec, progress), self._losses
        if not isinstance(encoder, SaeEncoder):
            return None

        def likelihood(chats: Sequence[Chat]) -> np.ndarray:
            keys = [config.digest(encoder.identity, list(chat)) for chat in chats]
            new = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in losses}
            rows = encoder.model.likelihood([*new.values()]) if new else ()
            losses.update(zip(new, rows, strict=True))
            return np.stack([losses[key] for key in keys])

        return likelihood

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
    from fac.measure import measure, screen

    # A dataset that is gone, or a chat that cannot be read, is told before a model is loaded.
    check = steps.checker(spec, progress)
    screened = screen(spec, runs=steps.runs, check=check, progress=progress)
    encoder = steps.reader(spec, progress)
    sae, executor = _sae_of(spec), None
    if isinstance(encoder, RayEncoder):
        executor = encoder.read_parts
        sae_run = sae.run_id(encoder.identity)
        if not steps.runs.find(sae_run):  # which needs the weights here, once
            steps.describe_sae(sae, _aside(progress), steps.encoder(spec, progress))
            steps.encoders.forget()
    else:
        sae_run = steps.describe_sae(sae, _aside(progress), steps.encoder(spec, progress))
    run_id = measure(
        spec,
        runs=steps.runs,
        encoder=encoder,
        sae_run=sae_run,
        progress=progress,
        executor=executor,
        screened=screened,
        doubt=encoder.doubt,
    )
    steps.build_cache(run_id, progress)
    return run_id


def _aside(progress: Progress) -> Progress:
    """Progress of what has to come first and is not what was asked for: in words alone."""

    def tell(done: int, total: int, note: str = "") -> None:
        progress(0, 1, f"the dictionary first, {done / total:.0%}, {note}" if total else note)

    return tell


def _probe(steps: Steps, spec: ProbeSpec, progress: Progress) -> str:
    from fac.probe import probe

    encoder = steps.encoder(spec, progress)
    sae_run = _sae_of(spec).run_id(encoder.identity)
    return probe(spec, runs=steps.runs, encoder=encoder, sae_run=sae_run, doubt=encoder.doubt)


def _interpret(
    steps: Steps, spec: config.ExplainSpec | config.JudgeSpec, progress: Progress
) -> str:
    from fac import interpret
    from fac.generator.batch_chat import chat_of

    act: Any = interpret.explain if isinstance(spec, config.ExplainSpec) else interpret.judge
    with steps.browsable(spec.step, spec.measure):
        return act(
            spec, runs=steps.runs, ask=partial(chat_of, spec, steps.endpoints), progress=progress
        )


def _families(steps: Steps, spec: config.FamiliesSpec, progress: Progress) -> str:
    from fac.interpret.grouping import group

    return group(spec, runs=steps.runs, progress=progress)


def _experiment(steps: Steps, spec: config.ExperimentSpec, progress: Progress) -> str:
    from fac.experiments import Doors, experiment
    from fac.experiments.lora import Answer, Losses, Recipe
    from fac.experiments.steering import Steerer

    measured = steps.runs.manifest(spec.measure).spec
    piece: list[Any] = [0, 1, ""]

    def at_piece(*report: Any) -> None:
        piece[:] = report
        progress(*report)

    def within_piece(note: str) -> None:
        done, total, text = piece
        progress(done, total, f"{text}: {note}")

    def states(chats: Sequence[Chat]) -> np.ndarray:
        model = steps.encoder(measured, progress).model
        return model.mean_states(chats, partial(_read, progress))

    def finetune(learned: Sequence[Chat], judged: Sequence[Chat], recipe: Recipe) -> Losses:
        return steps.finetuner(measured, within_piece, progress)(learned, judged, recipe)

    def classify(*task: Any) -> np.ndarray:
        return steps.finetuner(measured, within_piece, progress).classify(*task)

    def answers(*task: Any) -> list[Answer]:
        return steps.finetuner(measured, within_piece, progress).answers(*task)

    doors = Doors(
        states=states,
        finetune=finetune,
        classify=classify,
        answers=answers,
        steer=Steerer(lambda: steps.encoder(measured, progress).model, within_piece),
    )
    return experiment(spec, runs=steps.runs, doors=doors, progress=at_piece)


def _read(progress: Progress, done: int, total: int) -> None:
    progress(0, 1, f"the model reads the rows, {done:,} of {total:,}")


def _pairs(steps: Steps, spec: config.PairsSpec, progress: Progress) -> str:
    from fac.synthesis import make_pairs

    with (
        steps.browsable(spec.step, spec.anchor),
        steps.writing(spec, spec.anchor, progress) as doors,
    ):
        return make_pairs(spec, runs=steps.runs, progress=progress, **doors)


def _rescore(steps: Steps, spec: config.RescoreSpec, progress: Progress) -> str:
    from fac.synthesis import rescore

    anchor = steps.runs.manifest(spec.pairs).facts.anchor
    encoder = steps.reader(steps.runs.manifest(anchor).spec, progress)
    with steps.browsable(spec.step, spec.pairs):
        return rescore(spec, runs=steps.runs, encoder=encoder, progress=progress)


def _retouch(steps: Steps, spec: config.RetouchSpec, progress: Progress) -> str:
    from fac.synthesis import retouch

    anchor = steps.runs.manifest(spec.synthetic).facts.anchor
    encoder = steps.reader(steps.runs.manifest(anchor).spec, progress)
    return retouch(spec, runs=steps.runs, encoder=encoder, progress=progress)


def _synthesize(steps: Steps, spec: config.SynthesizeSpec, progress: Progress) -> str:
    from fac.synthesis import synthesize

    anchor = steps.runs.manifest(spec.pairs).facts.anchor
    decisions = Decisions(steps.workspace.decisions)
    with steps.browsable(spec.step, spec.pairs), steps.writing(spec, anchor, progress) as doors:
        approved = review.approved_pairs(decisions, steps.runs, spec.pairs)
        doors["likelihood"] = steps.likelihood(steps.runs.manifest(anchor).spec, progress)
        return synthesize(spec, approved=approved, runs=steps.runs, progress=progress, **doors)


def _fetch(steps: Steps, spec: config.FetchSpec, progress: Progress) -> str:
    from fac.jobs import models

    return models.fetch(steps, spec, progress)


def _preflight(steps: Steps, spec: config.PreflightSpec, progress: Progress) -> str:
    from fac.jobs import models

    return models.preflight(steps, spec, progress)


def _train(steps: Steps, spec: config.TrainSpec, progress: Progress) -> str:
    from fac.jobs import models

    return models.train(steps, spec, progress)


HANDLERS: dict[type[Spec], Callable[[Steps, Any, Progress], str]] = {
    config.IngestSpec: lambda steps, spec, progress: ingest(
        spec, runs=steps.runs, progress=progress
    ),
    config.DemoSpec: lambda steps, _, progress: demo.materialise(steps.workspace, progress)[-1],
    SaeSpec: lambda steps, spec, progress: steps.describe_sae(spec, progress),
    MeasureSpec: _measure,
    ProbeSpec: _probe,
    config.ExplainSpec: _interpret,
    config.JudgeSpec: _interpret,
    config.FamiliesSpec: _families,
    config.ExperimentSpec: _experiment,
    config.PairsSpec: _pairs,
    config.RescoreSpec: _rescore,
    config.SynthesizeSpec: _synthesize,
    config.RetouchSpec: _retouch,
    config.FetchSpec: _fetch,
    config.PreflightSpec: _preflight,
    config.TrainSpec: _train,
}
"""What carries out a spec: (steps, spec, progress) -> the id of its run."""


def following(spec: Spec, run_id: str) -> Spec | None:
    """What is to be done with the run that came of a spec: a dataset that was added to be measured
    is; None where nothing is. Raises InputError where that does not fit this version."""
    if not isinstance(spec, config.IngestSpec) or spec.measure is None:
        return None
    return config.read_spec(MeasureSpec.step, {**spec.measure, "dataset": run_id})


def _sae_of(spec: MeasureSpec | ProbeSpec) -> SaeSpec:
    return SaeSpec(model=spec.model, layer=spec.layer, sae=spec.sae, despite=spec.despite)


def _encoder_arguments(spec: MeasureSpec | SaeSpec | ProbeSpec) -> tuple[str, int, str, int, str]:
    """What `load_encoder` needs to know of a spec and of this machine's choice."""
    limit = getattr(spec, "max_tokens", MeasureSpec.max_tokens)
    return spec.model, spec.layer, spec.sae, limit, precision()
