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

Row = dict[str, Any]


_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")
_VISIBLE = str.maketrans(
    {
        "\t": "⇥\t",
        "\r": "␍",
        "\x7f": "␡",
        **{chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n\r"},
        # invisible marks that would turn the line around them
        **dict.fromkeys(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))), "�"),
    }
)


def clean(text: str) -> str:
    """Text that any browser can show: no lone surrogates, control characters made visible."""
    return text.encode("utf-8", "replace").decode().translate(_VISIBLE)


def plain(text: str) -> str:
    """Text for a place that Streamlit reads as Markdown: it comes out as it went in."""
    return _MARKDOWN.sub(r"\\\1", " ".join(clean(text).split()))


def called(feature: int, name: str | None, *, limit: int = 90) -> str:
    """How a feature is addressed: its number and its name, cut where that is a whole sentence."""
    shown = " ".join(clean(name or "").split())
    if len(shown) > limit:
        shown = shown[: limit - 1].rstrip() + "…"
    return f"#{feature} {shown}" if shown else f"#{feature}"


def tokens_html(
    tokens: Sequence[str],
    values: Sequence[float] | None = None,
    *,
    strongest: float = 0.0,
    peak: int | None = None,
    breaks: bool = False,
    faded: Collection[int] = (),
) -> str:
    """Tokens with their activation as the depth of colour; safe whatever the tokens hold.

    `values` are activations of the tokens, 0 where silent; `strongest` is full colour (default:
    their maximum). The token at index `peak` is underlined. Line ends show as ⏎, and with `breaks`
    they also end the line. Tokens whose index is in `faded` stand back.
    """
    line_end = '<i class="fac-end">⏎</i>' + "\n" * breaks
    values = list(values) if values is not None else [0.0] * len(tokens)
    top = strongest or max(values, default=0.0) or 1.0
    parts = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=True)):
        shown = html.escape(clean(token)).replace("\n", line_end)
        kind = ' class="fac-peak"' if index == peak else ""
        if value > 0:
            # The space that a token begins with stays white, unless it is all there is.
            word = shown.lstrip(" ") or shown
            depth = 0.10 + 0.55 * min(value / top, 1.0)
            parts.append(
                f'{shown[: len(shown) - len(word)]}<span{kind} title="{value:.3g}" '
                f'style="background:rgba(224,138,30,{depth:.2f})">{word}</span>'
            )
        elif kind:
            parts.append(f"<span{kind}>{shown}</span>")
        elif index in faded:
            parts.append(f'<span class="fac-end">{shown}</span>')
        else:
            parts.append(shown)
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
    shown = [html.escape(clean(word)).replace("\n", "⏎") or "∅" for word in words]
    chips = "".join(f'<span class="fac-chip fac-{kind}">{word}</span>' for word in shown)
    return f'<div class="fac-chips fac-blur">{chips}</div>'


def explanation_html(who: str, source: str, text: str | None, why_not: str) -> str:
    """An explanation with who made it; without a text, why there is none."""
    said = html.escape(clean(text if text is not None else why_not))
    kind = "fac-said" if text is not None else "fac-said fac-none"
    by = html.escape(clean(f"{who} · {source}" if source else who))
    return (
        f'<div class="{kind}"><div class="fac-meta">{by}</div>'
        f'<div class="fac-blur">{said}</div></div>'
    )


