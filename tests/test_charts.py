"""Figures are looked at as data: what is drawn where, in which colour, and how much travels."""

import json
import math
import re

import numpy as np
import pytest

from fac import charts, maps
from fac.questions.feature_map import STANDINGS
from fac.ui import bars


def dots(n: int, **columns) -> maps.Dots:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, n)).astype(np.float32)
    every = np.arange(n)
    usual = {"n_anchor": every, "n_dataset": every, "standing": every * 0}
    arrays = {name: np.array(column) for name, column in {**usual, **columns}.items()}
    return maps.Dots(every, x, y, **arrays, lit=every >= 0, names=[f"name {i}" for i in every])


def drawn(some: maps.Dots, *, by: str, **options):
    return maps.feature_map(some, by=by, top=100, **options)


def ids_on(figure) -> list[int]:
    return [
        int(i)
        for trace in figure.data
        if trace.type == "scattergl" and len(trace.x)
        for i in np.asarray(trace.customdata).reshape(len(trace.x), -1)[:, 0]
    ]


def test_the_funnel_splits_its_last_bar_into_covered_and_missing():
    stages = [("dictionary", 100), ("alive in the anchor", 80), ("relevant", 70), ("covered", 50)]
    drawn = bars.funnel_html(stages, missing=20)
    widths = re.findall(
        r'class="([^"]*)" style="width:calc\(\(100% - 4.5rem\) \* ([\d.]+)\)"', drawn
    )
    widths_by_kind = [(kind.removeprefix("fac-inside "), float(width)) for kind, width in widths]
    rest, relevant = ("fac-slate", "fac-relevant")
    both = [("fac-shown", 0.5), ("fac-missed", 0.2)]
    assert widths_by_kind == [(rest, 1.0), (rest, 0.8), (relevant, 0.7), *both]
    assert "covered: 50 features, 50.0% of the dictionary" in drawn and "20 missing" in drawn
    assert "missing" not in bars.funnel_html(stages, missing=0)


def test_an_undefined_coverage_is_not_drawn_as_zero():
    rows = [
        {"name": "a", "run": "r1", "fac": 0.25, "n_covered": 1, "n_anchor": 4},
        {"name": "b", "run": "r2", "fac": math.nan, "n_covered": 0, "n_anchor": 0},
        {"name": "<c>", "run": "r3", "fac": 0.5, "n_covered": 2, "n_anchor": 4},
    ]
    drawn = bars.fac_bars_html(rows, "r3")
    assert re.findall(r"<span>(.*?)</span>", drawn) == ["&lt;c&gt;", "a"]
    assert re.findall(
        r'class="(fac-shown|fac-pale)" style="display:block;width:([\d.]+)%', drawn
    ) == [
        ("fac-shown", "50.00"),
        ("fac-pale", "25.00"),
    ]


def test_an_interval_and_a_yardstick_lie_on_the_track_of_their_dataset():
    row = {"name": "a", "run": "r1", "fac": 0.5, "n_covered": 2, "n_anchor": 4}
    drawn = bars.fac_bars_html([{**row, "interval": (0.4, 0.65), "yardstick": (0.7, 0.8)}], "r1")
    assert 'class="fac-ends" style="left:40.00%;width:25.00%"' in drawn
    assert 'class="fac-band" style="left:70.00%;width:10.00%"' in drawn
    assert "random text of this size: 70.0% to 80.0%; 95 % interval 40.0% to 65.0%" in drawn
    # A band without width is still seen, and within the track.
    full = bars.fac_bars_html([{**row, "yardstick": (1.0, 1.0)}], "r1")
    assert 'class="fac-band" style="left:99.40%;width:0.60%"' in full
    assert "fac-ends" not in full
    assert "fac-band" not in bars.fac_bars_html([row], "r1")


def test_the_curve_lies_where_its_numbers_are():
    rows = [
        {"threshold": 0.0, "fac": 1.0, "n_anchor": 8, "n_missing": 0},
        {"threshold": 1.0, "fac": 0.5, "n_anchor": 4, "n_missing": 2},
        {"threshold": 4.0, "fac": 0.25, "n_anchor": 4, "n_missing": 3},
        {"threshold": 8.0, "fac": math.nan, "n_anchor": 0, "n_missing": 0},
    ]
    drawn = bars.curve_html(rows, 2.0)
    area = re.search(r'fac-area" style="clip-path:polygon\((.*?)\)"', drawn)[1]
    corners = ["0.00% 0.00%", "25.00% 50.00%", "100.00% 75.00%", "100.00% 100%", "0.00% 100%"]
    assert area.split(", ") == corners
    assert 'class="fac-now" style="left:50.00%"' in drawn
    # A strip reaches half-way to the next rung; its dot is placed within it.
    strips = re.findall(
        r'fac-rung" style="left:([\d.]+)%;width:([\d.]+)%"><u style="left:([\d.]+)%', drawn
    )
    assert [tuple(map(float, strip)) for strip in strips] == [
        (0.0, 12.5, 0.0),
        (12.5, 50.0, 25.0),
        (62.5, 37.5, 100.0),
    ]
    assert "above 1: FAC 50.0%, 2 of 4 missing" in drawn
    assert "nothing at any threshold" in bars.curve_html(rows[-1:], 0.0)


