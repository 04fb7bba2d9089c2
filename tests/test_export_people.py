"""What people's word does to an export: which kept samples leave, as what, and how that is said."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fac import review
from fac.config import RetouchSpec, Workspace
from fac.datasets import read_samples, sample_id
from fac.errors import InputError
from fac.export import Opinion, first_line, looked_at_in_words
from fac.export.lineage import ExportRow
from fac.export.people import select
from fac.questions import exports, samples
from fac.review.samples import SAMPLE_STATES, sample_rows
from fac.store import Stores, open_stores
from fac.synthesis.retouch import retouch
from tests.test_cli_make import done
from tests.test_export import ENCODER, GAPS, PROMPT_FORMATS, publish_synthesis, quiet, text_of
from tests.test_export import rows_of as rows_of_file
from tests.toy import WORDS, toy_workspace


def row(name: str, text: str = "Hi", **extra: object) -> ExportRow:
    messages = [{"role": "user", "content": text}]
    return ExportRow(messages, extra, {"candidate": name, "sample_id": sample_id(messages)})


# --- by hand ----------------------------------------------------------------------------------


def test_what_people_said_decides_what_leaves():
    opinions = {
        "kept": Opinion("kept", ("ana",)),
        "dropped": Opinion("dropped", ("ben", "ana")),
        "torn": Opinion("disagreed", ("ana", "cleo")),
    }
    rows = [row(name) for name in ("kept", "dropped", "torn", "unseen")]
    chosen = select(rows, opinions)
    assert [each.lineage["candidate"] for each in chosen.rows] == ["kept", "unseen"]
    assert chosen.left_out == {"dropped by a person": 1, "people disagree": 1}
    assert (chosen.kept, chosen.looked_at, chosen.liked) == (4, 3, 1)
    assert chosen.reviewers == ("ana", "ben", "cleo")
    # Wilson 1927, 1 of 3: (1/3 + z²/6) / (1 + z²/3) -+ ..., z = 1.96
    assert chosen.share == pytest.approx(1 / 3)
    assert chosen.interval == pytest.approx((0.0615, 0.7923), abs=5e-4)
    reviewed = select(rows, opinions, reviewed=True)
    assert [each.lineage["candidate"] for each in reviewed.rows] == ["kept"]
    assert reviewed.left_out["not looked at"] == 1


def test_a_share_of_nothing_is_no_figure():
    chosen = select([row("a")], {})
    assert chosen.share is None and chosen.interval is None
    assert looked_at_in_words(chosen) == "none: nobody decided on a sample"


def test_a_wrong_label_leaves_as_the_persons_or_not_at_all():
    rows = [row(name, label="1", label_probability=0.9) for name in "ab"]
    opinions = {
        "a": Opinion("wrong label", ("ana",)),
        "b": Opinion("wrong label", ("ana",), label="0"),
    }
    chosen = select(rows, opinions)
    assert [each.extra for each in chosen.rows] == [{}, {"label": "0"}]
    assert (chosen.unlabelled, chosen.relabelled) == (1, 1)
    strict = select(rows, opinions, needs_label=True)
    assert [each.lineage["candidate"] for each in strict.rows] == ["b"]
    assert strict.left_out == {"with a wrong label that nobody corrected": 1}


def test_a_text_of_the_anchor_never_leaves():
    rows = [row("a", "mine"), row("b", "of the anchor")]
    chosen = select(rows, {"b": Opinion("kept", ("ana",))}, anchor={rows[1].lineage["sample_id"]})
    assert [each.lineage["candidate"] for each in chosen.rows] == ["a"]
    assert chosen.left_out == {"a text of the anchor": 1}


@given(
    st.lists(st.sampled_from(SAMPLE_STATES), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_every_row_leaves_or_is_counted(states, reviewed, needs_label):
    rows = [row(str(number), label="1") for number in range(len(states))]
    # an edited sample has an edit; here the states alone are tried
    opinions = {str(n): Opinion(state, ("ana",)) for n, state in enumerate(states)}
    chosen = select(rows, opinions, reviewed=reviewed, needs_label=needs_label)
    assert len(chosen.rows) + sum(chosen.left_out.values()) == chosen.kept == len(states)
    leaving = {int(each.lineage["candidate"]) for each in chosen.rows}
    expected = {
        n
        for n, state in enumerate(states)
        if state in ("kept", "edited")
        or (state == "undecided" and not reviewed)
        or (state == "wrong label" and not (reviewed or needs_label))
    }
    assert leaving == expected
    looked = [state for state in states if state != "undecided"]
    liked = sum(state in ("kept", "edited") for state in looked)
    assert (chosen.looked_at, chosen.liked) == (len(looked), liked)
    for each in chosen.rows:
        assert ("label" in each.extra) == (states[int(each.lineage["candidate"])] != "wrong label")


# --- through the stores -----------------------------------------------------------------------


@pytest.fixture
def kitchen(tmp_path) -> Workspace:
    return toy_workspace(tmp_path / "kitchen")


def decide(stores: Stores, run: str, verdicts: dict[int, str], reviewer: str = "ana") -> None:
    """What a reviewer says of the kept samples of these gaps, as they were written."""
    for sample in sample_rows(stores.runs, run):
        if sample["feature"] in verdicts:
            item = review.sample_item(run, sample)
            verdict = verdicts[sample["feature"]]
            stores.decisions.add(reviewer, item.kind, item.subject, item.content, verdict)


def test_decisions_on_samples_reach_the_file_and_its_card(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    decide(stores, run, {3: "keep", 5: "drop"})
    files = exports.write(stores, run, tmp_path / "all.jsonl")
    rows = rows_of_file(files.path)
    assert [each["lineage"]["feature"] for each in rows] == [3, 6]
    assert [each["lineage"]["review"]["state"] for each in rows] == ["kept", "undecided"]
    assert rows[0]["lineage"]["review"]["by"] == ["ana"]
    card = files.card.read_text("utf-8")
    for line in (
        "| rows | 2 of 3 that the filter kept |",
        "| left out | 1 dropped by a person |",
        "| looked at | 2 of 3, by ana; they would train on 1 of them: 50 %, 95 % interval 9 to "
        "91 % |",
        "| texts of the anchor | none; compared by the hash of the messages |",
    ):
        assert line in card.splitlines(), line
    answer = done("export", run, "--out", tmp_path / "seen.jsonl", "--reviewed", workspace=kitchen)
    assert [each["lineage"]["feature"] for each in rows_of_file(tmp_path / "seen.jsonl")] == [3]
    assert answer["left_out"] == {"dropped by a person": 1, "not looked at": 1}
    assert (answer["rows"], answer["kept"], answer["looked_at"]) == (1, 3, 2)
    assert (answer["reviewers"], answer["share_kept"]) == (["ana"], 0.5)
    assert (answer["share_low"], answer["share_high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)


def test_the_share_kept_is_the_one_that_the_review_says(kitchen):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    decide(stores, run, dict.fromkeys(GAPS, "keep") | {5: "wrong_label"})
    chosen = exports.plan(stores, run).selection
    states = review.sample_states(stores.decisions, stores.runs, run)
    looked = review.looked(states.values())
    assert (chosen.looked_at, chosen.liked) == (looked.looked, looked.kept) == (3, 2)
    assert chosen.share == looked.share and chosen.interval == (looked.low, looked.high)
    assert chosen.reviewers == looked.reviewers


def test_an_edited_sample_leaves_as_it_was_edited_and_measured(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    text = f"Please say what a {WORDS[3]}!! is to you"
    spec = RetouchSpec(synthetic=run, candidate="two-step/000003/00/list", texts=(text,))
    edit = retouch(spec, runs=stores.runs, encoder=ENCODER, progress=quiet)
    say_of_newest(stores, run, spec.candidate, "keep")
    files = exports.write(stores, run, tmp_path / "edited.jsonl")
    row = rows_of_file(files.path)[0]
    assert text_of(row) == text and row["lineage"]["review"]["edit"] == edit
    assert row["lineage"]["sample_id"] == sample_id(row["prompt"])
    peak = stores.runs.manifest(edit).facts.peak
    assert row["lineage"]["activation"] == pytest.approx(peak) and peak > 1.5
    assert "| edited by a person | 1, each measured again |" in files.card.read_text("utf-8")
    assert next(iter(read_samples(files.path))).messages == row["prompt"]


def say_of_newest(
    stores: Stores, run: str, candidate: str, verdict: str, reviewer: str = "ana"
) -> None:
    """What a reviewer says of a kept sample in its newest wording."""
    item = samples.sample_states(stores, run)[candidate].version.item
    stores.decisions.add(reviewer, item.kind, item.subject, item.content, verdict)


def edit_of(stores: Stores, run: str, text: str) -> RetouchSpec:
    """Measures another text of the kept sample for 3."""
    spec = RetouchSpec(synthetic=run, candidate="two-step/000003/00/list", texts=(text,))
    retouch(spec, runs=stores.runs, encoder=ENCODER, progress=quiet)
    return spec


def first_of(stores: Stores, run: str, out: Path, **how: bool) -> tuple[str, dict, str]:
    """Text and lineage of an export's first row, and its card."""
    files = exports.write(stores, run, out, **how)
    row = rows_of_file(files.path)[0]
    return text_of(row), row["lineage"], files.card.read_text("utf-8")


