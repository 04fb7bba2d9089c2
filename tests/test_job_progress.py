"""fac.jobs.progress: how far a job is, whatever its phases count."""

from hypothesis import given
from hypothesis import strategies as st

from fac.jobs.progress import Extent

counts = st.integers(0, 50)
reports = st.lists(st.tuples(counts, counts), max_size=40)


def test_phases_of_writing_take_shares_of_what_is_left():
    extent = Extent("pairs")
    # Loading, writing 12 texts, measuring 12, choosing among 3 gaps.
    told = [(0, 0), (0, 1), (0, 12), (6, 12), (12, 12), (0, 12), (6, 12), (12, 12), (0, 3), (3, 3)]
    assert [extent.at(*each) for each in told] == [0, 0, 0, 300, 600, 600, 720, 840, 840, 936]


def test_a_step_of_one_long_phase_is_as_far_as_that():
    extent = Extent("measure")
    told = [(0, 1), (0, 200), (100, 200), (200, 200), (1, 1)]
    assert [extent.at(*each) for each in told] == [0, 0, 475, 950, 997]


def test_an_attempt_goes_on_where_the_one_before_stood():
    extent = Extent("synthetic", 0.5)
    assert [extent.at(*each) for each in [(0, 0), (0, 4), (4, 4)]] == [500, 500, 800]


@given(reports, st.sampled_from(["pairs", "measure", "demo"]), st.floats(0, 1))
def test_progress_never_goes_back_and_never_passes_the_end(told, step, begun):
    extent = Extent(step, begun)
    reached = [extent.at(*each) for each in told]
    assert reached == sorted(reached)
    assert all(int(1000 * begun) <= each <= 1000 for each in reached)


def test_what_a_phase_of_writing_counts_is_said():
    assert Extent("pairs").words(3, 12, "measuring the texts") == "3 of 12, measuring the texts"
    assert Extent("pairs").words(0, 1, "loading") == "loading"
    assert Extent("measure").words(3, 12, "9 tokens/s") == "9 tokens/s"
