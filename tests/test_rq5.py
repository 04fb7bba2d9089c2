"""How filling gaps is done, and controls whose answer is known, on planted rows without a model."""

import json
from hashlib import sha256
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import controls, experiments, labelled_sets
from benchmarks.controls import HELPS, RIGHT, Control, planted, tallies
from fac.config import ExperimentSpec
from fac.experiments import experiment
from fac.experiments.arms import RANDOM, SHUFFLED, cover, lacking
from fac.experiments.effects import Contrast, at_once
from fac.experiments.kinds import rq5
from fac.experiments.trials import beginning
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.peaks import highest
from fac.store.runs import Runs
from tests.test_experiments import DOORS, draw_of, pool_of, quiet, rows_of
from tests.toy import label_samples, toy_workspace


def test_of_several_peaks_of_a_cell_the_highest_counts():
    row, feature = np.array([1, 0, 1, 1]), np.array([2, 0, 2, 1])
    peaks = highest(row, feature, np.array([3, 1, 5, 2], np.float32), 2, 3)
    assert peaks.toarray().tolist() == [[1, 0, 0], [0, 2, 5]]
    none = np.zeros(0, int)
    assert highest(none, none, np.zeros(0, np.float32), 2, 3).nnz == 0


def test_as_many_rows_of_a_gap_are_taken_as_are_asked_for():
    pool = pool_of([[0], [1], [1], [2], [0], [0]])
    draw = draw_of(pool, [0], 3)
    gaps = lacking(pool.rows, draw)
    assert gaps.tolist() == [False, True, True]
    assert np.flatnonzero(cover(pool, pool.rows, draw, 2 * gaps)).tolist() == [1, 2, 3]
    only = cover(pool, pool.rows, draw._replace(budget=1), np.array([0, 0, 1]))
    assert np.flatnonzero(only).tolist() == [3]


def test_parts_of_the_gaps_go_by_how_often_they_fire():
    pool = pool_of([[0], *[[f] for f in range(1, 11) for _ in range(f)]])
    draw = draw_of(pool, [0], 5)
    parts = dict(rq5.parts(pool, draw, lacking(pool.rows, draw)))
    assert len(parts) == 9
    chosen = {name: np.flatnonzero(some).tolist() for name, some in parts.items()}
    assert chosen["30% of the gaps, the most frequent"] == [8, 9, 10]
    assert chosen["30% of the gaps, the rarest"] == [1, 2, 3]
    assert [len(chosen[f"{share}% of the gaps, at random"]) for share in (30, 60, 90)] == [3, 6, 9]


def test_tokens_in_proportion_need_rows_to_choose_from():
    assert rq5.scaled(20, 300) == [2, 5]
    assert rq5.scaled(50, 300) == [2]
    assert rq5.scaled(100, 300) == []


def test_p_allows_for_all_that_is_asked_at_once():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 1000))
    alone = Contrast({"difference": 2.2}, 2.2 + noise[0])
    (p,) = at_once([alone])
    assert p == pytest.approx(0.028, abs=0.02)
    many = at_once([alone, *(Contrast({"difference": 0.0}, each) for each in noise[1:])])
    assert many[0] == pytest.approx(1 - (1 - 0.028) ** 40, abs=0.12)
    # Forty times the same question is asked once.
    again = at_once([Contrast({"difference": 2.2}, 2.2 + noise[0])] * 40)
    assert again == pytest.approx([p] * 40)
    assert at_once([]) == [] and at_once([Contrast({"difference": 0.0}, np.zeros(9))]) == [1]


def test_every_setting_adds_rows_it_may_add_at_its_tokens():
    data = planted(0, rare=True)
    draw = beginning(data, 20, 0)
    spec = ExperimentSpec(name="rq5", measure="m", label="1", threshold=0.5)
    every = [*rq5.choices(spec, rq5.Sweep(data, {"above 2": (2.0, data.pool)}), draw)]
    for choice in every:
        assert not (choice.added & ~draw.free).any()
        times = 1
        if choice.varied == rq5.SCALED:
            times = next((n for n in rq5.SAMPLES if str(n) in choice.arm), 1)
        spent = int(data.pool.tokens[choice.added].sum())
        assert abs(spent - times * draw.budget) <= 25, choice.arm
    assert sum(choice.varied == rq5.SCALED for choice in every) == 6


