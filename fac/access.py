"""Who may do what, and which requests the dashboard answers at all.

Owns: roles and what each allows, by which name a login is known, which paths of the server a
browser may name, which hosts the server answers to. Does not own: signing in, which is Streamlit's
(`fac.ui.access` asks it who is there), nor the record of what people did (`fac.store.audit`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fac.errors import InputError, Refused, first_line

ROLES = ("viewer", "reviewer", "operator", "owner")
"""Each may do what those before it may."""


class Action(NamedTuple):
    """What a person may want to do."""

    role: str  # the first of ROLES that may
    words: str  # begins a sentence


ACTIONS = {
    "look": Action("viewer", "Looking at this workspace"),
    "decide": Action("reviewer", "Deciding"),
    "edit": Action("reviewer", "Having an edited text measured"),
    "launch": Action("operator", "Starting a job"),
    "cancel": Action("operator", "Cancelling a job"),
    "worker": Action("operator", "Restarting the worker"),
    "file": Action("operator", "Bringing in or writing files"),
    "connection": Action("operator", "Testing a connection"),
    "delete": Action("operator", "Deleting"),
    "audit": Action("operator", "Reading who did what"),
    "settle": Action("owner", "Settling what people differ on"),
}
"""Settling outweighs what every reviewer said, so it is the owner's."""

EDITS = ("rescore", "retouch")
"""Steps that measure what a reviewer edited; they ask no server and read no file."""

Permit = Callable[[str, str], str]
"""Called with an action and what it is about before it is done: the name of who does it, "" where
nobody is known by one. Raises Refused."""

HOSTS = "FAC_HOSTS"
"""Names, separated by commas, under which people reach the server from elsewhere."""

NO_LOGIN = "FAC_NO_LOGIN"
"""Set to `allow`, whoever reaches the server may do everything."""

ROOTS = "FAC_ROOTS"
"""Folders, separated as in PATH, whose files people who signed in may name."""

LOCAL = ("localhost", "127.0.0.1", "::1")
"""What this machine calls itself."""

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?", re.IGNORECASE)

SHORTEST_SECRET = 32


def anybody(action: str, about: str) -> str:
    """The Permit of commands and of the worker: whoever has a shell here may do all of it."""
    return ""


# ---- people


class Person(NamedTuple):
    """Who is there."""

    name: str  # as roles.toml, decisions, jobs and the audit log have it; "" where nobody is known
    role: str  # one of ROLES; "" for none

    def may(self, action: str) -> bool:
        """Whether the role allows one of ACTIONS."""
        if self.role not in ROLES:
            return False
        return ROLES.index(self.role) >= ROLES.index(ACTIONS[action].role)

    def refusal(self, action: str) -> str:
        """Why not, as a sentence."""
        needed = ACTIONS[action]
        of_person = f"yours is {self.role}" if self.role else "you have none here"
        if not self.name:
            of_person = "nobody is signed in"
        return f"{needed.words} takes the role {needed.role}; {of_person}."

    def check(self, action: str) -> None:
        """Raises Refused where the role does not allow one of ACTIONS."""
        if not self.may(action):
            raise Refused(self.refusal(action))


def name_of(claims: Mapping[str, Any]) -> str:
    """By which name the claims of a verified ID token are known here: their address where the
    provider says that it verified it, else subject and issuer, which together mean one account
    (OpenID Connect Core, sections 2 and 5.7). "" where nobody is signed in."""
    if claims.get("is_logged_in") is not True:
        return ""
    address = _normal(claims.get("email"))
    if claims.get("email_verified") is True and re.fullmatch(r"[^\s@]+@[^\s@]+", address):
        return address.lower()
    subject, issuer = _normal(claims.get("sub")), _normal(claims.get("iss"))
    return f"{subject} at {issuer}" if subject and issuer else ""


def _normal(text: object) -> str:
    normal = unicodedata.normalize("NFC", text).strip() if isinstance(text, str) else ""
    return normal if normal.isprintable() else ""


def read_roles(file: Path) -> dict[str, str]:
    """Roles by the names of people, from lines such as "ann@lab.org" = "owner"; none where there is
    no file. Raises InputError for a file that cannot be read and for a line that is wrong."""
    try:
        lines = tomllib.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason}): save it as such.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is no TOML ({first_line(error)}): a line of it reads "
            f'"ann@lab.org" = "owner", with the quotation marks.'
        ) from None
    roles: dict[str, str] = {}
    for line, role in lines.items():
        name = _normal(line)
        name = name if " at " in name else name.lower()
        if role not in ROLES:
            raise InputError(
                f"{file.name}, {line!r:.80}: a role is one of {', '.join(ROLES)}, got {role!r:.40}."
            )
        if not name or roles.setdefault(name, role) != role:
            raise InputError(f"{file.name}, {line!r:.80}: give each person one line and a name.")
    return roles


# ---- files


@dataclass(frozen=True)
class Roots:
    """Folders of the server whose files a browser may name."""

    folders: tuple[Path, ...]

    def check(self, place: str | Path) -> None:
        """Raises Refused for a path outside, links followed; a pattern is of the folder before its
        first asterisk."""
        try:
            path = Path(place).expanduser()
            inside = ".." not in path.parts and any(
                path.resolve().is_relative_to(folder.resolve()) for folder in self.folders
            )
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise Refused(
                f"{str(place)!r:.200} is in no folder that may be used from a browser: upload the "
                f"file, or have its folder named with `fac app --root`."
            )

    def check_spec(self, spec: Mapping[str, Any]) -> None:
        """Raises Refused where the JSON of a spec names a path outside."""
        for place in _places(spec):
            self.check(place)


