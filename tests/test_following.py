"""The experiment on instruction following: a planted effect is seen, none where there is none; and
the door through which a model answers."""

import json

import numpy as np
import pytest

from fac.config import EXPERIMENTS, ExperimentSpec, IngestSpec, Workspace
from fac.errors import Cancelled, InputError
from fac.experiments import Doors, experiment
from fac.experiments.arms import FILLING, MORE, NONE, NULL, RANDOM, SHUFFLED
from fac.experiments.kinds.following import INSTRUCTIONS, PROMPTS
from fac.experiments.lora import Answer, Finetuner, Losses, Recipe
from fac.ingest import ingest
from fac.questions import experiments as questions
from fac.questions.experiments import finding
from fac.store import open_stores
from fac.store.runs import Runs
from tests.test_chats_experiment import N_WORDS, RARE, conversations, quiet
from tests.toy import toy_workspace


def chat(user, assistant=None):
    messages = [{"role": "user", "content": user}]
    return messages + ([{"role": "assistant", "content": assistant}] if assistant else [])


# --- planted answers ------------------------------------------------------------------------------

NO_COMMA = ("punctuation:no_comma", {})


def row_of(prompt, *constraints, key=""):
    kinds, arguments = zip(*constraints, strict=True)
    about = {"key": key or prompt, "instruction_id_list": kinds, "kwargs": arguments}
    return {**about, "prompt": prompt}


def rows_of():
    """A prompt for each word, and five that cannot judge."""
    long = ("length_constraints:number_words", {"num_words": 300, "relation": "at least"})
    return [
        *(
            row_of(f"say {word}", ("keywords:existence", {"keywords": [word]}), NO_COMMA)
            for word in RARE
        ),
        row_of("in other words", ("language:response_language", {"language": "fi"})),
        row_of("at length", NO_COMMA, long),
        row_of("please q0x7", NO_COMMA),  # what row 7 asks
        row_of("in verse", ("keywords:rhyme", {}), key="verse"),
        row_of("in prose", ("keywords:existence", {"keywords": []}), key="prose"),
    ]


class Scripted:
    """A model whose answers are known, an `Answers` without weights; losses are all alike."""

    def __init__(self, knows):
        """`knows(learned words) -> (word -> bool)`: whether it can say a word that is asked for."""
        self._knows = knows
        self.calls = []

    def finetune(self, learned, judged, recipe):
        chat = np.arange(len(judged), dtype=np.int32)
        return Losses(chat, np.ones_like(chat), np.ones(len(chat), np.float32))

    def answers(self, learned, prompts, recipe, tokens):
        self.calls.append((len(learned), recipe.rate, tokens))
        knows = self._knows([w for each in learned for w in each[1]["content"].split()])
        return [self._answer(prompt[-1]["content"].split()[-1], knows) for prompt in prompts]

    @staticmethod
    def _answer(word, knows):
        return Answer(f"It is {word}" if knows(word) else "Who knows", finished=knows(word))


class Chatty(Scripted):
    """Strictly, a comma in its opening breaks what it says after."""

    @staticmethod
    def _answer(word, knows):
        return Answer(f"Well, here:\n{Scripted._answer(word, knows).text}", finished=False)


def remembers(words):
    """Can say a word once it has learned it."""
    learned = set(words)
    return lambda word: word in learned


def grows(words):
    """Can say more words after more of them, whichever they were."""
    share = len(words) / 1500
    return lambda word: RARE.index(word) * 37 % len(RARE) < share * len(RARE)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    chats, _ = conversations()
    folder = tmp_path_factory.mktemp("following")
    place = toy_workspace(folder / "place", n_features=N_WORDS, samples={"talk": chats})
    runs, path = Runs(place), folder / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of()))
    prompts = ingest(IngestSpec(name="asked", source=str(path)), runs=runs)
    return runs, runs.resolve("measure", "talk"), prompts, path


def spec_of(measure, prompts, **how):
    about = {"name": "following", "label": "", "threshold": 0.5, "labels": (12,), "draws": 4}
    more = {"tokens": 400, "most_test": 100, "rates": (1e-3,), "prompts": prompts}
    return ExperimentSpec(measure=measure, **{**about, **more, **how})


