"""What a page is about, chosen once for all pages: the runs, the relevance, the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from fac.config import MeasureSpec
from fac.manifest import MeasureManifest
from fac.questions.catalogue import (
    anchor_of,
    comparable,
    default_anchor,
    default_dataset,
    encoder_called,
    measured,
    run_called,
    runs_called,
    titles,
)
from fac.questions.comparison import Comparison, clear_firing, settings_in_words, telling_threshold
from fac.questions.relevance import EVERY_FEATURE, Relevance, judged
from fac.schema import EVERY_ROLE, ROLES
from fac.ui.jobs import arriving
from fac.ui.stores import stores
from fac.ui.text import plain
from fac.ui.views import empty, get_param, param_widget, set_param, tied, view_param

PAPER_THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 4.0)
"""The grid of the paper; 0 is its default."""

ANCHOR = (
    "The dataset that says what could be shown, and what features are called. By default it is the "
    "one in which most features fire; what you choose goes with you from page to page."
)


DATASET = "What the anchor's SAE has measured; for what another SAE saw, choose its anchor."

RUN_PARAMS = ("dataset", "anchor", "before", "after", "with")
"""Parameters of the address that name a measured dataset."""

MOST = 200
"""Characters of an address that are repeated."""


def pick_run(
    label: str,
    name: str,
    manifests: Mapping[str, MeasureManifest],
    default: str,
    *,
    of_page: bool = False,
    encoder: str = "",
    **options: Any,
) -> str:
    """The id of one of the runs; the URL may hold its id, its title or the name of its dataset, of
    which the measure by `encoder` is meant where there are several. What is chosen goes with a
    person from page to page, unless it is this page's alone."""
    every = measured(stores())
    names = titles(every)  # the same ones whichever runs can be chosen here
    by_run = {run: names[run] for run in manifests}
    by_title = {title: run for run, title in by_run.items()}
    encoder = encoder or encoder_in_url(every)

    def read(text: str) -> str:
        run = run_called(every, text, encoder)
        if run and run not in manifests:  # another measure of that dataset may be
            same = every[run].facts.dataset
            run = next((each for each, m in manifests.items() if m.facts.dataset == same), run)
        return by_run.get(run, text)

    if of_page:  # it begins with what is looked at on other pages
        default = by_title.get(view_param(name, ""), default)
    # The URL carries the title, which a person can read; an id is understood too.
    param = param_widget(
        name,
        by_run[default],
        read=read,
        valid=by_title.__contains__,
        of_page=of_page,
    )
    return by_title[st.selectbox(label, list(by_title), **param, **options)]


def pick_pair(manifests: Mapping[str, MeasureManifest]) -> tuple[str, str]:
    """The anchor and the dataset that is held against it, the dataset first on the page."""
    dataset_corner = st.container()
    anchor = pick_anchor("Against the anchor", manifests)
    with dataset_corner:
        return anchor, pick_dataset("Coverage of", manifests, anchor)


def pick_dataset(
    label: str, manifests: Mapping[str, MeasureManifest], anchor: str, *, oldest: bool = False
) -> str:
    """What is held against an anchor; where nobody chose, the newest or the `oldest`. Of a dataset
    that the anchor's SAE has measured that measure is offered and no other, so who chooses an
    anchor of another SAE sees the same dataset by it."""
    same = {run: manifests[run] for run in comparable(manifests, anchor)}
    there = {manifest.facts.dataset for manifest in same.values()}
    options = {r: m for r, m in manifests.items() if r in same or m.facts.dataset not in there}
    in_order = dict(reversed([*same.items()])) if oldest else same
    usual, encoder = default_dataset(stores(), in_order, anchor), manifests[anchor].facts.encoder
    run = pick_run(label, "dataset", options, usual, encoder=encoder, help=DATASET)
    in_url = runs_called(manifests, st.query_params.get("dataset", ""))
    if len(in_url) == 1 and in_url != [run]:
        set_param("dataset", titles(manifests)[run])  # the address says what is shown
    return run


def encoder_in_url(manifests: Mapping[str, MeasureManifest]) -> str:
    """The encoder of what the address names, and after that of what was chosen on other pages."""
    here = [st.query_params.get(name, "") for name in RUN_PARAMS]
    return encoder_called(manifests, [*here, *(view_param(name, "") for name in RUN_PARAMS)])


