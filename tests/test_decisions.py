"""fac.store.decisions: nothing said is lost, changed or bound to anything but what was shown."""

import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fac.config import REPOSITORY, digest
from fac.errors import InputError, SchemaTooNew
from fac.schema import CANNOT_TELL, LEVELS
from fac.store import decisions as deciding
from fac.store import sqlite
from fac.store.decisions import Decision, Decisions

ABOUT = "explanation/measure-1/7"
SHOWN = {"kind": "explanation", "feature": 7, "explanation": "polite requests"}


@pytest.fixture
def store(tmp_path: Path) -> Decisions:
    return Decisions(tmp_path / "decisions.sqlite")


def said(store, reviewer="Ada", verdict="yes", *, content=SHOWN, subject=ABOUT, **more) -> Decision:
    return store.add(reviewer, "explanation", subject, content, verdict, **more)


def changed(line: str, **fields) -> str:
    """An exported line with other fields; one set to ... is dropped."""
    new = {**json.loads(line), **fields}
    return json.dumps({key: value for key, value in new.items() if value is not ...})


# ---- saying


def test_a_decision_keeps_all_that_was_said(store):
    made = said(
        store,
        verdict="probably",
        reasons=["too broad", "several meanings"],
        note=" fires on thanks as well ",
        edited_text=" requests and thanks\n",
        seconds=4.25,
    )
    assert store.current() == [made]
    assert made.reviewer == "Ada" and made.kind == "explanation" and made.subject == ABOUT
    assert made.verdict == "probably"
    assert made.reasons == ("too broad", "several meanings")
    assert made.note == "fires on thanks as well"
    assert made.edited_text == "requests and thanks"
    assert (made.seconds, made.adjudicates, made.withdrawn) == (4.25, False, "")
    assert datetime.fromisoformat(made.at).tzinfo == UTC
    assert made.seen == digest(SHOWN)
    assert store.content(made.seen) == SHOWN


def test_nothing_decided_is_nothing_and_makes_no_file(store, tmp_path):
    assert store.current() == store.history() == list(store.export()) == []
    assert store.contents() == {}
    assert len(store.table()) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="No decision was made about content 'x'"):
        store.content("x")


def test_what_was_shown_is_kept_once_however_many_decide(store):
    for reviewer in ("Ada", "Ben", "Cy"):
        said(store, reviewer)
    other = said(store, content={**SHOWN, "explanation": "thanks"})
    assert store.contents() == {
        digest(SHOWN): SHOWN,
        other.seen: {**SHOWN, "explanation": "thanks"},
    }


def test_a_later_word_replaces_the_earlier_one_on_the_same_thing_only(store):
    said(store, verdict="no")
    later = said(store, verdict="yes")
    reworded = said(store, verdict="maybe", content={**SHOWN, "explanation": "thanks"})
    other = said(store, verdict="no", subject="explanation/measure-1/8")
    ben = said(store, "Ben", "no")
    assert store.current() == [later, reworded, other, ben]
    assert store.current(subject=ABOUT) == [later, reworded, ben]
    assert store.current(reviewer="Ben") == [ben]
    assert store.current("relevance") == []
    assert store.current("explanation", subject=ABOUT, reviewer="Ada") == [later, reworded]


def test_a_blind_rating_outlives_its_raters_own_adjudication(store):
    blind = said(store, verdict="no")
    settled = said(store, verdict="yes", adjudicates=True)
    assert store.current() == [blind, settled]


def test_later_means_later_even_when_the_clock_goes_back(store, monkeypatch):
    first = said(store, verdict="no")

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(deciding, "datetime", Yesterday)
    second = said(store, verdict="yes")
    assert second.at > first.at
    assert store.current() == [second]
    assert said(store, "Ben").at < first.at


@pytest.mark.parametrize("kind", ["explanation", "relevance"])
@pytest.mark.parametrize("verdict", [*LEVELS, CANNOT_TELL])
def test_the_scale_and_the_abstention_are_verdicts(store, kind, verdict):
    subject = {"explanation": ABOUT, "relevance": "relevance/measure-1/7/toxicity"}[kind]
    assert store.add("Ada", kind, subject, SHOWN, verdict).verdict == verdict


