"""The Synthesis page, run headless on the toy: launched from approved pairs alone, watched, judged.

toy-seed lacks six words of toy-anchor; the pairs here are for "python" (3), "river" (6), "mountain"
(7) and "train" (8), written by a script in which every second text of a gap fires it.
"""

import html
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zipfile import ZipFile

import pytest
from streamlit.testing.v1 import AppTest

from fac import review, synthesis
from fac.cli import frame
from fac.config import (
    METHODS,
    WRITERS,
    PairsSpec,
    RescoreSpec,
    SynthesizeSpec,
    Workspace,
    read_spec,
)
from fac.datasets import read_samples
from fac.export import export, forms_of, provenance
from fac.generator.writer import Request
from fac.manifest import Manifest, SynthesisManifest
from fac.prompts.profiles import PROFILES
from fac.questions import catalogue, exports, results
from fac.questions.catalogue import measured
from fac.store.decisions import Decisions
from fac.store.queue import Job, Queue
from fac.store.runs import Runs
from fac.synthesis import filter as verdicts
from fac.synthesis import gates
from fac.ui.jobs import job_title
from fac.ui.results import REASON_WORDS
from fac.ui.stores import stores
from fac.ui.views import share
from tests import toy
from tests.test_cli_make import MANNERS, MakingSteps, worded
from tests.test_cli_make import done as command
from tests.test_jobs import quiet
from tests.test_pages import (  # noqa: F401 - two of them are fixtures of every test
    button,
    markup,
    metrics,
    navigation_decides,
    opened,
    ran,
    started,
    words,
)

GAPS = (3, 6, 7, 8)
HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x]"


def says(request: Request) -> str:
    """In step 2 every second text leaves its word out, and one is hostile."""
    method, feature, number, _ = request.key.split("/")
    text = worded(request)
    if method != "two-step":
        return text
    if int(number) % 2:
        return f" {MANNERS[int(number)]} nothing in particular, number {feature}"
    return text + (f" {HOSTILE} and more" if int(feature) == 3 else "")


class PageSteps(MakingSteps):
    """The real steps with words as features and the script above."""

    says: Callable[[Request], Any] = staticmethod(says)


def perform(place: Workspace, spec: Any) -> str:
    return PageSteps(place).perform(spec, quiet)


def work_off(place: Workspace) -> list[Job]:
    """Carries out what waits, as the worker does; the jobs that were done."""
    queue, done = Queue(place.queue), []
    while job := queue.claim("test"):
        queue.finish(job.id, perform(place, read_spec(job.step, job.spec)))
        done.append(queue.job(job.id))
    return done


def approve(place: Workspace, run: str, *features: int, verdict: str = "approve") -> None:
    store, runs = Decisions(place.decisions), Runs(place)
    for manifest, rows in review.pair_versions(runs, run):
        for row in rows:
            if row["feature"] in features and row["status"] == "proposed":
                item = review.pair_item(manifest.run, row)
                store.add("ana", "pair", item.subject, item.content, verdict)


