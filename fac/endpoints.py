"""Which servers of language models an operator lists, and which of them a key goes to.

Owns: what an address is and when two are the same, the operator's list, where a key comes from.
Does not own: what is sent to a server (`fac.generator.chat`), which step asks it (`fac.jobs`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

from fac.errors import InputError, first_line

OPENAI = "https://api.openai.com/v1"

DEFAULT_VARIABLE = "OPENAI_API_KEY"
"""Holds the key of the default endpoint, and of no other."""

BASE_URL = "OPENAI_BASE_URL"
"""Another default endpoint than OpenAI's."""

UNLISTED = "FAC_UNLISTED_ENDPOINTS"
"""Set to `allow`, pages and the worker ask also addresses that nobody listed, without a key."""

PORTS = {"http": 80, "https": 443}

URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:(?P<port>[0-9]{0,5}))?(?P<path>(/.*)?)",
    re.IGNORECASE,
)
"""Nothing but scheme, host, port and path: readers of addresses differ on all else."""

AZURE = re.compile(r"api-version=[\w.-]+")
"""What may follow the address of an Azure deployment, after a question mark; no key is one."""

HOST = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]*:[0-9a-f:.]*"
PATH = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)*"

FIELDS = {
    "url": str,
    "key": str,
    "models": list,
    "price_in": (int, float),
    "price_out": (int, float),
    "price_date": date,
    "requests_per_minute": int,
    "tokens_per_minute": int,
    "batch": bool,
    "tasks": list,
}

TASKS = ("explain", "judge", "pairs", "synthesis")
"""What a language model is asked for; each may have an endpoint that is asked unless somebody says
otherwise."""


class Address(NamedTuple):
    """An address as it is requested: two spellings of one are equal."""

    scheme: str  # http or https
    host: str  # lower case, no final dot; a version 6 address without brackets
    port: int
    path: str  # "" or segments that each begin with a slash, none of them . or ..

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def holds(self, other: Address) -> bool:
        """Whether the other is this address, or one below its path at the same server."""
        return self[:3] == other[:3] and f"{other.path}/".startswith(f"{self.path}/")


def read_address(url: str) -> Address:
    """The address that a text means.

    Raises InputError, which repeats no secret, for anything but scheme, host, port and path, and
    the version of Azure's interface behind it: a name or password before the host, something after
    the path, a host that is not in ASCII, a path that servers may read in two ways.
    """
    url = url.strip()
    check_storable(url)
    url = url.partition("?")[0]
    parts = URL.fullmatch(url)
    host, path = (parts["host"].lower(), parts["path"].rstrip("/")) if parts else ("", "")
    port = int(parts["port"] or PORTS[parts["scheme"].lower()]) if parts else 0
    if host.startswith("["):
        with suppress(ValueError):
            host = str(IPv6Address(host[1:-1]))
    host = host.removesuffix(".")
    if not parts or not 0 < port < 2**16 or not re.fullmatch(HOST, host):
        got = "" if "@" in url else f", got {url!r:.80}"
        in_ascii = "" if url.isascii() else " Write a host's name as DNS has it, with xn--."
        raise InputError(f"The endpoint must be an http(s) address{got}.{in_ascii}")
    if not re.fullmatch(PATH, path):
        raise InputError(
            f"The endpoint's path {path!r:.80} may hold no empty part, no . or .. and no %: "
            f"write it plainly."
        )
    return Address(parts["scheme"].lower(), host, port, path)


def check_storable(url: str) -> None:
    """Raises InputError for what is no address or has room for a key: specs are stored."""
    if without_secrets(url) != url or "@" in url.split("//")[-1].split("/")[0]:
        raise InputError(
            "The endpoint must hold no password and nothing after '?' or '#' but Azure's "
            "api-version: it is stored with the results. Name the variable that holds the key in "
            "endpoints.toml instead."
        )
    if url and not url.strip().lower().startswith(("http://", "https://")):
        got = "" if "@" in url else f", got {url!r:.80}"
        raise InputError(f"The endpoint must be an http(s) address{got}.")


def without_secrets(url: str) -> str:
    """An address as older versions stored it, less what could have held a key."""
    head, _, query = url.partition("?")
    return url if "#" not in head and AZURE.fullmatch(query) else re.split("[?#]", url)[0]