def test_the_experiment_says_which_settings_matter(tmp_path):
    chats, names = rows_of(90)
    place = toy_workspace(tmp_path, samples={"comments": chats})
    runs = Runs(place)
    label_samples(runs, "comments", names)
    measure = runs.resolve("measure", "comments")
    spec = ExperimentSpec(
        name="rq5", measure=measure, label="1", threshold=0.5, labels=(6,), draws=2
    )
    run = experiment(spec, runs=runs, doors=DOORS, progress=quiet)
    result = finding(open_stores(place, remember=False), run)
    outcomes = {row["outcome"] for row in result.rows}
    assert len(outcomes) == 2 * len(rq5.GIVEN)
    asked = [row for row in result.rows if row["p"] is not None]
    assert all(0 < row["p"] <= 1 for row in asked)
    arms = {row["arm"] for row in result.rows if row["outcome"].endswith(rq5.THRESHOLD)}
    assert {"above 0", "the threshold as given", RANDOM} <= arms
    given = next(row for row in result.rows if row["arm"] == "2 rows per gap")
    assert {"des", "gain", "gaps", "threshold", "fac", "rows"} <= {*given["figures"]}
    assert "as given" in result.conclusion and "from random features" in result.conclusion
    assert "cannot be seen" in result.controls and "maxT" in result.note
    assert "DES:" in result.note


@pytest.mark.parametrize(
    ("beside_chance", "beside_others", "words"),
    [
        ((0.1, 0.2), (0.1, 0.2), "filling gaps helps"),
        ((0.1, 0.2), (-0.1, 0.2), "but no more than rows chosen by the features of others"),
        ((-0.1, 0.2), (0.1, 0.2), "cannot be told"),
        ((-0.2, -0.1), (0.1, 0.2), "does harm"),
    ],
)
def test_the_first_sentence_says_what_the_setting_as_given_does(
    beside_chance, beside_others, words
):
    given, place = rq5.GIVEN[rq5.THRESHOLD], f"a head; {rq5.THRESHOLD}"

    def row(arm, against, ends, p=None):
        about = {"outcome": place, "size": 20, "arm": arm, "against": against, "p": p}
        return {**about, "difference": sum(ends) / 2, "low": ends[0], "high": ends[1]}

    rows = [
        row(given, RANDOM, beside_chance, 0.5),
        row(given, SHUFFLED, beside_others),
        row("above 0", RANDOM, (-0.1, 0.1), 0.9),
        row("above 0", given, (-0.1, 0.1), 0.9),
    ]
    said = rq5._conclusion(rows, "a head")
    assert said.startswith("A head: as given, ") and words in said.split(" (")[0]
    assert "None of 2 settings tried differs from random rows" in said


# --- controls -------------------------------------------------------------------------------------


def test_planted_controls_are_as_they_should_be():
    rows = [
        *controls.compared(
            HELPS, planted(1, rare=True), 1, 20, 6, (RANDOM, controls.FILLING, controls.SHUFFLED)
        ),
        *controls.compared(
            RIGHT, planted(1, rare=False), 1, 20, 6, (RANDOM, controls.NULL, controls.ALL)
        ),
    ]
    kinds = tallies(rows)
    (helps,) = (
        each for each in kinds[HELPS] if each.head == "raw activations" and "random" in each.control
    )
    assert helps.seen == 1 and helps.difference > 0.03
    null = next(each for each in kinds["null"] if each.head == "raw activations")
    assert null.seen == 0
    more = next(each for each in kinds["positive"] if "all of the pool" in each.control)
    assert more.seen == 1
    assert any("smallest effect" in line for line in controls.lines(kinds))


