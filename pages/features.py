"""Features as a map and a table, and one of them in full."""

from typing import Any

import streamlit as st

from fac import charts
from fac.manifest import MeasureManifest
from fac.questions import catalogue
from fac.questions.comparison import Comparison
from fac.questions.explanations import explained, names, with_names
from fac.questions.feature_map import coactive, map_run
from fac.ui import views
from fac.ui.atlas import features_on_map, show_families_on_map, show_map
from fac.ui.explanations import (
    doubt,
    exchange,
    headline,
    show_explanations,
    show_verdicts,
)
from fac.ui.jobs import show_failures
from fac.ui.pickers import (
    anchor_in_url,
    comparison_in_url,
    pick_run,
    stop_if_nothing_measured,
    warn_of_strays,
)
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import PAGE_ROWS, Pager, table
from fac.ui.text import called, chips_html, plain, show_examples, show_near

PAGE = {"title": "Features", "section": "Measure", "icon": "scatter_plot", "order": 20}

SORTS = {
    "max_peak": "Strongest peak",
    "n_samples": "Most samples",
    "mean_peak": "Strongest on average",
    "n_tokens": "Most tokens",
    "score": "Best explained",
    "feature": "Number",
}
KINDS = {"top": "Strongest", "spread": "Across strengths", "near": "Nearest misses"}


def show_list(comparison: Comparison, sae: str | None) -> None:
    """Features one by one, or the families they are in."""
    lists = ("features", "families")
    if views.choice("List", lists, "list", label_visibility="collapsed") == "families":
        show_families_on_map(comparison)
    else:
        show_table(comparison, sae)


def show_table(comparison: Comparison, sae: str | None) -> None:
    run, anchor = comparison.dataset, comparison.anchor
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = views.search()
        sort = views.order(SORTS, "sort")
        only = views.choice("Which", ("alive", "silent", "all"), "only")
    on_map, words = features_on_map(comparison)
    listing: dict[str, Any] = {
        "search": needle,
        "sort": sort,
        "descending": sort != "feature",
        "only": only,
        "ids": on_map,
        "sae_run": sae,
        "explained": explained(stores(), anchor),
    }
    pager = Pager("features", run, listing)
    page = {"offset": pager.offset, "limit": pager.size}
    rows, total = stores().cache.features_page(run, **page, **listing)
    score = ("score",) if listing["explained"] else ()
    columns = ("feature", "name", *score, "n_samples", "density", "max_peak")
    rows = with_names(stores(), anchor, rows, run=run)
    table(rows, columns, key="features", opens="feature")
    pager.draw(total, "feature", words)
    show_failures("explain")
    exchange(anchor)


def examples(run: str, sae: str | None, feature: int, top: float) -> None:
    kinds = ("near",) if not top else tuple(KINDS)
    kind = views.choice("Examples", kinds, "examples", names=KINDS)
    if kind == "near":
        st.caption("The highest pre-activations in this dataset, whether or not it fired.")
        show_near(stores().cache.near(run, feature, sae_run=sae))
        return
    spans = stores().cache.spans(run, feature, kind)
    if kind == "spread":
        st.caption("From weak to strong: what the feature means when it barely fires counts too.")
    show_examples(spans, strongest=top)


