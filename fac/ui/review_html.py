"""What people decide on, as HTML: explanations, examples, both sides of a pair, what was decided.

Nothing here touches Streamlit. Texts are foreign: each goes through `html.escape(clean(...))`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from fac.questions.pairs import differences
from fac.schema import ROLES
from fac.store.decisions import Decision
from fac.ui.text import Row, clean, example_html, tokens_html

STRONGEST, SPREAD = 3, 7
"""Examples shown of each kind: what it means when it barely fires counts too."""

ALIKE = 0.4
"""Share of common words below which two texts are shown as two, not as one and its edit."""

CONTEXT_WORDS = 9
"""Words of an unchanged stretch that stay beside a change."""

ORIGINS = {
    "own": ("written for this gap", "flat"),
    "pool": ("written for another gap", "flat"),
    "anchor": ("a real sample of the anchor", "real"),
    "person": ("edited by a person", "up"),
    "edit": ("the same, edited least", "flat"),
}
"""Where a side comes from, in words, and its chip."""


def escaped(text: str) -> str:
    """Foreign text inside an element."""
    return html.escape(clean(text))


def quote_html(text: str | None) -> str:
    """An explanation as the thing that is asked about."""
    if text is None:
        return '<div class="fac-quote fac-none">No explanation: judge by the examples.</div>'
    return f'<div class="fac-quote fac-blur">{escaped(text)}</div>'


def guide_html(answers: Mapping[str, str]) -> str:
    """What each answer means, in view."""
    parts = (f"<b>{escaped(name)}</b><span>{escaped(v)}</span>" for name, v in answers.items())
    return f'<div class="fac-guide">{"".join(parts)}</div>'


def criteria_html(rubric: Sequence[str]) -> str:
    """What makes a feature matter for a task; one criterion is enough."""
    lines = "".join(f"<li>{escaped(line)}</li>" for line in rubric)
    return f'<ul class="fac-criteria">{lines}</ul>'


def last_html(decisions: Sequence[Decision], names: Mapping[str, str]) -> str:
    """The last decisions, newest first: feature, verdict, seconds."""
    rows = []
    for decision in decisions:
        feature = decision.subject.split("/")[2]
        verdict = names.get(decision.verdict, decision.verdict)
        flags = f" · {', '.join(decision.reasons)}" if decision.reasons else ""
        seconds = "" if decision.seconds is None else f"{decision.seconds:.0f} s"
        rows.append(
            f"<span>#{html.escape(feature)}</span>"
            f"<b>{html.escape(verdict + flags)}</b><i>{seconds}</i>"
        )
    return f'<div class="fac-last">{"".join(rows)}</div>'


def history_html(history: Iterable[tuple[int, Decision]], *, numbered: bool) -> str:
    """(version, decision), oldest first; struck out where they were taken back."""
    rows = []
    for number, decision in history:
        when = datetime.fromisoformat(decision.at).astimezone()
        words = f"{decision.reviewer}: {decision.verdict.replace('_', ' ')}"
        words += f" version {number}" if numbered else ""
        words += f" · {decision.note}" if decision.note else ""
        mark = "s" if decision.withdrawn else "div"
        rows.append(f"<span>{when:%d %b %H:%M}</span><{mark}>{escaped(words)}</{mark}>")
    return f'<div class="fac-past">{"".join(rows)}</div>'


def steps_html(steps: Iterable[tuple[str, str]]) -> str:
    """(step, words) in small print, one below the other."""
    cells = "".join(
        f"<span>{html.escape(name)}</span><div>{escaped(words)}</div>" for name, words in steps
    )
    return f'<div class="fac-past">{cells}</div>'


def examples_html(spans: Sequence[Row]) -> str:
    """The strongest examples and, apart, some over all strengths, on one colour scale."""
    top = [span for span in spans if span["kind"] == "top"][:STRONGEST]
    tops = {(span["sample"], span["position"]) for span in top}
    spread = [
        span
        for span in spans
        if span["kind"] == "spread" and (span["sample"], span["position"]) not in tops
    ]
    spread.sort(key=lambda span: -span["peak"])
    if len(spread) > SPREAD:  # evenly, the weakest among them
        step = (len(spread) - 1) / (SPREAD - 1)
        spread = [spread[round(i * step)] for i in range(SPREAD)]
    strongest = max((span["peak"] for span in spans), default=0.0)
    parts = []
    for heading, rows in (
        ("Where it fires most", top),
        ("Over all its strengths, strong to weak", spread),
    ):
        if rows:
            parts.append(f'<div class="fac-part">{heading}</div>')
        for span in rows:
            body = tokens_html(
                span["tokens"], span["activations"], strongest=strongest, peak=span["peak_index"]
            )
            parts.append(example_html([f"{span['peak']:.2f}", span["role"]], body))
    return "".join(parts)


def turns_of(
    messages: Sequence[Mapping[str, str]], tokens: Sequence[str]
) -> list[tuple[str, tuple[int, int]]]:
    """(role, (first token, one past the last)) of every turn. One piece where the tokens are not
    those of the messages, as when a text was too long to be read to its end."""
    sizes = [len("".join(token.split())) for token in tokens]
    contents = [len("".join(message["content"].split())) for message in messages]
    whole = [("", (0, len(tokens)))]
    if len(messages) < 2 or sum(sizes) != sum(contents):
        return whole
    turns, at = [], 0
    for message, size in zip(messages, contents, strict=True):
        first = at
        while at < len(tokens) and (size > 0 or not sizes[at]):
            size -= sizes[at]
            at += 1
        if size:
            return whole
        turns.append((message["role"], (first, at)))
    return turns


def traced_html(
    messages: Sequence[Mapping[str, str]],
    tokens: Sequence[str],
    values: Sequence[float],
    *,
    strongest: float | None = None,
    breaks: bool = False,
) -> str:
    """A text turn by turn with the activation as the depth of colour, its peak underlined.

    `strongest` is full colour, the text's own peak by default.
    """
    highest = max(values, default=0.0)
    peak = max(range(len(values)), key=values.__getitem__, default=-1) if highest > 0 else -1
    full = highest if strongest is None else strongest
    turns, bodies = turns_of(messages, tokens), []
    for role, (first, last) in turns:
        at = peak - first if first <= peak < last else None
        body = tokens_html(
            tokens[first:last], values[first:last], strongest=full, peak=at, breaks=breaks
        )
        kind = role if role in ROLES else "other"
        head = f"<b>{escaped(role)}</b>"
        bodies.append(
            body if len(turns) == 1 else f'<div class="fac-turn fac-{kind}">{head}{body}</div>'
        )
    return f'<div class="fac-chat">{"".join(bodies)}</div>'


def pair_html(row: Mapping[str, Any], threshold: float) -> str:
    """Both sides token by token on one colour scale, and below what the words differ in."""
    strongest = max((*row["positive_activations"], *row["negative_activations"]), default=0.0)
    return (
        '<div class="fac-pair">'
        + _side_html(row, "positive", row["origin"], strongest, threshold)
        + _side_html(row, "negative", row["negative_origin"], strongest, threshold)
        + "</div>"
        + changes_html(row["positive"], row["negative"])
    )


def _side_html(
    row: Mapping[str, Any], side: str, origin: str, strongest: float, threshold: float
) -> str:
    peak = row[f"{side}_peak"]
    fires = peak > threshold
    words, chip = ORIGINS.get(origin, (origin, "flat"))
    above = f", above {threshold:g}" if fires and threshold else ""
    body = traced_html(
        row[side], row[f"{side}_tokens"], row[f"{side}_activations"], strongest=strongest
    )
    return (
        f'<div class="fac-side{" fac-fires" if fires else ""}"><div class="fac-side-head">'
        f"<b>{'Fires' if fires else 'Silent'}{above}</b><strong>{peak:.2f}</strong>"
        f'<span class="fac-chip fac-{chip}">{escaped(words)}</span></div>{body}</div>'
    )


def changes_html(
    positive: Sequence[Mapping[str, str]], negative: Sequence[Mapping[str, str]]
) -> str:
    """Which words the negative lacks and which it has instead."""
    if [m["role"] for m in positive] == [m["role"] for m in negative]:
        turns = [(p["content"], n["content"]) for p, n in zip(positive, negative, strict=True)]
        turns = [turn for turn in turns if turn[0] != turn[1]]
    else:
        turns = [
            ("\n".join(m["content"] for m in positive), "\n".join(m["content"] for m in negative))
        ]
    parts = [differences(*turn) for turn in turns]
    count = {"same": 0, "gone": 0, "new": 0}
    for kind, text in (piece for part in parts for piece in part):
        count[kind] += len(text.split())
    total = 2 * count["same"] + count["gone"] + count["new"]
    if not turns:
        heading, body = "The two sides say the same", ""
    elif total and 2 * count["same"] / total < ALIKE:
        shared = f"{count['same']} word{'s'[: count['same'] != 1]}"
        heading, body = f"The negative is another text: they share {shared}", ""
    else:
        gone, new = count["gone"], count["new"]
        heading = "What the negative lacks" + (", and what it has instead" if new else "")
        heading += f" · {gone} of {count['same'] + gone} words" if not new else ""
        body = "<br>".join(
            " ".join(_change_html(kind, text) for kind, text in _shortened(part)) for part in parts
        )
        body = f'<div class="fac-text fac-blur">{body}</div>'
    return f'<div class="fac-changes"><div class="fac-part">{heading}</div>{body}</div>'


def _change_html(kind: str, text: str) -> str:
    mark = {"gone": "del", "new": "ins"}.get(kind)
    return f"<{mark}>{escaped(text)}</{mark}>" if mark else escaped(text)


def _shortened(pieces: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same with long unchanged stretches cut down to what is beside a change."""
    shortened = []
    for number, (kind, text) in enumerate(pieces):
        words = text.split()
        if kind == "same" and len(words) > 2 * CONTEXT_WORDS + 1:
            head = words[:CONTEXT_WORDS] if number else []
            tail = words[-CONTEXT_WORDS:] if number + 1 < len(pieces) else []
            text = " ".join([*head, "…", *tail])
        shortened.append((kind, text))
    return shortened
