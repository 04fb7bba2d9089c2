"""The short form of benchmarks.trials, and what its long form led to."""

import json
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from benchmarks.trials import __main__ as trials
from benchmarks.trials import bits, clocks, damage, disk, fuzz, kills, load, people
from benchmarks.trials.licences import licence, packages
from benchmarks.trials.promises import (
    BEGIN,
    END,
    FIGURES,
    PAGE,
    Broken,
    Over,
    Promise,
    Trial,
    carry_out,
    in_words,
    merge,
    page,
    read,
    table,
)
from benchmarks.trials.world import in_a_child
from fac.config import REPOSITORY
from fac.datasets import read_samples
from fac.errors import InputError
from fac.prompts import drafts
from fac.store.cache import build
from fac.store.runs import Runs
from tests import toy
from tests.rows import refusal
from tests.test_cli import fac

SHORT = {
    **{promise.title: 12 for promise in bits.PROMISES},
    **{promise.title: 2 for promise in damage.PROMISES},
    **{promise.title: 300 for promise in fuzz.PROMISES},
    "fuzz: arrow files": 30,
    "fuzz: parquet files": 30,
    "fuzz: long replies": 4,
    "clocks: leases": 10,
    "clocks: process numbers": 2,
    "disk: limited files": 3,
    "kills: ingest": 2,
    "kills: judge": 2,
    "kills: a worker": 1,
    "kills: decisions": 2,
}
"""How many trials of each promise; those of a minute or of models are left to the long form."""


@pytest.mark.parametrize("kind", [bits, damage, clocks, disk, fuzz, kills])
def test_a_few_trials_of_each_kind_keep_their_promise(kind):
    promises = [each for each in kind.PROMISES if each.title in SHORT]
    outcomes = [carry_out(promise, SHORT[promise.title], first=10_000) for promise in promises]
    assert outcomes
    broken = [in_words(outcome) for outcome in outcomes if outcome.failed]
    assert not broken, "\n".join(broken)


FEW = load.Crowd(sessions=3, minutes=0.2, samples=36, megabytes=150)
"""The short form of load; what a server takes in its first seconds is no leak."""


def of_a_crowd(crowd, monkeypatch):
    """What became of the promises of load, by name."""
    monkeypatch.setattr(load, "CROWD", crowd)
    outcomes = [carry_out(promise, promise.times) for promise in load.PROMISES]
    return {outcome.name: outcome for outcome in outcomes}


def test_a_few_at_once_meet_no_error_of_load_and_see_what_is_true(monkeypatch):
    outcomes = of_a_crowd(FEW, monkeypatch)
    broken = [in_words(outcome) for outcome in outcomes.values() if outcome.failed]
    assert not broken, "\n".join(broken)
    pages, compared = (outcomes[name].trials for name in ("errors", "figures and rows"))
    assert pages > compared > 3 * FEW.sessions
    assert outcomes["measures"].trials > 0
    (words,) = outcomes["memory"].ends
    assert words.startswith("3 sessions for 0.2 minutes: ")


PLANTED = """
from fac.questions import gaps
from fac.store.queue import Queue
from fac.ui import views

kept, cards, gap_page = [], views.cards, gaps.gap_page

def planted_cards(*numbers):
    kept.append(b"x" * 10_000_000)
    wrong = {} if len(numbers) == 6 else {"Covered": "7,777", "Peak": "7,777"}
    cards(*((label, wrong.get(label, value), *of) for label, value, *of in numbers))

def planted_page(*about, **listing):
    rows, total = gap_page(*about, **listing)
    return [{**row, "n_anchor": row["n_anchor"] + 1} for row in rows], total

def planted_jobs(queue, limit=100):
    raise ZeroDivisionError("planted")

views.cards, gaps.gap_page, Queue.jobs = planted_cards, planted_page, planted_jobs
"""
"""What a server imports before anything else: it leaks, the first page and that of features show a
wrong figure, that of coverage wrong rows, and the one of jobs fails."""