def pick_anchor(
    label: str, manifests: Mapping[str, MeasureManifest], usual: str = "", **options: Any
) -> str:
    """The anchor: as it was chosen on whatever page, else the `usual` or the default one, of the
    SAE of what the address names."""
    encoder, chosen = encoder_in_url(manifests), run_called(manifests, view_param("anchor", ""))
    if chosen and "anchor" not in st.query_params and manifests[chosen].facts.encoder != encoder:
        set_param("anchor", None)  # it was chosen for what another SAE measured
    same = {run: each for run, each in manifests.items() if each.facts.encoder == encoder}
    usual = usual or default_anchor(stores(), same if len(same) > 1 else manifests)
    return pick_run(label, "anchor", manifests, usual, help=ANCHOR, **options)


def warn_of_strays(manifests: Mapping[str, MeasureManifest]) -> None:
    """Says which datasets the address asks for that are not here: others are shown; and of a name
    that was measured more than once which measure is."""
    texts = (st.query_params.get(name, "") for name in RUN_PARAMS)
    several = []
    for text in dict.fromkeys(text for text in texts if text):
        runs = runs_called(manifests, text)
        if len(runs) > 1:
            several.append(text)
        if not runs:
            words = f"No measured dataset here is called {plain(text[:MOST])}, as the address has "
            words += "it; it may have been deleted, or lie in another workspace. Another is shown."
            st.warning(words, icon=":material/search_off:")
    if several:
        st.info(plain(_which_is_shown(manifests, several)), icon=":material/call_split:")


def _which_is_shown(manifests: Mapping[str, MeasureManifest], several: Sequence[str]) -> str:
    """Of names that were measured more than once, and how to see the other measures."""
    names, encoder = titles(manifests), encoder_in_url(manifests)
    shown = [run_called(manifests, text, encoder) for text in several]
    others = [run for run in runs_called(manifests, several[-1]) if run not in shown]
    follows = "" if st.query_params.get("anchor") in several else " or an anchor of its SAE"
    return (
        f"Measured more than once; shown is {' against '.join(names[run] for run in shown)}. For "
        f"the other choose {' or '.join(names[run] for run in others)}{follows}."
    )


def pick_added(
    manifests: Mapping[str, MeasureManifest],
    anchor: str,
    dataset: str,
    usual: str = "",
    *,
    of_page: bool = False,
) -> tuple[str, ...]:
    """What is added to the dataset, such as samples made for it, the `usual` run where nobody
    chose; the URL has its title."""
    names, encoder = titles(manifests), manifests[anchor].facts.encoder
    others = {names[run]: run for run in comparable(manifests, anchor)}
    options = ["", *(name for name, run in others.items() if run not in (anchor, dataset))]
    default = names.get(usual, "")
    name = st.selectbox(
        "Together with",
        options,
        format_func=lambda name: name or "nothing else",
        help="Both count as one dataset: what any of them shows is shown.",
        **param_widget(
            "with",
            default if default in options else "",
            read=lambda text: names.get(run_called(manifests, text, encoder), text),
            valid=options.__contains__,
            of_page=of_page,
        ),
    )
    return (others[name],) if name else ()


def anchor_in_url(manifests: Mapping[str, MeasureManifest], run: str) -> str:
    """The anchor of a run on a page without a picker: what was chosen on another page, where the
    run can be compared with it, else the default one."""
    anchor = run_called(manifests, get_param("anchor", ""), manifests[run].facts.encoder)
    return anchor if anchor in comparable(manifests, run) else anchor_of(stores(), run)


def stop_if_nothing_measured(manifests: Mapping[str, MeasureManifest]) -> None:
    """Says what to do first and ends the page, unless something has been measured."""
    if manifests:
        return
    icon, page = ":material/hourglass_top:", "home"
    if arriving():
        headline, link = "The demo is on its way", "Watch it arrive"
        text = "Two small datasets are being prepared. The first page shows how far they are."
    elif hidden := len(stores().runs.list(MeasureSpec.step)):
        headline, link = "Being prepared for browsing", "Watch them arrive"
        text = (
            f"{hidden:,} measured datasets get their cache anew, as after an update. That takes "
            f"seconds each, minutes for very large ones; the first page shows them as they arrive."
        )
    else:
        headline, link = "Nothing has been measured yet", "Add a dataset"
        text = "Add a dataset, then press Measure: its features appear here."
        icon, page = ":material/database:", "datasets"
    empty(headline, text, icon=icon, page=page, link=link)
    st.stop()


def pick_relevance(anchor: str) -> Relevance:
    """Which features count: all, or those that matter for a task somebody judged."""
    by_task = _judged(anchor)
    options = [EVERY_FEATURE, *by_task]
    name = st.selectbox(
        "Relevant",
        options,
        format_func=lambda name: "all features" if name == EVERY_FEATURE else f"for {name}",
        width=145,
        help="All leaves out features that fire in nearly every sample. A task takes those that "
        "its judge calls relevant, probably or surely; what people decided goes before the judge. "
        "Maybe counts what may be relevant too: of those more are there by chance.",
        **param_widget("relevant", EVERY_FEATURE, valid=options.__contains__),
    )
    if name == EVERY_FEATURE:
        return Relevance()
    key = "relevant.maybe"
    st.session_state[key] = _maybe_too()
    st.toggle(
        "Maybe",
        key=key,
        on_change=lambda: set_param("maybe", "yes" if st.session_state[key] else None),
    )
    return by_task[name]


