"""Add a dataset, read it, see what was refused and why, have it measured."""

from pathlib import Path

import streamlit as st

from fac import ui
from fac.config import IngestSpec
from fac.datasets import file_titles, in_a_row, layout_titles

SOURCES = {"upload": "A file from here", "path": "A path on the server", "hub": "Hugging Face"}
SHOWS = ("samples", "refused rows", "provenance")
SHOWN = 8


def add() -> None:
    """The form; a chosen source becomes an ingest job."""
    kind = ui.choice("Source", tuple(SOURCES), "from", names=SOURCES, label_visibility="collapsed")
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
        given = st.text_input("Path", placeholder="~/data/train.jsonl.gz").strip()
        source = str(Path(given).expanduser().absolute()) if given else ""
        stem = Path(given).name.split(".")[0]
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
        place = str(ui.save_upload(upload.name, upload.getvalue())) if upload else source
        spec = IngestSpec(
            name=name,
            source=place,
            text_field=text,
            messages_field=messages,
            label_field=label,
            on_bad="skip" if skip else "stop",
        )
        ui.start(spec, f"Reading {name}")
        ui.set_param("add", None)
        ui.set_param("open", None)  # the newest is shown: the one that is coming
        st.rerun()


def show_samples(run: str) -> None:
    search = st.text_input(
        "Search",
        placeholder="Search texts and labels",
        label_visibility="collapsed",
        icon=":material/search:",
        key=f"search of {run}",
    )
    pager = ui.Pager("samples", run, search, size=SHOWN)
    rows, total = ui.samples(run, search=search, offset=pager.offset, limit=SHOWN)
    columns = st.columns(2)
    for number, row in enumerate(rows):
        with columns[number % 2].container(border=True, gap="xsmall"):
            if row["label"]:
                st.html(ui.chips_html([row["label"]], "flat"))
            st.html(ui.chat_html(row["messages"]))
    pager.draw(total, "sample", "found" if search else "")


def show_rejected(run: str) -> None:
    refused = ui.runs().table(run, "rejected")
    if not refused.num_rows:
        st.caption("No row was refused.")
        return
    pager = ui.Pager("refused", run)
    part = refused.slice(pager.offset, pager.size)
    ui.table(part.to_pylist(), ("line", "reason"), key="refused rows")
    pager.draw(refused.num_rows, "row", "refused")


def measure(run: str, *, again: bool) -> None:
    """What the dataset is read with, and the button. Once measured, both are in the popover."""
    usual = ui.usual_encoder()
    slot = st.container(width="content")
    with st.popover("Measure again" if again else "With", icon=":material/tune:", type="tertiary"):
        st.caption("Features can only be compared where model, layer and SAE are the same.")
        model = st.text_input("Model", usual["model"], help="demo, a folder or a hub id").strip()
        layer = st.number_input("Layer", 0, 1000, usual["layer"])
        sae = st.text_input("SAE", usual["sae"], help="demo, a folder or RELEASE/SAE_ID").strip()
        place = st.container() if again else slot
    explained = "Reads every sample with the model and keeps each feature's peak."
    if place.button("Measure", type="primary", icon=":material/speed:", help=explained):
        ui.start_measure(run, model, layer, sae)
        st.rerun()


def show(manifest: ui.Row, measures: list[ui.Row]) -> None:
    """One dataset: figures, what can be done with it, and its rows."""
    run, facts = manifest["run"], manifest["facts"]
    st.subheader(ui.plain(facts["name"]))
    ui.cards(
        ("Samples", f"{facts['n_samples']:,}", "Distinct samples that were kept."),
        ("Duplicates", f"{facts['duplicates']:,}", "Rows whose content had been seen before."),
        ("Refused", f"{facts['n_rejected']:,}", "Rows that cannot become a sample."),
        (
            "Features shown",
            f"{measures[0]['facts']['features_fired']:,}" if measures else "–",
            "Features of the SAE that fire at least once; known once measured.",
        ),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if measures:
            view = {"dataset": ui.titles(ui.measured())[measures[0]["run"]]}
            ui.link(ui.COVERAGE, "Its coverage", **view)
            ui.link(ui.FEATURES, "Its features", **view)
        if made := ui.synthesis_behind(run):
            ui.link(ui.SYNTHESIS, "Why each row is there", synthesis=made)
        if ui.measuring(run):
            st.badge("Being measured", icon=":material/hourglass_top:", color="blue")
        else:
            measure(run, again=bool(measures))
    what = ui.choice("Show", SHOWS, "rows", label_visibility="collapsed")
    if what == "samples":
        show_samples(run)
    elif what == "refused rows":
        show_rejected(run)
    else:
        told = ("run", "created", "seconds", "spec", "facts", "files")
        st.json({key: manifest[key] for key in told})


ui.title("Datasets")
datasets = ui.runs().list("dataset")
asked = ui.get_param("add", "no") == "yes"
with st.expander("Add a dataset", icon=":material/add:", expanded=asked or not datasets):
    add()
ui.show_failures("dataset", "measure")

if not datasets:
    ui.empty(
        "No dataset yet",
        "Drop a file above. A few hundred samples are enough to see which features it shows.",
        icon=":material/database:",
    )
    st.stop()

measures: dict[str, list[ui.Row]] = {}
for run in ui.measured().values():
    measures.setdefault(run["facts"]["dataset"], []).append(run)

rows = [
    {**each, **each["facts"], "state": ui.measure_state(each["run"], each["run"] in measures)}
    for each in datasets[: ui.PAGE]
]
columns = ("name", "n_samples", "duplicates", "n_rejected", "state", "created")
ui.table(rows, columns, key="datasets", opens="open", id_column="run")
known = {each["run"]: each for each in datasets}
chosen = ui.get_param("open", datasets[0]["run"], valid=known.__contains__)
show(known[chosen], measures.get(chosen, []))