@pytest.mark.parametrize(
    "change,match",
    [
        (
            {"kind": "mood"},
            "about explanation, relevance, detection, pair, sample, family; got 'mood'",
        ),
        ({"verdict": "Yes"}, "one of yes, probably, maybe, no, cannot_tell; got 'Yes'"),
        ({"verdict": ""}, "got ''"),
        ({"kind": "detection", "verdict": "yes"}, r"one of \+ - \? for each text"),
        ({"kind": "detection", "verdict": ""}, r"one of \+ - \? for each text"),
        ({"kind": "pair", "verdict": "yes"}, "one of approve, reject"),
        ({"reviewer": "  "}, "name of 1 to 320 printable characters"),
        ({"reviewer": "A\nB"}, "name of 1 to 320 printable characters"),
        ({"reviewer": "x" * 321}, "name of 1 to 320 printable characters"),
        ({"subject": " "}, "about explanation/RUN/FEATURE, which ' ' is not"),
        ({"subject": "explanation/measure-1/x"}, "which 'explanation/measure-1/x' is not"),
        ({"subject": "explanation/measure-1/\u0663"}, "about explanation/RUN"),
        ({"kind": "relevance"}, "about relevance/RUN/FEATURE/TASK, which 'explan"),
        ({"kind": "relevance", "subject": "relevance/m/7"}, "which 'relevance/m/7' is not"),
        ({"kind": "pair", "verdict": "approve", "subject": ""}, "which '' is not"),
        ({"seconds": -1.0}, "from 0 on, got -1.0"),
        ({"seconds": float("nan")}, "from 0 on, got nan"),
        ({"content": {"peak": float("nan")}}, "must be a plain JSON object"),
        ({"content": {"what": {1, 2}}}, "must be a plain JSON object"),
        ({"content": {2: "b", 10: "a"}}, "texts as keys"),
    ],
)
def test_what_cannot_be_a_decision_is_refused_and_not_recorded(store, change, match):
    given_ = {"reviewer": "Ada", "kind": "explanation", "subject": ABOUT, "content": SHOWN}
    with pytest.raises(InputError, match=match):
        store.add(**{**given_, "verdict": "yes", **change})
    assert store.history() == []


def test_names_that_look_alike_are_one_person(store):
    first = said(store, "Zoe\u0308 ", "no")
    second = said(store, "Zo\u00eb", "yes")
    assert first.reviewer == second.reviewer == "Zo\u00eb"
    assert store.current(reviewer="Zo\u00eb") == [second]


def test_halves_of_surrogate_pairs_survive_in_content_and_do_no_harm_elsewhere(store):
    made = said(store, content={"tokens": ["\ud83d", "\ude00"]}, note="cut \ud83d")
    assert store.content(made.seen) == {"tokens": ["\ud83d", "\ude00"]}
    assert made.note == "cut ?"
    again = Decisions(store._path.with_name("other.sqlite"))
    assert again.load(store.export())["rejected"] == []
    assert list(again.export()) == list(store.export())


# ---- taking back


def test_undoing_brings_back_what_was_replaced(store):
    first = said(store, verdict="no")
    second = said(store, verdict="yes")
    store.withdraw(second.uid, "Ada")
    assert store.current() == [first]
    store.withdraw(first.uid, "Ada")
    assert store.current() == []


def test_history_tells_all_newest_first_and_marks_what_was_taken_back(store):
    first, second, third = (said(store, verdict=v) for v in ("no", "yes", "maybe"))
    ben = said(store, "Ben", subject="explanation/measure-1/8")
    store.withdraw(second.uid, "Ada")
    newest = store.history()
    assert [d.uid for d in newest] == [ben.uid, third.uid, second.uid, first.uid]
    assert [bool(d.withdrawn) for d in newest] == [False, False, True, False]
    assert [d.uid for d in store.history(2, reviewer="Ada")] == [third.uid, second.uid]
    assert [d.uid for d in store.history(subject="explanation/measure-1/8")] == [ben.uid]


def test_only_ones_own_decisions_can_be_taken_back_and_only_once(store):
    made = said(store)
    with pytest.raises(InputError, match="This decision is Ada's, not Ben's"):
        store.withdraw(made.uid, "Ben")
    with pytest.raises(InputError, match="There is no decision 'nothing'"):
        store.withdraw("nothing", "Ada")
    assert store.current() == [made]
    store.withdraw(made.uid, "Ada")
    with pytest.raises(InputError, match="was taken back already"):
        store.withdraw(made.uid, "Ada")


