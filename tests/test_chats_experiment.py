"""The experiment on chats: a planted effect is seen, none is seen where there is none."""

import numpy as np
import pytest

from fac.config import EXPERIMENTS, ExperimentSpec, Workspace
from fac.errors import Cancelled, InputError
from fac.experiments import Doors, experiment
from fac.experiments.arms import FILLING, MORE, NONE, NULL, RANDOM, SHUFFLED
from fac.experiments.kinds.chats import ANSWERS, CHOICES, FIRING, MISSING, OTHERS
from fac.experiments.lora import Losses, counts
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.runs import Runs
from tests.lexicon import LexiconEncoder
from tests.toy import WORDS, label_samples, toy_workspace

N_WORDS = 72
WRITTEN = "written rows, written"
RARE = [f"unsaid{i}" for i in range(len(WORDS), N_WORDS)]
"""Words of features, each said in few chats."""


def conversations(n=160, seed=0, words=RARE):
    """Chats whose answer says two words, apart by others that no other chat says; some words more
    often than others. The label is whether both are of the commonest quarter."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(3, len(words) + 3)
    pairs = rng.choice(len(words), (n, 2), p=chance / chance.sum())
    chats = []
    for i, (a, b) in enumerate(pairs):
        filler = [f"w{seed}x{i}x{k}" for k in range(22)]
        answer = [words[a], *filler[:11], words[b], *filler[11:]]
        chats.append(
            [
                {"role": "user", "content": f"please q{seed}x{i}"},
                {"role": "assistant", "content": " ".join(answer)},
            ]
        )
    return chats, ["few" if max(pair) < len(words) // 4 else "many" for pair in pairs]


class Scripted:
    """A model whose losses are known: a `Finetune` without weights. Chats are tokens as the encoder
    of the measure has them."""

    def __init__(self, learn):
        """`learn(learned words) -> (word -> nats)`."""
        self._learn, self._encoder = learn, LexiconEncoder(*RARE)
        self.calls = []

    def __call__(self, learned, judged, recipe):
        self.calls.append((len(learned), recipe.rate))
        words = [word for each in learned for word in each[1]["content"].split()]
        nats = self._learn(words)
        rows = []
        for i, text in enumerate(self._encoder.render(judged)):
            noise = np.random.default_rng([i, len(words)]).normal(0, 0.02)
            pieces = text.pieces(0, len(text.ids))
            rows += [
                (i, at, nats(pieces[at].strip()) + noise) for at in np.flatnonzero(counts(text))
            ]
        row, position, loss = zip(*rows, strict=True)
        return Losses(np.array(row), np.array(position), np.array(loss, np.float32))


def remembers(words):
    """Knows a word once it has learned it, and nothing else."""
    learned = set(words)
    return lambda word: 0.2 if word in learned else 1.0


def forgets(words):
    """All words alike are easier after more of them."""
    return lambda word: 2 - 0.2 * np.log1p(len(words))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    chats, labels = conversations()
    written, _ = conversations(40, seed=1, words=RARE[-12:])
    place = toy_workspace(
        tmp_path_factory.mktemp("chats"),
        n_features=N_WORDS,
        samples={"talk": chats, "written": written},
    )
    runs = Runs(place)
    label_samples(runs, "talk", labels)
    return runs, runs.resolve("measure", "talk"), runs.resolve("measure", "written")


def spec_of(measure, **how):
    about = {"name": "chats", "label": "", "threshold": 0.5, "labels": (12,), "draws": 4}
    return ExperimentSpec(measure=measure, **{**about, "tokens": 400, **how})


def quiet(*_):
    """Progress of which nobody wants to hear."""


def run_of(runs, spec, learn=remembers):
    model = Scripted(learn)
    return experiment(spec, runs=runs, doors=Doors(None, model), progress=quiet), model


def effects_of(runs, run):
    return {
        (row["outcome"], row["arm"], row["against"]): row
        for row in runs.table(run, "effects").to_pylist()
    }


def test_a_model_that_knows_words_once_it_has_read_them_gains_from_rows_that_fill_gaps(measured):
    runs, measure, _ = measured
    run, model = run_of(runs, spec_of(measure))
    effect = effects_of(runs, run)
    for against in (RANDOM, SHUFFLED):
        assert effect[ANSWERS, FILLING, against]["low"] > 0
    assert effect[ANSWERS, MORE, RANDOM]["low"] > 0 > effect[ANSWERS, NONE, RANDOM]["high"]
    null = effect[ANSWERS, NULL, RANDOM]
    assert null["low"] <= 0 <= null["high"]
    # Only a word that was read is easier, by .8, and near a peak are 17 tokens or fewer.
    for arm in (RANDOM, FILLING):
        assert effect[FIRING, arm, MISSING]["low"] > 0.8 / 17 / 2
        assert effect[FIRING, arm, OTHERS]["low"] > 0.8 / 17 / 2
    # As the model is, then of each draw two rates within the beginning, then every arm.
    assert len(model.calls) == 1 + 4 * (2 + 6)
    assert model.calls[0] == (0, 0.0) and {calls for calls, _ in model.calls[1:3]} == {9}


def test_a_model_that_learns_from_tokens_alone_gains_nothing_from_features(measured):
    runs, measure, _ = measured
    effect = effects_of(runs, run_of(runs, spec_of(measure, seed=2), forgets)[0])
    assert effect[ANSWERS, MORE, RANDOM]["low"] > 0
    chance = effect[ANSWERS, FILLING, RANDOM]
    assert abs(chance["difference"]) < effect[ANSWERS, MORE, RANDOM]["difference"] / 3
    for arm in (RANDOM, FILLING):
        for against in (MISSING, OTHERS):
            row = effect[FIRING, arm, against]
            assert row["low"] <= 0 <= row["high"], (arm, against)


def test_arms_have_equal_tokens_and_the_figures_are_those_of_the_losses(measured):
    runs, measure, written = measured
    run, _ = run_of(runs, spec_of(measure, written=(written,), seed=1))
    rows = {}
    for row in runs.table(run, "results").to_pylist():
        rows.setdefault((row["arm"], row["draw"]), {})[row["figure"]] = row["value"]
    assert {arm for arm, _ in rows} == {*CHOICES, WRITTEN}
    effect = effects_of(runs, run)
    for draw in range(4):
        base = rows[NONE, draw]["tokens"]
        for arm in (RANDOM, FILLING, SHUFFLED, NULL, WRITTEN):
            assert rows[arm, draw]["tokens"] - base == pytest.approx(400, abs=30)
        assert rows[MORE, draw]["tokens"] - base == pytest.approx(800, abs=30)
        assert rows[FILLING, draw]["fac"] > rows[RANDOM, draw]["fac"] > rows[NONE, draw]["fac"]
    gains = [rows[FILLING, draw]["gain"] - rows[RANDOM, draw]["gain"] for draw in range(4)]
    assert effect[ANSWERS, FILLING, RANDOM]["difference"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert (ANSWERS, WRITTEN, RANDOM) in effect


def test_one_may_begin_with_chats_of_a_kind(measured):
    runs, measure, _ = measured
    run, _ = run_of(runs, spec_of(measure, label="few", tokens=200))
    said = finding(open_stores(runs.workspace, remember=False), run)
    assert "labelled 'few'" in said.note and "teach more than random rows" in said.conclusion
    assert "where the features of its rows fire" in said.conclusion


def test_a_stopped_run_goes_on_where_it_was_and_ends_in_the_same_tables(measured, tmp_path):
    runs, measure, _ = measured
    spec, model = spec_of(measure, seed=7, draws=2), Scripted(remembers)

    def stop(done, total, note=""):
        if done == 4:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=Doors(None, model), progress=stop)
    first = len(model.calls)
    assert first == 1 + 2 + 4
    run = experiment(spec, runs=runs, doors=Doors(None, model), progress=quiet)
    assert len(model.calls) - first == 2 + 2 * 6 - 4
    again = Runs(Workspace(tmp_path))
    for step in ("dataset", "measure", "sae"):
        (again.root / step).parent.mkdir(parents=True, exist_ok=True)
        (again.root / step).symlink_to(runs.root / step)
    assert run_of(again, spec)[0] == run
    for name in ("results", "effects"):
        assert again.table(run, name) == runs.table(run, name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"label": "rude"}, "0 chats of talk labelled 'rude'"),
        ({"labels": (90,), "tokens": 2000}, "tokens of talk are left"),
        ({"rates": (2.0,)}, "between 0 and 1"),
        ({"tokens": 0}, "At least one token"),
        ({"most_test": 2}, "At least 4 chats"),
    ],
)
def test_chats_that_cannot_answer_are_a_sentence(measured, how, words):
    runs, measure, _ = measured
    with pytest.raises(InputError, match=words):
        run_of(runs, spec_of(measure, **how))
    with pytest.raises(InputError, match=words):  # and before anything is queued
        EXPERIMENTS["chats"].check(spec_of(measure, **how), runs)


def test_without_a_model_there_is_no_experiment(measured):
    runs, measure, _ = measured
    with pytest.raises(InputError, match="Nobody here can finetune"):
        experiment(spec_of(measure, seed=9), runs=runs, doors=Doors(None), progress=quiet)
