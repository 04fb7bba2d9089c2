"""The map of features too large to show every point: a window, a lasso, a link to it."""

import json
from base64 import b64decode
from urllib.parse import parse_qs

import numpy as np
import pytest

from benchmarks.dashboard import Session, server
from fac import maps
from fac.config import Workspace
from fac.questions.comparison import clear_firing
from fac.schema import Activations
from fac.store import cache, open_stores
from fac.store.runs import Runs
from fac.ui import atlas
from fac.ui.tables import point_id
from tests.lexicon import LexiconEncoder
from tests.toy import publish_activations, publish_map, publish_sae

N = maps.DENSE + 2
"""Features on a circle, of which the first twelve fire."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    space = Workspace(tmp_path_factory.mktemp("atlas"))
    runs = Runs(space)
    sae = publish_sae(runs, LexiconEncoder(*(f"word{i}" for i in range(N))))
    n = np.arange(12)
    fired = Activations(n * 0, n * 0 + 1, n, 1.0 + n, n * 0 + 3, n * 0 + 1)
    run = publish_activations(runs, "anchor", fired, n_features=N, n_samples=1, sae_run=sae)
    for each in (sae, run):
        cache.build(runs, each, space.cache)
    publish_map(runs, run, clear_firing(open_stores(space, remember=False), run))
    with server(space) as address:
        yield address


@pytest.fixture
def session(address):
    tab = Session(address)
    yield tab
    tab.close()


def figure(session):
    return json.loads(session.find(key="map")[1].spec)


def ids_drawn(session):
    """Features drawn as points; Plotly sends arrays as bytes."""
    return {
        int(i)
        for trace in figure(session)["data"]
        if trace["type"] == "scattergl" and trace["x"]["bdata"]
        for i in np.frombuffer(
            b64decode(trace["customdata"]["bdata"]),
            trace["customdata"]["dtype"],
        )[::3]  # beside samples of the anchor and of the dataset
    }


def line_below(session):
    """What the line below the table says."""
    return next(text for text in session.texts if "feature" in text and text[0].isdigit())


def test_at_a_distance_there_are_shades_and_the_most_common_points(session):
    session.open("features", "only=all")
    kinds = [trace["type"] for trace in figure(session)["data"]]
    assert kinds[0] == "heatmap"
    drawn = ids_drawn(session)
    assert 100 < len(drawn) <= maps.THINNED
    # They lie side by side, and two of a place are shown, of those that fire clearly, and the one
    # that is open.
    assert drawn & {*range(12)} == {6, 7, 11}
    assert line_below(session).startswith(f"{N:,} features")


def test_a_box_looks_closer_and_its_address_shows_the_same(session):
    session.open("features", "only=all")
    session.choose("map", box=[{"x": [0.5, 2], "y": [1, -1]}])
    angle = 2 * np.pi * np.arange(N) / N
    right = {*np.flatnonzero(np.cos(angle).astype(np.float32) >= 0.5).tolist()}
    assert ids_drawn(session) == right, "few enough for all of them"
    n = f"{len(right):,}"
    assert line_below(session) == f"{n} features of the {n} in this part of the map"
    assert figure(session)["layout"]["xaxis"]["range"] == [0.5, 2]
    (window,) = parse_qs(session.query)["window"]
    session.open("features", f"only=all&window={window}")
    assert ids_drawn(session) == right
    session.press("The whole map")
    assert "window" not in session.query
    assert line_below(session).startswith(f"{N:,} features")


def test_a_lasso_takes_what_lies_under_it_drawn_or_not(session):
    session.open("features", "only=all")
    session.choose("map", lasso=[{"x": [0, 2, 2, 0], "y": [0, 0, 2, 2]}])
    angle = 2 * np.pi * np.arange(N) / N
    quarter = int(((np.cos(angle) > 0) & (np.sin(angle) > 0)).sum())
    line = line_below(session)
    assert abs(int(line.split()[0].replace(",", "")) - quarter) <= 2
    assert "chosen on the map" in line
    session.press("The whole map")
    assert line_below(session).startswith(f"{N:,} features")


def test_what_a_click_and_a_lasso_do_is_said_above_the_map(session):
    session.open("features", "only=all")
    (words,) = [text for text in session.texts if "touch_app" in text]
    assert "**Click**" in words and "**lasso**" in words and "families" in words
    assert f"Page 1 of {-(-N // 50)}" in session.texts


def test_a_point_opens_its_feature(session):
    session.open("features", "only=all")
    session.choose("map", points=[{"customdata": 7, "x": 1, "y": 0}])
    assert parse_qs(session.query)["feature"] == ["7"]


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "2,1,0,1", "0,1,nan,2", "0,inf,0,1"])
def test_what_is_no_window_is_the_whole_map(text):
    assert atlas._read(text) is None


def test_a_window_reads_as_it_was_written():
    assert atlas._read(atlas._written((-6.25, 8.5, 0.0, 12.125))) == (-6.25, 8.5, 0.0, 12.12)


@pytest.mark.parametrize("data", [6, [6, 24, 24], (6,), {"0": 6, "1": 24}])
def test_a_point_says_its_feature_however_a_browser_sends_it(data):
    assert point_id(data) == 6
