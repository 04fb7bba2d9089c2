"""How the cost of extraction grows with the number of chats, their length and the dictionary.

    python -m benchmarks.scaling

encodes the demo's own texts while one of the three grows and the others stay, and prints the time
of each step with the slope between them on a double logarithmic scale: 1 is proportional, below 1
is cheaper than that. The bare forward pass, on the same batches, grows beside it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.extract import Way, demo_chats, plain_batches, timed, wide_sae
from fac.config import MeasureSpec, Workspace
from fac.encoder import SaeEncoder
from fac.jobs.steps import Steps
from fac.models import Chat


class Step(NamedTuple):
    """One size."""

    size: int
    tokens: int
    seconds: float
    """Of extraction, the median round."""

    forward: float
    """Of the bare truncated forward pass over the same batches."""


def step(encoder: SaeEncoder, chats: Sequence[Chat], size: int, rounds: int) -> Step:
    """Times one size."""
    rendered = encoder.render(chats)
    batches = [batch.ids for batch in plain_batches(encoder, rendered)]
    ways = [
        Way("ours", lambda: encoder.encode(chats)),
        Way("forward", lambda: [encoder.model.residual(ids) for ids in batches]),
    ]
    for way in ways:
        way.run()
    seconds = timed(ways, rounds)
    ours, forward = (statistics.median(seconds[way.name]) for way in ways)
    return Step(size, sum(len(r.ids) for r in rendered), ours, forward)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line through log y against log x."""
    fit = statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y])
    return fit.slope


def table(title: str, steps: Sequence[Step]) -> str:
    """Seconds by size, and how steeply they rise."""
    lines = [
        f"| {title} | tokens | extraction | per token | bare forward |",
        "|---|---|---|---|---|",
    ]
    for each in steps:
        lines.append(
            f"| {each.size:,} | {each.tokens:,} | {each.seconds:.2f} s "
            f"| {1e6 * each.seconds / each.tokens:,.0f} µs | {each.forward:.2f} s |"
        )
    sizes = [float(each.size) for each in steps]
    rises = (
        slope(sizes, [getattr(each, name) for each in steps]) for name in ("seconds", "forward")
    )
    lines.append("| slope | | {:.2f} | | {:.2f} |".format(*rises))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures all three and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chats", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--words", type=int, nargs="+", default=[25, 50, 100, 200, 400])
    parser.add_argument("--widths", type=int, nargs="+", default=[8192, 16384, 32768, 65536])
    parser.add_argument("--at-length", type=int, default=24, help="chats of each length and width")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Workspace(Path(folder)))
        encoder = steps.encoder(MeasureSpec(dataset="none"), lambda *_: None)
        short = demo_chats(max(options.chats), longest=40)
        grown = [step(encoder, short[:n], n, options.rounds) for n in options.chats]
        print(table("chats", grown))
        grown = [
            step(encoder, demo_chats(options.at_length, longest=0, words=n), n, options.rounds)
            for n in options.words
        ]
        print(table("words a chat", grown))
        chats = demo_chats(options.at_length, longest=0, words=50)
        with torch.inference_mode():
            rendered = encoder.render(chats)
            states = encoder.model.residual([r.ids for r in rendered])
            spoken = torch.cat(
                [
                    states[i, torch.from_numpy((r.role >= 0).nonzero()[0])]
                    for i, r in enumerate(rendered)
                ]
            )
        grown = []
        for width in options.widths:
            sae = wide_sae(width, encoder.sae.d_in, spoken, 32)
            wide = SaeEncoder(encoder.model, sae, "wide")
            grown.append(step(wide, chats, width, options.rounds))
        print(table("width", grown))


if __name__ == "__main__":
    main()
