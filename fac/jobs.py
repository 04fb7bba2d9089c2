"""The composition root: a spec -> the step that carries it out, with real encoders; the worker.

The dashboard only puts specs into the queue and starts this worker as a process of its own; the
command line calls `perform` directly. Models are loaded when the first step needs one and kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fac import compare, datasets, demo, review
from fac.config import (
    REPOSITORY,
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
    digest,
    read_spec,
)
from fac.errors import BadRow, Cancelled, FacError, InputError
from fac.executor import Pool, RayEncoder, RayWriter, Where, choose_executor
from fac.ingest import ingest
from fac.schema import Chat
from fac.store import cache
from fac.store.decisions import Decisions
from fac.store.queue import Job, Queue, process_exists
from fac.store.runs import Runs

if TYPE_CHECKING:
    from fac.encoder import Encoder, SaeEncoder
    from fac.generator import LocalGenerator
    from fac.generator.writer import Writer
    from fac.generator.writers.local import LocalWriter
    from fac.models import Located
    from fac.sae_training import TrainRecipe
    from fac.saes import Finding, Quality, Sae

Progress = Callable[..., None]
LOADING = "waiting for the workers to load the model"
IDLE_SECONDS = 0.3
BEAT_SECONDS = 3.0


def locate(model: str, home: Path, progress: Progress) -> Located:
    """Where a model lies; the demo model is fetched if need be, which `progress` is told of."""
    from fac.models import locate_model

    return locate_model(model, home, lambda note: progress(0, 1, note))


def device() -> str:
    """FAC_DEVICE, else `cuda` where there is one, else `cpu`."""
    from fac.models import pick_device

    return os.environ.get("FAC_DEVICE") or pick_device()


PRECISIONS = ("float32", "bfloat16")


def precision() -> str:
    """FAC_DTYPE: what a subject model's weights and residual stream are held in, else float32."""
    chosen = os.environ.get("FAC_DTYPE") or PRECISIONS[0]
    if chosen not in PRECISIONS:
        raise InputError(f"FAC_DTYPE takes {' or '.join(PRECISIONS)}, got {chosen!r}.")
    return chosen


def load_encoder(
    model: str,
    layer: int,
    sae: str,
    max_tokens: int,
    dtype: str,
    home: Path,
    progress: Progress | None = None,
) -> SaeEncoder:
    """A subject model and its SAE on this machine; models lie in FAC_MODELS, or else in `home`.

    Raises InputError when the SAE reads another width or layer than it is asked for.
    """
    from fac.encoder import SaeEncoder
    from fac.models import SubjectModel
    from fac.saes import load_sae

    found = locate(model, _models(home), progress or _silent)
    where = device()
    dictionary = load_sae(sae, where)
    subject = SubjectModel(
        found.folder,
        layer=layer,
        device=where,
        dtype=dtype,
        revision=found.revision,
        max_tokens=max_tokens,
    )
    if dictionary.d_in != subject.d_model:
        raise InputError(
            f"The SAE {sae!r} reads {dictionary.d_in} values, but {model!r} has a "
            f"residual stream of {subject.d_model}: it belongs to another model. "
            f"`fac preflight` compares them."
        )
    if dictionary.trained_layer not in (None, layer):
        raise InputError(
            f"The SAE {sae!r} reads the stream after {dictionary.trained_layer} blocks, not "
            f"{layer}; give --layer {dictionary.trained_layer}."
        )
    return SaeEncoder(subject, dictionary, found.identity)


def load_generator(found: Located) -> LocalGenerator:
    """A model of this machine that writes."""
    from fac.generator import LocalGenerator
    from fac.models import keep_freed_memory

    keep_freed_memory()
    return LocalGenerator(found.folder, device=device(), revision=found.revision)


def load_writer(model: str, home: Path, batch: int) -> LocalWriter:
    """The same as a writer; models lie in FAC_MODELS, or else in `home`."""
    from fac.generator.writers.local import LocalWriter

    found = locate(model, _models(home), _silent)
    return LocalWriter(load_generator(found), found.identity, batch=batch)


def _models(home: Path) -> Path:
    """A worker on another machine has a folder of its own."""
    return Path(os.environ.get("FAC_MODELS") or home)


