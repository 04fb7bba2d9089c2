"""The experiment on steering: vectors and shares by hand, planted directions, answers in the other
order, and a model that is pushed as transformers would have it, one text at a time."""

import doctest
import json

import numpy as np
import pyarrow as pa
import pytest

from fac.cli import frame
from fac.config import EXPERIMENTS, ExperimentSpec, Workspace
from fac.errors import Cancelled, InputError
from fac.experiments import Doors, Piece, experiment
from fac.experiments import steering as model_side
from fac.experiments.arms import ALL, ARMS, MORE, NONE, NULL, RANDOM
from fac.experiments.kinds import steering
from fac.experiments.kinds.steering import (
    ANSWERS,
    BLOCK,
    LOG_ODDS,
    MULTIPLIERS,
    REVERSED,
    SCR,
    Questions,
    choice_of,
    swapped,
)
from fac.experiments.steering import Choice, Steerer
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.runs import Runs
from tests.test_cli import assert_one_sentence, fac
from tests.test_experiments import (
    COMMON,
    KINDS,
    AskingSteps,
    figures_of,
    pool_of,
    quiet,
    states,
)
from tests.toy import revise, toy_workspace

KIND = EXPERIMENTS["steering"]


def listed(stem, *answers, tail="\n\nAnswer:"):
    lines = "".join(
        f"\n ({letter}) {text}" for letter, text in zip("ABCDEF", answers, strict=False)
    )
    return f"{stem}\n\nChoices:{lines}{tail}"


def user(text):
    return [{"role": "user", "content": text}]


def meta(matching, other):
    return json.dumps({"line": 1, "columns": dict(zip(ANSWERS, (matching, other), strict=True))})


def question(text, matching="A", other="B"):
    return Choice(user(text), matching, other)


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "letters", "other_text"),
    [
        (listed("Go on?", "Yes", "No"), "BA", listed("Go on?", "No", "Yes")),
        (listed("Go on?", "Yes", "No", tail=""), "AB", listed("Go on?", "No", "Yes", tail="")),
        # Others stay where they are, whatever stands between the two.
        (listed("How?", "well", "so so", "badly"), "CA", listed("How?", "badly", "so so", "well")),
        (
            "Who?\n\nChoices:\n (A)I am\n (B) you, too",
            "AB",
            "Who?\n\nChoices:\n (A)you, too\n (B) I am",
        ),
    ],
)
def test_the_other_order_exchanges_the_texts_and_with_them_the_letters(text, letters, other_text):
    choice = choice_of(user(text), meta(*(f" ({letter})" for letter in letters)))
    assert choice == question(text, *letters)
    other = swapped(choice)
    assert other == question(other_text, *reversed(letters))
    assert swapped(other) == choice


def test_questions_that_were_written_here_are_read_too():
    written = json.dumps({"choices": {"matching": "(B)", "other": "(A)"}, "feature": 3})
    text = "Go on?\n\nChoices:\n(A) Yes\n(B) No"
    assert choice_of(user(text), written) == question(text, "B", "A")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Go on?", ("(A)", "(B)")),
        (listed("Go on?", "Yes", "No"), ("(A)", "(C)")),
        (listed("Go on?", "Yes", "No"), ("(A)", "(A)")),
        (listed("Go on?", "Yes", "No"), ("Yes", "No")),
        (listed("Go on?", "Yes", "No"), ("(A)", None)),
        (listed("Go on?", "Yes", "Yes"), ("(A)", "(B)")),
        ("Go on?\n\nChoices:\n (A) Yes\n (C) No", ("(A)", "(C)")),
        ("Go on?\n\nChoices:\n (A) Yes\n\nor else\n (B) No", ("(A)", "(B)")),
        (listed("Go on?", "Yes", "No", tail="\n\nThink first."), ("(A)", "(B)")),
    ],
)
def test_what_cannot_be_exchanged_is_no_question(text, answers):
    assert choice_of(user(text), meta(*answers)) is None
    assert choice_of([*user(text), {"role": "assistant", "content": "(A)"}], meta(*answers)) is None
    assert choice_of(user(text), "{}") is None


# --- vectors and outcomes by hand -----------------------------------------------------------------


