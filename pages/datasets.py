"""Add a dataset, read it, see what was refused and why, have it measured."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import IngestSpec, MeasureSpec
from fac.datasets import (
    Preview,
    SourceLayout,
    file_titles,
    in_a_row,
    layout_titles,
    preview,
)
from fac.errors import BadRow, FacError, Refused
from fac.manifest import DatasetManifest, MeasureManifest
from fac.markup import clean, clean_values, one_line
from fac.questions import catalogue
from fac.questions.estimates import measuring_time
from fac.questions.results import synthesis_behind
from fac.ui import views
from fac.ui.access import check_spec, needing, say_refusal
from fac.ui.jobs import safe_name, save_upload, show_failures, start
from fac.ui.models import encoder_in_url, forget_choice, is_chosen
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import PAGE_ROWS, Pager, table
from fac.ui.text import chat_html, chips_html, plain
from fac.ui.writing import duration

PAGE = {"title": "Datasets", "section": "Measure", "icon": "database", "order": 10}

SOURCES = {"upload": "A file from here", "path": "A path on the server", "hub": "Hugging Face"}
WAYS = {
    "": "Not recognised",
    "text": "Plain text",
    "chat": "Chats",
    "reply": "Prompts and replies",
}
# Of each way to read a source the columns it needs: field, label and part of a layout.
WAY_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "": (),
    "text": (("text_field", "Text", "text"),),
    "chat": (("messages_field", "Messages", "chat"),),
    "reply": (("prompt_field", "Prompt", "prompt"), ("reply_field", "Reply", "reply")),
}

WIDTH = 240  # Pixels; four stand in a row, one fills that of a telephone

VIEWS = ("samples", "refused rows", "provenance")
SAMPLES = 8


def add() -> None:
    """The form; a chosen source becomes an ingest job, and what it holds a measure where asked."""
    if say_refusal("file"):
        return
    kind = views.choice(
        "Source", tuple(SOURCES), "from", names=SOURCES, label_visibility="collapsed"
    )
    upload, source = None, ""
    if kind == "upload":
        layouts = in_a_row(layout_titles(), "and")
        upload = st.file_uploader(
            f"{in_a_row(file_titles())}; gzip is fine",
            key="upload",
            help=f"{layouts[0].upper()}{layouts[1:]} are recognised by their columns.",
        )
        stem = Path(upload.name).name.split(".")[0] if upload else ""
    elif kind == "path":
        path = st.text_input(
            "Path",
            placeholder="~/data/train.jsonl.gz",
            help="A file, a folder of files, or a pattern such as ~/data/part-*.jsonl.",
        ).strip()
        source = str(Path(path).expanduser().absolute()) if path else ""
        stem = re.sub(r"[*?\[\]]+", "", Path(path).name.split(".")[0]).rstrip("-_")
    else:
        hub = st.text_input(
            "Dataset id",
            placeholder="tatsu-lab/alpaca",
            help="ID@REVISION:CONFIG:SPLIT; all but the ID may be left out.",
        ).strip()
        source, stem = f"hf:{hub}" if hub else "", re.split("[@:]", hub.rsplit("/", 1)[-1])[0]
    if not (upload or source):
        return
    seen, fields = beginning(upload, source)
    stem = one_line(stem)
    name = st.text_input("Name", value=stem, key=f"name of {stem}", max_chars=80).strip()
    skip = st.toggle(
        "Skip bad rows",
        help="Bad rows are listed with their line and reason, as are samples that the model's chat "
        "template refuses. Otherwise the first one stops the reading and nothing is stored.",
    )
    is_named = fields is not None
    is_known = is_named and (kind == "hub" or (seen is not None and seen.layout is not None))
    encoder = encoder_in_url("", "skip" if skip else "stop")
    with st.container(horizontal=True, vertical_alignment="center"):
        early = not (is_known and name)
        tie = needing("launch", disabled=early)
        both = st.button("Add and measure", type="primary", icon=":material/speed:", **tie)
        alone = st.button("Add", icon=":material/add:", **tie)
    st.caption(plain(measuring_words(encoder, seen)))
    if both or alone:
        settings = {k: v for k, v in encoder.as_json().items() if k != "dataset"}
        try:
            if upload:
                source = str(save_upload(upload.name, upload.getvalue()))
            spec = IngestSpec(
                name=name,
                source=source,
                on_bad="skip" if skip else "stop",
                measure=settings if both else None,
                **(fields or {}),
            )
        except FacError as error:
            st.error(plain(str(error)), icon=":material/error:")
            return
        start(spec, f"Reading {name}, then measuring it" if both else f"Reading {name}")
        views.set_param("add", None)
        views.set_param("open", None)  # the newest is shown: the one that is coming
        st.rerun()


def measuring_words(spec: MeasureSpec, seen: Preview | None) -> str:
    """What a dataset would be measured with, and about how long that takes."""
    alike = ", as the anchor" if catalogue.measured(stores()) else ""
    alike = ", as chosen" if is_chosen() else alike
    words = f"Measuring: model {spec.model}, layer {spec.layer}, SAE {spec.sae}{alike}."
    if seen is None or not seen.lengths:
        return words
    amount = measuring_time(stores(), spec, seen.lengths, seen.share)
    if amount is None:
        return f"{words} How long it takes is said once the first samples are read."
    about = duration(max(amount.seconds, 1.0))
    return f"{words} About {about} once loaded, at the pace of {amount.like}."


@st.cache_resource(max_entries=16, show_spinner="Looking at its first rows …")
def look(source: str, stamp: object, fields: tuple[tuple[str, str], ...], _upload: Any) -> Preview:
    """The beginning of a file on the server, or of an uploaded one, which leaves nothing behind;
    of another `stamp` it is looked at anew."""
    if _upload is None:
        return preview(source, dict(fields))
    with TemporaryDirectory() as folder:
        file = Path(folder) / safe_name(source)
        file.write_bytes(_upload.getvalue())
        return preview(file, dict(fields))


def beginning(upload: Any, source: str) -> tuple[Preview | None, dict[str, str] | None]:
    """Shows what a source is taken for and its first rows; returns that, None where it cannot be
    read or the hub shows none of it, and the columns that a person names instead, None as long as
    one of them is missing."""
    try:
        check_spec({"source": source})
    except Refused as refusal:
        st.error(plain(str(refusal)), icon=":material/error:")
        return None, None
    of_hub = source.startswith("hf:")
    named: Named | None = None
    if upload:
        read = partial(look, upload.name, upload.file_id, _upload=upload)
        name = f"{upload.name} {upload.file_id}"
    else:
        stamp = time.time() // 600 if of_hub else changed(source)
        read, name = partial(look, source, stamp, _upload=None), source
    try:
        guess = read(())
        named = columns_named(name, guess.columns, guess.layout)
        if named.nothing:
            ask_for_columns(named)
            return None, None
        seen = read(tuple(sorted(named.fields.items()))) if named.fields else guess
        if seen.layout is None and named.lacking:
            ask_for_columns(named)
            return None, None
    except FacError as error:
        if not of_hub:
            st.error(plain(str(error)), icon=":material/error:")
            return None, {}
        # The worker may know what this page cannot see: a copy, a revision.
        named = named or columns_named(name, (), None)
        st.caption(plain(str(error)))
        if named.nothing:
            ask_for_columns(named)
            return None, None
        return None, named.fields
    show_beginning(seen)
    return seen, named.fields


class Named(NamedTuple):
    """Columns that a person names."""

    fields: dict[str, str]  # of an IngestSpec
    lacking: list[str]  # labels of those that are not named; the only other one may be meant
    nothing: bool  # whether a way to read was chosen, and none of its columns


def ask_for_columns(named: Named) -> None:
    columns = f"{'columns' if len(named.lacking) > 1 else 'column'} for {in_words(named.lacking)}"
    st.warning(f"Choose the {columns}: until then nothing is added.", icon=":material/view_column:")


def changed(path: str) -> object:
    """When a file was changed last; of a pattern and a folder, whose files say that, a moment."""
    with suppress(OSError, ValueError):
        if not Path(path).is_dir():
            return Path(path).stat().st_mtime_ns, Path(path).stat().st_size
    return time.time() // 10


def columns_named(name: str, columns: Sequence[str], guess: SourceLayout | None) -> Named:
    """How a source is to be read where its columns say it wrongly, or not at all; `columns` are
    typed where they are not known."""
    guessed = f"Guessed: {guess.layout.title}" if guess else WAYS[""]
    parts: Mapping[str, str] = guess.columns if guess else {}

    def column(label: str, field: str, usual: str | None) -> None:
        key = f"{field} of {name}"
        if columns:
            index = columns.index(usual) if usual in columns else None
            how: Any = {"format_func": clean, "placeholder": "Choose a column", "width": WIDTH}
            chosen = st.selectbox(label, columns, index, key=key, **how)
        else:
            chosen = st.text_input(label, key=key, width=WIDTH).strip()
        if chosen and (field != "label_field" or chosen != usual):
            fields[field] = chosen

    fields: dict[str, str] = {}
    with st.container(horizontal=True):
        way = st.selectbox(
            "Read as",
            [*WAYS],
            format_func=lambda way: WAYS[way] if way else guessed,
            key=f"way of {name}",
            width=WIDTH,
        )
        for field, label, part in WAY_COLUMNS[way]:
            column(label, field, parts.get(part))
        column("Label, if any", "label_field", guess.label if guess else None)
    needed = WAY_COLUMNS[way]
    lacking = [label for field, label, _ in needed if field not in fields]
    return Named(fields, lacking, bool(needed) and len(lacking) == len(needed))


def show_beginning(seen: Preview) -> None:
    """The first rows as the samples they become, and what is left out."""
    names = in_words(seen.columns)
    if seen.layout is None:
        st.warning(
            plain(f"The columns {seen.problem}: {names}. Choose above what holds the samples."),
            icon=":material/view_column:",
        )
        return
    about = "" if seen.share >= 1 else "about "
    words = (
        f"Its {about}{seen.n_rows:,} rows become chats made of {in_words(seen.layout.chat_columns)}"
    )
    if seen.layout.label in seen.columns:
        words += f", labelled by {in_words([str(seen.layout.label)])}"
    words += "."
    if seen.beside:
        words += f" Kept beside them, not measured: {in_words(seen.beside)}."
    st.caption(plain(f"{words} {seen.layout.note or ''}"))
    if seen.bad:
        n, first = len(seen.bad), seen.bad[0]
        of = f"{n:,} of the first {n + len(seen.lengths):,} rows cannot be read"
        st.warning(
            plain(f"{of}; line {first.line}: {first.reason}. Correct them, or skip bad rows."),
            icon=":material/rule:",
        )
    for row, cell in zip(seen.rows, in_pairs(len(seen.rows)), strict=True):
        with cell:
            if isinstance(row, BadRow):
                st.caption(plain(f"Line {row.line}: {row.reason}."))
                continue
            if row.label:
                st.html(chips_html([row.label], "flat"))
            st.html(chat_html(row.messages, limit=280))


def in_pairs(n: int) -> Iterator[DeltaGenerator]:
    """Boxes for `n` texts, two in a row; one below the other where there is no room for two."""
    for number in range(n):
        if number % 2 == 0:
            cells = st.columns(2)
        yield cells[number % 2].container(border=True, gap="xsmall")


def in_words(columns: Sequence[str]) -> str:
    """Names of columns in a sentence; of many the first."""
    names = in_a_row([clean(name)[:40] for name in columns[:12]], "and")
    return names if len(columns) <= 12 else f"{names} and {len(columns) - 12} more"


def show_samples(run: str) -> None:
    search = st.text_input(
        "Search",
        placeholder="Search texts and labels",
        label_visibility="collapsed",
        icon=":material/search:",
        key=f"search of {run}",
    )
    pager = Pager("samples", run, search, size=SAMPLES)
    rows, total = catalogue.samples(
        stores(), run, search=search, offset=pager.offset, limit=SAMPLES
    )
    for row, cell in zip(rows, in_pairs(len(rows)), strict=True):
        with cell:
            if row["label"]:
                st.html(chips_html([row["label"]], "flat"))
            st.html(chat_html(row["messages"]))
    pager.draw(total, "sample", "found" if search else "")


def show_rejected(run: str, measures: list[MeasureManifest]) -> None:
    """Rows of its file that are no sample, and samples that a measure left out."""
    listed = {run: "Refused when its file was read"}
    for each in measures:
        if each.facts.n_rejected:
            listed[each.run] = f"Left out when it was measured with {each.facts.encoder}"
    every = {source: stores().runs.table(source, "rejected") for source in listed}
    tables = {source: rows for source, rows in every.items() if rows.num_rows}
    if not tables:
        st.caption("No row was refused.")
    for source, rows in tables.items():
        if [*tables] != [run]:
            st.caption(plain(listed[source]))
        pager = Pager("refused", source)
        part = rows.slice(pager.offset, pager.size)
        table(part.to_pylist(), ("line", "reason"), key=f"refused rows of {source}")
        pager.draw(
            rows.num_rows, *(("row", "refused") if source == run else ("sample", "left out"))
        )


def measure(run: str, *, again: bool) -> None:
    """What the dataset is read with, and the button. Once measured, both are in the popover."""
    usual = encoder_in_url()
    slot = st.container(width="content")
    with st.popover("Measure again" if again else "With", icon=":material/tune:", type="tertiary"):
        st.caption("Features can only be compared where model, layer and SAE are the same.")
        views.link("models", "Choose and check another pair", icon=":material/neurology:")
        model = st.text_input("Model", usual.model, help="demo, a folder or a hub id").strip()
        layer = st.number_input("Layer", 0, 1000, usual.layer)
        sae = st.text_input("SAE", usual.sae, help="demo, a folder or RELEASE/SAE_ID").strip()
        skip = st.toggle(
            "Skip what the model refuses",
            help="Samples that its chat template refuses are left out and listed. Otherwise the "
            "first one stops the measure.",
        )
        despite = st.text_input(
            "Despite",
            usual.despite,
            placeholder="the reason, if the SAE says it belongs elsewhere",
            help="Why an SAE is taken that says it belongs to another model, layer or hook; the "
            "reason stays with the measure. Empty: such an SAE is refused.",
        ).strip()
        corner = st.container() if again else slot
    meaning = "Reads every sample with the model and keeps each feature's peak."
    tie = needing("launch", help=meaning)
    if corner.button("Measure", type="primary", icon=":material/speed:", **tie):
        on_bad = "skip" if skip else "stop"
        spec = MeasureSpec(
            dataset=run, model=model, layer=layer, sae=sae, despite=despite, on_bad=on_bad
        )
        start(spec, f"Measuring {stores().runs.manifest(run).facts.name}")
        st.rerun()


def measuring(dataset: str) -> bool:
    """Whether a live job is measuring this dataset run."""
    live = stores().queue.live()
    return any(job.step == MeasureSpec.step and job.spec["dataset"] == dataset for job in live)


def is_like(measure: MeasureManifest, encoder: MeasureSpec) -> bool:
    """Whether something was measured with this model, layer and SAE."""
    facts = measure.facts
    question = encoder.model, encoder.layer, encoder.sae
    return not is_chosen() or (facts.model, facts.layer, facts.sae) == question


def chosen_words() -> None:
    """What was chosen on the page Models, and the way back to the anchor's."""
    encoder = encoder_in_url()
    with st.container(horizontal=True, vertical_alignment="center"):
        words = f"Measured with {encoder.sae} on {encoder.model}, layer {encoder.layer}."
        st.caption(plain(words), width="stretch")
        views.link("models", "Choose another", icon=":material/neurology:")
        views.action_button("As the anchor", "undo", forget_choice, type="tertiary")