def test_the_command_prints_controls_of_a_few_repeats(capsys, tmp_path):
    out = tmp_path / "controls.json"
    about = ["--repeats", "1", "--draws", "2", "--labels", "8", "--workers", "1"]
    controls.main([*about, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "differs, though it should not (at most 0)" in printed
    answer = json.loads(out.read_text())
    assert {*answer} == {controls.PLANTED}
    assert {*answer[controls.PLANTED]} == {
        "null",
        "positive",
        controls.GRADED,
        HELPS,
        controls.IDLE,
    }
    # The page shows what was printed, below the name of the rows; other rows stay.
    assert printed.strip() in "\n".join(controls.shown(answer))
    out.write_text(json.dumps({"mine": answer[controls.PLANTED]}))
    controls.main([*about, "--out", str(out)])
    assert [*controls.read(out)] == ["mine", controls.PLANTED]
    assert controls.read(out)["mine"] == controls.read(out)[controls.PLANTED]


def test_the_verdict_counts_false_and_missed_ones():
    good = Control("null", "raw", 3, 20, 0.0, 0.05)
    seen = Control("more", "raw", 20, 20, 0.1, 0.05)
    kinds = {"null": [good], "positive": [seen], HELPS: [], controls.IDLE: []}
    assert controls.verdict(kinds) == "Every control is as it should be."
    kinds["null"] = [good._replace(seen=4)]
    assert "null (raw, 4 of 20)" in controls.verdict(kinds)
    kinds = {"null": [good], "positive": [seen._replace(seen=9)], HELPS: [], controls.IDLE: []}
    assert "more (raw, 9 of 20)" in controls.verdict(kinds)
    assert controls.most(20) == 3
    assert controls.smallest(0.0196) == pytest.approx(0.028)


# --- the page of claims ---------------------------------------------------------------------------


def test_the_page_shows_what_was_measured_and_nothing_else():
    text = experiments.PAGE.read_text("utf-8")
    assert experiments.page(text) == text, "run python -m benchmarks.experiments --page"


def test_what_is_not_measured_says_so_and_what_is_stands_with_its_interval():
    empty = experiments.table({}, None)
    kinds = [claim for claim in experiments.CLAIMS if claim.kind]
    assert empty.count(f"*{experiments.UNMEASURED}*") == len(kinds) + 1
    row = {"outcome": "raw activations", "size": 20, "arm": controls.FILLING, "against": RANDOM}
    row |= {"difference": 0.061, "low": 0.021, "high": 0.101, "p": None}
    helps = experiments.CLAIMS[0]
    about = {
        "dataset": "mine",
        "label": "1",
        "threshold": 2.5,
        "draws": 4,
        "n_rows": 90,
        "n_positive": 40,
        "n_test": 36,
    }
    answer = {
        "claims": {helps.name: experiments.chosen(helps, [row, row | {"arm": "other"}])},
        "says": {"rq1": {"about": about, "conclusion": "It helps.", "controls": "All were seen."}},
        "synthetic": [],
    }
    shown = experiments.table(answer, None)
    assert "raw activations, 20: +0.061 (+0.021 to +0.101) | *held* |" in shown
    assert "**RQ1** on mine: 90 rows, 40 of them '1', 36 test;" in shown
    assert "It helps. *Controls*: All were seen." in shown


def test_the_settings_that_claims_name_exist():
    kinds = {claim.varied: claim for claim in experiments.CLAIMS if claim.kind == "rq5"}
    assert set(kinds) <= set(rq5.GIVEN)
    data = planted(0, rare=True)
    above = {f"above {q:.0%} of peaks" if q else "above 0": (q, data.pool) for q in rq5.QUANTILES}
    spec = ExperimentSpec(name="rq5", measure="m", label="1", threshold=0.5)
    draw = beginning(data, 20, 0)
    arms = {(c.varied, c.arm) for c in rq5.choices(spec, rq5.Sweep(data, above), draw)}
    for claim in experiments.CLAIMS:
        if claim.kind == "rq5":
            assert {(claim.varied, claim.arm), (claim.varied, claim.against)} <= arms


# --- labelled sets --------------------------------------------------------------------------------


def wheel_of(folder):
    """A small wheel such as the real one."""
    rows = 'prompt,prompt_len,target\n"Hello, you",10,0\nGo away,7,1\n'
    packed = pa.Codec("zstd").compress(rows.encode(), asbytes=True)
    path = folder / "sae_probes-0.4.2-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{labelled_sets.FOLDER}96_spam_is.csv.zst", packed)
        archive.writestr("sae_probes-0.4.2.dist-info/licenses/LICENSE", "MIT License\n")
    return path


def test_a_labelled_set_is_written_for_ingest_and_its_licence_shown(tmp_path, capsys):
    wheel, out = wheel_of(tmp_path), tmp_path / "spam.jsonl"
    digest = sha256(wheel.read_bytes()).hexdigest()
    labelled_sets.main(["96_spam_is", "--wheel", str(wheel), "--out", str(out)], digest)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{"text": "Hello, you", "label": "0"}, {"text": "Go away", "label": "1"}]
    printed = capsys.readouterr().out
    assert "MIT License" in printed and "CC-BY-NC" in printed and "2 rows" in printed
    labelled_sets.main(["--list", "--wheel", str(wheel)], digest)
    assert capsys.readouterr().out == "96_spam_is\n"


def test_another_wheel_and_another_set_are_a_sentence(tmp_path):
    wheel = wheel_of(tmp_path)
    about = ["--wheel", str(wheel), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit, match="it is not used"):
        labelled_sets.main(["96_spam_is", *about])
    with pytest.raises(SystemExit, match="There is no set 'ham'"):
        labelled_sets.main(["ham", *about], sha256(wheel.read_bytes()).hexdigest())
    assert not (tmp_path / "out.jsonl").exists()