def run_of(runs, spec, model):
    return experiment(
        spec, runs=runs, doors=Doors(None, model.finetune, answers=model.answers), progress=quiet
    )


def effects_of(runs, run):
    return {
        (row["outcome"], row["arm"], row["against"]): row
        for row in runs.table(run, "effects").to_pylist()
    }


def test_a_model_that_says_what_it_has_read_follows_more_after_rows_that_fill_gaps(measured):
    runs, measure, prompts, _ = measured
    model = Scripted(remembers)
    run = run_of(runs, spec_of(measure, prompts), model)
    effect = effects_of(runs, run)
    for outcome in (INSTRUCTIONS, PROMPTS):
        for against in (RANDOM, SHUFFLED):
            assert effect[outcome, FILLING, against]["low"] > 0
        assert effect[outcome, MORE, RANDOM]["low"] > 0 > effect[outcome, NONE, RANDOM]["high"]
        null = effect[outcome, NULL, RANDOM]
        assert null["low"] <= 0 <= null["high"]
    for arm in (NONE, RANDOM, FILLING):
        # Of two constraints one is followed always, the other where the whole prompt is.
        whole = effect[PROMPTS, arm, RANDOM]
        each = effect[INSTRUCTIONS, arm, RANDOM]
        assert each["value"] == pytest.approx((1 + whole["value"]) / 2)
        assert each["difference"] == pytest.approx(whole["difference"] / 2)
        assert each["low"] == pytest.approx(whole["low"] / 2)
    # As the model is, then every arm of every draw.
    assert len(model.calls) == 1 + 4 * 6 and model.calls[0] == (0, 0.0, 96)
    said = finding(open_stores(runs.workspace, remember=False), run)
    assert "Prompts followed in full: filling gaps helps at 12 chats" in said.conclusion
    assert "twice the tokens are seen to help at 1 of 1 sizes" in said.controls
    assert f"{len(RARE)} prompts judge" in said.note
    assert "follows 0.00 in full and 0.50 of their constraints" in said.note


def test_a_model_that_learns_from_tokens_alone_follows_no_more(measured):
    runs, measure, prompts, _ = measured
    run = run_of(runs, spec_of(measure, prompts, seed=2), Scripted(grows))
    effect = effects_of(runs, run)
    for outcome in (INSTRUCTIONS, PROMPTS):
        more = effect[outcome, MORE, RANDOM]
        assert more["low"] > 0
        assert abs(effect[outcome, FILLING, RANDOM]["difference"]) < more["difference"] / 3
    said = finding(open_stores(runs.workspace, remember=False), run)
    assert "helps at" not in said.conclusion


def test_loosely_an_opening_costs_nothing_and_answers_that_are_cut_are_counted(measured):
    runs, measure, prompts, _ = measured
    plain, chatty = (
        run_of(runs, spec_of(measure, prompts, seed=seed, draws=2), model)
        for seed, model in ((3, Scripted(remembers)), (4, Chatty(remembers)))
    )
    for run, opening in ((plain, 0), (chatty, 1)):
        figures = {}
        for row in runs.table(run, "results").to_pylist():
            key = row["outcome"], row["arm"], row["draw"]
            figures.setdefault(key, {})[row["figure"]] = row["value"]
        for (outcome, arm, draw), here in figures.items():
            whole = figures[PROMPTS, arm, draw]["loose"]
            if outcome == PROMPTS:
                assert here["accuracy"] == (0 if opening else whole)
                assert here["cut"] == pytest.approx(1 if opening else 1 - whole)
            else:
                assert here["loose"] == pytest.approx((1 + whole) / 2)
                assert here["accuracy"] == pytest.approx((1 + whole) / 2 - opening / 2)


def test_prompts_that_cannot_judge_are_left_out_and_counted(measured):
    runs, measure, prompts, _ = measured
    run = run_of(runs, spec_of(measure, prompts, seed=5, draws=2, most_test=40), Scripted(grows))
    facts = runs.manifest(run).facts
    assert (facts.n_rows, facts.n_test, facts.n_leaks) == (160, 40, 1)
    assert sorted(facts.left_out.values()) == [1, 1, 1, 2, len(RARE) - 40]
    note = finding(open_stores(runs.workspace, remember=False), run).note
    for words in (
        "1 ask for a language, which nothing here checks",
        "1 take more than 72 words to follow",
        "1 nearly repeat a row that may be learned from",
        "2 have constraints that cannot be read (such as: Prompt verse has the constraint",
        f"{len(RARE) - 40} were not drawn",
    ):
        assert words in note


