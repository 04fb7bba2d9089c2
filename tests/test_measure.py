"""measure: texts in, one immutable run out; restarts and batch sizes change nothing."""

import json

import numpy as np
import pytest

from fac import schema
from fac.config import IngestSpec, MeasureSpec, Workspace, digest
from fac.errors import Cancelled, InputError
from fac.manifest import DatasetFacts
from fac.measure import measure, ordering, parts, screen, tables
from fac.measure.parts import SPREAD, SPREAD_POOL, TOP, AdmissionThresholds, PartTask, read_part
from fac.store.runs import Runs, write_table
from tests.lexicon import LexiconEncoder

WORDS = ("tea", "coffee", "sugar", "milk")


def chat(user, assistant=None):
    messages = [{"role": "user", "content": user}]
    return messages + ([{"role": "assistant", "content": assistant}] if assistant else [])


def dataset(runs, chats, name="drinks", first_line=None):
    spec = IngestSpec(name=name, source="-")
    run_id = spec.run_id(str(chats))
    import pyarrow as pa

    table = pa.table(
        {
            "sample_id": [f"{i:016x}" for i in range(len(chats))],
            "messages": chats,
            "label": [None] * len(chats),
            "meta": [
                "{}" if first_line is None else json.dumps({"line": first_line + i})
                for i in range(len(chats))
            ],
        },
        schema=schema.SAMPLES,
    )
    write_table(runs.scratch(run_id) / "samples.parquet", table, schema.SAMPLES)
    facts = DatasetFacts(name=name, n_samples=len(chats))
    runs.publish(run_id, spec=spec, inputs=[], facts=facts, seconds=0.0)
    return run_id


@pytest.fixture
def runs(tmp_path):
    return Runs(Workspace(tmp_path))


def quiet(done, total, note=""):
    assert 0 <= done <= total


def measured(runs, chats, encoder=None, **spec):
    encoder = encoder or LexiconEncoder(*WORDS)
    source = dataset(runs, chats)
    spec = MeasureSpec(dataset=source, **spec)
    return measure(spec, runs=runs, encoder=encoder, sae_run="sae-0", progress=quiet)


def rows(runs, run_id, name="activations"):
    return runs.table(run_id, name).to_pylist()


def test_the_peak_is_the_strongest_token_of_the_role_and_counts_its_tokens(runs):
    run = measured(runs, [chat("tea and tea!! and tea", "milk for tea!")])
    peaks = [
        (r["role"], r["feature"], r["peak"], r["position"], r["n_tokens"]) for r in rows(runs, run)
    ]
    assert peaks == [
        ("user", 0, 2.0, 3, 3),
        ("assistant", 0, 1.5, 9, 1),
        ("assistant", 3, 1.0, 7, 1),
    ]


def test_only_the_asked_role_is_pooled(runs):
    run = measured(runs, [chat("tea", "coffee")], role="assistant")
    assert [(r["role"], r["feature"]) for r in rows(runs, run)] == [("assistant", 1)]


def test_peaks_at_or_below_the_floor_are_not_stored(runs):
    run = measured(runs, [chat("tea coffee! sugar!!")], floor=1.0)
    assert [r["feature"] for r in rows(runs, run)] == [1, 2]


def test_rows_are_sorted_by_feature_then_strength(runs):
    run = measured(runs, [chat("tea"), chat("coffee tea!"), chat("tea!!"), chat("tea")])
    keys = [(r["feature"], -r["peak"], r["sample"]) for r in rows(runs, run)]
    assert keys == sorted(keys)


def test_a_span_shows_every_token_and_its_activation_within_the_message(runs):
    run = measured(runs, [chat("I like tea! with tea", "good tea")])
    spans = rows(runs, run, "spans")
    best = spans[0]
    assert (best["kind"], best["rank"], best["role"], best["peak"]) == ("top", 0, "user", 1.5)
    assert best["tokens"] == [" I", " like", " tea!", " with", " tea"]
    assert best["activations"] == [0, 0, 1.5, 0, 1]
    assert best["peak_index"] == 2
    assert spans[1]["tokens"] == [" good", " tea"]


def test_quantiles_say_which_share_of_the_rows_is_weaker(runs):
    run = measured(runs, [chat("tea" + "!" * i) for i in range(5)])
    top = [s for s in rows(runs, run, "spans") if s["kind"] == "top"]
    assert [s["peak"] for s in top] == [3, 2.5, 2, 1.5, 1]
    assert np.allclose([s["quantile"] for s in top], [0.8, 0.6, 0.4, 0.2, 0.0])