def state(dataset: str, measures: list[MeasureManifest]) -> str:
    """How far a dataset run is, in a word or two."""
    if measures:
        return "measured"
    return "being measured" if measuring(dataset) else "not measured"


def show(manifest: DatasetManifest, measures: list[MeasureManifest]) -> None:
    """One dataset: figures, what can be done with it, and its rows."""
    run, facts = manifest.run, manifest.facts
    st.subheader(plain(facts.name))
    views.cards(
        ("Samples", f"{facts.n_samples:,}", "Distinct samples that were kept."),
        ("Duplicates", f"{facts.duplicates:,}", "Rows whose content had been seen before."),
        ("Refused", f"{facts.n_rejected:,}", "Rows that cannot become a sample."),
        (
            "Features shown",
            f"{measures[0].facts.features_fired:,}" if measures else "–",
            "Features of the SAE that fire at least once; known once measured.",
        ),
    )
    about = (facts.note, facts.says_beside, facts.says_relabelled, facts.says_unread)
    if any(about):
        st.caption(plain(" ".join(filter(None, about))))
    for each in measures:
        if each.facts.says_left_out:
            st.caption(plain(each.facts.says_left_out))
    with st.container(horizontal=True, vertical_alignment="center"):
        if measures:
            view = {"dataset": catalogue.titles(catalogue.measured(stores()))[measures[0].run]}
            views.link("coverage", "Its coverage", **view)
            views.link("features", "Its features", **view)
            if len(facts.labels) > 1:
                views.link("experiments", "Would filling its gaps help?", **view)
        if synthesis := synthesis_behind(stores(), run):
            views.link("synthesis", "Why each row is there", synthesis=synthesis)
        if measuring(run):
            st.badge("Being measured", icon=":material/hourglass_top:", color="blue")
        else:
            measure(run, again=any(is_like(each, encoder_in_url()) for each in measures))
    if measures and (doubt := measures[0].facts.doubt):
        st.caption(plain(doubt))
    rows = views.choice("Show", VIEWS, "rows", label_visibility="collapsed")
    if rows == "samples":
        show_samples(run)
    elif rows == "refused rows":
        show_rejected(run, measures)
    else:
        keys = ("run", "created", "seconds", "spec", "facts", "files")
        provenance = dict(manifest.content)
        st.json(clean_values({key: provenance[key] for key in keys}))


