"""fac.questions.gaps: evidence of the toy's gaps by eye, pages of them, and random data."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fac import coverage as formulas
from fac.config import Workspace
from fac.errors import InputError
from fac.questions import gaps
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.questions.gaps import COLUMNS, GapColumn, GapList, gap_page, orders, shown_columns, sorts
from fac.questions.relevance import Relevance
from fac.schema import EVERY_ROLE, ROLES
from fac.store import open_stores
from fac.store.cache import build
from fac.ui.tables import column_config
from tests.test_cache import N_FEATURES, N_SAMPLES, firings
from tests.toy import WORDS, publish_activations, toy_workspace

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]
SIZES = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Those of the toy workspace, whose anchor is explained and judged."""
    opened = open_stores(
        toy_workspace(tmp_path_factory.mktemp("toy"), explained=True), remember=False
    )
    yield opened
    opened.cache.close()


@pytest.fixture(scope="module")
def toy(stores):
    """(anchor, seed)."""
    return tuple(stores.runs.resolve("measure", name) for name in ("toy-anchor", "toy-seed"))


@pytest.fixture(scope="module")
def page(stores, toy):
    """Asks for the gaps of the toy seed over all features, without explanations by default."""

    def ask(*, threshold=0.0, explained=(), offset=0, limit=50, **listing):
        return gap_page(
            stores,
            Comparison(*toy, threshold),
            GapList(**listing),
            explain_runs=explained,
            offset=offset,
            limit=limit,
        )

    return ask


def test_gaps_come_with_their_evidence(stores, toy, page):
    rows, total = page()
    assert total == 6 and [row["feature"] for row in rows] == MISSING
    by_word = {WORDS[row["feature"]]: row for row in rows}
    there, here = (stores.cache.summary(run)["content_tokens"] for run in toy)
    ratio = here / there
    loop = by_word["loop"]
    assert loop["label"] == "loop!" and loop["promotes"] == ["loops", "Loop"]
    assert (loop["n_anchor"], loop["n_dataset"], loop["anchor_peak"]) == (6, 0, 1.5)
    assert loop["expected"] == pytest.approx(6 * ratio)
    assert loop["chance"] == pytest.approx(math.exp(-6 * ratio))
    # "trailing" shares four of five letters with "train", and the SAE fires from 0.8 on.
    assert by_word["train"]["near"] == pytest.approx(1.0)
    assert by_word["train"]["badge"] == "borderline"
    assert {by_word[w]["badge"] for w in ("python", "loop", "river")} == {"robust"}


def test_a_threshold_above_the_saes_own_is_what_must_be_reached(page):
    rows, _ = page(threshold=1.0)
    assert [WORDS[row["feature"]] for row in rows] == ["loop", "train"]
    assert rows[1]["near"] == pytest.approx(0.8)
    assert rows[1]["badge"] == "robust"
    rows, _ = page(threshold=1.4)
    assert {row["badge"] for row in rows} == {"artefact"}


def test_one_roles_gaps_use_that_roles_counts_peaks_and_tokens(stores, toy):
    rows, total = gap_page(stores, Comparison(*toy, role="user"))
    assert total == 3 and {WORDS[r["feature"]] for r in rows} == {"python", "function", "train"}
    assert {row["anchor_peak"] for row in rows} == {1.0}
    there, here = (stores.cache.summary(run)["content_tokens_by_role"]["user"] for run in toy)
    assert {row["expected"] for row in rows} == {6 * here / there}


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", sorts())
def test_gaps_sort_by_any_column_with_equals_by_number_and_missing_last(
    stores, toy, page, sort, descending
):
    by_model = explain_runs(stores.runs, toy[0])[:1]
    rows, _ = page(sort=sort, descending=descending, explained=by_model)
    by_feature = sorted(rows, key=lambda row: row["feature"])
    with_value = [row for row in by_feature if row[sort] is not None]
    missing = [row for row in by_feature if row[sort] is None]
    assert rows == [*sorted(with_value, key=lambda row: row[sort], reverse=descending), *missing]
    assert len(missing) == (sort == "score")  # mountain, whose answers could not be read


