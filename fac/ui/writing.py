"""What both steps of a synthesis have on their pages: the settings of a writer, the exact request,
and a job that writes, with its pace; and how samples are launched: settings, pilot, result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from fac.config import (
    ANSWERERS,
    METHODS,
    WRITERS,
    ExplainSpec,
    JudgeSpec,
    PairsSpec,
    SynthesizeSpec,
    WriteSpec,
)
from fac.errors import InputError
from fac.markup import duration
from fac.prompts.profiles import PROFILES, later_parts
from fac.questions.catalogue import measured, titles
from fac.questions.comparison import Comparison
from fac.questions.estimates import (
    asking,
    cost_words,
    estimate,
    in_words,
    pace_words,
    short_words,
)
from fac.questions.pairs import StyleRequest, inherited, next_attempt
from fac.questions.shape import Shape
from fac.store.queue import Job
from fac.synthesis import Forecast
from fac.ui.access import check_place, needing
from fac.ui.endpoints import (
    BUDGET,
    default_of,
    endpoints,
    pace,
    pick_endpoint,
    pick_model,
    rate_limit,
    room_field,
)
from fac.ui.jobs import lacks_budget, progress, raise_budget, retry, save_upload, start
from fac.ui.pickers import url_of
from fac.ui.stores import stores
from fac.ui.text import Row, chat_html, plain
from fac.ui.views import action_button, set_param

T = TypeVar("T", int, float)

ROOM = 100_000
"""Characters of a request that are shown."""

ATTEMPT_HELP = "The same settings find the same texts again; another number writes anew."


class Form:
    """The settings of a form, which keep what was chosen in them for the whole session."""

    def __init__(self, name: str, before: Mapping[str, Any]):
        """Other names are other settings; `before` is the spec that they may begin with."""
        self.name, self._before = name, before
        self.values: Row = {}

    def tie(self, key: str) -> Row:
        """Keyword arguments that tie a widget to this form."""
        return {"key": f"{self.name}.{key}", "persist_state": "session"}

    def before(self, field: str, default: T) -> T:
        """What the spec before says, as a value like the default."""
        return type(default)(self._before.get(field, default))

    def text(self, field: str, default: str) -> str:
        """What the spec before says, as it stands."""
        return str(self._before.get(field, default))

    def number(
        self, field: str, column: Any, label: str, *limits: Any, key: str = "", **options: Any
    ) -> None:
        """Draws one number in a column, or in whatever is open where that is Streamlit itself;
        `limits` are the lowest, the highest and the one to begin with."""
        options |= self.tie(key or field)
        self.values[field] = column.number_input(label, *limits, **options)


def writer_form(
    name: str,
    before: Mapping[str, Any],
    shape: Shape | None = None,
    *,
    task: str = "pairs",
    pushed: bool = False,
) -> Form:
    """Draws who writes what, and how: the fields of a WriteSpec, as in the spec `before` until
    somebody changes them; without one the samples have the `shape` of the dataset. `task`, one of
    fac.endpoints.TASKS, says which server it begins with; `pushed` is whether the measured model
    is, however it is called."""
    form = Form(name, before)
    writer = st.segmented_control(
        "Writer",
        [*WRITERS],
        default=before.get("writer", WriteSpec.writer),
        required=True,
        format_func=lambda each: WRITERS[each].title,
        help="Steering pushes the local model along the feature's own direction while it writes. "
        "A server is anything that speaks like OpenAI: vLLM, llama.cpp, Ollama.",
        **form.tie("writer"),
    )
    model_before, kind = inherited(before, writer), WRITERS[writer]
    if kind.server and not model_before.get("model"):
        endpoint, model = default_of(task)
        model_before |= {"model": model} | ({} if endpoint is None else {"endpoint": endpoint})
    steers = kind.steers or (pushed and not kind.server)
    profile, (second, third, *more) = _profile(form, shape, steers)
    # Another kind of writer means another model: its field is another one.
    tie = form.tie("model server" if kind.server else "model here")
    if kind.server:
        model = pick_model(second, model_before.get("model", ""), **tie)
    else:
        tie["placeholder"] = "the measured model"
        tie["help"] = "demo, a folder, a .gguf file or a hub id."
        model = second.text_input("Model", model_before.get("model", ""), **tie).strip()
    form.values |= {"writer": writer, "profile": profile, "model": model}
    help = "Written for every gap; what does not pass is dropped with a reason."
    texts = form.before("candidates", 4)
    form.number("candidates", third, "Texts per gap", 1, 64, texts, help=help)
    if steers:
        help = "Of steering, in units of the feature's usual peak in the anchor; 0 pushes nothing."
        strength = form.before("strength", 1.0)
        form.number("strength", more.pop(), "Strength", 0.0, 20.0, strength, help=help, step=0.25)
    if kind.server:
        _server(form, model_before)
    first, second, third, last = st.columns(4)
    temperature = form.before("temperature", 0.8)
    form.number("temperature", first, "Temperature", 0.0, 2.0, temperature, step=0.1)
    help = "In tokens. A text that is cut off counts up to its last sentence."
    longest = form.before("max_new_tokens", 64)
    form.number("max_new_tokens", second, "Longest text", 8, 4096, longest, help=help, step=8)
    help = (
        "Prompt and text together. The job stops before it would use more; what is written is "
        "kept, and a larger budget goes on from there."
    )
    options: Row = {"help": help, "key": "budget", "step": 100_000}
    form.number("budget_tokens", last, "Token budget", 1, None, BUDGET, **options)
    help = "The same seed on the same machine gives the same texts."
    form.number("seed", third, "Seed", 0, 2**31 - 1, form.before("seed", 0), help=help)
    return form


def _profile(form: Form, shape: Shape | None, steers: bool) -> tuple[str, list[Any]]:
    """Draws what the samples are and, where they have answers, who writes those; the profile and
    the columns beside it."""
    # Another dataset may have another shape: its field is another one.
    usual = form.text("profile", shape.profile if shape else WriteSpec.profile)
    profiles, tie = [*PROFILES], form.tie(f"profile {usual}")
    field, width = st.session_state.get(tie["key"]) or usual, 3 + steers
    # What samples are is longer than any number beside it.
    first, *columns = st.columns([1.5, *[1] * (width - 1 + bool(later_parts(field)))])
    title, index = (lambda each: PROFILES[each].title), profiles.index(usual)
    profile = first.selectbox("Samples", profiles, index, title, **tie)
    if shape and profile == shape.profile:
        first.caption(f"Your data are {shape.reason}.")
    elif shape:
        first.caption(f":material/warning: Your data are {shape.reason}.")
    if later_parts(field):
        tie = form.tie("answers")
        tie["help"] = "Each answer is a turn of its own, written once its message has passed."
        names = [*ANSWERERS]
        index = names.index(form.text("answers", WriteSpec.answers))
        title = ANSWERERS.__getitem__
        form.values["answers"] = columns.pop(0).selectbox("Answers by", names, index, title, **tie)
    return profile, columns


def lacks_model(form: Form) -> bool:
    """Whether a server was chosen and not yet the model that it should ask; then says so."""
    lacks = WRITERS[form.values["writer"]].server and not form.values["model"]
    if lacks:
        st.info("Say by which name the server knows its model.", icon=":material/dns:")
    return bool(lacks)


def _server(form: Form, server: Mapping[str, Any]) -> None:
    """Where the server is, what it costs, how much of it is wanted."""
    url = pick_endpoint(server.get("endpoint"), **form.tie("endpoint"))
    form.values["endpoint"] = url
    listed = endpoints().of(url, form.values["model"])
    prompts, texts, total, room = st.columns(4)
    help = "US dollars per million tokens; without both, no cost is known."
    for field, column, name in (("price_in", prompts, "prompts"), ("price_out", texts, "texts")):
        options = {"help": help, "placeholder": "unknown"}
        # Another endpoint or model has other prices: its field is another one.
        options["key"] = f"{field} {url} {form.values['model']}"
        price = getattr(listed, field)
        form.number(field, column, f"Price, {name}", 0.0, None, price, **options)
    help = "The job stops before it would cost more. Needs both prices."
    form.number("budget_usd", total, "Budget in $", 0.01, None, None, help=help, placeholder="none")
    with room:
        form.values["room"] = room_field(form.values, form.name)


def show_request(messages: Sequence[Mapping[str, str]]) -> None:
    """Exactly what a writer is given: messages, or a text that it goes on with."""
    if not any(message["content"] for message in messages):
        st.caption("An empty chat: the model begins as its training has it.")
        return
    st.html(chat_html(messages, limit=ROOM))


def show_job(job: Job, part: str = "text") -> None:
    """One live job: how far, how fast, how long still, and the button that ends it; `part` is what
    is kept of it."""
    progress(job)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(_pace(job), width="stretch")
        help = f"Every finished {part} is kept: started again, nothing is done twice."
        cancel = stores().queue.cancel
        tie = needing("cancel", key=f"cancel {job.id}", help=help, disabled=job.stopping)
        action_button("Cancel", "close", cancel, job.id, **tie)


def _pace(job: Job) -> str:
    """How long it has run and, once some of it was seen to pass, how long it still takes."""
    if job.status == "waiting" or not job.started:
        return "It starts as soon as the worker is free."
    if job.stopping and job.status == "running":
        return "It was asked to end, and does once what it is at is done."
    running = f"Running for {duration(time.time() - job.started)}"
    # Resumed texts come at once and a model has to be loaded first: only what passed since the
    # count was first seen to move tells how fast it goes.
    now, seen = time.monotonic(), st.session_state.setdefault("seen", {})
    before, at = seen.setdefault((job.id, job.attempts, job.total, job.done > 0), (job.done, now))
    passed, took = job.done - before, now - at
    if not job.total or passed <= 0 or took < 2:
        return running
    return f"{running} · about {duration((job.total - job.done) * took / passed)} left"


def estimate_words(
    spec: PairsSpec | SynthesizeSpec, gaps: Sequence[int], requests: Sequence[StyleRequest]
) -> str:
    """What writing for these gaps may take, in a sentence or two."""
    settings = spec.as_json()
    rate = rate_limit(settings) if WRITERS[spec.writer].server else None
    amount = estimate(stores(), spec, gaps, requests, pace(settings), rate)
    inside, above = ", answers included", ", and those of answers on top"
    if not amount.is_answered:
        inside = above = ""
    words = (
        f"{amount.texts:,} texts: up to {amount.most_tokens:,} new tokens{inside}, and about "
        f"{amount.prompt_tokens:,} of prompts{above}."
    )
    if amount.seconds is not None:
        words += f" {pace_words(amount.seconds, amount.limit)}"
    words += f" {cost_words(amount.cost)}" if WRITERS[spec.writer].server else ""
    words += short_words(spec, amount.most_tokens + amount.prompt_tokens, amount.cost)
    return words.replace("$", "\\$")


def asking_words(spec: ExplainSpec | JudgeSpec) -> str:
    """What explaining or judging with a language model may take, as Markdown."""
    settings = spec.as_json()
    amount = asking(stores(), spec, pace(settings), rate_limit(settings))
    return in_words(spec, amount).replace("$", "\\$")


def show_stopped(job: Job, go_on: Callable[[], None] | None = None, part: str = "text") -> None:
    """A job that ended before its end: why, and the button that goes on with it, by `go_on` where
    it is not simply asked for again."""
    cancelled = job.status == "cancelled"
    short = go_on is None and lacks_budget(job)
    why = f"Cancelled. Every finished {part} is kept." if cancelled else job.error or "It failed."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.warning(plain(why), icon=":material/pause_circle:")
        help = "From where it stopped; nothing is done twice."
        again = go_on or partial(retry, job.id)
        if not short:
            tie = needing("launch", key=f"resume {job.id}", help=help)
            action_button("Go on", "resume", again, **tie)
    if short and raise_budget(job):
        st.rerun()


def again_view(comparison: Comparison, features: Sequence[int]) -> dict[str, str]:
    """Query parameters of the form of pairs for gaps that were written for before, with the next
    attempt: the one before would find the same texts."""
    attempt = str(next_attempt(stores(), comparison, features))
    view = {"features": ",".join(map(str, sorted(features))), "attempt": attempt}
    return view | question_view(comparison)


def question_view(comparison: Comparison) -> dict[str, str]:
    """Query parameters that carry a whole question of coverage to another page."""
    names = titles(measured(stores()))
    sides = {"anchor": comparison.anchor, "dataset": comparison.dataset}
    return {side: names.get(run, run) for side, run in sides.items()} | url_of(comparison)


# --- launching a synthesis -----------------------------------------------------------------------


def launch_fields(run: str, approved: Sequence[Row]) -> SynthesizeSpec:
    """Draws the settings of a synthesis from these pairs, as they were for the pairs until somebody
    changes them. Raises InputError for settings that cannot be."""
    before = stores().runs.manifest(run).spec.as_json()
    form = writer_form(f"synthesis {run}", before, task="synthesis", pushed=True)
    if lacks_model(form):
        st.stop()
    first, second, third, _ = st.columns(4)
    form.number("keep", first, "Kept per gap", 1, 64, 1, help="The strongest of those that pass.")
    help = "A text passes when its gap's peak is strictly above."
    threshold = form.before("threshold", 0.0)
    form.number("threshold", second, "Threshold", 0.0, None, threshold, help=help, step=0.5)
    help = "Writes in rounds until exactly so many are kept; 0 writes once for every gap."
    form.number("rows", third, "Samples to keep", 0, 1_000_000, 0, help=help)
    with st.container(horizontal=True):
        with st.popover("Held-out files", icon=":material/fact_check:"):
            evaluation = _evaluation_files(form)
        with st.popover("Method and more", icon=":material/tune:"):
            help = "Baselines write for the same gaps, to see what the pairs are worth."
            options: Row = {"format_func": lambda name: METHODS[name].title, "help": help}
            method = st.selectbox("Method", [*METHODS], **options, **form.tie("method"))
            label, tie = "Only samples that add a gap", form.tie("only_needed")
            help = "Drops a sample whose gaps the others kept cover anyway."
            form.values |= {"method": method, "only_needed": st.toggle(label, help=help, **tie)}
            form.number("attempt", st, "Attempt", 0, 1000, 0, help=ATTEMPT_HELP)
    if evaluation:
        files = plain(", ".join(Path(path).name for path in evaluation))
        st.caption(f":material/fact_check: No kept sample may overlap with {files}.")
    names = tuple(row["pair"] for row in approved)
    return SynthesizeSpec(pairs=run, approved=names, evaluation=tuple(evaluation), **form.values)


def _evaluation_files(form: Form) -> list[str]:
    """Files that no sample may overlap with: uploaded ones and paths on the server."""
    st.caption("Samples that nearly repeat one of these, or 13 words of it, are dropped.")
    options: Row = needing("file", key=form.tie("upload")["key"], help="Any dataset file.")
    uploads = st.file_uploader("From here", accept_multiple_files=True, **options)
    options = needing("file", **form.tie("evaluation"), placeholder="Type a path")
    paths = st.multiselect("On the server", [], accept_new_options=True, **options)
    files = [str(save_upload(file.name, file.getvalue())) for file in uploads]
    for name in paths:
        check_place(name)
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"There is no held-out file {name!r}: give a path on the server.")
        files.append(str(path))
    return list(dict.fromkeys(files))


def launch_synthesis(spec: SynthesizeSpec, words: str, follow: bool = True) -> None:
    """Starts a synthesis; with `follow` its result is opened when it is there."""
    job = start(spec, words)
    if follow:
        st.session_state["synthesis job"] = job


def open_arrived() -> None:
    """Opens the result of the synthesis that was launched here, once it has finished."""
    number = st.session_state.get("synthesis job")
    if number is None:
        return
    job = stores().queue.job(number)
    if job.status not in ("waiting", "running"):
        del st.session_state["synthesis job"]
    if job.status == "done" and job.run_id:
        open_result(job.run_id)


def open_result(run: str) -> None:
    """Shows a finished synthesis from the next run of the page on."""
    set_param("synthesis", run)
    for name in ("candidate", "reason"):
        set_param(name, None)


def open_launch(pairs: str) -> None:
    """Shows the form from the next run of the page on."""
    set_param("synthesis", None)
    set_param("pairs", pairs)


def show_forecast(forecast: Forecast, spec: SynthesizeSpec) -> None:
    """What a pilot says: how many texts pass, and what all the pairs will take."""
    n = len(spec.approved)
    with st.container(horizontal=True, gap="small"):
        of_pilot = f"{forecast.accepted:,} of the pilot's {forecast.candidates:,}"
        help = f"{of_pilot}, 95 % interval {forecast.low:.0%} to {forecast.high:.0%}."
        st.metric("Texts that pass", f"{forecast.rate:.0%}", help=help)
        st.metric("Time", duration(forecast.seconds), help=f"Of writing, for all {n:,} pairs.")
        cost = "unknown" if forecast.cost is None else f"${forecast.cost:,.2f}"
        free = not WRITERS[spec.writer].server
        st.metric("Cost", "none" if free else cost, help="Give both prices to know it.")
    st.caption(
        f"Between {forecast.low:.0%} and {forecast.high:.0%} of the texts pass (95 %); "
        f"{forecast.hit_rate:.0%} of the pilot's gaps got a sample. For all {n:,} pairs: about "
        f"{forecast.tokens:,.0f} tokens written and {forecast.prompt_tokens:,.0f} of prompts"
        f"{_per_kept_words(forecast)}."
    )
    due = forecast.tokens + forecast.prompt_tokens
    if spec.budget_tokens is not None and due > spec.budget_tokens:
        budget = f"That is more than the budget of {spec.budget_tokens:,} tokens"
        words = f"{budget}: the job will stop before its end and keep the gaps that are complete."
        st.warning(words, icon=":material/savings:")


def _per_kept_words(forecast: Forecast) -> str:
    if forecast.tokens_per_kept is None or forecast.seconds_per_kept is None:
        return "; the pilot kept nothing, so no price of a kept sample is known"
    seconds = duration(forecast.seconds_per_kept)
    words = f"; {forecast.tokens_per_kept:,.0f} tokens and {seconds}"
    if forecast.cost_per_kept is not None:
        words += f" and ${forecast.cost_per_kept:,.4f}"
    return f"{words} per kept sample"
