"""Tries what FAC Explorer promises to survive.

    python -m benchmarks.trials [KIND ...] [--times N] [--out FILE]

carries out the trials of these kinds (kills, bits, damage, clocks, disk, fuzz, load; all of them
where none is named), says of each promise how many were kept, with the command that repeats each
failure, and adds the counts to FILE. `--only NAME` takes one promise of a kind, `--share 0.01` a
hundredth of the trials of the long form. Of load, a crowd of `--sessions` for `--minutes` is one
run, and its trials are the runs of pages that come to pass. `--page` writes docs/reliability.md
from benchmarks/trials.json and nothing else; `licences` lists what the program rests on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.trials.promises import (
    FIGURES,
    PAGE,
    CannotTry,
    Outcome,
    Promise,
    carry_out,
    in_words,
    merge,
    page,
    read,
)

KINDS = ("kills", "bits", "damage", "clocks", "disk", "fuzz", "load")
LICENCES = "licences"


def promises(kinds: Sequence[str] = KINDS, only: str = "") -> list[Promise]:
    """Those of these kinds, or the one of that name."""
    every = [
        promise
        for kind in kinds
        for promise in import_module(f"benchmarks.trials.{kind}").PROMISES
        if only in ("", promise.name)
    ]
    if not every:
        sys.exit(f"there is no promise {only!r} among {', '.join(kinds)}")
    return every


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join((*KINDS, LICENCES)))
    parser.add_argument("--times", type=int, help="Trials of each promise")
    parser.add_argument("--share", type=float, default=1.0, help="Of the trials of the long form")
    parser.add_argument("--first", type=int, default=0, help="Number of the first trial")
    parser.add_argument("--only", default="", help="One promise, by its name")
    parser.add_argument("--sessions", type=int, help="How many look at once, of load")
    parser.add_argument("--minutes", type=float, help="How long they look, of load")
    parser.add_argument("--out", type=Path, help="File to add the counts to")
    parser.add_argument("--page", action="store_true", help="Write docs/reliability.md")
    options = parser.parse_args(arguments)
    for kind in options.kinds:
        if kind not in (*KINDS, LICENCES):
            parser.error(f"{kind!r} is none of {', '.join((*KINDS, LICENCES))}")
    if options.page or LICENCES in options.kinds:
        from benchmarks.trials.licences import lines

        if options.page:
            PAGE.write_text(page(PAGE.read_text("utf-8"), read(FIGURES), lines()), "utf-8")
        else:
            print("\n".join(lines()))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.sessions or options.minutes:
        from benchmarks.trials import load

        wanted = {"sessions": options.sessions, "minutes": options.minutes}
        load.CROWD = load.CROWD._replace(**{name: n for name, n in wanted.items() if n})
    outcomes = list[Outcome]()
    for promise in promises(options.kinds or KINDS, options.only):
        times = options.times or max(1, round(promise.times * options.share))
        try:
            outcomes.append(carry_out(promise, times, options.first))
        except CannotTry as error:
            print(f"{promise.title} cannot be tried: {error}.", flush=True)
            continue
        print(in_words(outcomes[-1]), flush=True)
        if options.out:
            counts = json.dumps(merge(read(options.out), outcomes), indent=1, ensure_ascii=False)
            options.out.write_text(counts + "\n", "utf-8")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
