"""Foreign text on its way to the browser, and the tokens of an example with their activations.

Texts of a dataset are hostile. They reach the browser in two ways only: through `html.escape` into
`st.html`, or through `plain` into something that Streamlit reads as Markdown.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from fac.markup import clean

Row = dict[str, Any]

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")


def plain(text: str) -> str:
    """Text for a place that Streamlit reads as Markdown: it comes out as it went in."""
    return _MARKDOWN.sub(r"\\\1", " ".join(clean(text).split()))


def called(feature: int, name: str | None, *, limit: int = 90) -> str:
    """How a feature is addressed: its number and its name, cut where that is a whole sentence."""
    line = " ".join(clean(name or "").split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return f"#{feature} {line}".rstrip()


def tokens_html(
    tokens: Sequence[str],
    values: Sequence[float] | None = None,
    *,
    strongest: float = 0.0,
    peak: int | None = None,
    breaks: bool = False,
    faded: Collection[int] = (),
    borrowed: Collection[int] = (),
) -> str:
    """Tokens with their activation as the depth of colour; safe whatever the tokens hold.

    `values` are activations of the tokens, 0 where silent; `strongest` is full colour (default:
    their maximum). The token at index `peak` is underlined. Line ends show as ⏎, and with `breaks`
    they also end the line. Tokens whose index is in `faded` stand back; those in `borrowed` are
    marked as words from elsewhere.
    """
    line_end = '<i class="fac-end">⏎</i>' + "\n" * breaks
    values = list(values) if values is not None else [0.0] * len(tokens)
    top = strongest or max(values, default=0.0) or 1.0
    parts = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=True)):
        markup = html.escape(clean(token)).replace("\n", line_end)
        kind = ' class="fac-peak"' if index == peak else ""
        if value > 0:
            # The space that a token begins with stays white, unless it is all there is.
            word = markup.lstrip(" ") or markup
            depth = 0.10 + 0.55 * min(value / top, 1.0)
            parts.append(
                f'{markup[: len(markup) - len(word)]}<span{kind} title="{value:.3g}" '
                f'style="background:rgba(224,138,30,{depth:.2f})">{word}</span>'
            )
        elif kind:
            parts.append(f"<span{kind}>{markup}</span>")
        elif index in faded:
            parts.append(f'<span class="fac-end">{markup}</span>')
        else:
            parts.append(markup)
        if index in borrowed:
            parts[-1] = f'<span class="fac-borrowed">{parts[-1]}</span>'
    return f'<div class="fac-text fac-blur">{"".join(parts)}</div>'


def chat_html(messages: Sequence[Mapping[str, str]], *, limit: int = 1200) -> str:
    """A sample as a conversation, each turn cut at `limit` characters."""
    turns = []
    for message in messages:
        text = clean(message["content"] or "")
        cut = f" … {len(text) - limit:,} more characters" if len(text) > limit else ""
        role = message["role"] if message["role"] in ("system", "user", "assistant") else "other"
        turns.append(
            f'<div class="fac-turn fac-{role}"><b>{html.escape(clean(message["role"]))}</b>'
            f'<div class="fac-text fac-blur">{html.escape(text[:limit])}'
            f'<i class="fac-end">{cut}</i></div></div>'
        )
    return f'<div class="fac-chat">{"".join(turns)}</div>'


def chips_html(words: Sequence[str], kind: str) -> str:
    """Short texts as chips; `kind` is `up`, `down` or `flat`."""
    markup = [html.escape(clean(word)).replace("\n", "⏎") or "∅" for word in words]
    chips = "".join(f'<span class="fac-chip fac-{kind}">{word}</span>' for word in markup)
    return f'<div class="fac-chips fac-blur">{chips}</div>'


def explanation_html(who: str, source: str, text: str | None, why_not: str) -> str:
    """An explanation with who made it; without a text, why there is none."""
    markup = html.escape(clean(text if text is not None else why_not))
    kind = "fac-said" if text is not None else "fac-said fac-none"
    by = html.escape(clean(f"{who} · {source}" if source else who))
    return (
        f'<div class="{kind}"><div class="fac-meta">{by}</div>'
        f'<div class="fac-blur">{markup}</div></div>'
    )


def show_examples(spans: Sequence[Row], *, strongest: float = 0.0) -> None:
    """Spans of one feature, strongest first, on one colour scale so that they can be compared."""
    if not spans:
        st.caption("No example of this kind was kept.")
        return
    top = strongest or max((span["peak"] for span in spans), default=0.0)
    examples = []
    for span in spans:
        facts = [f"{span['peak']:.2f}", span["role"], f"sample {span['sample']}"]
        if span["kind"] == "spread":
            facts.append(f"stronger than {span['quantile']:.0%}")
        scale = {"strongest": top, "peak": span["peak_index"]}
        body = tokens_html(span["tokens"], span["activations"], **scale)
        examples.append(example_html(facts, body))
    st.html("".join(examples))


def show_near(near: Sequence[Row]) -> None:
    """The dataset's nearest misses of one feature: where it came closest to firing."""
    if not near:
        st.caption("Nothing in this dataset comes near.")
        return
    examples = []
    for miss in near:
        facts = [f"pre-activation {miss['pre']:.2f}", miss["role"], f"sample {miss['sample']}"]
        if ratio := miss.get("ratio"):
            words = f"{ratio:.0%} of what it takes" if ratio <= 1 else "more than it takes"
            facts.insert(1, words)
        examples.append(example_html(facts, tokens_html(miss["tokens"], peak=miss["peak_index"])))
    st.html("".join(examples))


def example_html(facts: Sequence[str], body: str) -> str:
    """One example: facts in small print above its body, which is HTML already."""
    meta = "".join(f"<span>{html.escape(str(fact))}</span>" for fact in facts)
    return f'<div class="fac-example"><div class="fac-meta">{meta}</div>{body}</div>'
