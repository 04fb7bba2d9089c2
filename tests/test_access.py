"""Who may do what: the table of roles and deeds, tried below the pages and by pressing what is
disabled; names of logins; paths; hosts; the audit log."""

import ast
import asyncio
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import app
from fac import access
from fac.access import Door, DoorKeeper, Person, Roots, name_of, read_door, read_roles
from fac.config import REPOSITORY, ExplainSpec, IngestSpec, RescoreSpec, Workspace
from fac.endpoints import Endpoint
from fac.errors import InputError, Refused
from fac.questions.installed import Installed
from fac.store.audit import Audit
from fac.store.decisions import Decisions
from fac.store.queue import Queue
from fac.ui import endpoints, exports, jobs, models
from fac.ui.access import enter, person
from fac.ui.stores import stores
from tests.test_cli import fac
from tests.test_pages import (
    PAGES,
    button,
    empty,
    markup,
    navigation_decides,
    ran,
    started,
    toy,
    words,
)
from tests.toy import toy_workspace

__all__ = ["empty", "navigation_decides", "started", "toy"]  # fixtures of the pages' tests

APP = REPOSITORY / "app.py"

LOGIN = {
    "redirect_uri": "http://127.0.0.1:8501/oauth2callback",
    "cookie_secret": "of thirty-two characters at least",
    "client_id": "fac-explorer",
}

ROLES_FILE = """\
"vera@lab.org" = "viewer"
"rita@lab.org" = "reviewer"
"otto@lab.org" = "operator"
"Olga@Lab.org" = "owner"
"""

VISITORS: dict[str, dict[str, Any]] = {
    "nobody": {},
    "stranger": {"is_logged_in": True, "email": "eve@lab.org", "email_verified": True},
    "unverified": {"is_logged_in": True, "email": "olga@lab.org", "email_verified": False},
    **{
        role: {"is_logged_in": True, "email": f"{name}@lab.org", "email_verified": True}
        for role, name in zip(access.ROLES, ("vera", "rita", "otto", "olga"), strict=True)
    },
}

TABLE = """
                      nobody stranger unverified viewer reviewer operator owner
look                  -      -        -          yes    yes      yes      yes
decide                -      -        -          -      yes      yes      yes
take back             -      -        -          -      yes      yes      yes
measure an edit       -      -        -          -      yes      yes      yes
start a job           -      -        -          -      -        yes      yes
retry a job           -      -        -          -      -        yes      yes
cancel a job          -      -        -          -      -        yes      yes
restart the worker    -      -        -          -      -        yes      yes
upload a file         -      -        -          -      -        yes      yes
import decisions      -      -        -          -      -        yes      yes
write a folder        -      -        -          -      -        yes      yes
test a connection     -      -        -          -      -        yes      yes
delete a model        -      -        -          -      -        yes      yes
settle a dispute      -      -        -          -      -        -        yes
decide as another     -      -        -          -      -        -        -
name a foreign path   -      -        -          -      -        -        -
"""

HEAD, *ROWS = [re.split(r" {2,}|(?<=\S) (?=yes|-)", line) for line in TABLE.strip().splitlines()]
COLUMNS = HEAD[0].split() if len(HEAD) == 1 else " ".join(HEAD).split()


def expected(visitor: str) -> dict[str, bool]:
    """The column of one visitor."""
    return {name: cells[COLUMNS.index(visitor)] == "yes" for name, *cells in ROWS}


def decide(who: str, **more: Any) -> Any:
    about = ("pair", "a pair", {"text": "a cup of tea"}, "approve")
    return stores().decisions.add(who or "anybody", *about, **more)


def take_back() -> None:
    mine = Decisions(stores().decisions._path).add(
        person().name or "anybody", "pair", "another", {"text": "milk"}, "approve"
    )
    stores().decisions.withdraw(mine.uid, mine.reviewer)


def look() -> None:
    if not person().may("look"):
        raise Refused("enter() draws another page: see the test of it")


EDIT = RescoreSpec(pairs="pairs-1", feature=1, positive="tea", negative="milk")
ITEM = Installed("model", "small", Path("small"), 1, (), 0)

