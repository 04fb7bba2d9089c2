"""Two datasets, or two versions of one: which features were gained and which were lost."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain

import streamlit as st

from fac import maps
from fac.manifest import MeasureManifest, SynthesisManifest
from fac.questions import catalogue, exports
from fac.questions.before_after import before_after, made_for
from fac.questions.comparison import (
    Comparison,
    certainty,
    change,
    name_of,
    settings_in_words,
)
from fac.questions.explanations import with_names
from fac.questions.fill import certain_together, purpose_of
from fac.questions.firing import support_of
from fac.questions.results import (
    gaps_of,
    question_of,
    rare_words,
    relevance_since,
    synthesis_behind,
)
from fac.ui import pickers, views
from fac.ui.explanations import doubt, headline
from fac.ui.families import show_changed_families
from fac.ui.pickers import pick_anchor, pick_run, stop_if_nothing_measured
from fac.ui.report import report_button
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import Pager, open_point, table
from fac.ui.text import plain, show_examples, show_near

PAGE = {"title": "Compare", "section": "Measure", "icon": "compare_arrows", "order": 40}


def ask(
    manifest: SynthesisManifest | None,
    mine: Comparison,
    manifests: Mapping[str, MeasureManifest],
    added: str,
) -> Comparison:
    """The question of coverage: as it is set on other pages or, where what comes after is of a
    synthesis, the one that was started for, so that figures are those of its result. Says which,
    with the way to the other, and to Coverage with the run that is `added`, if any."""
    names = catalogue.titles(manifests)
    whole = mine if manifest is None else question_of(stores(), manifest)
    question = replace(whole, anchor=mine.anchor, dataset=mine.dataset)
    whose, label, other = "", "", None
    if manifest and pickers.url_of(question) != pickers.url_of(mine):
        label, other = f"Use {settings_in_words(mine)} instead", manifest.run
        if views.get_param("mine", "") == manifest.run:
            question, label, other = mine, "Ask as the synthesis was", None
    if manifest and question is not mine:
        whose = ", as the synthesis was asked"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(f"Coverage {settings_in_words(question)}{whose}."), width="content")
        if label:
            views.action_button(plain(label), "undo", views.set_param, "mine", other)
        view = {"anchor": names[mine.anchor], "dataset": names[mine.dataset]}
        view |= {"with": names[added]} if added else {}
        views.link("coverage", "Change the settings", **view, **pickers.url_of(question))
        sides = (whole.dataset, whole.anchor)
        if sides != (mine.dataset, mine.anchor) and names.keys() >= {*sides}:
            words = f"Compare with {names[whole.dataset]} against {names[whole.anchor]}"
            views.action_button(plain(words), "compare_arrows", turn_to, *map(names.get, sides))
    if whose and (since := relevance_since(stores(), whole)):
        st.caption(plain(since))
    return question


def turn_to(before: str, anchor: str) -> None:
    """Compares with these, by their names."""
    views.set_param("before", before)
    views.set_param("anchor", anchor)


title("Compare")
manifests, cache = catalogue.measured(stores()), stores().cache
stop_if_nothing_measured(manifests)
if len(manifests) == 1:
    views.empty(
        "Two are needed",
        "Measure a second dataset, or a new version of the first.",
        icon=":material/compare_arrows:",
        page="datasets",
        link="Add a dataset",
    )
    st.stop()

pickers.warn_of_strays(manifests)
names, manifest = catalogue.titles(manifests), None
looked_at = {name: run for run, name in names.items()}.get(views.view_param("dataset", ""), "")
usual = before_after(stores(), manifests, looked_at)
before_column, after_column, added_column, anchor_column = st.columns(4)
with before_column:
    before = pick_run("Before", "before", manifests, usual.before)
with after_column:
    after = pick_run("After", "after", manifests, usual.after)
with anchor_column:
    anchor = pick_anchor("Against the anchor", manifests, usual.anchor)
with added_column:  # what was made to be added replaces nothing
    purpose = made_for(stores(), manifests[after])
    added = pickers.pick_added(manifests, anchor, after, purpose, of_page=True)
if (before, after, anchor) == usual[:3]:
    st.caption(plain(usual.why))

for run in dict.fromkeys((before, after)):
    if synthesis := synthesis_behind(stores(), manifests[run].facts.dataset):
        words = f"How {plain(names[run])} was made, and why each row is there"
        views.link("synthesis", words, synthesis=synthesis)
        if revision := exports.revision(stores(), synthesis):
            st.caption(plain(revision.words()))
        manifest = stores().runs.manifest(synthesis) if run == after else manifest
mine = pickers.comparison_in_url(anchor, before)
question = ask(manifest, mine, manifests, after if added == (before,) else "")
# What was made for a dataset is added to it; the figures are the same the other way round.
dataset, others = (purpose, (after,)) if added == (purpose,) else (after, added)
second = replace(question, dataset=dataset, added=others)
changed = change(stores(), question, second)
was, now = changed.before, changed.after
n_before, n_after = (support_of(stores(), each.runs, *each.at) for each in (question, second))
chosen = purpose_of(stores(), manifests[after].facts.dataset)
asked = {*(gaps_of(stores(), manifest.run) if manifest else chosen.gaps if chosen else ())}
if added and manifest and (rare := rare_words(stores(), manifest, manifests)):
    st.caption(plain(f"{len(asked):,} gaps were asked for. {rare}"))
elif added == (before,):
    stays = certain_together(stores(), replace(question, added=(after,))).words()
    words = f"A row shows a gap and does not make it common: together, {stays}."
    st.caption(plain(f"{len(asked):,} gaps got rows. {words}" if chosen else words))
card = partial(st.metric, border=True, height="stretch")
with st.container(horizontal=True, gap="small"):
    points = views.points(now.fac - was.fac)
    card("FAC", views.share(now.fac), points, help=f"It was {views.share(was.fac)} before.")
    n_asked = len(asked.intersection(changed.closed.tolist()))
    note = f"{n_asked:,} asked for" if asked else None
    help = "Gaps of the first that the second closes."
    card("Gained", f"{len(changed.closed):,}", note, help=help, **views.AS_NOTE)
    card("Lost", f"{len(changed.opened):,}", help="Gaps of the second that the first has not.")
    fewer = now.n_missing - was.n_missing
    card("Missing", f"{now.n_missing:,}", fewer, delta_color="inverse", help="Gaps that are left.")
    help = "Relevant features that the anchor shows: the others do not count for these figures."
    card("Anchor", f"{now.n_anchor:,}", help=help)
together = name_of(stores(), *second.runs) if added else names[after]
st.caption(f"{plain(together)}: {views.doubt_words(certainty(stores(), second))}")
report_button(second)
more = len(changed.gained) - len(changed.closed)  # what is closed is gained, too
less = len(changed.lost) - len(changed.opened)
if more or less:
    why = "they are not relevant, or the anchor does not show them by these settings"
    st.caption(f"Besides, {more:,} features gained and {less:,} lost do not count here: {why}.")

show_changed_families(question, second)
left, right = st.columns(2, gap="medium")
with left.container(border=True):
    st.markdown("**Samples that show each feature**")
    second_name = "both together" if added == (before,) else together
    figure = maps.support_scatter(n_before, n_after, names=(names[before], second_name))
    st.plotly_chart(
        figure,
        key="scatter",
        on_select=partial(open_point, "scatter"),
        selection_mode="points",
        config={"displaylogo": False},
        alt="Support of each feature before and after",
    )
    st.caption(
        "Teal was gained, amber was lost, grey is in both; of very many, shades show where they "
        "are and points some of them. Click a point to see its examples."
    )
with right:
    ids_of = {"gained": changed.closed.tolist(), "lost": changed.opened.tolist()}
    order = ("lost", "gained") if ids_of["lost"] else ("gained", "lost")
    side = views.choice("Features", order, "side", label_visibility="collapsed")
    ids, shows = ids_of[side], after if side == "gained" else before
    if len(ids):
        pager = Pager("changes", question, after, side)
        n_samples = n_after if side == "gained" else n_before
        # What was asked for is what people look for, so it comes first.
        ranked = sorted(ids, key=lambda feature: (feature not in asked, -n_samples[feature]))
        of_page, total = ranked[pager.offset :][: pager.size], len(ranked)
        runs = second.runs if side == "gained" else (before,)
        pages = (cache.features_page(run, ids=of_page, limit=pager.size)[0] for run in runs)
        described = sorted(chain(*pages), key=lambda row: row["max_peak"] or 0.0)
        by_feature = {row["feature"]: row for row in described}  # where it peaks highest
        rows = [{**by_feature[i], "n_samples": int(n_samples[i])} for i in of_page]
        rows = [{**row, "asked": "gap" if row["feature"] in asked else "no"} for row in rows]
        rows = with_names(stores(), anchor, rows, run=shows)
        marks = ("asked",) if asked and side == "gained" else ()
        columns = ("feature", "name", *marks, "n_samples", "max_peak")
        table(rows, columns, key="changes", opens="feature")
        pager.draw(total, "feature", side)
    else:
        rows = []
        st.caption(f"No feature was {side}.")

feature = views.get_param("feature", rows[0]["feature"] if rows else None, read=int)
if feature is not None and (facts := cache.feature(after, feature)) is not None:
    shows = after if facts["label"] else before
    heading = headline(anchor, feature, shows)
    st.subheader(heading, anchor=False, help=doubt(anchor, feature))
    shown = tuple(dict.fromkeys((before, after, *added)))
    for column, run in zip(st.columns(len(shown), gap="medium"), shown, strict=True):
        with column.container(border=True):
            st.markdown(f"**{plain(names[run])}**")
            spans = cache.spans(run, feature, "top")[:5]
            if spans:
                show_examples(spans)
            else:
                st.caption("It never fires here. What comes nearest:")
                sae, threshold = catalogue.sae_of(stores(), manifests[run]), question.threshold
                show_near(cache.near(run, feature, sae_run=sae, threshold=threshold)[:3])
