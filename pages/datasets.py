"""Add a dataset, read it, see what was refused and why, have it measured."""

from pathlib import Path

import streamlit as st

from fac.config import IngestSpec, MeasureSpec
from fac.datasets import file_titles, in_a_row, layout_titles
from fac.manifest import DatasetManifest, MeasureManifest
from fac.questions import catalogue
from fac.questions.results import synthesis_behind
from fac.ui import views
from fac.ui.jobs import save_upload, show_failures, start
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import PAGE_ROWS, Pager, table
from fac.ui.text import chat_html, chips_html, plain

PAGE = {"title": "Datasets", "section": "Measure", "icon": "database", "order": 10}

SOURCES = {"upload": "A file from here", "path": "A path on the server", "hub": "Hugging Face"}
VIEWS = ("samples", "refused rows", "provenance")
SAMPLES = 8


def add() -> None:
    """The form; a chosen source becomes an ingest job."""
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
        path = st.text_input("Path", placeholder="~/data/train.jsonl.gz").strip()
        source = str(Path(path).expanduser().absolute()) if path else ""
        stem = Path(path).name.split(".")[0]
    else:
        hub = st.text_input("Dataset id", placeholder="tatsu-lab/alpaca").strip()
        source, stem = f"hf:{hub}" if hub else "", hub.rsplit("/", 1)[-1]
    name = st.text_input("Name", value=stem, key=f"name of {stem}", max_chars=80).strip()
    with st.container(horizontal=True, vertical_alignment="center"):
        skip = st.toggle(
            "Skip bad rows",
            help="Bad rows are listed with their line and reason. Otherwise the "
            "first one stops the reading and nothing is stored.",
        )
        with st.popover("Columns", icon=":material/view_column:", type="tertiary"):
            st.caption("Leave empty and the columns speak for themselves.")
            text = st.text_input("Plain text") or None
            messages = st.text_input("Chat messages") or None
            label = st.text_input("Label") or None
    ready = bool(name and (upload or source))
    if st.button("Add", type="primary", icon=":material/add:", disabled=not ready):
        if upload:
            source = str(save_upload(upload.name, upload.getvalue()))
        spec = IngestSpec(
            name=name,
            source=source,
            text_field=text,
            messages_field=messages,
            label_field=label,
            on_bad="skip" if skip else "stop",
        )
        start(spec, f"Reading {name}")
        views.set_param("add", None)
        views.set_param("open", None)  # the newest is shown: the one that is coming
        st.rerun()


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
    columns = st.columns(2)
    for number, row in enumerate(rows):
        with columns[number % 2].container(border=True, gap="xsmall"):
            if row["label"]:
                st.html(chips_html([row["label"]], "flat"))
            st.html(chat_html(row["messages"]))
    pager.draw(total, "sample", "found" if search else "")


def show_rejected(run: str, measures: list[MeasureManifest]) -> None:
    """Rows of its file that are no sample, and samples that a measure left out."""
    listed = {run: ""}
    for each in measures:
        if each.facts.n_rejected:
            listed[each.run] = f"Left out when it was measured with {each.facts.encoder}"
    tables = {source: stores().runs.table(source, "rejected") for source in listed}
    if not any(rows.num_rows for rows in tables.values()):
        st.caption("No row was refused.")
    for source, rows in tables.items():
        if rows.num_rows:
            if about := listed[source]:
                st.caption(plain(about))
            pager = Pager("refused", source)
            part = rows.slice(pager.offset, pager.size)
            table(part.to_pylist(), ("line", "reason"), key=f"refused rows of {source}")
            pager.draw(rows.num_rows, "row", "refused")


def measure(run: str, *, again: bool) -> None:
    """What the dataset is read with, and the button. Once measured, both are in the popover."""
    usual = catalogue.usual_encoder(stores())
    slot = st.container(width="content")
    with st.popover("Measure again" if again else "With", icon=":material/tune:", type="tertiary"):
        st.caption("Features can only be compared where model, layer and SAE are the same.")
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
            usual.despite or "",
            help="Why an SAE is taken that says it belongs to another model, layer or hook; the "
            "reason stays with the measure. Empty: such an SAE is refused.",
        ).strip()
        corner = st.container() if again else slot
    meaning = "Reads every sample with the model and keeps each feature's peak."
    if corner.button("Measure", type="primary", icon=":material/speed:", help=meaning):
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
    if facts.says_unread:
        st.caption(plain(facts.says_unread))
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
            measure(run, again=bool(measures))
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
        st.json({key: provenance[key] for key in keys})


title("Datasets")
datasets = catalogue.datasets(stores())
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