class Steps:
    """Carries out specs in one workspace; keeps the last encoder and the last writer loaded."""

    def __init__(
        self, workspace: Workspace, *, models: Path | None = None, where: Where | None = None
    ):
        """`where` models run; by default as the environment says, see `choose_executor`."""
        self.workspace = workspace
        self.models = models or workspace.models
        self.where = where or choose_executor()
        self.runs = Runs(workspace)
        self._loaded: tuple[tuple[Any, ...], SaeEncoder] | None = None
        self._writes: tuple[str, LocalGenerator] | None = None
        self._pool: Pool | None = None
        self._until = ExitStack()
        """Closes what a step opened; see `_make`."""

    def perform(self, spec: Spec, progress: Progress) -> str:
        """Run one step to its end; returns the id of its run.

        Raises FacError subclasses with a sentence; Cancelled keeps what is done.
        """
        if isinstance(spec, IngestSpec):
            return ingest(spec, runs=self.runs, progress=progress)
        if isinstance(spec, DemoSpec):
            return demo.materialise(self.workspace, progress)[-1]
        if isinstance(spec, MeasureSpec):
            return self._measure(spec, progress)
        if isinstance(spec, SaeSpec):
            return self._describe(spec, progress)
        if isinstance(spec, ProbeSpec):
            return self._probe(spec, progress)
        if isinstance(spec, ExplainSpec | JudgeSpec):
            return self._interpret(spec, progress)
        if isinstance(spec, PairsSpec | RescoreSpec | SynthesizeSpec):
            return self._make(spec, progress)
        raise InputError(f"No step carries out a {type(spec).__name__}.")

    def encoder(self, spec: MeasureSpec | SaeSpec | ProbeSpec, progress: Progress) -> SaeEncoder:
        """The encoder a spec asks for, loaded once.

        Raises InputError when the SAE reads another width than the model has.
        """
        asked = _asked(spec)
        if self._loaded is None or self._loaded[0] != asked:
            self._loaded = None
            progress(0, 1, "loading the model and the SAE")
            self._loaded = asked, load_encoder(*asked, self.models, progress)
        return self._loaded[1]

    def reader(self, spec: MeasureSpec, progress: Progress) -> Encoder:
        """What a spec's texts are read with, wherever that is: `encoder`, or workers of Ray."""
        if self.where.executor == "local":
            return self.encoder(spec, progress)
        pool = self._workers(progress)
        make = partial(load_encoder, *_asked(spec), self.models)
        return RayEncoder(pool, make, partial(progress, 0, 1, LOADING))

    def _workers(self, progress: Progress) -> Pool:
        """The pool, started once."""
        if self._pool is None:
            progress(0, 1, "starting the workers of Ray")
            self._pool = Pool(self.where)
        return self._pool

    def _describe(
        self, spec: SaeSpec, progress: Progress, encoder: SaeEncoder | None = None
    ) -> str:
        """The run that describes an encoder's SAE, computed once; returns its id."""
        from fac.dictionary import describe

        encoder = encoder or self.encoder(spec, progress)
        run_id = describe(spec, runs=self.runs, encoder=encoder, progress=progress)
        self._cached(run_id, progress)
        return run_id

    def _measure(self, spec: MeasureSpec, progress: Progress) -> str:
        from fac.measure import measure

        self.runs.manifest(spec.dataset)  # a dataset that is gone is told before a model is loaded
        encoder = self.reader(spec, progress)
        sae = SaeSpec(model=spec.model, layer=spec.layer, sae=spec.sae)
        how: dict[str, Any] = {"runs": self.runs, "encoder": encoder, "progress": progress}
        if isinstance(encoder, RayEncoder):
            how["executor"] = encoder.read_parts
            sae_run = sae.run_id(encoder.identity)
            if not self.runs.find(sae_run):  # which needs the weights here, once
                self._describe(sae, progress, self.encoder(spec, progress))
                self._loaded = None
        else:
            sae_run = self._describe(sae, progress, self.encoder(spec, progress))
        run_id = measure(spec, sae_run=sae_run, **how)
        self._cached(run_id, progress)
        return run_id

    def _probe(self, spec: ProbeSpec, progress: Progress) -> str:
        from fac.probe import probe

        encoder = self.encoder(spec, progress)
        sae = SaeSpec(model=spec.model, layer=spec.layer, sae=spec.sae)
        return probe(spec, runs=self.runs, encoder=encoder, sae_run=sae.run_id(encoder.identity))

    def _interpret(self, spec: ExplainSpec | JudgeSpec, progress: Progress) -> str:
        """Explain or judge. Also what a stopped run left complete is there to browse."""
        from fac import interpret
        from fac.generator.batch_chat import chat_of

        asked: Any = {"runs": self.runs, "ask": partial(chat_of, spec), "progress": progress}
        try:
            if isinstance(spec, ExplainSpec):
                return interpret.explain(spec, **asked)
            return interpret.judge(spec, **asked)
        finally:
            for manifest in self.runs.list(spec.step):
                if manifest["inputs"][0] == spec.measure:
                    self._cached(manifest["run"], _silent)

    def writer(self, spec: WriteSpec, progress: Progress) -> Writer:
        """What writes texts for a spec. A local model is loaded once.

        Replies of a server are kept in a file of the spec's own from the moment they arrive, since
        the run that will hold them is named after who answers.
        """
        from fac.generator.writer import Means

        local = partial(self._local_writer, progress=progress)
        return WRITERS[spec.writer].open(spec, Means(local, self._paid_replies(spec), self._until))

    def _local_writer(self, spec: WriteSpec, progress: Progress) -> Writer:
        from fac.generator.writers.local import LocalWriter

        model = spec.model or MeasureSpec.model
        if self.where.executor == "ray":
            pool = self._workers(progress)
            make = partial(load_writer, model, self.models, spec.batch)
            waiting = partial(progress, 0, 1, LOADING)
            return RayWriter(pool, make, budget_tokens=spec.budget_tokens, waiting=waiting)
        found = locate(model, self.models, progress)
        if self._writes is None or self._writes[0] != found.identity:
            self._writes = None
            progress(0, 1, "loading the model that writes")
            self._writes = found.identity, load_generator(found)
        return LocalWriter(
            self._writes[1], found.identity, batch=spec.batch, budget_tokens=spec.budget_tokens
        )

    def _paid_replies(self, spec: WriteSpec) -> Path:
        return self.runs.root / spec.step / f".replies-{spec.run_id()}.jsonl"

    def _make(self, spec: PairsSpec | RescoreSpec | SynthesizeSpec, progress: Progress) -> str:
        """Pairs, one edited pair, or samples. What a stopped run left complete can be browsed."""
        from fac import synthesis

        anchor = spec.anchor if isinstance(spec, PairsSpec) else self._anchor_of(spec.pairs)
        measured = read_spec(MeasureSpec.step, self.runs.manifest(anchor)["spec"])
        assert isinstance(measured, MeasureSpec)  # which step it is says the class
        encoder = self.reader(measured, progress)
        doors: dict[str, Any] = {"runs": self.runs, "encoder": encoder, "progress": progress}
        try:
            if isinstance(spec, RescoreSpec):
                return synthesis.rescore(spec, **doors)
            doors["writer"] = self.writer(spec, progress)
            if spec.writer == "steered":
                doors["direction"] = self._directions(encoder, measured)
            if isinstance(spec, PairsSpec):
                run_id = synthesis.make_pairs(spec, **doors)
            else:
                store = Decisions(self.workspace.decisions)
                approved = review.approved_pairs(store, self.runs, spec.pairs)
                run_id = synthesis.synthesize(spec, approved=approved, **doors)
            self._paid_replies(spec).unlink(missing_ok=True)
            return run_id
        finally:
            self._until.close()
            source = spec.anchor if isinstance(spec, PairsSpec) else spec.pairs
            for manifest in self.runs.list(spec.step):
                if manifest["inputs"][0] == source:
                    self._cached(manifest["run"], _silent)

    def _directions(self, encoder: Encoder, spec: MeasureSpec) -> Callable[[int], np.ndarray]:
        if isinstance(encoder, RayEncoder):
            from fac.saes import load_sae

            return directions_of(load_sae(spec.sae, "cpu"))
        return unit_directions(self.encoder(spec, _silent))

    def _anchor_of(self, pairs_run: str) -> str:
        return self.runs.manifest(pairs_run)["facts"]["anchor"]

    def _cached(self, run_id: str, progress: Progress) -> None:
        with closing(cache.Cache(self.workspace.cache)) as known:
            if known.ready(run_id):
                return
        progress(1, 1, "building the cache for browsing")
        cache.build(self.runs, run_id, self.workspace.cache)


