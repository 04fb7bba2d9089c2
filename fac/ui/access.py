"""Who is at the page, what they may do, and the page of those who may not look.

Where Streamlit's secrets have a section [auth], people sign in and roles.toml says what each may
do; whoever is not in it may do nothing. Where they have none, whoever reaches the server may do
everything (`fac.access.read_door` sees to it that only this machine does).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from fac import config
from fac.access import (
    ROLES,
    Door,
    Person,
    Roots,
    check_login,
    name_of,
    read_door,
    read_roles,
    read_roots,
)
from fac.config import Workspace
from fac.errors import InputError
from fac.markup import code_span
from fac.store.audit import Audit
from fac.ui.text import Row, plain

EVERYBODY = Person("", ROLES[-1])
"""Who is there where nobody signs in."""

_at_start: list[bool] = []
"""Whether people signed in when this server began: a file that goes away later opens nothing."""


def workspace() -> Workspace:
    return _workspace(os.environ.get("FAC_WORKSPACE"))


@lru_cache(maxsize=8)
def _workspace(_environment: str | None) -> Workspace:
    """Finding out where it really lies takes longer than most of what pages then ask it."""
    return config.workspace()


def open_door() -> Door:
    """What this server answers; called as it begins. Raises InputError as `read_door`, for roles
    that cannot be read, and where people cannot sign in for want of a library."""
    login = _login()
    door = read_door(str(st.get_option("server.address") or ""), login)
    _at_start[:] = [login is not None]
    if login is not None:
        read_roles(workspace().roles)
        if find_spec("authlib") is None:
            raise InputError("Signing in needs Authlib: pip install -r requirements-auth.txt.")
    return door


def _login() -> Mapping[str, Any] | None:
    """How people sign in; None where nobody has to. Raises InputError as `check_login`, and for
    secrets that cannot be read: nobody knows whether they would have said so."""
    if st.secrets.load_if_toml_exists():
        login = st.secrets.get("auth")
        if login is not None and not isinstance(login, Mapping):
            raise InputError("[auth] of Streamlit's secrets is no table: see docs/deploy.md.")
        if login is not None:
            check_login(login)
        return login
    if any(Path(file).exists() for file in st.get_option("secrets.files")):
        raise InputError(
            "Streamlit's secrets cannot be read, so that nobody knows whether people sign in: "
            "correct secrets.toml and start again."
        )
    return None


def signs_in() -> bool:
    """Whether people sign in here. Raises InputError as `_login`."""
    return _login() is not None or any(_at_start)


def person() -> Person:
    """Who is at this page, with their role by now. Raises InputError where it cannot be known."""
    if not signs_in():
        return EVERYBODY
    if get_script_run_ctx() is None:
        return Person("", "")
    name = name_of(st.user.to_dict())
    return Person(name, _roles().get(name, "") if name else "")


def _roles() -> Mapping[str, str]:
    """Roles as the file has them now."""
    file = workspace().roles
    try:
        stamp = file.stat().st_mtime_ns, file.stat().st_size
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    return _roles_of(file, stamp)


@lru_cache(maxsize=4)
def _roles_of(file: Path, _stamp: object) -> Mapping[str, str]:
    try:
        return read_roles(file)
    except InputError as error:  # it has names of people, which are nobody else's business
        print(error, file=sys.stderr)  # noqa: T201
        raise InputError("Roles cannot be read: ask who runs this server.") from None


def may(action: str) -> bool:
    """Whether whoever is at this page may do one of `fac.access.ACTIONS`."""
    return person().may(action)


def permit(action: str, about: str) -> str:
    """Writes down that somebody does one of `fac.access.ACTIONS` and returns by which name they are
    known, "" where nobody signs in. Raises Refused where their role does not allow it: written
    down, too."""
    who = person()
    if who is EVERYBODY:
        return ""
    refused = not who.may(action)
    Audit(workspace().audit).add(who.name, who.role, action, about, refused=refused)
    who.check(action)
    return who.name


def needing(action: str, **options: Any) -> Row:
    """Options of a button: those given, and disabled with the reason where whoever is at this page
    may not do what it does."""
    who = person()
    if who.may(action):
        return options
    return {**options, "disabled": True, "help": who.refusal(action)}


def say_refusal(action: str) -> bool:
    """Whether whoever is at this page may not do one of `fac.access.ACTIONS`; then says why."""
    who = person()
    if not who.may(action):
        st.caption(who.refusal(action))
    return not who.may(action)


def roots() -> Roots | None:
    """Folders whose files may be named in a browser; None for all."""
    if not signs_in():
        return None
    place = workspace()
    return read_roots((place.inputs, place.saes, place.models))


def check_place(place: str | Path) -> None:
    """Raises Refused for a path of the server that may not be named in a browser."""
    if folders := roots():
        folders.check(place)


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises Refused for the JSON of a spec with a path that may not be named in a browser."""
    if folders := roots():
        folders.check_spec(spec)


def sign_out_button() -> None:
    """Who is signed in, with which role, and the way out; nothing where nobody signs in."""
    who = person()
    if who is not EVERYBODY:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f":material/person: {code_span(who.name)} {who.role}", width="stretch")
            st.button("Sign out", on_click=st.logout, type="tertiary")


def enter() -> None:
    """Ends the run of a page for those who may not look at it, with what they can do."""
    who = person()
    if who.may("look"):
        return
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        if not st.user.get("is_logged_in"):
            st.markdown("### :material/lock: Sign in to see this", width="content")
            _sign_in_buttons()
        else:
            st.markdown("### :material/lock: You have no role here", width="content")
            words = (
                f"You are signed in as {code_span(who.name)}. Ask who runs this server to add that "
                f"name to roles.toml."
                if who.name
                else "Your provider says neither a verified address nor a subject and issuer."
            )
            st.markdown(words, text_alignment="center", width="content")
            st.button("Sign out", on_click=st.logout)
    st.stop()


def _sign_in_buttons() -> None:
    """One for each provider of the secrets."""
    login = _login() or {}
    if "client_id" in login:
        st.button("Sign in", icon=":material/login:", type="primary", on_click=st.login)
    for name, section in login.items():
        if isinstance(section, Mapping) and "client_id" in section:
            label, key = f"Sign in with {plain(name)}", f"sign in {name}"
            st.button(label, icon=":material/login:", on_click=st.login, args=(name,), key=key)