STYLE = """
.stMainBlockContainer{padding-left:2.75rem;padding-right:2.75rem}
.fac-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.75;font-size:.93rem;
  unicode-bidi:isolate;max-height:16rem;overflow-y:auto}
.fac-text span{border-radius:.25rem;padding:.08rem 0}
.fac-peak{box-shadow:inset 0 -2px 0 #E08A1E;font-weight:600}
.fac-end{opacity:.45;font-style:normal}
.fac-example{padding:.55rem 0;border-bottom:1px solid rgba(124,135,153,.22)}
.fac-example:last-child{border-bottom:0}
.fac-meta{font-size:.78rem;opacity:.62;display:flex;gap:.75rem;margin-bottom:.1rem}
.fac-chat{display:flex;flex-direction:column;gap:.5rem}
.fac-turn{border-left:3px solid rgba(124,135,153,.4);padding:.05rem 0 .05rem .75rem}
.fac-turn b{font-size:.74rem;opacity:.62;font-weight:600;text-transform:capitalize}
.fac-turn.fac-assistant{border-color:#14958A}
.fac-chips{display:flex;flex-wrap:wrap;gap:.3rem}
.fac-chip{border-radius:.4rem;padding:.1rem .45rem;font-size:.82rem;white-space:pre;
  max-width:14rem;overflow:hidden;text-overflow:ellipsis}
.fac-up{background:rgba(20,149,138,.16)}
.fac-down{background:rgba(124,135,153,.16)}
.fac-flat{background:rgba(124,135,153,.16)}
.fac-part{font-size:.8rem;font-weight:600;opacity:.75;margin:.9rem 0 .1rem}
.fac-part:first-child{margin-top:0}
.fac-quote{border-left:4px solid #14958A;background:rgba(20,149,138,.09);border-radius:.4rem;
  padding:.7rem .9rem;font-size:1.08rem;line-height:1.5;overflow-wrap:anywhere;
  white-space:pre-wrap;unicode-bidi:isolate;max-height:14rem;overflow-y:auto}
.fac-quote.fac-none{border-color:rgba(124,135,153,.5);background:rgba(124,135,153,.1);
  font-size:.95rem;opacity:.8}
.fac-said{border-left:3px solid #14958A;padding:.05rem 0 .05rem .75rem;line-height:1.5;
  overflow-wrap:anywhere;unicode-bidi:isolate;max-height:12rem;overflow-y:auto}
.fac-said.fac-none{border-color:rgba(124,135,153,.4);opacity:.75;font-style:italic}
.fac-last{font-size:.84rem;line-height:1.35;display:grid;gap:.25rem .9rem;
  grid-template-columns:max-content 1fr max-content}
.fac-last span,.fac-last i{opacity:.62;font-style:normal}
.fac-last b{font-weight:500}
.fac-guide{font-size:.84rem;line-height:1.45;display:grid;grid-template-columns:max-content 1fr;
  gap:.3rem .9rem}
.fac-guide b{font-weight:600}
.fac-guide span{opacity:.85}
.fac-criteria{font-size:.84rem;line-height:1.45;opacity:.85;margin:0;padding-left:1.1rem}
.fac-criteria li{margin:0 0 .15rem 0;font-size:.84rem}
.fac-pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:.9rem}
.fac-side{border:1px solid rgba(124,135,153,.32);border-top:3px solid #7C8799;
  border-radius:.55rem;padding:.65rem .9rem .8rem;min-width:0}
.fac-side.fac-fires{border-top-color:#E08A1E}
.fac-side-head{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem .7rem;
  margin-bottom:.45rem}
.fac-side-head b{font-size:.86rem;font-weight:600}
.fac-side-head strong{font-size:1.3rem;font-weight:650;font-variant-numeric:tabular-nums;
  line-height:1.2}
.fac-side-head span{font-size:.78rem}
.fac-side .fac-text{font-size:1rem}
.fac-real{background:rgba(224,138,30,.2)}
.fac-changes{padding:.9rem 0 .1rem}
.fac-changes .fac-text{max-height:8rem}
.fac-changes del{background:rgba(194,85,122,.17);border-radius:.25rem;padding:.08rem .15rem}
.fac-changes ins{background:rgba(20,149,138,.2);border-radius:.25rem;padding:.08rem .15rem;
  text-decoration:none}
.st-key-request .fac-text{max-height:none}
.fac-past{font-size:.84rem;line-height:1.4;display:grid;gap:.3rem .9rem;
  grid-template-columns:max-content 1fr;overflow-wrap:anywhere}
.fac-past span{opacity:.62}
.fac-past s{opacity:.55}
"""


def show_examples(spans: Sequence[Row], *, strongest: float = 0.0) -> None:
    """Spans of one feature, strongest first, on one colour scale so that they can be compared."""
    if not spans:
        st.caption("No example of this kind was kept.")
        return
    top = strongest or max((span["peak"] for span in spans), default=0.0)
    st.html(
        "".join(
            example_html(
                [f"{span['peak']:.2f}", span["role"], f"sample {span['sample']}"]
                + ([f"stronger than {span['quantile']:.0%}"] if span["kind"] == "spread" else []),
                tokens_html(
                    span["tokens"], span["activations"], strongest=top, peak=span["peak_index"]
                ),
            )
            for span in spans
        )
    )


def show_near(near: Sequence[Row]) -> None:
    """The dataset's nearest misses of one feature: where it came closest to firing."""
    if not near:
        st.caption("Nothing in this dataset comes near.")
        return
    st.html(
        "".join(
            example_html(
                [
                    f"pre-activation {miss['pre']:.2f}",
                    *([f"{miss['ratio']:.0%} of what it takes"] if miss.get("ratio") else []),
                    miss["role"],
                    f"sample {miss['sample']}",
                ],
                tokens_html(miss["tokens"], peak=miss["peak_index"]),
            )
            for miss in near
        )
    )


def example_html(facts: Sequence[str], body: str) -> str:
    """One example: facts in small print above its body, which is HTML already."""
    meta = "".join(f"<span>{html.escape(str(fact))}</span>" for fact in facts)
    return f'<div class="fac-example"><div class="fac-meta">{meta}</div>{body}</div>'
