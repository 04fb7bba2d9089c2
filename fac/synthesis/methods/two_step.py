"""From approved pairs: a text that fires the gap and its near-twin that does not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fac.config import WriteSpec
from fac.generator.writer import Bias
from fac.prompts import Excerpt, Prompt, drafts, lists
from fac.prompts.drafts import Opening
from fac.prompts.lists import ASSISTANT
from fac.schema import Chat
from fac.synthesis import plan as asking
from fac.synthesis.filter import GRAM
from fac.synthesis.filter import words as spoken
from fac.synthesis.plan import (
    Ask,
    FeatureBrief,
    Grounds,
    Guide,
    Method,
    Steering,
    Style,
    Styles,
)
from fac.synthesis.uses import Use, phrases_about, phrases_of, use

WORDS, PHRASE = Style("words", "opening"), Style("phrase", "opening", context=True)
CONTRAST = Style("contrast", "prompt")

STEP_2 = Styles(here=(WORDS, PHRASE), server=(CONTRAST,))
"""On this machine a list of words, each with a text that uses it: no small model follows anything
else as well. The words are those on which the positive fires and its negative does not have."""

LED, LED_ON = Style("led", "opening"), Style("led-on", "opening", context=True)
IN_ANSWERS = Styles(here=(LED, WORDS, LED_ON, PHRASE), server=(CONTRAST,))
"""Where an answer is to fire, every other text begins with a message like those that the anchor
answers so. Message and answer are led to the words; nobody is told them, for an answer to
"use the word" is about the word."""

IN_MESSAGE, IN_ANSWER, IN_LIST = 8.0, 7.0, 4.0
"""Nats by which the words get likelier in a message, in its answer, and after a list of words."""

AWAY = -3.0  # nats for words of the negative that neither the positive nor a shown use has
TELLING = 4  # letters that such a word has at least: shorter ones are in any text

KEEP_ABOVE = 4.0  # a positive that fires more strongly has its phrase prescribed, as the paper does


class PairBrief(NamedTuple):
    """An approved pair as a writer is told of it."""

    pair: str
    feature: int
    positive: Excerpt
    positive_peak: float
    firing: str
    """The words about the peak on which it fires; "" where its message is silent, since it fires
    in the answer."""

    negative: Excerpt
    negative_peak: float
    use: Use | None = None  # of the words on which the positive fires; None where it shows none
    avoid: tuple[str, ...] = ()  # phrases of the negative, in the turn of that use
    silent: frozenset[str] = frozenset()  # words of the negative

    @classmethod
    def none(cls, feature: int) -> "PairBrief":
        """What is known without a pair."""
        return cls("", feature, _NOTHING, 0.0, "", _NOTHING, 0.0)


_NOTHING = Excerpt((), ())


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
    if silent_message:
        firing = ""
    turns = asking.turns(row["negative_tokens"], row["negative"])
    silent = row["negative_tokens"][turns[min(number, len(turns) - 1)]]
    silent = silent[asking.around(silent, peak)]
    return PairBrief(
        pair=row["pair"],
        feature=row["feature"],
        positive=asking.excerpt(tokens, values.tolist()),
        positive_peak=row["positive_peak"],
        firing=" ".join(firing.split()),
        negative=Excerpt(tuple(silent), (False,) * len(silent)),
        negative_peak=row["negative_peak"],
        use=_use(row),
        avoid=tuple(phrase for m in row["negative"] for phrase in phrases_of(m["content"])),
        silent=frozenset(word for m in row["negative"] for word in spoken(m["content"])),
    )


def _use(row: Mapping[str, Any]) -> Use | None:
    """How the positive uses the words on which it fires most."""
    chat, tokens = row["positive"], row["positive_tokens"]
    values = np.asarray(row["positive_activations"], float)
    if not values.any():
        return None
    peak = int(values.argmax())
    for message, turn in zip(chat, asking.turns(tokens, chat), strict=True):
        if turn.start <= peak < turn.stop:
            content, before = message["content"], "".join(tokens[turn.start : peak])
            lead = len(content) - len(content.lstrip())
            start = len(before) + (lead if not before[:1].isspace() else 0)
            token = tokens[peak]
            end = start + len(token)
            return use(message["role"], content, end - len(token.lstrip()), end)
    return None


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
    method: str = "two-step",
) -> list[Ask]:
    """`spec.candidates` requests for every pair; `briefs` tells of their features, for `chats` see
    `in_turns`."""
    asks = []
    for pair in pairs:
        brief = briefs[pair.feature]
        role = asking.first_role(spec, brief)
        exchanges = asking.exchanges(brief.uses)
        styles = IN_ANSWERS if role == ASSISTANT and chats and exchanges else STEP_2
        for number, style in asking.in_turns(styles, spec, chats=chats):
            words: Prompt | Opening
            quoted: tuple[Excerpt, ...] = (pair.positive, pair.negative)
            without: tuple[str, ...] = ()
            biases: tuple[Bias, ...] = ()
            guide, first = None, role
            if style.form == "prompt" and not pair.pair:
                quoted = asking.turned(brief.spans, number)
                words = drafts.candidate_prompt(spec.profile, brief.explanation, quoted)
            elif style.form == "prompt":
                peaks = pair.positive_peak, pair.negative_peak
                phrase = (pair.firing or None) if pair.positive_peak > KEEP_ABOVE else None
                words = drafts.contrast_prompt(
                    spec.profile, brief.explanation, pair.positive, pair.negative, *peaks, phrase
                )
            elif uses := _uses(pair, brief, role, number // 2):
                sentences = tuple(each.sentence for each in uses)
                about = [phrase for each in uses for phrase in phrases_about(each)]
                without = _echoes(sentences, (*about, *pair.avoid))
                away = _away(pair, sentences)
                if style in (LED, LED_ON):
                    messages, answers = zip(*asking.exchanges(uses) or exchanges, strict=True)
                    led_to = (_led_to(uses[-1], style),)
                    biases = (Bias(led_to, IN_MESSAGE), *away)
                    lead = (Bias(led_to, IN_ANSWER), *away)
                    guide = Guide(lead, without, (*sentences, *answers))
                    words = lists.messages(messages)
                    sentences, without, first = messages, _echoes(messages), "user"
                else:
                    rows = [(_words(each, style), each.sentence) for each in uses]
                    words = lists.uses(spec.profile, role, rows, rows[-1][0])
                    biases = (Bias((uses[-1].words,), IN_LIST), *away)
                quoted = tuple(Excerpt((text,), (False,)) for text in sentences)
            else:  # nothing of them is a sentence that could be shown
                quoted = (*asking.turned(brief.spans, number)[: asking.QUOTED - 1], pair.positive)
                words = lists.texts(spec.profile, role, brief.explanation, quoted)
            steer, feature = steering(brief), pair.feature
            ask = asking.ask_for(method, feature, number, style, words, quoted, steer, first)
            request = ask.request._replace(without=without, biases=biases)
            guide = guide and guide._replace(steer=steer)
            ask = ask._replace(request=request, pair=pair.pair, examples=exchanges, guide=guide)
            asks.append(ask._replace(explanation=brief.explanation or ""))
    return asks


def _uses(pair: PairBrief, brief: FeatureBrief, role: str, turn: int) -> tuple[Use, ...]:
    """QUOTED uses of the feature's words, those in the turn that is written where there are
    several; another turn begins elsewhere among them. The words of the last one are to be used:
    where the negative has all of them, the last one that says another goes there."""
    uses = [*([pair.use] if pair.use else []), *brief.uses]
    uses = [each for each in uses if each.role == role] or uses
    if not uses:
        return ()
    start = turn % min(asking.TURNS, len(uses))
    order = [*reversed((*uses[start:], *uses[:start])[: asking.QUOTED])]
    contrast = [each for each in order if not {*spoken(each.words)} <= pair.silent]
    last = (contrast or order)[-1]
    return (*(each for each in order if each != last), last)


def _words(use: Use, style: Style) -> str:
    return use.phrase if style.context else use.words


def _away(pair: PairBrief, sentences: Iterable[str]) -> tuple[Bias, ...]:
    """Away from what the negative says and nothing else that the writer is shown."""
    texts = (*sentences, "".join(pair.positive.tokens))
    others = pair.silent.difference(*map(spoken, texts))
    words = sorted(w for w in others if len(w) >= TELLING and w.isalpha())
    return (Bias(tuple(words), AWAY),) if words else ()


def _led_to(use: Use, style: Style) -> str:
    """The words, with the one before them where their context matters: three would be borrowed."""
    return " ".join((*use.before.split()[-1:], use.words)) if style.context else use.words


def _echoes(texts: Iterable[str], beside: Iterable[str] = ()) -> tuple[str, ...]:
    """Phrases that make a text an echo of others, and some more."""
    echoes = [phrase for text in texts for phrase in phrases_of(text, GRAM)]
    return tuple(dict.fromkeys((*beside, *echoes)))


METHOD = Method(title="From approved pairs", preference=0, plan=plan, needs_pairs=True)
