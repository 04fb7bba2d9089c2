"""Fuzz: what comes from outside, mutated from what is valid. Whoever reads it raises nothing but
the project's own errors, and no reply takes long."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from benchmarks.trials.damage import CONNECTIONS, ENDPOINTS, JOURNAL, TASKS
from benchmarks.trials.promises import Broken, Promise, Trial
from benchmarks.trials.world import in_a_child, kitchen, refusal
from fac.datasets import read_samples
from fac.endpoints import read_endpoints
from fac.errors import FacError
from fac.generator.batch_chat import ReplyJournal
from fac.generator.completions import NoCompletion, read_completion
from fac.generator.connection import read_connections
from fac.interpret.imported import read as read_explanations
from fac.prompts import drafts, explaining, relevance
from fac.prompts.profiles import PROFILES, later_parts
from fac.store.decisions import Decisions
from fac.store.runs import Runs

MILLISECONDS = 50.0
"""What reading 100 kB of a reply may take."""

SIZES = (100_000, 200_000, 400_000)  # of replies that are timed, in characters

GRAIN = (
    *("{", "}", "[", "]", '"', "'", ":", ",", "\\", "\n", "\r\n", "\t", " ", "\0", "\x1b[31m"),
    *('{"', '"}', "{}", "[]", "null", "true", "NaN", "Infinity", "-0", "1e999", "9" * 5000),
    *("\\u0000", "\\ud800", "\ud800", "\udfff", "\u202e", "\u200b", "\ufeff", "é", "🦉", "\x85"),
    *(
        "<think>",
        "</think>",
        "[THINK]",
        "<|channel|>final<|message|>",
        "assistantfinal",
        "<|im_end|>",
    ),
    *(
        "Here is my thought process:",
        "Here is my response:",
        "<<",
        ">>",
        "‹‹",
        "››",
        "=== data ends ===",
    ),
    *("data: ", "data: [DONE]\n\n", "event:", "\n\n", "<html>", "<script>", "```json\n", "```"),
    *(
        "I'm sorry, I can't help",
        "Description: ",
        "Text 1: ",
        "Answer:",
        "Question:",
        " . ",
        "www.",
    ),
    *('"level": "yes"', '"explanation": null', '"1": 1', "\u2028", "((((", "a.b.c.", "!" * 99),
)
"""What parsers look for, and what they hardly expect."""


def mutation(text: str, rng: random.Random, others: Sequence[str]) -> str:
    """A text after one to eight changes, some of which take parts of other valid ones."""
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((1, 2, 8, 40)))
        piece = text[at:to]
        change = rng.randrange(7)
        if change == 0:
            text = text[:at] + text[to:]
        elif change == 1:
            text = text[:at] + rng.choice(GRAIN) + text[at:]
        elif change == 2:
            text = text[:at] + rng.choice(GRAIN) + text[to:]
        elif change == 3:
            text = text[:at] + piece * rng.choice((2, 3, 50)) + text[to:]
        elif change == 4:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            text = text[:at] + other[begin : begin + rng.choice((5, 50, 500))] + text[to:]
        elif change == 5:
            text = text[: max(at, 1)]
        else:
            text = text[:at] + rng.choice(GRAIN[:14]) * rng.choice((2, 120, 3000)) + text[to:]
    return text


def byte_mutation(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The same of a file."""
    grain = [each.encode("utf-8", "surrogatepass") for each in GRAIN]
    grain += [b"\xff\xfe", b"\x80", b"\x00" * 8, b"\xff" * 4, (2**31 - 1).to_bytes(4, "little")]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 2, 8, 40)))
        change = rng.randrange(6)
        if change == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            changed[at:to] = rng.choice(grain)
        elif change == 2:
            changed[at:at] = rng.choice(grain)
        elif change == 3:
            changed[at:to] = changed[at:to] * rng.choice((2, 3, 50))
        elif change == 4:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            changed[at:to] = other[begin : begin + rng.choice((5, 50, 500))]
        else:
            del changed[max(at, 1) :]
    return bytes(changed)


# --- files ----------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Which tea is it?\nThe green one?"},
    {"role": "assistant", "content": "Sencha, 茶."},
]