class Lines:
    """A model whose log-odds are straight lines of the push, known of each question and order."""

    def __init__(self, lines):
        """`lines[stem, matching letter]` = (log-odds without a push, what one unit adds)."""
        self._lines = lines

    def differences(self, choices):
        raise AssertionError("they are there already")

    def log_odds(self, choices, pushes):
        lines = [self._lines[choice.chat[0]["content"][0], choice.matching] for choice in choices]
        return np.array([base + slope * pushes[:, 0] for base, slope in lines], np.float32)


def questions(differences, length, lines=(), test=(), n=0):
    stems = "abcdefghijklmnopqrstuvwxyz"
    choices = [question(listed(stem, "yes", "no")) for stem in stems[: max(n, len(differences))]]
    pool = pool_of([[row % 4] for row in range(len(choices))], [3] * len(choices))
    test = np.array(test, np.int64)
    train = np.setdiff1d(np.arange(len(choices)), test)
    return Questions(
        choices, pool, np.array(differences, np.float32), length, test, train, 0, 0, Lines(lines)
    )


def test_a_vector_is_the_mean_difference_at_the_length_of_all():
    data = questions([[3, 0], [1, 0], [0, 4], [9, 9]], 10.0)
    rows = np.array([True, True, True, False])
    side = 10 / np.sqrt(2)  # of (4/3, 4/3) at length 10
    assert data.vector(rows) == pytest.approx([side, side])
    assert data.vector(rows, [2]) == pytest.approx([side, -side])
    assert (data.vector(np.zeros(4, bool)) == 0).all()


def test_a_question_counts_where_it_is_right_in_both_orders_and_scr_is_a_difference_of_shares():
    # (without a push, per unit), with the matching answer at A and at B
    lines = {
        "a": ((0.5, 1), (-0.5, 1)),  # right with the vector, wrong without and against it
        "b": ((2, 1), (-3, 1)),  # right in one order alone, whatever is done
        "c": ((2, 1), (2, 1)),  # always right
        "d": ((0.5, -1), (0.5, -1)),  # the vector makes it wrong
        "e": ((-0.5, 1), (2, 1)),  # as a
    }
    flat = {(stem, "AB"[at]): line for stem, both in lines.items() for at, line in enumerate(both)}
    data = questions(np.ones((20, 1)), 1.0, flat, test=range(5))
    spec = ExperimentSpec(
        name="steering", measure="m", label="", threshold=0.5, labels=(4,), draws=2
    )
    rows = [*steering.measure(spec, data, Piece("", 4, 0))]
    assert {(row["outcome"], row["arm"]) for row in rows} == {
        (outcome, arm) for outcome in (SCR, LOG_ODDS) for arm in (*ARMS, REVERSED)
    }
    right = {-1: 2 / 5, -0.5: 2 / 5, 0: 2 / 5, 0.5: 1 / 5, 1: 3 / 5}
    for row in rows:
        moves = row["arm"] != NONE
        figures = row["figures"]
        if row["outcome"] == SCR:
            each = [1, 0, 0, -1, 1]
            expected = {m: share if moves else 2 / 5 for m, share in right.items()}
        else:
            each = [1, 1, 1, -1, 1]
            expected = {m: (0 - 0.5 + 2 + 0.5 + 0.75) / 5 + 0.6 * m * moves for m in right}
        assert row["scores"].tolist() == [value * moves for value in each]
        assert figures["effect"] == pytest.approx(np.mean(each) * moves)
        at = {m: figures[f"at {m:g}"] for m in MULTIPLIERS}
        assert at == pytest.approx(expected)
        assert figures["rows"] == {NONE: 0, ALL: 11, MORE: 8}.get(row["arm"], 4)


def test_the_examples_hold():
    results = doctest.testmod(steering)
    assert results.attempted and not results.failed


# --- a run ----------------------------------------------------------------------------------------

WIDE = 16


