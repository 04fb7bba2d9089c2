"""What is asked of a writer for each gap: what it is told of the feature, in which style.

The styles are small tables, here and beside the method that has its own, because they are what
experiments change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from fac import coverage
from fac.config import WRITERS, SynthesizeSpec, WriteSpec, digest
from fac.encoder import Encoder
from fac.errors import InputError
from fac.generator.edges import Edges
from fac.generator.writer import Bias, Request, Steer
from fac.manifest import PairsFacts
from fac.prompts import Excerpt, Prompt, drafts
from fac.prompts import lists as lists_of
from fac.prompts.drafts import Opening
from fac.prompts.lists import ASSISTANT
from fac.prompts.profiles import later_parts
from fac.schema import EVERY_ROLE, Chat
from fac.store.runs import Runs
from fac.synthesis import gates
from fac.synthesis.uses import Use, uses_of

Row = dict[str, Any]
Direction = Callable[[int], np.ndarray]  # unit decoder direction of a feature, float `[d_model]`


class Style(NamedTuple):
    """One way to ask for a text."""

    name: str  # part of a candidate's name
    form: str  # opening: a list of snippets that is continued; prompt: an instruction
    context: bool = False
    """Step 2: whether the words that a text is to use stand with those before them, in the list of
    words and the texts that use them."""


LIST, ASK = Style("list", "opening"), Style("ask", "prompt")


class Styles(NamedTuple):
    """The styles of a gap's candidates, in turns, by where the writer is."""

    here: tuple[Style, ...]
    server: tuple[Style, ...]


STEP_1 = Styles(here=(LIST, ASK, LIST, LIST), server=(ASK,))

QUOTED = 4
"""Anchor spans (or positives and spans) that a request quotes."""

TURNS = 4
"""Ways to quote of a gap's examples, beginning elsewhere among them, in turns: a local writer reads
equal requests once, however many texts it writes from them."""

AROUND = 32  # tokens of a text that a request quotes, ending a little after its peak


class FeatureBrief(NamedTuple):
    """A feature as a writer is told of it."""

    feature: int
    explanation: str | None
    spans: tuple[Excerpt, ...]  # of the anchor, one a sample, strongest first
    usual_peak: float  # its mean peak over the anchor's samples and roles; 0 where it never fires
    uses: tuple[Use, ...] = ()  # its spans as whole sentences, as far as these can be shown
    in_answers: bool = False  # whether it is sought in answers, and these may be written first


def feature_briefs(
    runs: Runs,
    anchor: str,
    features: Sequence[int],
    explanations: Sequence[str],
    *,
    threshold: float = 0.0,
    role: str = EVERY_ROLE,
    answers_first: bool = True,
) -> dict[int, FeatureBrief]:
    """What the anchor's measure and the explanations say of features; threshold and role are those
    by which a feature is sought in messages or in answers, if these may come first. Raises
    InputError for a feature the dictionary lacks."""
    n_features = runs.manifest(anchor).facts.n_features
    if wrong := [f for f in features if not 0 <= f < n_features]:
        raise InputError(
            f"There is no feature {wrong[0]}: this dictionary has 0 to {n_features - 1}."
        )
    texts: dict[int, str] = {}
    for run in reversed(explanations):
        table = runs.table(run, "explanations", ["feature", "text"])
        texts |= {row["feature"]: row["text"] for row in table.to_pylist() if row["text"]}
    strongest: dict[int, dict[int, Row]] = {f: {} for f in features}
    rows = runs.rows(anchor, "spans", features).to_pylist()
    for row in sorted(rows, key=lambda row: (-row["peak"], row["sample"])):
        strongest[row["feature"]].setdefault(row["sample"], row)
    table = runs.rows(anchor, "activations", features, ["feature", "peak"])
    feature, peak = table["feature"].to_numpy(), table["peak"].to_numpy().astype(float)
    dataset = runs.manifest(anchor).facts.dataset
    uses = uses_of(runs, dataset, {f: [*rows.values()] for f, rows in strongest.items()})
    in_answers = fired_in_answers(runs, anchor, features, threshold, role)
    briefs = {}
    for f in features:
        spans = strongest[f].values()
        peaks = peak[feature == f]
        briefs[f] = FeatureBrief(
            feature=f,
            explanation=texts.get(f),
            spans=tuple(excerpt(s["tokens"], s["activations"]) for s in spans),
            usual_peak=float(peaks.mean()) if len(peaks) else 0.0,
            uses=uses[f],
            in_answers=answers_first and f in in_answers,
        )
    return briefs