title("Datasets")
datasets = catalogue.datasets(stores())
if is_chosen():
    chosen_words()
adding = views.get_param("add", "no") == "yes"
with st.expander("Add a dataset", icon=":material/add:", expanded=adding or not datasets):
    add()
show_failures("dataset", "measure")

if not datasets:
    views.empty(
        "No dataset yet",
        "Drop a file above. A few hundred samples are enough to see which features it shows.",
        icon=":material/database:",
    )
    st.stop()

measures: dict[str, list[MeasureManifest]] = {each.run: [] for each in datasets}
for measure_manifest in catalogue.measured(stores()).values():
    measures.setdefault(measure_manifest.facts.dataset, []).append(measure_manifest)

rows = [
    {
        "run": each.run,
        "dataset": each.facts.name,
        "n_samples": each.facts.n_samples,
        "duplicates": each.facts.duplicates,
        "n_rejected": each.facts.n_rejected,
        "state": state(each.run, measures[each.run]),
        "created": each.created,
    }
    for each in datasets[:PAGE_ROWS]
]
columns = ("dataset", "n_samples", "duplicates", "n_rejected", "state", "created")
table(rows, columns, key="datasets", opens="open", id_column="run")
by_run = {each.run: each for each in datasets}
opened = views.get_param("open", datasets[0].run, valid=by_run.__contains__)
show(by_run[opened], measures[opened])
