"""fac.questions.explanations: whose text is preferred."""

from fac.config import Workspace
from fac.questions.explanations import explain_runs
from fac.store.runs import Runs
from tests.test_cache import N_FEATURES, N_SAMPLES, made_of
from tests.toy import publish_activations, publish_explanations

SIZES = {"n_features": N_FEATURES, "n_samples": N_SAMPLES}


def test_the_newest_explanations_of_a_model_are_preferred_then_imported_ones(tmp_path):
    runs = Runs(Workspace(tmp_path))
    anchor = publish_activations(runs, "anchor", made_of(0, 1.0), **SIZES)
    other = publish_activations(runs, "other", made_of(0, 1.0), **SIZES)
    assert explain_runs(runs, anchor) == []
    published = [("llm", 0), ("tokens", 0), ("external", 0), ("llm", 1), ("tokens", 1)]
    of = {
        (explainer, attempt): publish_explanations(
            runs, anchor, {0: explainer}, explainer=explainer, attempt=attempt
        )
        for explainer, attempt in published
    }
    elsewhere = publish_explanations(runs, other, {0: "x"}, explainer="llm")
    preferred = [("llm", 1), ("llm", 0), ("external", 0), ("tokens", 1), ("tokens", 0)]
    assert explain_runs(runs, anchor) == [of[key] for key in preferred]
    assert explain_runs(runs, other) == [elsewhere]