# What pages call, below every widget.
DEEDS: dict[str, Callable[[], object]] = {
    "look": look,
    "decide": lambda: decide(person().name),
    "take back": take_back,
    "measure an edit": lambda: jobs.start(EDIT, "Measuring"),
    "start a job": lambda: jobs.start(ExplainSpec(measure="m"), "Explaining"),
    "retry a job": lambda: jobs.retry(1),
    "cancel a job": lambda: stores().queue.cancel(2),
    "restart the worker": jobs.restart_worker,
    "upload a file": lambda: jobs.save_upload("tea.jsonl", b"{}"),
    "import decisions": lambda: stores().decisions.load([]),
    "write a folder": lambda: exports.write_folder("s", f"{jobs.workspace().inputs}/x", "", False),
    "test a connection": lambda: endpoints.try_endpoint(
        Endpoint(name="lab", url="http://127.0.0.1:1/v1"), "small", lambda *_: None
    ),
    "delete a model": lambda: models.delete(ITEM),
    "settle a dispute": lambda: decide(person().name, adjudicates=True),
    "decide as another": lambda: decide("somebody else"),
    "name a foreign path": lambda: jobs.start(
        IngestSpec(name="x", source="/etc/passwd"), "Reading"
    ),
}


def do_all() -> None:
    """The page that tries everything."""
    import streamlit as st

    from fac.errors import Refused
    from tests.test_access import DEEDS

    outcomes = st.session_state["outcomes"] = {}
    for name, deed in DEEDS.items():
        try:
            deed()
        except Refused as refusal:
            outcomes[name] = str(refusal)
        else:
            outcomes[name] = ""


@pytest.fixture
def closed(empty: Workspace) -> Workspace:
    """A workspace whose people sign in."""
    empty.roles.parent.mkdir(parents=True, exist_ok=True)
    empty.roles.write_text(ROLES_FILE)
    return empty


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch, started: list[Workspace]) -> list[str]:
    """What was done outside of queue, decisions and uploads."""
    done: list[str] = []
    for where in ("fac.ui.endpoints.try_connection", "fac.ui.endpoints.keep_connection"):
        monkeypatch.setattr(where, lambda *_, **__: done.append("connection"))
    monkeypatch.setattr("fac.ui.models.remove", lambda *_: done.append("delete"))
    monkeypatch.setattr("fac.questions.exports.write", lambda *_, **__: done.append("folder"))
    return done


def visit(at: AppTest, visitor: str) -> AppTest:
    """The visitor opens the page, where people sign in."""
    at.secrets["auth"] = LOGIN
    at.user = dict(VISITORS[visitor])
    return ran(at.run())


@pytest.mark.parametrize("visitor", VISITORS)
def test_the_table_of_deeds_and_visitors(visitor, closed, effects, started):
    plain_queue = Queue(closed.queue)  # the operator's, who has a shell
    for name in ("failed", "waiting"):
        plain_queue.enqueue(IngestSpec(name=name, source="x.jsonl"))
    plain_queue.claim("w")
    plain_queue.fail(1, "no such file")
    at = visit(AppTest.from_function(do_all, default_timeout=60), visitor)
    outcomes = at.session_state["outcomes"]
    may = expected(visitor)
    assert {name: not why for name, why in outcomes.items()} == may
    assert set(may) == set(DEEDS) and {each.role for each in access.ACTIONS.values()} <= set(
        VISITORS
    )

    # What was refused did nothing, what was allowed did it in the name of the login.
    name = name_of(VISITORS[visitor])
    made = {job.id: job for job in plain_queue.jobs()}
    assert (made[2].status == "cancelled") == may["cancel a job"]
    expected_jobs = {
        "rescore": "measure an edit",
        "explain": "start a job",
        "dataset": "retry a job",
    }
    new = {job.step: job.asker for job in made.values() if job.id > 2}
    assert new == {step: name for step, deed in expected_jobs.items() if may[deed]}
    verdicts = [each for each in Decisions(closed.decisions).history() if each.subject == "a pair"]
    assert [each.adjudicates for each in reversed(verdicts)] == [
        settles for settles, deed in ((False, "decide"), (True, "settle a dispute")) if may[deed]
    ]
    assert {each.reviewer for each in verdicts} <= {name}
    taken = [each for each in Decisions(closed.decisions).history() if each.withdrawn]
    assert bool(taken) == may["take back"]
    assert any(closed.inputs.glob("*tea.jsonl")) == may["upload a file"]
    assert (set(effects) == {"connection", "delete", "folder"}) == may["delete a model"]
    assert bool(effects) == may["delete a model"]
    assert bool(started) == may["measure an edit"]

    deeds = Audit(closed.audit).newest(99)
    assert {(deed.who, deed.role) for deed in deeds} == {
        (name, visitor if visitor in access.ROLES else "")
    }
    n_refused = sum(deed.refused for deed in deeds)
    # Looking is not written down, nor a path that was refused before anybody asked the queue; to
    # decide as another is allowed as a deed and refused for the name.
    wanted = [d for d in DEEDS if d not in ("look", "name a foreign path", "decide as another")]
    as_another = not may["decide"]
    assert n_refused == sum(not may[deed] for deed in wanted) + as_another
    assert len(deeds) == len(wanted) + 1


