"""The dictionary as a map and a table, and one feature in full."""

from typing import Any

import streamlit as st

from fac import charts, ui

SORTS = {
    "max_peak": "Strongest peak",
    "n_samples": "Most samples",
    "mean_peak": "Strongest on average",
    "n_tokens": "Most tokens",
    "score": "Best explained",
    "feature": "Number",
}
EXAMPLES = {"top": "Strongest", "spread": "Across strengths", "near": "Nearest misses"}


def show_table(run: str, sae: str | None) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = ui.search()
        sort = ui.order(SORTS, "sort")
        only = ui.choice("Which", ("alive", "silent", "all"), "only")
    taken, words = ui.features_on_map(sae)
    asked: dict[str, Any] = {
        "search": search,
        "sort": sort,
        "descending": sort != "feature",
        "only": only,
        "ids": taken,
        "sae_run": sae,
        "explained": ui.explained(run),
    }
    pager = ui.Pager("features", run, asked)
    rows, total = ui.cache().features_page(run, offset=pager.offset, limit=pager.size, **asked)
    told = ("explanation", "score") if asked["explained"] else ()
    columns = ("feature", "label", *told, "n_samples", "density", "max_peak")
    ui.table(rows, columns, key="features", opens="feature")
    pager.draw(total, "feature", words)


def show_examples(run: str, sae: str | None, feature: int, top: float) -> None:
    kinds = ("near",) if not top else tuple(EXAMPLES)
    kind = ui.choice("Examples", kinds, "examples", names=EXAMPLES)
    if kind == "near":
        st.caption("The highest pre-activations in this dataset, whether or not it fired.")
        ui.show_near(ui.cache().near(run, feature, sae_run=sae))
        return
    spans = ui.cache().spans(run, feature, kind)
    if kind == "spread":
        st.caption("From weak to strong: what the feature means when it barely fires counts too.")
    ui.show_examples(spans, strongest=top)


def show_feature(run: str, sae: str | None, feature: int, found: dict[str, ui.Row]) -> None:
    """The dashboard of one feature."""
    facts = ui.cache().feature(run, feature, sae_run=sae)
    if facts is None:
        size = found[run]["facts"]["n_features"]
        st.info(f"This dictionary has features 0 to {size - 1:,}; there is no #{feature}.")
        return
    silent = facts["n_samples"] == 0
    st.subheader(ui.headline(run, feature), anchor=False)
    ui.show_explanations(run, feature)
    ui.show_verdicts(ui.anchor_of(run), feature)
    ui.cards(
        ("Samples", f"{facts['n_samples']:,}", "Samples of the dataset in which it fires."),
        ("Share", ui.share(facts["density"]), "Of the dataset's samples."),
        ("Peak", f"{facts['max_peak']:.2f}" if not silent else "–", "Its largest activation."),
    )
    if not silent:
        st.plotly_chart(
            charts.peak_histogram(*ui.cache().histogram(run, feature)),
            config=ui.CHART,
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
    show_examples(run, sae, feature, facts["max_peak"])

    if sae and (known := ui.cache().sae_feature(sae, feature)):
        up, down = st.columns(2)
        with up:
            st.markdown(
                "**Promotes**", help="Next tokens its direction makes likelier (logit lens)."
            )
            st.html(ui.chips_html(known["promotes"][:10], "up"))
        with down:
            st.markdown("**Suppresses**", help="Next tokens its direction makes less likely.")
            st.html(ui.chips_html(known["suppresses"][:10], "down"))
        st.markdown("**Neighbours**", help="Features with the most similar decoder direction.")
        show_neighbours(run, known)

    st.markdown("**In your datasets**")
    show_presence(feature, ui.comparable(found, run), ui.titles(found))


def show_neighbours(run: str, known: ui.Row) -> None:
    near = dict(zip(known["neighbours"][:6], known["cosines"], strict=False))
    names = ui.names(run, list(near))
    with st.container(horizontal=True, gap="small"):
        for other, cosine in near.items():
            st.page_link(
                ui.FEATURES,
                icon=":material/hub:",
                help=f"cosine {cosine:.2f}",
                label=ui.plain(ui.called(other, names[other], limit=60)),
                query_params={"feature": str(other)},
            )


def show_presence(feature: int, runs: list[str], titles: dict[str, str]) -> None:
    rows = [
        {"name": titles[run], **(ui.cache().feature(run, feature) or {})} for run in runs[: ui.PAGE]
    ]
    ui.table(rows, ("name", "n_samples", "density", "max_peak"), key="presence")


found = ui.measured()
with st.container(horizontal=True, vertical_alignment="bottom"):
    ui.title("Features", width="stretch")
    ui.stop_if_nothing_measured(found)
    anchor = ui.default_anchor(found)
    run = ui.pick("Dataset", "dataset", found, ui.default_dataset(found, anchor), width=280)
sae = ui.sae_of(found[run])
first, _ = ui.cache().features_page(run, sort=next(iter(SORTS)), limit=1)
feature = ui.get_param("feature", first[0]["feature"], read=int)

left, right = st.columns([4, 3], gap="medium")
with left:
    if sae is None:
        st.caption("The map of this dictionary has not been drawn yet; the table is complete.")
    else:
        ui.show_map(run, sae, feature)
    show_table(run, sae)
with right.container(border=True):
    show_feature(run, sae, feature, found)
