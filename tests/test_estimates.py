"""fac.questions.estimates: what writing may take, the same for pairs and for samples from them."""

import math

import pytest

from fac import interpret
from fac.config import ExplainSpec, JudgeSpec, PairsSpec, SynthesizeSpec
from fac.generator.chat import estimated_tokens
from fac.generator.rate import RateLimit
from fac.prompts.relevance import TASKS
from fac.questions.estimates import asking, estimate
from fac.questions.pairs import StyleRequest
from fac.store import open_stores
from fac.synthesis.answers import MESSAGES
from tests.scripted import ScriptedChat
from tests.test_export import publish_pairs
from tests.test_interpret import honest
from tests.toy import toy_workspace

CHAT = {"profile": "chat"}
SERVER = {**CHAT, "writer": "openai", "model": "some-model"}


@pytest.fixture(scope="module")
def making(tmp_path_factory):
    """The stores of the toy with a run of pairs, and that run."""
    stores = open_stores(toy_workspace(tmp_path_factory.mktemp("toy")), remember=True)
    yield stores, publish_pairs(stores.runs)
    stores.cache.close()


@pytest.mark.parametrize(
    ("gaps", "settings", "tokens"),
    [
        ((3,), {}, 2 * 64),
        ((3, 6), {}, 2 * 2 * 64),
        # The toy's answers are short, so one may be as long as a text.
        ((3,), CHAT, 2 * (64 + 64)),
        # The anchor says "river" in answers alone: they are written first, then messages to them.
        ((6,), CHAT, 2 * (64 + MESSAGES * 64)),
        ((3, 6), CHAT, 2 * (64 + 64) + 2 * (64 + MESSAGES * 64)),
        ((3, 6), {**CHAT, "answers": "none"}, 2 * 2 * 64),
        ((6,), SERVER, 2 * (64 + 64)),
        ((6,), {**SERVER, "room": 500}, 2 * (500 + 500)),  # it may think as long, twice
        ((3,), {**CHAT, "max_new_tokens": 8}, 2 * (8 + 19)),  # room for 16 words
    ],
)
def test_pairs_and_samples_are_estimated_alike_and_answers_count(making, gaps, settings, tokens):
    stores, run = making
    facts = stores.runs.manifest(run).facts
    sides = {"anchor": facts.anchor, "dataset": facts.dataset}
    specs = (
        PairsSpec(**sides, features=gaps, candidates=2, **settings),
        SynthesizeSpec(pairs=run, approved=("a", "b")[: len(gaps)], candidates=2, **settings),
    )
    requests = [
        StyleRequest("list", 1, [{"role": "user", "content": "a" * 40}]),
        StyleRequest("sentence", 1, [{"role": "user", "content": "a" * 20}]),
    ]
    for spec in specs:
        amount = estimate(stores, spec, gaps, requests)
        assert (amount.texts, amount.most_tokens) == (2 * len(gaps), tokens)
        assert amount.prompt_tokens == len(gaps) * 60 // 4
        assert amount.is_answered == (settings.get("answers", "") != "none" and settings != {})


@pytest.mark.parametrize("scores", [(), ("fuzzing",), ("detection", "fuzzing")])
def test_an_estimate_counts_the_questions_that_a_run_then_asks(making, scores):
    """As many, with prompts about as long; then the run says how long they take."""
    stores, _ = making
    spec = ExplainSpec(
        measure=stores.runs.resolve("measure", "toy-anchor"),
        features=(3, 4, 6),
        explainer="llm",
        scores=scores,
        model=f"model of {len(scores)}",
        price_in=1.0,
        price_out=2.0,
    )
    amount = asking(stores, spec, seconds_each=2.0)
    chat = ScriptedChat(honest, spec.model)
    run = interpret.explain(spec, runs=stores.runs, ask=lambda: chat, progress=lambda *_: None)
    assert (amount.features, amount.questions) == (3, len(chat.prompts))
    assert amount.questions == 3 if not scores else amount.questions > 3
    tokens = sum(map(estimated_tokens, chat.prompts))
    assert amount.prompt_tokens == pytest.approx(tokens, rel=0.2)
    assert amount.most_tokens == sum(prompt.max_tokens for prompt in chat.prompts)
    dollars = (amount.prompt_tokens + 2 * amount.most_tokens) / 1e6
    assert amount.cost == pytest.approx(dollars)
    assert amount.seconds == 2 * amount.questions
    again = asking(stores, spec, seconds_each=2.0)
    assert again.seconds == pytest.approx(stores.runs.manifest(run).seconds)


def test_some_features_stand_for_all_and_room_is_counted(making):
    """Eleven features fire in the toy's anchor, and each is one question of a judge."""
    stores, _ = making
    spec = JudgeSpec(
        measure=stores.runs.resolve("measure", "toy-anchor"),
        task="toxicity",
        rubric=TASKS["toxicity"].rubric,
        model="m",
        room=1000,
    )
    amount = asking(stores, spec)
    assert (amount.features, amount.questions, amount.most_tokens) == (11, 11, 11 * 1000)
    assert amount.seconds is None and amount.cost is None
    limited = asking(stores, spec, seconds_each=1.0, rate=RateLimit(4, None))
    assert (limited.seconds, limited.limit) == (120.0, "4 requests a minute"), "4, 4 and 3"
    by_tokens = asking(stores, spec, seconds_each=1.0, rate=RateLimit(None, 10_000)).seconds
    assert by_tokens == 60 * (math.ceil((amount.prompt_tokens + amount.most_tokens) / 10_000) - 1)
    loose = asking(stores, spec, seconds_each=1.0, rate=RateLimit(100, None))
    assert (loose.seconds, loose.limit) == (11.0, "")
    chat = ScriptedChat(honest, spec.model)
    interpret.judge(spec, runs=stores.runs, ask=lambda: chat, progress=lambda *_: None)
    assert len(chat.prompts) == 11
    tokens = sum(map(estimated_tokens, chat.prompts))
    assert amount.prompt_tokens == pytest.approx(tokens, rel=0.2)