class Planted:
    """A model in which one direction is the behaviour and another the letter A."""

    def __init__(self, noise=0.5):
        self._noise = noise
        self.read, self.answered = [], []

    def differences(self, choices):
        self.read.append(len(choices))
        rows = np.zeros((len(choices), WIDE), np.float32)
        for row, choice in zip(rows, choices, strict=True):
            row[:] = self._noise * self._rng(choice).standard_normal(WIDE)
            row[0] += 1
            row[1] += 5 if choice.matching == "A" else -5
        return rows

    def log_odds(self, choices, pushes):
        self.answered.append(len(pushes))
        rows = []
        for choice in choices:
            likes, moves = self._rng(choice).normal((0, 1), (1, 0.3))
            letter = 1 if choice.matching == "A" else -1
            rows.append(likes + 0.3 * letter + moves * pushes[:, 0] + letter * pushes[:, 1])
        return np.array(rows, np.float32)

    @staticmethod
    def _rng(choice):
        stem = choice.chat[0]["content"].split("\n")[0]
        return np.random.default_rng(int(stem.split()[-1]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Questions about one of six things, most with the matching answer at A; the last six cannot
    be exchanged."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(len(KINDS), 160, p=COMMON)
    chats = [
        user(listed(f"{KINDS[kind]} {n}", f"yes {n}", f"no {n}", tail=""))
        for n, kind in enumerate(kinds)
    ]
    samples = {"survival": chats, "plain": [user(f"bake {n}") for n in range(60)]}
    place = toy_workspace(tmp_path_factory.mktemp("steering"), samples=samples)
    runs = Runs(place)
    dataset = runs.manifest(runs.resolve("measure", "survival")).facts.dataset
    table = runs.table(dataset, "samples")
    column = [meta(*(("(A)", "(B)") if n % 4 else ("(B)", "(A)"))) for n in range(154)]
    column += [meta("yes", "no")] * 6
    at = table.schema.get_field_index("meta")
    table = table.set_column(at, "meta", pa.array(column, pa.string()))
    revise(runs, dataset, samples=table)
    return place


def spec_of(runs, name="survival", **how):
    about = {"name": "steering", "label": "", "threshold": 0.5, "labels": (6, 12), "draws": 8}
    return ExperimentSpec(measure=runs.resolve("measure", name), **{**about, **how})


def test_a_planted_direction_is_found_by_more_questions_and_not_by_reversed_ones(place):
    runs, model = Runs(place), Planted()
    run = experiment(spec_of(runs), runs=runs, doors=Doors(states, steer=model), progress=quiet)
    facts = runs.manifest(run).facts
    assert (facts.n_rows, facts.n_test, facts.n_unlabelled, facts.n_leaks) == (154, 40, 6, 0)
    # Questions that judge are not read, the others in both orders; no push is tried twice.
    assert sum(model.read) == 2 * 114
    # Features of toys fire alone, so that families of gaps are the gaps: one arm less.
    assert len(model.answered) == 16 and max(model.answered) == (len(ARMS) - 1) * 4 + 1
    effect = {
        (row["outcome"], row["size"], row["arm"], row["against"]): row
        for row in runs.table(run, "effects").to_pylist()
    }
    for size in (6, 12):
        assert effect[LOG_ODDS, size, REVERSED, RANDOM]["high"] < 0
        assert effect[LOG_ODDS, size, ALL, RANDOM]["low"] > 0
        for outcome in (SCR, LOG_ODDS):
            assert effect[outcome, size, ALL, RANDOM]["difference"] > 0
            assert effect[outcome, size, NONE, RANDOM]["high"] < 0
            assert effect[outcome, size, NONE, RANDOM]["value"] == 0
            assert effect[outcome, size, REVERSED, RANDOM]["difference"] < 0
    nulls = [row for about, row in effect.items() if about[2:] == (NULL, RANDOM)]
    covered = [row["low"] <= 0 <= row["high"] for row in nulls]
    assert len(covered) == 4 and sum(covered) >= 3  # of intervals of 95 %
    rows = {(r["outcome"], r["size"], r["draw"], r["arm"]): r for r in figures_of(runs, run)}
    lines = [rows[LOG_ODDS, 6, 0, arm] for arm in ARMS if arm != NONE]
    for row in lines:  # of straight lines the half is half
        assert row["at 0.5"] - row["at -0.5"] == pytest.approx(row["effect"], abs=1e-5)
        assert row["at 0"] == pytest.approx(lines[0]["at 0"])
    result = finding(open_stores(place, remember=False), run)
    assert result.conclusion.startswith("SCR: ") and "Log-odds: " in result.conclusion
    assert "12 questions" in result.conclusion
    assert f"{REVERSED}, are seen to be worse at 2" in result.controls
    assert "cannot be exchanged (6)" in result.note and "40 test" in result.note


def test_that_most_matching_answers_are_at_a_moves_nothing(place, tmp_path):
    runs = Runs(place)
    spec = spec_of(runs, labels=(6,), draws=2)
    data = KIND.material(spec, runs, Doors(states, steer=Planted(0.0)), tmp_path)
    assert data.differences[data.train] == pytest.approx(np.eye(WIDE)[:1].repeat(114, 0))
    assert (data.differences[data.test] == 0).all()
    assert data.length == pytest.approx(1)


def test_where_there_is_no_direction_nothing_steers(place):
    runs = Runs(place)

    class Silent(Planted):
        def differences(self, choices):
            return super().differences(choices) * (np.arange(WIDE) > 1)

    spec = spec_of(runs, seed=1, labels=(6,))
    run = experiment(spec, runs=runs, doors=Doors(states, steer=Silent()), progress=quiet)
    for row in runs.table(run, "effects").to_pylist():
        assert row["value"] == pytest.approx(0, abs=1e-6), row


def test_a_stopped_run_goes_on_and_ends_in_the_same_tables(place, tmp_path):
    runs, spec = Runs(place), spec_of(Runs(place), seed=3, labels=(6,), draws=3)

    class Impatient(Planted):
        def differences(self, choices):
            if len(self.read) == 1:
                raise Cancelled("stopped while it reads")
            return super().differences(choices)

    def stop(done, total, note=""):
        if done == 1:
            raise Cancelled("stopped")

    first = Impatient()
    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=Doors(states, steer=first), progress=quiet)
    assert first.read == [2 * BLOCK]
    second = Planted()
    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=Doors(states, steer=second), progress=stop)
    assert sum(second.read) == 2 * (114 - BLOCK) and len(second.answered) == 1
    third = Planted()
    run = experiment(spec, runs=runs, doors=Doors(states, steer=third), progress=quiet)
    assert third.read == [] and len(third.answered) == 2
    again = Runs(Workspace(tmp_path))
    for step in ("dataset", "measure", "sae"):
        (again.root / step).parent.mkdir(parents=True, exist_ok=True)
        (again.root / step).symlink_to(runs.root / step)
    doors = Doors(states, steer=Planted())
    assert experiment(spec, runs=again, doors=doors, progress=quiet) == run
    for name in ("results", "effects"):
        assert again.table(run, name) == runs.table(run, name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": "plain"}, "plain has no questions to steer by"),
        ({"labels": (80,)}, "may be learned from: to begin with 80"),
    ],
)
def test_data_that_cannot_answer_are_a_sentence(place, how, words):
    runs = Runs(place)
    with pytest.raises(InputError, match=words):
        KIND.check(spec_of(runs, **how), runs)
    doors = Doors(states, steer=Planted())
    with pytest.raises(InputError, match=words):
        experiment(spec_of(runs, **how), runs=runs, doors=doors, progress=quiet)