def test_pages_of_gaps_put_together_are_all_gaps(page):
    whole, total = page()
    assert sum((page(offset=o, limit=4)[0] for o in (0, 4, 8)), []) == whole
    assert page(limit=0) == ([], total)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("RIVER", ["river"]),
        ("mountains", ["mountain"]),
        ("#3", ["python"]),
        ("3", ["python"]),
        ("#12", []),
        ("#loop", []),
        ("%", []),
        (".*", []),
        ("\\", []),
        (" loop! ", ["loop"]),
        ("speak of", []),
    ],
)
def test_gaps_are_found_by_label_promoted_token_or_number(search, words, page):
    rows, total = page(search=search)
    assert [WORDS[row["feature"]] for row in rows] == words and total == len(words)


def test_gaps_are_narrowed_to_a_badge(page):
    rows, total = page(badge="borderline")
    assert [WORDS[row["feature"]] for row in rows] == ["train"] and total == 1
    assert page(badge="robust")[1] == 5
    assert page(badge="robust", search="train") == ([], 0)


@pytest.mark.parametrize("bad", [{"sort": "x"}, {"badge": "x"}, {"offset": -1}, {"limit": -1}])
def test_a_gap_page_that_cannot_be_is_refused(bad, page):
    with pytest.raises(InputError):
        page(**bad)


def test_gaps_come_with_the_explanation_that_is_preferred(stores, toy, page):
    explained = explain_runs(stores.runs, toy[0])
    by_word = {WORDS[row["feature"]]: row for row in page(explained=explained)[0]}
    python = by_word["python"]
    assert (python["explanation"], python["explainer"]) == ("People speak of a python.", "llm")
    assert (python["score"], python["score_kind"]) == (0.8, "detection")
    assert by_word["mountain"]["score"] is None
    plain = {row["feature"]: row for row in page()[0]}
    columns = ("explanation", "explainer", "score", "score_kind")
    assert {row[name] for row in plain.values() for name in columns} == {None}
    without = [{**row, **dict.fromkeys(columns)} for row in by_word.values()]
    assert without == [*plain.values()]


@pytest.mark.parametrize(
    ("search", "words"),
    [("SPEAK OF A P", ["python"]), ("word", []), ("%", []), ("#3", ["python"])],
)
def test_gaps_are_found_by_the_explanation_that_is_shown(stores, toy, page, search, words):
    explained = explain_runs(stores.runs, toy[0])
    rows, total = page(explained=explained, search=search)
    assert [WORDS[row["feature"]] for row in rows] == words and total == len(words)


def test_where_no_explanations_are_named_those_that_can_be_shown_are_taken(stores, toy):
    rows, _ = gap_page(stores, Comparison(*toy))
    assert {row["explainer"] for row in rows} == {"llm"}, "preferred to tokens"


# ---- columns ------------------------------------------------------------------------------------


def test_a_column_without_a_title_is_refused_in_words():
    with pytest.raises(InputError, match="has a name and a title"):
        GapColumn("n_gold", "")


def test_a_table_names_the_column_that_nobody_described():
    with pytest.raises(InputError, match="how the column n_gold looks: give it a title"):
        column_config(["feature", "n_gold"])


def test_a_new_column_is_one_entry(stores, toy, monkeypatch):
    """It is measured, listed, sorted by, offered and shown by what its entry says."""
    extra = GapColumn(
        "doubled", "Twice", lambda of: of.n_anchor * 2, position=45, order="Most, twice"
    )
    monkeypatch.setattr(gaps, "COLUMNS", (*COLUMNS, extra))
    rows, _ = gap_page(stores, Comparison(*toy), GapList(sort="doubled"))
    assert [row["doubled"] for row in rows] == [2 * row["n_anchor"] for row in rows]
    assert "doubled" in sorts() and orders()["doubled"].order == "Most, twice"
    assert shown_columns(explained=False)[2:4] == ["n_anchor", "doubled"]


