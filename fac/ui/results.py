"""One text of a synthesis with everything that led to it, and how what was kept leaves."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from fac.manifest import SynthesisManifest
from fac.questions import results
from fac.questions.pairs import preferred_texts
from fac.ui.explanations import headline
from fac.ui.jobs import counted
from fac.ui.review import escaped, pair_html, steps_html, traced_html
from fac.ui.stores import stores
from fac.ui.text import Row, chat_html, example_html, explanation_html, show_examples
from fac.ui.writing import show_request

REASON_WORDS = {
    "failed": "the writer gave nothing",
    "unreadable": "it is not in the form of a sample",
    "empty": "it says nothing",
    "refusal": "the writer refused",
    "cut off": "it ends before its first sentence does",
    "fragment": "it does not begin and end as the dataset's texts do",
    "loop": "it says the same again and again",
    "language": "it is in another language or script than the dataset",
    "length": "it is shorter or longer than the dataset's texts are",
    "unlikely": "the measured model finds it odder, or plainer, than the dataset's texts",
    "echo": "it copies what its writer was shown",
    "duplicate": "it nearly repeats a stronger text that was kept",
    "contamination": "it overlaps with the dataset, the anchor or a held-out file",
    "below threshold": "its gap does not fire in it above the threshold",
    "borrowed words": "its gap fires only in words taken from what its writer was shown",
    "label unsure": "the label check does not confirm its label",
    "beaten": "it passed, but stronger texts fill the places of its gap",
    "redundant": "it passed, but covers no gap that the others leave open",
}
"""Why a text was dropped, as the end of a sentence."""

MOST_GAPS = 12
"""Gaps of one text that are listed."""


def show_candidate(manifest: SynthesisManifest, candidate: str) -> None:
    """One text: what it fires, token by token, and why it is there or is not."""
    run, threshold = manifest.run, manifest.spec.threshold
    row = stores().cache.candidate(run, candidate)
    assert row is not None, "the list names candidates of this run"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"#### {headline(manifest.facts.anchor, row['feature'])}", width="stretch")
        if row["kept"]:
            st.badge(results.KEPT, icon=":material/check:", color="green")
        else:
            st.badge(row["reason"], icon=":material/block:", color="gray")
    if not row["kept"]:
        st.caption(f"Dropped: {REASON_WORDS[row['reason']]}.")
    by_gap = results.traces(stores(), run, candidate)
    if by_gap:
        _show_traces(row, by_gap)
    elif row["messages"]:
        st.html(chat_html(row["messages"], limit=20_000))
    for name, text in results.extra_texts(row["extra"]):
        st.html(example_html([name], _text_html(text)))
    if row["kept"]:
        _show_lineage(manifest, candidate, row["feature"])
    else:
        _show_hits(row, threshold)


def _text_html(text: str) -> str:
    return f'<div class="fac-text fac-blur">{escaped(text)}</div>'


def _show_lineage(manifest: SynthesisManifest, candidate: str, feature: int) -> None:
    """Why a kept row is there: gap, explanation, pair, request, and what else was written."""
    anchor = manifest.facts.anchor
    origin = results.provenance(stores(), manifest.run, candidate)
    st.markdown("**Why is this row here?**")
    if text := preferred_texts(stores(), anchor).get(feature):
        st.html(explanation_html("what its gap is said to be", "", text, ""))
    st.html(steps_html(results.lineage_rows(origin.lineage)))
    if spans := stores().cache.spans(anchor, feature, "top")[:1]:
        with st.expander("The gap in the anchor"):
            show_examples(spans)
    if origin.pair:
        with st.expander("The pair it was written from"):
            st.html(pair_html(origin.pair, manifest.spec.threshold))
    if origin.prompt is not None:
        with st.expander("Exactly what its writer was given"):
            show_request(origin.prompt)
    if origin.rivals:
        with st.expander(f"{counted(len(origin.rivals), 'other text')} for this gap"):
            rivals = (
                (
                    [f"{row['peak']:.2f}", results.outcome_of(row)],
                    results.whole_text(row["messages"])[:600] or "∅",
                )
                for row in origin.rivals
            )
            st.html("".join(example_html(facts, _text_html(text)) for facts, text in rivals))


def _show_traces(row: Row, by_gap: Mapping[int, Row]) -> None:
    """The text, coloured for the gap it was written for or another one that it fires."""
    peaks = {hit["feature"]: hit["peak"] for hit in row["hits"]}
    gaps = sorted(by_gap, key=lambda gap: (gap != row["feature"], -peaks[gap]))[:MOST_GAPS]
    gap: int | None = gaps[0]
    if len(gaps) > 1:
        options: Row = {"format_func": lambda gap: f"#{gap} {peaks[gap]:.2f}", "default": gap}
        options |= {"key": f"trace of {row['candidate']}", "label_visibility": "collapsed"}
        help = "The gaps it fires, its own first; the colour shows where."
        gap = st.pills("Where it fires", gaps, required=True, help=help, **options)
    trace = by_gap[gaps[0] if gap is None else gap]
    st.html(traced_html(row["messages"], trace["tokens"], trace["activations"], breaks=True))


def _show_hits(row: Row, threshold: float) -> None:
    """What a dropped text was measured to fire."""
    if not row["hits"]:
        measured = "It fires none of the gaps."
        st.caption(measured if row["messages"] else "There was no text to measure.")
        return
    others = []
    for hit in row["hits"]:
        if hit["feature"] == row["feature"]:
            st.caption(
                f"Its own gap peaks at {hit['peak']:.3f} on token {hit['position']}, in the "
                f"{hit['role']}'s turn; the threshold is {threshold:g}."
            )
        else:
            others.append(f"\\#{hit['feature']} at {hit['peak']:.2f}")
    if others:
        st.caption(f"It also fires {', '.join(others[:MOST_GAPS])}.")
