"""The one control with which a page asks a language model: the operator's endpoints and models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from fac.config import Spec
from fac.endpoints import UNLISTED, Endpoint, Endpoints, default_endpoint, read_endpoints
from fac.errors import InputError, Progress
from fac.generator.connection import (
    Connection,
    keep_connection,
    read_connections,
    try_connection,
)
from fac.generator.rate import RateLimit, rate_of
from fac.jobs.steps import asks_server
from fac.ui.access import permit
from fac.ui.stores import workspace
from fac.ui.text import Row, plain

BUDGET = 1_000_000
"""Tokens a job may use unless somebody says otherwise."""


def endpoints() -> Endpoints:
    """What the operator lists now. Raises InputError as `read_endpoints`."""
    return read_endpoints(workspace().endpoints)


def check_endpoint(spec: Spec) -> None:
    """Raises InputError where a step would ask an address or a model that is not listed; the worker
    refuses it too, but later."""
    if asks_server(spec):
        endpoints().of(spec.endpoint, spec.model)


def key_line() -> None:
    """Whether the worker will find the keys, never which; Streamlit puts its secrets into the
    environment."""
    st.secrets.load_if_toml_exists()
    listed = {each.key: each for each in endpoints().listed if each.key}
    words = [key_words(each) for each in sorted(listed.values(), key=lambda each: not each.has_key)]
    if not all(each.has_key for each in listed.values()):
        words.append("Set it in the environment or in .streamlit/secrets.toml, restart the worker.")
    st.caption(" ".join(words) or ":material/key_off: No endpoint that is listed takes a key.")


def pick_endpoint(before: str | None = None, **tie: Any) -> str:
    """Draws which server is asked: an endpoint of the operator's, or any address where the operator
    lets people type one. As specs have it: "" is the default; `before` is where it begins."""
    key_line()
    known, default = endpoints(), default_endpoint().url
    names: dict[str, str] = {}
    for each in known.listed:
        url = "" if each.url == default else each.url
        names[url] = f"{names[url]}, {each.name}" if url in names else each.name
    urls = list(names)
    before = "" if before == default else before
    if before and before not in names:
        try:
            known.of(before)
        except InputError as error:
            words = f"What it was before cannot be asked: {plain(str(error))}"
            st.caption(f":material/link_off: {words}")
        else:
            urls.append(before)
    index = urls.index(before) if before in urls else 0

    def title(url: str) -> str:
        return f"{names[url]} · {url or default}" if url in names else url

    help = "Servers that speak like OpenAI, as endpoints.toml of the workspace lists them. "
    help += (
        "Any other address can be typed, such as http://127.0.0.1:8000/v1, and gets no key."
        if known.unlisted
        else f"Others are asked where the server was started with {UNLISTED}=allow."
    )
    options: Row = {"help": help, "accept_new_options": known.unlisted, **tie}
    chosen = st.selectbox("Endpoint", urls, index, title, **options)
    return (chosen or "").strip()


def pick_model(column: Any, before: str = "", **tie: Any) -> str:
    """Draws by which name the server knows the model, in a column or whatever is open: those that
    are listed, or a field where none is."""
    known = endpoints()
    models = list(dict.fromkeys(name for each in known.listed for name in each.models))
    any_name = known.unlisted or not all(each.models for each in known.listed)
    if not models:
        options = {"placeholder": "the name the server knows", **tie}
        return str(column.text_input("Model", before, **options)).strip()
    models += [before] if before and before not in models else []
    index = models.index(before) if before in models else None
    options = {"accept_new_options": any_name, "placeholder": "the name the server knows", **tie}
    return (column.selectbox("Model", models, index, **options) or "").strip()


def default_of(task: str) -> tuple[str | None, str]:
    """Endpoint and model that a form for a task begins with; (None, "") where nobody chose."""
    return endpoints().default_of(task) or (None, "")


def server_fields(task: str) -> Row:
    """Draws endpoint, model, budgets and room; the fields of a spec that asks them for one of
    `fac.endpoints.TASKS`, with the prices that are listed. Raises InputError as `Endpoints.of`."""
    before, usual = default_of(task)
    endpoint = pick_endpoint(before, key=f"{task} endpoint")
    with st.container(horizontal=True):
        model = pick_model(st, usual, key=f"{task} model")
        help = "The job stops before it would use more; what was answered is kept."
        limits: Row = {"value": BUDGET, "step": 100_000, "help": help, "key": f"{task} budget"}
        budget = int(st.number_input("Token budget", 1, None, **limits))
    values: Row = priced({"model": model, "endpoint": endpoint, "budget_tokens": budget})
    with st.container(horizontal=True):
        values["budget_usd"] = dollar_field(values, task)
        values["room"] = room_field(values, task)
    if endpoints().of(endpoint, model).batch:
        help = (
            "The provider answers within a day, mostly for less than its listed prices. The worker "
            "waits for it: `fac worker` starts another for what else is to be done."
        )
        values["in_batch"] = st.toggle("Ask in a batch", help=help, key=f"{task} batch")
    return values


def dollar_field(settings: Mapping[str, Any], key: str) -> float | None:
    """Draws the budget in dollars, which can be set once prices are known; None for none."""
    unpriced = None in (settings.get("price_in"), settings.get("price_out"))
    help = "The job stops before it would cost more. Needs both prices: see Connections."
    options: Row = {"help": help, "placeholder": "none", "disabled": unpriced, "key": f"{key} usd"}
    budget = st.number_input("Budget in $", 0.01, None, None, **options)
    return None if unpriced else budget


def room_field(settings: Mapping[str, Any], key: str) -> int:
    """Draws how many tokens a reply may have at least: as the last test of the model found until
    somebody changes it."""
    url, model = settings.get("endpoint") or "", settings.get("model") or ""
    last = last_test(url, model)
    room = last.room if last else 0
    help = (
        "In tokens, thoughts included; 0: what the answer needs, and more where a model thinks. "
        "A test on Connections finds it out."
    )
    # Another model thinks more or less: its field is another one.
    options: Row = {"step": 256, "help": help, "key": f"{key} room {url} {model}"}
    return int(st.number_input("Room of a reply", 0, 2**18, room, **options))


def last_test(url: str, model: str) -> Connection | None:
    """What the last test of an endpoint, as specs have it, and a model showed; None without one."""
    return connections().get((url or default_endpoint().url, model))


def pace(settings: Mapping[str, Any]) -> float | None:
    """Seconds a question where several are on their way, as the last test found."""
    last = last_test(settings.get("endpoint") or "", settings.get("model") or "")
    return last.pace if last else None


def rate_limit(settings: Mapping[str, Any]) -> RateLimit | None:
    """How fast the endpoint of a spec that asks a server may be asked; None where nobody listed a
    limit. Raises InputError as `Endpoints.of`."""
    return rate_of(endpoints().of(settings.get("endpoint") or "", settings.get("model") or ""))


def rate_words(endpoint: Endpoint) -> str:
    """How fast an endpoint may be asked; "" where nobody listed a limit."""
    rate = rate_of(endpoint)
    return f"At most {rate}: jobs wait for it." if rate else ""


def key_words(endpoint: Endpoint) -> str:
    """Whether an endpoint's key is there, never which, as Markdown."""
    if not endpoint.key:
        return ":material/key_off: It is asked without a key."
    if endpoint.has_key:
        return f":material/key: {plain(endpoint.key)} is set."
    need = "" if endpoint.needs_key else "; a server of your own may need none"
    return f":material/key_off: {plain(endpoint.key)} is not set{need}."