def _asked(spec: MeasureSpec | SaeSpec | ProbeSpec) -> tuple[str, int, str, int, str]:
    """What `load_encoder` needs to know of a spec and of this machine's choice."""
    limit = getattr(spec, "max_tokens", MeasureSpec.max_tokens)
    return spec.model, spec.layer, spec.sae, limit, precision()


def unit_directions(encoder: SaeEncoder) -> Callable[[int], np.ndarray]:
    """`directions_of` an encoder's SAE."""
    return directions_of(encoder.sae)


def directions_of(sae: Sae) -> Callable[[int], np.ndarray]:
    """The decoder direction of each feature at length 1, float32 `[d_model]`."""
    decoder = sae.decoder

    def direction(feature: int) -> np.ndarray:
        return decoder[feature] / np.linalg.norm(decoder[feature])

    return direction


def _silent(done: int, total: int, note: str = "") -> None:
    """Progress of what is too quick to report on, and must not be interrupted."""


def cached(workspace: Workspace, run_ids: Iterable[str]) -> None:
    """Builds the caches that are not there yet."""
    with closing(cache.Cache(workspace.cache)) as known:
        missing = [run_id for run_id in run_ids if not known.ready(run_id)]
    for run_id in missing:
        cache.build(Runs(workspace), run_id, workspace.cache)


