"""What both steps of a synthesis have on their pages: the settings of a writer, the exact request,
and a job that writes, with its pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from fac.config import WRITERS, WriteSpec, inherited
from fac.prompts.profiles import PROFILES
from fac.store.queue import Job
from fac.ui.jobs import key_line, progress, retry
from fac.ui.stores import queue
from fac.ui.text import Row, chat_html, plain

WRITER_NAMES = {
    "local": "A model here",
    "steered": "The same, steered",
    "openai": "A server",
}

PROFILE_NAMES = {
    "instruction": "Messages to an assistant",
    "chat": "Messages with answers",
    "toxicity": "Toxic or not",
    "preference": "Two answers, one better",
    "choice": "A/B questions",
}

BUDGET = 1_000_000
"""Tokens a job may use unless somebody says otherwise."""

ROOM = 100_000
"""Characters of a request that are shown."""


def writer_fields(name: str, before: Mapping[str, Any]) -> Row:
    """Draws who writes what, and how; the fields of a WriteSpec that were chosen.

    `before` is the spec whose settings hold until somebody changes them. Other values of `name`
    are other fields, which keep what was chosen in them for the whole session.
    """

    def tie(field: str) -> Row:
        return {"key": f"{name}.{field}", "persist_state": "session"}

    writer = st.segmented_control(
        "Writer",
        [*WRITERS],
        default=before.get("writer", WriteSpec.writer),
        required=True,
        format_func=WRITER_NAMES.__getitem__,
        help="Steering pushes the local model along the feature's own direction while it writes. "
        "A server is anything that speaks like OpenAI: vLLM, llama.cpp, Ollama.",
        **tie("writer"),
    )
    model_before = inherited(before, writer)
    chosen: Row = {"writer": writer}
    # Another kind of writer means another model: its field is another one.
    where = "server" if writer == "openai" else "here"
    steered = writer == "steered"
    first, second, third, *fourth = st.columns(3 + steered)
    profiles = list(PROFILES)
    chosen["profile"] = first.selectbox(
        "Samples",
        profiles,
        index=profiles.index(before.get("profile", profiles[0])),
        format_func=lambda each: PROFILE_NAMES.get(each, each),
        **tie("profile"),
    )
    chosen["model"] = second.text_input(
        "Model",
        value=model_before.get("model", ""),
        placeholder="the name the server knows" if writer == "openai" else "demo",
        help="demo, a folder or a hub id." if writer != "openai" else None,
        **tie(f"model {where}"),
    ).strip()
    chosen["candidates"] = third.number_input(
        "Texts per gap",
        1,
        64,
        value=int(before.get("candidates", 4)),
        help="Written for every gap; what does not pass is dropped with a reason.",
        **tie("candidates"),
    )
    if steered:
        chosen["strength"] = fourth[0].number_input(
            "Strength",
            0.0,
            20.0,
            value=float(before.get("strength", 1.0)),
            step=0.25,
            help="Of steering, in units of the feature's usual peak in the anchor.",
            **tie("strength"),
        )
    if writer == "openai":
        chosen |= _server(tie, model_before)
    first, second, third, last = st.columns(4)
    chosen["temperature"] = first.number_input(
        "Temperature",
        0.0,
        2.0,
        value=float(before.get("temperature", 0.8)),
        step=0.1,
        **tie("temperature"),
    )
    chosen["max_new_tokens"] = second.number_input(
        "Longest text",
        8,
        4096,
        value=int(before.get("max_new_tokens", 64)),
        step=8,
        help="In tokens. A text that is cut off counts up to its last sentence.",
        **tie("max_new_tokens"),
    )
    chosen["budget_tokens"] = last.number_input(
        "Token budget",
        1,
        None,
        value=BUDGET,
        step=100_000,
        help="Prompt and text together. The job stops before it would use more; what is written "
        "is kept, and a larger budget goes on from there.",
        **tie("budget"),
    )
    chosen["seed"] = third.number_input(
        "Seed",
        0,
        2**31 - 1,
        value=int(before.get("seed", 0)),
        help="The same seed on the same machine gives the same texts.",
        **tie("seed"),
    )
    return chosen


def lacks_model(fields: Mapping[str, Any]) -> bool:
    """Whether a server was chosen and not yet the model that it should ask; then says so."""
    lacks = fields["writer"] == "openai" and not fields["model"]
    if lacks:
        st.info("Say by which name the server knows its model.", icon=":material/dns:")
    return lacks


def _server(tie: Any, server: Mapping[str, Any]) -> Row:
    """Where the server is, what it costs, how much of it is wanted."""
    key_line()
    endpoint = st.text_input(
        "Endpoint",
        value=server.get("endpoint", ""),
        placeholder="OPENAI_BASE_URL, else OpenAI",
        help="Base URL of any OpenAI-compatible server, such as http://127.0.0.1:8000/v1.",
        **tie("endpoint"),
    ).strip()
    prompts, texts, budget_column = st.columns(3)
    prices = {
        field: column.number_input(
            label,
            0.0,
            None,
            value=None,
            placeholder="unknown",
            help="US dollars per million tokens; without both, no cost is known.",
            **tie(field),
        )
        for column, field, label in (
            (prompts, "price_in", "Price, prompts"),
            (texts, "price_out", "Price, texts"),
        )
    }
    budget = budget_column.number_input(
        "Budget in $",
        0.01,
        None,
        value=None,
        placeholder="none",
        help="The job stops before it would cost more. Needs both prices.",
        **tie("budget_usd"),
    )
    return {"endpoint": endpoint, **prices, "budget_usd": budget}


def show_request(messages: Sequence[Mapping[str, str]]) -> None:
    """Exactly what a writer is given: messages, or a text that it goes on with."""
    if not any(message["content"] for message in messages):
        st.caption("An empty chat: the model begins as its training has it.")
        return
    st.html(chat_html(messages, limit=ROOM))


def show_job(job: Job) -> None:
    """One live job: how far, how fast, how long still, and the button that ends it."""
    progress(job)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(_pace(job), width="stretch")
        st.button(
            "Cancel",
            key=f"cancel {job.id}",
            icon=":material/close:",
            on_click=queue().cancel,
            args=(job.id,),
            help="Every finished text is kept: started again, nothing is written twice.",
        )


def _pace(job: Job) -> str:
    """How long it has run and, once some of it was seen to pass, how long it still takes."""
    if job.status == "waiting" or not job.started:
        return "It starts as soon as the worker is free."
    running = f"Running for {duration(time.time() - job.started)}"
    # Resumed texts come at once and a model has to be loaded first: only what passed since the
    # count was first seen to move tells how fast it goes.
    now, seen = time.monotonic(), st.session_state.setdefault("seen", {})
    phase = (job.id, job.total, job.note.split(",")[0])
    before, at = seen.setdefault(phase, (job.done, now))
    passed, took = job.done - before, now - at
    if not job.total or passed <= 0 or took < 2:
        return running
    left = (job.total - job.done) * took / passed
    rate = passed / took
    pace = f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"
    return f"{running} · {pace} · about {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds in the unit that people would say."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_stopped(job: Job, go_on: Callable[[], None] | None = None) -> None:
    """A job that ended before its end: why, and the button that goes on with it, by `go_on` where
    it is not simply asked for again."""
    cancelled = job.status == "cancelled"
    why = "Cancelled. Every finished text is kept." if cancelled else job.error or "It failed."
    with st.container(horizontal=True, vertical_alignment="center"):
        st.warning(plain(why), icon=":material/pause_circle:")
        st.button(
            "Go on",
            key=f"resume {job.id}",
            icon=":material/resume:",
            on_click=go_on or partial(retry, job.id),
            help="From where it stopped; nothing is written twice.",
        )