def price_words(endpoint: Endpoint) -> str:
    """What an endpoint's tokens cost, and since when that is known."""
    if endpoint.price_in is None or endpoint.price_out is None:
        return "Its prices are not listed, so that no job can say what it costs."
    since = f", of {endpoint.price_date:%d %B %Y}" if endpoint.price_date else ", without a date"
    prices = f"\\${endpoint.price_in:g} for prompts, \\${endpoint.price_out:g} for replies"
    return f"A million tokens: {prices}{since}."


def _connections_file() -> Path:
    return workspace().root / "connections.json"


def connections() -> dict[tuple[str, str], Connection]:
    """What the last test of each endpoint and model showed. Raises InputError as
    `read_connections`."""
    return read_connections(_connections_file())


def try_endpoint(endpoint: Endpoint, model: str, progress: Progress) -> None:
    """Tests a model of an endpoint, and keeps what that showed for every page of the workspace.
    Raises Refused."""
    permit("connection", f"{model} at {endpoint.url}")
    keep_connection(_connections_file(), try_connection(endpoint, model, progress=progress))


def priced(settings: Mapping[str, Any]) -> Row:
    """The settings of a spec with the prices that are listed for its endpoint and model. Raises
    InputError as `Endpoints.of`."""
    return endpoints().priced(settings)