# ---- append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decision SET verdict = 'no'",
        "DELETE FROM decision",
        "UPDATE content SET body = '{}'",
        "DELETE FROM content",
        "DELETE FROM withdrawal",
        "UPDATE withdrawal SET reviewer = 'Ben'",
        "INSERT OR REPLACE INTO decision SELECT * FROM decision",
        "INSERT OR REPLACE INTO content SELECT seen, '{}' FROM content",
    ],
)
def test_the_file_itself_refuses_to_forget(store, statement):
    said(store)
    store.withdraw(said(store, "Ben").uid, "Ben")
    before = list(store.export())
    with sqlite3.connect(store._path) as con, pytest.raises(sqlite3.Error, match="append-only"):
        con.execute(statement)
    con.close()
    assert list(store.export()) == before


# ---- leaving and arriving

words = st.text(max_size=12)
contents = st.dictionaries(
    words,
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    max_size=3,
).filter(lambda c: all(v not in (float("inf"), float("-inf")) for v in c.values()))
acts = st.lists(
    st.tuples(
        st.sampled_from(["Ada", "Ben", "Zo\u00eb"]),
        st.sampled_from([("explanation", "yes"), ("relevance", "no"), ("detection", "+-?")]),
        st.integers(0, 2),
        contents,
        st.lists(words, max_size=2),
        words,
        st.none() | words,
        st.none() | st.floats(0, 1e6),
        st.booleans(),
        st.booleans(),
    ),
    max_size=4,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts, st.randoms(use_true_random=False))
def test_an_export_in_any_order_makes_the_same_file_and_twice_changes_nothing(
    tmp_path_factory, made, random
):
    folder = tmp_path_factory.mktemp("exchange")
    here, there = Decisions(folder / "here.sqlite"), Decisions(folder / "there.sqlite")
    for who, (kind, verdict), n, content, reasons, note, text, seconds, settles, undone in made:
        decision = here.add(
            *(who, kind, f"{kind}/m/{n}" + "/t" * (kind == "relevance"), content, verdict),
            reasons=reasons,
            note=note,
            edited_text=text,
            seconds=seconds,
            adjudicates=settles,
        )
        assert here.content(decision.seen) == content
        if undone:
            here.withdraw(decision.uid, who)
    lines = list(here.export())
    shuffled = random.sample(lines, len(lines))
    assert there.load(shuffled) == {"added": len(lines), "known": 0, "rejected": []}
    assert there.load(shuffled) == {"added": 0, "known": len(lines), "rejected": []}
    assert list(there.export()) == lines
    assert there.current() == here.current()
    assert there.history(100) == here.history(100)
    assert there.contents() == here.contents()
    assert there.table() == here.table()


def test_two_workspaces_that_exchange_their_exports_agree(tmp_path):
    first, second = Decisions(tmp_path / "1.sqlite"), Decisions(tmp_path / "2.sqlite")
    said(first, "Ada", "no")
    said(second, "Ada", "yes")
    both = said(second, "Ben", "maybe")
    first.load(second.export())
    second.load(first.export())
    first.withdraw(both.uid, "Ben")
    second.withdraw(both.uid, "Ben")  # the same fact, under another uid
    assert second.load(first.export())["rejected"] == first.load(second.export())["rejected"] == []
    assert [d.verdict for d in first.current()] == [d.verdict for d in second.current()] == ["yes"]


def test_a_known_decision_cannot_be_edited_by_an_import(store):
    made = said(store)
    (line,) = store.export()
    other = "1" if made.at[-7] != "1" else "2"
    for edit in (
        {"verdict": "no"},
        {"reviewer": "Ben"},
        {"note": "x"},
        {"at": f"{made.at[:-7]}{other}+00:00"},
    ):
        report = store.load([changed(line, **edit)])
        assert report["added"] == report["known"] == 0
        assert [r["line"] for r in report["rejected"]] == [1]
        assert "known with another content" in report["rejected"][0]["reason"] or "at" in edit
    assert store.current() == [made]


