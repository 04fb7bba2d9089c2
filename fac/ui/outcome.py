"""What came of a synthesis: what was kept and why, what it cost, what it changed, how it leaves."""

from __future__ import annotations

import html
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from fac import charts, compare, export
from fac.config import MeasureSpec, read_spec
from fac.coverage import is_active
from fac.datasets import FORMATS
from fac.export import EXPORT_FORMATS
from fac.generator.names import public_name
from fac.schema import ROLES, CoverageResult
from fac.ui.findings import measured, titles
from fac.ui.jobs import counted, start
from fac.ui.meaning import explained, explanation_texts, headline
from fac.ui.pairs import pair_html, turns_of
from fac.ui.stores import cache, queue, runs, stores, workspace
from fac.ui.synthesis import open_launch, open_result, syntheses, synthesis_title
from fac.ui.text import (
    Row,
    chat_html,
    clean,
    example_html,
    explanation_html,
    plain,
    show_examples,
    tokens_html,
)
from fac.ui.views import COMPARE, PAIRS, get_param, link, param_widget, set_param
from fac.ui.writing import show_request

KEPT = "kept"
"""The outcome of a text that stays; every other is the reason why one was dropped."""

REASON_WORDS = {
    "failed": "the writer gave nothing",
    "unreadable": "it is not in the form of a sample",
    "empty": "it says nothing",
    "refusal": "the writer refused",
    "cut off": "it ends before its first sentence does",
    "echo": "it copies what its writer was shown",
    "duplicate": "it nearly repeats a stronger text that was kept",
    "contamination": "it overlaps with the anchor or with an evaluation file",
    "below threshold": "its gap does not fire in it above the threshold",
    "beaten": "it passed, but stronger texts fill the places of its gap",
    "redundant": "it passed, but covers no gap that the others leave open",
}
"""Why a text was dropped, as the end of a sentence."""

ALL = "all"

MOST_GAPS = 12
"""Gaps of one text that are listed."""


# --- which ------------------------------------------------------------------------------------


def shown_result() -> Row | None:
    """The finished synthesis that the address asks for, else the one looked at last; None where
    a launch is asked for instead."""
    asked = st.query_params
    if "pairs" in asked and "synthesis" not in asked:
        set_param("synthesis", None)
    wanted = asked.get("synthesis")
    found = syntheses()
    run = get_param("synthesis", "", valid=found.__contains__)
    if not run:
        if wanted:
            st.warning(
                f"No finished synthesis here is called {plain(wanted)}; its run may have been "
                f"deleted, or lie in another workspace.",
                icon=":material/search_off:",
            )
            set_param("synthesis", None)
        return None
    if "pairs" in asked:
        del asked["pairs"]
    return found[run]


