"""From approved pairs: a text that fires the gap and its near-twin that does not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.config import WriteSpec
from fac.prompts import Excerpt, Prompt, drafts
from fac.prompts.drafts import Opening
from fac.schema import Chat
from fac.synthesis import plan as asking
from fac.synthesis.plan import LIST, Ask, FeatureBrief, Grounds, Method, Steering, Style, Styles

SENTENCE, PHRASE = Style("sentence", "opening", 12, sentence=True), Style("phrase", "opening", 4)
CONTRAST = Style("contrast", "prompt")

STEP_2 = Styles(here=(SENTENCE, PHRASE, SENTENCE, PHRASE, LIST, CONTRAST), server=(CONTRAST,))
"""Styles fail on different features; those that begin with the positive's own words come first,
since small models follow nothing else well."""

KEEP_ABOVE = 4.0  # a positive that fires more strongly has its phrase prescribed, as the paper does

_SENTENCE_END = re.compile(r"[.?!…][\"'”’)]*\s+|\n+")


class PairBrief(NamedTuple):
    """An approved pair as a writer is told of it."""

    pair: str
    feature: int
    positive: Excerpt
    positive_peak: float
    phrase: tuple[str, ...]
    """Words of the positive up to and including the one of its peak; none where its message is
    silent, since it fires in the answer."""

    sentence: int  # how many of them, at the end, belong to the sentence of the peak
    firing: str  # the words about the peak on which it fires; "" likewise
    negative: Excerpt
    negative_peak: float


def pair_brief(row: Mapping[str, Any]) -> PairBrief:
    """The pair of a row of schema.PAIRS. Of a chat one message is told of, the user's in which it
    fires or which is answered there: roles stay apart, and what is written is a message."""
    chat, turns = row["positive"], asking.turns(row["positive_tokens"], row["positive"])
    values = np.asarray(row["positive_activations"], float)
    number = _message(chat, turns, int(values.argmax()))
    tokens, values = row["positive_tokens"][turns[number]], values[turns[number]]
    silent_message = not values.any()
    peak = 0 if silent_message else int(values.argmax())
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
    phrase = "".join(tokens[: peak + 1]).split()
    if silent_message:
        phrase, sentence, firing = [], [], ""
    turns = asking.turns(row["negative_tokens"], row["negative"])
    silent = row["negative_tokens"][turns[min(number, len(turns) - 1)]]
    silent = silent[asking.around(silent, peak)]
    return PairBrief(
        pair=row["pair"],
        feature=row["feature"],
        positive=asking.excerpt(tokens, values.tolist()),
        positive_peak=row["positive_peak"],
        phrase=tuple(phrase),
        sentence=len(sentence),
        firing=" ".join(firing.split()),
        negative=Excerpt(tuple(silent), (False,) * len(silent)),
        negative_peak=row["negative_peak"],
    )


def _message(chat: Chat, turns: Sequence[slice], token: int) -> int:
    """Which message of a chat is the user's last up to the turn of a token; the first where there
    is none."""
    before = [
        number
        for number, (message, turn) in enumerate(zip(chat, turns, strict=True))
        if message["role"] == "user" and turn.start <= token
    ]
    return max(before, default=0)


def plan(grounds: Grounds) -> list[Ask]:
    """`candidates` requests for every approved pair."""
    steering, briefs = grounds.steering(), grounds.briefs(grounds.gaps)
    return ask_from_pairs(
        grounds.spec, map(pair_brief, grounds.pairs), briefs, steering, chats=grounds.chats
    )


def ask_from_pairs(
    spec: WriteSpec,
    pairs: Iterable[PairBrief],
    briefs: Mapping[int, FeatureBrief],
    steering: Steering,
    *,
    chats: bool = True,
) -> list[Ask]:
    """`spec.candidates` requests for every pair; `briefs` tells of their features, for `chats` see
    `in_turns`."""
    asks = []
    for pair in pairs:
        brief = briefs[pair.feature]
        for number, style in asking.in_turns(STEP_2, spec, chats=chats):
            words: Prompt | Opening
            quoted: tuple[Excerpt, ...] = (pair.positive, pair.negative)
            if style.form == "prompt":
                peaks = pair.positive_peak, pair.negative_peak
                phrase = (pair.firing or None) if pair.positive_peak > KEEP_ABOVE else None
                words = drafts.contrast_prompt(
                    spec.profile, brief.explanation, pair.positive, pair.negative, *peaks, phrase
                )
            else:
                starts = _beginning(pair, style)
                spans = asking.turned(brief.spans, number)[: asking.QUOTED - 1]
                # A span that goes on from the same words would only be copied.
                quoted = (
                    _without(starts, brief.spans, number) if starts else (*spans, pair.positive)
                )
                words = drafts.contrast_opening(spec.profile, brief.explanation, quoted, starts)
            steer, feature = steering(brief), pair.feature
            ask = asking.ask_for("two-step", feature, number, style, words, quoted, steer)
            asks.append(ask._replace(pair=pair.pair, explanation=brief.explanation or ""))
    return asks


def _beginning(pair: PairBrief, style: Style) -> str:
    """The words of the positive with which a text of the style begins; "" where it may choose."""
    words = style.words
    if style.sentence:
        words = pair.sentence if 0 < pair.sentence <= words else 2 * words // 3
    return " ".join(pair.phrase[-words:]) if words else ""


def _without(starts: str, spans: Sequence[Excerpt], number: int) -> tuple[Excerpt, ...]:
    """QUOTED of the spans that do not hold those words; all of them where none is left."""
    others = [span for span in spans if starts not in " ".join("".join(span.tokens).split())]
    return asking.turned(others or spans, number)


METHOD = Method(title="From approved pairs", preference=0, plan=plan, needs_pairs=True)