def _places(spec: Mapping[str, Any]) -> Iterator[str]:
    """Values of a spec that mean a path of this machine and not a name of a hub or a server."""
    sources = spec.get("source") or ()
    for source in [sources] if isinstance(sources, str) else sources:
        if not source.startswith("hf:"):
            yield source
        elif _is_path(source[3:]):
            yield source[3:]
    yield from spec.get("evaluation") or ()
    for name in ("model", "sae", "relevant"):
        if _is_path(spec.get(name) or ""):
            yield spec[name]
    if isinstance(spec.get("measure"), Mapping):
        yield from _places(spec["measure"])


def _is_path(name: str) -> bool:
    """Whether a name that may be a hub's means something on this machine; what follows @ or : says
    which revision or part of it."""
    try:
        here = any(Path(each).exists() for each in (name, re.split("[@:]", name)[0]) if each)
    except (OSError, ValueError):
        here = True
    return here or name.startswith(("/", "~", ".", "\\"))


def read_roots(folders: Sequence[Path]) -> Roots:
    """These folders of the workspace and those that the operator named."""
    named = filter(None, os.environ.get(ROOTS, "").split(os.pathsep))
    return Roots((*folders, *(Path(each).expanduser().absolute() for each in named)))


# ---- requests

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """Which requests are answered."""

    hosts: frozenset[str]  # names in the address bar, without ports
    far: bool  # whether also requests that reached the server beyond loopback

    def refusal(self, scope: Mapping[str, Any]) -> tuple[int, str] | None:
        """Status and sentence of a request that is not answered; None for one that is.

        A page of another site may name this server as its own (DNS rebinding) or open a socket to
        it: such a request has a foreign Host or Origin.
        """
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        if len(hosts) != 1 or host_name(hosts[0]) not in self.hosts:
            return 400, "This server does not answer to that host name."
        if scope["type"] == "websocket" and any(
            host_name(urlsplit(origin).netloc) not in self.hosts for origin in origins
        ):
            return 403, "This server does not answer to pages of that origin."
        if not self.far and not is_loopback(str((scope.get("server") or ("",))[0] or "")):
            return 403, "This server answers on its own machine alone."
        if "/_stcore/metrics" in scope["path"]:
            return 404, "There is nothing here."
        return None


class DoorKeeper:
    """Refuses requests in front of an ASGI application, sockets too."""

    def __init__(self, app: Server, door: Door):
        self.app, self.door = app, door

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        answer = None
        if scope["type"] in ("http", "websocket"):
            answer = self.door.refusal(scope)
        if answer is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": answer[1]})
        else:
            body = answer[1].encode()
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": answer[0], "headers": headers})
            await send({"type": "http.response.body", "body": body})


def read_door(address: str, login: Mapping[str, Any] | None) -> Door:
    """What a server that is bound to `address` answers, `login` being the section of Streamlit's
    secrets that says how people sign in.

    Raises InputError for a server that others could reach while nobody needs to sign in, unless
    FAC_NO_LOGIN says so, for one bound to every address that has no name, and for a secret that
    could be guessed.
    """
    if login is not None:
        check_login(login)
    word = os.environ.get(NO_LOGIN, "").strip()
    if word not in ("", "allow"):
        raise InputError(f"{NO_LOGIN} takes allow or nothing, got {word!r:.40}.")
    hosts = {host.strip() for host in os.environ.get(HOSTS, "").split(",")} - {""}
    names = {host: host_name(host) for host in hosts}
    if wrong := next((host for host, name in names.items() if not name), None):
        raise InputError(f"{HOSTS} takes names such as fac.example.org, got {wrong!r:.80}.")
    everywhere = address in ("", "0.0.0.0", "::")
    far = everywhere or not is_loopback(address)
    others = {name for name in names.values() if name not in LOCAL}
    if (far or others) and login is None and not word:
        where = f"on {address or '0.0.0.0'}" if far else f"as {', '.join(sorted(others))}"
        raise InputError(
            f"Whoever reaches this server {where} could do everything, for nobody has to sign in: "
            f"set up sign-in (docs/deploy.md), or say `fac app --no-login` if that is meant."
        )
    if login is not None:
        others.add(host_name(urlsplit(str(login["redirect_uri"])).netloc))
    if far and not everywhere:
        others.add(host_name(f"[{address}]" if ":" in address else address))
    if everywhere and not others:
        raise InputError(
            f"A server on {address or '0.0.0.0'} needs the name that people type to reach it: say "
            f"`fac app --host NAME`."
        )
    return Door(frozenset({*LOCAL, *others} - {""}), far)


def check_login(login: Mapping[str, Any]) -> None:
    """Raises InputError where whoever signs in could not be told from somebody who forged it."""
    if not host_name(urlsplit(str(login.get("redirect_uri", ""))).netloc):
        raise InputError(
            "[auth] of Streamlit's secrets lacks its redirect_uri: the address of this server and "
            "/oauth2callback."
        )
    if len(str(login.get("cookie_secret", ""))) < SHORTEST_SECRET:
        raise InputError(
            f"cookie_secret in [auth] of Streamlit's secrets has fewer than {SHORTEST_SECRET} "
            f"characters, so that a login could be forged: "
            f'`python -c "import secrets; print(secrets.token_hex(32))"` makes one.'
        )


def host_name(host: str) -> str:
    """A host in lower case without its port; "" for what is none."""
    parts = HOST.fullmatch(host.strip())
    return parts["name"].lower().strip("[]").rstrip(".") if parts else ""


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address; a socket of the file system is such a one."""
    if address == "localhost" or address.startswith(("/", "unix:")):
        return True
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(number, "ipv4_mapped", None)
    return (mapped or number).is_loopback
