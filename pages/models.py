"""Choose a model and an SAE, see whether they belong together, use them; train one; make room."""

import streamlit as st

from fac.config import FetchSpec, PreflightSpec, TrainSpec
from fac.errors import FacError
from fac.manifest import PreflightManifest
from fac.questions import catalogue
from fac.questions.estimates import training_time
from fac.questions.installed import Installed, installed
from fac.questions.preflights import newest_preflight
from fac.ui import views
from fac.ui.access import needing
from fac.ui.jobs import counted, saes_being_trained, show_failures, start
from fac.ui.models import delete, encoder_in_url, layer_in_url, pick_model, pick_sae, saes_here
from fac.ui.preflight import show_preflight
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.text import plain
from fac.ui.writing import duration

PAGE = {"title": "Models", "section": "Measure", "icon": "neurology", "order": 15}

VIEWS = {"choose": "Choose", "train": "Train an SAE", "installed": "On this machine"}
DEMO_TEXTS = ""

KINDS = {
    "model": "model",
    "SAE": "SAE",
    "hub": "from the hub",
    "leftover": "left of a training or a download",
}


def datasets() -> dict[str, str]:
    """Names of the datasets by run id, newest first."""
    return {each.run: each.facts.name for each in catalogue.datasets(stores())}


def choose() -> None:
    """A model, an SAE and a layer; then whether they belong together, and the way to use them."""
    usual = encoder_in_url()
    left, right = st.columns(2)
    below = st.container()
    with left.container(border=True, height="stretch"):
        model = pick_model(usual.model)
    with right.container(border=True, height="stretch"):
        sae = pick_sae(usual.sae, model, below)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = int(
            st.number_input(
                "Layer",
                0,
                1000,
                width=130,
                help="Blocks that have run when the residual stream is read; 0 is the embedding.",
                **views.tied("layer", layer_in_url(usual.layer, of_page=True), of_page=True),
            )
        )
        names = datasets()
        texts = st.selectbox(
            "Texts to try it on",
            [DEMO_TEXTS, *names],
            format_func=lambda run: names.get(run, "The demo's anchor"),
            width=240,
            help="Their first 64 samples.",
            **views.param_widget(
                "texts", DEMO_TEXTS, valid=[DEMO_TEXTS, *names].__contains__, of_page=True
            ),
        )
        slot = st.container(width="content")
    show_failures(FetchSpec.step, PreflightSpec.step)
    if not (model and sae):
        st.caption(
            "The model is not on this machine yet: fetch it, or choose another; then a preflight "
            "tells whether the SAE belongs to it."
            if sae
            else "Choose a model and an SAE; then a preflight tells whether they belong together."
        )
        return
    for name, value in (("model", model), ("sae", sae)):
        if views.get_param(name, "", of_page=True) != value:
            views.set_param(name, value, of_page=True)
    spec = PreflightSpec(model=model, layer=layer, sae=sae, dataset=texts)
    manifest = newest_preflight(stores(), spec)
    live = any(job.spec == spec.as_json() for job in stores().queue.live())
    if live:
        slot.badge("Being checked", icon=":material/hourglass_top:", color="blue")
    elif slot.button(
        "Check again" if manifest else "Preflight",
        type="secondary" if manifest else "primary",
        icon=":material/fact_check:",
        **needing(
            "launch",
            help="Reads the texts with the model and compares what the SAE makes of them, here and "
            "at the layers beside.",
        ),
    ):
        start(spec, f"Checking {sae} on {model}")
        st.rerun()
    if manifest:
        use(manifest)  # above the figures, which fill a page
        show_preflight(manifest)
    elif not live:
        st.caption(
            "A wrong pairing gives no error anywhere, only wrong numbers: the preflight looks "
            "before anything is measured. It loads the model, which takes a minute or so."
        )


def use(manifest: PreflightManifest) -> None:
    """The way to the datasets with this model and SAE, if there is one."""
    spec, facts = manifest.spec, manifest.facts
    view = {"model": spec.model, "layer": str(spec.layer), "sae": spec.sae}
    if facts.quality is None:
        return  # another width: nothing can be measured
    if facts.refused:
        why = st.text_input(
            "Why take it all the same?",
            placeholder="the reason, which stays with everything that is measured with it",
            key="despite",
        ).strip()
        if not why:
            return
        view["despite"] = why
    label = "Use it" if facts.belongs else "Use it all the same"
    views.link("datasets", label, help="Opens the datasets, to be measured with these.", **view)


