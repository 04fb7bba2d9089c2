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
from fac.ui.text import Row, chat_html, example_html, explanation_html, plain, show_examples
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

OUTCOME_NAMES = {
    "failed": "writer failed",
    "unreadable": "not in the form",
    "empty": "says nothing",
    "refusal": "writer refused",
    "fragment": "a fragment",
    "loop": "repeats itself",
    "language": "other language",
    "length": "too short or long",
    "unlikely": "unlike the dataset",
    "echo": "copies its prompt",
    "duplicate": "repeats a kept one",
    "contamination": "overlaps with data",
    "below threshold": "does not fire",
    "borrowed words": "only borrowed words fire",
    "beaten": "stronger one kept",
    "redundant": "adds no gap",
}
"""What became of a text, as a chart and a list have it; any other outcome is called as it is."""


def outcome_name(outcome: str) -> str:
    """An outcome of `fac.questions.results.outcomes` in words."""
    return OUTCOME_NAMES.get(outcome, outcome)


ROOM = 1_500
"""Characters of a pilot's turn that are shown."""

MOST_GAPS = 12
"""Gaps of one text that are listed."""


def show_pilot(run: str) -> None:
    """What a pilot wrote, a column a gap, what passes first: to be read before the launch."""
    anchor = stores().runs.manifest(run).facts.anchor
    gaps = results.pilot_texts(stores(), run)
    st.markdown("**What the pilot wrote**")
    st.caption(
        "Every text of it, with what became of it: read them before you launch. They are in no "
        "list of datasets, and the launch writes none of them again."
    )
    for column, (feature, rows) in zip(st.columns(max(len(gaps), 1)), gaps.items(), strict=False):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{headline(anchor, feature)}**")
            st.html("".join(_pilot_text_html(row) for row in rows))


def _pilot_text_html(row: Row) -> str:
    """One text of a pilot: verdict and reason, peak and tokens, and what it says turn by turn."""
    kept, name = row["kept"], outcome_name(results.outcome_of(row))
    why = "it fires its gap and passes every check" if kept else REASON_WORDS[row["reason"]]
    verdict = f'<b class="{"fac-pass" if kept else "fac-fail"}">{escaped(name)}</b>'
    facts = f"<span>peak {row['peak']:.2f}</span>"
    if row.get("own_peak") is not None:
        facts += f"<span>{row['own_peak']:.2f} in its own words</span>"
    facts += f"<span>{row['tokens']:,} tokens</span>"
    text = chat_html(row["messages"], limit=ROOM) if row["messages"] else ""
    return (
        f'<div class="fac-example">{verdict}<div class="fac-meta">{facts}</div>'
        f'<div class="fac-meta">{escaped(why)}</div>{text}</div>'
    )


def show_candidate(manifest: SynthesisManifest, candidate: str) -> None:
    """One text: what it fires, token by token, and why it is there or is not."""
    run, threshold = manifest.run, manifest.spec.threshold
    row = stores().cache.candidate(run, candidate, threshold=threshold)
    assert row is not None, "the list names candidates of this run"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"#### {headline(manifest.facts.anchor, row['feature'])}", width="stretch")
        if row["kept"]:
            st.badge(results.KEPT, icon=":material/check:", color="green")
        else:
            st.badge(outcome_name(row["reason"]), icon=":material/block:", color="gray")
    if not row["kept"]:
        st.caption(f"Dropped: {REASON_WORDS[row['reason']]}.")
    by_gap = results.traces(stores(), run, candidate)
    if by_gap:
        _show_traces(row, by_gap, threshold)
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
            for turn, prompt in origin.later_prompts.items():
                st.caption(f"Then for the {plain(turn)}:")
                show_request(prompt)
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


def _show_traces(row: Row, by_gap: Mapping[int, Row], threshold: float) -> None:
    """The text, coloured for the gap it was written for or another one that it fires."""
    peaks = {hit["feature"]: hit["peak"] for hit in row["hits"]}
    fired = {row["feature"], *(hit["feature"] for hit in results.fired(row, threshold))}
    gaps = sorted(fired & by_gap.keys(), key=lambda gap: (gap != row["feature"], -peaks[gap]))
    gaps = gaps[:MOST_GAPS]
    gap: int | None = gaps[0]
    if len(gaps) > 1:
        options: Row = {"format_func": lambda gap: f"#{gap} {peaks[gap]:.2f}", "default": gap}
        options |= {"key": f"trace of {row['candidate']}", "label_visibility": "collapsed"}
        help = "The gaps it fires, its own first; the colour shows where."
        gap = st.pills("Where it fires", gaps, required=True, help=help, **options)
    trace = by_gap[gaps[0] if gap is None else gap]
    marks: Row = {"breaks": True, "borrowed": trace.get("borrowed") or ()}
    st.html(traced_html(row["messages"], trace["tokens"], trace["activations"], **marks))
    if trace.get("borrowed") is not None:
        taken = any(trace["borrowed"])
        st.caption(
            "Colour: where it fires. Dotted and pale: three or more words in a row that its pair, "
            "its prompt or the explanation has too; they do not count. A shared word alone does."
            if taken
            else "Colour: where it fires. Every word is its own."
        )


def _show_hits(row: Row, threshold: float) -> None:
    """What a dropped text was measured to fire."""
    if not row["messages"]:
        st.caption("There was no text to measure.")
        return
    for hit in row["hits"]:
        if hit["feature"] == row["feature"]:
            st.caption(
                f"Its own gap peaks at {hit['peak']:.3f} on token {hit['position']}, in the "
                f"{hit['role']}'s turn{_in_own_words(hit)}; the threshold is {threshold:g}."
            )
    fired = [hit for hit in results.fired(row, threshold) if hit["feature"] != row["feature"]]
    words = ", ".join(f"\\#{hit['feature']} at {hit['peak']:.2f}" for hit in fired[:MOST_GAPS])
    more = f" and {n:,} more" if (n := len(fired) - MOST_GAPS) > 0 else ""
    if fired:
        st.caption(f"It also fires {words}{more}.")
    elif not row["n_hits"]:
        st.caption(f"It fires none of the gaps above {threshold:g}.")


def _in_own_words(hit: Row) -> str:
    own_peak = hit.get("own_peak")
    return "" if own_peak is None else f", and at {own_peak:.3f} in its own words"
