"""The experiment on instruction following: a planted effect is seen, none where there is none; and
the door through which a model answers."""

import pytest

from fac.errors import InputError
from fac.experiments.lora import Finetuner, Recipe


def chat(user, assistant=None):
    messages = [{"role": "user", "content": user}]
    return messages + ([{"role": "assistant", "content": assistant}] if assistant else [])


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


PROMPTS = [
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
        together = finetune.answers(learned, PROMPTS, recipe, 16)
        alone = [finetune.answers(learned, [prompt], recipe, 16) for prompt in PROMPTS]
        assert [[answer] for answer in together] == alone
    as_it_is = finetune.answers([], PROMPTS, recipe, 16)
    assert [tuple(answer) for answer in as_it_is] == [
        by_transformers(subject, prompt, 16) for prompt in PROMPTS
    ]


def test_an_adapter_that_learned_answers_in_its_own_words_and_leaves_none_behind(subject):
    finetune = Finetuner(subject)
    before = finetune.answers([], PROMPTS, Recipe(0.0), 12)
    after = finetune.answers(KITCHEN, PROMPTS, Recipe(rate=2e-2, epochs=40), 12)
    assert "oven" in after[1].text and "oven" not in before[1].text
    assert finetune.answers([], PROMPTS, Recipe(0.0), 12) == before
    assert not any("lora" in name for name, _ in subject.model.named_parameters())
    assert subject.tokenizer.padding_side == "right"


def test_answers_end_where_the_assistant_would(subject):
    """Learned from short answers, a model ends its turn; else the limit cuts it."""
    short = [chat(f"City {n}?", "Paris") for n in range(8)]
    finetune = Finetuner(subject)
    (answer,) = finetune.answers(short, [chat("City 3?")], Recipe(rate=2e-2, epochs=40), 12)
    (cut,) = finetune.answers([], [chat("City 3?")], Recipe(0.0), 2)
    assert answer.text.startswith("Paris") and not cut.finished


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