def test_the_spread_reaches_below_the_strongest(runs):
    run = measured(runs, [chat("tea" + "!" * (i % 40)) for i in range(200)])
    spans = rows(runs, run, "spans")
    spread = [s for s in spans if s["kind"] == "spread"]
    assert len([s for s in spans if s["kind"] == "top"]) == TOP
    assert 5 <= len(spread) <= SPREAD
    assert min(s["quantile"] for s in spread) < 0.3
    assert [s["peak"] for s in spread] == sorted((s["peak"] for s in spread), reverse=True)
    assert [s["rank"] for s in spread] == list(range(len(spread)))


def test_near_misses_name_the_closest_token_of_a_feature_that_never_fires(runs):
    run = measured(runs, [chat("a cocoa"), chat("the coffin"), chat("water")])
    near = [r for r in rows(runs, run, "near") if r["feature"] == WORDS.index("coffee")]
    assert [r["sample"] for r in near] == [1, 0, 2]
    assert near[0]["tokens"][near[0]["peak_index"]] == " coffin"
    assert near[0]["pre"] == pytest.approx(4 / 6)
    assert near[0]["role"] == "user"


def test_token_counts_are_per_sample_and_scaffold_is_not_content(runs):
    run = measured(runs, [chat("one two", "three"), chat("four")])
    assert rows(runs, run, "sample_tokens") == [
        {"sample": 0, "n_tokens": 5, "n_content": 3, "n_cut": 0},
        {"sample": 1, "n_tokens": 2, "n_content": 1, "n_cut": 0},
    ]
    facts = runs.manifest(run).facts
    assert (facts.tokens, facts.content_tokens) == (7, 4)
    assert facts.content_tokens_by_role == {"system": 0, "user": 3, "assistant": 1}


def many(n=37):
    words = [*WORDS, "water", "and", "with"]
    rng = np.random.default_rng(7)
    return [
        chat(" ".join(str(w) + "!" * int(rng.integers(3)) for w in rng.choice(words, 6)), "tea")
        for _ in range(n)
    ]


def bytes_of(runs, run_id):
    return {p.name: p.read_bytes() for p in runs.path(run_id).glob("*.parquet")}


def test_batch_size_changes_nothing(runs, tmp_path):
    other = Runs(Workspace(tmp_path / "other"))
    small = measured(runs, many(), LexiconEncoder(*WORDS, rows=1))
    large = measured(other, many(), LexiconEncoder(*WORDS, rows=16))
    assert small == large
    assert bytes_of(runs, small) == bytes_of(other, large)


@pytest.mark.parametrize("stop_after", [0, 1, 9, 20, 36])
def test_a_stopped_measure_continues_and_ends_in_the_same_bytes(
    runs, tmp_path, monkeypatch, stop_after
):
    monkeypatch.setattr(tables, "PART", 8)
    monkeypatch.setattr(tables, "MERGE_ROWS", 40)
    other = Runs(Workspace(tmp_path / "other"))
    whole = measured(other, many())

    source = dataset(runs, many())
    spec = MeasureSpec(dataset=source)

    def impatient(done, total, note=""):
        if done >= stop_after:
            raise Cancelled("asked to stop")

    first = LexiconEncoder(*WORDS)
    with pytest.raises(Cancelled):
        measure(spec, runs=runs, encoder=first, sae_run="sae-0", progress=impatient)
    assert not runs.find(spec.run_id(source, first.identity))

    second = LexiconEncoder(*WORDS)
    run = measure(spec, runs=runs, encoder=second, sae_run="sae-0", progress=quiet)
    assert second.read_samples == len(many()) - stop_after // 8 * 8
    assert bytes_of(runs, run) == bytes_of(other, whole)


class Backwards(LexiconEncoder):
    """Reads the last samples first, as an encoder may that sorts by length."""

    def read(self, chats, *rest):
        return reversed([*super().read(chats, *rest)])


def test_neither_parts_nor_the_order_of_batches_change_anything(runs, tmp_path, monkeypatch):
    whole = measured(runs, many(100))
    monkeypatch.setattr(tables, "PART", 7)
    monkeypatch.setattr(tables, "MERGE_ROWS", 40)
    monkeypatch.setattr(parts, "HELD_ROWS", 5)
    other = Runs(Workspace(tmp_path / "other"))
    assert measured(other, many(100), Backwards(*WORDS)) == whole
    assert bytes_of(other, whole) == bytes_of(runs, whole)


