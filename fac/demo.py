"""The demo: its committed inputs and runs, and the Magpie-style writer that made the inputs.

Everything under `data/demo/` was made by this project: samples by the demo model, the SAE by
`fac train-sae`, the runs by `fac demo --rebuild`.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fac.config import DEMO_INPUTS, Workspace, digest
from fac.errors import GateFailed, InputError, Progress, disk_room
from fac.generator import LocalGenerator
from fac.generator.journal import drop_torn_line
from fac.store import cache
from fac.store.runs import MANIFEST, Runs

ANCHOR, SEED = "demo-anchor", "demo-seed"
INPUTS = {ANCHOR: DEMO_INPUTS / "anchor.jsonl", SEED: DEMO_INPUTS / "seed.jsonl"}
COMMITTED = Workspace(DEMO_INPUTS)


def materialise(workspace: Workspace, progress: Progress) -> list[str]:
    """Copy the committed runs into a workspace and build their caches; returns the run ids.

    Loads no model. Runs and caches that are there already stay.
    """
    committed = Runs(COMMITTED)
    if not run_ids(committed):
        raise InputError(
            f"{DEMO_INPUTS} holds no runs; restore data/demo from git or run `fac demo --rebuild`."
        )
    return bring_in(committed, workspace, progress)


def run_ids(runs: Runs) -> list[str]:
    """Every run that belongs to the demo, those others are made from first."""
    steps = ("dataset", "sae", "measure", "explain")
    return [manifest.run for step in steps for manifest in runs.list(step)]


def bring_in(source: Runs, workspace: Workspace, progress: Progress) -> list[str]:
    """Copy the demo's runs from one store to a workspace, with their caches; returns the ids."""
    ids, target = run_ids(source), Runs(workspace)
    for done, run_id in enumerate(ids):
        progress(done, 2 * len(ids), f"bringing in {run_id}")
        adopt(source, target, run_id)
    with closing(cache.Cache(workspace.cache)) as caches:
        cached = [run_id for run_id in ids if not run_id.startswith("dataset-")]
        missing = [run_id for run_id in cached if not caches.ready(run_id)]
    # Two at a time and the largest first, because at a first start a person is waiting for this.
    missing.sort(key=lambda run_id: -sum(f.stat().st_size for f in target.path(run_id).iterdir()))
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(cache.build, target, run_id, workspace.cache) for run_id in missing]
        for done, built in enumerate(as_completed(begun)):
            built.result()
            progress(2 * len(ids) - len(begun) + done, 2 * len(ids), "building caches")
    progress(len(ids), len(ids), "the demo is ready")
    return ids


def adopt(source: Runs, target: Runs, run_id: str) -> None:
    """Copy a finished run from one workspace to another, whole or not at all."""
    if target.find(run_id):
        return
    final = target.path(run_id)
    scratch = final.with_name(f".adopt-{run_id}")
    with target.exclusive(run_id), disk_room(f"run {run_id}"):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        for name in (*source.manifest(run_id).files, MANIFEST):
            shutil.copyfile(source.path(run_id) / name, scratch / name)
        if final.exists():  # a leftover whose manifest somebody removed
            shutil.rmtree(final)
        scratch.rename(final)


# --- Magpie-style samples -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MagpieRecipe:
    """How samples are drawn from a chat model that is given nothing but its own template.

    After Xu et al. 2024 (Magpie): the template up to the user's turn makes an aligned model write
    an instruction; asked with it, the model answers.
    """

    n: int  # Samples wanted after all filters
    seed: int = 0  # Base of every batch's seed
    systems: tuple[str, ...] = ()
    """System prompts taken in turn while instructions are drawn; none: the template's own."""

    must_contain: tuple[str, ...] = ()
    """At least one of these words must occur in the instruction, or it is dropped as off topic."""

    temperature: float = 1.0
    answer_temperature: float = 0.7
    top_k: int = 50
    instruction_tokens: int = 48
    answer_tokens: int = 48
    batch: int = 128

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"The number of samples must be at least 1, got {self.n}.")