def test_an_edit_that_nobody_decided_on_leaves_as_it_was_before(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    before, _, card = first_of(stores, run, tmp_path / "a.jsonl")
    assert "edits that do not leave" not in card
    texts = [f"Please say what a {WORDS[3]}!! is to {who}" for who in ("you", "her")]
    candidate = edit_of(stores, run, texts[0]).candidate

    text, lineage, card = first_of(stores, run, tmp_path / "b.jsonl")
    assert text == before
    assert lineage["review"] == {"state": "undecided", "by": [], "edit": None}
    waits = "1 edit waits for a decision: until then its sample is as before it"
    assert f"| edits that do not leave | {waits} |" in card and "edited by a person" not in card

    say_of_newest(stores, run, candidate, "keep")
    text, lineage, card = first_of(stores, run, tmp_path / "c.jsonl")
    assert text == texts[0] and "edits that do not leave" not in card
    assert (lineage["review"]["state"], lineage["review"]["by"]) == ("edited", ["ana"])

    edit_of(stores, run, texts[1])  # the edit of the edit waits in its turn
    for reviewed in (False, True):
        out = tmp_path / f"d{reviewed}.jsonl"
        text, lineage, card = first_of(stores, run, out, reviewed=reviewed)
        assert text == texts[0] and waits in card
        assert (lineage["review"]["state"], lineage["review"]["by"]) == ("edited", ["ana"])
    answer = done("export", run, "--out", tmp_path / "e.jsonl", workspace=kitchen)
    assert (answer["waiting"], answer["measuring"], answer["edited"]) == (1, 0, 1)


def test_what_was_dropped_does_not_come_back_with_an_edit_that_waits(kitchen):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    decide(stores, run, {3: "drop", 5: "keep"})
    edit_of(stores, run, f"Please say what a {WORDS[3]}!! is to you")
    chosen = exports.plan(stores, run).selection
    assert chosen.left_out == {"dropped by a person": 1} and chosen.waiting == 1
    assert exports.revision(stores, run) == (samples.looked(stores, run), 2)
    counts = samples.looked(stores, run)
    assert (counts.looked, counts.kept, counts.dropped, counts.waiting) == (2, 1, 1, 1)
    assert (chosen.looked_at, chosen.liked) == (2, 1)


def test_an_edit_that_is_being_measured_is_not_in_the_file_which_says_so(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    before, *_ = first_of(stores, run, tmp_path / "a.jsonl")
    texts = (f"Please say what a {WORDS[3]}!! is to you",)
    spec = RetouchSpec(synthetic=run, candidate="two-step/000003/00/list", texts=texts)
    job = stores.queue.enqueue(spec)
    text, _, card = first_of(stores, run, tmp_path / "b.jsonl")
    assert text == before
    assert "1 edit is still being measured: it is not in here" in card
    stores.queue.cancel(job)
    assert exports.plan(stores, run).selection.measuring == 0


def test_what_people_changed_is_told_with_the_rows_that_leave(kitchen):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    assert exports.revision(stores, run) is None
    decide(stores, run, {3: "keep"})
    assert exports.revision(stores, run) is None, "what is kept changes nothing"
    decide(stores, run, dict.fromkeys(GAPS, "drop"), reviewer="ben")
    decide(stores, run, {3: "drop"})
    revision = exports.revision(stores, run)
    assert revision and (revision.counts.dropped, revision.rows) == (3, 0)
    assert "(3 dropped), and an export has 0 rows." in revision.words()


def test_the_first_row_is_told_exactly_as_it_is_written(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    decide(stores, run, {3: "keep"})
    plan = exports.plan(stores, run)
    path = exports.write(stores, run, tmp_path / "a.jsonl").path
    assert first_line(plan) == path.read_text("utf-8").splitlines()[0]
    assert '"lineage"' in first_line(plan)


def test_where_nothing_may_leave_that_is_a_sentence_and_no_file(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    with pytest.raises(InputError, match="None of the 3 kept samples .*: 3 not looked at"):
        exports.write(stores, run, tmp_path / "out" / "kept.jsonl", reviewed=True)
    assert not (tmp_path / "out").exists()


def test_names_of_reviewers_and_held_out_files_are_plain_text_in_the_card(kitchen, tmp_path):
    run = publish_synthesis(kitchen)
    stores = open_stores(kitchen, remember=False)
    hostile = "[x](http://evil) <b>|`"
    decide(stores, run, {3: "keep"}, reviewer=hostile)
    for format in PROMPT_FORMATS:
        files = exports.write(stores, run, tmp_path / f"{format}-x", format=format)
        card = files.card.read_text("utf-8")
        assert "](http" not in card and "<b>" not in card and json.dumps(hostile)[1:-1] not in card


def test_the_anchor_s_own_text_is_left_out_though_the_filter_kept_it(kitchen, tmp_path):
    stores = open_stores(kitchen, remember=False)
    anchor = stores.runs.manifest(stores.runs.resolve("measure", "toy-anchor")).spec.dataset
    chats = stores.runs.table(anchor, "samples", ["messages"])["messages"].to_pylist()
    run = publish_synthesis(kitchen, texts={3: chats[0], 5: "Say loop!", 6: "Say river!"})
    chosen = exports.plan(stores, run).selection
    assert chosen.left_out == {"a text of the anchor": 1} and len(chosen.rows) == 2
    assert not math.isnan(chosen.share or 0.0)