def test_where_nobody_signs_in_everything_is_as_it_was(empty, effects, tmp_path):
    plain_queue = Queue(empty.queue)
    for name in ("failed", "waiting"):
        plain_queue.enqueue(IngestSpec(name=name, source="x.jsonl"))
    at = ran(AppTest.from_function(do_all, default_timeout=60).run())
    assert set(at.session_state["outcomes"].values()) == {""}
    assert not empty.audit.exists()
    assert {job.asker for job in plain_queue.jobs()} == {""}


@pytest.mark.parametrize("visitor", ["nobody", "stranger", "unverified"])
def test_who_has_no_role_sees_one_page_and_nothing_of_the_workspace(visitor, closed):
    toy_workspace(closed.root)
    at = AppTest.from_file(APP, default_timeout=60)
    visit(at, visitor)
    for page in PAGES:
        at.switch_page(f"pages/{page}.py")
        text = words(ran(at.run()))
        assert "toy-anchor" not in text and not at.title, page
        if visitor == "nobody":
            assert "Sign in to see this" in text and [b.label for b in at.button] == ["Sign in"]
        else:
            assert "You have no role here" in text
            assert [b.label for b in at.button] == ["Sign out"]


READING = {
    *("catalogue.measured", "measured", "stores", "catalogue.titles", "tuple", "frozenset"),
    *("st.column_config.TextColumn", "st.column_config.CheckboxColumn"),
}
"""What pages may call before their title: it draws nothing."""


def test_a_page_begins_with_its_title_so_that_nothing_stands_before_the_door():
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    constants = (ast.Assign, ast.AnnAssign)
    for path in sorted((REPOSITORY / "pages").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body[1:]:
            text = ast.unparse(node.body[0] if isinstance(node, ast.With) else node)
            if text.startswith(("title(", "shell.title(")):
                break
            calls = {
                ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)
            }
            quiet = isinstance(node, constants) and calls <= READING
            assert isinstance(node, definitions) or quiet, f"{path.name}: {text[:60]}"
        else:
            raise AssertionError(f"{path.name} has no title")


