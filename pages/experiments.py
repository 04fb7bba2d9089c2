"""Does filling gaps help a task of one's own? Asked of its rows, answered with intervals."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from fac.config import EXPERIMENTS, ExperimentSpec, read_spec
from fac.errors import InputError
from fac.experiments import Experiment
from fac.manifest import MeasureManifest
from fac.questions import experiments as questions
from fac.questions.catalogue import measured, titles
from fac.questions.comparison import clear_firing
from fac.ui.access import needing
from fac.ui.experiments import conclusion_html, show_figure, show_published, show_table
from fac.ui.jobs import counted, show_failures, start
from fac.ui.pickers import pick_run, stop_if_nothing_measured, warn_of_strays
from fac.ui.shell import title
from fac.ui.stores import stores
from fac.ui.tables import table
from fac.ui.text import clean, plain
from fac.ui.views import (
    action_button,
    empty,
    get_param,
    guard,
    link,
    param_multiselect,
    param_widget,
    set_param,
)
from fac.ui.writing import duration, show_job, show_stopped

PAGE = {"title": "Experiments", "section": "Make", "icon": "balance", "order": 95}

EARLIER = 50


# --- before -----------------------------------------------------------------------------------


def pick_dataset(manifests: Mapping[str, MeasureManifest], kind: str) -> str:
    """A measured dataset that the experiment can be about; ends the page where there is none."""
    mine = questions.askable(stores(), kind)
    if not mine:
        empty(
            "No labels yet",
            "Labels say what a row is an example of, such as toxic or not. Add a file with a "
            "column of them (one called label is recognised, any other is named under Columns), "
            "then press Measure.",
            icon=":material/new_label:",
            page="datasets",
            link="Add a labelled dataset",
        )
        st.stop()
    names, stray = titles(manifests), st.query_params.get("dataset", "")
    if stray in {*names, *names.values()} - {*mine, *map(names.get, mine)}:
        words = f"The rows of {plain(stray[:200])} have no labels; another dataset is shown."
        st.warning(words, icon=":material/label_off:")
    if EXPERIMENTS[kind].label != "looked for":
        return pick_run("Dataset", "dataset", mine, next(iter(mine)))
    # One with two labels and more can answer.
    several = (run for run in mine if len(questions.labels_of(stores(), run)) > 1)
    return pick_run("Labelled dataset", "dataset", mine, next(several, next(iter(mine))))


def pick_label(kind: Experiment, labels: Mapping[str, int]) -> str:
    """The label of the rows that are looked for, or that one begins with; "" for any."""
    if not kind.label or not labels:
        return ""
    looks = kind.label == "looked for"
    options, usual = (
        ([*labels], questions.usual_label(dict(labels))) if looks else (["", *labels], "")
    )

    # Without counts, which are another dataset's as long as the browser shows what it had.
    label = st.selectbox(
        "Label that is looked for" if looks else "Begun with rows labelled",
        options,
        format_func=lambda label: clean(label) or "any row",
        help="Rows with it are examples of what is looked for; other labelled rows are not."
        if looks
        else "One begins with rows of this label alone; any may be added.",
        **param_widget("label", usual, valid=options.__contains__, of_page=True),
    )
    if label:
        st.caption(counted(labels[label], "row"))
    return label


def pick_spec(manifests: Mapping[str, MeasureManifest]) -> ExperimentSpec:
    """What is asked, of which rows. Raises InputError for what cannot be a question."""
    kinds = {name: EXPERIMENTS[name].title for name in EXPERIMENTS}  # by preference
    tie = param_widget("kind", next(iter(kinds)), valid=kinds.__contains__, of_page=True)
    name = st.selectbox("Question", [*kinds], format_func=kinds.__getitem__, **tie)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        measure = pick_dataset(manifests, name)
        label = pick_label(EXPERIMENTS[name], questions.labels_of(stores(), measure))
    defaults, looks = EXPERIMENTS[name].defaults, EXPERIMENTS[name].label == "looked for"
    n_rows = questions.rows_of(stores(), name, measure)
    usual = ", ".join(map(str, defaults.get("labels") or questions.usual_sizes(n_rows)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        sizes = st.text_input(
            "Labelled rows to begin with" if looks else "Rows to begin with",
            width=210,
            help="What somebody has already, labelled where labels are looked for; each size is "
            "tried. Each arm then adds others.",
            **param_widget("sizes", usual, valid=lambda text: bool(text.strip()), of_page=True),
        )
        counts: dict[str, Any] = {
            count: pick_count(count, defaults.get(count, getattr(ExperimentSpec, count)))
            for count in questions.counts_of(name)
        }
        written = pick_written(measure) if "written" in EXPERIMENTS[name].takes else ()
        prompts = pick_prompts() if "prompts" in EXPERIMENTS[name].takes else ""
        with st.popover("More", icon=":material/tune:", type="tertiary"):
            clear = clear_firing(stores(), measure)
            threshold = st.number_input(
                "Threshold",
                0.0,
                format="%g",
                help="A feature fires in a row where its peak is above; by default clear firing, "
                "the median of the peaks.",
                **param_widget(
                    "above", clear, read=float, valid=lambda value: value >= 0, of_page=True
                ),
            )
            seed = st.number_input(
                "Seed",
                0,
                1_000_000,
                help="Which rows test, and every draw.",
                **param_widget("seed", 0, read=int, of_page=True),
            )
            full = "full" in EXPERIMENTS[name].takes and st.toggle(
                "Full size",
                help="LoRA, too, with every arm, size and learning rate: hours on two cores, where "
                "the usual size takes minutes.",
                **param_widget("full", False, read="True".__eq__, of_page=True),
            )
    return ExperimentSpec(
        name=name,
        measure=measure,
        label=label,
        threshold=float(threshold),
        labels=questions.read_sizes(sizes),
        seed=int(seed),
        written=written,
        full=full,
        prompts=prompts,
        **counts,
    )


def pick_written(measure: str) -> tuple[str, ...]:
    """The measures of written rows, each an arm of its own."""
    others = questions.could_be_arms(stores(), measure)
    names = titles(measured(stores()))
    chosen, strays = param_multiselect(
        "Written rows",
        "written",
        [*others],
        of=measure,
        format_func=lambda run: clean(names[run]),
        placeholder="None",
        width=260,
        help="Datasets that a synthesis wrote, or any other measured alike: each is an arm more, "
        "of as many tokens as random rows.",
    )
    if strays:
        st.caption(f":material/search_off: {plain(', '.join(strays)[:80])} cannot be an arm here.")
    return tuple(chosen)


def pick_prompts() -> str:
    """The dataset whose prompts judge; "" where none has constraints that a program can verify."""
    names = questions.prompts_of(stores())
    if not names:
        return ""
    tie = param_widget("prompts", next(iter(names)), valid=names.__contains__, of_page=True)
    return st.selectbox(
        "Prompts to follow",
        [*names],
        format_func=lambda run: clean(names[run]),
        width=210,
        help="A dataset of prompts with constraints that a program verifies, as IFEval's.",
        **tie,
    )


def pick_count(name: str, usual: int) -> int:
    """How many draws or subsets there are."""
    tie = param_widget(name, usual, read=int, of_page=True)
    help = "Drawn at random. More make intervals narrower, and take as much longer."
    return int(
        st.number_input(
            name.capitalize(), questions.COUNTS[name], 5000, width=110, help=help, **tie
        )
    )


def show_launch(manifests: Mapping[str, MeasureManifest]) -> None:
    """The question, what it takes, and the button."""
    st.caption(
        "Does filling gaps help your own task? An experiment tries it on rows of your own, "
        "beside random rows of equal tokens and controls whose effect is known, and answers with "
        "intervals. What it cannot tell, it says."
    )
    room = st.container()
    with st.container(border=True):
        try:
            spec = pick_spec(manifests)
            obstacle = questions.obstacle(stores(), spec)
        except InputError as error:
            obstacle = str(error)
        if obstacle:
            st.info(plain(obstacle), icon=":material/info:")
        else:
            show_price(spec)
    with room:  # whatever the form says: these were asked before
        if live := questions.jobs_of(stores().queue.live()):
            show_running([job.id for job in live])
        elif stopped := questions.stopped_experiment(stores()):
            st.caption(plain(questions.asked_in_words(stores(), stopped)))
            show_stopped(stopped, part="piece")


def show_price(spec: ExperimentSpec) -> None:
    """What the launch takes, and the button; or the way to what was asked before."""
    run = spec.run_id(spec.measure)
    if stores().runs.find(run):
        st.caption(":material/task_alt: Exactly this was asked before.")
        action_button("See what it says", "visibility", open_result, run, type="primary")
        return
    cost = questions.estimate(stores(), spec)
    pieces = counted(cost.pieces, "piece")
    if cost.seconds is None:
        words = (
            f"{pieces}, after the model has read the rows once. No experiment of this kind was "
            "timed here yet: once the first piece is done, the time that is left stands here."
        )
    else:
        words = (
            f"{pieces}, about {duration(cost.seconds)} as fast as those of {cost.like} went, after "
            "the model has read the rows once."
        )
    st.caption(plain(f"{words} It may be stopped at any time, and goes on where it was."))
    is_live = any(
        read_spec(job.step, job.spec) == spec for job in questions.jobs_of(stores().queue.live())
    )
    tie = needing("launch", type="primary", disabled=is_live)
    action_button("Run the experiment", "play_arrow", launch, spec, **tie)


def launch(spec: ExperimentSpec) -> None:
    """Starts it; its result is opened when it is there."""
    name = stores().runs.manifest(spec.measure).facts.name
    st.session_state["experiment job"] = start(spec, f"Asking {name}")


def open_arrived() -> None:
    """Opens the result of what was launched here, once it has finished."""
    number = st.session_state.get("experiment job")
    if number is None:
        return
    job = stores().queue.job(number)
    if job.status not in ("waiting", "running"):
        del st.session_state["experiment job"]
    if job.status == "done" and job.run_id:
        open_result(job.run_id)


def open_result(run: str | None) -> None:
    """Shows a finished experiment from the next run of the page on; None shows the form."""
    set_param("experiment", run)


@st.fragment(run_every="1s")
@guard()
def show_running(jobs: list[int]) -> None:
    """The experiments under way; the page runs again when one ends."""
    live = questions.jobs_of(stores().queue.live())
    if [job.id for job in live] != jobs:
        st.rerun()
    for job in live:
        with st.container(border=True, gap="small"):
            show_job(job, "piece")


# --- after ------------------------------------------------------------------------------------


def label_words(kind: Experiment, spec: ExperimentSpec) -> str:
    """What the label of a spec says, in words."""
    if kind.label == "looked for":
        return f", {spec.label!r} against the rest"
    return f", beginnings labelled {spec.label!r}" if spec.label else ""


def show_result(manifest: Any) -> None:
    """What an experiment says: the sentence, the figure, whether to believe it, all figures."""
    spec, facts = manifest.spec, manifest.facts
    kind: Experiment = EXPERIMENTS[spec.name]
    result = questions.finding(stores(), manifest.run)
    names, labels = titles(measured(stores())), ", ".join(map(str, spec.labels))
    name = names.get(spec.measure, facts.name)
    with st.container(horizontal=True, vertical_alignment="center"):
        action_button("New experiment", "add", open_result, None)
        link("fill", "Fill its gaps from a pool", dataset=name)
        st.caption(
            plain(
                f"{kind.title} {name}{label_words(kind, spec)}, begun with {labels} of "
                f"{facts.n_rows:,} rows, {counted(len(kind.pieces(spec)), 'piece')}, "
                f"threshold {spec.threshold:.3g}, seed {spec.seed}."
            )
        )
    st.html(conclusion_html(result.conclusion))
    show_figure(result, kind)
    st.markdown("**Would it have seen an effect?**")
    st.markdown(plain(result.controls))
    st.caption(plain(result.note))
    st.subheader("All figures", anchor=False)
    show_table(result, kind, f"{spec.name}-{facts.name}")
    show_published(spec.name)


def show_earlier(run: str) -> None:
    """The finished experiments, each a way to what it says."""
    manifests = questions.experiments(stores())
    if not manifests:
        return
    st.subheader("Earlier experiments", anchor=False)
    text = st.column_config.TextColumn
    more = {
        "question": text("Question", width=300),
        "label": text("Looked for", width=100),
        "sizes": text("Begun with", width=100),
        "pieces": st.column_config.NumberColumn("Pieces", width=64),
        "created": st.column_config.DatetimeColumn("Asked", format="distance"),
    }
    rows = [
        {
            "run": each.run,
            "dataset": each.facts.name,
            "question": EXPERIMENTS[each.spec.name].title,
            "label": each.spec.label,
            "sizes": ", ".join(map(str, each.spec.labels)),
            "pieces": len(EXPERIMENTS[each.spec.name].pieces(each.spec)),
            "created": each.created,
        }
        for each in manifests[:EARLIER]
        if each.run != run
    ]
    columns = ("dataset", "question", "label", "sizes", "pieces", "created")
    table(rows, columns, key="experiments", opens="experiment", id_column="run", more=more)


title("Experiments")
all_measured = measured(stores())
stop_if_nothing_measured(all_measured)
open_arrived()
show_failures("experiment")
finished = {each.run: each for each in questions.experiments(stores())}
linked = st.query_params.get("experiment", "")
opened = get_param("experiment", "", valid=finished.__contains__)
if linked and not opened:
    sentence = f"No finished experiment here is called {plain(linked[:200])}"
    st.warning(f"{sentence}; it may have been deleted.", icon=":material/search_off:")
if opened:
    show_result(finished[opened])
else:
    warn_of_strays(all_measured)
    show_launch(all_measured)
show_earlier(opened)