@pytest.fixture(scope="module", autouse=True)
def texts_of_any_length() -> Iterator[None]:
    """The toy's texts are all short and tame, and so would have to be what is written for it."""
    habits = frozenset(gates.oddities(f"Draw me {HOSTILE} and more"))
    norms = gates.Norms({"user": gates.RoleNorms(habits=habits | gates.RoleNorms().habits)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "norms_of", lambda *_: norms)
        yield


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy with a run of pairs that nobody decided on."""
    place = toy.toy_workspace(tmp_path_factory.mktemp("paired"), explained=True)
    runs = Runs(place)
    anchor, dataset = (runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))
    perform(place, PairsSpec(anchor=anchor, dataset=dataset, features=GAPS, candidates=2))
    return place


@pytest.fixture(scope="module")
def made(paired: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same, all approved and synthesized from."""
    root = tmp_path_factory.mktemp("made") / "workspace"
    shutil.copytree(paired.root, root)
    place = Workspace(root)
    run = pairs_run(place)
    approve(place, run, *GAPS)
    named = tuple(row["pair"] for row in approved(place, run))
    perform(place, SynthesizeSpec(pairs=run, approved=named, candidates=4))
    return place


@pytest.fixture
def place(paired: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy that a test may change, with pairs that nobody decided on."""
    return copied(paired, tmp_path, monkeypatch)


@pytest.fixture
def done(made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy that a test may change, with a finished synthesis."""
    return copied(made, tmp_path, monkeypatch)


def copied(source: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    shutil.copytree(source.root, folder / "workspace")
    monkeypatch.setenv("FAC_WORKSPACE", str(folder / "workspace"))
    monkeypatch.setattr(frame, "Steps", PageSteps)
    return Workspace(folder / "workspace")


def pairs_run(place: Workspace) -> str:
    return Runs(place).list("pairs")[0].run


def result_of(place: Workspace) -> SynthesisManifest:
    return Runs(place).list("synthetic")[0]


def approved(place: Workspace, run: str) -> list[dict[str, Any]]:
    return review.approved_pairs(Decisions(place.decisions), Runs(place), run)


def asked(place: Workspace) -> list[SynthesizeSpec]:
    """The syntheses in the queue, newest first."""
    found = [job for job in Queue(place.queue).jobs() if job.step == "synthetic"]
    return [read_spec(job.step, job.spec) for job in found]


def field(at: AppTest, name: str) -> Any:
    """The widget of a setting."""
    kinds = (at.number_input, at.selectbox, at.text_input, at.toggle)
    return next(w for kind in kinds for w in kind if (w.key or "").endswith(f".{name}"))


def labels(at: AppTest) -> list[str]:
    return [each.label for each in at.button]


def links(at: AppTest) -> dict[str, str]:
    """Label -> query string of every link."""
    return {each.proto.label: each.proto.query_string for each in at.get("page_link")}


def read(at: AppTest) -> str:
    """All texts in HTML, as a person reads them."""
    return html.unescape(re.sub(r"<[^>]+>", "", markup(at)))


def launch_label(n: int) -> str:
    return f"Synthesize from {n} approved pair{'' if n == 1 else 's'}"


# --- before -----------------------------------------------------------------------------------


def test_without_pairs_the_page_leads_to_the_gaps(tmp_path, monkeypatch):
    toy.toy_workspace(tmp_path)
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path))
    at = opened("synthesis")
    assert "No pairs yet" in words(at) and "Choose gaps" in links(at)
    assert not at.error


def test_an_empty_workspace_leads_to_the_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path))
    assert "The demo is on its way" in words(opened("synthesis"))


def test_what_nobody_approved_cannot_be_launched(place):
    at = opened("synthesis")
    assert "Nothing is approved yet" in words(at)
    assert "4 to decide · 0 approved" in words(at)
    assert not any("Synthesize" in label or "Try" in label for label in labels(at))
    assert links(at)["Approve pairs"] == ""


def test_a_launch_names_the_approved_pairs_and_no_other(place):
    run = pairs_run(place)
    approve(place, run, 3, 6)
    approve(place, run, 7, verdict="reject")
    at = opened("synthesis", pairs=run)
    assert "1 to decide · 2 approved · 1 rejected · 0 without a pair" in words(at)
    ran(button(at, launch_label(2)).click().run())
    (spec,) = asked(place)
    assert spec.pairs == run and spec.approved == tuple(r["pair"] for r in approved(place, run))
    assert [r["feature"] for r in approved(place, run)] == [3, 6]


def test_a_pair_edited_after_its_approval_is_left_out(place):
    run = pairs_run(place)
    approve(place, run, 3, 6)
    edit = RescoreSpec(
        pairs=run, feature=3, positive="what is a python", negative="what is a thing"
    )
    perform(place, edit)
    at = opened("synthesis", pairs=run)
    ran(button(at, launch_label(1)).click().run())
    (spec,) = asked(place)
    (row,) = approved(place, run)
    assert (row["feature"], spec.approved) == (6, (row["pair"],))


