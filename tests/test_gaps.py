"""fac.questions.gaps: evidence of the toy's gaps by eye, pages of them, and random data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from fac import coverage as formulas
from fac.config import Workspace
from fac.errors import InputError
from fac.questions import gaps
from fac.questions.comparison import Comparison, coverage
from fac.questions.explanations import explain_runs
from fac.questions.gap_evidence import (
    KINDS,
    GapCounts,
    certain_features,
    gap_counts,
    gap_features,
    missing_or_rare,
    sae_of,
)
from fac.questions.gaps import COLUMNS, GapColumn, GapList, gap_page, orders, shown_columns, sorts
from fac.questions.relevance import Relevance
from fac.schema import EVERY_ROLE, ROLES, Activations
from fac.store import open_stores
from fac.store.cache import build
from fac.ui.tables import column_config
from tests.test_cache import N_FEATURES, N_SAMPLES, firings
from tests.toy import WORDS, publish_activations, toy_workspace

MISSING = [WORDS.index(w) for w in ("python", "function", "loop", "river", "mountain", "train")]
approx = pytest.approx
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
    assert loop["p"] == pytest.approx((1 + ratio) ** -6)
    # No sample of 16, where the anchor has 6 of 24: its interval reaches beyond 1.
    high = (0.025 ** (-1 / 6) - 1) / ratio
    assert (loop["ratio"], loop["ratio_low"]) == (0, 0) and loop["ratio_high"] == approx(high)
    # "trailing" shares four of five letters with "train", and the SAE fires above 0.8.
    assert by_word["train"]["near"] == pytest.approx(1.0)
    assert {row["badge"] for row in rows} == {"possible"}, "so few could be missing by chance"
    assert loop["reason"] == (
        f"6 samples of the anchor fire it, {6 * ratio:.1f} would be expected here, none does; "
        f"p {(1 + ratio) ** -6:.1g}, which chance can explain among 10 features asked."
    )


def test_a_threshold_above_the_saes_own_is_what_must_be_reached(page):
    rows, _ = page(threshold=1.0)
    assert [WORDS[row["feature"]] for row in rows] == ["loop", "train"]
    assert rows[1]["near"] == pytest.approx(0.8)
    assert rows[1]["badge"] == "possible"
    rows, _ = page(threshold=1.4)
    assert {row["badge"] for row in rows} == {"artefact"}
    assert rows[0]["reason"] == "The anchor's highest peak is 1.07 of what it takes."


def test_one_roles_gaps_use_that_roles_counts_peaks_and_tokens(stores, toy):
    rows, total = gap_page(stores, Comparison(*toy, role="user"))
    assert total == 3 and {WORDS[r["feature"]] for r in rows} == {"python", "function", "train"}
    assert {row["anchor_peak"] for row in rows} == {1.0}
    there, here = (stores.cache.summary(run)["content_tokens_by_role"]["user"] for run in toy)
    assert {row["expected"] for row in rows} == {6 * here / there}
    # "trailing" is a user's word; nobody says anything like "river" but in answers.
    near = {WORDS[row["feature"]]: row["near"] for row in rows}
    assert near["train"] == approx(1.0)
    rows, _ = gap_page(stores, Comparison(*toy, role="assistant"))
    near = {WORDS[row["feature"]]: row["near"] for row in rows}
    assert near["train"] is None or near["train"] < 1


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", [c.name for c in COLUMNS if c.sortable and not c.is_order])
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


def test_gaps_are_narrowed_to_a_badge_and_a_kind(page):
    assert page(badge="possible")[1] == page(kind="absent")[1] == 6
    assert page(badge="certain") == page(kind="under-represented") == ([], 0)
    rows, total = page(badge="possible", kind="absent", search="train")
    assert [WORDS[row["feature"]] for row in rows] == ["train"] and total == 1
    assert page(badge="artefact", search="train") == ([], 0)


@pytest.mark.parametrize(
    "bad", [{"sort": "x"}, {"badge": "x"}, {"kind": "x"}, {"offset": -1}, {"limit": -1}]
)
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
    assert shown_columns(explained=False)[2:5] == ["badge", "n_dataset", "doubled"]


def test_lists_of_gaps_have_these_columns_and_orders():
    assert shown_columns(explained=True) == [
        *("feature", "name", "explanation", "badge", "n_dataset", "expected", "ratio", "n_anchor"),
        *("score", "near"),
    ]
    assert shown_columns(explained=False) == [
        *("feature", "name", "badge", "n_dataset", "expected", "ratio", "n_anchor", "near"),
    ]
    assert [*orders()] == [
        *("certainty", "n_anchor", "n_dataset", "expected", "ratio", "near", "anchor_peak"),
        *("score", "feature"),
    ]
    assert [name for name, column in orders().items() if column.ascending] == ["ratio", "feature"]
    assert [column.name for column in COLUMNS if not column.is_order] == [
        *("feature", "name", "label", "kind", "n_anchor", "n_dataset", "expected", "ratio"),
        *("ratio_low", "ratio_high", "p", "near", "anchor_peak", "badge", "reason", "promotes"),
        *("explanation", "explainer", "score", "score_kind"),
    ]


# ---- the test -----------------------------------------------------------------------------------

COUNTS = [(20, 0), (20, 2), (2, 0), (1, 0), (20, 15), (0, 3)]
"""Of each feature: samples of the anchor that fire it, and of the dataset."""


def counted(of: int) -> Activations:
    """Activations of those samples, the first of each side, all in the words of the user."""
    pairs = [(i, f) for f, counts in enumerate(COUNTS) for i in range(counts[of])]
    sample, feature = (np.array(column) for column in zip(*pairs, strict=True))
    zeros = np.zeros(len(pairs), int)
    return Activations(sample, zeros + 1, feature, np.full(len(pairs), 2.0, "f4"), zeros, zeros + 1)


@pytest.fixture
def world(tmp_path):
    """Compares COUNTS, each side of as many content tokens as asked for, with nothing added."""
    opened = open_stores(Workspace(tmp_path), remember=False)
    every = Relevance("a file", features=tuple(range(len(COUNTS))))

    def ask(anchor_tokens=900, dataset_tokens=900, *, added=False, **settings) -> tuple:
        sizes = {"n_features": len(COUNTS), "n_samples": 40}
        sides = [("a", 0, anchor_tokens), ("d", 1, dataset_tokens)]
        if added:
            sides.append(("more", 1, dataset_tokens))
        runs = [
            publish_activations(opened.runs, f"{name}{n}", counted(of), tokens=n, **sizes)
            for name, of, n in sides
        ]
        for run in runs:
            if not opened.cache.ready(run):
                build(opened.runs, run, opened.runs.workspace.cache)
        comparison = Comparison(*runs[:2], relevance=every, added=tuple(runs[2:]))
        return opened, replace(comparison, **settings)

    yield ask
    opened.cache.close()


def test_gaps_are_what_is_missing_and_what_is_significantly_too_rare(world):
    rows, total = gap_page(*world(), explain_runs=())
    assert total == len(rows) == 4
    # Of 20 + 0 samples each has an even chance to be the dataset's; of 20 + 2 at most two are.
    p = [0.5**20, (1 + 22 + 231) / 2**22, 0.25, 0.5]
    names = ("feature", "kind", "n_anchor", "n_dataset", "expected", "ratio", "badge")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (0, "absent", 20, 0, 20, 0.0, "certain"),
        (1, "under-represented", 20, 2, 20, 0.1, "certain"),
        (2, "absent", 2, 0, 2, 0.0, "possible"),
        (3, "absent", 1, 0, 1, 0.0, "artefact"),
    ]
    assert [row["p"] for row in rows] == approx(p)
    assert [row["reason"] for row in rows] == [
        "20 samples of the anchor fire it, 20.0 would be expected here, none does; p 1e-6, "
        "certain among 5 features asked.",
        "20 samples of the anchor fire it, 20.0 would be expected here, 2 do; p 6e-5, "
        "certain among 5 features asked.",
        "2 samples of the anchor fire it, 2.0 would be expected here, none does; p 0.2, "
        "which chance can explain among 5 features asked.",
        "A single sample of the anchor shows it.",
    ]
    assert coverage(*world()).missing.tolist() == [0, 2, 3], "F_miss stays what it was"


def test_gaps_are_counted_by_badge_and_named_certain_ones_first(world):
    assert gap_counts(*world()) == GapCounts(1, 1, possible=1, artefact=1, n_asked=5)
    assert gap_counts(*world()).certain == 2
    assert gap_features(*world()) == [0, 1, 2, 3]
    assert [certain_features(*world(), kind) for kind in KINDS] == [[0], [1]]
    assert missing_or_rare(*world()) == [0, 2, 3], "what raises coverage"
    rare = Relevance("a file", features=(1, 4))
    assert missing_or_rare(*world(relevance=rare)) == [1], "where nothing is absent"
    assert gap_counts(*world(min_support=2)) == GapCounts(1, 1, possible=1, artefact=0, n_asked=4)


def test_a_longer_dataset_makes_more_certain_and_a_shorter_one_less(world):
    # Twice the tokens: of 20 + 15 samples 23.3 would be the dataset's, of 2 + 0 still one in nine.
    rows, _ = gap_page(*world(450, 900), explain_runs=())
    by_feature = {row["feature"]: row for row in rows}
    assert by_feature[0]["expected"] == 40 and by_feature[2]["p"] == approx(1 / 9)
    assert gap_counts(*world(900, 90)) == GapCounts(0, 0, possible=2, artefact=1, n_asked=5)


def test_what_is_too_rare_is_certain_where_it_is_rarer_by_half_for_certain(world):
    # 15 samples where 40 are expected: significant, but the rate's interval reaches 0.77.
    for tokens, ratio, badge in ((900, 0.375, "possible"), (1800, 0.1875, "certain")):
        rows, _ = gap_page(*world(450, tokens), GapList(kind="under-represented"), explain_runs=())
        row = next(row for row in rows if row["feature"] == 4)
        assert (row["ratio"], row["badge"]) == (approx(ratio), badge)
        assert (row["ratio_high"] <= 0.5) == (badge == "certain")
        assert ("not by chance, but perhaps by less than half" in row["reason"]) == (
            badge == "possible"
        )


def test_what_is_added_counts_with_its_samples_and_its_tokens(world):
    stores, comparison = world(added=True)
    rows, _ = gap_page(stores, comparison, explain_runs=())
    by_feature = {row["feature"]: row for row in rows}
    assert by_feature[1]["n_dataset"] == 4 and by_feature[1]["expected"] == 40
    assert by_feature[0]["p"] == approx(3.0**-20)
    assert by_feature[1]["ratio"] == approx(0.1), "twice the samples of twice the tokens"


@pytest.mark.parametrize(("tokens", "side"), [((0, 900), "anchor"), ((900, 0), "dataset")])
def test_without_content_tokens_there_is_no_test(world, tokens, side):
    rows, _ = gap_page(*world(*tokens), explain_runs=())
    assert [row["badge"] for row in rows] == ["possible", "possible", "artefact"]
    figures = ("expected", "ratio", "ratio_low", "ratio_high", "p")
    assert {row[name] for row in rows for name in figures} == {None}
    assert rows[0]["reason"] == (
        f"20 samples of the anchor fire it; without content tokens in the {side} nothing can be "
        "expected here."
    )


def test_an_anchor_lacks_nothing_against_itself(stores, toy):
    anchor, _ = toy
    assert gap_page(stores, Comparison(anchor, anchor)) == ([], 0)
    assert gap_counts(stores, Comparison(anchor, anchor)).certain == 0


@pytest.mark.parametrize("role", [EVERY_ROLE, *ROLES])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 0.9, 1.0, 1.2, 1.4])
def test_what_is_absent_never_reaches_the_level_in_use(stores, toy, threshold, role):
    comparison = Comparison(*toy, threshold, role=role)
    rows, _ = gap_page(stores, comparison, GapList(kind="absent"))
    assert all(row["near"] is None or row["near"] <= 1 for row in rows)
    sae = sae_of(stores, toy[0])
    for row in rows if role == EVERY_ROLE else ():
        near = stores.cache.near(toy[1], row["feature"], sae_run=sae, threshold=threshold)
        assert [miss["ratio"] for miss in near[:1]] == approx([row["near"]])
        assert all(miss["ratio"] <= 1 for miss in near)


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
            certain = certain_of({i: (len(n_p[i]), len(n_q[i])) for i in p}, tokens, role)
            gaps = (p - q) | certain
            rows, total = gap_page(stores, comparison)
            assert total == len(rows) == len(gaps)
            assert {row["feature"] for row in rows} == gaps
            badge = ("certain", "possible", "artefact").index
            ranks = [(badge(r["badge"]), -r["n_anchor"], r["feature"]) for r in rows]
            assert ranks == sorted(ranks)
            assert gap_features(stores, comparison) == [row["feature"] for row in rows]
            for row in rows:
                check_gap(row, anchor, dataset, (n_p, n_q), threshold, role, certain)
    stores.cache.close()


def samples_of(activations, threshold, role):
    """The samples in which each feature is active, one row at a time."""
    samples = [set() for _ in range(N_FEATURES)]
    for s, r, f, peak in zip(*activations[:4], strict=True):
        if peak > np.float32(threshold) and role in (EVERY_ROLE, ROLES[r]):
            samples[f].add(int(s))
    return samples


def tail(n_anchor, n_dataset, tokens, role):
    """Probability that at most so many of all samples are the dataset's, term by term."""
    there, here = (1000, tokens) if role == EVERY_ROLE else (333, tokens // 3)
    if not here:
        return math.nan
    n, share = n_anchor + n_dataset, here / (there + here)
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n_dataset + 1))


