"""Kills: processes that end by SIGKILL at any moment. What comes after finds what was acknowledged,
goes on from it to the same result, and asks for nothing twice that was paid for."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.trials.nursery import nursery, perform
from benchmarks.trials.promises import Broken, Promise, Trial
from benchmarks.trials.world import copy_of, kitchen, rows_of, stores_of, tidy, tree
from fac import review
from fac.config import (
    ExplainSpec,
    IngestSpec,
    JudgeSpec,
    MeasureSpec,
    PairsSpec,
    SaeSpec,
    Spec,
    SynthesizeSpec,
    Workspace,
    digest,
)
from fac.export import EXPORT_FORMATS, plan_export, refusals
from fac.jobs.steps import Steps, silent
from fac.prompts.relevance import TASKS
from fac.store.runs import Runs
from tests import toy
from tests.server import ScriptedServer

GAPS = (3, 4, 7)
"""Features of the toy that its seed does not show."""

SUBJECTS = ("storks", "glaciers", "violins", "harbours", "comets", "orchids", "bridges", "owls")

MARKED = re.compile(r"<<(.+?)>>")


# --- a server on 127.0.0.1 ------------------------------------------------------------------------


def answer(body: dict[str, Any]) -> str:
    """What a good reader of the toy answers, whose features are single words; the same each time it
    is asked the same."""
    text = body["messages"][-1]["content"]
    marked = Counter(word.strip("! ").casefold() for word in MARKED.findall(text))
    word = marked.most_common(1)[0][0] if marked else "nothing"
    if "response_format" not in body:
        number = int(digest(body["messages"], body.get("seed", 0)), 16)
        subject, other = SUBJECTS[number % 4], SUBJECTS[4 + number // 8 % 4]
        if "(strength" in text:  # step 2, which must not repeat what it was shown
            return f"{number % 997} {subject} sing about one {word}! while {other} listen"
        return f"Why do {subject} need their {word}! near {other} number {number % 997}"
    asks = body["response_format"]["json_schema"]["schema"]["properties"]
    if "explanation" in asks:
        return json.dumps({"reason": "always the same", "explanation": f"the word {word}"})
    if "level" in asks:
        return json.dumps(
            {"rationale": "by its texts", "level": "yes" if "python" in text else "no"}
        )
    (meant,) = re.findall(r"Description: the word (\w+)", text)
    lines = dict(re.findall(r"^Text (\d+): (.*)$", text, re.MULTILINE))
    return json.dumps({number: int(meant in lines[number].casefold()) for number in asks})


def questions_of(bodies: Sequence[dict[str, Any]]) -> Counter[str]:
    """How often each was asked; several texts may be asked for in the same words."""
    return Counter(json.dumps(body["messages"]) for body in bodies)


def journal(workspace: Workspace) -> Counter[str]:
    """The questions whose replies lie in a journal."""
    questions = Counter[str]()
    for path in workspace.runs.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and b'"prompt"' in line:
                row = json.loads(line)
                if row["reply"] is not None:
                    questions[json.dumps(json.loads(row["prompt"]))] += 1
    return questions


def quiet_since(server: ScriptedServer) -> int:
    """How many questions a server was asked, once those of a process that died have all arrived."""
    n = -1
    while n != len(server.bodies):
        n = len(server.bodies)
        time.sleep(0.1)
    return n


# --- steps ----------------------------------------------------------------------------------------

Prepared = tuple[str, dict[str, Any]]
"""A task of the nursery and its arguments but for the workspace."""


def ingesting(workspace: Workspace, home: Path, _: str) -> Prepared:
    source = home / "rows.jsonl"
    rows = [{"text": f"text {n} about tea", "label": n % 3} for n in range(3000)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return of_step(IngestSpec(name="mine", source=str(source)))


def of_step(spec: Spec) -> Prepared:
    return "perform", {"step": spec.step, "spec": json.loads(json.dumps(spec.as_json()))}


def measuring(workspace: Workspace, home: Path, _: str) -> Prepared:
    """With the tests' tiny Llama, whose dictionary is described beforehand."""
    from tests import tiny

    model, sae = tiny.llama(home / "model"), tiny.sae(home / "sae")
    dataset = Runs(workspace).resolve("dataset", "toy-anchor")
    spec = MeasureSpec(dataset=dataset, model=str(model), layer=2, sae=str(sae))
    Steps(workspace).perform(SaeSpec(model=spec.model, layer=2, sae=spec.sae), silent)
    return "measure", {"spec": json.loads(json.dumps(spec.as_json()))}