def test_lists_of_gaps_look_as_they_did():
    assert shown_columns(explained=True) == [
        *("feature", "name", "n_anchor", "badge", "score"),
        *("expected", "chance", "near"),
    ]
    assert shown_columns(explained=False) == [
        *("feature", "name", "n_anchor", "badge", "expected", "chance", "near"),
    ]
    assert [*orders()] == [
        *("n_anchor", "expected", "chance", "near", "anchor_peak", "score", "feature"),
    ]
    assert [name for name, column in orders().items() if column.ascending] == ["chance", "feature"]
    assert [column.name for column in COLUMNS] == [
        *("feature", "name", "label", "n_anchor", "n_dataset", "expected", "chance", "near"),
        *("anchor_peak", "badge", "promotes", "explanation", "explainer", "score", "score_kind"),
    ]


# ---- random data --------------------------------------------------------------------------------


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    anchor=firings(),
    dataset=firings(),
    relevant=st.lists(st.booleans(), min_size=N_FEATURES, max_size=N_FEATURES).map(np.array),
    tokens=st.integers(1, 3000),
)
def test_coverage_and_gaps_equal_brute_force_on_arrays(
    tmp_path_factory, anchor, dataset, relevant, tokens
):
    folder = tmp_path_factory.mktemp("random")
    stores = open_stores(Workspace(folder), remember=False)
    names = [
        publish_activations(stores.runs, "a", anchor, **SIZES),
        publish_activations(stores.runs, "d", dataset, **SIZES, tokens=tokens),
    ]
    for name in names:
        build(stores.runs, name, stores.runs.workspace.cache)
    listed = Relevance("a file", features=tuple(np.flatnonzero(relevant).tolist()))
    for role in (EVERY_ROLE, "user"):
        for threshold, k in ((0.0, 1), (0.35, 3), (2.2, 1)):
            comparison = Comparison(*names, threshold, k, role, listed)
            n_p, n_q = samples_of(anchor, threshold, role), samples_of(dataset, threshold, role)
            p = {i for i in range(N_FEATURES) if relevant[i] and len(n_p[i]) >= k}
            q = {i for i in range(N_FEATURES) if relevant[i] and n_q[i]}
            result = coverage(stores, comparison)
            assert result.missing.tolist() == sorted(p - q)
            assert (result.n_anchor, result.n_dataset) == (len(p), len(q))
            assert result.n_covered == len(p & q)
            masks = (np.isin(np.arange(N_FEATURES), [*some]) for some in (p, q))
            assert result.fac == pytest.approx(formulas.fac(*masks, relevant).fac, nan_ok=True)
            rows, total = gap_page(stores, comparison)
            assert total == len(rows) == len(p - q)
            ranked = sorted(p - q, key=lambda i: (-len(n_p[i]), i))
            assert [row["feature"] for row in rows] == ranked
            for row in rows:
                check_gap(row, anchor, n_p, threshold, role, tokens)
    stores.cache.close()


def samples_of(activations, threshold, role):
    """The samples in which each feature is active, one row at a time."""
    samples = [set() for _ in range(N_FEATURES)]
    for s, r, f, peak in zip(*activations[:4], strict=True):
        if peak > np.float32(threshold) and role in (EVERY_ROLE, ROLES[r]):
            samples[f].add(int(s))
    return samples


def check_gap(row, anchor, n_anchor, threshold, role, tokens):
    mine = anchor.feature == row["feature"]
    if role != EVERY_ROLE:
        mine &= anchor.role == ROLES.index(role)
    there, here = (1000, tokens) if role == EVERY_ROLE else (333, tokens // 3)
    n = len(n_anchor[row["feature"]])
    assert (row["n_anchor"], row["n_dataset"]) == (n, 0)
    assert row["anchor_peak"] == anchor.peak[mine].max()
    assert row["expected"] == pytest.approx(n * here / there)
    assert row["chance"] == pytest.approx(math.exp(-n * here / there))
    assert row["near"] is None  # neither near misses nor an SAE in this world
    strength = row["anchor_peak"] / np.float32(threshold) if threshold else math.inf
    expected = "artefact" if strength < 1.1 else "borderline" if row["chance"] > 0.05 else "robust"
    assert row["badge"] == expected == str(formulas.badge(row["chance"], math.nan, strength))