def test_an_error_a_wrong_figure_a_wrong_row_and_a_leak_of_load_are_told(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    environment = (("PYTHONPATH", f"{tmp_path}:{REPOSITORY}"),)
    outcomes = of_a_crowd(FEW._replace(megabytes=50, environment=environment), monkeypatch)
    assert all(outcomes[name].failed for name in ("errors", "figures and rows", "memory"))
    assert not outcomes["measures"].failed, "they are made by another process"
    why = {name: [each["why"] for each in of.failures] for name, of in outcomes.items()}
    assert all("ZeroDivisionError: planted" in each for each in why["errors"])
    told = "\n".join(why["figures and rows"])
    assert " is 7,777, not " in told and "row 1 has n_anchor " in told
    assert why["memory"][0].startswith("Broken: grew by ")


def test_growth_of_load_is_between_a_fifth_of_the_time_and_its_end():
    looks = [load.Look(n / 10, 100 + 200 * (n < 20) + n) for n in range(101)]
    words = "25 sessions for 10 minutes: 122 MB after 2, 198 MB at the end, never more than 319 MB"
    crowd = load.Crowd()
    assert load.memory_in_words(crowd, looks) == (words, f"grew by 75 MB; {words}")
    assert load.memory_in_words(crowd._replace(megabytes=75), looks) == (words, "")
    assert load.memory_in_words(crowd, looks[:10])[1] == "nobody looked at the memory in time"


def test_rows_of_load_are_compared_as_the_table_shows_them():
    row = {"feature": 3, "name": "tea", "badge": "certain", "n_dataset": 0, "expected": 2.25}
    row |= {"ratio": 0.12345, "n_anchor": 9, "near": None}
    shown = {**row, "ratio": 0.123}
    assert people.rows_differ([row], [shown]) == ""
    assert people.rows_differ([row], []) == "0 rows, not 1"
    assert people.rows_differ([row], [{"feature": 3}]) == "there is no column name"
    assert people.rows_differ([row], [{**shown, "ratio": 0.124}]).startswith(
        "row 1 has ratio 0.124"
    )
    assert people.rows_differ([row, row], [shown, {**shown, "near": 0.5}]).startswith(
        "row 2 has near"
    )
    assert people.figures_differ({"FAC": "50.0%"}, {}) == "FAC is not shown, not 50.0%"


def test_trials_that_are_over_are_as_many_as_there_were():
    @contextmanager
    def three(folder) -> Iterator[Trial]:
        left = iter("abc")

        def trial(rng: random.Random) -> str:
            for each in left:
                return each
            raise Over

        yield trial

    outcome = carry_out(DICE._replace(begin=three), 60)
    assert (outcome.trials, outcome.failed, outcome.ends) == (3, 0, {"a": 1, "b": 1, "c": 1})


@contextmanager
def dice(folder) -> Iterator[Trial]:
    """One in six fails."""

    def throw(rng: random.Random) -> str:
        number = rng.randrange(6)
        if number == 0:
            raise Broken("it was zero")
        return "odd" if number % 2 else "even"

    yield throw


DICE = Promise("toys", "dice", "A die never shows zero.", dice, 60)


def test_a_failure_is_counted_and_its_number_repeats_it():
    outcome = carry_out(DICE, 60)
    assert outcome.failed == len(outcome.failures) > 0
    assert outcome.failed + sum(outcome.ends.values()) == outcome.trials == 60
    for failure in outcome.failures:
        again = carry_out(DICE, 1, first=failure["number"])
        assert (again.failed, again.failures) == (1, [failure])
    number = outcome.failures[0]["number"]
    command = f"python -m benchmarks.trials toys --only 'dice' --first {number} --times 1"
    assert f"  {command}: Broken: it was zero" in in_words(outcome).splitlines()


def test_counts_of_a_promise_replace_earlier_ones_and_no_others():
    first, second = carry_out(DICE, 6), carry_out(DICE, 12)
    other = carry_out(DICE._replace(name="others"), 3)
    counts = merge(merge({}, [first, other]), [second])
    assert json.loads(json.dumps(counts)) == counts
    assert [(row["name"], row["trials"]) for row in counts["promises"]] == [
        *(("dice", 12), ("others", 3)),
    ]
    assert len(table(counts).splitlines()) == 2 + 2


def test_the_page_has_the_counts_of_the_file_and_none_that_a_person_typed():
    text, counts = PAGE.read_text("utf-8"), read(FIGURES)
    assert table(counts) in text
    rows = table(counts).splitlines()[2:]
    assert rows and all(row.endswith("` |") for row in rows)
    bare = page(text, {}, ["none"])
    assert page(bare, counts, ["none"]).count(rows[0]) == 1
    assert bare.split(BEGIN)[0] == text.split(BEGIN)[0]
    assert bare.split(END)[1] == text.split(END)[1]
    promises = {each.title: each.sentence for each in trials.promises()}
    for row in counts["promises"]:
        assert promises[f"{row['kind']}: {row['name']}"] == row["promise"], "run these again"
        assert row["trials"] == row["failed"] + sum(row["ends"].values())


def test_what_requirements_lead_to_has_licences():
    every = packages("requirements.txt")
    assert {"streamlit", "duckdb", "click"} <= every.keys(), "click comes with typer"
    assert "ray" not in every, "it is asked for by another file"
    assert licence("streamlit") == "Apache-2.0"


def test_a_promise_that_nobody_made_is_a_sentence(capsys):
    with pytest.raises(SystemExit, match="there is no promise 'x' among bits"):
        trials.main(["bits", "--only", "x"])
    with pytest.raises(SystemExit):
        trials.main(["nonsense"])
    assert "'nonsense' is none of kills, bits" in capsys.readouterr().err


# --- what they found ------------------------------------------------------------------------------


def test_an_arrow_file_that_points_beyond_itself_is_a_sentence_and_no_crash(tmp_path):
    sink = pa.BufferOutputStream()
    words = pa.table({"text": ["aaaa", "bbbb", "cccc"]})
    feather.write_feather(words, sink, compression="uncompressed")
    content = sink.getvalue().to_pybytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 4, 8, 12))
    assert content.count(offsets) == 1
    far = b"".join(n.to_bytes(4, "little") for n in (0, 4, 2**30, 12))
    path = tmp_path / "rows.arrow"
    path.write_bytes(content.replace(offsets, far))

    def read_it() -> str:
        with pytest.raises(InputError, match=r"rows.arrow is not a whole Arrow file \(.*offset"):
            [*read_samples(path)]
        path.write_bytes(content.replace(b"bbbb", b"b\xe9bb"))
        return ", ".join(type(row).__name__ for row in read_samples(path))

    assert in_a_child(read_it) == "Sample, BadRow, Sample"