def fired_in_answers(
    runs: Runs, anchor: str, gaps: Sequence[int], threshold: float, role: str = EVERY_ROLE
) -> set[int]:
    """The gaps that most samples of the anchor fire above the threshold in the assistant's turns,
    not in others; of one role that counts alone all or none."""
    if role != EVERY_ROLE:
        return {*gaps} if role == ASSISTANT else set()
    table = runs.rows(anchor, "activations", gaps, ["feature", "role", "peak"])
    active = table.filter(coverage.is_active(table["peak"].to_numpy(), threshold))
    feature = active["feature"].to_numpy()
    mostly = set()
    for gap in gaps:
        roles = pc.value_counts(active["role"].filter(feature == gap)).to_pylist()
        counts = {each["values"]: each["counts"] for each in roles}
        if counts.pop(ASSISTANT, 0) > max(counts.values(), default=0):
            mostly.add(gap)
    return mostly


def excerpt(tokens: Sequence[str], activations: Sequence[float]) -> Excerpt:
    """At most AROUND tokens about the peak, the firing ones marked."""
    values = np.asarray(activations, float)
    window = around(tokens, int(values.argmax()) if len(values) else 0)
    return Excerpt(tuple(tokens[window]), tuple((values[window] > 0).tolist()))


def turns(tokens: Sequence[str], chat: Chat) -> list[slice]:
    """Which of the content tokens of a chat, those of all turns in a row, belong to each of its
    messages. A template may have trimmed a content, and the last turn may be cut off."""
    slices, at = [], 0
    for message in chat:
        first, content = at, message["content"].strip()
        while at < len(tokens):
            spoken = "".join(tokens[first : at + 1]).strip()
            if spoken != content[: len(spoken)]:
                break
            at += 1
        slices.append(slice(first, at))
    if slices and at < len(tokens):  # a text that is not the one of the tokens
        slices[-1] = slice(slices[-1].start, len(tokens))
    return slices


def around(tokens: Sequence[str], peak: int) -> slice:
    """At most AROUND of the tokens, ending a little after the one of the peak, from the beginning
    of a word on if one begins before it."""
    beyond = min(len(tokens), max(peak + 9, AROUND))
    first = max(0, beyond - AROUND)
    if not first and (len(tokens) < AROUND or tokens[0][:1].isupper()):
        return slice(0, beyond)  # else it may be a part of a text, cut before its first token
    begins = (n for n in range(first, min(peak + 1, beyond)) if tokens[n][:1].isspace())
    return slice(next(begins, first), beyond)


Steering = Callable[[FeatureBrief], Steer | None]  # how a writer is pushed for a feature


def unsteered(brief: FeatureBrief) -> None:
    """For writers that are not."""


def steering(
    spec: WriteSpec,
    runs: Runs,
    anchor: str,
    direction: Direction | None,
    *,
    local: bool = False,
) -> Steering:
    """How candidates are pushed: those of a writer that steers, and of every `local` one where a
    decoder direction is at hand, which it is not where another than the measured model writes.
    Raises InputError where a writer that steers has none."""
    kind = WRITERS[spec.writer]
    if not (kind.steers or local) or kind.server or not spec.strength:
        return unsteered
    if direction is None:
        if not kind.steers:
            return unsteered
        raise InputError("A steered writer needs the SAE's decoder directions; load its SAE.")
    layer = runs.manifest(anchor).facts.layer

    def steer(brief: FeatureBrief) -> Steer | None:
        push = np.asarray(direction(brief.feature), np.float32)
        scaled = push * np.float32(spec.strength * brief.usual_peak)
        return Steer(scaled, layer)  # on all new tokens, with the same strength

    return steer


Exchange = tuple[str, str]  # a message and its answer


class Guide(NamedTuple):
    """How an answer is written that is to fire the gap, by whoever answers the message."""

    biases: tuple[Bias, ...]  # towards words of the gap, away from those of the negative
    without: tuple[str, ...]  # phrases it must not hold
    quoted: tuple[str, ...]  # what it may have its words from
    steer: Steer | None = None  # as its message is pushed


