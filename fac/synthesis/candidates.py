"""Candidates: what is asked of a writer for each gap, what it wrote, and what that fires.

The styles of asking are one small table, because that is what experiments change. Every text is on
disk before it counts, so a killed run writes nothing twice and loses nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from fac.config import WriteSpec, digest
from fac.coverage import is_active
from fac.encoder import Encoder
from fac.errors import BudgetReached, Cancelled, InputError, ServiceError, disk_room
from fac.generator.writer import Request, Steer, Writer, Written
from fac.prompts import Excerpt, drafts, openings
from fac.prompts.drafts import BadDraft
from fac.schema import CANDIDATES, HITS, REPLIES, ROLES, Activations, Chat
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts

Progress = Callable[..., None]
Row = dict[str, Any]
Direction = Callable[[int], np.ndarray]
"""Unit decoder direction of a feature, float `[d_model]`."""

_SENTENCE_END = re.compile(r"[.?!…][\"'”’)]*\s+|\n+")

# --- styles: the table that experiments change ----------------------------------------------------


class Style(NamedTuple):
    """One way to ask for a text."""

    name: str
    """Part of a candidate's name."""

    form: str
    """opening: a list of snippets that is continued; prompt: an instruction."""

    words: int = 0
    """Step 2: the text begins with at most so many words of the positive, up to its peak, and the
    positive itself is not shown, or a small model would copy the rest of it; 0: it is shown, and
    the text begins as it likes."""

    sentence: bool = False
    """The words begin where the sentence of the peak does, unless that is too long."""


LIST, ASK = Style("list", "opening"), Style("ask", "prompt")
SENTENCE, PHRASE = Style("sentence", "opening", 12, sentence=True), Style("phrase", "opening", 4)
CONTRAST = Style("contrast", "prompt")

STEP_1 = {"local": (LIST, ASK), "steered": (LIST, ASK), "openai": (ASK,)}
STEP_2 = {
    "local": (SENTENCE, PHRASE, SENTENCE, PHRASE, LIST, CONTRAST),
    "steered": (SENTENCE, PHRASE, SENTENCE, PHRASE, LIST, CONTRAST),
    "openai": (CONTRAST,),
}
"""The styles of a gap's candidates, in turns, by writer. Styles fail on different features; those
that begin with the positive's own words come first, since small models follow nothing else well."""

SHOWN = 4
"""Anchor spans (or positives and spans) that a request quotes; each candidate gets others."""

AROUND = 32
"""Tokens of a text that a request quotes, ending a little after its peak."""

KEEP_ABOVE = 4.0
"""A positive that fires more strongly has its phrase prescribed (method section 2.2)."""

STEERED_TOKENS, STEERED_DECAY = 0, 1.0
"""Steering acts on so many new tokens (0: on all), each time by this factor weaker."""

ROUNDS = 8
"""Texts a server is asked for before they count, in times of the questions on their way at once."""

ENCODED = 256
"""Texts measured between two reports of progress."""


# --- what is known of a gap -----------------------------------------------------------------------


class Known(NamedTuple):
    """A feature as a writer is told of it."""

    feature: int
    explanation: str | None
    spans: tuple[Excerpt, ...]
    """Of the anchor, one a sample, strongest first."""

    usual: float
    """Its mean peak over the anchor's samples and roles; 0 where it never fires."""


def known_features(
    runs: Runs, anchor: str, features: Sequence[int], explanations: Sequence[str]
) -> dict[int, Known]:
    """What the anchor's measure and the explanations say of features.

    Raises InputError for a feature the dictionary lacks.
    """
    n_features = runs.manifest(anchor)["facts"]["n_features"]
    wrong = [f for f in features if not 0 <= f < n_features]
    if wrong:
        raise InputError(
            f"There is no feature {wrong[0]}: this dictionary has 0 to {n_features - 1}."
        )
    texts: dict[int, str] = {}
    for run in reversed(explanations):
        table = runs.table(run, "explanations", ["feature", "text"])
        texts |= {row["feature"]: row["text"] for row in table.to_pylist() if row["text"]}
    spans: dict[int, dict[int, Row]] = {f: {} for f in features}
    for row in runs.rows(anchor, "spans", features).to_pylist():
        best = spans[row["feature"]].setdefault(row["sample"], row)
        if row["peak"] > best["peak"]:
            spans[row["feature"]][row["sample"]] = row
    peaks = runs.rows(anchor, "activations", features, ["feature", "peak"])
    which, peak = peaks["feature"].to_numpy(), peaks["peak"].to_numpy().astype(float)
    found = {}
    for f in features:
        own = sorted(spans[f].values(), key=lambda s: (-s["peak"], s["sample"]))
        shown = tuple(excerpt(s["tokens"], s["activations"]) for s in own)
        usual = peak[which == f]
        mean = float(usual.mean()) if len(usual) else 0.0
        found[f] = Known(f, texts.get(f), shown, mean)
    return found