def test_the_map_draws_every_feature_once_with_its_id_and_figures():
    figure = drawn(dots(5, n_dataset=[0, 1, 10, 100, 0]), by="strength")
    assert sorted(ids_on(figure)) == [0, 1, 2, 3, 4]
    silent, alive = figure.data
    assert sorted(silent.customdata[:, 0]) == [0, 4]
    assert alive.customdata.tolist() == [[1, 1, 1], [2, 2, 10], [3, 3, 100]]
    assert list(alive.text) == ["name 1", "name 2", "name 3"]
    np.testing.assert_allclose(alive.marker.color, [0, 1, 2])


def test_the_map_is_coloured_by_what_a_comparison_says():
    assert tuple(maps.STANDING_COLOURS) == STANDINGS
    figure = drawn(dots(5, standing=[0, 2, 1, 3, 2]), by="coverage")
    by_name = {t.name: (t.marker.color, t.customdata[:, 0].tolist()) for t in figure.data}
    assert by_name == {
        "not counted": (maps.STANDING_COLOURS["not counted"], [3]),
        "covered": (charts.SHOWN, [0]),
        "under-represented": (maps.STANDING_COLOURS["under-represented"], [2]),
        "missing": (charts.MISSING, [1, 4]),
    }
    assert figure.layout.showlegend


def test_names_on_the_map_are_never_read_as_markup():
    some = dots(1)._replace(names=["<b>a</b> & b"])
    labels = [maps.Label("<i>money", 0, 0)]
    figure = drawn(some, by="coverage", labels=labels, window=(-1, 1, -1, 1))
    assert figure.data[0].text == ("&lt;b&gt;a&lt;/b&gt; &amp; b",)
    assert figure.layout.annotations[0].text == "<b>&lt;i&gt;money</b>"


def test_what_is_searched_for_stands_out():
    some = dots(4)._replace(lit=np.array([False, True, False, False]))
    others, bright = drawn(some, by="coverage").data
    assert bright.customdata[:, 0].tolist() == [1] and bright.marker.opacity == 0.8, "on top"
    assert others.customdata[:, 0].tolist() == [0, 2, 3] and others.marker.opacity == maps.DIMMED
    for lit in (True, False):
        whole = drawn(dots(4)._replace(lit=np.full(4, lit)), by="coverage").data
        assert [len(t.x) for t in whole] == [4] and whole[0].marker.opacity == 0.8


def test_no_family_name_covers_another_or_leaves_the_map():
    where = [
        ("first", 0, 0),
        ("second", 0.01, 0),
        ("third", 0, 0.5),
        ("edge", 1, -0.5),
        ("out", 9, 0),
    ]
    labels = [maps.Label(*each) for each in where]
    figure = drawn(dots(3), by="coverage", labels=labels, window=(-1, 1, -1, 1))
    names = [each.text for each in figure.layout.annotations]
    assert names == ["<b>first</b>", "<b>third</b>", "<b>edge</b>"]
    assert 0.9 < figure.layout.annotations[2].x < 1, "moved inside"


def test_the_chosen_feature_is_ringed_on_the_map():
    figure = drawn(dots(5), by="coverage", chosen=3)
    assert figure.data[-1].customdata[:, 0].tolist() == [3]
    assert figure.data[-1].marker.line.width > 0


def test_a_large_map_shows_density_below_its_points_and_stays_small():
    n = maps.DENSE + 1
    everything, none = dots(n), np.ones(n, bool)
    weight = np.arange(n)
    rows, shade = maps.visible(everything.x, everything.y, weight, none, None)
    assert len(shade) == n and len(rows) <= maps.THINNED
    assert n - 1 in rows, "the most common of all is the most common of its place"
    some = maps.Dots(*(np.array(column)[rows] for column in everything))
    figure = drawn(some, by="coverage", shade=(everything.x, everything.y))
    assert figure.data[0].type == "heatmap"
    assert np.square(figure.data[0].z).sum() == pytest.approx(n), "of all of them"
    assert sorted(ids_on(figure)) == rows.tolist()
    assert len(figure.to_json()) < 500_000
    round_it = maps.visible(everything.x, everything.y, weight, none, (-9, 9, -9, 9))
    assert round_it[0].tolist() == rows.tolist(), "a window round everything changes nothing"
    few = maps.visible(
        *(column[:100] for column in (everything.x, everything.y, weight, none)), None
    )
    assert few[0].tolist() == [*range(100)] and few[1] is None