def test_of_equal_peaks_the_first_samples_are_shown(runs):
    run = measured(runs, [chat("tea")] * 3 + [chat("tea!")] + [chat("tea")] * 40, Backwards(*WORDS))
    top = [s["sample"] for s in rows(runs, run, "spans") if s["kind"] == "top"]
    assert top == [3, 0, 1, 2, *range(4, 10)]


def test_the_strongest_and_the_drawn_rows_are_those_of_all_rows(runs, monkeypatch):
    monkeypatch.setattr(tables, "PART", 16)
    run = measured(runs, many(150))
    spans, every = rows(runs, run, "spans"), runs.table(run, "activations").to_pylist()
    for feature in range(len(WORDS)):
        ranked = [row for row in every if row["feature"] == feature]  # sorted by strength already
        spans_of_feature = [s for s in spans if s["feature"] == feature]
        rank = {(row["sample"], row["role"]): i for i, row in enumerate(ranked)}
        top = [(row["sample"], row["role"]) for row in ranked[:TOP]]
        assert [(s["sample"], s["role"]) for s in spans_of_feature if s["kind"] == "top"] == top
        samples, roles = (np.array([row[k] for row in ranked]) for k in ("sample", "role"))
        codes = np.array([schema.ROLES.index(role) for role in roles], np.int8)
        drawn = ordering.draw_priority(samples, codes, np.full(len(ranked), feature))
        pool = {*np.argsort(drawn)[:SPREAD_POOL].tolist()}
        spread = [rank[s["sample"], s["role"]] for s in spans_of_feature if s["kind"] == "spread"]
        assert {*spread} <= pool - {*range(TOP)}
        for s in spans_of_feature:
            weaker = len(ranked) - 1 - rank[s["sample"], s["role"]]
            assert s["quantile"] == pytest.approx(weaker / len(ranked))


def shuffled(encoder, seed=0, stop=None):
    """An executor that has all parts at once and gives them in another order."""

    def read(tasks, tell):
        waiting = [*tasks]
        for count, i in enumerate(np.random.default_rng(seed).permutation(len(waiting)).tolist()):
            if count == stop:
                raise Cancelled("asked to stop")
            yield waiting[i].number, read_part(encoder, waiting[i], lambda *_: None)

    return read