@dataclass(frozen=True)
class Key:
    """A key, and the variable of the environment that it was read from."""

    variable: str
    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server to be asked."""

    name: str  # how the operator calls it; its address where nobody listed it
    url: str  # as it was written, without a final slash
    key: str = ""  # name of the variable that holds its key; "" where it gets none
    needs_key: bool = True  # whether it is not to be asked while that variable is empty
    models: tuple[str, ...] = ()  # the only ones to ask for; () for any
    price_in: float | None = None  # US dollars per million prompt tokens
    price_out: float | None = None  # US dollars per million completion tokens
    price_date: date | None = None  # when the operator looked them up
    requests_per_minute: int | None = None  # at most, by all jobs of a process; None: no limit
    tokens_per_minute: int | None = None  # of prompts and replies together
    batch: bool = False  # whether it has OpenAI's batch interface
    tasks: tuple[str, ...] = ()  # those of TASKS that its first model is the default of

    @property
    def address(self) -> Address:
        """Where requests go. Raises InputError as `read_address`."""
        return read_address(self.url)

    @property
    def has_key(self) -> bool:
        """Whether the variable of its key holds anything."""
        return bool(self.key and os.environ.get(self.key, "").strip())

    def read_key(self) -> Key | None:
        """Its key; None where it gets none.

        Raises InputError where its variable is empty although it needs a key, or holds characters
        that no header can have.
        """
        text = os.environ.get(self.key, "").strip() if self.key else ""
        if not text and self.key and self.needs_key:
            raise InputError(
                f"There is no key for {self.name}: set {self.key} in the environment and start "
                f"again, or take another endpoint."
            )
        if not re.fullmatch(r"[!-~]*", text):
            raise InputError(f"{self.key} holds characters that no key has; copy it again.")
        return Key(self.key, text) if text else None


@dataclass(frozen=True)
class Endpoints:
    """The endpoints of one workspace: the default first, or those that a file lists."""

    listed: tuple[Endpoint, ...]
    unlisted: bool  # whether any other address may be asked, without a key

    def of(self, url: str, model: str = "") -> Endpoint:
        """The endpoint that a spec means, with its key if it is listed; "" is the default.

        A key belongs to the addresses at or below the one that it was listed with; where several
        fit, to the longest. Raises InputError for an address that is none or not to be asked, and
        for a model that its endpoint does not list.
        """
        default = default_endpoint()
        url = (url.strip() or default.url).rstrip("/")
        address = read_address(url)
        known = [each for each in self.listed if each.address.holds(address)]
        if not known and not self.unlisted:
            raise InputError(
                f"{url} is not among the endpoints that the operator lists: choose one of them, "
                f"or have it added to endpoints.toml."
            )
        if not known:
            # Also where a file lists others, the default's key is its own.
            bare = Endpoint(name=url, url=url)
            return replace(default, url=url) if default.address.holds(address) else bare
        longest = max(len(each.address.path) for each in known)
        known = [each for each in known if len(each.address.path) == longest]
        fitting = [each for each in known if model in each.models or not each.models or not model]
        if not fitting:
            models = ", ".join(name for each in known for name in each.models)
            raise InputError(f"{known[0].name} is listed with the models {models}, got {model!r}.")
        fitting.sort(key=lambda each: model not in each.models)
        return replace(fitting[0], url=url)

    def priced(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a spec that asks a server, with the listed prices where it has none."""
        values = dict(settings)
        prices = (values.get("price_in"), values.get("price_out"))
        if prices == (None, None) and (model := values.get("model")):
            endpoint = self.of(values.get("endpoint") or "", model)
            values |= {"price_in": endpoint.price_in, "price_out": endpoint.price_out}
        return values

    def default_of(self, task: str) -> tuple[str, str] | None:
        """Address and model that one of TASKS is asked of unless somebody says otherwise, as specs
        have them: "" is the default endpoint. None where the operator names none."""
        endpoint = next((each for each in self.listed if task in each.tasks), None)
        if endpoint is None:
            return None
        at_default = endpoint.url == default_endpoint().url
        return "" if at_default else endpoint.url, endpoint.models[0]

    def usual(self, settings: Mapping[str, Any], task: str) -> dict[str, Any]:
        """The settings of a spec that asks a server, with the default of one of TASKS where they
        name neither a model nor an endpoint."""
        default = self.default_of(task)
        if settings.get("model") or settings.get("endpoint") or default is None:
            return dict(settings)
        return {**settings, "endpoint": default[0], "model": default[1]}

    def with_key(self, url: str, variable: str) -> Endpoints:
        """With the key of this variable for this address, whatever is listed."""
        _check_variable(variable, "--key-variable")
        endpoint = replace(self.of(url), key=variable, needs_key=True)
        at_it = [each for each in self.listed if each.address == endpoint.address] or [endpoint]
        others = [each for each in self.listed if each.address != endpoint.address]
        with_it = [replace(each, key=variable, needs_key=True) for each in at_it]
        return replace(self, listed=(*with_it, *others))