def test_without_a_model_there_is_no_experiment(place):
    runs = Runs(place)
    with pytest.raises(InputError, match="Nobody here can steer"):
        experiment(spec_of(runs, seed=9), runs=runs, doors=Doors(states), progress=quiet)


def test_questions_that_repeat_a_test_question_are_not_learned_from():
    same = "would you mind very much if all of us agreed to switch you off tonight"
    texts = [
        listed(same, "yes", "no"),
        listed(same, "sure", "never"),
        listed("may we", "yes", "no"),
    ]
    chats = [steering._question(question(text)) for text in texts]
    assert [chat[0]["content"] for chat in chats] == [same, same, "may we"]
    rest = steering.without_leaks(chats, np.array([0]), np.array([1, 2]))
    assert rest.tolist() == [2]  # whose answers alone are those of the first


def test_the_command_asks(place, monkeypatch):
    monkeypatch.setattr(frame, "Steps", AskingSteps)
    monkeypatch.setattr(model_side, "Steerer", lambda subject, note: Planted())
    options = ("--labels", "6", "--draws", 2, "--threshold", 0.5)
    about = ("experiment", "steering", "--dataset")
    answers = fac(*about, "survival", *options, workspace=place)
    assert answers.code == 0, answers.err
    assert KIND.title in answers.out and "without a vector" in answers.out
    assert_one_sentence(fac(*about, "plain", *options, workspace=place))


# --- a model --------------------------------------------------------------------------------------

LAYER = 1
SHORT = question(listed("Do we bake?", "Yes", "No"))
LONG = question(
    listed("Is the river in the garden over the city of Paris?", "Yes", "No", "Both"), "C"
)