def test_pages_reach_queue_and_decisions_through_the_stores_that_ask():
    makers = {"Queue", "Decisions", "open_stores", "Worker", "Steps"}
    calls = {
        (path.name, node.func.id)
        for path in [*(REPOSITORY / "pages").glob("*.py"), *(REPOSITORY / "fac/ui").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in makers
    }
    # The server itself asks for the demo when it begins.
    assert calls == {("shell.py", "Queue"), ("stores.py", "open_stores")}


def test_a_button_that_is_refused_is_disabled_and_says_which_role_it_takes(
    closed, started, monkeypatch
):
    queue = Queue(closed.queue)
    job = queue.enqueue(IngestSpec(name="tea", source="x.jsonl"))
    at = AppTest.from_file(APP, default_timeout=60)
    visit(at, "viewer")
    ran(at.switch_page("pages/jobs.py").run())
    cancel = at.button(key=f"cancel {job}")
    assert (
        cancel.disabled
        and cancel.help == "Cancelling a job takes the role operator; yours is viewer."
    )
    assert "Show who did what" not in {each.label for each in at.toggle}
    # Where a page forgot to disable it, pressing it does nothing but say why.
    with monkeypatch.context() as patch:
        patch.setattr("fac.ui.access.needing", lambda _, **options: options)
        ran(at.run())
        ran(at.button(key=f"cancel {job}").click().run())
        assert cancel.help in {each.value.replace("\\", "") for each in at.toast}
        ran(button(at, "Start a worker").click().run())
    assert queue.job(job).status == "waiting" and started == [closed]  # by the server's start alone
    assert [deed.action for deed in Audit(closed.audit).newest(9)] == ["worker", "cancel"]
    ran(at.switch_page("pages/datasets.py").run())
    assert "Bringing in or writing files takes the role operator; yours is viewer." in words(at)
    assert not at.text_input

    at = AppTest.from_file(APP, default_timeout=60)
    visit(at, "operator")
    ran(at.switch_page("pages/jobs.py").run())
    ran(at.button(key=f"cancel {job}").click().run())
    assert queue.job(job).status == "cancelled"
    at.toggle(key="show audit").set_value(True)
    ran(at.run())
    assert list(at.dataframe[0].value["who"]) == ["otto@lab.org", "vera@lab.org", "vera@lab.org"]


def test_a_path_outside_of_the_roots_is_not_even_looked_at(closed, tmp_path, monkeypatch):
    monkeypatch.delenv(access.ROOTS, raising=False)
    toy_workspace(closed.root)
    secret = tmp_path.parent / f"{tmp_path.name}.jsonl"
    secret.write_text('{"text": "the words of a secret"}')
    at = AppTest.from_file(APP, default_timeout=60)
    visit(at, "operator")
    at.query_params["from"], at.query_params["add"] = "path", "yes"
    ran(at.switch_page("pages/datasets.py").run())
    path = next(each for each in at.text_input if each.label == "Path")
    ran(path.set_value(str(secret)).run())
    assert "is in no folder that may be used from a browser" in words(at)
    assert "the words of a secret" not in markup(at) and button(at, "Add").disabled
    monkeypatch.setenv(access.ROOTS, str(secret.parent))
    ran(at.run())
    assert "the words of a secret" in markup(at) and not button(at, "Add").disabled


def test_a_role_that_is_taken_away_holds_from_the_next_deed_on(closed):
    at = AppTest.from_function(do_all, default_timeout=60)
    visit(at, "reviewer")
    assert at.session_state["outcomes"]["decide"] == ""
    closed.roles.write_text('"rita@lab.org" = "viewer"  # no longer\n')
    ran(at.run())
    assert "takes the role reviewer; yours is viewer" in at.session_state["outcomes"]["decide"]
    closed.roles.write_text('"rita@lab.org" = "boss"\n')
    assert "Roles cannot be read" in at.run().exception[0].message


# --- names and roles ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email": "Ann@Lab.org", "email_verified": True}, "ann@lab.org"),
        ({"email": "ann@lab.org", "sub": "7", "iss": "https://id"}, "7 at https://id"),
        ({"email": "ann@lab.org", "email_verified": "true"}, ""),
        ({"email": "ann@lab.org", "email_verified": False}, ""),
        ({"email": "7 at https://id", "email_verified": True}, ""),
        ({"email": "a\u202eb@lab.org", "email_verified": True, "sub": "7", "iss": "i"}, "7 at i"),
        ({"sub": "7"}, ""),
        ({}, ""),
    ],
)
def test_a_login_is_known_by_what_its_provider_verified(claims, name):
    assert name_of({"is_logged_in": True, **claims}) == name
    assert name_of({**claims}) == "" == name_of({"is_logged_in": "yes", **claims})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"ann@lab.org" = "boss"', "'ann@lab.org': a role is one of viewer, .* got 'boss'"),
        ('[ann]\nrole = "owner"', "'ann': a role is one of"),
        ('ann@lab.org = "owner"', "no TOML .* with the quotation marks"),
        ('"ann@lab.org" = "owner"\n"Ann@lab.org" = "viewer"', "'Ann@lab.org': give each person"),
        ('"" = "owner"', "give each person one line and a name"),
    ],
)
def test_a_bad_line_of_roles_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "roles.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_roles(file)
    assert read_roles(tmp_path / "none.toml") == {}