def default_endpoint() -> Endpoint:
    """OPENAI_BASE_URL, else OpenAI's server; OPENAI_API_KEY belongs to it and to no other."""
    url = (os.environ.get(BASE_URL, "").strip() or OPENAI).rstrip("/")
    of_openai = read_address(url) == read_address(OPENAI)
    name = "OpenAI" if of_openai else BASE_URL
    needs_key = batch = of_openai
    return Endpoint(name=name, url=url, key=DEFAULT_VARIABLE, needs_key=needs_key, batch=batch)


def read_endpoints(file: Path, *, unlisted: bool | None = None) -> Endpoints:
    """What the operator lists: the endpoints of the file and OPENAI_BASE_URL, or where there is no
    file the default alone. `unlisted` is as FAC_UNLISTED_ENDPOINTS says where it is None.

    Raises InputError for a file that cannot be read and, with the name, for an entry that is wrong.
    """
    if unlisted is None:
        word = os.environ.get(UNLISTED, "").strip()
        if word not in ("", "allow", "refuse"):
            raise InputError(f"{UNLISTED} takes allow or refuse, got {word!r:.40}.")
        unlisted = word == "allow"
    default = default_endpoint()
    listed = _read_file(file)
    if default.name == BASE_URL or not listed:
        at_default = [each for each in listed if each.address == default.address]
        listed = listed if at_default else [default, *listed]
    return Endpoints(tuple(listed), unlisted)


def _read_file(file: Path) -> list[Endpoint]:
    try:
        tables = tomllib.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        if os.environ.get("FAC_ENDPOINTS"):
            raise InputError(f"FAC_ENDPOINTS names {file}, which is not there.") from None
        return []
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason}): save it as such.") from None
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
        raise InputError(f"{file} is no TOML: {first_line(error)}.") from None
    endpoints = [_read_entry(f"{file.name}, {name}", name, each) for name, each in tables.items()]
    keys: dict[Address, str] = {}
    for endpoint in endpoints:
        if keys.setdefault(endpoint.address, endpoint.key) != endpoint.key:
            raise InputError(
                f"{file.name} lists {endpoint.address} with two keys: give it one of them."
            )
    tasks = [task for endpoint in endpoints for task in endpoint.tasks]
    if twice := next((task for task in tasks if tasks.count(task) > 1), None):
        raise InputError(f"{file.name} has two defaults for {twice}: give it one of them.")
    return endpoints


def _read_entry(where: str, name: str, table: Any) -> Endpoint:
    """One table of the file. No value of `key` is repeated: a person may have put the key there."""
    if not isinstance(table, dict) or not isinstance(table.get("url"), str):
        raise InputError(f"{where}: an endpoint is a table with a url.")
    for each, value in table.items():
        if each not in FIELDS:
            raise InputError(f"{where}: there is no {each!r:.40}; known are {', '.join(FIELDS)}.")
        # A bool and a datetime are an int and a date to Python.
        wrong = isinstance(value, bool) != (FIELDS[each] is bool) or isinstance(value, datetime)
        if wrong or not isinstance(value, FIELDS[each]):  # type: ignore[arg-type]
            raise InputError(f"{where}: {each} has the wrong form.")
    models = table.get("models", [])
    if not all(isinstance(model, str) and model for model in models):
        raise InputError(f"{where}: models are a list of names.")
    tasks = table.get("tasks", [])
    if not all(task in TASKS for task in tasks):
        raise InputError(f"{where}: tasks are some of {', '.join(TASKS)}.")
    if tasks and not models:
        raise InputError(f"{where}: tasks need models, of which the first is asked.")
    prices = [table.get(each) for each in ("price_in", "price_out")]
    if any(price is not None and not 0 <= price < float("inf") for price in prices):
        raise InputError(f"{where}: a price is a number of dollars per million tokens, from 0 on.")
    for each in ("requests_per_minute", "tokens_per_minute"):
        if table.get(each, 1) < 1:
            raise InputError(f"{where}: {each} is a whole number from 1 on, got {table[each]}.")
    variable = table.get("key", "")
    if variable:
        _check_variable(variable, f"{where}: key")
    try:
        read_address(table["url"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    url = table["url"].strip().rstrip("/")
    return Endpoint(
        name=name,
        url=url,
        key=variable,
        models=tuple(models),
        price_in=None if prices[0] is None else float(prices[0]),
        price_out=None if prices[1] is None else float(prices[1]),
        price_date=table.get("price_date"),
        requests_per_minute=table.get("requests_per_minute"),
        tokens_per_minute=table.get("tokens_per_minute"),
        batch=table.get("batch", False),
        tasks=tuple(tasks),
    )


def _check_variable(variable: str, what: str) -> None:
    """Keys have small letters or dashes, names of variables that hold them have none."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise InputError(
            f"{what} takes the name of the environment variable that holds the key, in capitals "
            f"such as LAB_KEY, never the key itself."
        )