def _server(url: str) -> dict[str, Any]:
    return {"model": "m", "endpoint": url}


def explaining(workspace: Workspace, home: Path, url: str) -> Prepared:
    anchor = Runs(workspace).resolve("measure", "toy-anchor")
    scores = ("detection", "fuzzing")
    return of_step(ExplainSpec(measure=anchor, explainer="llm", scores=scores, **_server(url)))


def judging(workspace: Workspace, home: Path, url: str) -> Prepared:
    anchor = Runs(workspace).resolve("measure", "toy-anchor")
    task = TASKS["toxicity"]
    how: dict[str, Any] = {"task": task.name, "title": task.title, "rubric": task.rubric}
    return of_step(JudgeSpec(measure=anchor, **how, **_server(url)))


def pairs_spec(workspace: Workspace, url: str) -> PairsSpec:
    runs = Runs(workspace)
    anchor, dataset = (runs.resolve("measure", name) for name in toy.SAMPLES)
    about: dict[str, Any] = {"anchor": anchor, "dataset": dataset, "features": GAPS}
    return PairsSpec(**about, writer="openai", candidates=4, **_server(url))


def pairing(workspace: Workspace, home: Path, url: str) -> Prepared:
    return of_step(pairs_spec(workspace, url))


def approve(workspace: Workspace, url: str) -> SynthesizeSpec:
    """Carries out pairs, approves them, and says what to make of them."""
    spec = pairs_spec(workspace, url)
    run = perform(str(workspace.root), *of_step(spec)[1].values())
    runs, _, decisions = stores_of(workspace)
    for row in runs.table(run, "pairs").to_pylist():
        if row["status"] == "proposed":
            item = review.pair_item(run, row)
            decisions.add("Ada", "pair", item.subject, item.content, "approve")
    names = tuple(row["pair"] for row in review.approved_pairs(decisions, runs, run))
    more: dict[str, Any] = {"writer": "openai", "candidates": 4, "keep": 2}
    return SynthesizeSpec(pairs=run, approved=names, **more, **_server(url))


def synthesizing(workspace: Workspace, home: Path, url: str) -> Prepared:
    return of_step(approve(workspace, url))


def caching(workspace: Workspace, home: Path, _: str) -> Prepared:
    run = Runs(workspace).resolve("measure", "toy-anchor")
    (workspace.cache / f"{run}.duckdb").unlink()
    return "build", {"run": run}


def result(workspace: Workspace, life: str) -> Any:
    """What came of a life: the tables of its run and of the dataset it kept, or its file."""
    runs = Runs(workspace)
    if not runs.find(life):
        return Path(life).name
    kept = getattr(runs.manifest(life).facts, "kept_dataset", "")
    return {run: rows_of(runs, run) for run in filter(None, (life, kept))}


@contextmanager
def step(
    folder: Path, prepare: Callable[[Workspace, Path, str], Prepared], *modules: str
) -> Iterator[Trial]:
    """A step that is killed once and then begun again, beside one that is not."""
    server = ScriptedServer(answer)
    with server.running(), nursery("openai", *modules) as home:
        base = kitchen(folder / "base")
        task, arguments = prepare(base, folder, server.endpoint)
        place, begun = copy_of(base, folder / "calm"), len(server.bodies)
        lives = [home.live(task, root=str(place.root), **arguments)]
        want, paths = result(place, lives[0].answer), tidy(place)
        questions = questions_of(server.bodies[begun:])
        # The first life also filled caches of the disk; how long one takes, the second tells.
        lives.append(home.live(task, root=str(copy_of(base, folder / "calm").root), **arguments))
        if questions_of(server.bodies[begun:]) != questions + questions:
            raise Broken("two undisturbed lives do not ask the same")

        def trial(rng: random.Random) -> str:
            dies, died = rng.random() * lives[1].seconds, False
            for _ in range(4):  # a busy machine may have been slower before than it is now
                place = copy_of(base, folder / "mortal")
                here = {"root": str(place.root), **arguments}
                if died := home.live(task, dies=dies, **here).died:
                    break
                dies /= 2
            known, before = journal(place), quiet_since(server)
            is_whole = Runs(place).find(lives[0].answer)
            life = home.live(task, **here)
            fresh = questions_of(server.bodies[before:])
            # One that was on its way and not recorded is asked again, whatever the server heard.
            if again := fresh if is_whole else ((fresh + known) - questions) & known:
                raise Broken(f"{again.total()} questions that were answered were asked again")
            if result(place, life.answer) != want:
                raise Broken("the result is another one")
            if (left := tidy(place)) != paths:
                raise Broken(f"left behind or lost: {sorted(left ^ paths)}")
            return "killed" if died else "done before the kill"

        yield trial