def test_a_window_shows_every_point_in_it_and_no_other():
    n = maps.DENSE + 1
    some, lit = dots(n), np.ones(n, bool)
    rows, shade = maps.visible(some.x, some.y, lit, lit, (0.5, 1.5, -1, 0.25))
    here = (some.x >= 0.5) & (some.x <= 1.5) & (some.y >= -1) & (some.y <= 0.25)
    assert rows.tolist() == np.flatnonzero(here).tolist() and shade is None


def test_points_of_one_place_are_thinned_and_lonely_and_lit_ones_stay():
    n = maps.DENSE + 1
    crowd, lit = np.zeros(n, np.float32), np.zeros(n, bool)
    crowd[-1], lit[7] = 9, True
    rows, _ = maps.visible(crowd, crowd, np.arange(n), lit, None)
    assert rows.tolist() == [7, n - 3, n - 2, n - 1], "two of the crowd, the commonest"


def test_a_loop_takes_the_points_it_runs_round():
    x, y = np.array([0.5, 1.5, 0.5, 0.1]), np.array([0.6, 0.5, 1.5, 0.85])
    corner = maps.encircled([0, 1, 1], [0, 0, 1], x, y)  # a triangle below the diagonal
    assert corner.tolist() == [False, False, False, False]
    whole = maps.encircled([0, 1, 1, 0], [0, 0, 1, 1], x, y)
    assert whole.tolist() == [True, False, False, True]
    dented = maps.encircled([0, 1, 1, 0.5, 0], [0, 0, 1, 0.2, 1], x, y)
    assert dented.tolist() == [False, False, False, False]


def test_the_curve_stops_where_the_anchor_shows_nothing():
    rows = [
        {"threshold": 0.0, "fac": 0.5, "n_anchor": 4, "n_missing": 2},
        {"threshold": 9.0, "fac": math.nan, "n_anchor": 0, "n_missing": 0},
    ]
    figure = charts.coverage_curve(rows, threshold=0.0)
    assert list(figure.data[0].x) == [0.0]
    assert figure.layout.shapes[0].x0 == 0.0


def titles_of(figure):
    return figure.layout.xaxis.title.text, figure.layout.yaxis.title.text


def test_the_curve_marks_interval_and_yardstick_at_the_threshold_in_use():
    rows = [{"threshold": 0.0, "fac": 0.5, "n_anchor": 4, "n_missing": 2}]
    figure = charts.coverage_curve(
        rows, threshold=3.0, fac=0.4, interval=(0.3, 0.45), yardstick=(0.6, 0.7)
    )
    _, random, here = figure.data
    assert (list(random.x), list(random.y)) == ([3.0, 3.0], [0.6, 0.7])
    assert (list(here.x), list(here.y)) == ([3.0], [0.4])
    assert here.error_y.array == pytest.approx([0.05])
    assert here.error_y.arrayminus == pytest.approx([0.1])
    assert titles_of(figure) == ("activation threshold", "features covered (FAC)")
    # What is not defined is not drawn, and no legend speaks of it.
    bare = charts.coverage_curve(rows, 3.0, fac=0.4, interval=(math.nan, math.nan))
    assert len(bare.data) == 1 and not bare.layout.showlegend


def test_growth_runs_on_from_what_is_there_as_a_forecast_with_its_band():
    seen = [(0, 0.0), (50, 30.0), (100, 40.0)]
    figure = charts.growth_curve(seen, [(150, 45.0, 43.0, 47.0), (200, 48.0, 44.0, 52.0)], 60)
    past, band, future, total = figure.data
    assert (list(past.x), list(past.y)) == ([0, 50, 100], [0.0, 30.0, 40.0])
    assert list(band.x) == [100, 150, 200, 200, 150, 100]
    assert list(band.y) == [40.0, 47.0, 52.0, 44.0, 43.0, 40.0]
    assert (list(future.x), list(future.y)) == ([100, 150, 200], [40.0, 45.0, 48.0])
    assert (list(total.x), list(total.y)) == ([0, 200], [60, 60])
    assert figure.layout.shapes[0].x0 == 100, "where the dataset ends"
    assert titles_of(figure) == ("samples of the dataset", "features of the anchor shown")