def certain_of(counts, tokens, role):
    """The features that pass, by the step-up procedure one rank at a time."""
    ranked = sorted((tail(*pair, tokens, role), i) for i, pair in counts.items())
    if any(math.isnan(p) for p, _ in ranked):
        return set()
    passed = [k for k, (p, _) in enumerate(ranked, 1) if p <= 0.05 * k / len(ranked)]
    level = ranked[passed[-1] - 1][0] if passed else -1
    return {i for p, i in ranked if p <= level}


def _of_role(activations, role):
    return (role == EVERY_ROLE) | (activations.role == ([*ROLES, EVERY_ROLE].index(role)))


def check_gap(row, anchor, dataset, samples, threshold, role, certain):
    feature = row["feature"]
    n_anchor, n_dataset = (len(of[feature]) for of in samples)
    assert (row["n_anchor"], row["n_dataset"]) == (n_anchor, n_dataset)
    assert row["kind"] == ("under-represented" if n_dataset else "absent")
    # In a world without near misses and an SAE the dataset's peaks say how near it comes.
    heard = (dataset.feature == feature) & _of_role(dataset, role)
    silent = n_dataset or not threshold or not heard.any()
    assert row["near"] == (None if silent else approx(dataset.peak[heard].max() / threshold))
    mine = (anchor.feature == feature) & _of_role(anchor, role)
    assert row["anchor_peak"] == anchor.peak[mine].max()
    strength = row["anchor_peak"] / np.float32(threshold) if threshold else math.inf
    barely = n_anchor == 1 or strength < 1.1
    is_certain = feature in certain and (not n_dataset or row["ratio_high"] <= 0.5)
    assert row["badge"] == ("artefact" if barely else "certain" if is_certain else "possible")
    if row["p"] is not None:
        assert row["ratio"] == approx(n_dataset / row["expected"])
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


# --- the table ------------------------------------------------------------------------------------


def drawn(explanation):
    """The table of one gap with that explanation: what its cell says, and the pixels of a row."""

    def script(text):
        from fac.ui.tables import table

        row = {"feature": 1, "name": "a name", "explanation": text}
        table([row], ("feature", "name", "explanation"), key="gaps", tall=True)

    frame = AppTest.from_function(script, args=(explanation,)).run().dataframe[0]
    return frame.value["explanation"][0], frame.proto.row_height


def test_an_explanation_is_whole_in_its_cell_or_ends_in_dots():
    # 36 letters a line: four lines of text are 84 pixels, another 18.2
    assert drawn("law") == ("law", 84)
    assert drawn(None) == ("", 84)
    four = " ".join(["a" * 30] * 4)
    assert drawn(four) == (four, 84)
    assert drawn(f"{four} {'a' * 30}") == (f"{four} {'a' * 30}", 102)
    text, height = drawn("\n".join(["a" * 30] * 20))
    assert text == f"{' '.join(['a' * 30] * 7)} …" and height == 139
    assert drawn("字" * 100) == ("字" * 100, 120)  # 18 a line
    text, height = drawn("字" * 1000)
    assert text == f"{'字' * 126} …" and height == 139
