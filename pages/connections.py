"""The servers of language models that may be asked: whether each works, its prices, and which is
asked for what."""

from __future__ import annotations

import streamlit as st

from fac.endpoints import TASKS, Endpoint, Endpoints
from fac.generator.connection import AT_ONCE, MOST_TOKENS, Connection
from fac.ui.access import needing
from fac.ui.endpoints import (
    connections,
    endpoints,
    key_words,
    price_words,
    rate_words,
    try_endpoint,
)
from fac.ui.shell import title
from fac.ui.text import Row, plain
from fac.ui.views import cards, guard
from fac.ui.writing import duration

PAGE = {"title": "Connections", "section": "System", "icon": "dns", "order": 98}

TASK_NAMES = {
    "explain": "Explanations",
    "judge": "Relevance",
    "pairs": "Pairs",
    "synthesis": "Samples",
}

LISTED = 12  # names of models that are shown

EXAMPLE = """\
[lab]
url = "http://gpu-host:8000/v1"
key = "LAB_KEY"  # the variable that holds the key, never the key; left out where it needs none
models = ["small-model"]  # the first is the default
price_in = 0.15  # dollars per million tokens
price_out = 0.60
price_date = 2026-11-30  # when you looked them up
requests_per_minute = 60  # jobs wait rather than ask faster
tokens_per_minute = 40000  # of prompts and replies together
batch = true  # it has OpenAI's batch interface
tasks = ["explain", "judge"]  # of explain, judge, pairs, synthesis: asked here by default
"""


def show_defaults(listed: tuple[Endpoint, ...]) -> None:
    """What is asked where unless a form says otherwise."""
    names = {task: each for each in listed for task in each.tasks}
    if not names:
        st.caption("No task has a default: every form asks which server and model.")
        return
    words = [
        f"{TASK_NAMES[task]}: **{plain(names[task].models[0])}** at {plain(names[task].name)}"
        if task in names
        else f"{TASK_NAMES[task]}: chosen in the form"
        for task in TASKS
    ]
    st.markdown(" · ".join(words))


@st.fragment
@guard()
def show_endpoint(number: int, endpoint: Endpoint) -> None:
    """One endpoint, and what its last test showed."""
    with st.container(border=True, gap="small"):
        st.markdown(f"**{plain(endpoint.name)}** · `{endpoint.url}`")
        batch = "Explain and Judge can ask it in batches." if endpoint.batch else ""
        st.caption(
            f"{key_words(endpoint)} {price_words(endpoint)} {rate_words(endpoint)} {batch}".strip()
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            tie: Row = {"key": f"model {number} {endpoint.url}", "width": 360}
            if endpoint.models:
                model = str(st.selectbox("Model", endpoint.models, **tie))
            else:
                tie["placeholder"] = "the name the server knows"
                model = str(st.text_input("Model", **tie)).strip()
            help = (
                f"Asks {3 + AT_ONCE} short questions, the last {AT_ONCE} at once; it uses some "
                f"thousand tokens, and never more than {MOST_TOKENS:,}."
            )
            icon, key = ":material/network_check:", f"test {number} {endpoint.url}"
            tie = needing("connection", help=help, disabled=not model)
            pressed = st.button("Test", icon=icon, key=key, **tie)
        if pressed and model:
            test(endpoint, model)
        if last := connections().get((endpoint.url, model)):
            show_connection(last)
        elif not pressed:
            st.caption("It has not been tested with this model." if model else "Name a model.")


def test(endpoint: Endpoint, model: str) -> None:
    """Asks it while one watches."""
    bar = st.progress(0.0, "Asking")

    def show(done: int, total: int, note: str) -> None:
        bar.progress(min(done / total, 1.0), f"Asking for {note}")

    try:
        try_endpoint(endpoint, model, show)
    finally:
        bar.empty()


def show_connection(last: Connection) -> None:
    """What a test showed."""
    when = last.at.replace("T", " ").removesuffix("+00:00")
    if last.failure:
        st.error(f"It does not answer. {plain(last.failure)}", icon=":material/error:")
        st.caption(f"Tested {when} UTC. {models_words(last)}")
        return
    if last.unread:
        words = f"It answers, but not with what is asked: {plain(last.unread)}"
        st.warning(words, icon=":material/warning:")
    else:
        st.success("It works: it answers, and its answers can be read.", icon=":material/check:")
    help = f"{last.answered} of {AT_ONCE} questions at once took {last.together:.1f} s."
    cards(
        ("One question", duration_words(last.seconds), "Alone, from asking to the whole answer."),
        (f"{AT_ONCE} at once", f"{last.speedup:.1f} ×", f"As fast as one after the other. {help}"),
        ("Tokens", f"{last.completion_tokens:,}", tokens_help(last)),
        ("Room", f"{last.room:,}" if last.room else "enough", ROOM_HELP),
    )
    for refusal in last.refusals:
        st.markdown(f":material/block: It refuses {refusal.what}. :small[{plain(refusal.answer)}]")
    if last.met:
        met = ", ".join(f"{kind.replace('_', ' ')} {n:,}" for kind, n in last.met.items())
        st.markdown(f":material/replay: With {AT_ONCE} at once it had trouble: {met}.")
    named = f" It says that {plain(last.answered_as)} answered."
    other = named if last.answered_as not in ("", last.model) else ""
    cost = "" if last.cost is None else f", ${last.cost:.4f}"
    st.caption(f"Tested {when} UTC with {last.tokens:,} tokens{cost}.{other} {models_words(last)}")


ROOM_HELP = (
    "Tokens that an answer needs where the model thinks before it. Forms offer it as the room of "
    "replies."
)


def tokens_help(last: Connection) -> str:
    """What the figure of tokens counts."""
    guess = "" if last.counted else " The server does not count them: these are guesses."
    return f"Of an answer to a question of {last.prompt_tokens:,}, thoughts included.{guess}"


def duration_words(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def models_words(last: Connection) -> str:
    """Which models the server lists."""
    if last.unlisted:
        return f"It lists no models: {plain(last.unlisted)}"
    names = ", ".join(plain(name) for name in last.listed[:LISTED])
    more = f" and {len(last.listed) - LISTED:,} more" if len(last.listed) > LISTED else ""
    unlisted = "" if last.model in last.listed else f"; {plain(last.model)} is not among them"
    return f"It lists {names or 'no models'}{more}{unlisted if last.listed else ''}."


def show_listed(known: Endpoints) -> None:
    """What is asked where by default, every endpoint, and another address where that may be."""
    show_defaults(known.listed)
    for number, endpoint in enumerate(known.listed):
        show_endpoint(number, endpoint)
    if known.unlisted:
        help = "It is asked without a key."
        url = st.text_input("Another address", placeholder="http://127.0.0.1:8000/v1", help=help)
        if url.strip():
            with guard():
                show_endpoint(len(known.listed), known.of(url))


title("Connections")
st.caption(
    "The servers of language models that jobs may ask, as `endpoints.toml` of the workspace lists "
    "them. No key is shown or kept here."
)
with guard():  # a list that cannot be read leaves the example below it
    show_listed(endpoints())
with st.expander("List another, its prices, and what it is asked for", icon=":material/edit:"):
    st.caption(
        "Add to `endpoints.toml` of the workspace, then load this page again. Prices set there "
        "reach every form; whoever can write the file decides where questions and keys go."
    )
    st.code(EXAMPLE, language="toml")