def train() -> None:
    """A form that becomes a training, with what it may take; and what was trained here."""
    names = datasets()
    if not names:
        views.empty(
            "No texts to learn from",
            "Add a dataset first: an SAE learns from the stream of a model that reads texts.",
            icon=":material/database:",
            page="datasets",
            link="Add a dataset",
        )
        return
    st.caption(
        "A BatchTopK SAE of the residual stream, which becomes a JumpReLU SAE. A killed training "
        "goes on where it stopped."
    )
    usual = encoder_in_url()
    with st.container(border=True):
        left, right = st.columns(2)
        with left:
            model = pick_model(usual.model)
        dataset = right.selectbox("Texts", [*names], format_func=names.__getitem__)
        with st.container(horizontal=True):
            name = st.text_input("Name", max_chars=60, width=220).strip()
            layer = st.number_input("Layer", 0, 1000, usual.layer, width=110)
            width = st.number_input("Features", 2, 2**20, TrainSpec.width, width=130)
            k = st.number_input(
                "Active per token", 1.0, None, TrainSpec.k, format="%g", width=140, help="k"
            )
            passes = st.number_input("Passes", 1, 100, TrainSpec.passes, width=110)
            held_out = st.number_input(
                "Held out",
                1,
                None,
                TrainSpec.held_out,
                width=120,
                help="Samples that it does not learn from and is judged by.",
            )
            batch = st.number_input("Tokens a step", 1, 2**20, TrainSpec.batch, width=130)
        try:
            spec = TrainSpec(
                name=name or "unnamed",
                dataset=dataset,
                model=model or usual.model,
                layer=int(layer),
                width=int(width),
                k=float(k),
                passes=int(passes),
                batch=int(batch),
                held_out=int(held_out),
            )
            about = training_time(stores(), spec)
        except FacError as error:
            st.error(plain(str(error)), icon=":material/error:")
            return
        pace = "" if about.is_same_model else ", on another model"
        st.caption(
            plain(
                f"About {duration(max(about.seconds, 1))}, as fast as {about.like}{pace}: "
                f"{about.tokens:,} tokens, each seen {counted(spec.passes, 'time')}."
            )
        )
        if about.tokens < spec.batch:
            st.warning(
                f"About {about.tokens:,} tokens do not fill one step of {spec.batch:,}: take more "
                f"text or fewer tokens a step.",
                icon=":material/warning:",
            )
        taken = name in saes_here() or name in saes_being_trained()
        if taken:
            st.caption(f"There is an SAE {plain(name)} already; choose another name.")
        if st.button(
            "Train it",
            type="primary",
            icon=":material/model_training:",
            **needing("launch", disabled=not (name and model) or taken),
        ):
            start(spec, f"Training {name}")
            st.rerun()
    show_failures(TrainSpec.step, FetchSpec.step)
    for each in stores().runs.list(TrainSpec.step):
        facts = each.facts
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(facts.name)}**", width="content")
            st.caption(
                f"FVU {facts.quality['fvu']:.3f}, L0 {facts.quality['l0']:.1f}, "
                f"{facts.quality['dead']:.1%} dead on {facts.quality['samples']:,} held-out "
                f"samples; {duration(facts.recipe['seconds'])} of work",
                width="stretch",
            )
            if facts.name in saes_here():
                view = {"model": each.spec.model, "layer": str(each.spec.layer)}
                views.link("models", "Check and use it", sae=facts.folder, view="choose", **view)
            else:
                st.caption("deleted", width="content")


def size(n: int) -> str:
    """Bytes as people say them."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def show_installed() -> None:
    """What lies where, how large it is, and what would miss it."""
    items = installed(stores())
    if not items:
        st.caption(
            "No model and no SAE is on this machine but the demo's SAE, which is part of it."
        )
        return
    st.caption(f"{size(sum(item.bytes for item in items))} in all.")
    for item in items:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            with st.container(gap="xsmall", width="stretch"):
                st.markdown(f"**{plain(item.name)}** · {KINDS[item.kind]} · {size(item.bytes)}")
                st.caption(plain(f"{item.path}. {uses_words(item)}"))
            with st.popover("Delete", icon=":material/delete:"):
                confirm(item)


def uses_words(item: Installed) -> str:
    """What was read with it, in a sentence."""
    if not (item.datasets or item.probes):
        return "No run refers to it."
    parts = []
    if item.datasets:
        more = [f"{len(item.datasets) - 5} more"] if len(item.datasets) > 5 else []
        names = ", ".join([*item.datasets[:5], *more])
        parts.append(f"{counted(len(item.datasets), 'measured dataset')} ({names})")
    if item.probes:
        parts.append(counted(item.probes, "text of the playground"))
    return f"Read with it: {' and '.join(parts)}."


def confirm(item: Installed) -> None:
    """What deleting would mean, and the button that does it."""
    words = f"Delete {item.name}, {size(item.bytes)}?"
    if item.datasets or item.probes:
        words += (
            f" {uses_words(item)} Their results stay, but nothing more can be read or written with "
            f"it until it is here again."
        )
    elif item.kind == "leftover":
        words += " What it belongs to begins anew where it is not finished."
    st.markdown(plain(words))
    tie = needing("delete", type="primary", key=f"delete {item.path}")
    if st.button("Delete it", **tie):
        try:
            freed = delete(item)
        except FacError as error:
            st.error(plain(str(error)), icon=":material/error:")
            return
        st.session_state.setdefault(views.ANNOUNCED, []).append(
            f"{item.name} is deleted, {size(freed)} are free"
        )
        st.rerun()


title("Models")
view = views.choice("View", tuple(VIEWS), "view", names=VIEWS, label_visibility="collapsed")
if view == "choose":
    choose()
elif view == "train":
    train()
else:
    show_installed()