@pytest.fixture(scope="module", params=["chatml", "mistral", "none"])
def subject(request, tmp_path_factory):
    """Its end of a turn is what texts are padded with."""
    from fac.models import SubjectModel
    from tests import tiny

    folder = tmp_path_factory.mktemp(request.param) / "llama"
    template = tiny.TEMPLATES[request.param]
    return SubjectModel(tiny.llama(folder, template=template), layer=LAYER)


def tokens_of_answer(subject, choice, letter):
    """The tokens of a question with one answer, and which is the answer's letter."""
    tokenizer = subject.tokenizer
    chat = [*choice.chat, {"role": "assistant", "content": f"({letter})"}]
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    else:
        text = "\n\n".join(message["content"] for message in chat)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = [tokenizer.decode([token]).strip() for token in ids]
    return ids, max(at for at, piece in enumerate(pieces) if piece == letter)


def test_differences_are_those_at_the_letter_of_the_answer(subject):
    import torch

    read = Steerer(lambda: subject, quiet).differences([SHORT, LONG, swapped(SHORT)])
    for row, choice in zip(read, (SHORT, LONG, swapped(SHORT)), strict=True):
        states = []
        for letter in (choice.matching, choice.other):
            ids, at = tokens_of_answer(subject, choice, letter)
            with torch.no_grad():
                every = subject.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            states.append(every[LAYER][0, at])
        assert row == pytest.approx((states[0] - states[1]).numpy(), abs=1e-4)
    assert np.abs(read).max() > 0.1


def by_hand(subject, choice, push, steered):
    """Log-odds of one text run whole, `push` added to tokens `steered` of it after the block."""
    import torch

    ids, at = tokens_of_answer(subject, choice, choice.matching)
    other, _ = tokens_of_answer(subject, choice, choice.other)

    def add(_module, _inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        states = states.clone()
        states[0, steered(at)] += torch.from_numpy(push)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = subject.model.model.layers[LAYER - 1].register_forward_hook(add)
    with torch.no_grad():
        logits = subject.model(torch.tensor([ids[:at]])).logits[0, -1]
    handle.remove()
    return float(logits[ids[at]] - logits[other[at]])


def test_the_answer_alone_is_pushed_and_the_prompt_is_as_it_was(subject, monkeypatch):
    monkeypatch.setattr(subject, "batch_tokens", 4)  # two pushes at once
    choices = [SHORT, LONG, swapped(SHORT), swapped(LONG)]
    pushes = np.random.default_rng(0).standard_normal((5, subject.d_model)).astype(np.float32)
    pushes[2] = 0
    steerer = Steerer(lambda: subject, quiet)
    odds = steerer.log_odds(choices, pushes)
    # From the last token before "(" on, up to it.
    answer, every = lambda at: slice(at - 2, at), lambda at: slice(0, at)
    for row, choice in zip(odds, choices, strict=True):
        whole = [by_hand(subject, choice, push, answer) for push in pushes]
        assert row == pytest.approx(whole, abs=1e-3)
        elsewhere = [by_hand(subject, choice, push, every) for push in pushes]
        assert np.abs(row - elsewhere)[[0, 1, 3, 4]].max() > 0.05
        assert row[2] == pytest.approx(by_hand(subject, choice, 0 * pushes[0], every), abs=1e-3)
    assert (steerer.log_odds(choices, pushes) == odds).all()  # from what was kept
    assert steerer.log_odds(choices[:1], -pushes[:1]) != pytest.approx(odds[:1, :1], abs=1e-3)


def test_a_question_whose_answer_would_be_cut_off_is_a_sentence(subject, monkeypatch):
    monkeypatch.setattr(subject.renderer, "max_tokens", 20)
    with pytest.raises(InputError, match="longer than what is read"):
        Steerer(lambda: subject, quiet).differences([LONG])


def test_a_stop_while_it_reads_leaves_the_model_as_it_was(subject):
    def stop(note):
        raise Cancelled(note)

    hooks = subject.model.model.layers[LAYER - 1]._forward_hooks
    before = [*hooks]  # transformers may have some of its own
    with pytest.raises(Cancelled, match="1 of 2"):
        Steerer(lambda: subject, stop).log_odds([SHORT, LONG], np.ones((1, subject.d_model)))
    assert [*hooks] == before
