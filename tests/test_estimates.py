"""fac.questions.estimates: what writing may take, the same for pairs and for samples from them."""

import pytest

from fac.config import PairsSpec, SynthesizeSpec
from fac.questions.estimates import estimate
from fac.questions.pairs import StyleRequest
from fac.store import open_stores
from fac.synthesis.answers import MESSAGES
from tests.test_export import publish_pairs
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