def people_say(
    workspace: Workspace, handle: cache.Cache, measure: str, task: str
) -> dict[int, review.Standing]:
    """What people settled, by feature, about relevance to a task: of what is shown today.

    A verdict on an explanation or a rubric that has changed since does not count; the feature is
    undecided again.
    """
    store, runs = Decisions(workspace.decisions), Runs(workspace)
    features = [*review.relevance_overrides(store, measure, task)]
    if not features:
        return {}
    profile = compare.task_profiles(runs).get(task)
    explained = [run for run in compare.explained_by(runs, measure) if handle.ready(run)]
    rows, _ = handle.features_page(measure, ids=features, limit=len(features), explained=explained)
    texts = {row["feature"]: row["explanation"] for row in rows}
    texts |= review.corrections(store, measure)
    rubric = profile.rubric if profile else ()
    contents = [
        review.relevance_content(measure, feature, task, rubric, texts.get(feature) or None)
        for feature in features
    ]
    return review.relevance_overrides(store, measure, task, contents)


# --- steps that no page asks for -----------------------------------------------------------------


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
    manifests = reversed(Runs(workspace).list(MeasureSpec.step))
    wanted = [m for m in manifests if run_ids is None or m["run"] in run_ids]
    named = {m["facts"]["name"]: m["run"] for m in wanted}
    anchor, seed = (named[name] for name in demo.INPUTS)
    with closing(cache.Cache(workspace.cache)) as handle:
        relevant = compare.relevant_set("all", handle, anchor, runs=Runs(workspace))
        found = compare.coverage_of(handle, anchor, seed, relevant=relevant)
    return {"fac": found.fac, "n_missing": found.n_missing, "missing": found.missing.tolist()}


def read_chats(paths: Sequence[Path]) -> Iterator[Chat]:
    """The chats of dataset files; the first bad row ends the reading with its file and line."""
    for path in paths:
        for row in datasets.read_samples(str(path)):
            if isinstance(row, BadRow):
                raise InputError(f"{path.name}, {row}.")
            yield row.messages


def preflight(
    workspace: Workspace,
    model: str,
    layer: int,
    sae: str,
    texts: Path,
    samples: int,
    progress: Progress,
) -> tuple[list[Finding], Quality | None, str]:
    """Compare an SAE with a model on the first samples of a file; findings, figures, verdict."""
    from fac import saes
    from fac.models import SubjectModel

    chats = list(islice(read_chats([texts]), samples))
    progress(0, 2, "loading the model and the SAE")
    found = locate(model, workspace.models, progress)
    where = device()
    subject = SubjectModel(found.folder, layer=layer, device=where, revision=found.revision)
    dictionary = saes.load_sae(sae, where)
    progress(1, 2, "reconstructing")
    name = found.identity.split("@")[0]
    findings, quality = saes.preflight(dictionary, subject, name, chats)
    return findings, quality, saes.verdict(findings)