def test_a_stopped_run_goes_on_where_it_was_and_ends_in_the_same_tables(measured, tmp_path):
    runs, measure, prompts, _ = measured
    spec, model = spec_of(measure, prompts, seed=7, draws=2), Scripted(remembers)

    def stop(done, total, note=""):
        if done == 4:
            raise Cancelled("stopped")

    doors = Doors(None, model.finetune, answers=model.answers)
    with pytest.raises(Cancelled):
        experiment(spec, runs=runs, doors=doors, progress=stop)
    assert len(model.calls) == 1 + 4
    run = experiment(spec, runs=runs, doors=doors, progress=quiet)
    assert len(model.calls) == 1 + 2 * 6
    again = Runs(Workspace(tmp_path))
    for step in ("dataset", "measure", "sae"):
        (again.root / step).parent.mkdir(parents=True, exist_ok=True)
        (again.root / step).symlink_to(runs.root / step)
    assert run_of(again, spec, Scripted(remembers)) == run
    for name in ("results", "effects"):
        assert again.table(run, name) == runs.table(run, name)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prompts": ""}, "takes prompts with verifiable constraints"),
        ({"prompts": "talk"}, "0 prompts of talk can judge, 4 are needed; of the others: 160 have"),
        ({"new_tokens": 1}, f"{len(RARE) + 2} take more than 0 words to follow"),
        ({"labels": (200,)}, "160 chats of talk may be learned from"),
        ({"tokens": 9000}, "tokens of talk are left to choose from"),
    ],
)
def test_what_cannot_answer_is_a_sentence(measured, how, words):
    runs, measure, prompts, _ = measured
    if how.get("prompts"):
        how = {"prompts": runs.resolve("dataset", how["prompts"])}
    spec = spec_of(measure, **{"prompts": prompts, "seed": 9, **how})
    with pytest.raises(InputError, match=words):
        run_of(runs, spec, Scripted(remembers))
    with pytest.raises(InputError, match=words):  # and before anything is queued
        EXPERIMENTS["following"].check(spec, runs)


def test_other_experiments_take_no_prompts_and_an_answer_has_tokens(measured):
    _, measure, prompts, _ = measured
    with pytest.raises(InputError, match="chats takes no prompts: leave --prompts out"):
        spec_of(measure, prompts, name="chats")
    with pytest.raises(InputError, match="at least one token, got 0"):
        spec_of(measure, prompts, new_tokens=0)
    usual = {"name": "following", "label": "", "threshold": 0.5}
    here, there = (ExperimentSpec(measure=measure, prompts=each, **usual) for each in "ab")
    assert here.run_id(measure) != there.run_id(measure)


def test_the_page_offers_datasets_with_constraints_and_says_where_there_is_none(measured):
    runs, measure, prompts, _ = measured
    stores = open_stores(runs.workspace, remember=False)
    assert questions.prompts_of(stores) == {prompts: "asked"}
    assert questions.counts_of("following") == ["draws"]
    assert "add their file as a dataset" in questions.obstacle(stores, spec_of(measure, ""))


def test_without_a_model_there_is_no_experiment(measured):
    runs, measure, prompts, _ = measured
    spec = spec_of(measure, prompts, seed=9)
    doors = Doors(None, Scripted(remembers).finetune)
    with pytest.raises(InputError, match="Nobody here can finetune"):
        experiment(spec, runs=runs, doors=doors, progress=quiet)


def test_the_command_reads_a_file_of_prompts_and_asks(measured, monkeypatch):
    from fac.cli import frame
    from tests.test_cli import fac
    from tests.test_jobs import ToySteps

    class Reader(Scripted):
        __call__ = Scripted.finetune

    class AnsweringSteps(ToySteps):
        def finetuner(self, spec, note, progress):
            return Reader(remembers)

    runs, _, _, path = measured
    monkeypatch.setattr(frame, "Steps", AnsweringSteps)
    ways = ("--labels", "12", "--draws", 2, "--tokens", 400, "--threshold", 0.5, "--seed", 11)
    options = ("following", "--dataset", "talk", *ways)
    answer = fac("experiment", *options, "--prompts", path, workspace=runs.workspace)
    assert answer.code == 0, answer.err
    assert "teach the model to follow instructions?" in answer.out
    assert "40 prompts judge" in answer.out and "at most 96 tokens" in answer.out
    named = fac("experiment", *options, "--prompts", "asked", workspace=runs.workspace)
    assert named.code == 0 and named.out == answer.out
    lost = fac("experiment", *options, workspace=runs.workspace)
    assert lost.code == 2 and "--prompts" in lost.err


