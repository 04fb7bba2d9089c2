"""How what a synthesis kept leaves: what will be in the file, then the files."""

from __future__ import annotations

import html
from functools import partial
from pathlib import Path

import streamlit as st

from fac.errors import InputError
from fac.export import (
    FORMS,
    Exported,
    Plan,
    awaited_in_words,
    counted,
    first_line,
    forms_of,
    looked_at_in_words,
    refusals,
)
from fac.manifest import SynthesisManifest
from fac.questions import exports
from fac.ui import jobs
from fac.ui.access import check_place, needing, permit
from fac.ui.stores import stores
from fac.ui.text import Row, clean, plain
from fac.ui.views import choice, guard

FORM_NAMES = {name: form.title.capitalize() for name, form in FORMS.items()}

DOWNLOADS = {
    "jsonl": "JSONL",
    "parquet": "Parquet",
    "openai": "OpenAI",
    "llamafactory": "LLaMA-Factory",
    "trl": "TRL",
    "axolotl": "Axolotl",
}
"""Formats to download, and what their buttons say."""

PREVIEW_CHARACTERS = 60_000


@st.fragment
@guard()
def show_export(manifest: SynthesisManifest) -> None:
    """Out: as a file to download, or as a folder on the server."""
    st.subheader("Export", anchor=False)
    with st.container(border=True):
        forms = forms_of(manifest.facts.profile)
        with st.container(horizontal=True, vertical_alignment="bottom", gap="large"):
            form = forms[0]
            if len(forms) > 1:
                form = choice("Columns", forms, "form", names=FORM_NAMES)
            help = "What they kept, edited or gave another label. All else stays here."
            reviewed = st.toggle("Only what people kept", key=f"reviewed {manifest.run}", help=help)
        try:
            plan = exports.plan(stores(), manifest.run, form=form, reviewed=reviewed)
        except InputError as error:
            st.info(plain(str(error)), icon=":material/block:")
            return
        _show_plan(plan)
        _show_files(manifest, plan, reviewed)


def _show_plan(plan: Plan) -> None:
    """What will be in the file: how many rows, what people say of them, what they are for."""
    chosen = plan.selection
    rows = f"**{jobs.counted(len(plan.rows), 'row')}** of {chosen.kept:,} that the filter kept"
    if chosen.left_out:
        rows += f"; left out: {plain(counted(chosen.left_out))}"
    changes = (
        (chosen.edited, "as a person edited them"),
        (chosen.relabelled, "with the label a person gave"),
        (chosen.unlabelled, "without a label, since theirs was wrong"),
    )
    changed = ", ".join(f"{n:,} {what}" for n, what in changes if n)
    st.markdown(f"{rows}. {changed + '. ' if changed else ''}".strip())
    st.markdown(f"Looked at by people: {plain(looked_at_in_words(chosen))}.")
    if words := awaited_in_words(chosen):
        st.warning(f"{plain(words)}.", icon=":material/hourglass_top:")
    st.caption(
        f"{plain(' '.join(plan.notes))} Every row carries its lineage: gap, measured activation, "
        "pair, approvals, prompt, writer, seed, filter, review. Before it leaves it is read back "
        "as a dataset."
    )
    with st.expander("The first row, as it will be written in JSONL"):
        text = first_line(plan)
        cut = "\n…" if len(text) > PREVIEW_CHARACTERS else ""
        markup = html.escape(clean(text[:PREVIEW_CHARACTERS]) + cut)
        st.html(f'<div class="fac-text fac-blur">{markup}</div>')


def _show_files(manifest: SynthesisManifest, plan: Plan, reviewed: bool) -> None:
    """Files to download, their card, and a folder on the server."""
    run, form = manifest.run, plan.form
    content = partial(exports.export_file, stores(), manifest, reviewed=reviewed)
    impossible = refusals(plan)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for format, label in DOWNLOADS.items():
            options: Row = {"icon": ":material/download:", "on_click": "ignore"}
            options |= {"key": f"export {format} {form} {reviewed}"}
            options |= {"disabled": format in impossible, "help": impossible.get(format)}
            name = exports.file_name(manifest, format)
            st.download_button(label, partial(content, format, form), name, **options)
        card = partial(content, "jsonl", form, card=True)
        options = {"icon": ":material/description:", "key": f"card {form} {reviewed}"}
        options["help"] = (
            "What it is, how it was made, who looked at it and how to check it, for those who get "
            "the file."
        )
        name = f"{exports.export_name(manifest)}.card.md"
        st.download_button("Dataset card", card, name, on_click="ignore", **options)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = "Or a folder on the server, as the Hugging Face hub has them"
        options = {"placeholder": f"~/exports/{exports.export_name(manifest)}"}
        path = st.text_input(label, width=460, key=f"folder {run}", **options).strip()
        tie = needing("file", disabled=not path)
        pressed = st.button("Write the folder", icon=":material/folder:", **tie)
    if pressed:
        exported = write_folder(run, path, form, reviewed)
        where = plain(str(exported.path))
        words = f"{exported.rows:,} rows, columns of the form {exported.form}, in {where}."
        st.success(words, icon=":material/task_alt:")


def write_folder(run: str, path: str, form: str, reviewed: bool) -> Exported:
    """Writes an export where a person names a folder of the server. Raises Refused, and InputError
    as `exports.write`."""
    check_place(path)
    permit("file", f"export to {path}")
    out = Path(path).expanduser().absolute()
    return exports.write(stores(), run, out, format="hf", form=form, reviewed=reviewed)