def test_growth_without_a_forecast_shows_what_is_there():
    past, total = charts.growth_curve([(0, 0.0), (1, 3.0)], [], 5).data
    assert (list(past.y), list(total.x)) == ([0.0, 3.0], [0, 1])


def test_parts_without_features_are_left_out():
    rows = [
        {"part": "user", "fac": 0.75, "n_covered": 3, "n_missing": 1},
        {"part": "system", "fac": math.nan, "n_covered": 0, "n_missing": 0},
    ]
    covered, missing = charts.part_bars(rows).data
    assert list(covered.y) == ["user"]
    assert (list(covered.x), list(missing.x)) == ([3], [1])


def test_peaks_below_the_threshold_lose_their_colour():
    (bars,) = charts.peak_histogram([0.0, 1.0, 2.0], [5, 3], threshold=1.0).data
    assert list(bars.y) == [5, 3]
    assert list(bars.marker.color) == [charts.REST, charts.SHOWN]


def test_the_scatter_colours_gained_and_lost_and_leaves_out_what_neither_shows():
    before, after = np.array([0, 5, 5, 0]), np.array([0, 5, 0, 7])
    figure = maps.support_scatter(before, after, names=("old", "new"))
    by_colour = {
        trace.marker.color: [list(row) for row in trace.customdata]
        for trace in figure.data
        if trace.type == "scattergl"
    }
    assert by_colour == {
        charts.REST: [[1, 5, 5]],
        charts.MISSING: [[2, 5, 0]],
        charts.SHOWN: [[3, 0, 7]],
    }


def test_a_large_scatter_draws_some_of_each_colour_over_the_density_of_all():
    n = 3 * maps.DENSE
    before, after = np.full(n, 5), np.full(n, 5)
    before[:7000], after[7000:9000] = 0, 0
    figure = maps.support_scatter(before, after, names=("old", "new"))
    (shades,) = (trace for trace in figure.data if trace.type == "heatmap")
    assert np.square(shades.z).sum() == pytest.approx(n)
    drawn = {trace.marker.color: trace for trace in figure.data if trace.type == "scattergl"}
    some = maps.THINNED // 2
    assert [len(drawn[c].x) for c in (charts.SHOWN, charts.MISSING, charts.REST)] == [
        some,
        2000,
        some,
    ]
    ids = drawn[charts.SHOWN].customdata[:, 0]
    assert ids.max() < 7000 and ids.mean() == np.clip(ids.mean(), 3300, 3700), "an even choice"
    assert len(figure.to_json()) < 500_000


def estimate(name: str, value: float | None, low: float | None, high: float | None) -> dict:
    return {"name": name, "value": value, "low": low, "high": high, "n": 9}


def test_estimates_carry_their_intervals_in_the_order_they_were_given():
    rows = [estimate("first", 0.5, 0.25, 0.875), estimate("second", -0.25, -0.5, 0.0)]
    figure = charts.intervals(rows, across=(-0.5, 1.0), reference=0.0)
    (dots,) = figure.data
    assert (list(dots.y), list(dots.x)) == (["first", "second"], [0.5, -0.25])
    assert (list(dots.error_x.arrayminus), list(dots.error_x.array)) == (
        [0.25, 0.25],
        [0.375, 0.25],
    )
    assert list(figure.layout.yaxis.categoryarray) == ["second", "first"], "top to bottom"
    low, high = figure.layout.xaxis.range
    assert low < -0.5 and high > 1.0
    assert figure.layout.shapes[0].x0 == 0.0


def test_an_estimate_that_is_not_defined_is_said_to_be_so_and_not_drawn_as_zero():
    rows = [estimate("a", math.nan, math.nan, math.nan), estimate("b", None, None, None)]
    figure = charts.intervals([*rows, estimate("c", 1.0, None, None)])
    assert list(figure.data[0].y) == ["c"]
    assert list(figure.data[0].error_x.array) == [0.0], "a value without an interval is a dot"
    assert [(note.y, note.text) for note in figure.layout.annotations] == [
        ("a", "not defined"),
        ("b", "not defined"),
    ]