def threshold_picker(anchor: str, dataset: str) -> float:
    """How strongly a feature must fire before it counts; one setting for all pages. A slider for
    the range in which the anchor still shows much, a field for any number, and the two settings
    with a name: clear firing, which is the default, and the paper's grid."""
    clear, threshold = clear_firing(stores(), anchor), threshold_in_url(anchor)
    top = max(telling_threshold(stores(), anchor, dataset), clear)
    step = 10.0 ** math.floor(math.log10(top / 100))  # round; one or two hundred on the way
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="bottom", width=400):
        st.slider(
            "Threshold",
            0.0,
            top,
            step=step,
            format="%.2f",
            help="A feature is active in a sample when its peak is strictly above. Clear firing is "
            "the median of the anchor's peaks. At 0, the paper's setting, a single token anywhere "
            "is enough.",
            **tied("threshold", min(threshold, top)),
        )
        st.number_input(
            "Threshold as a number",
            0.0,
            value=None,  # so that an emptied field means the default, not the smallest number
            step=step,
            format="%g",
            width=120,
            label_visibility="collapsed",
            **tied("threshold", threshold, " number"),
        )
        names = {value: f"{value:g}" for value in sorted({clear, *PAPER_THRESHOLDS})}
        names[clear] = f"{clear:g}, clear firing"
        with st.popover("Preset", width="content", help="Clear firing, or the paper's setting"):
            st.pills(
                "The paper's setting is 0; these are its grid",
                list(names),
                format_func=names.__getitem__,
                **tied("threshold", threshold if threshold in names else None, " named"),
            )
    return threshold


def threshold_in_url(anchor: str) -> float:
    """The threshold chosen on any page; where nobody chose one, the anchor's clear firing."""
    return get_param(
        "threshold",
        clear_firing(stores(), anchor),
        read=float,
        valid=lambda value: 0 <= value < math.inf,
    )


def relevance_in_url(anchor: str) -> Relevance:
    """The relevance chosen on another page, without drawing its picker."""
    name = get_param("relevant", EVERY_FEATURE)
    return _judged(anchor).get(name, Relevance())


def _judged(anchor: str) -> dict[str, Relevance]:
    """The tasks that may be chosen, with what is maybe relevant where that was asked for."""
    return judged(stores(), anchor, maybe=_maybe_too())


def _maybe_too() -> bool:
    return get_param("maybe", "no", valid=("yes", "no").__contains__) == "yes"


def comparison_in_url(anchor: str, dataset: str) -> Comparison:
    """The settings as the Coverage page left them, or as the URL has them."""
    return Comparison(
        anchor,
        dataset,
        threshold_in_url(anchor),
        get_param("support", 1, read=int, valid=lambda value: 1 <= value <= 1000),
        get_param("role", EVERY_ROLE, valid=lambda role: role in (EVERY_ROLE, *ROLES)),
        relevance_in_url(anchor),
    )


def url_of(comparison: Comparison) -> dict[str, str]:
    """Query parameters that carry the settings of a comparison to another page."""
    return {
        "maybe": "yes" if comparison.relevance.maybe else "no",
        "threshold": f"{comparison.threshold:.12g}",
        "role": comparison.role,
        "support": str(comparison.min_support),
        "relevant": comparison.relevance.name,
    }


def gaps_in_words(comparison: Comparison) -> str:
    """Which gaps these settings mean."""
    return f"Gaps {settings_in_words(comparison)}; the Coverage page sets this."


def pick_asked(gaps: Sequence[int], help: str | None = None) -> tuple[int, ...]:
    """Draws which features a language model is asked about: the first of these gaps, all of them
    unless somebody wants fewer, or every feature that fires, for which () stands."""
    names = {"gaps": f"The {len(gaps):,} gaps"} if gaps else {}
    names |= {"every": "Every feature that fires"}
    title = names.__getitem__
    which = st.radio("Which features", [*names], format_func=title, horizontal=True, help=help)
    if which != "gaps":
        return ()
    few = "Certain ones first. Fewer cost less, and show whether the answers are worth it."
    n = st.number_input("Gaps at most", 1, len(gaps), len(gaps), width=130, help=few)
    return tuple(sorted(gaps[: int(n)]))