class Ask(NamedTuple):
    """One candidate that is to be written."""

    request: Request  # its key is the candidate's name
    feature: int  # the gap it is for
    pair: str  # the approved pair it is written from; "" without one
    style: str
    quoted: tuple[str, ...]  # the texts that its prompt quotes
    explanation: str = ""  # of the feature: words of it are not a text's own

    role: str = "user"
    """Whose turn is written first. An answer is where most samples of the anchor fire the gap there
    and the writer goes on with lists: the message that it answers is asked for when it is worth
    one."""

    guide: Guide | None = None
    """Where an answer is to fire and its message is written first."""

    examples: tuple[Exchange, ...] = ()
    """Where an answer is written first, of the anchor's answers in which the gap fires: the message
    and the answer."""

    @property
    def prompt_hash(self) -> str:
        """Names exactly what is asked."""
        prompt, opening, _, without, edges, biases = self.request[1:]
        shown = prompt.key if prompt else digest(opening)
        guide = self.guide and self.guide._replace(
            steer=None
        )  # as the message is pushed: reply_key
        how = (without, edges, biases, guide)
        return digest(shown, *how) if without or any(edges) or biases or self.guide else shown

    def with_edges(self, edges: Mapping[str, Edges]) -> Ask:
        """The same with the edges that texts of its role have, where it goes on with an opening of
        which nothing belongs to the text."""
        opening = self.request.opening
        if opening is None or not opening.text or opening.starts:
            return self
        return self._replace(request=self.request._replace(edges=edges.get(self.role, Edges())))

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the writer is given; the role `opening` marks a text that it goes on with."""
        prompt, opening = self.request.prompt, self.request.opening
        begun = [{"role": "opening", "content": opening.text}] if opening else []
        return [dict(message) for message in prompt.messages] if prompt else begun


def edges_by_role(runs: Runs, measure: str) -> dict[str, Edges]:
    """By role the edges that texts of a measured dataset have, as far as its first ones show."""
    texts: dict[str, list[str]] = defaultdict(list)
    for chat in islice(chats_in(runs, runs.manifest(measure).facts.dataset), gates.MOST):
        for message in chat:
            texts[message["role"]].append(message["content"])
    return {role: gates.edges_of(contents) for role, contents in texts.items()}


def chats_in(runs: Runs, dataset: str) -> Iterator[Chat]:
    """The samples of a dataset run, read as they are needed."""
    for batch in runs.batches(dataset, "samples", columns=["messages"], rows=256):
        yield from batch.column("messages").to_pylist()


def ask_for(
    method: str,
    feature: int,
    number: int,
    style: Style,
    words: Prompt | Opening,
    quoted: Iterable[Excerpt] = (),
    steer: Steer | None = None,
    role: str = "user",
) -> Ask:
    """Asks with these words for one of a gap's candidates, of which the turn of the role is
    written first."""
    prompt, opening = (words, None) if isinstance(words, Prompt) else (None, words)
    key = f"{method}/{feature:06d}/{number:02d}/{style.name}"
    texts = tuple("".join(each.tokens) for each in quoted)
    name = f"{style.name}, pushed" if steer else style.name
    return Ask(Request(key, prompt, opening, steer), feature, "", name, texts, role=role)


def ask_from_anchor(
    spec: WriteSpec,
    briefs: Iterable[FeatureBrief],
    method: str,
    steering: Steering,
    *,
    chats: bool = True,
) -> list[Ask]:
    """`spec.candidates` requests for every feature that the anchor shows, from its explanation and
    its anchor spans; for `chats` see `in_turns`."""
    asks = []
    for brief in briefs:
        role = first_role(spec, brief)
        # A prompt asks for a message; where answers are sought, lists of them come first.
        lists = not chats or role == ASSISTANT
        for number, style in in_turns(STEP_1, spec, chats=not lists) if brief.spans else ():
            spans = turned(brief.spans, number)
            words: Prompt | Opening
            if style.form == "prompt":
                words = drafts.candidate_prompt(spec.profile, brief.explanation, spans)
            else:
                words = lists_of.texts(spec.profile, role, brief.explanation, spans)
            steer, feature = steering(brief), brief.feature
            ask = ask_for(method, feature, number, style, words, spans, steer, role)
            ask = ask._replace(examples=exchanges(brief.uses))
            asks.append(ask._replace(explanation=brief.explanation or ""))
    return asks


def ask_from_rows(
    grounds: Grounds,
    method: str,
    styles: Styles,
    shown: int,
    words: Callable[[Style, Sequence[str]], Prompt | Opening],
) -> list[Ask]:
    """`spec.candidates` requests for every gap, none of which says anything of it: each shows so
    many rows of the dataset, drawn anew for each, as the text that a sample begins with. Raises
    InputError where the dataset has no such text, and where the writer knows no chats and the
    method no other way to ask."""
    spec, dataset = grounds.spec, grounds.about.dataset
    if not grounds.chats and all(style.form == "prompt" for style in styles.here):
        raise InputError(
            f"The method {method} asks in prompts, and this writer knows no chats: choose another "
            f"method (alpaca goes on with a list) or a model that answers."
        )
    texts = _first_texts(grounds.runs, dataset)
    if not texts:
        raise InputError(f"The dataset of {dataset} has no text to show, so {method} asks nothing.")
    asks = []
    for gap in grounds.gaps:
        for number, style in in_turns(styles, spec, chats=grounds.chats):
            draw = int(digest(method, dataset, seed_of(spec), gap, number), 16)
            drawn = np.random.default_rng(draw).choice(len(texts), min(shown, len(texts)), False)
            rows = [texts[row] for row in drawn.tolist()]
            quoted = [Excerpt((text,), (False,)) for text in rows]
            asks.append(ask_for(method, gap, number, style, words(style, rows), quoted))
    return asks


def _first_texts(runs: Runs, measure: str) -> list[str]:
    """The user's first message of a measured dataset's samples, or what a sample without one
    begins with; of a large dataset of some at random, always the same."""
    chats = gates.sampled([*chats_in(runs, runs.manifest(measure).facts.dataset)], gates.MOST)
    firsts = (
        next((m for m in chat if m["role"] == "user"), chat[0])["content"] for chat in chats if chat
    )
    return [text for text in firsts if text.strip()]


def reads_answers(encoder: Encoder) -> bool:
    """Whether the subject model's template takes an answer without a message before it, as one is
    that is written first."""
    try:
        encoder.render([[{"role": ASSISTANT, "content": "."}]])
    except InputError:
        return False
    return True


def exchanges(uses: Iterable[Use]) -> tuple[Exchange, ...]:
    """Of uses in answers the first QUOTED messages with their answers."""
    pairs = []
    for each in uses:
        if [role for role, _ in each.chat[-2:]] == ["user", ASSISTANT]:
            (_, message), (_, answer) = each.chat[-2:]
            pairs.append((message, answer))
    return tuple(pairs[:QUOTED])


def first_role(spec: WriteSpec, brief: FeatureBrief) -> str:
    """Whose turn is written first for a gap: the assistant's where the anchor fires it mostly in
    answers, and a local writer is to write them."""
    answered = later_parts(spec.profile) == (ASSISTANT,) and spec.answers != "none"
    local = not WRITERS[spec.writer].server
    return ASSISTANT if answered and local and brief.in_answers else "user"


def seed_of(spec: WriteSpec) -> int:
    """The writer's seed; another attempt has another one."""
    return spec.seed if not spec.attempt else int(digest(spec.seed, spec.attempt), 16) % 2**31