def excerpt(tokens: Sequence[str], activations: Sequence[float]) -> Excerpt:
    """At most AROUND tokens about the peak, the firing ones marked."""
    values = np.asarray(activations, float)
    peak = int(values.argmax()) if len(values) else 0
    beyond = min(len(tokens), max(peak + 9, AROUND))
    window = slice(max(0, beyond - AROUND), beyond)
    return Excerpt(tuple(tokens[window]), tuple((values[window] > 0).tolist()))


# --- what is asked --------------------------------------------------------------------------------


class Ask(NamedTuple):
    """One candidate that is to be written."""

    request: Request
    """Its key is the candidate's name."""

    feature: int
    """The gap it is for."""

    pair: str
    """The approved pair it is written from; "" without one."""

    style: str
    shown: tuple[str, ...]
    """The texts that its prompt quotes."""

    @property
    def prompt_hash(self) -> str:
        """Names exactly what is asked."""
        prompt, opening = self.request.prompt, self.request.opening
        return prompt.key if prompt else digest(opening)

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the writer is given; the role `opening` marks a text that it goes on with."""
        prompt, opening = self.request.prompt, self.request.opening
        begun = [{"role": "opening", "content": opening.text}] if opening else []
        return [dict(message) for message in prompt.messages] if prompt else begun


class Pair(NamedTuple):
    """An approved pair as a writer is told of it."""

    pair: str
    feature: int
    positive: Excerpt
    positive_peak: float
    phrase: tuple[str, ...]
    """Words of the positive up to and including the one of its peak."""

    sentence: int
    """How many of them, at the end, belong to the sentence of the peak."""

    firing: str
    """The words about the peak on which it fires."""

    negative: Excerpt
    negative_peak: float


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a row of schema.PAIRS."""
    tokens, values = row["positive_tokens"], np.asarray(row["positive_activations"], float)
    peak = int(values.argmax())
    first = last = peak
    while first > 0 and values[first - 1] > 0:
        first -= 1
    while last + 1 < len(tokens) and values[last + 1] > 0:
        last += 1
    before, firing = "".join(tokens[:first]), "".join(tokens[first : last + 1])
    if before and not before[-1].isspace() and not firing[:1].isspace():  # begins inside a word
        firing = before.split()[-1] + firing
    ends = [end.end() for end in _SENTENCE_END.finditer("".join(tokens[:peak]))]
    sentence = "".join(tokens[: peak + 1])[max(ends, default=0) :].split()
    negative = row["negative_tokens"]
    beyond = min(len(negative), max(peak + 9, AROUND))
    shown = negative[max(0, beyond - AROUND) : beyond]
    return Pair(
        pair=row["pair"],
        feature=row["feature"],
        positive=excerpt(tokens, values.tolist()),
        positive_peak=row["positive_peak"],
        phrase=tuple("".join(tokens[: peak + 1]).split()),
        sentence=len(sentence),
        firing=" ".join(firing.split()),
        negative=Excerpt(tuple(shown), (False,) * len(shown)),
        negative_peak=row["negative_peak"],
    )


def plan_step_1(
    spec: WriteSpec, known: Iterable[Known], method: str, steering: Steering
) -> list[Ask]:
    """`spec.candidates` requests for every feature that the anchor shows, from its explanation and
    its anchor spans."""
    found = []
    for feature in known:
        for number, style in _styles(STEP_1, spec) if feature.spans else ():
            spans = _turned(feature.spans, number)
            asked: Row = {}
            if style.form == "prompt":
                asked["prompt"] = drafts.candidate_prompt(spec.profile, feature.explanation, spans)
            else:
                asked["opening"] = openings.candidate_opening(
                    spec.profile, feature.explanation, spans
                )
            request = _request(method, feature.feature, number, style, asked, steering(feature))
            found.append(Ask(request, feature.feature, "", style.name, _plain(spans)))
    return found