def test_gaps_do_not_change_where_the_dictionarys_cache_is_gone(tmp_path):
    place = toy.toy_workspace(tmp_path / "place")
    line = ("gaps", "--anchor", "toy-anchor", "--dataset", "toy-seed", "--json")
    before = fac(*line, workspace=place).json
    assert before["gaps"][0]["promotes"] != []
    for path in place.cache.glob("sae-*.duckdb"):
        path.unlink()
    assert fac(*line, workspace=place).json == before


def test_a_cache_that_may_not_grow_is_a_sentence(tmp_path):
    place = toy.toy_workspace(tmp_path / "place")
    runs = Runs(place)
    run = runs.resolve("measure", "toy-anchor")

    def cramped() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with pytest.raises(InputError, match=f"cache of {run} could not be written .*try again"):
            build(runs, run, place.cache)
        return "refused"

    assert in_a_child(cramped) == "refused"
    assert fac("gc", workspace=place).out.startswith("0 of 0")


def test_a_file_of_separators_alone_is_refused_in_a_sentence(runs, write):
    assert "has no rows" in refusal(runs, write("rows.jsonl", b"\x1f"))


@pytest.mark.parametrize("head", ["Description: a b", "He said:\tDescription: a b"])
def test_a_prompt_that_is_said_again_is_told_by_two_lines(head):
    for text in (f"{head}\nText 1: c", f"x\n\n{head} Description: y\nText 1: c"):
        with pytest.raises(drafts.BadDraft, match="repeats lines"):
            drafts.read_draft("instruction", text)
    for text in (f"{head}\n\nText 1: c", "NoDescription: a\nText 1: c", "x\nText 1: c"):
        assert drafts.read_draft("instruction", text).messages