def result_header(manifest: Row) -> None:
    """Which result this is, the others, and the ways back."""
    found, run = syntheses(), manifest["run"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        _pick_result("Result", found, run)
        st.button(
            "New synthesis",
            icon=":material/add:",
            on_click=open_launch,
            args=(manifest["spec"]["pairs"],),
        )
        link(PAIRS, "Its pairs", pairs=manifest["spec"]["pairs"])
    spec, facts = manifest["spec"], manifest["facts"]
    by = f", approved by {', '.join(facts['approvers'])}" if facts["approvers"] else ""
    who = public_name(spec["model"] if spec["writer"] == "openai" else facts["writer"])
    st.caption(
        plain(
            f"{facts['method']} for {facts['gaps']:,} gaps of {facts['name']}{by}; written by "
            f"{who}, {spec['candidates']} texts a gap, best {spec['keep']} kept above "
            f"{spec['threshold']:g}."
        )
    )


def past_results() -> None:
    """The finished syntheses to choose from, above the form."""
    if found := syntheses():
        _pick_result("Finished syntheses", found, None)


def _pick_result(label: str, found: Mapping[str, Row], run: str | None) -> None:
    key = f"result {run}"
    st.selectbox(
        label,
        list(found),
        index=None if run is None else list(found).index(run),
        format_func=lambda each: synthesis_title(found[each]),
        placeholder="Look at what came out",
        width=420 if run else 300,
        key=key,
        on_change=lambda: open_result(st.session_state[key]),
    )


# --- in numbers -------------------------------------------------------------------------------


def figure(label: str, value: str, meaning: str, delta: str | None = None) -> None:
    """One bordered number."""
    st.metric(label, value, delta, help=meaning, border=True, height="stretch")


def number(value: float | None) -> float:
    """What JSON has no word for is NaN again."""
    return math.nan if value is None else value


def ledger_rows(facts: Row) -> list[Row]:
    """What it took: in all, per kept sample, per gap that got one, per newly covered feature."""
    parts = (facts["kept"], facts["gaps_hit"], facts["features_gained"])
    spent = (
        ("Texts written", facts["n_candidates"], "{:,.1f}"),
        ("Tokens written", facts["tokens"], "{:,.0f}"),
        ("Tokens of prompts", facts["prompt_tokens"], "{:,.0f}"),
        ("Seconds of writing", facts["seconds"], "{:,.1f}"),
        ("US dollars", facts["cost"], "{:,.4f}"),
    )
    rows = []
    for what, total, form in spent:
        if total is None:  # no price is known
            continue
        per = [_ratio(total, n, form) for n in parts]
        whole = form if isinstance(total, float) else "{:,}"
        row = {"what": what, "total": whole.format(total)}
        rows.append({**row, **dict(zip(("per_kept", "per_gap", "per_feature"), per, strict=True))})
    return rows


def _ratio(total: float, n: int, form: str) -> str:
    """A dash where it is undefined."""
    return form.format(total / n) if n else "–"


def enough(curve: Sequence[int]) -> int:
    """How many of the kept samples, best first, cover all that they all do."""
    return 1 + curve.index(curve[-1]) if curve else 0


def gaps_of(run: str) -> list[int]:
    """Every gap that the synthesis's run of pairs is about."""
    manifest = runs().manifest(run)
    found: list[int] = runs().manifest(manifest["spec"]["pairs"])["facts"]["features"]
    return found


def remaining(run: str) -> list[int]:
    """Of these, the gaps that no kept sample fires."""
    covered = {gap for row in _verdicts(workspace().root, run) for gap in row["gains"]}
    return [gap for gap in gaps_of(run) if gap not in covered]


@st.cache_resource(max_entries=16, show_spinner=False)
def _verdicts(root: Path, run: str) -> list[Row]:
    """The verdicts of a run on what it kept."""
    table = stores(root).runs.table(run, "verdicts")
    return table.filter(pc.field("kept")).to_pylist()


# --- measured again ---------------------------------------------------------------------------


class Remeasured(NamedTuple):
    """What an independent measure of the kept dataset found."""

    run: str
    """The measure."""

    rows: int
    confirmed: int
    """Rows whose own gap fires above the threshold in what was measured anew."""

    together: CoverageResult
    """Of the dataset with the kept samples, both as measured."""


def measure_of(manifest: Row) -> str | None:
    """The newest measure of what was kept, with the anchor's model, layer and SAE; None where
    there is none yet."""
    dataset, encoder = manifest["facts"]["kept_dataset"], manifest["facts"]["encoder"]
    return next(
        (
            run
            for run, found in measured().items()
            if (found["facts"]["dataset"], found["facts"]["encoder"]) == (dataset, encoder)
        ),
        None,
    )


def being_measured(manifest: Row) -> bool:
    """Whether a live job measures what was kept."""
    kept = manifest["facts"]["kept_dataset"]
    return any(
        job.step == MeasureSpec.step and job.spec["dataset"] == kept for job in queue().live()
    )


def start_remeasure(manifest: Row) -> None:
    """Measures what was kept exactly as the anchor was."""
    facts = manifest["facts"]
    before = runs().manifest(facts["anchor"])["spec"]
    fields = {**before, "dataset": facts["kept_dataset"]}
    start(read_spec(MeasureSpec.step, fields), "Measuring what was kept")


@st.cache_data(max_entries=32, show_spinner=False)
def _remeasured(root: Path, synthetic: str, measure: str) -> Remeasured:
    known = stores(root)
    manifest = known.runs.manifest(synthetic)
    facts, threshold = manifest["facts"], manifest["spec"]["threshold"]
    rows = known.runs.table(facts["kept_dataset"], "samples", ["meta"]).to_pylist()
    own = [json.loads(row["meta"])["feature"] for row in rows]
    columns = ["sample", "feature", "peak"]
    peaks = known.runs.rows(measure, "activations", sorted(set(own)), columns)
    active = peaks.filter(pa.array(is_active(peaks["peak"].to_numpy(), threshold)))
    fires = set(zip(active["sample"].to_pylist(), active["feature"].to_pylist(), strict=True))
    relevant = compare.relevant_set("all", known.cache, facts["anchor"], runs=known.runs)
    together = compare.coverage_of(
        known.cache,
        facts["anchor"],
        facts["dataset"],
        threshold=threshold,
        relevant=relevant,
        also=[measure],
    )
    confirmed = sum((number, feature) in fires for number, feature in enumerate(own))
    return Remeasured(measure, len(own), confirmed, together)


def remeasured(synthetic: str, measure: str) -> Remeasured:
    """What a measure of the kept dataset says about a synthesis."""
    return _remeasured(workspace().root, synthetic, measure)


def remeasured_now(manifest: Row) -> Remeasured | None:
    """What an independent measure says, where there is one."""
    run = measure_of(manifest)
    return remeasured(manifest["run"], run) if run else None


def fac_rows(facts: Row, found: Remeasured | None) -> list[tuple[str, float, str]]:
    """(name, FAC, colour) of the dataset alone, with what is kept, and with all that was written;
    and as measured again."""
    rows = [
        ("before", number(facts["fac_before"]), charts.REST),
        ("with what is kept", number(facts["fac_after"]), charts.SHOWN),
    ]
    if found:
        rows.append(("the same, measured again", found.together.fac, charts.AGAIN))
    return [*rows, ("with all, unfiltered", number(facts["fac_unfiltered"]), charts.ALONG)]


def show_remeasured(manifest: Row, found: Remeasured | None) -> None:
    """What the second measure confirms and the way to compare; or the button that asks for it."""
    if found:
        known = measured()
        shown, facts = titles(known), manifest["facts"]
        right = found.confirmed == found.rows
        words = (
            f"Measured again, {found.confirmed:,} of {found.rows:,} rows fire their own gap above "
            f"the threshold."
        )
        (st.success if right else st.warning)(
            words, icon=":material/verified:" if right else ":material/report:"
        )
        if facts["dataset"] in known and facts["anchor"] in known:
            link(
                COMPARE,
                "Compare with the dataset, feature by feature",
                before=shown[facts["dataset"]],
                after=shown[found.run],
                anchor=shown[facts["anchor"]],
            )
    elif being_measured(manifest):
        st.badge("Being measured", icon=":material/hourglass_top:", color="blue")
    else:
        st.button(
            "Measure what is kept",
            icon=":material/speed:",
            on_click=start_remeasure,
            args=(manifest,),
            help="As a dataset of its own, with the anchor's model, layer and SAE: an independent "
            "check of every row, and the way to compare feature by feature.",
        )


def unasked_rows(manifest: Row, offset: int, limit: int) -> tuple[list[Row], int]:
    """One page of the features gained that nobody asked for, as the anchor knows them."""
    facts = manifest["facts"]
    return cache().features_page(
        facts["anchor"],
        ids=facts["gained_unasked"],
        explained=explained(facts["anchor"]),
        sort="n_samples",
        descending=True,
        offset=offset,
        limit=limit,
    )


# --- the texts --------------------------------------------------------------------------------


def look_outcome(facts: Row) -> str | None:
    """The outcome that somebody asked for; None for the usual one."""
    return get_param("reason", None, valid=_outcomes(facts).__contains__)


def pick_outcome(facts: Row) -> str:
    """Whose texts are in view: those that were kept, unless there are none or others are chosen."""
    options = _outcomes(facts)
    counts = {KEPT: facts["kept"], ALL: facts["n_candidates"], **facts["dropped"]}
    return st.selectbox(
        "Outcome",
        options,
        format_func=lambda each: f"{each} · {counts[each]:,}",
        width=210,
        **param_widget("reason", options[0], valid=options.__contains__),
    )


def _outcomes(facts: Row) -> list[str]:
    return [*([KEPT] if facts["kept"] else []), ALL, *facts["dropped"]]


def blurred() -> bool:
    """Whether texts of datasets are to be hidden: tables, which cannot blur, leave them out."""
    return bool(st.session_state.get("blur"))


def candidates_page(run: str, *, outcome: str, **listing: Any) -> tuple[list[Row], int]:
    """One page of the texts with this outcome: rows of Cache.candidates as the table shows them,
    with `verdict`, `g`, `place` and `text`, how it begins."""
    only = outcome if outcome in (ALL, KEPT) else "dropped"
    reason = None if outcome in (ALL, KEPT) else outcome
    rows, total = cache().candidates(run, only=only, reason=reason, **listing)
    shown = [
        {
            **row,
            "verdict": KEPT if row["kept"] else row["reason"],
            "g": row["peak"],
            "place": row["rank"] + 1 if row["rank"] >= 0 else None,
            "text": clean(" ".join(said_in(row["messages"]).split()))[:160],
        }
        for row in rows
    ]
    return shown, total


def said_in(messages: Sequence[Mapping[str, str]]) -> str:
    """Everything a sample says."""
    return "\n".join(message["content"] for message in messages)


class Trace(NamedTuple):
    """A kept text token by token, for one gap that it fires."""

    feature: int
    tokens: list[str]
    activations: list[float]


def traces(run: str, candidate: str) -> dict[int, Trace]:
    """Where a kept text fires, by gap; nothing for a text that was dropped."""
    if "traces.parquet" not in runs().manifest(run)["files"]:  # made before texts were traced
        return {}
    found = _traces(workspace().root, run)
    return {row["feature"]: Trace(**row) for row in found.get(candidate, ())}


@st.cache_resource(max_entries=8, show_spinner=False)
def _traces(root: Path, run: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in stores(root).runs.table(run, "traces").to_pylist():
        found.setdefault(row.pop("candidate"), []).append(row)
    return found


def trace_html(messages: Sequence[Mapping[str, str]], trace: Trace) -> str:
    """The text turn by turn with the activation as the depth of colour, its peak underlined."""
    tokens, values = trace.tokens, trace.activations
    top, peak = (
        max(values, default=0.0),
        max(range(len(values)), key=values.__getitem__, default=-1),
    )
    turns = turns_of(messages, tokens)
    bodies = []
    for role, (first, last) in turns:
        at = peak - first if first <= peak < last else None
        shown = tokens[first:last], values[first:last]
        body = tokens_html(*shown, strongest=top, peak=at, breaks=True)
        kind = role if role in ROLES else "other"
        head = f"<b>{html.escape(clean(role))}</b>"
        bodies.append(
            body if len(turns) == 1 else f'<div class="fac-turn fac-{kind}">{head}{body}</div>'
        )
    return f'<div class="fac-chat">{"".join(bodies)}</div>'


def extra_words(extra: Row) -> list[tuple[str, str]]:
    """What a sample has beside its messages, by profile, as (name, text)."""
    found = []
    if "label" in extra:
        found.append(("Label", str(extra["label"])))
    if "rejected" in extra:
        found.append(("The worse answer", extra["rejected"][-1]["content"]))
    if "choices" in extra:
        choices = extra["choices"]
        shows = f"{choices['matching']} shows the behaviour, {choices['other']} does not"
        found.append(("Answers", shows))
    return found


@st.cache_data(max_entries=128, show_spinner=False)
def _why(root: Path, run: str, candidate: str) -> export.Provenance:
    return export.provenance(run, candidate, runs=stores(root).runs)


def why(run: str, candidate: str) -> export.Provenance:
    """Everything that led to a kept row."""
    return _why(workspace().root, run, candidate)


def lineage_html(told: export.Provenance) -> str:
    """How a row came to be there, step by step, in small print."""
    lineage = told.lineage
    filtered = lineage["filter"]
    rows = [
        ("Measured", _measured_words(lineage)),
        (
            "Filter",
            f"above {filtered['threshold']:g}, place {filtered['rank'] + 1} of those that passed, "
            f"best {filtered['keep']} kept",
        ),
        ("Written by", f"{lineage['generator']} ({lineage['writer']})"),
        (
            "How",
            f"{lineage['method']}, style {lineage['style']}, seed {lineage['seed']}, "
            f"temperature {lineage['temperature']:g}",
        ),
        ("Prompt", lineage["prompt_hash"]),
        ("Encoder", lineage["encoder"]),
        ("Sample", lineage["sample_id"]),
    ]
    if lineage["pair"]:
        pair = lineage["pair"]
        rows.insert(
            2,
            (
                "Pair",
                f"{pair['pair']}, positive {pair['positive_peak']:.2f} ({pair['origin']}), "
                f"negative {pair['negative_peak']:.2f}",
            ),
        )
    for approval in reversed(lineage["approvals"]):
        when = datetime.fromisoformat(approval["at"]).astimezone()
        rows.insert(2, ("Approved by", f"{approval['reviewer']}, {when:%d %b %Y %H:%M}"))
    cells = "".join(
        f"<span>{html.escape(name)}</span><div>{html.escape(clean(str(value)))}</div>"
        for name, value in rows
    )
    return f'<div class="fac-past">{cells}</div>'


def _measured_words(lineage: Row) -> str:
    if lineage["activation"] is None:
        return "silent"
    span = lineage["span"]
    return (
        f"{lineage['activation']:.3f} on token {span['position']} of what the model read, in the "
        f"{span['role']}'s turn"
    )


def chosen_candidate(rows: Sequence[Row], manifest: Row, outcome: str) -> str | None:
    """The text in view: the one the address names, unless another outcome was asked for since;
    else the first of the list."""
    first = rows[0]["candidate"] if rows else None
    given = get_param("candidate", first)
    row = cache().candidate(manifest["run"], given) if given else None
    if row is None:
        return first
    is_of = (ALL, KEPT if row["kept"] else row["reason"])
    return given if look_outcome(manifest["facts"]) is None or outcome in is_of else first


def show_candidate(manifest: Row, candidate: str) -> None:
    """One text: what it fires, token by token, and why it is there or is not."""
    run, anchor = manifest["run"], manifest["facts"]["anchor"]
    row = cache().candidate(run, candidate)
    assert row is not None, "the list names candidates of this run"
    feature = row["feature"]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"#### {headline(anchor, feature)}", width="stretch")
        if row["kept"]:
            st.badge(KEPT, icon=":material/check:", color="green")
        else:
            st.badge(row["reason"], icon=":material/block:", color="gray")
    if not row["kept"]:
        st.caption(f"Dropped: {REASON_WORDS[row['reason']]}.")
    found = traces(run, candidate)
    if found:
        _show_traces(row, found)
    elif row["messages"]:
        st.html(chat_html(row["messages"], limit=20_000))
    for name, text in extra_words(row["extra"]):
        st.html(
            example_html([name], f'<div class="fac-text fac-blur">{html.escape(clean(text))}</div>')
        )
    if not row["kept"]:
        _show_hits(row, manifest["spec"]["threshold"])
        return
    st.markdown("**Why is this row here?**")
    told = why(run, candidate)
    if said := {f: text for _, f, text in explanation_texts(anchor)}.get(feature):
        st.html(explanation_html("what its gap is said to be", "", said, ""))
    st.html(lineage_html(told))
    if spans := cache().spans(anchor, feature, "top")[:1]:
        with st.expander("The gap in the anchor"):
            show_examples(spans)
    if told.pair:
        with st.expander("The pair it was written from"):
            st.html(pair_html(told.pair, manifest["spec"]["threshold"]))
    if told.prompt is not None:
        with st.expander("Exactly what its writer was given"):
            show_request(told.prompt)
    if told.rivals:
        with st.expander(f"{counted(len(told.rivals), 'other text')} for this gap"):
            st.html(_rivals_html(told.rivals))


def _show_traces(row: Row, found: Mapping[int, Trace]) -> None:
    """The text, coloured for its own gap or another one that it fires."""
    own, peaks = row["feature"], {hit["feature"]: hit["peak"] for hit in row["hits"]}
    gaps = sorted(found, key=lambda gap: (gap != own, -peaks[gap]))[:MOST_GAPS]
    shown: int | None = gaps[0]
    if len(gaps) > 1:
        shown = st.pills(
            "Where it fires",
            gaps,
            default=gaps[0],
            required=True,
            format_func=lambda gap: f"#{gap} {peaks[gap]:.2f}",
            key=f"trace of {row['candidate']}",
            label_visibility="collapsed",
            help="The gaps it fires, its own first; the colour shows where.",
        )
    st.html(trace_html(row["messages"], found[gaps[0] if shown is None else shown]))


def _show_hits(row: Row, threshold: float) -> None:
    """What a dropped text was measured to fire."""
    if not row["hits"]:
        st.caption(
            "It fires none of the gaps." if row["messages"] else "There was no text to measure."
        )
        return
    own = next((hit for hit in row["hits"] if hit["feature"] == row["feature"]), None)
    if own:
        st.caption(
            f"Its own gap peaks at {own['peak']:.3f} on token {own['position']}, in the "
            f"{own['role']}'s turn; the threshold is {threshold:g}."
        )
    others = [hit for hit in row["hits"] if hit is not own]
    if others:
        st.caption(
            "It also fires " + ", ".join(_hit_words(hit) for hit in others[:MOST_GAPS]) + "."
        )


def _hit_words(hit: Row) -> str:
    return f"#{hit['feature']} at {hit['peak']:.2f}".replace("#", "\\#")


def _rivals_html(rivals: Sequence[Row]) -> str:
    """The other texts for a gap, strongest first, with what became of them."""
    return "".join(
        example_html(
            [f"{one['peak']:.2f}", KEPT if one["kept"] else one["reason"]],
            f'<div class="fac-text fac-blur">'
            f"{html.escape(clean(said_in(one['messages'])[:600])) or '∅'}</div>",
        )
        for one in rivals
    )


# --- out --------------------------------------------------------------------------------------


def forms_of(profile: str) -> list[str]:
    """The forms that samples of a profile can take, its own first."""
    return list(dict.fromkeys((export.FORM_OF.get(profile, "chat"), "chat")))


def export_name(manifest: Row) -> str:
    """What a file of this synthesis is called, without its ending."""
    facts = manifest["facts"]
    name = f"{facts['name']}-{facts['method']}-{manifest['run'].rsplit('-', 1)[1][:6]}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "kept"


def export_file(manifest: Row, format: str, form: str, *, card: bool = False) -> bytes:
    """The kept samples as one file, or the card that belongs to it."""
    with tempfile.TemporaryDirectory(prefix="fac-export-") as folder:
        out = Path(folder) / f"{export_name(manifest)}.{format}"
        found = export.export(manifest["run"], out, runs=runs(), format=format, form=form)
        return (found.card if card else found.path).read_bytes()


def export_folder(manifest: Row, given: str, form: str) -> export.Exported:
    """Writes the kept samples to a new folder on the server, as the Hugging Face hub has them."""
    out = Path(given).expanduser().absolute()
    return export.export(manifest["run"], out, runs=runs(), format="hf", form=form)


def show_exports(manifest: Row, form: str) -> None:
    """Files to download, their card, and a folder on the server."""
    name = export_name(manifest)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for format in (name for name, written in EXPORT_FORMATS.items() if not written.data_file):
            st.download_button(
                FORMATS[format].title,
                partial(export_file, manifest, format, form),
                f"{name}.{format}",
                on_click="ignore",
                icon=":material/download:",
                key=f"export {format} {form}",
            )
        st.download_button(
            "Dataset card",
            partial(export_file, manifest, "jsonl", form, card=True),
            f"{name}.card.md",
            on_click="ignore",
            icon=":material/description:",
            key=f"card {form}",
            help="What it is, how it was made and how to check it, for those who get the file.",
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        given = st.text_input(
            "Or a folder on the server, as the Hugging Face hub has them",
            placeholder=f"~/exports/{name}",
            key=f"folder {manifest['run']}",
            width=460,
        ).strip()
        wanted = st.button("Write the folder", icon=":material/folder:", disabled=not given)
    if wanted:
        found = export_folder(manifest, given, form)
        st.success(
            f"{found.rows:,} rows, columns of the form {found.form}, in {plain(str(found.path))}.",
            icon=":material/task_alt:",
        )