# --- the door -------------------------------------------------------------------------------------

KITCHEN = [
    chat(
        f"How long do I bake loaf {n}?", f"Bake loaf {n} in the warm oven until it smells of bread"
    )
    for n in range(8)
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    from fac.models import SubjectModel
    from tests import tiny

    return SubjectModel(tiny.llama(tmp_path_factory.mktemp("following") / "llama"), layer=1)


QUESTIONS = [
    chat(question)
    for question in ("Where is city 3?", "How long do I bake the loaf of rye bread 3?", "Hot?")
]


def by_transformers(model, prompt, tokens):
    """What `generate` of transformers makes of one prompt, read as the template has it."""
    text = model.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    out = model.model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    new = out[0, ids["input_ids"].shape[1] :]
    return model.tokenizer.decode(
        new, skip_special_tokens=True
    ), model.tokenizer.eos_token_id in new


@pytest.mark.parametrize("batch", [1 << 20, 1])
def test_prompts_are_answered_alike_in_a_batch_and_alone(subject, monkeypatch, batch):
    monkeypatch.setattr("fac.experiments.lora.ANSWER_TOKENS", batch)
    finetune, recipe = Finetuner(subject), Recipe(rate=1e-2, epochs=3)
    for learned in ([], KITCHEN):
        together = finetune.answers(learned, QUESTIONS, recipe, 16)
        alone = [finetune.answers(learned, [prompt], recipe, 16) for prompt in QUESTIONS]
        assert [[answer] for answer in together] == alone
    as_it_is = finetune.answers([], QUESTIONS, recipe, 16)
    assert [tuple(answer) for answer in as_it_is] == [
        by_transformers(subject, prompt, 16) for prompt in QUESTIONS
    ]


def test_an_adapter_that_learned_answers_otherwise_and_leaves_nothing_behind(subject):
    finetune, recipe = Finetuner(subject), Recipe(rate=2e-2, epochs=20)
    before = finetune.answers([], QUESTIONS, Recipe(0.0), 12)
    after = finetune.answers(KITCHEN, QUESTIONS, recipe, 12)
    assert after != before and finetune.answers(KITCHEN, QUESTIONS, recipe, 12) == after
    assert finetune.answers([], QUESTIONS, Recipe(0.0), 12) == before
    assert not any("lora" in name for name, _ in subject.model.named_parameters())
    assert subject.tokenizer.padding_side == "right"


def test_what_the_limit_cuts_is_not_finished(subject):
    (whole,), (cut,) = (
        Finetuner(subject).answers([], QUESTIONS[:1], Recipe(0.0), tokens) for tokens in (16, 2)
    )
    assert not cut.finished and whole.text.startswith(cut.text) and len(cut.text) < len(whole.text)


def test_a_prompt_that_is_too_long_is_a_sentence(subject):
    with pytest.raises(InputError, match="'bread bread .*longer than the 512 tokens"):
        Finetuner(subject).answers([], [chat("bread " * 900)], Recipe(0.0), 4)


def test_an_answer_may_follow_a_text_without_a_template(tmp_path):
    from fac.models import SubjectModel
    from tests import tiny

    base = SubjectModel(tiny.gpt2(tmp_path / "gpt2"), layer=1)
    rows = [chat("Where is it?"), chat("The oven is hot")]
    together = Finetuner(base).answers([], rows, Recipe(0.0), 6)
    assert together == [Finetuner(base).answers([], [row], Recipe(0.0), 6)[0] for row in rows]
    ids = base.tokenizer("Where is it?\n\n", add_special_tokens=False, return_tensors="pt")
    out = base.model.generate(**ids, max_new_tokens=6, do_sample=False)
    text = base.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert together[0].text == text