# --- the demo, exports, workers -------------------------------------------------------------------


@contextmanager
def demos(folder: Path) -> Iterator[Trial]:
    with nursery("fac.demo") as home:
        calm = Workspace(folder / "calm")
        seconds = home.live("demo", root=str(calm.root)).seconds
        paths = tidy(calm)

        def trial(rng: random.Random) -> str:
            shutil.rmtree(folder / "mortal", ignore_errors=True)
            place = Workspace(folder / "mortal")
            died = home.live("demo", root=str(place.root), dies=rng.random() * seconds).died
            home.live("demo", root=str(place.root))
            runs = Runs(place)
            spoilt = [each.run for s in ("dataset", "sae", "measure") for each in runs.list(s)]
            if any(runs.verify(run) for run in spoilt) or tidy(place) != paths:
                raise Broken(f"left behind or lost: {sorted(tidy(place) ^ paths)}")
            return "killed" if died else "done before the kill"

        yield trial


def contents(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


@contextmanager
def exports(folder: Path) -> Iterator[Trial]:
    """Exports in every format that the samples can have, some over an earlier one."""
    server = ScriptedServer(answer)
    with server.running(), nursery("openai", "fac.export") as home:
        place = kitchen(folder / "base")
        run = perform(str(place.root), *of_step(approve(place, server.endpoint))[1].values())
        no = refusals(plan_export(run, runs=Runs(place)))
        formats = [name for name in EXPORT_FORMATS if name not in no]
        whole, seconds = dict[str, dict[str, bytes]](), dict[str, float]()
        for name in formats:
            out = folder / f"whole-{name}" / "kept"
            how: dict[str, Any] = {"root": str(place.root), "run": run, "format": name}
            home.live("export", out=str(out), **how)
            whole[name] = contents(out.parent)
            seconds[name] = home.live("export", out=str(out), **how).seconds

        def trial(rng: random.Random) -> str:
            name = rng.choice(formats)
            shutil.rmtree(folder / "mortal", ignore_errors=True)
            out = folder / "mortal" / "kept"
            if rng.random() < 0.5:
                shutil.copytree(folder / f"whole-{name}", out.parent)
            before = contents(out.parent) if out.parent.exists() else {}
            how: dict[str, Any] = {"root": str(place.root), "run": run, "format": name}
            how["out"] = str(out)
            died = home.live("export", dies=rng.random() * seconds[name], **how).died
            seen = {k: v for k, v in contents(out.parent).items() if not k.startswith(".")}
            rows = {k: v for k, v in seen.items() if k.startswith("kept") and ".card" not in k}
            if any(whole[name].get(k) != v for k, v in rows.items()) or before.keys() - seen.keys():
                raise Broken(f"half an export as {name} can be seen: {sorted(seen)}")
            home.live("export", **how)
            tidy(place, out.parent)
            if contents(out.parent) != whole[name]:
                raise Broken(f"left behind or lost: {tree(out.parent)}")
            return "killed" if died else "done before the kill"

        yield trial


@contextmanager
def workers(folder: Path) -> Iterator[Trial]:
    """A worker with jobs in its queue."""
    with nursery() as home:
        base = kitchen(folder / "base")
        _, queue, _ = stores_of(base)
        for number in range(4):
            source = folder / f"rows{number}.jsonl"
            rows = [{"text": f"{number} tea in the oven {n}"} for n in range(40)]
            source.write_text("".join(json.dumps(row) + "\n" for row in rows))
            settings = {"model": "toy", "layer": 1, "sae": "toy"} if number == 3 else None
            queue.enqueue(IngestSpec(name=f"n{number}", source=str(source), measure=settings))
        calm = copy_of(base, folder / "calm")
        seconds = home.live("work", root=str(calm.root)).seconds
        runs = [str(job.run_id) for job in stores_of(calm)[1].jobs()]
        want, paths = [result(calm, run) for run in runs], tidy(calm)

        def trial(rng: random.Random) -> str:
            place = copy_of(base, folder / "mortal")
            died = home.live("work", root=str(place.root), dies=rng.random() * seconds).died
            home.live("work", root=str(place.root))
            jobs = stores_of(place)[1].jobs()
            if [job.run_id for job in jobs] != runs or {job.status for job in jobs} != {"done"}:
                raise Broken(f"jobs were lost or doubled: {jobs}")
            if [result(place, run) for run in runs] != want:
                raise Broken("a job came to another result")
            if (left := tidy(place)) != paths:
                raise Broken(f"left behind or lost: {sorted(left ^ paths)}")
            return "killed" if died else "done before the kill"

        yield trial


# --- what was acknowledged ------------------------------------------------------------------------


def kept_decisions(place: Workspace) -> list[str]:
    _, _, decisions = stores_of(place)
    if faults := decisions.faults():
        raise Broken(f"the file is damaged: {faults[0]}")
    return [row["uid"] for row in decisions.table().to_pylist()]


def kept_jobs(place: Workspace) -> list[str]:
    _, queue, _ = stores_of(place)
    if faults := queue.faults():
        raise Broken(f"the file is damaged: {faults[0]}")
    return [str(job.id) for job in queue.jobs(10**6)[::-1]]


@contextmanager
def acknowledgements(
    folder: Path, task: str, kept: Callable[[Workspace], list[str]]
) -> Iterator[Trial]:
    """Two processes that write to one file, one after the other; both are killed."""
    with nursery() as home:

        def trial(rng: random.Random) -> str:
            shutil.rmtree(folder / "mortal", ignore_errors=True)
            place, log = Workspace(folder / "mortal"), folder / "log"
            place.root.mkdir()
            log.write_bytes(b"")
            lines = list[str]()
            for kills in (1, 2):
                dies = rng.uniform(0.01, 0.15)
                home.live(task, dies=dies, root=str(place.root), log=str(log))
                lines = log.read_text().split()
                rows = kept(place)
                if lost := [each for each in lines if each not in rows]:
                    raise Broken(f"{len(lost)} of {len(lines)} were acknowledged and are gone")
                if len(rows) != len(set(rows)) or len(rows) > len(set(lines)) + kills:
                    raise Broken(f"{len(rows)} are kept of {len(lines)} that were acknowledged")
            return "killed twice" if lines else "killed before the first"

        yield trial


RESUMED = (
    "Killed at any moment and begun again, {what} comes to the same result{paid}; after `fac gc` "
    "nothing is left behind."
)
PAID = ", and asks no question again whose reply was recorded"


def of(name: str, prepare: Any, times: int, *modules: str, paid: bool = False) -> Promise:
    sentence = RESUMED.format(what=name, paid=PAID if paid else "")
    begin = partial(step, prepare=prepare) if not modules else partial(_with, prepare, modules)
    return Promise("kills", name, sentence, begin, times)


def _with(prepare: Any, modules: tuple[str, ...], folder: Path) -> Any:
    return step(folder, prepare, *modules)


PROMISES = (
    of("ingest", ingesting, 100),
    of("measure", measuring, 60, "tests.tiny"),
    of("a cache", caching, 100),
    of("explain", explaining, 60, paid=True),
    of("judge", judging, 60, paid=True),
    of("pairs", pairing, 60, paid=True),
    of("synthesize", synthesizing, 60, paid=True),
    Promise(
        "kills",
        "export",
        "A killed export is whole or not there, in every format; exported again it has the same "
        "bytes, and after `fac gc` nothing is left behind.",
        exports,
        100,
    ),
    Promise("kills", "the demo", RESUMED.format(what="the demo", paid=""), demos, 5),
    Promise(
        "kills",
        "a worker",
        "Of a worker's jobs none is lost or doubled when it is killed: the next one does what is "
        "left, with the same results, and after `fac gc` nothing is left behind.",
        workers,
        60,
    ),
    Promise(
        "kills",
        "decisions",
        "A decision that was acknowledged is kept, once, whatever is killed after it.",
        partial(acknowledgements, task="decide", kept=kept_decisions),
        100,
    ),
    Promise(
        "kills",
        "what is asked of the queue",
        "A job that was acknowledged is in the queue, once, whatever is killed after it.",
        partial(acknowledgements, task="ask", kept=kept_jobs),
        100,
    ),
)