def train_sae(
    workspace: Workspace,
    texts: Sequence[Path],
    out: Path,
    *,
    recipe: TrainRecipe,
    model: str,
    layer: int,
    context: int,
    held_out: int,
    max_samples: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Collect activations, train, judge on held-out samples; write the SAE with its figures.

    The last `held_out` samples of the shuffled files are kept back, and of those the ones that
    also occur among the training samples are not used.
    """
    from fac import sae_training
    from fac.models import SubjectModel

    chats = list(read_chats(texts))
    random.Random(recipe.seed).shuffle(chats)
    if len(chats) <= held_out:
        raise InputError(f"{len(chats)} samples leave none to train on beside {held_out} held out.")
    training = chats[: len(chats) - held_out][:max_samples]
    seen = {datasets.sample_id(chat) for chat in training}
    judged = [c for c in chats[len(chats) - held_out :] if datasets.sample_id(c) not in seen]
    found = locate(model, workspace.models, progress)
    name = found.identity.split("@")[0]
    how = {
        **asdict(recipe),
        "model": found.identity,
        "layer": layer,
        "context": context,
        "held_out": held_out,
        "training_samples": len(training),
        "files": {path.name: hash_file(path) for path in texts},
    }
    shared = digest(found.identity, layer, context, sorted(seen))
    shards = workspace.root / "training" / f"activations-{shared}"
    work = workspace.root / "training" / f"sae-{digest(how)}"
    where = device()
    begun = time.monotonic()
    subject = SubjectModel(
        found.folder,
        layer=layer,
        device=where,
        dtype="bfloat16",
        revision=found.revision,
        max_tokens=context,
    )
    tokens = sae_training.collect_activations(training, subject, shards, progress)
    del subject
    sae_training.train(
        shards,
        recipe,
        work=work,
        out=out,
        model_name=name,
        layer=layer,
        device=where,
        report=progress,
    )
    how |= {"training_tokens": tokens, "seconds": round(time.monotonic() - begun)}
    return judge_sae(out, found, how, judged, progress)


def judge_sae(
    folder: Path,
    found: Located,
    recipe: dict[str, Any],
    judged: Sequence[Chat],
    progress: Progress,
) -> dict[str, Any]:
    """Measure an SAE on held-out samples in float32; write recipe.json and quality.json to it."""
    from fac import saes
    from fac.models import SubjectModel

    progress(0, 1, "judging on held-out samples")
    where = device()
    subject = SubjectModel(
        found.folder,
        layer=recipe["layer"],
        device=where,
        revision=found.revision,
        max_tokens=recipe["context"],
    )
    quality = saes.quality(saes.load_sae(str(folder), where), subject, judged)._asdict()
    quality["samples"] = len(judged)
    for name, content in (("recipe", recipe), ("quality", quality)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    return {"out": str(folder), "recipe": recipe, "quality": quality}


def magpie(
    workspace: Workspace, model: str, recipe: demo.MagpieRecipe, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write samples with a local chat model; recipe and counts go beside them."""
    found = locate(model, workspace.models, progress)
    generator = load_generator(found)
    data = {"model": found.identity, **demo.write_magpie(recipe, generator, out, progress)}
    out.with_suffix(".recipe.json").write_text(json.dumps(data, indent=1) + "\n")
    return data


def hash_file(path: Path) -> str:
    """12 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


# --- the worker ------------------------------------------------------------------------------


def work(
    workspace: Workspace,
    *,
    say: Callable[[str], None],
    until_idle: bool = False,
    employer: int | None = None,
    steps: Steps | None = None,
) -> int:
    """Take jobs from the queue until told to stop; returns how many were carried out.

    One bad job never ends the worker. Killed at any moment, the job goes back to the queue and
    the step continues from its finished parts. A worker of an `employer`, the process id of an
    app, finishes what waits when the app is gone and then ends. `steps` are the workspace's own
    unless given.
    """
    queue, steps = Queue(workspace.queue), steps or Steps(workspace)
    stop, lease = threading.Event(), _Lease(queue)
    name, count = f"{os.uname().nodename}:{os.getpid()}", 0
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    queue.recover()  # a queue that cannot be used is told before anything starts
    beating = threading.Thread(target=_beat, args=(queue, lease, stop, say), name="heartbeat")
    beating.start()
    say(f"worker {os.getpid()} reads {workspace.queue}")
    try:
        _renew_caches(workspace, stop, say)
        while not stop.is_set():
            queue.recover()
            job = queue.claim(name)
            if job is not None:
                count += 1
                _carry_out(job, queue, lease, steps, stop, say)
            elif until_idle or (employer is not None and not process_exists(employer)):
                break
            else:
                stop.wait(IDLE_SECONDS)
    finally:
        stop.set()
        beating.join()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return count


def _renew_caches(workspace: Workspace, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Builds the caches that are gone or were written by another version of this program."""
    runs = Runs(workspace)
    known = [manifest["run"] for step in cache.CACHED for manifest in runs.list(step)]
    with closing(cache.Cache(workspace.cache)) as handle:
        missing = [run_id for run_id in known if not handle.ready(run_id)]
    for run_id in missing:
        if stop.is_set():
            return
        try:
            cache.build(runs, run_id, workspace.cache)
        except FacError as error:
            say(f"no cache for {run_id}: {error}")


class _Lease:
    """The job in hand, kept for this worker also while its step is silent, as in a download."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._turn = threading.Lock()
        self._last: tuple[int, int, int, str] | None = None

    def report(self, job_id: int, done: int, total: int, note: str = "") -> None:
        """Raises Cancelled when a person asked to stop."""
        with self._turn:
            self._last = job_id, done, total, note
            self._queue.report(*self._last)

    def renew(self) -> None:
        """Repeats the last report; the step itself will meet a wish to stop at its next one."""
        with self._turn, suppress(Cancelled):
            if self._last:
                self._queue.report(*self._last)

    def end(self) -> None:
        with self._turn:
            self._last = None


def _beat(queue: Queue, lease: _Lease, stop: threading.Event, say: Callable[[str], None]) -> None:
    begun = time.time()
    while True:
        try:
            queue.beat(os.getpid(), begun)
            lease.renew()
        except FacError as error:  # a full disk may have room again by the next beat
            say(f"no sign of life could be left: {error}")
        if stop.wait(BEAT_SECONDS):
            return


def _carry_out(
    job: Job,
    queue: Queue,
    lease: _Lease,
    steps: Steps,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    say(f"job {job.id}: {job.step} {job.spec}")

    def progress(done: int, total: int, note: str = "") -> None:
        lease.report(job.id, done, total, note)
        if stop.is_set():
            raise Cancelled("the worker was asked to stop")

    try:
        progress(0, 0)
        run_id = steps.perform(read_spec(job.step, job.spec), progress)
    except Cancelled as reason:
        if not stop.is_set():  # a job of a worker that ends is left for the next one to recover
            queue.stopped(job.id)
        say(f"job {job.id}: stopped, {reason}")
    except FacError as error:
        queue.fail(job.id, str(error))
        say(f"job {job.id}: failed, {error}")
    except Exception as error:  # the boundary of the process: the next job must still run
        traceback.print_exc()
        queue.fail(
            job.id, f"{type(error).__name__}: {error}. The log has the details; this is a bug."
        )
    else:
        queue.finish(job.id, run_id)
        say(f"job {job.id}: done, {run_id}")
    finally:
        lease.end()


_starting = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []
"""Workers of this process, kept so that those that ended can be buried."""


def _bury() -> None:
    _started[:] = [process for process in _started if process.poll() is None]


def start_worker(workspace: Workspace) -> None:
    """Start the worker process of a workspace unless one is alive."""
    with _starting:
        _bury()
        queue = Queue(workspace.queue)
        state = queue.worker()
        if state and state["alive"]:
            return
        workspace.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fac", "worker", "--workspace", str(workspace.root)]
        command += ["--employer", str(os.getpid())]
        with (workspace.logs / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=REPOSITORY,
            )
        _started.append(process)
        # Alive from now on, so that two quick reruns do not start two.
        queue.beat(process.pid, time.time())


def stop_worker(workspace: Workspace) -> None:
    """End the worker of a workspace at once; its job continues in the next one.

    Raises InputError for a worker on another machine, where its process id means nothing here.
    """
    state = Queue(workspace.queue).worker()
    if not (state and state["alive"]):
        return
    if not state["here"]:
        raise InputError(
            f"The worker of {workspace.root} runs on the machine {state['host']!r}: end it there "
            f"with Ctrl-C or a SIGTERM."
        )
    pid = state["pid"]
    with suppress(ProcessLookupError):  # it may end by itself just now
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with _starting:
            _bury()
        if not process_exists(pid) and all(process.pid != pid for process in _started):
            return
        time.sleep(0.05)


def restart_worker(workspace: Workspace) -> None:
    """End the worker and start a new one."""
    stop_worker(workspace)
    start_worker(workspace)
