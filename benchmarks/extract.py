"""How close extraction comes to the forward pass alone, and how far it is ahead of other routes.

    python -m benchmarks.extract

reads the demo's own texts with the demo model and SAE, each way in turn for some rounds, and prints
tokens per second (each text's tokens as the model sees them, the template's included) as ratios:

    bare forward     the first `layer` blocks on the batches of `ours, plain`, tokenised before;
                     nothing is read from it
    ours, plain      chats in, peaks out, but no beginning is run apart
    ours             chats in, peaks out
    one at a time    the released algorithm's loop: render, tokenise, run and encode each text by
                     itself, take the largest activation over its content
    sae-lens         TransformerLens' `run_with_cache` as sae-lens' tutorials call it, on our
                     batches, then sae-lens' encode and a maximum over each text's content
    sae-lens, cut    the same, told to keep the one hook point and to stop there

and, for a dictionary of another width with random weights, the forward and the SAE's matrix product
alone. All ways must find the same peaks, away from ties, before anything is timed.

    python -m benchmarks.extract --beside 4

reads the short chats alone, then beside so many processes that never stop, with threads for what
these leave free and with a thread a core, and prints how both compare with a fair share: of n
processes, each has an nth of the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from fac import encoder as encoding
from fac.config import DEMO_INPUTS, MeasureSpec, Workspace
from fac.encoder import SaeEncoder, TextBatch
from fac.jobs.steps import PRECISIONS, Steps, load_encoder, locate
from fac.models import Chat, Rendered, batches_by_length, threads
from fac.saes import Sae
from fac.schema import Activations

TIE = 1e-3
"""Peaks may differ by this share of the larger one, and so far from its threshold that a feature
fires in one way only."""


SETTLED = 2.0
"""Seconds until what others use shows."""

AGAINST = ("bare forward", "one at a time", "sae-lens", "sae-lens, cut")


class Way(NamedTuple):
    """One way to read texts."""

    name: str
    run: Callable[[], object]


def demo_chats(count: int, *, longest: int, words: int = 0) -> list[Chat]:
    """Chats of the demo's anchor: single short turns, or several of them glued to long ones."""
    lines = (DEMO_INPUTS / "anchor.jsonl").read_text("utf-8").splitlines()
    texts = [m["content"] for line in lines for m in json.loads(line)["messages"]]
    if not words:
        some = [text for text in texts if len(text.split()) <= longest]
        return [[{"role": "user", "content": text}] for text in some[:count]]
    chats: list[Chat] = []
    rest = iter(texts)
    while len(chats) < count:
        held: list[str] = []
        while sum(len(text.split()) for text in held) < words:
            held.append(next(rest))
        chats.append([{"role": "user", "content": "\n\n".join(held)}])
    return chats


@contextmanager
def nothing_shared() -> Any:
    """Every text is run from its first token."""

    def whole(ids: Sequence[np.ndarray]) -> list[tuple[int, list[int]]]:
        return [(0, list(range(len(ids))))]

    with mock.patch.object(encoding, "by_beginning", whole):
        yield


def plain_batches(encoder: SaeEncoder, rendered: Sequence[Rendered]) -> list[TextBatch]:
    """What `ours, plain` runs."""
    with nothing_shared():
        return encoder.batches(rendered)


def loop(encoder: SaeEncoder, chats: Sequence[Chat]) -> dict[tuple[int, int], float]:
    """The released algorithm, in words of our own: peaks by (sample, feature)."""
    peaks = {}
    for sample, chat in enumerate(chats):
        (rendered,) = encoder.render([chat])
        with torch.inference_mode():
            states = encoder.model.residual([rendered.ids])[0]
            acts = encoder.sae.module.encode(states.float())
            best = acts[torch.from_numpy(rendered.role >= 0)].amax(0)
            for feature in best.nonzero().squeeze(1).tolist():
                peaks[sample, feature] = float(best[feature])
    return peaks


