"""A feature has one name, on every page and by every command, whichever dataset they are about."""

import re
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from fac.config import ProbeSpec, Workspace
from fac.probe import probe
from fac.questions.catalogue import anchor_of, default_anchor, default_dataset, measured
from fac.questions.explanations import named, names
from fac.schema import Activations
from fac.store import cache, open_stores
from fac.store.runs import Runs
from tests import test_pages
from tests.lexicon import LexiconEncoder
from tests.test_cli import fac
from tests.test_pages import opened, rate, words
from tests.toy import (
    ANCHOR,
    MODELS_SCORES,
    MODELS_TEXTS,
    SEED,
    WORDS,
    publish_activations,
    publish_explanations,
    toy_workspace,
)

started, navigation_decides = test_pages.started, test_pages.navigation_decides

NAMES = {
    WORDS.index("python"): "People speak of a python.",
    WORDS.index("river"): "where water runs",
    WORDS.index("mountain"): "unknown: mountain",
    WORDS.index("train"): "unknown: train! · train",
}
"""Of an explanation, of one that a person wrote anew, of one whose test could not be read, and of
one whose score may be a guess: 0.55, at least 0.40. The seed says none of these words."""

VIEW = {"anchor": "toy-anchor", "dataset": "toy-seed", "threshold": "0"}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path))
    workspace = toy_workspace(tmp_path, explained=True)
    seed = Runs(workspace).resolve("measure", "toy-seed")
    elsewhere = publish_explanations(Runs(workspace), seed, {3: "of another run"}, explainer="llm")
    cache.build(Runs(workspace), elsewhere, workspace.cache)
    rate(workspace, "ana", WORDS.index("river"), "no", edited_text="where water runs")
    return workspace


def in_table(at: AppTest) -> dict[int, str]:
    """The names of the first table that has any."""
    tables = [each.value for each in at.dataframe if "name" in each.value]
    return dict(zip(tables[0]["feature"].tolist(), tables[0]["name"], strict=True))


def of_these(by_feature: dict[int, str]) -> dict[int, str]:
    return {feature: by_feature[feature] for feature in NAMES}


def test_one_feature_has_one_name_on_every_page_and_by_every_command(toy: Workspace):
    runs = Runs(toy)
    spec = ProbeSpec(text="python river mountain train", model="toy", layer=1, sae="toy")
    text = probe(spec, runs=runs, encoder=LexiconEncoder(*WORDS), sae_run="toy")
    chosen = ",".join(map(str, NAMES))
    tables = {
        "coverage": opened("coverage", **VIEW),
        "features": opened("features", only="all", **VIEW),
        "compare": opened("compare", before="toy-seed", after="toy-anchor", **VIEW),
        "pairs": opened("pairs", features=chosen, **VIEW),
        "playground": opened("playground", probe=text, **VIEW),
    }
    for page, at in tables.items():
        assert of_these(in_table(at)) == NAMES, page
    gaps = fac(
        *("gaps", "--anchor", "toy-anchor", "--dataset", "toy-seed", "--threshold", "0", "--json"),
        workspace=toy,
    ).json["gaps"]
    assert of_these({row["feature"]: row["name"] for row in gaps}) == NAMES
    for feature, name in NAMES.items():
        view = {**VIEW, "feature": str(feature)}
        pages = {
            "coverage": opened("coverage", gap=str(feature), **VIEW),
            "features": opened("features", **view),
            "compare": opened("compare", before="toy-seed", after="toy-anchor", **view),
            "playground": opened("playground", probe=text, **view),
        }
        for page, at in pages.items():
            assert f"#{feature} {name}" in words(at), page


def test_a_chosen_anchor_is_taken_along_and_names_features(toy: Workspace):
    at = opened("coverage", anchor="toy-seed", dataset="toy-anchor")
    at = test_pages.ran(at.switch_page("pages/features.py").run())
    assert at.query_params["anchor"] == "toy-seed"
    for page in ("home", "playground", "compare", "pairs", "review"):
        at = test_pages.ran(at.switch_page(f"pages/{page}.py").run())
        pickers = [each for each in at.selectbox if re.search("[aA]nchor|Explained", each.label)]
        assert [picker.value for picker in pickers] == ["toy-seed"] * (page != "playground"), page
        assert at.query_params["anchor"] == "toy-seed", page


def test_a_name_says_why_it_is_unknown_and_where_it_comes_from(toy: Workspace):
    stores = open_stores(toy, remember=True)
    anchor, seed = (stores.runs.resolve("measure", f"toy-{name}") for name in ("anchor", "seed"))
    by_feature = named(stores, anchor, [*NAMES, 11])
    assert {feature: by_feature[feature].text for feature in NAMES} == NAMES
    assert by_feature[3].doubt == by_feature[6].doubt == ""
    assert "no score on held-out samples: fewer than 10" in by_feature[7].doubt
    assert "Detection 0.55" in by_feature[8].doubt and "from 0.40" in by_feature[8].doubt
    assert by_feature[11].text == ""  # nobody says quasar
    assert names(stores, seed, [3], run=anchor)[3] == NAMES[3], "the usual anchor goes first"
    assert MODELS_TEXTS[8] in by_feature[8].doubt and MODELS_SCORES[8] == 0.55


def test_what_is_silent_in_the_anchor_is_named_by_the_run_and_says_so(tmp_path: Path):
    more = [*SEED, [{"role": "user", "content": "A quasar far away"}]]
    place = toy_workspace(tmp_path, samples={"toy-anchor": ANCHOR, "more": more})
    stores = open_stores(place, remember=True)
    anchor, dataset = (stores.runs.resolve("measure", name) for name in ("toy-anchor", "more"))
    assert names(stores, anchor, [11, 3], run=dataset) == {11: "quasar (in more)", 3: "python"}
    assert names(stores, anchor, [11, 3]) == {11: "", 3: "python"}


# ---- the default anchor


def published(place: Workspace, name: str, fired: int, n_samples: int, encoder: str = "e") -> str:
    one_each = Activations(
        *(np.zeros(fired, int), np.ones(fired, int), np.arange(fired)),
        *(np.ones(fired, np.float32), np.zeros(fired, int), np.ones(fired, int)),
    )
    size = {"n_features": 9, "n_samples": n_samples}
    run = publish_activations(Runs(place), name, one_each, **size, encoder=encoder)
    cache.build(Runs(place), run, place.cache)
    return run


def test_the_default_anchor_is_what_shows_most_whatever_it_is_called(tmp_path: Path):
    place = Workspace(tmp_path)
    named_so = published(place, "my anchor", 2, 9)
    broad = published(place, "broad", 5, 3)
    alone = published(place, "of another encoder", 8, 9, encoder="other")
    stores = open_stores(place, remember=False)
    manifests = measured(stores)
    assert set(manifests) == {named_so, broad, alone}
    assert default_anchor(stores, manifests) == broad == anchor_of(stores, named_so)
    assert anchor_of(stores, alone) == alone
    assert default_dataset(stores, manifests, broad) == named_so
    assert default_dataset(stores, manifests, alone) != alone
    older = published(place, "as broad", 5, 4)
    assert default_anchor(stores, measured(stores)) == older, "of equals, more samples"
    published(place, "again as broad", 5, 4)
    assert default_anchor(stores, measured(stores)) == older, "then the older"
