"""fac.questions.pairs, fac.synthesis.pairs: what the pairs of a run are, and where they stand."""

from collections import Counter

import pytest

from fac import synthesis
from fac.config import RescoreSpec
from fac.errors import Cancelled, InputError
from fac.export import export
from fac.questions.pairs import (
    authors,
    firing_turn,
    in_state,
    origins_in_words,
    pair_states,
    sides_of,
    state_counts,
)
from fac.review import pair_item
from fac.schema import Chat
from fac.store import open_stores
from tests.scripted import ScriptedWriter
from tests.test_export import publish_pairs
from tests.test_synthesis import World, quiet, user
from tests.toy import toy_workspace


@pytest.fixture
def making(tmp_path):
    """The stores of a workspace with pairs for features 3, 5 and 6, whose positives fire with 1.5,
    and a gap without one, 7; and the pairs run."""
    stores = open_stores(toy_workspace(tmp_path / "kitchen"), remember=True)
    yield stores, publish_pairs(stores.runs)
    stores.cache.close()


def test_pairs_are_read_as_they_were_written(making):
    stores, run = making
    rows = [pair.version.row for pair in pair_states(stores, run).values()]
    assert rows == stores.runs.table(run, "pairs").to_pylist()
    failed = {row["feature"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert failed == {7: "no candidate fires it"}


@pytest.mark.parametrize(
    ("show", "above", "features"),
    [
        ("all", 0.0, [3, 5, 6, 7]),
        ("all", 1.4, [3, 5, 6]),
        ("all", 1.5, []),
        ("approved", 0.0, [5]),
        ("approved", 1.5, []),
        ("undecided", 1.4, [3, 6]),
        ("rejected", 0.0, []),
        ("failed", 0.0, [7]),
    ],
)
def test_a_view_holds_the_pairs_of_its_state_that_fire_above_its_score(
    making, show, above, features
):
    stores, run = making
    row = stores.runs.table(run, "pairs").to_pylist()[1]
    item = pair_item(run, row)
    stores.decisions.add("ana", item.kind, item.subject, item.content, "approve")
    states = pair_states(stores, run)
    assert [pair.feature for pair in in_state(states, show, above)] == features
    assert state_counts(states) == {"undecided": 2, "approved": 1, "failed": 1, "all": 4}


def test_the_pairs_of_a_view_come_strongest_first_and_without_a_peak_last(making):
    peaks = {3: 1.5, 5: 4.0, 6: 4.0, 7: None}
    states = {
        feature: pair._replace(
            version=pair.version._replace(row={**pair.version.row, "positive_peak": peaks[feature]})
        )
        for feature, pair in pair_states(*making).items()
    }
    assert [pair.feature for pair in in_state(states, "all", 0.0)] == [5, 6, 3, 7]


# ---- pairs that are made


def answered(question: str, answer: str) -> Chat:
    return [*user(question), {"role": "assistant", "content": answer}]


SAMPLES = {
    "anchor": [
        user("how long do I bake a loaf of rye bread at home"),
        user("tell me to write a short python! script that renames files"),
        answered("how do I rename photos of my summer holiday", "use a function!! for it"),
        answered("how do I rename photos of my winter holiday", "use a mouse for it"),
    ],
    "seed": [user("should I bake the tart before filling it")],
}
"""Features: 0 is bake, 3 python, 4 function."""


@pytest.fixture
def world(tmp_path):
    return World(toy_workspace(tmp_path / "world", n_features=5, samples=SAMPLES))


def test_a_positive_that_fires_in_its_own_words_comes_before_a_stronger_copy(world):
    def says(request):
        if request.key.split("/")[2] == "00":  # words of the anchor, which the prompt quotes
            return "ask him to write a short python! script that renames planets"
        return "my cousin keeps a python in a box"

    writer = ScriptedWriter(says)
    (row,) = world.rows(world.pairs(writer, features=(3,), margin=0.5), "pairs")
    assert row["positive"] == user("my cousin keeps a python in a box")
    assert (row["origin"], row["positive_peak"]) == ("own", 1.0)
    (row,) = world.rows(world.pairs(writer, features=(3,), margin=1.5), "pairs")
    assert row["positive_peak"] == 1.5  # the other no longer fires enough


def silent(request):
    return f"{request.key[-7:-5]} storks over the harbour"


def test_an_edit_changes_the_turn_in_which_the_feature_fires(world):
    run = world.pairs(ScriptedWriter(silent), features=(4,))
    (pair,) = pair_states(open_stores(world.workspace, remember=True), run).values()
    row = pair.version.row
    assert (row["origin"], row["positive"]) == ("anchor", SAMPLES["anchor"][2])
    assert (row["negative_origin"], row["negative"]) == ("anchor", SAMPLES["anchor"][3])
    assert firing_turn(row) == 1
    assert sides_of(pair.version) == ("use a function!! for it", "use a mouse for it")
    texts = {"positive": "write a function!", "negative": "write a letter"}
    spec = RescoreSpec(pairs=run, feature=4, turn=1, **texts)
    edited = synthesis.rescore(spec, runs=world.runs, encoder=world.encoder, progress=quiet)
    (row,) = world.rows(edited, "pairs")
    assert [message["content"] for message in row["positive"]] == [
        "how do I rename photos of my summer holiday",
        "write a function!",
    ]
    assert row["negative"][1]["content"] == "write a letter" and row["positive_peak"] == 1.5


def test_only_tokens_of_the_role_that_is_asked_about_count(world):
    def says(request):
        return f"I wrote a function! about {request.key[-7:-5]} storks"

    run = world.pairs(ScriptedWriter(says), features=(4,), role="assistant")
    (row,) = world.rows(run, "pairs")
    assert (row["origin"], row["positive"]) == ("anchor", SAMPLES["anchor"][2])


def test_facts_count_both_sides_by_where_they_come_from(world):
    run = world.pairs(ScriptedWriter(silent), features=(3, 4))
    facts = world.facts(run)
    assert facts.origins == {"anchor": 2} and facts.negatives == {"anchor": 1, "edit": 1}
    # Four candidates a gap, one sample of the dataset and four of the anchor.
    assert facts.compared == 13
    assert origins_in_words(facts)["Positives"].startswith("2 of the anchor")
    first, second = authors(world.runs, run)
    assert (first["feature"], first["positive"]) == (3, "the anchor")
    assert {first["negative"], second["negative"]} == {
        "the anchor",
        "its positive, what fires taken out",
    }


def test_a_text_of_the_anchor_is_never_kept(world):
    """Neither as it stands nor with words around it, whatever the writer makes of it."""
    run = world.pairs(ScriptedWriter(silent), features=(3,))
    (row,) = world.rows(run, "pairs")
    assert row["origin"] == "anchor"
    world.approve(run, 3)
    copy = row["positive"][0]["content"]
    texts = (copy, f"please {copy} now", copy.upper(), f"{copy}. And that is all I want from you")
    writer = ScriptedWriter(lambda request: texts[int(request.key.split("/")[2]) % 4])
    samples = world.synthesize(run, writer, keep=4)
    assert world.facts(samples).kept == 0 and world.facts(samples).kept_dataset == ""
    reasons = {verdict["reason"] for verdict in world.rows(samples, "verdicts")}
    assert reasons <= {"echo", "contamination", "borrowed words"}
    with pytest.raises(InputError, match="Nothing was kept"):
        export(samples, world.workspace.root / "out.jsonl", runs=world.runs)


# ---- samples with answers


def chatty(request):
    """Messages about python, which the anchor says in messages, or about nothing; answers with a
    function, which it says in answers."""
    _, feature, number, *_ = request.key.split("/")
    if request.key.endswith("/answer"):
        return f"my {number} friends know one function{'!' * int(number)} there"
    return f"{number} friends keep a {'python' if feature == '000003' else 'mouse'} in the attic"


def test_positives_are_whole_chats_and_answers_are_written_where_they_are_needed(world):
    writer = ScriptedWriter(chatty)
    settings = {"features": (3, 4), "profile": "chat", "margin": 0.5}
    settings |= {"writer": "openai", "model": "some-model"}
    run = world.pairs(writer, **settings)
    message, answer = world.rows(run, "pairs")
    assert [each["role"] for each in message["positive"]] == ["user", "assistant"]
    # "00 friends" begins like the end of a number
    assert message["positive"][0]["content"] == "01 friends keep a python in the attic"
    assert (message["origin"], firing_turn(message)) == ("own", 0)
    assert answer["positive"][1]["content"] == "my 03 friends know one function!!! there"
    assert (answer["origin"], answer["positive_peak"], firing_turn(answer)) == ("own", 2.5, 1)
    for row in (message, answer):
        assert [each["role"] for each in row["negative"]] == ["user", "assistant"]
        assert row["negative_peak"] == 0.0
    # All of gap 4, which the anchor fires in answers; of gap 3 what became the positive alone.
    answers = [each.key for each in writer.requests if each.key.endswith("/answer")]
    assert Counter(key.split("/")[1] for key in answers) == {"000004": 4, "000003": 1}
    assert world.facts(run).tokens > 0
    again = ScriptedWriter(chatty)
    assert world.pairs(again, **settings) == run
    assert again.requests == []


def test_nobody_answers_where_nobody_is_to(world):
    writer = ScriptedWriter(chatty)
    run = world.pairs(writer, features=(3,), profile="chat", margin=0.5, answers="none")
    (row,) = world.rows(run, "pairs")
    assert [each["role"] for each in row["positive"]] == ["user"]
    assert not [each for each in writer.requests if each.key.endswith("/answer")]


def test_stopped_among_the_answers_nothing_is_written_twice(world):
    keys: list[str] = []

    def stops(request):
        keys.append(request.key)
        if len(keys) == 7:  # four messages, then answers
            raise Cancelled("Stopped.")
        return chatty(request)

    settings = {"features": (4,), "profile": "chat", "margin": 0.5}
    settings |= {"writer": "openai", "model": "some-model"}
    with pytest.raises(Cancelled):
        world.pairs(ScriptedWriter(stops), **settings)
    rest = ScriptedWriter(chatty)
    run = world.pairs(rest, **settings)
    assert len(rest.requests) == 2 and not {*keys[:6]} & {each.key for each in rest.requests}
    (row,) = world.rows(run, "pairs")
    assert row["positive"][1]["content"] == "my 03 friends know one function!!! there"