def test_roles_grow_and_no_role_may_nothing():
    allowed = [{a for a in access.ACTIONS if Person("x", role).may(a)} for role in access.ROLES]
    assert all(few < more for few, more in zip(allowed, allowed[1:], strict=False))
    assert allowed[-1] == set(access.ACTIONS)
    assert not any(Person("x", role).may(a) for role in ("", "admin") for a in access.ACTIONS)


def test_nobody_decides_in_the_name_of_a_request_without_a_session(closed, monkeypatch):
    """A thread without a session, in a server where people sign in, is nobody."""
    monkeypatch.setattr("fac.ui.access._login", lambda: LOGIN)
    with pytest.raises(Refused, match="nobody is signed in"):
        stores().queue.enqueue(IngestSpec(name="tea", source="x.jsonl"))


# --- paths ----------------------------------------------------------------------------------------


def test_a_browser_names_files_below_the_roots_alone(tmp_path, monkeypatch):
    root, secret = tmp_path / "root", tmp_path / "secret"
    for folder in (root, secret):
        folder.mkdir()
        (folder / "a.jsonl").write_text("{}")
    (root / "link").symlink_to(secret)
    roots = Roots((root,))
    for good in (root / "a.jsonl", root / "part-*.jsonl", root):
        roots.check(good)
    for bad in (
        *(secret / "a.jsonl", root / "link" / "a.jsonl", root / ".." / "secret" / "a.jsonl"),
        *(f"{tmp_path}/*/a.jsonl", "a.jsonl", "~nobody-here/x", "x\0y", "/", f"{root}-2/a.jsonl"),
    ):
        with pytest.raises(Refused, match="is in no folder that may be used from a browser"):
            roots.check(bad)

    for spec in (
        {"source": str(root / "a.jsonl")},
        {"source": "hf:tatsu-lab/alpaca@main:train"},
        {"source": str(root / "a.jsonl"), "measure": {"model": "demo", "sae": "demo"}},
        {"model": "Qwen/Qwen3-0.6B", "sae": "gemma-scope/layer_5", "relevant": "all"},
    ):
        roots.check_spec(spec)
    monkeypatch.chdir(tmp_path)
    for spec in (
        {"source": "no-such-file"},
        {"source": "hf:/etc"},
        {"source": f"hf:{secret}@main"},
        {"source": "hf:secret"},  # a folder beside, which the hub's library would read
        {"source": [str(root / "a.jsonl"), str(secret / "a.jsonl")]},
        {"source": str(root / "a.jsonl"), "measure": {"model": str(secret)}},
        {"model": "~/model"},
        {"sae": f"{secret}:x"},
        {"evaluation": [str(secret / "a.jsonl")]},
        {"relevant": str(secret / "a.jsonl")},
    ):
        with pytest.raises(Refused):
            roots.check_spec(spec)


# --- the door -------------------------------------------------------------------------------------


def asked(door: Door, host: str | None = "127.0.0.1:8501", **more: Any) -> int:
    """Status of a request; 200 where the application behind the door answered it, and for a socket
    101, or 0 where it was closed unopened."""
    kind = more.pop("kind", "http")
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(name.encode(), value.encode()) for name, value in more.pop("headers", {}).items()]
    scope = {"type": kind, "path": "/", "headers": headers, "server": ("127.0.0.1", 8501), **more}
    sent: list[dict[str, Any]] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        status = {"status": 200 if kind == "http" else 101}
        await send({"type": "http.response.start", **status})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(DoorKeeper(app, door)(scope, receive, send))
    return sent[0].get("status", 0)


