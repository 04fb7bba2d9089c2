"""fac.synthesis.retouch: an edited sample measured again, in a world whose features are words."""

import pytest

from fac import review, synthesis
from fac.config import RetouchSpec
from fac.errors import InputError
from tests.lexicon import LexiconEncoder
from tests.scripted import ScriptedWriter
from tests.test_synthesis import (  # noqa: F401
    SAMPLES,
    WORDS,
    World,
    first_world,
    quiet,
    says,
    world,
)


@pytest.fixture
def made(world: World) -> tuple[World, str]:  # noqa: F811
    """A synthesis that keeps a sample of each gap."""
    pairs = world.pairs(ScriptedWriter(says))
    world.approve(pairs)
    return world, world.synthesize(pairs, ScriptedWriter(says))


def retouched(made: tuple[World, str], text: str, feature: int = 3) -> tuple[str, dict]:
    """The run of an edit of the sample kept for a gap, and its verdict."""
    place, run = made
    (kept,) = (r for r in place.rows(run, "verdicts") if r["kept"] and r["feature"] == feature)
    spec = RetouchSpec(synthetic=run, candidate=kept["candidate"], texts=(text,))
    doors = {"runs": place.runs, "encoder": place.encoder, "progress": quiet}
    edit = synthesis.retouch(spec, **doors)
    assert synthesis.retouch(spec, **doors) == edit
    (verdict,) = place.rows(edit, "verdicts")
    return edit, verdict


def test_an_edit_that_still_fires_is_kept_with_where_it_does(made):
    place, run = made
    edit, verdict = retouched(made, "who milks a python! before breakfast")
    assert (verdict["kept"], verdict["reason"], verdict["peak"]) == (True, "", 1.5)
    assert verdict["gains"] == [3]
    (trace,) = place.rows(edit, "traces")
    assert trace["tokens"][3].strip() == "python!" and trace["activations"][3] == 1.5
    (hit,) = place.rows(edit, "hits")
    assert (hit["peak"], hit["own_peak"], hit["role"]) == (1.5, 1.5, "user")
    facts = place.facts(edit)
    assert (facts.kept, facts.feature, facts.peak, facts.own_peak) == (1, 3, 1.5, 1.5)
    states = review.sample_states(place.store, place.runs, run)
    state = next(each for each in states.values() if each.feature == 3)
    assert (state.state, state.version.run) == ("undecided", edit)


def test_an_edit_that_falls_silent_says_so_and_is_not_kept(made):
    place, run = made
    edit, verdict = retouched(made, "who milks a snake before breakfast")
    assert (verdict["kept"], verdict["reason"]) == (False, "below threshold")
    assert place.facts(edit).kept == 0
    state = next(iter(review.sample_states(place.store, place.runs, run).values()))
    assert state.version.run == run


def test_words_of_the_positive_are_not_its_own(made):
    place, run = made
    # the positive is "harbours and the python!!! of violins"
    _, verdict = retouched(made, "we sailed past harbours and the python!!! of spring")
    assert (verdict["kept"], verdict["reason"]) == (False, "borrowed words")
    _, verdict = retouched(made, "we sailed past harbours and a python!!! in spring")
    assert (verdict["kept"], verdict["reason"]) == (True, "")


def test_an_edit_may_repeat_neither_another_kept_sample_nor_the_anchor(made):
    place, run = made
    kept = {r["candidate"]: r["feature"] for r in place.rows(run, "verdicts") if r["kept"]}
    other = next(
        row["messages"][0]["content"]
        for row in place.rows(run, "candidates")
        if kept.get(row["candidate"]) == 4
    )
    _, verdict = retouched(made, f"{other} python")
    assert verdict["reason"] == "duplicate"
    _, verdict = retouched(made, SAMPLES["anchor"][3][0]["content"])
    assert verdict["reason"] == "contamination"


def test_what_cannot_be_edited_is_a_sentence(made):
    place, run = made
    doors = {"runs": place.runs, "progress": quiet}
    spec = RetouchSpec(synthetic=run, candidate="two-step/000003/00/phrase", texts=("a", "b"))
    dropped = next(r["candidate"] for r in place.rows(run, "verdicts") if not r["kept"])
    kept = next(r["candidate"] for r in place.rows(run, "verdicts") if r["kept"])
    for candidate, texts, match in (
        ("nothing", ("a",), "kept no sample 'nothing'"),
        (dropped, ("a",), "kept no sample"),
        (kept, ("a", "b"), "has 1 messages, got 2 texts"),
    ):
        spec = RetouchSpec(synthetic=run, candidate=candidate, texts=texts)
        with pytest.raises(InputError, match=match):
            synthesis.retouch(spec, encoder=place.encoder, **doors)
    with pytest.raises(InputError, match="measured with lexicon"):
        other = LexiconEncoder(*reversed(WORDS))
        synthesis.retouch(spec, encoder=other, **doors)
    with pytest.raises(InputError, match="is a pairs run"):
        pairs = place.runs.manifest(run).inputs.pairs
        spec = RetouchSpec(synthetic=pairs, candidate="x", texts=("a",))
        synthesis.retouch(spec, encoder=place.encoder, **doors)
    with pytest.raises(InputError, match="needs a text"):
        RetouchSpec(synthetic=run, candidate=kept, texts=(" ",))