def write_magpie(
    recipe: MagpieRecipe, generator: LocalGenerator, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write `recipe.n` chats as JSON lines; returns counts of kept and dropped with reasons.

    Batches already answered are kept in a journal beside `out`, so a restart with the same recipe
    continues. Raises InputError when fifty batches in a row give nothing new.
    """
    # Wanting more of the same continues too, so the number is not what tells recipes apart.
    same = digest({**asdict(recipe), "n": None})
    journal = out.with_name(f"_{out.name}.{same}.journal")
    accepted: dict[str, dict[str, Any]] = {}
    dropped: Counter[str] = Counter()
    number = barren = 0
    drop_torn_line(journal)
    # not splitlines: texts may hold line separators of Unicode
    lines = journal.read_text("utf-8").split("\n")[:-1] if journal.exists() else []
    for row in map(json.loads, lines):
        number = row["batch"] + 1
        dropped.update(row["dropped"])
        accepted |= {_key(chat["messages"][0]["content"]): chat for chat in row["kept"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as log:
        while len(accepted) < recipe.n:
            progress(len(accepted), recipe.n, f"{sum(dropped.values())} dropped")
            fresh, reasons = _magpie_batch(recipe, generator, number, set(accepted))
            row = {"batch": number, "kept": list(fresh.values()), "dropped": reasons}
            log.write(json.dumps(row, ensure_ascii=False) + "\n")
            log.flush()
            accepted |= fresh
            dropped.update(reasons)
            number, barren = number + 1, 0 if fresh else barren + 1
            if barren == 50:
                raise InputError(
                    f"Fifty batches gave no new sample ({dict(dropped)}); loosen must_contain or "
                    f"raise the temperature."
                )
    chats = list(accepted.values())[: recipe.n]
    text = "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats)
    partial = out.with_name(f"_{out.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.rename(out)
    journal.unlink()
    progress(recipe.n, recipe.n, "done")
    return {
        "samples": len(chats),
        "batches": number,
        "dropped": dict(dropped.most_common()),
        "recipe": asdict(recipe),
    }


def _magpie_batch(
    recipe: MagpieRecipe, generator: LocalGenerator, number: int, taken: set[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    mark = "\u2983"
    system = recipe.systems[number % len(recipe.systems)] if recipe.systems else None
    head = [{"role": "system", "content": system}] if system else []
    template = generator.render([*head, {"role": "user", "content": mark}], reply=False)
    drawn = generator.continuations(
        [template.split(mark)[0]] * recipe.batch,
        seed=recipe.seed * 1_000_003 + 2 * number,
        max_new_tokens=recipe.instruction_tokens,
        temperature=recipe.temperature,
        top_k=recipe.top_k,
    )
    reasons: Counter[str] = Counter()
    fresh: dict[str, str] = {}
    for text, finished in drawn:
        text = text.strip()
        why = _objection(text, finished, recipe, taken | set(fresh))
        if why:
            reasons[why] += 1
        else:
            fresh[_key(text)] = text
    prompts = [generator.render([{"role": "user", "content": text}]) for text in fresh.values()]
    answers = (
        generator.continuations(
            prompts,
            seed=recipe.seed * 1_000_003 + 2 * number + 1,
            max_new_tokens=recipe.answer_tokens,
            temperature=recipe.answer_temperature,
            top_k=recipe.top_k,
        )
        if prompts
        else []
    )
    chats = {}
    for (key, text), (answer, finished) in zip(fresh.items(), answers, strict=True):
        answer = _whole_sentences(answer.strip(), finished)
        if not answer:
            reasons["answer without a finished sentence"] += 1
            continue
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        chats[key] = {"messages": messages}
    return chats, dict(reasons)


def _key(text: str) -> str:
    """What makes two instructions the same: letters and digits, case folded."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _objection(text: str, finished: bool, recipe: MagpieRecipe, taken: set[str]) -> str | None:
    if not finished:
        return "instruction cut at the token limit"
    if len(text.split()) < 3:
        return "fewer than three words"
    if "\ufffd" in text or any(ord(c) < 32 and c not in "\n\t" for c in text):
        return "broken characters"
    if _key(text) in taken:
        return "duplicate"
    words = recipe.must_contain
    if words and not any(word in text.casefold() for word in words):
        return "off topic"
    return None


def _whole_sentences(text: str, finished: bool) -> str:
    """The text up to its last full stop, so that a cut answer does not end in mid-sentence."""
    if finished:
        return text
    end = max(text.rfind(mark) for mark in ".!?")
    return text[: end + 1]


def must_agree(committed: dict[str, Any], rebuilt: dict[str, Any]) -> None:
    """Raises GateFailed when a rebuild's FAC or missing set differs from the committed one's."""
    if rebuilt != committed:
        differ = len(set(rebuilt["missing"]) ^ set(committed["missing"]))
        raise GateFailed(
            f"The rebuilt demo differs from the committed one: FAC {rebuilt['fac']:.6f} against "
            f"{committed['fac']:.6f}, {differ} features differ in the missing set."
        )