def reply_key(ask: Ask, spec: WriteSpec, identity: str) -> str:
    """Names a text by everything it depends on, whatever run asks for it."""
    steer = ask.request.steer
    pushed = digest(steer.direction.tobytes().hex(), *steer[1:]) if steer else ""
    room = (spec.room,) if spec.room else ()
    how = (seed_of(spec), spec.temperature, spec.max_new_tokens, *room)
    return digest(ask.request.key, ask.prompt_hash, pushed, identity, *how)


def in_turns(styles: Styles, spec: WriteSpec, *, chats: bool = True) -> Iterator[tuple[int, Style]]:
    """Number and style of each of a gap's candidates. A writer that knows no `chats`, a base model,
    only goes on with openings."""
    turns = styles.server if WRITERS[spec.writer].server else styles.here
    turns = turns if chats else tuple(style for style in turns if style.form == "opening")
    return ((number, turns[number % len(turns)]) for number in range(spec.candidates))


def turned(spans: Sequence[Excerpt], number: int) -> tuple[Excerpt, ...]:
    """QUOTED of the spans; another number, up to TURNS, begins elsewhere among them."""
    start = number % min(TURNS, len(spans)) if spans else 0
    return (*spans[start:], *spans[:start])[:QUOTED]


class Grounds(NamedTuple):
    """What a method may ask from."""

    spec: SynthesizeSpec
    runs: Runs
    about: PairsFacts  # of the pairs run
    pairs: Sequence[Row]  # the approved ones, by feature
    gaps: Sequence[int]
    """What is written for: those of the pairs, or all of the run where none is named."""
    direction: Direction | None
    chats: bool = (
        True  # whether the writer answers prompts; a base model only goes on with openings
    )
    answers_first: bool = True
    """Whether answers may be written before their messages: see `reads_answers`."""

    def briefs(self, features: Iterable[int]) -> dict[int, FeatureBrief]:
        """What a writer is told of these features."""
        return feature_briefs(
            self.runs,
            self.about.anchor,
            [*features],
            [*self.about.explanations],
            threshold=self.spec.threshold,
            role=self.about.role or EVERY_ROLE,
            answers_first=self.answers_first,
        )

    def plan(self, method: Method) -> list[Ask]:
        """What the method asks for, with the edges that the dataset's texts have."""
        edges = edges_by_role(self.runs, self.about.dataset)
        return [ask.with_edges(edges) for ask in method.plan(self)]

    def steering(self) -> Steering:
        """Whatever the method, a local writer is pushed along what it writes for. Raises
        InputError where a writer that steers has no decoder directions."""
        return steering(self.spec, self.runs, self.about.anchor, self.direction, local=True)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to ask for samples of the same gaps: two steps, or a baseline of theirs."""

    title: str  # on pages
    preference: int  # where it stands among the others, lowest first
    plan: Callable[[Grounds], list[Ask]]
    needs_pairs: bool = False  # whether it writes from nothing but approved pairs
