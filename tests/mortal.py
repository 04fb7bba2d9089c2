"""Steps in processes that are killed while they run."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fac.config import REPOSITORY
from tests.test_synthesis import World

MORTAL = """
import json, os, signal, sys, threading, time
from pathlib import Path
from fac.config import PairsSpec, SynthesizeSpec
from tests import test_answers, test_synthesis
from tests.scripted import ScriptedWriter
from tests.test_synthesis import GAPS, reopen

def late(request):
    # The first five texts of a gap fire nothing.
    if test_answers.split(request)[2] < 5:
        return f" number {test_answers.split(request)[2]} of {request.key} says nothing."
    return test_answers.says(request)

def live(root, log, step, run, phase, left, delay, more):
    signal.alarm(120)

    def mark(kind, what):
        nonlocal left
        with open(log, "a") as file:
            file.write(f"{kind} {what}\\n")
        left -= kind == phase
        if left == 0:
            left = -1
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.005)

    def slowly(request):
        mark("answer" if request.key.count("/") == 4 else "text", request.key)
        return (late if more else test_synthesis.says)(request)

    def progress(done, total, note=""):
        if not note.startswith("writing"):
            mark("note", note)

    def file_appears(event, about):
        if event == "os.rename":
            mark("file", os.path.basename(about[1]))

    world = reopen(Path(root))
    sys.addaudithook(file_appears)
    writer = ScriptedWriter(slowly)
    if step == "pairs":
        named = {"anchor": world.anchor, "dataset": world.dataset, "features": GAPS}
        spec = PairsSpec(**named, candidates=12, **more)
        print(world.make_pairs(spec, writer, progress=progress), flush=True)
    else:
        named = tuple(row["pair"] for row in world.approved(run))
        spec = SynthesizeSpec(pairs=run, approved=named, candidates=12, keep=2, **more)
        print(world.make(spec, writer, progress=progress), flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        live(**json.loads(line))
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Steps, each in a process of its own that writes down what it does: `text` or `answer` before each
is written, `note` for all else that it reports, `file` before one gets its name. It dies by SIGKILL
some seconds after the given mark of a phase. They are forked from one that has imported everything,
which would take most of the time otherwise."""


class Mortals:
    """Lets steps run in processes of their own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", MORTAL]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.nursery = subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)

    def go(
        self,
        world: World,
        log: Path,
        step: str,
        run: str,
        phase: str = "",
        left: int = -1,
        **more: Any,
    ) -> str:
        """Lets a step run to its end; the run's id. With a phase: to its death, at a random moment
        after so many marks of it; where it died."""
        seed = f"{step}{phase}{left}{log.exists() and log.stat().st_size}"
        life = {"root": str(world.workspace.root), "log": str(log), "step": step, "run": run}
        # In rounds the texts of a phase are few: the moment is at once, or it would be beyond them.
        delay = 0 if "rows" in more else random.Random(seed).random() / 70
        life |= {"phase": phase, "left": left, "delay": delay}
        life["more"] = more
        self.nursery.stdin.write(json.dumps(life) + "\n")
        self.nursery.stdin.flush()
        answer = ""
        while not (line := self.nursery.stdout.readline()).startswith("ended"):
            assert line, "the nursery is gone"
            answer = line.strip()
        assert int(line.split()[1]) == (-signal.SIGKILL if phase else 0)
        return log.read_text().splitlines()[-1] if phase else answer


def leftovers(world: World) -> list[str]:
    """Folders in which a run grows, and files that no manifest knows."""
    runs = [path.parent for path in world.workspace.runs.rglob("manifest.json")]
    listed = {run / name for run in runs for name in world.runs.manifest(run.name).files}
    return [
        str(path)
        for path in world.workspace.runs.rglob("*")
        if path.name.startswith(".tmp-")
        or (path.is_file() and path not in listed and path.name != "manifest.json")
        and not path.name.startswith(".lock-")
    ]