def test_parts_may_come_in_any_order_and_none_is_read_twice(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PART", 8)
    other = Runs(Workspace(tmp_path / "other"))
    whole = measured(other, many(100))

    how = {"runs": runs, "sae_run": "sae-0", "progress": quiet}
    spec = MeasureSpec(dataset=dataset(runs, many(100)))
    first, second = LexiconEncoder(*WORDS), LexiconEncoder(*WORDS)
    with pytest.raises(Cancelled):
        measure(spec, encoder=first, executor=shuffled(first, stop=6), **how)
    # A part that was being written when the process was killed counts for nothing.
    run_id = spec.run_id(spec.dataset, first.identity)
    missing = next(i for i in range(13) if not (runs.scratch(run_id) / f"_part-{i:06d}").exists())
    (runs.scratch(run_id) / f"_part-{missing:06d}.new").mkdir()
    (runs.scratch(run_id) / f"_part-{missing:06d}.new" / "near.parquet").write_bytes(b"PAR1")
    run = measure(spec, encoder=second, executor=shuffled(second, seed=1), **how)
    assert first.read_samples + second.read_samples == 100
    assert bytes_of(runs, run) == bytes_of(other, whole)
    assert not [*runs.path(run).glob("_*")]


def test_rows_below_the_admission_thresholds_are_not_sent():
    encoder, chats = LexiconEncoder(*WORDS), many(40)
    task = PartTask(0, 0, chats, schema.ROLES, 0.0, AdmissionThresholds.none(len(WORDS)))
    open_to_all = read_part(encoder, task, lambda *_: None)
    high = AdmissionThresholds(
        *(np.full_like(array, edge) for array, edge in zip(task.admission, (9, 0, 9), strict=True))
    )
    closed = read_part(encoder, task._replace(admission=high), lambda *_: None)
    assert len(open_to_all.examples) and len(open_to_all.near)
    assert (len(closed.examples), len(closed.near)) == (0, 0)
    assert closed.activations.equals(open_to_all.activations)


def test_asking_again_computes_nothing(runs):
    first = measured(runs, many())
    encoder = LexiconEncoder(*WORDS)
    assert measured(runs, many(), encoder) == first
    assert encoder.read_samples == 0


def test_another_encoder_is_another_run(runs):
    assert measured(runs, many()) != measured(runs, many(), LexiconEncoder(*WORDS[:3]))


# --- samples that a chat template refuses ---------------------------------------------------------

MIXED = [
    chat("refuse tea", "tea"),
    chat("shorten tea!! please", "sugar"),
    chat("refuse coffee"),
    chat("coffee coffee!", "milk and tea"),
    chat("milk", "coff"),
    chat("refuse milk milk!!!!!!"),
]
READ = [1, 3, 4]


def screened(runs, chats, first_line=None, **spec):
    encoder, source = LexiconEncoder(*WORDS), dataset(runs, chats, first_line=first_line)
    spec = MeasureSpec(dataset=source, **spec)
    how = {"runs": runs, "progress": quiet}
    found = screen(spec, check=encoder.check, **how)
    return measure(spec, encoder=encoder, sae_run="sae-0", screened=found, **how)


def renumbered(table):
    return [{**row, "sample": READ[row["sample"]]} for row in table]


@pytest.mark.parametrize("part", [1, 2, 1024])
def test_a_sample_that_is_left_out_shows_nothing_and_all_others_keep_their_number(
    runs, tmp_path, monkeypatch, part
):
    monkeypatch.setattr(tables, "PART", part)
    run = screened(runs, MIXED, on_bad="skip")
    alone = Runs(Workspace(tmp_path / "alone"))
    other = screened(alone, [MIXED[i] for i in READ], on_bad="skip")
    for name in ("activations", "spans", "near"):
        assert rows(runs, run, name) == renumbered(rows(alone, other, name))
    nothing = {"n_tokens": 0, "n_content": 0, "n_cut": 0}
    read = renumbered(rows(alone, other, "sample_tokens"))
    assert rows(runs, run, "sample_tokens") == sorted(
        [*read, *({"sample": i, **nothing} for i in (0, 2, 5))], key=lambda row: row["sample"]
    )
    facts, those = runs.manifest(run).facts, alone.manifest(other).facts
    assert (facts.n_samples, facts.n_rejected, facts.n_shortened, facts.n_read) == (6, 3, 1, 3)
    assert (facts.n_empty, facts.tokens, facts.features_fired) == (
        0,
        those.tokens,
        those.features_fired,
    )
    assert (those.n_rejected, those.n_shortened) == (0, 1)
    assert not (alone.path(other) / "rejected.parquet").exists()


def test_samples_that_are_left_out_are_listed_by_their_line(runs):
    run = screened(runs, MIXED, first_line=3, on_bad="skip")
    assert rows(runs, run, "rejected") == [
        {"sample": sample, "line": 3 + sample, "reason": "The template refuses."}
        for sample in (0, 2, 5)
    ]


def test_the_first_sample_that_is_refused_stops_unless_they_are_skipped(runs):
    with pytest.raises(InputError) as stopped:
        screened(runs, MIXED[1:], first_line=5)
    assert str(stopped.value) == (
        "Line 6 of drinks cannot be measured: the template refuses; correct it, or give --on-bad "
        "skip to leave such samples out and have them listed."
    )
    with pytest.raises(InputError, match="Sample 3 of drinks cannot be measured"):
        screened(runs, MIXED[3:])
    assert not runs.list("measure")


def test_nothing_that_can_be_read_is_one_sentence(runs):
    with pytest.raises(InputError, match="None of the 2 samples of drinks.*Line 1: The template"):
        screened(runs, [MIXED[0], MIXED[2]], first_line=1, on_bad="skip")


def test_stopping_at_refused_samples_is_no_part_of_a_runs_name():
    """Runs were made before there was a choice."""
    first, second = MeasureSpec(dataset="a"), MeasureSpec(dataset="a", on_bad="skip")
    before = {key: value for key, value in first.as_json().items() if key != "on_bad"}
    named = f"measure-{digest(schema.SCHEMA_VERSION, 'measure', before, ('x',))}"
    assert first.run_id("x") == named != second.run_id("x")