def lens(folder: str) -> Any:
    """The model as TransformerLens loads it."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


def _hook(layer: int) -> str:
    """What TransformerLens calls the stream after so many blocks."""
    return f"blocks.{layer - 1}.hook_out"


def by_lens(
    model: Any, encoder: SaeEncoder, chats: Sequence[Chat], **how: Any
) -> dict[tuple[int, int], float]:
    """sae-lens' own route, on batches of similar length: peaks by (sample, feature)."""
    hook = _hook(encoder.model.layer)
    rendered = encoder.render(chats)
    peaks = {}
    for rows in batches_by_length(
        [len(r.ids) for r in rendered], max_padded=encoder.model.batch_tokens
    ):
        longest = max(len(rendered[i].ids) for i in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        content = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, i in enumerate(rows):
            tokens[row, : len(rendered[i].ids)] = torch.from_numpy(rendered[i].ids.astype(int))
            content[row, : len(rendered[i].ids)] = torch.from_numpy(rendered[i].role >= 0)
        with torch.inference_mode():
            _, cache = model.run_with_cache(tokens, prepend_bos=False, **how)
            acts = encoder.sae.module.encode(cache[hook])
            best = torch.where(content[..., None], acts, 0).amax(1)
            for row, feature in best.nonzero().tolist():
                peaks[rows[row], feature] = float(best[row, feature])
    return peaks


def peaks_of(activations: Activations) -> dict[tuple[int, int], float]:
    """By (sample, feature), over all roles."""
    peaks: dict[tuple[int, int], float] = {}
    for sample, feature, peak in zip(
        activations.sample, activations.feature, activations.peak, strict=True
    ):
        key = int(sample), int(feature)
        peaks[key] = max(peaks.get(key, 0.0), float(peak))
    return peaks


def must_agree(
    name: str, mine: dict[tuple[int, int], float], other: dict[tuple[int, int], float], sae: Sae
) -> float:
    """Largest relative difference of peaks. Exits if a feature fires in one way only and is not
    within TIE of its threshold, or if a peak differs by more than TIE."""
    worst = 0.0
    for key in mine.keys() | other.keys():
        mine_peak, other_peak = mine.get(key), other.get(key)
        threshold = max(float(sae.thresholds[key[1]]), 0.0)
        if mine_peak is None or other_peak is None:
            there = mine_peak if other_peak is None else other_peak
            assert there is not None
            if there > threshold * (1 + TIE) + TIE:
                raise SystemExit(f"{name}: feature {key[1]} fires in one way only ({there}).")
        else:
            worst = max(worst, abs(mine_peak - other_peak) / max(mine_peak, other_peak))
    if worst > TIE:
        raise SystemExit(f"{name}: a peak differs by {worst:.2e} of itself.")
    return worst


def timed(ways: Sequence[Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in turn, so that all meet the same machine; each has run before."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            begun = time.perf_counter()
            way.run()
            seconds[way.name].append(time.perf_counter() - begun)
    return seconds


def table(title: str, seconds: dict[str, list[float]], tokens: int, against: Sequence[str]) -> str:
    """Tokens per second by the median round, and the median over rounds of each ratio."""
    lines = [
        f"| {title} | tokens/s | " + " | ".join(f"of {name}" for name in against) + " |",
        "|---|---|" + "---|" * len(against),
    ]
    for name, mine in seconds.items():
        ratios = [
            "" if name == other else f"{ratio(seconds, name, other):.2f}" for other in against
        ]
        rate = tokens / statistics.median(mine)
        lines.append(f"| {name} | {rate:,.0f} | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """How many times faster than another way: the median over rounds."""
    rounds = zip(seconds[other], seconds[name], strict=True)
    return statistics.median(theirs / mine for theirs, mine in rounds)


def whole_way(
    title: str, encoder: SaeEncoder, chats: Sequence[Chat], peer: Any, rounds: int
) -> str:
    """The table of one kind of text."""
    rendered = encoder.render(chats)
    tokens = sum(len(r.ids) for r in rendered)
    batches = [batch.ids for batch in plain_batches(encoder, rendered)]

    def plain() -> Activations:
        with nothing_shared():
            return encoder.encode(chats)

    ways = [
        Way("bare forward", lambda: [encoder.model.residual(ids) for ids in batches]),
        Way("ours, plain", plain),
        Way("ours", lambda: encoder.encode(chats)),
        Way("one at a time", lambda: loop(encoder, chats)),
    ]
    mine = peaks_of(encoder.encode(chats))
    worst = [must_agree("ours, plain", mine, peaks_of(plain()), encoder.sae)]
    worst.append(must_agree("one at a time", mine, loop(encoder, chats), encoder.sae))
    if peer is not None:
        layer = encoder.model.layer
        cut = {"names_filter": [_hook(layer)], "stop_at_layer": layer}
        for name, how in [("sae-lens", dict[str, Any]()), ("sae-lens, cut", cut)]:
            way = partial(by_lens, peer, encoder, chats, **how)
            worst.append(must_agree(name, mine, way(), encoder.sae))
            ways.append(Way(name, way))
    seconds = timed(ways, rounds)
    against = [name for name in AGAINST if name in seconds]
    padded = sum(len(ids) * max(map(len, ids)) for ids in batches)
    run = sum(map(len, (ids for batch in batches for ids in batch)))
    return (
        table(
            f"{title}: {len(chats)} chats, {tokens / len(chats):.0f} tokens each",
            seconds,
            tokens,
            against,
        )
        + f"\n\nPadding is {1 - run / padded:.1%} of the bare forward's tokens; peaks differ by "
        f"at most {max(worst):.1e} of themselves between the ways.\n"
    )


def wide_sae(width: int, d_in: int, states: torch.Tensor, l0: float) -> Sae:
    """A JumpReLU dictionary of random directions, about `l0` of which fire on each of `states`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
    module = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=width, device="cpu"))
    draw = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(width, d_in, generator=draw), dim=1)
    with torch.no_grad():
        module.W_enc.copy_(directions.T)
        module.W_dec.copy_(directions)
        module.b_enc.zero_()
        module.b_dec.copy_(states.mean(0))
        pre = torch.addmm(module.b_enc, states - module.b_dec, module.W_enc)
        high = pre.quantile(1 - l0 / width, dim=0) if pre.numel() < 2**24 else None
        if high is None:
            rank = max(1, math.ceil(len(states) * l0 / width))
            high = torch.cat([part.topk(rank, 0).values[-1] for part in pre.split(4096, 1)])
        module.threshold.copy_(high.clamp(min=1e-3))
    return Sae(module, f"random-{width}", "float32")


def wide(encoder: SaeEncoder, chats: Sequence[Chat], width: int, rounds: int) -> str:
    """What reading a wide dictionary costs beyond the forward pass and the SAE's matrix product."""
    rendered = encoder.render(chats)
    tokens = sum(len(r.ids) for r in rendered)
    planned = plain_batches(encoder, rendered)
    batches = [batch.ids for batch in planned]
    content = [[torch.from_numpy(at) for at in batch.content] for batch in planned]

    def spoken(states: torch.Tensor, where: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([states[row, at] for row, at in enumerate(where)])

    with torch.inference_mode():  # of every length: the longest chats alone are no sample
        states = [
            spoken(encoder.model.residual(ids), where)
            for ids, where in zip(batches, content, strict=True)
        ]
    dictionary = wide_sae(width, encoder.sae.d_in, torch.cat(states), 32)
    other = SaeEncoder(encoder.model, dictionary, "wide")
    weights, bias = other.sae.module.W_enc, other.sae.module.b_enc
    step = encoding.BLOCK_VALUES // width

    def alone() -> None:
        with torch.inference_mode():
            for ids, where in zip(batches, content, strict=True):
                states = spoken(encoder.model.residual(ids), where)
                out = torch.empty(min(step, len(states)), width)
                for part in states.split(step):
                    torch.addmm(bias, part, weights, out=out[: len(part)])

    def plain() -> Activations:
        with nothing_shared():
            return other.encode(chats)

    alone()
    read = plain()
    l0 = read.n_tokens.sum() / sum(len(at) for some in content for at in some)
    seconds = timed([Way("forward and product", alone), Way("ours, plain", plain)], rounds)
    title = f"width {width:,}, {l0:.0f} active a token: {len(chats)} chats"
    return table(title, seconds, tokens, ["forward and product"]) + "\n"


def halved(encoder: SaeEncoder, half: SaeEncoder, chats: Sequence[Chat], rounds: int) -> str:
    """What a model held in bfloat16 wins, and how far its peaks are from those of float32."""
    tokens = sum(len(r.ids) for r in encoder.render(chats))
    ways = [Way(e.model.dtype, partial(e.encode, chats)) for e in (encoder, half)]
    exact, rough = (peaks_of(e.encode(chats)) for e in (encoder, half))
    both = exact.keys() & rough.keys()
    off = np.quantile([abs(exact[key] - rough[key]) / exact[key] for key in both], [0.5, 0.95])
    title = f"precision: {len(chats)} chats"
    return (
        table(title, timed(ways, rounds), tokens, [encoder.model.dtype])
        + f"\n\n{len(both) / len(exact.keys() | rough.keys()):.1%} of what fires in either fires "
        f"in both; peaks of {half.model.dtype} are off by {off[0]:.1%} (median), {off[1]:.1%} "
        f"(95 %).\n"
    )


@contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes that use all the time they get."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(SETTLED)
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()


def beside(encoder: SaeEncoder, chats: Sequence[Chat], n: int, rounds: int) -> str:
    """Tokens per second alone and beside `n` busy processes, and what that is of a fair share."""
    if people := [name for name in threads.BY_PEOPLE if os.environ.get(name)]:
        raise SystemExit(f"{', '.join(people)} says how many threads there are: leave it out.")
    tokens = sum(len(r.ids) for r in encoder.render(chats))

    def all_cores() -> None:
        with mock.patch.object(threads, "adapt", lambda: None):
            torch.set_num_threads(cores)
            encoder.encode(chats)

    def read() -> None:
        encoder.encode(chats)

    cores = len(os.sched_getaffinity(0))
    ways = [Way("threads for what is free", read), Way("a thread a core", all_cores)]
    read()
    time.sleep(SETTLED)
    alone = timed(ways, rounds)
    with busy(n):
        read()  # looks at what the others use
        loaded = timed(ways, rounds)
    lines = [
        f"| {len(chats)} short chats, {cores} cores | alone, tokens/s | beside {n} busy processes "
        "| of a fair share |",
        "|---|---|---|---|",
    ]
    fair = tokens / min(statistics.median(each) for each in alone.values()) / (n + 1)
    for way in ways:
        quiet, slow = (tokens / statistics.median(each[way.name]) for each in (alone, loaded))
        lines.append(f"| {way.name} | {quiet:,.0f} | {slow:,.0f} | {slow / fair:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Checks that all ways agree, times them in turn, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", type=int, default=192, help="short chats")
    parser.add_argument("--long", type=int, default=16, help="long chats")
    parser.add_argument("--rounds", type=int, default=3, help="of each way")
    parser.add_argument("--width", type=int, default=65_536, help="of the random dictionary; 0: no")
    parser.add_argument("--no-lens", action="store_true", help="leave TransformerLens out")
    parser.add_argument("--beside", type=int, help="busy processes; nothing else is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(Path(folder))
        steps = Steps(space)
        encoder = steps.encoder(MeasureSpec(dataset="none"), lambda *_: None)
        short = demo_chats(options.short, longest=40)
        if options.beside is not None:
            print(beside(encoder, short, options.beside, options.rounds))
            return
        peer = None
        if not options.no_lens:
            located = locate(MeasureSpec.model, space.models, lambda *_: None)
            peer = lens(located.folder)
        long = demo_chats(options.long, longest=0, words=180)
        print(whole_way("short", encoder, short, peer, options.rounds), flush=True)
        print(whole_way("long", encoder, long, peer, options.rounds), flush=True)
        if options.width:
            print(wide(encoder, short, options.width, options.rounds), flush=True)
        spec = MeasureSpec(dataset="none")
        how = spec.model, spec.layer, spec.sae, spec.max_tokens
        half = load_encoder(*how, PRECISIONS[1], space.models)
        print(halved(encoder, half, short, options.rounds))


if __name__ == "__main__":
    main()