@pytest.mark.parametrize(
    "edit,reason",
    [
        ({"content": {"explanation": "something else"}}, "content does not have the hash"),
        ({"seen": "0" * 12}, "content does not have the hash '000000000000'"),
        ({"verdict": "certainly"}, "got 'certainly'"),
        ({"kind": "mood"}, "got 'mood'"),
        ({"subject": "../../etc"}, "which '../../etc' is not"),
        ({"uid": "'; DROP TABLE decision; --"}, "uid must be 32 hex digits"),
        ({"uid": 3}, "uid must not be '3'"),
        ({"at": "yesterday"}, "ISO time, got 'yesterday'"),
        ({"at": "2026-01-01T00:00:00"}, "needs a time zone"),
        ({"at": "9999-12-31T23:59:59-12:00"}, "ISO time"),
        ({"at": "9000-01-01T00:00:00+00:00"}, "lies in the future"),
        ({"reviewer": ""}, "name of 1 to 320"),
        ({"reviewer": None}, "reviewer must not be 'None'"),
        ({"reasons": "wrong"}, "reasons must not be 'wrong'"),
        ({"reasons": [1]}, "a list of texts"),
        ({"seconds": True}, "seconds must not be 'True'"),
        ({"seconds": 1e999}, "from 0 on"),
        ({"adjudicates": 1}, "adjudicates must not be '1'"),
        ({"content": []}, "content must not be '[]'"),
        ({"note": ...}, "has no note"),
        ({"content": ...}, "has no content"),
        ({"score": 1}, "unknown fields: score"),
    ],
)
def test_a_line_that_cannot_be_a_decision_is_named_with_its_reason(store, edit, reason):
    other = Decisions(store._path.with_name("other.sqlite"))
    said(other)
    (line,) = other.export()
    report = store.load(["", changed(line, **edit), line])
    assert [(r["line"], reason in r["reason"]) for r in report["rejected"]] == [(2, True)], report
    assert report["added"] == 1
    assert list(store.export()) == [line]


@pytest.mark.parametrize(
    "line,reason",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"withdraws": "x"}', "has no at, reviewer, uid"),
    ],
)
def test_a_line_that_is_no_object_is_named(store, line, reason):
    (rejected,) = store.load([line])["rejected"]
    assert rejected["line"] == 1 and reason in rejected["reason"]


def test_a_withdrawal_by_another_or_of_nothing_is_rejected(store):
    other = Decisions(store._path.with_name("other.sqlite"))
    made = said(other)
    other.withdraw(made.uid, "Ada")
    decision, withdrawal = other.export()
    report = store.load([changed(withdrawal, reviewer="Ben"), withdrawal])
    assert [r["line"] for r in report["rejected"]] == [1, 2]
    assert all("not known" in r["reason"] for r in report["rejected"])
    report = store.load([decision, changed(withdrawal, reviewer="Ben")])
    assert [r["reason"] for r in report["rejected"]] == ["Ben withdraws a decision of Ada."]
    assert [d.uid for d in store.current()] == [made.uid]
    store.load([withdrawal])
    assert store.current() == []
    (rejected,) = store.load([changed(withdrawal, at="2020-01-01T00:00:00+00:00")])["rejected"]
    assert "known with another content" in rejected["reason"]


def test_an_import_that_is_interrupted_adds_nothing(store):
    other = Decisions(store._path.with_name("other.sqlite"))
    said(other)

    def lines():
        yield from other.export()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.load(lines())
    assert store.history() == []


def test_the_table_has_every_decision_oldest_first(store):
    first = said(store, verdict="no", reasons=["wrong"], seconds=2)
    said(store, verdict="yes", edited_text="thanks")
    store.withdraw(first.uid, "Ada")
    table = store.table()
    assert table.schema == deciding.TABLE
    assert table["verdict"].to_pylist() == ["no", "yes"]
    assert table["reasons"].to_pylist() == [["wrong"], []]
    assert table["edited_text"].to_pylist() == [None, "thanks"]
    assert [bool(at) for at in table["withdrawn"].to_pylist()] == [True, False]


# ---- several at once

WRITER = """
import sys
from pathlib import Path
from fac.store.decisions import Decisions
path, who = Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
store = Decisions(path)
for i in range(40):
    made = store.add(who, "explanation", f"explanation/m/{i}", {"text": str(i)}, "yes")
    if i % 4 == 0:
        store.withdraw(made.uid, who)
"""