def show_feature(
    comparison: Comparison, sae: str | None, feature: int, manifests: dict[str, MeasureManifest]
) -> None:
    """The dashboard of one feature."""
    run, anchor = comparison.dataset, comparison.anchor
    facts = stores().cache.feature(run, feature, sae_run=sae)
    if facts is None:
        size = manifests[run].facts.n_features
        st.info(f"This dictionary has features 0 to {size - 1:,}; there is no #{feature}.")
        return
    silent = facts["n_samples"] == 0
    heading = headline(anchor, feature, run)
    st.subheader(heading, anchor=False, help=doubt(anchor, feature))
    show_explanations(anchor, feature)
    show_verdicts(anchor, feature)
    views.cards(
        ("Samples", f"{facts['n_samples']:,}", "Samples of the dataset in which it fires."),
        ("Share", views.share(facts["density"]), "Of the dataset's samples."),
        ("Peak", f"{facts['max_peak']:.2f}" if not silent else "–", "Its largest activation."),
    )
    if not silent:
        st.plotly_chart(
            charts.peak_histogram(*stores().cache.histogram(run, feature)),
            config=views.CHART,
            key="peaks",
            alt="How strongly it fires",
        )
        st.caption(
            " · ".join(
                f"{role} {facts[f'n_{role}']:,}"
                for role in ("system", "user", "assistant")
                if facts[f"n_{role}"]
            )
            + f" · {facts['n_tokens']:,} tokens in all"
        )
    examples(run, sae, feature, facts["max_peak"])

    if sae and (direction := stores().cache.sae_feature(sae, feature)):
        up, down = st.columns(2)
        with up:
            st.markdown(
                "**Promotes**", help="Next tokens its direction makes likelier (logit lens)."
            )
            st.html(chips_html(direction["promotes"][:10], "up"))
        with down:
            st.markdown("**Suppresses**", help="Next tokens its direction makes less likely.")
            st.html(chips_html(direction["suppresses"][:10], "down"))
        st.markdown("**Neighbours**", help="Features with the most similar decoder direction.")
        near = zip(direction["neighbours"][:6], direction["cosines"], strict=False)
        show_neighbours(run, anchor, {other: f"cosine {value:.2f}" for other, value in near})
    show_coactive(comparison, feature)

    st.markdown("**In your datasets**")
    cache, titles = stores().cache, catalogue.titles(manifests)
    rows = [
        {"dataset": titles[each], **(cache.feature(each, feature) or {})}
        for each in catalogue.comparable(manifests, run)[:PAGE_ROWS]
    ]
    table(rows, ("dataset", "n_samples", "density", "max_peak"), key="presence")


def show_coactive(comparison: Comparison, feature: int) -> None:
    """What fires in the same stretches of the anchor, once that is computed."""
    if (run := map_run(stores(), comparison)) is None:
        return
    st.markdown(
        "**Fire together**",
        help="Features that peak in the same stretches of text more than chance makes them: 1 "
        "is in the same ones, 0 as often as chance has it.",
    )
    near = coactive(stores(), run, feature)[:6]
    if not near:
        least = stores().runs.manifest(run).spec.min_support
        st.caption(
            f"Not known: it fires in fewer than {least:,} samples of the anchor, in nearly every "
            "one, or with no other more than by chance."
        )
        return
    words = {other: f"alike by {value:.2f}" for other, value in near}
    show_neighbours(comparison.dataset, comparison.anchor, words)


def show_neighbours(run: str, anchor: str, near: dict[int, str]) -> None:
    """Links to features, each with a word on how near it is."""
    by_feature = names(stores(), anchor, list(near), run=run)
    with st.container(horizontal=True, gap="small"):
        for other, help in near.items():
            label = plain(called(other, by_feature[other], limit=60))
            views.link("features", label, icon=":material/hub:", help=help, feature=str(other))


manifests = catalogue.measured(stores())
with st.container(horizontal=True, vertical_alignment="bottom"):
    title("Features", width="stretch")
    stop_if_nothing_measured(manifests)
    usual = catalogue.default_dataset(
        stores(), manifests, catalogue.default_anchor(stores(), manifests)
    )
    # What is looked at here is not what coverage is asked of on other pages.
    run = pick_run("Dataset", "dataset", manifests, usual, of_page=True, width=280)
warn_of_strays(manifests)
anchor = anchor_in_url(manifests, run)
sae = catalogue.sae_of(stores(), manifests[run])
first, _ = stores().cache.features_page(run, sort=next(iter(SORTS)), limit=1)
feature = views.get_param("feature", first[0]["feature"], read=int)

comparison = comparison_in_url(anchor, run)

left, right = st.columns([4, 3], gap="medium")
with left:
    show_map(comparison, feature, sae)
    show_list(comparison, sae)
with right.container(border=True):
    show_feature(comparison, sae, feature, manifests)