def test_a_foreign_host_or_origin_is_refused_and_metrics_are_closed(monkeypatch):
    monkeypatch.setenv("FAC_HOSTS", "")
    door = read_door("127.0.0.1", None)
    for host in ("127.0.0.1:8501", "localhost", "LOCALHOST:1", "[::1]:8501", "localhost."):
        assert asked(door, host) == 200, host
    for host in (
        *("evil.org", "evil.org:8501", "localhost.evil.org", "127.0.0.1.evil.org", "", None),
        *("localhost@evil.org", "evil.org, localhost", "localhost:x", "192.168.1.5"),
    ):
        assert asked(door, host) == 400, host
        assert asked(door, host, kind="websocket") == 0, host
    twice = asked(door, headers={"Host": "localhost"})
    assert twice == 400
    for path in ("/_stcore/metrics", "/base/_stcore/metrics", "/_stcore/metrics/"):
        assert asked(door, path=path) == 404
    good, bad = {"Origin": "http://localhost:8501"}, {"Origin": "http://evil.org"}
    assert asked(door, kind="websocket", headers=good) == 101
    assert asked(door, kind="websocket", headers=bad) == 0
    assert asked(door, kind="websocket", headers={"Origin": "null"}) == 0
    # However the application was started: what came in over the network is not answered.
    assert asked(door, server=("192.168.1.5", 8501)) == 403
    assert asked(door, server=("::ffff:127.0.0.1", 8501)) == 200


def test_without_sign_in_no_server_is_open_to_others_unless_that_is_said(monkeypatch):
    for name in (access.HOSTS, access.NO_LOGIN):
        monkeypatch.delenv(name, raising=False)
    for address in ("127.0.0.1", "localhost", "::1", "unix:///run/fac.sock"):
        assert not read_door(address, None).far
    for address in ("", "0.0.0.0", "::", "192.168.1.5", "lab-host"):
        with pytest.raises(InputError, match="could do everything.*--no-login"):
            read_door(address, None)
    monkeypatch.setenv(access.HOSTS, "fac.lab.org")  # a proxy in front of loopback
    with pytest.raises(InputError, match="as fac.lab.org could do everything"):
        read_door("127.0.0.1", None)
    monkeypatch.setenv(access.NO_LOGIN, "allow")
    assert asked(read_door("127.0.0.1", None), "fac.lab.org") == 200
    door = read_door("0.0.0.0", None)
    assert asked(door, "fac.lab.org", server=("10.0.0.7", 80)) == 200
    assert asked(door, "10.0.0.7", server=("10.0.0.7", 80)) == 400
    monkeypatch.setenv(access.HOSTS, "")
    assert asked(read_door("10.0.0.7", None), "10.0.0.7:80", server=("10.0.0.7", 80)) == 200
    with pytest.raises(InputError, match="--host NAME"):
        read_door("0.0.0.0", None)
    monkeypatch.setenv(access.NO_LOGIN, "yes")
    with pytest.raises(InputError, match="takes allow or nothing, got 'yes'"):
        read_door("127.0.0.1", None)
    monkeypatch.setenv(access.NO_LOGIN, "")
    monkeypatch.setenv(access.HOSTS, "https://fac.lab.org/")
    with pytest.raises(InputError, match="names such as fac.example.org"):
        read_door("127.0.0.1", None)