def test_a_synthesis_begins_as_its_pairs_were_made_and_follows_what_is_set(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    assert (field(at, "candidates").value, field(at, "temperature").value) == (2, 0.8)
    field(at, "candidates").set_value(4)
    field(at, "keep").set_value(2)
    field(at, "threshold").set_value(0.5)
    field(at, "only_needed").set_value(True)
    field(at, "budget").set_value(5000)
    ran(at.run())
    ran(button(at, launch_label(4)).click().run())
    (spec,) = asked(place)
    assert (spec.candidates, spec.keep, spec.threshold, spec.only_needed) == (4, 2, 0.5, True)
    assert (spec.budget_tokens, spec.writer, spec.method) == (5000, "local", "two-step")


def test_settings_that_cannot_be_are_one_sentence_and_no_launch(place):
    approve(place, pairs_run(place), *GAPS)
    at = opened("synthesis")
    field(at, "keep").set_value(9)
    ran(at.run())
    said = "Kept per gap must be 1 to the 2 candidates, got 9."
    assert [re.sub(r"\\(.)", r"\1", each.value) for each in at.error] == [said]
    assert not any("Synthesize from" in label for label in labels(at))


def test_a_server_is_asked_nothing_before_its_model_has_a_name(place):
    approve(place, pairs_run(place), *GAPS)
    at = opened("synthesis")
    at.segmented_control(key=f"synthesis {pairs_run(place)}.writer").set_value("openai")
    ran(at.run())
    assert not at.error and any("which name the server knows" in each.value for each in at.info)
    assert not any("Synthesize from" in label for label in labels(at))


def test_the_request_shown_is_the_request_made(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    shown = {each for each in read(at).split("⏎")}
    ran(button(at, launch_label(4)).click().run())
    work_off(place)
    first = PageSteps.last.requests[0]
    told = first.opening.text if first.opening else first.prompt.messages[-1]["content"]
    assert " ".join(told.split()) in " ".join(" ".join(shown).split())


def test_every_choice_has_a_name():
    assert all(kind.title for _, kind in WRITERS.items())
    assert all(profile.title for profile in PROFILES.values())
    assert all(method.title for _, method in METHODS.items())
    assert list(REASON_WORDS) == list(verdicts.REASONS)


# --- the price --------------------------------------------------------------------------------


def test_a_pilot_says_what_the_rest_will_take_until_the_settings_change(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    assert "8 texts: up to 512 new tokens" in words(at), "4 pairs, 2 texts of 64 tokens"
    assert "Texts that pass" not in metrics(at)
    ran(button(at, "Try 3 pairs first").click().run())
    (spec,) = asked(place)
    assert len(spec.approved) == 3
    assert {*spec.approved} < {r["pair"] for r in approved(place, run)}
    (job,) = work_off(place)
    at = opened("synthesis", pairs=run)
    told = synthesis.forecast(Runs(place).manifest(job.run_id), 4)
    assert metrics(at)["Texts that pass"] == f"{told.rate:.0%}"
    assert f"about {told.tokens:,.0f} tokens written" in words(at)
    assert f"Between {told.low:.0%} and {told.high:.0%}" in words(at)
    assert "Try 3 pairs first" not in labels(at) and launch_label(4) in labels(at)
    field(at, "temperature").set_value(1.0)
    ran(at.run())
    assert "Texts that pass" not in metrics(at) and "Try 3 pairs first" in labels(at)


def test_a_pilots_texts_are_read_before_the_launch_and_are_no_dataset(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    assert "What the pilot wrote" not in words(at)
    ran(button(at, "Try 3 pairs first").click().run())
    (spec,) = asked(place)
    assert spec.pilot
    (job,) = work_off(place)
    at = opened("synthesis", pairs=run)
    assert "What the pilot wrote" in words(at)
    rows = Runs(place).table(job.run_id, "candidates").to_pylist()
    assert len(rows) == 6 and all(row["messages"][0]["content"] in read(at) for row in rows)
    verdicts_ = {row["reason"] for row in Runs(place).table(job.run_id, "verdicts").to_pylist()}
    assert all(REASON_WORDS[reason] in read(at) for reason in verdicts_ - {""})
    assert "<img" not in markup(at)
    kept = Runs(place).manifest(job.run_id).facts.kept_dataset
    assert Runs(place).manifest(kept).facts.kind == "pilot"
    assert results.syntheses(stores()) == {} and job.run_id in results.syntheses(
        stores(), pilots=True
    )
    assert kept not in {each.run for each in catalogue.datasets(stores())}
    perform(place, results.remeasure_spec(stores(), Runs(place).manifest(job.run_id)))
    assert kept not in {each.facts.dataset for each in measured(stores()).values()}
    assert not any("The last synthesis" in label for label in links(opened("home")))
    result = opened("synthesis", synthesis=job.run_id)
    assert any("A pilot" in each.value for each in result.info)
    assert not result.get("download_button") and "Measure what is kept" not in labels(result)


def test_a_budget_below_the_forecast_is_told_before_the_launch(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    ran(button(at, "Try 3 pairs first").click().run())
    work_off(place)
    at = opened("synthesis", pairs=run)
    assert not at.warning
    field(at, "budget").set_value(20)
    ran(at.run())
    assert "more than the budget of 20 tokens" in words(at)


def test_what_is_finished_already_is_shown_rather_than_launched_again(done):
    run = pairs_run(done)
    at = opened("synthesis", pairs=run)
    assert launch_label(4) in labels(at)
    field(at, "candidates").set_value(4)
    ran(at.run())
    assert launch_label(4) not in labels(at)
    at = ran(button(at, "See what came out").click().run())
    assert metrics(at)["Kept"] == "4"
    at = opened("synthesis", pairs=run)
    field(at, "candidates").set_value(4)
    field(at, "attempt").set_value(1)
    ran(at.run())
    assert launch_label(4) in labels(at)


# --- while ------------------------------------------------------------------------------------


def test_a_launch_is_watched_can_be_ended_and_goes_on_where_it_stopped(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    ran(button(at, launch_label(4)).click().run())
    queue = Queue(place.queue)
    job = queue.claim("test")
    queue.report(job.id, 3, 8, "writing, 90 tokens")
    ran(at.run())
    bars = [bar.proto.text for bar in at.get("progress")]
    assert any("Synthesize from 4 approved pairs of toy\\-seed · 38%" in bar for bar in bars)
    assert "Running for" in words(at)
    ran(button(at, "Cancel").click().run())
    queue.stopped(job.id)
    at = opened("synthesis", pairs=run)
    assert "Cancelled." in words(at)
    field(at, "budget").set_value(77_000)
    ran(at.run())
    ran(button(at, "Go on").click().run())
    again, before = asked(place)
    assert again.budget_tokens == 77_000 and again.run_id() == before.run_id()


def test_a_job_that_failed_says_why(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    ran(button(at, launch_label(4)).click().run())
    queue = Queue(place.queue)
    queue.fail(queue.claim("test").id, "The budget of 9 is used. Raise *it*.")
    assert "The budget of 9 is used. Raise *it*." in words(opened("synthesis", pairs=run))


def test_the_result_opens_when_it_is_there(place):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    at = opened("synthesis", pairs=run)
    ran(button(at, launch_label(4)).click().run())
    (job,) = work_off(place)
    ran(at.run())
    assert at.query_params["synthesis"] == job.run_id
    assert metrics(at)["Kept"] == "4"
    assert "pairs" not in at.query_params


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        ({"approved": ("a", "b")}, "Synthesize from 2 approved pairs of toy-seed"),
        ({"approved": ("a",)}, "Synthesize from 1 approved pair of toy-seed"),
        ({"method": "unguided"}, "Synthesize for every gap of toy-seed, unguided"),
    ],
)
def test_a_synthesis_is_called_what_it_does(place, spec, title):
    job = Queue(place.queue).enqueue(SynthesizeSpec(pairs=pairs_run(place), **spec))
    assert job_title(Queue(place.queue).job(job)) == title


def test_jobs_of_pairs_are_called_what_they_do(place):
    queue, run = Queue(place.queue), pairs_run(place)
    asked_for = Runs(place).manifest(run).spec
    assert job_title(queue.job(queue.enqueue(asked_for))) == "Write pairs for 4 gaps of toy-seed"
    edit = RescoreSpec(pairs=run, feature=3, positive="a", negative="b")
    title = job_title(queue.job(queue.enqueue(edit)))
    assert title == "Score an edited pair, #3 of toy-seed"


# --- after ------------------------------------------------------------------------------------


def shown(place: Workspace, **view: str) -> AppTest:
    return opened("synthesis", synthesis=result_of(place).run, **view)


def test_the_figures_are_those_of_the_run(done):
    facts = result_of(done).facts
    at = shown(done)
    told = metrics(at)
    assert told["Kept"] == f"{facts.kept}" == "4"
    assert "4 of 4 gaps have a sample that fires them" in read(at)
    assert [*told][:2] == ["Own-words hit rate", "Fires anywhere"]
    assert (told["Own-words hit rate"], told["Fires anywhere"]) == ("100.0%", "100.0%")
    assert told["FAC with them"] == share(facts.fac_after) == share(toy.fac_of(8, 10))
    assert told["New features"] == f"{facts.features_gained}" == "4"
    rows = results.ledger_rows(result_of(done).facts)
    assert [row["what"] for row in rows][:2] == ["Texts written", "Tokens written"]
    assert (rows[0]["total"], rows[0]["per_kept"]) == ("16", "4.0")
    assert "US dollars" not in [row["what"] for row in rows], "a local model has no price"


def test_a_link_to_pairs_opens_the_form_although_a_result_was_looked_at(done):
    at = shown(done)
    run = pairs_run(done)
    del at.query_params["synthesis"]
    at.query_params["pairs"] = run
    ran(at.run())
    assert "How the samples are asked for" in words(at)
    assert "synthesis" not in at.query_params


def test_the_way_from_a_result_to_another_launch_and_to_its_pairs(done):
    at = shown(done)
    assert links(at)["Its pairs"] == f"pairs={pairs_run(done)}"
    at = ran(button(at, "New synthesis").click().run())
    assert "How the samples are asked for" in words(at)


def test_an_address_of_no_result_says_so_and_shows_the_form(done):
    at = opened("synthesis", synthesis="synthetic-000000000000")
    assert "No finished synthesis here is called synthetic-000000000000" in words(at)
    assert "How the samples are asked for" in words(at)


def test_an_address_of_no_pairs_says_so_and_shows_others(done):
    at = opened("synthesis", pairs="pairs-000000000000")
    (warning,) = at.warning
    assert "No pairs here are called pairs\\-000000000000" in warning.value
    assert launch_label(4) in labels(at) or "Exactly this was synthesized before" in words(at)


def test_a_kept_text_is_coloured_where_it_fires_and_says_why_it_is_there(done):
    run = result_of(done).run
    name = next(
        row["candidate"]
        for row in Runs(done).table(run, "verdicts").to_pylist()
        if row["kept"] and row["feature"] == 6
    )
    at = shown(done, candidate=name)
    told = provenance(run, name, runs=Runs(done))
    peak = re.search(r'<span class="fac-peak"[^>]*>([^<]*)</span>', markup(at))
    assert peak and peak[1].strip(" !") == "river"
    assert "Why is this row here?" in words(at)
    said = read(at)
    for part in (
        f"{told.lineage['activation']:.3f} on token",
        "ana, ",
        told.lineage["pair"]["pair"],
        told.lineage["prompt_hash"],
        told.lineage["generator"],
        f"seed {told.lineage['seed']}",
        told.lineage["sample_id"],
        "People speak of a river.",
        told.pair["positive"][0]["content"],
        told.rivals[0]["messages"][0]["content"],
    ):
        assert part in said, part


def test_a_dropped_text_says_why_in_words(done):
    run = result_of(done).run
    rows = Runs(done).table(run, "verdicts").to_pylist()
    for reason in {row["reason"] for row in rows} - {""}:
        at = shown(done, reason=reason)
        assert f"Dropped: {REASON_WORDS[reason]}." in words(at)
        assert "Why is this row here?" not in words(at)


def test_the_list_shows_the_texts_of_one_outcome(done):
    run = result_of(done).run
    facts = result_of(done).facts
    for outcome, n in (("kept", facts.kept), ("all", 16), *facts.dropped.items()):
        rows, total = results.candidates_page(stores(), run, outcome=outcome)
        assert total == len(rows) == n
        assert {row["verdict"] for row in rows} == {outcome} or outcome == "all"


def weak_beside_strong(request: Request) -> str:
    """Texts for river fire it at 3 and python, another gap, at 1."""
    text = worded(request)
    return text.replace("river", "river!!") + " beside a python there" if "river" in text else text


def test_gaps_of_a_text_are_counted_above_the_threshold_as_its_row_has_them(place, monkeypatch):
    run = pairs_run(place)
    approve(place, run, 6)
    monkeypatch.setattr(PageSteps, "says", staticmethod(weak_beside_strong))
    names = tuple(row["pair"] for row in approved(place, run))
    for threshold, gaps in ((0.5, 2), (1 - 1e-12, 1)):  # as peaks are stored, that is 1
        spec = SynthesizeSpec(pairs=run, approved=names, candidates=1, threshold=threshold)
        made = perform(place, spec)
        rows, _ = results.candidates_page(stores(), made, outcome="kept")
        (verdict,) = Runs(place).table(made, "verdicts").to_pylist()
        assert [row["n_hits"] for row in rows] == [gaps] == [len(verdict["gains"])]
        at = opened("synthesis", synthesis=made)
        (texts,) = (d.value for d in at.dataframe if "n_gains" in d.value)
        assert [*zip(texts["n_hits"], texts["n_gains"], strict=True)] == [(gaps, gaps)]
        pills = [each for each in at.get("button_group") if each.label == "Where it fires"]
        assert len(pills) == (gaps > 1), "gaps below the threshold are none that it fires"


def test_another_outcome_shows_another_text(done):
    run = result_of(done).run
    rows = Runs(done).table(run, "verdicts").to_pylist()
    kept = next(row["candidate"] for row in rows if row["kept"])
    at = shown(done, candidate=kept)
    assert "Why is this row here?" in words(at)
    (outcome,) = [each for each in at.selectbox if each.label == "Outcome"]
    outcome.set_value("beaten")
    assert f"Dropped: {REASON_WORDS['beaten']}." in words(ran(at.run()))


def test_hostile_texts_stay_text(done):
    run = result_of(done).run
    name = next(
        row["candidate"]
        for row in Runs(done).table(run, "verdicts").to_pylist()
        if row["kept"] and row["feature"] == 3
    )
    at = shown(done, candidate=name)
    assert "<img" not in markup(at)
    assert "onerror=alert(1)" in read(at)
    assert "onerror" not in words(at)


def test_blurred_the_list_leaves_the_texts_out(done):
    at = shown(done)
    assert "text" in at.dataframe[0].value.columns
    at.toggle(key="blur").set_value(True)
    ran(at.run())
    assert "text" not in at.dataframe[0].value.columns


def test_what_is_missing_still_goes_back_to_the_pairs(done):
    at = shown(done)
    assert "Every gap of these pairs is covered." in words(at)
    run = pairs_run(done)
    one = tuple(row["pair"] for row in approved(done, run) if row["feature"] == 6)
    perform(done, SynthesizeSpec(pairs=run, approved=one, candidates=2))
    at = shown(done)
    query = links(at)["Again on the 3 still missing"]
    assert parse_qs(query)["features"] == ["3,7,8"]
    settings = "anchor=toy-anchor&dataset=toy-seed&threshold=0&role=all&support=1&relevant=all"
    assert parse_qs(query).items() >= parse_qs(settings).items(), "the question there was"


def one_for_two(request: Request) -> str:
    """Of python's texts none fires it; those for river fire both."""
    method, feature, _, _ = request.key.split("/")
    if method != "two-step":
        return worded(request)
    if int(feature) == 3:
        return " nothing in particular, number 3"
    return worded(request) + (" beside a python there" if int(feature) == 6 else "")


def made_for_two(place: Workspace, monkeypatch: pytest.MonkeyPatch, *features: int) -> None:
    """A synthesis in which only some gaps were approved, and a sample of one fires another."""
    run = pairs_run(place)
    approve(place, run, *features)
    monkeypatch.setattr(PageSteps, "says", staticmethod(one_for_two))
    named = tuple(row["pair"] for row in approved(place, run))
    perform(place, SynthesizeSpec(pairs=run, approved=named, candidates=2))


def test_gaps_add_up_and_those_that_gave_nothing_say_which_are_covered(place, monkeypatch):
    made_for_two(place, monkeypatch, 3, 6, 7)
    standing = results.reach(stores(), result_of(place))
    assert (standing.filled, standing.along, standing.missing) == ([6, 7], {3: 6}, [])
    at = shown(place)
    counts = (
        "Of 3 gaps 2 have a sample of their own, 1 more is covered by samples of other gaps, none "
        "are still missing."
    )
    assert counts in words(at) and counts in words(opened("home", threshold="0"))
    assert "1 of them is covered all the same, by samples of other gaps" in words(at)
    (lacking,) = (d.value for d in at.dataframe if "along" in d.value)
    assert [*zip(lacking["feature"], lacking["along"], strict=True)] == [(3, "sample of #6")]
    assert "1 of these had no approved pair" in words(at)


def test_again_on_what_is_missing_asks_for_texts_that_are_new(place, monkeypatch):
    made_for_two(place, monkeypatch, 6, 7)
    query = parse_qs(links(shown(place))["Again on the 1 still missing"])
    assert (query["features"], query["attempt"]) == (["8"], ["1"])
    at = opened("pairs", **{name: value for name, (value,) in query.items()})
    (attempt,) = (each for each in at.number_input if each.label == "Attempt")
    assert attempt.value == 1 and "attempt" not in at.query_params
    ran(button(at, "Write pairs for 1 gap").click().run())
    (job,) = work_off(place)
    assert job.spec["attempt"] == 1
    query = parse_qs(links(shown(place))["Again on the 1 still missing"])
    assert query["attempt"] == ["2"], "the first was asked for already"


def test_a_sample_is_not_said_to_make_a_gap_common(done):
    at = shown(done)
    assert "measure what is kept to see how many of these gaps are still" in words(at)
    manifest = result_of(done)
    measure = perform(done, results.remeasure_spec(stores(), manifest))
    name = Runs(done).manifest(manifest.facts.kept_dataset).facts.name
    at = opened(
        "coverage", anchor="toy-anchor", dataset="toy-seed", threshold="0", **{"with": name}
    )
    listed = at.dataframe[0].value
    rare = {*listed["feature"][(listed["badge"] == "certain") & (listed["n_dataset"] > 0)]}
    assert results.still_rare(stores(), manifest, measure) == sorted(rare & {*GAPS})
    n = len(rare & {*GAPS}) or "none"
    sentence = f"Together with toy-seed, {n} of these 4 gaps"
    for page in (shown(done), opened("home", threshold="0")):
        assert sentence in words(page).replace("\\", "")


def test_what_was_gained_unasked_is_listed(done):
    facts = replace(result_of(done).facts, gained_unasked=[4, 5])
    rows, total = results.unasked_rows(stores(), facts, offset=0, limit=10)
    assert total == 2 and {row["feature"] for row in rows} == {4, 5}


def test_nothing_kept_is_said_and_not_exported(done):
    run = pairs_run(done)
    named = tuple(row["pair"] for row in approved(done, run))
    spec = SynthesizeSpec(pairs=run, approved=named, candidates=2, method="unguided")
    perform(done, spec)
    at = shown(done)
    assert metrics(at)["Kept"] == "0" and metrics(at)["Tokens per new gap"] == "–"
    assert "None of 8 texts was kept: 8 were dropped for" in read(at)
    assert "so there is nothing to export." in read(at) and "Ask for more texts" in read(at)
    assert not at.get("download_button")
    assert "Measure what is kept" not in labels(at)


def test_a_writer_that_refuses_everything_is_said_and_nothing_leaves(place, monkeypatch):
    run = pairs_run(place)
    approve(place, run, *GAPS)
    monkeypatch.setattr(PageSteps, "says", staticmethod(lambda _: "I'm sorry, I can't help."))
    named = tuple(row["pair"] for row in approved(place, run))
    perform(place, SynthesizeSpec(pairs=run, approved=named, candidates=2))
    at = shown(place)
    assert metrics(at)["Kept"] == "0" and metrics(at)["Own-words hit rate"] == "0.0%"
    assert "so there is nothing to export" in read(at)
    assert "Gaps that gave nothing: 4 of 4" in words(at)
    assert list(at.dataframe[0].value["feature"]) == [*GAPS]
    assert not at.get("download_button") and not any("Look through" in each for each in links(at))


# --- measured again ---------------------------------------------------------------------------


def test_what_is_kept_is_measured_as_the_anchor_was_and_compared(done):
    at = shown(done)
    ran(button(at, "Measure what is kept").click().run())
    (job,) = [job for job in Queue(done.queue).jobs() if job.step == "measure"]
    manifest = result_of(done)
    anchor = Runs(done).manifest(manifest.facts.anchor).spec
    expected = replace(anchor, dataset=manifest.facts.kept_dataset)
    assert read_spec("measure", job.spec) == expected
    assert "Being measured" in words(ran(at.run()))
    work_off(done)
    at = shown(done)
    assert "Measured again, 4 of 4 rows fire their own gap above the threshold." in (
        at.success[0].value
    )
    found = results.remeasured(stores(), result_of(done), measured(stores()))
    assert found.together.fac == pytest.approx(manifest.facts.fac_after)
    query = links(at)["Compare with the dataset, feature by feature"]
    view = parse_qs(query)
    assert view["before"] == ["toy-seed"] and view["after"][0].startswith("toy-seed two-step")
    assert (view["anchor"], view["threshold"]) == (["toy-anchor"], ["0"])


# --- out --------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_command_line(done, tmp_path):
    manifest, runs = result_of(done), Runs(done)
    for format in ("jsonl", "parquet"):
        out = tmp_path / f"{exports.export_name(manifest)}.{format}"
        found = export(manifest.run, out, runs=runs, format=format)
        assert exports.export_file(stores(), manifest, format, "prompt") == out.read_bytes()
        card = exports.export_file(stores(), manifest, format, "prompt", card=True)
        assert card == found.card.read_bytes()
        assert len([*read_samples(str(out))]) == 4
    at = shown(done)
    names = [each.proto.label for each in at.get("download_button")]
    trainers = ["OpenAI", "LLaMA-Factory", "TRL", "Axolotl"]
    assert names == ["JSONL", "Parquet", *trainers, "Dataset card"]
    for format in ("openai", "llamafactory"):
        packed = exports.export_file(stores(), manifest, format, "prompt")
        assert packed == exports.export_file(stores(), manifest, format, "prompt")
        assert exports.file_name(manifest, format).endswith(f"-{format}.zip")
        inside = ZipFile(BytesIO(packed)).namelist()
        suffixes = {name.rpartition("/")[2].partition(".")[2] for name in inside}
        assert "jsonl" in suffixes and len(inside) == 3


def test_the_folder_is_written_where_it_is_asked_for_and_nothing_else_replaced(done, tmp_path):
    at = shown(done)
    out = tmp_path / "mine" / "kept"
    at.text_input(key=f"folder {result_of(done).run}").set_value(str(out))
    ran(at.run())
    ran(button(at, "Write the folder").click().run())
    assert "4 rows" in at.success[0].value
    assert {path.name for path in out.iterdir()} == {"README.md", "data"}
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    at.text_input(key=f"folder {result_of(done).run}").set_value(str(taken))
    ran(at.run())
    ran(button(at, "Write the folder").click().run())
    assert "holds something else than an export" in words(at)
    assert (taken / "thesis.txt").read_text() == "years of work"


def test_a_profile_offers_its_own_form_first():
    assert forms_of("instruction") == ("prompt", "chat")
    assert forms_of("toxicity") == ("classification", "completion", "chat")


def test_an_export_is_named_after_what_it_is():
    facts = {"name": "my / data", "method": "two-step"}
    about = {"run": "synthetic-0123456789ab", "step": "synthetic", "facts": facts}
    manifest = Manifest.read({**about, "created": "", "files": {}, "inputs": []})
    assert exports.export_name(manifest) == "my-data-two-step-012345"


# --- from elsewhere ---------------------------------------------------------------------------


def test_other_pages_lead_to_how_a_dataset_was_made(done):
    manifest = result_of(done)
    query = f"synthesis={manifest.run}"
    home = opened("home", anchor="toy-anchor", dataset="toy-seed")
    assert links(home)["The last synthesis has a sample for 4 of 4 gaps: see them"] == query
    assert "Look through 4 kept samples" in words(home)
    assert links(home)["Look through them"] == f"kind=sample&{query}"
    at = opened("datasets", open=manifest.facts.kept_dataset)
    assert links(at)["Why each row is there"] == query
    Queue(done.queue).enqueue(results.remeasure_spec(stores(), manifest))
    work_off(done)
    name = Runs(done).manifest(manifest.facts.kept_dataset).facts.name
    at = opened("compare", before="toy-seed", after=name, threshold="0")
    label = next(label for label in links(at) if "was made" in label)
    assert links(at)[label] == query
    together = metrics(at)
    assert together["FAC"] == share(toy.fac_of(8, 10))
    assert (together["Gained"], together["Lost"]) == ("4", "0")
    (picker,) = [each for each in at.selectbox if each.label == "Together with"]
    assert picker.value == "toy-seed"
    alone = metrics(ran(picker.set_value("").run()))
    assert alone["Gained"] == "4" and int(alone["Lost"]) > 0
    at = opened("compare", before="toy-seed", after="toy-anchor")
    assert [each.value for each in at.selectbox if each.label == "Together with"] == [""]
    assert not any("was made" in label for label in links(at))


def test_compare_asks_what_the_synthesis_was_asked_until_somebody_wants_otherwise(done):
    manifest = result_of(done)
    Queue(done.queue).enqueue(results.remeasure_spec(stores(), manifest))
    work_off(done)
    name = Runs(done).manifest(manifest.facts.kept_dataset).facts.name
    at = opened("compare", before="toy-seed", after=name, threshold="7")
    sides = ("--anchor", "toy-anchor", "--dataset", "toy-seed")
    shell = command("coverage", *sides, "--threshold", 0, "--with", name, workspace=done)
    assert metrics(at)["FAC"] == share(manifest.facts.fac_after) == share(shell["fac"])
    assert metrics(at)["FAC"] == metrics(shown(done))["FAC with them"]
    assert metrics(at)["Gained"] == "4"
    assert "Coverage above 0, as the synthesis was asked." in words(at)
    at = ran(button(at, "Use above 7 instead").click().run())
    assert "Coverage above 7." in words(at) and metrics(at)["Gained"] == "0"
    at = ran(button(at, "Ask as the synthesis was").click().run())
    assert metrics(at)["Gained"] == "4"
    at = opened("compare", before="toy-anchor", after=name, anchor="toy-seed")
    at = ran(button(at, "Compare with toy\\-seed against toy\\-anchor").click().run())
    assert (at.query_params["before"], at.query_params["anchor"]) == ("toy-seed", "toy-anchor")
    assert metrics(at)["Gained"] == "4"


def test_compare_opens_on_what_the_newest_synthesis_changed_and_marks_what_was_asked_for(done):
    def sides(at: AppTest) -> list[str]:
        return [each.value for each in at.selectbox if each.label in ("Before", "After")]

    at = opened("compare", threshold="0")
    assert sides(at) == ["toy-seed", "toy-anchor"]
    assert "would gain if it showed all that" in words(at)
    assert "What was synthesized has not been measured yet" in words(at)
    assert "asked" not in at.dataframe[0].value
    manifest = result_of(done)
    Queue(done.queue).enqueue(results.remeasure_spec(stores(), manifest))
    work_off(done)
    name = Runs(done).manifest(manifest.facts.kept_dataset).facts.name
    at = opened("compare", threshold="0")
    assert sides(at) == ["toy-seed", name]
    assert "before and after what was last synthesized for it" in words(at)
    assert metrics(at)["Gained"] == "4"
    (gained,) = [each for each in at.metric if each.label == "Gained"]
    assert gained.delta == "4 asked for"
    assert {*at.dataframe[0].value["asked"]} == {"gap"}
    assert "4 gaps were asked for. Together with toy-seed, none of these 4 gaps is" in words(at)


def test_what_was_made_to_be_added_is_nobodys_next_dataset(done):
    home = opened("home", threshold="0")
    assert metrics(home)["Coverage (FAC)"] == share(toy.fac_of(4, 10))
    assert "Measure toy" not in words(home), "its own page offers that, where it means something"
    Queue(done.queue).enqueue(results.remeasure_spec(stores(), result_of(done)))
    work_off(done)
    assert metrics(opened("home", threshold="0"))["Coverage (FAC)"] == share(toy.fac_of(4, 10)), (
        "of toy-seed, as before"
    )