def test_shares_of_verdicts_fill_a_bar_and_nothing_counted_stays_empty():
    rows = [
        {"name": "paper", "n": 200, "relevant": 0.84, "irrelevant": 0.05, "unclear": 0.11},
        {"name": "here", "n": 0, "relevant": 0.0, "irrelevant": 0.0, "unclear": 0.0},
    ]
    bars = {trace.name: trace for trace in charts.verdict_bars(rows).data}
    assert list(bars) == ["relevant", "irrelevant", "unclear"]
    assert [sum(trace.x[i] for trace in bars.values()) for i in (0, 1)] == [1.0, 0.0]
    assert list(bars["relevant"].y) == ["paper · n = 200", "here · n = 0"]
    assert bars["irrelevant"].marker.color == charts.MISSING


def test_token_dots_are_drawn_only_where_a_feature_fires():
    figure = charts.token_dots(
        ["a", "b", "c"], [(7, "b", [0.0, 2.0, 0.0]), (9, "", [1.0, 0.0, 1.0])]
    )
    assert [list(data) for data in figure.data[0].customdata] == [[7, 1], [9, 0], [9, 2]]


def test_a_label_with_tags_stays_text():
    figure = charts.token_dots(["<b>x</b>"], [(1, "<b>x</b>", [1.0])])
    drawn = json.loads(figure.to_json())
    assert "<b>" not in str(drawn["data"]) + str(drawn["layout"]["xaxis"])
    assert "&lt;b&gt;" in drawn["data"][0]["y"][0]


def test_empty_data_gives_an_empty_figure_rather_than_an_error():
    assert charts.peak_histogram([], []).data[0].x == ()
    assert charts.token_dots([], []).data[0].x == ()
    maps.support_scatter(np.zeros(3, int), np.zeros(3, int), names=("a", "b")).to_json()
    drawn(dots(3), by="strength").to_json()
    assert charts.intervals([]).data[0].x == ()
    assert charts.verdict_bars([]).data[0].x == ()


# --- what came of a synthesis ---------------------------------------------------------------------


def test_what_was_kept_comes_first_and_then_every_reason_by_how_common_it_is():
    dropped = {"echo": 2, "below threshold": 7, "beaten": 2}
    (bars,) = charts.outcome_bars(4, dropped).data
    assert list(bars.customdata) == ["kept", "below threshold", "beaten", "echo"]
    assert list(bars.x) == [4, 7, 2, 2]
    assert bars.text[0] == "4 · 27%"
    colours = dict(zip(bars.customdata, bars.marker.color, strict=True))
    assert (colours["kept"], colours["below threshold"]) == (charts.SHOWN, charts.MISSING)
    assert colours["echo"] == charts.REST
    (bars,) = charts.outcome_bars(4, dropped, "echo").data
    assert [value == 1 for value in bars.marker.opacity] == [False, False, False, True]


def test_the_marginal_curve_begins_at_nothing_and_marks_where_it_is_flat():
    figure = charts.marginal_curve([3, 5, 5, 5], gaps=6)
    (line,) = figure.data
    assert (list(line.x), list(line.y)) == ([0, 1, 2, 3, 4], [0, 3, 5, 5, 5])
    every, enough = figure.layout.shapes
    assert (every.y0, enough.x0) == (6, 2)
    assert figure.layout.yaxis.range[1] > 6
    assert len(charts.marginal_curve([1, 2, 3], gaps=3).layout.shapes) == 1, "none is too many"


def test_before_and_after_lie_on_one_axis_that_shows_the_difference():
    rows = [("before", 0.968, charts.REST), ("after", 0.978, charts.SHOWN)]
    figure = charts.before_after([*rows, ("unknown", math.nan, charts.ALONG)])
    (dots,) = figure.data
    assert list(dots.y) == ["before", "after"] and list(dots.x) == [0.968, 0.978]
    low, high = figure.layout.xaxis.range
    assert 0.9 < low < 0.968 and 0.978 < high < 1.1


def test_the_parts_of_what_was_missing_fill_its_bar_and_all_are_named_below():
    parts = [("asked <for>", 3, "fac-shown"), ("came along", 0, "fac-pale"), ("left", 7, "x")]
    bar, legend = bars.parts_html(parts).split('<div class="fac-legend">')
    assert re.findall(r'<i class="([^"]+)" style="flex:(\d+)">(\d*)</i>', bar) == [
        ("fac-shown", "3", "3"),
        ("x", "7", "7"),
    ]
    assert "asked &lt;for&gt;: 3" in legend and "came along: 0" in legend and "left: 7" in legend
    assert bars.parts_html([("left", 0, "x")]).count("<i") == 1


def test_nothing_made_gives_empty_figures():
    assert list(charts.outcome_bars(0, {}).data[0].x) == [0]
    assert list(charts.marginal_curve([], gaps=0).data[0].y) == [0]
    assert charts.before_after([("before", math.nan, charts.REST)]).data[0].x == ()