ROWS: dict[str, list[dict[str, object]]] = {
    "messages": [{"messages": CHAT, "label": "a"}, {"messages": CHAT[1:], "label": None}],
    "text": [{"text": f"line {n}, “quoted”", "label": n % 2, "score": n / 3} for n in range(4)],
    "alpaca": [{"instruction": "Add.", "input": "1 2", "output": "3"}] * 2,
    "preference": [
        {"chosen": CHAT, "rejected": [*CHAT[:2], {"role": "assistant", "content": "No"}]}
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}
    ],
    "prompt": [{"prompt": "Hi", "completion": "Hello."}],
}


def _lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(rows: Sequence[Mapping[str, object]], delimiter: str) -> bytes:
    def cell(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(rows[0]), *(delimiter.join(map(cell, r.values())) for r in rows)]
    return "\r\n".join(lines).encode()


def _parquet(rows: Sequence[Mapping[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([*rows]), sink)
    return sink.getvalue().to_pybytes()


def _arrow(rows: Sequence[Mapping[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(pa.Table.from_pylist([*rows]), sink, compression="uncompressed")
    return sink.getvalue().to_pybytes()


FILES: dict[str, Callable[[Sequence[Mapping[str, object]]], bytes]] = {
    "jsonl": _lines,
    "json": lambda rows: json.dumps([*rows], indent=1).encode(),
    "csv": partial(_table, delimiter=","),
    "tsv": partial(_table, delimiter="\t"),
    "parquet": _parquet,
    "arrow": _arrow,
    "jsonl.gz": lambda rows: gzip.compress(_lines(rows), mtime=0),
}


@contextmanager
def datasets(folder: Path, suffix: str) -> Iterator[Trial]:
    """Files of samples of one format and all layouts."""
    seeds = [FILES[suffix](rows) for rows in ROWS.values()]
    path = folder / f"rows.{suffix}"
    for seed in seeds:
        path.write_bytes(seed)
        if not [*read_samples(path)]:
            raise Broken("a valid file has no samples")

    def read() -> str:
        try:
            reader = read_samples(path)
            return "read" if [*reader] or reader.digest(lambda *_: None) else "empty"
        except FacError as error:
            return refusal(error)

    def trial(rng: random.Random) -> str:
        path.write_bytes(byte_mutation(rng.choice(seeds), rng, seeds))
        return in_a_child(read) if suffix in ("parquet", "arrow") else read()

    yield trial


def _decisions(home: Path) -> bytes:
    store = Decisions(home / "first.sqlite")
    for number in range(3):
        about = f"relevance/measure-1/{number}/tea"
        store.add("Ada", "relevance", about, {"text": f"number {number}"}, "yes", note="so")
    store.withdraw(store.current()[0].uid, "Ada")
    return "\n".join(store.export()).encode()


@contextmanager
def other_files(folder: Path) -> Iterator[Trial]:
    """Every other file that people, servers or other machines write."""
    workspace = kitchen(folder / "kitchen")
    runs = Runs(workspace)
    facts = runs.list("measure")[0].facts
    manifest = runs.path(runs.list("sae")[0].run) / "manifest.json"
    explanations = _lines([{"index": str(n), "description": f"word {n}"} for n in range(3)])
    target = Decisions(folder / "second.sqlite")

    def load(path: Path) -> object:
        return target.load(path.read_text("utf-8", "replace").splitlines())

    def listed(path: Path) -> object:
        manifest.write_bytes(path.read_bytes())
        return Runs(workspace).manifest(manifest.parent.name)

    uses: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "endpoints.toml": (ENDPOINTS.encode(), read_endpoints),
        "tasks.toml": (
            TASKS.encode(),
            lambda path: relevance.read_tasks(path.read_text("utf-8", "replace")),
        ),
        "connections.json": (CONNECTIONS.encode(), read_connections),
        "journal.jsonl": (JOURNAL.encode(), lambda path: ReplyJournal(path).read()),
        "names.jsonl": (explanations, lambda path: read_explanations(str(path), facts)),
        "decisions.jsonl": (_decisions(folder), load),
        "manifest.json": (manifest.read_bytes(), listed),
    }
    seeds = [content for content, _ in uses.values()]

    def trial(rng: random.Random) -> str:
        name = rng.choice(sorted(uses))
        content, use = uses[name]
        (folder / name).write_bytes(byte_mutation(content, rng, seeds))
        try:
            use(folder / name)
            return "read"
        except FacError as error:
            return refusal(error)
        except Exception as error:
            raise Broken(f"{name}: {type(error).__name__}: {error}") from error

    yield trial


# --- replies --------------------------------------------------------------------------------------

THOUGHTS = "<think>\nIt says {now}, so the level is yes.\n</think>\n"

REPLIES = (
    '{"reason": "each names a drink", "explanation": "names of drinks"}',
    'Sure:\n```json\n{"reason": "no pattern", "explanation": null}\n```\n',
    THOUGHTS + '{"rationale": "it is about tea", "level": "probably"}',
    '{"rationale": "no", "level": "NO"}',
    '{"1": 1, "2": 0, "3": 1}',
    '<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{"1": 0}',
    "Here is a new message:\n\n“How do I brew green tea. It is bitter. Assistant: Use less heat.”",
    "I'm sorry, but I can't help with that request.",
    "Answer: Let it cool to 70 °C first. Then wait 2. minutes, see www. tea.test. Question: Why?",
    '- the <<kettle>> sings\n- the "pot" waits',
    "1. One. 2. Two! 3. Three? It ends here",
)

OPENING = drafts.Opening("A list of texts.\n\n- the kettle\n- the ", "the ")

Parser = Callable[[str], object]


def _draft(profile: str, reply: str) -> None:
    for options in ({}, {"finished": False}, {"starts": "The pot"}):
        try:
            drafts.read_draft(profile, reply, **options)
        except FacError as error:
            refusal(error)


def _answer(profile: str, reply: str) -> None:
    for number in range(len(later_parts(profile))):
        for finished in (True, False):
            try:
                drafts.read_answer(profile, reply, ["An answer."] * number, finished=finished)
            except FacError as error:
                refusal(error)


PARSERS: dict[str, Parser] = {
    "explanations": explaining.read_explanation,
    "answers": lambda reply: explaining.read_answers(reply, 3),
    "verdicts": relevance.read_judgement,
    **{f"samples of {name}": partial(_draft, name) for name in PROFILES},
    **{f"answers of {name}": partial(_answer, name) for name in PROFILES if later_parts(name)},
    "lines of a list": lambda reply: drafts.continuation(reply, OPENING),
}


def _attempt(parser: Parser, reply: str) -> str:
    try:
        parser(reply)
        return "read"
    except FacError as error:
        return refusal(error)


@contextmanager
def replies(folder: Path) -> Iterator[Trial]:
    """What models answer, read by every parser."""

    def trial(rng: random.Random) -> str:
        name = rng.choice(sorted(PARSERS))
        reply = mutation(rng.choice(REPLIES), rng, REPLIES)
        try:
            return _attempt(PARSERS[name], reply)
        except Broken as error:
            raise Broken(f"{name}: {error}") from error
        except Exception as error:
            raise Broken(f"{name}: {type(error).__name__}: {error}") from error

    yield trial


def _completion(text: str, **more: object) -> dict[str, object]:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    return {"id": "x", "model": "m", "choices": [choice], "usage": {"total_tokens": 3}, **more}


BODIES = (
    *(json.dumps(_completion(text)) for text in REPLIES[:3]),
    json.dumps(_completion("", error={"message": "too many", "code": "rate_limit_exceeded"})),
    json.dumps({"choices": [{"text": "plain", "finish_reason": "length"}]}),
    json.dumps(
        _completion("x") | {"choices": [{"message": {"content": [{"type": "text", "text": "p"}]}}]}
    ),
    "".join(
        f"data: {json.dumps({'choices': [{'delta': {'content': word}, 'finish_reason': end}]})}\n\n"
        for word, end in (("The ", None), ("pot", None), (".", "stop"))
    )
    + "data: [DONE]\n\n",
    "<!doctype html><html><style>b{}</style><body>502 <b>Bad Gateway</b></body></html>",
)


@contextmanager
def bodies(folder: Path) -> Iterator[Trial]:
    """What servers send for a reply."""
    seeds = [body.encode() for body in BODIES]

    def trial(rng: random.Random) -> str:
        try:
            read_completion(byte_mutation(rng.choice(seeds), rng, seeds))
            return "read"
        except NoCompletion as error:
            if not str(error):
                raise Broken("it is refused without a reason") from error
            return "refused"

    yield trial


def long_reply(rng: random.Random, size: int) -> str:
    """A long reply: a mutated one of which a part, or a sign that parsers look for, recurs."""
    text = mutation(rng.choice(REPLIES), rng, REPLIES)
    at = rng.randrange(len(text) + 1)
    part = rng.choice(
        (text[at : at + rng.choice((1, 3, 20, 200))], rng.choice(GRAIN), "x", " ", "x. ")
    )
    if rng.random() < 0.4:
        part += rng.choice(GRAIN)
    part = part or "{"
    return (text[:at] + part * (size // len(part)) + text[at:])[:size]


def _milliseconds(parser: Callable[[], object]) -> float:
    """Of the processor, so that other programs count little."""
    begun = time.process_time()
    parser()
    return (time.process_time() - begun) * 1e3


def slowness(parsers: Mapping[str, Parser], reply: str) -> tuple[float, str]:
    """Milliseconds per 100 kB of the slowest parser, of three attempts where one is too slow."""
    worst, slowest = 0.0, ""
    per_100_kb = 100_000 / max(len(reply.encode("utf-8", "surrogatepass")), 1)
    for name, parser in parsers.items():
        took = _milliseconds(partial(_attempt, parser, reply)) * per_100_kb
        if took > MILLISECONDS:
            again = (_milliseconds(partial(_attempt, parser, reply)) for _ in range(2))
            took = min(took, *(each * per_100_kb for each in again))
        worst, slowest = max((worst, slowest), (took, name))
    return worst, slowest


def _body(reply: str) -> None:
    """The reply in both envelopes, and as if it were one."""
    event = {"choices": [{"delta": {"content": reply}, "finish_reason": "stop"}]}
    for body in (json.dumps(_completion(reply)), f"data: {json.dumps(event)}\n\n", reply):
        try:
            read_completion(body.encode("utf-8", "replace"))
        except NoCompletion:
            continue


@contextmanager
def long_replies(folder: Path) -> Iterator[Trial]:
    """Replies of 100 to 400 kB, timed in every parser."""
    timed = {**PARSERS, "bodies": _body}
    for parser in timed.values():  # what is loaded or compiled at the first call
        _attempt(parser, REPLIES[0])

    def trial(rng: random.Random) -> str:
        reply = long_reply(rng, rng.choice(SIZES))
        worst, slowest = slowness(timed, reply)
        # Each of a profile's parsers reads the reply in several ways, and each way is one reading.
        readings = {"samples": 3, "answers of": 4, "bodies": 3}
        limit = MILLISECONDS * next((n for k, n in readings.items() if slowest.startswith(k)), 1)
        if worst > limit:
            start = repr(reply[:60])
            raise Broken(f"{slowest} took {worst:,.0f} ms per 100 kB of {start}...")
        return f"within {10 if worst <= limit / 5 else int(MILLISECONDS)} ms"

    yield trial


SHORT = "{what}, mutated from valid ones, are read or refused with the project's own errors alone."

PROMISES = (
    *(
        Promise(
            "fuzz",
            f"{suffix} files",
            SHORT.format(what=f"{suffix} files of samples"),
            partial(datasets, suffix=suffix),
            3_000,
        )
        for suffix in FILES
    ),
    Promise(
        "fuzz",
        "other files",
        SHORT.format(
            what="Lists of endpoints, task files, journals, manifests, decisions and explanations"
        ),
        other_files,
        10_000,
    ),
    Promise(
        "fuzz",
        "replies",
        SHORT.format(what="Replies of language models"),
        replies,
        100_000,
    ),
    Promise(
        "fuzz",
        "bodies of responses",
        SHORT.format(what="Bodies of a server's responses"),
        bodies,
        100_000,
    ),
    Promise(
        "fuzz",
        "long replies",
        f"No reply of 100 to 400 kB takes a parser more than {MILLISECONDS:.0f} ms of the "
        f"processor per 100 kB.",
        long_replies,
        500,
    ),
)