def test_two_processes_that_begin_the_file_together_lose_nothing(store):
    people = ("Ada", "Ben")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store._path), who],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for who in people
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, trouble = process.communicate(timeout=60)
        assert process.returncode == 0, trouble
    assert len(store.history(1000)) == 80
    assert len(store.contents()) == 40
    for who in people:
        mine = store.current(reviewer=who)
        assert [d.subject for d in mine] == [f"explanation/m/{i}" for i in range(40) if i % 4]


def test_threads_share_a_store(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: said(store, f"p{i % 4}", subject=f"explanation/m/{i}"), range(64)))
    assert len(store.current()) == 64


def test_a_reader_does_not_wait_for_a_writer(store):
    made = said(store)
    con = sqlite3.connect(store._path, isolation_level=None)
    con.execute("BEGIN IMMEDIATE")
    try:
        assert store.current() == [made]
    finally:
        con.close()


def test_a_writer_that_waited_too_long_is_told_in_a_sentence(store, monkeypatch):
    said(store)
    monkeypatch.setattr(sqlite, "PATIENCE", 0.05)
    con = sqlite3.connect(store._path, isolation_level=None)
    con.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(InputError, match="were busy .* nothing was recorded"):
            said(store, "Ben")
    finally:
        con.close()
    assert said(store, "Ben").reviewer == "Ben"


def test_a_process_killed_between_two_decisions_leaves_the_first(store):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom fac.store.decisions import Decisions\n"
        "store = Decisions(Path(sys.argv[1]))\n"
        "store.add('Ada', 'explanation', 'explanation/m/1', {}, 'yes')\n"
        "with store._writing() as con:\n"
        "    con.execute(\"INSERT INTO content VALUES ('half', '{}')\")\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store._path)], cwd=REPOSITORY)
    assert done.returncode == -9
    assert [d.verdict for d in store.current()] == ["yes"]
    assert [*store.contents()] == [digest({})]
    assert said(store).verdict == "yes"


# ---- a file in trouble


def test_a_damaged_file_is_a_sentence_that_names_the_way_back(store):
    store._path.write_bytes(b"these are not the decisions" * 99)
    for use in (store.current, lambda: said(store)):
        with pytest.raises(InputError, match="are damaged .*fac decisions import"):
            use()
    assert store._path.read_bytes().startswith(b"these are not")


def test_a_newer_file_is_refused(store):
    said(store)
    with sqlite3.connect(store._path) as con:
        con.execute(f"PRAGMA user_version = {deciding.DECISIONS_VERSION + 1}")
    con.close()
    for use in (store.current, lambda: said(store)):
        with pytest.raises(SchemaTooNew, match="update FAC Explorer"):
            use()


def test_a_full_disk_keeps_what_was_said_before(store, monkeypatch):
    said(store)
    connect = sqlite3.connect

    def cramped(*args, **more):
        con = connect(*args, **more)
        (pages,) = con.execute("PRAGMA page_count").fetchone()
        con.execute(f"PRAGMA max_page_count = {pages}")
        return con

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", cramped)
        with pytest.raises(InputError, match="disk is full, the decision in .* free some space"):
            said(store, "Ben", content={"text": "x" * 100_000})
    assert [d.reviewer for d in store.current()] == ["Ada"]
    assert said(store, "Ben").reviewer == "Ben"


def test_a_file_that_may_only_be_read_is_a_sentence(store, monkeypatch):
    made = said(store)
    connect = sqlite3.connect

    def frozen(path, **more):
        con = connect(path, **more)
        con.execute("PRAGMA query_only = ON")
        return con

    monkeypatch.setattr(sqlite3, "connect", frozen)
    with pytest.raises(InputError, match="cannot be opened or written .*you may write there"):
        said(store, "Ben")
    assert store.current() == [made]


def test_a_folder_in_the_files_place_is_a_sentence(store):
    os.mkdir(store._path)
    for use in (store.current, lambda: said(store)):
        with pytest.raises(InputError, match="cannot be opened or written"):
            use()


def test_a_file_in_the_folders_place_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be opened or written"):
        said(Decisions(tmp_path / "taken" / "decisions.sqlite"))
