"""The dictionary as a map and a table, and one feature in full."""

from typing import Any

import streamlit as st

from fac import charts
from fac.manifest import MeasureManifest
from fac.questions import catalogue
from fac.questions.explanations import explained, names, with_names
from fac.ui import views
from fac.ui.atlas import features_on_map, show_map
from fac.ui.explanations import doubt, headline, show_explanations, show_verdicts
from fac.ui.pickers import anchor_in_url, pick_run, stop_if_nothing_measured, warn_of_strays
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import PAGE_ROWS, Pager, table
from fac.ui.text import Row, called, chips_html, plain, show_examples, show_near

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


def show_table(run: str, anchor: str, sae: str | None) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        needle = views.search()
        sort = views.order(SORTS, "sort")
        only = views.choice("Which", ("alive", "silent", "all"), "only")
    on_map, words = features_on_map(sae)
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
    run: str, anchor: str, sae: str | None, feature: int, manifests: dict[str, MeasureManifest]
) -> None:
    """The dashboard of one feature."""
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
        show_neighbours(run, anchor, direction)

    st.markdown("**In your datasets**")
    cache, titles = stores().cache, catalogue.titles(manifests)
    rows = [
        {"dataset": titles[each], **(cache.feature(each, feature) or {})}
        for each in catalogue.comparable(manifests, run)[:PAGE_ROWS]
    ]
    table(rows, ("dataset", "n_samples", "density", "max_peak"), key="presence")


def show_neighbours(run: str, anchor: str, direction: Row) -> None:
    near = dict(zip(direction["neighbours"][:6], direction["cosines"], strict=False))
    by_feature = names(stores(), anchor, list(near), run=run)
    with st.container(horizontal=True, gap="small"):
        for other, cosine in near.items():
            label = plain(called(other, by_feature[other], limit=60))
            icon, help = ":material/hub:", f"cosine {cosine:.2f}"
            views.link("features", label, icon=icon, help=help, feature=str(other))


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

left, right = st.columns([4, 3], gap="medium")
with left:
    if sae is None:
        st.caption("The map of this dictionary has not been drawn yet; the table is complete.")
    else:
        show_map(run, sae, feature)
    show_table(run, anchor, sae)
with right.container(border=True):
    show_feature(run, anchor, sae, feature, manifests)