def plan_step_2(
    spec: WriteSpec, pairs: Iterable[Pair], known: Mapping[int, Known], steering: Steering
) -> list[Ask]:
    """`spec.candidates` requests for every approved pair."""
    found = []
    for pair in pairs:
        feature = known[pair.feature]
        explanation = feature.explanation
        for number, style in _styles(STEP_2, spec):
            asked: Row = {}
            if style.form == "prompt":
                asked["prompt"] = drafts.contrast_prompt(
                    spec.profile,
                    explanation,
                    pair.positive,
                    pair.negative,
                    pair.positive_peak,
                    pair.negative_peak,
                    pair.firing if pair.positive_peak > KEEP_ABOVE else None,
                )
                shown: tuple[Excerpt, ...] = (pair.positive, pair.negative)
            else:
                spans = _turned(feature.spans, number)
                starts = _beginning(pair, style)
                shown = (*spans[: SHOWN - 1], pair.positive)
                if starts:
                    # A span that goes on from the same words would only be copied.
                    shown = _without(starts, feature.spans, number)
                asked["opening"] = openings.contrast_opening(
                    spec.profile, explanation, shown, starts
                )
            request = _request("two-step", pair.feature, number, style, asked, steering(feature))
            found.append(Ask(request, pair.feature, pair.pair, style.name, _plain(shown)))
    return found


def plan_unguided(spec: WriteSpec, features: Iterable[int]) -> list[Ask]:
    """As many requests as the other methods make, none of which says anything of the feature."""
    found = []
    for feature in features:
        for number, style in _styles(STEP_1, spec):
            asked: Row = {}
            if style.form == "prompt":
                asked["prompt"] = drafts.unguided_prompt(spec.profile)
            else:
                asked["opening"] = openings.unguided_opening(spec.profile)
            request = _request("unguided", feature, number, style, asked, None)
            found.append(Ask(request, feature, "", style.name, ()))
    return found


class Steering(NamedTuple):
    """How a writer is steered; a spec that does not ask for it steers nothing."""

    direction: Direction
    strength: float
    layer: int

    def __call__(self, feature: Known) -> Steer | None:
        if not self.strength:
            return None
        push = np.asarray(self.direction(feature.feature), np.float32)
        scaled = push * np.float32(self.strength * feature.usual)
        return Steer(scaled, self.layer, STEERED_TOKENS, STEERED_DECAY)


def steering(spec: WriteSpec, runs: Runs, anchor: str, direction: Direction | None) -> Steering:
    """What the spec asks for. Raises InputError where no decoder directions are at hand for it."""
    if spec.writer != "steered":
        return Steering(lambda feature: np.zeros(0), 0.0, 0)
    if direction is None:
        raise InputError("A steered writer needs the SAE's decoder directions; load its SAE.")
    return Steering(direction, spec.strength, runs.manifest(anchor)["facts"]["layer"])


def _styles(table: Mapping[str, tuple[Style, ...]], spec: WriteSpec) -> Iterator[tuple[int, Style]]:
    styles = table[spec.writer]
    for number in range(spec.candidates):
        yield number, styles[number % len(styles)]


def _turned(spans: Sequence[Excerpt], number: int) -> tuple[Excerpt, ...]:
    """SHOWN of the spans; another number begins elsewhere among them."""
    start = number % len(spans) if spans else 0
    return (*spans[start:], *spans[:start])[:SHOWN]


def _beginning(pair: Pair, style: Style) -> str:
    """The words of the positive with which a text of the style begins; "" where it may choose."""
    words = style.words
    if style.sentence:
        words = pair.sentence if 0 < pair.sentence <= words else 2 * words // 3
    return " ".join(pair.phrase[-words:]) if words else ""


def _without(starts: str, spans: Sequence[Excerpt], number: int) -> tuple[Excerpt, ...]:
    """SHOWN of the spans that do not hold those words; all of them where none is left."""
    held = [span for span in spans if starts not in " ".join("".join(span.tokens).split())]
    return _turned(held or spans, number)