def test_the_application_ends_with_a_sentence_before_it_serves(monkeypatch):
    for name in (access.HOSTS, access.NO_LOGIN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("fac.ui.access.st.get_option", lambda _: "0.0.0.0")
    monkeypatch.setattr("fac.ui.access._login", lambda: None)
    with pytest.raises(SystemExit, match="^fac: Whoever reaches this server on 0.0.0.0 could do"):
        importlib.reload(app)


def test_the_command_passes_on_what_the_server_is_told(workspace, monkeypatch, tmp_path):
    calls: list[tuple[list[str], dict[str, str]]] = []

    def become(_: str, line: list[str], environ: dict[str, str]) -> None:
        calls.append((line, environ))
        raise InputError("this process is another now")

    monkeypatch.setattr("os.execve", become)
    told = ["--address", "0.0.0.0", "--host", "a.org", "--host", "b.org", "--root", tmp_path]
    fac("app", *told, "--no-login", workspace=workspace)
    line, environ = calls[0]
    assert line[-2:] == ["--server.address", "0.0.0.0"]
    assert environ["FAC_HOSTS"] == "a.org,b.org" and environ["FAC_NO_LOGIN"] == "allow"
    assert environ["FAC_ROOTS"] == str(tmp_path)
    monkeypatch.setenv("FAC_ROOTS", environ["FAC_ROOTS"])
    access.read_roots(()).check(tmp_path / "x")
    fac("app", workspace=workspace)
    assert "FAC_HOSTS" not in calls[1][1] and "FAC_NO_LOGIN" not in calls[1][1]


def test_with_sign_in_the_name_of_its_redirect_is_answered(monkeypatch):
    for name in (access.HOSTS, access.NO_LOGIN):
        monkeypatch.delenv(name, raising=False)
    login = {**LOGIN, "redirect_uri": "https://fac.lab.org/oauth2callback"}
    door = read_door("0.0.0.0", login)
    assert asked(door, "fac.lab.org", server=("10.0.0.7", 80)) == 200
    assert asked(door, "evil.org", server=("10.0.0.7", 80)) == 400
    with pytest.raises(InputError, match="fewer than 32 characters"):
        read_door("127.0.0.1", {**login, "cookie_secret": "xxx"})
    with pytest.raises(InputError, match="lacks its redirect_uri"):
        read_door("127.0.0.1", {**login, "redirect_uri": ""})


# --- the log --------------------------------------------------------------------------------------


def test_the_log_only_grows_and_a_command_prints_it(workspace):
    assert "nobody who signed in" in fac("audit", workspace=workspace).out
    log = Audit(workspace.audit)
    log.add("ann@lab.org", "operator", "launch", "measure tea", refused=False)
    log.add("", "", "delete", "small\x1b[2J", refused=True)
    answer = fac("audit", workspace=workspace)
    first, second, *_ = answer.out.splitlines()
    assert "nobody signed in (no role) refused delete: small" in first and "\x1b" not in first
    assert "ann@lab.org (operator) launch: measure tea" in second
    assert [deed.about for deed in log.newest(9, who="ann@lab.org")] == ["measure tea"]
    with log._writing() as con:
        for statement in (
            "UPDATE deed SET who = 'x'",
            "DELETE FROM deed",
            "INSERT OR REPLACE INTO deed SELECT * FROM deed",
        ):
            with pytest.raises(Exception, match="append-only"):
                con.execute(statement)
    assert log.count() == 2 and log.faults() == []


def test_the_doctor_reads_roles_and_log(workspace):
    workspace.root.mkdir(parents=True)
    workspace.roles.write_text(ROLES_FILE)
    told = {each["about"]: each["sentence"] for each in findings(workspace)}
    assert told["roles"] == "4 people have one, 1 as owner."
    workspace.roles.write_text('"ann@lab.org" = "boss"')
    workspace.audit.write_bytes(b"not a database at all" * 999)
    wrong = [each["about"] for each in findings(workspace) if each["state"] == "wrong"]
    assert wrong == ["roles", "audit"]


def findings(workspace: Workspace) -> list[dict[str, str]]:
    return fac("doctor", "--json", workspace=workspace).json["findings"]


def test_what_cannot_be_written_down_is_not_done(closed, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise InputError("The disk is full")

    monkeypatch.setattr("fac.store.audit.Audit.add", full)
    monkeypatch.setattr("fac.ui.access.person", lambda: Person("olga@lab.org", "owner"))
    with pytest.raises(InputError, match="disk is full"):
        stores().queue.enqueue(IngestSpec(name="tea", source="x.jsonl"))
    assert Queue(closed.queue).jobs() == []


def test_secrets_that_cannot_be_read_open_nothing(closed, monkeypatch, tmp_path):
    from fac.ui import access as of_page

    file = tmp_path / "secrets.toml"
    file.write_text("[auth\n")
    secrets = SimpleNamespace(load_if_toml_exists=lambda: False)
    monkeypatch.setattr(of_page.st, "secrets", secrets)
    monkeypatch.setattr(of_page.st, "get_option", lambda name: [str(file)])
    with pytest.raises(InputError, match="secrets cannot be read"):
        person()
    file.unlink()  # it said before that people sign in
    monkeypatch.setattr(of_page, "_at_start", [True])
    assert person() == Person("", "")
    monkeypatch.setattr(of_page, "_at_start", [False])
    assert person() is of_page.EVERYBODY
    assert enter() is None