def _plain(excerpts: Iterable[Excerpt]) -> tuple[str, ...]:
    return tuple("".join(one.tokens) for one in excerpts)


def _request(
    method: str, feature: int, number: int, style: Style, asked: Row, steer: Steer | None
) -> Request:
    key = f"{method}/{feature:06d}/{number:02d}/{style.name}"
    return Request(key, asked.get("prompt"), asked.get("opening"), steer)


# --- writing --------------------------------------------------------------------------------------


class Texts(NamedTuple):
    """What a writer wrote, as far as it got."""

    written: dict[str, Written]
    """By candidate."""

    seconds: float
    """Spent writing, sessions that were killed included."""

    stopped: BudgetReached | Cancelled | ServiceError | None
    """Why some are missing."""


class Journal:
    """Texts as they came, one JSON object a line; every line is on disk when `append` returns."""

    def __init__(self, path: Path):
        self._path = path
        self.seconds = 0.0
        """Spent on all that is recorded."""
        self._begun = time.monotonic()

    def read(self) -> dict[str, Written]:
        """Every recorded text by its key. What a killed process left after the last line break is
        dropped. Raises InputError for a line that is none."""
        found: dict[str, Written] = {}
        if self._path.exists():
            data = self._path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self._path, whole)
            for number, line in enumerate(data[:whole].splitlines(), start=1):
                try:
                    row = json.loads(line)
                    self.seconds = float(row.pop("seconds"))
                    found.setdefault(row["key"], Written(**row))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise InputError(
                        f"Line {number} of {self._path} is damaged: delete that line, so that its "
                        f"text is written again, and start again."
                    ) from error
        self._begun = time.monotonic() - self.seconds
        return found

    def append(self, written: Written) -> None:
        """Raises InputError when the disk is full; the journal then is as it was before."""
        self.seconds = time.monotonic() - self._begun
        row = written._asdict() | {"seconds": round(self.seconds, 3)}
        line = json.dumps(row).encode() + b"\n"
        with disk_room("the journal of texts"), self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                taken = file.write(line)
                if taken < len(line):  # a disk that fills up takes what it can
                    file.write(line[taken:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


def write(
    asks: Sequence[Ask],
    spec: WriteSpec,
    *,
    runs: Runs,
    run_id: str,
    writer: Writer,
    progress: Progress,
) -> Texts:
    """Writes what neither the run's journal nor an earlier run of the step has."""
    journal = Journal(runs.scratch(run_id) / "_texts.jsonl")
    wanted = {ask.request.key: reply_key(ask, spec, writer.identity) for ask in asks}
    found = {key: text for key, text in journal.read().items() if key in wanted}
    earlier, before = _earlier(runs, spec, wanted.keys() - found.keys(), wanted)
    found |= earlier

    def record(text: Written) -> None:
        journal.append(text)
        found[text.key] = text

    stopped: BudgetReached | Cancelled | ServiceError | None = None
    requests = [ask.request for ask in asks]
    # A server's texts are recorded when a call ends; a local writer cuts its batches from all.
    size = ROUNDS * spec.concurrency if spec.writer == "openai" else max(1, len(requests))
    failed: dict[str, Written] = {}
    try:
        progress(len(found), len(requests), "writing")
        for start in range(0, len(requests), size):

            def told(done: int, of: int, note: str = "", *, before: int = start) -> None:
                progress(before + done, len(requests), f"writing, {note}" if note else "writing")

            texts = writer.write(
                requests[start : start + size],
                seed=seed_of(spec),
                max_new_tokens=spec.max_new_tokens,
                temperature=spec.temperature,
                done=dict(found),
                record=record,
                progress=told,
            )
            failed |= {key: text for key, text in texts.items() if text.failure}
    except (BudgetReached, Cancelled, ServiceError) as error:
        stopped = error
    return Texts(failed | found, before + journal.seconds, stopped)


def seed_of(spec: WriteSpec) -> int:
    """The writer's seed; another attempt has another one."""
    return spec.seed if not spec.attempt else int(digest(spec.seed, spec.attempt), 16) % 2**31


def reply_key(ask: Ask, spec: WriteSpec, identity: str) -> str:
    """Names a text by everything it depends on, whatever run asks for it."""
    steer = ask.request.steer
    pushed = digest(steer.direction.tobytes().hex(), *steer[1:]) if steer else ""
    how = (seed_of(spec), spec.temperature, spec.max_new_tokens)
    return digest(ask.request.key, ask.prompt_hash, pushed, identity, *how)


def _earlier(
    runs: Runs, spec: WriteSpec, lacking: Collection[str], names: Mapping[str, str]
) -> tuple[dict[str, Written], float]:
    """Texts that finished runs of the step have, by candidate, and the seconds they took, each its
    share of its run's. `names` holds the reply keys of the candidates."""
    wanted = {names[candidate]: candidate for candidate in lacking}
    found: dict[str, Written] = {}
    seconds = 0.0
    for manifest in runs.list(spec.step):
        if not (replies := manifest["files"].get("replies.parquet")):
            continue
        for row in runs.table(manifest["run"], "replies").to_pylist():
            candidate = wanted.get(row["key"])
            if candidate is None or candidate in found or row["failure"]:
                continue
            seconds += manifest["seconds"] / replies["rows"]
            found[candidate] = Written(
                key=candidate,
                text=row["reply"],
                finished=row["finish"] == "stop",
                tokens=row["completion_tokens"],
                failure="",
                prompt_tokens=row["prompt_tokens"],
                cost=row["cost"],
            )
    return found, seconds


# --- reading what was written ---------------------------------------------------------------------


class Candidate(NamedTuple):
    """A text before any verdict."""

    ask: Ask
    messages: Chat
    """Empty where there is no text."""

    extra: Row
    problem: str
    """One of `fac.synthesis.filter.PROBLEMS`, or "" ."""

    written: Written

    @property
    def name(self) -> str:
        return self.ask.request.key

    @property
    def text(self) -> str:
        """Everything it says, for comparing."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def prescribed(self) -> int:
        """Words at its beginning that its prompt made it begin with."""
        opening = self.ask.request.opening
        return len(verdicts.words(opening.starts)) if opening else 0


def read(ask: Ask, spec: WriteSpec, written: Written) -> Candidate:
    """What was written, in the form of the profile; or why there is none."""
    opening = ask.request.opening
    starts = opening.starts if opening else ""
    if written.failure:
        return Candidate(ask, [], {}, verdicts.FAILED, written)
    try:
        draft = drafts.read_draft(spec.profile, written.text, starts, finished=written.finished)
    except BadDraft as error:
        return Candidate(ask, [], {}, error.problem, written)
    return Candidate(ask, [*draft.messages], draft.extra, "", written)


# --- what it fires --------------------------------------------------------------------------------


class Hit(NamedTuple):
    """A text fires a gap."""

    peak: float
    role: int
    """Index into ROLES of the strongest turn."""

    position: int


class Scores(NamedTuple):
    """What texts fire."""

    hits: list[dict[int, Hit]]
    """One dict a text: its gaps that fire at all."""

    features: np.ndarray
    """bool `[n_features]`: active above the threshold in at least one text."""


@runtime_checkable
class EncodesEach(Protocol):
    """An Encoder that can work on several lists of chats at once."""

    def encode_each(self, parts: Iterable[Sequence[Chat]]) -> Iterator[Activations]:
        """`Encoder.encode` of each, in their order."""
        ...


def score(
    encoder: Encoder,
    chats: Sequence[Chat],
    gaps: Iterable[int],
    *,
    threshold: float,
    progress: Progress,
) -> Scores:
    """Every text against every gap; a text without messages fires nothing."""
    wanted = np.zeros(encoder.n_features, bool)
    wanted[[*gaps]] = True
    features = np.zeros(encoder.n_features, bool)
    hits: list[dict[int, Hit]] = [{} for _ in chats]
    spoken = [i for i, chat in enumerate(chats) if chat]
    parts = [spoken[start : start + ENCODED] for start in range(0, len(spoken), ENCODED)]
    told = ([chats[i] for i in part] for part in parts)
    if isinstance(encoder, EncodesEach):
        each = encoder.encode_each(told)
    else:
        each = map(encoder.encode, told)
    for start, part in zip(range(0, len(spoken), ENCODED), parts, strict=True):
        progress(start, len(spoken), "measuring the texts")
        found = next(each)
        features[found.feature[is_active(found.peak, threshold)]] = True
        rows = np.flatnonzero(wanted[found.feature])
        for sample, role, feature, peak, position in zip(
            *(found[i][rows].tolist() for i in range(5)), strict=True
        ):
            own = hits[part[sample]]
            if feature not in own or peak > own[feature].peak:
                own[feature] = Hit(peak, role, position)
    return Scores(hits, features)


# --- tables ---------------------------------------------------------------------------------------


def candidate_table(candidates: Sequence[Candidate], spec: WriteSpec) -> pa.Table:
    """schema.CANDIDATES, in the order of their names."""
    rows = [
        {
            "candidate": one.name,
            "feature": one.ask.feature,
            "pair": one.ask.pair,
            "style": one.ask.style,
            "messages": one.messages,
            "extra": json.dumps(one.extra, ensure_ascii=False, sort_keys=True),
            "problem": one.problem,
            "tokens": one.written.tokens,
            "finished": one.written.finished,
            "prompt_hash": one.ask.prompt_hash,
            "seed": seed_of(spec),
        }
        for one in sorted(candidates, key=lambda one: one.name)
    ]
    return pa.Table.from_pylist(rows, CANDIDATES)


def hit_table(candidates: Sequence[Candidate], hits: Sequence[Mapping[int, Hit]]) -> pa.Table:
    """schema.HITS, in the order of candidate and feature."""
    rows = [
        {
            "candidate": one.name,
            "feature": feature,
            "peak": hit.peak,
            "role": ROLES[hit.role],
            "position": hit.position,
        }
        for one, own in zip(candidates, hits, strict=True)
        for feature, hit in own.items()
    ]
    rows.sort(key=lambda row: (row["candidate"], row["feature"]))
    return pa.Table.from_pylist(rows, HITS)


def reply_table(candidates: Sequence[Candidate], spec: WriteSpec, identity: str) -> pa.Table:
    """schema.REPLIES: the exact prompts and texts, which a server would not give twice."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = []
    for one in sorted(candidates, key=lambda one: one.name):
        text = one.written
        rows.append(
            {
                "key": reply_key(one.ask, spec, identity),
                "about": one.name,
                "prompt": json.dumps(one.ask.messages, ensure_ascii=False),
                "reply": None if text.failure else text.text,
                "finish": "" if text.failure else "stop" if text.finished else "length",
                "failure": text.failure,
                "model": identity,
                "prompt_tokens": text.prompt_tokens,
                "completion_tokens": text.tokens,
                "estimated": False,
                "cost": text.cost,
                "at": now,
            }
        )
    return pa.Table.from_pylist(rows, REPLIES)


# --- the ledger -----------------------------------------------------------------------------------


def spent(candidates: Sequence[Candidate], seconds: float, identity: str) -> Row:
    """What the texts took, for a run's facts; `cost` is None where no price is known."""
    costs = [one.written.cost for one in candidates]
    known = [cost for cost in costs if cost is not None]
    return {
        "writer": identity,
        "n_candidates": len(candidates),
        "tokens": sum(one.written.tokens for one in candidates),
        "prompt_tokens": sum(one.written.prompt_tokens for one in candidates),
        "seconds": round(seconds, 3),
        "cost": float(sum(known)) if len(known) == len(costs) and costs else None,
    }


def stopped_after(
    stopped: BudgetReached | Cancelled | ServiceError, what: str, run_id: str
) -> BudgetReached | Cancelled | ServiceError:
    """The same reason, saying what is finished."""
    return type(stopped)(
        f"{str(stopped).rstrip('.')}. {what} are complete and kept ({run_id}); started again, "
        f"nothing is written twice."
    )


def stopped_whole(
    stopped: BudgetReached | Cancelled | ServiceError, complete: int, gaps: int
) -> BudgetReached | Cancelled | ServiceError:
    """The same reason, saying why nothing is finished yet."""
    return type(stopped)(
        f"{str(stopped).rstrip('.')}. A baseline that names no pairs is finished with all its gaps "
        f"or not at all, and {complete:,} of {gaps:,} are complete; started again, nothing is "
        f"written twice."
    )


def quiet(done: int, total: int, note: str = "") -> None:
    """Nobody is asked whether to go on: the rest is quick."""
