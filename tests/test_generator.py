"""LocalGenerator: seeded, batched continuations of prompts."""

import json

import pytest

from fac.errors import InputError
from fac.generator import LocalGenerator

PROMPTS = ["The oven", "Water the plants in the garden every", "a", "for loaf in"]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from tests import tiny

    home = tmp_path_factory.mktemp("generator")
    return {name: make(home / name) for name, make in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def generator(folders):
    return LocalGenerator(folders["llama"], dtype="float32")


def greedy(generator, prompts, n=12):
    return generator.continuations(prompts, seed=0, max_new_tokens=n, temperature=0)


def test_the_same_seed_gives_the_same_texts_and_another_seed_others(generator):
    def drawn(seed):
        return generator.continuations(PROMPTS, seed=seed, max_new_tokens=12)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(drawn(1)) == len(PROMPTS)


def test_sampling_leaves_the_global_random_state_alone(generator):
    import torch

    before = torch.random.get_rng_state()
    generator.continuations(PROMPTS, seed=3, max_new_tokens=4)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma"])
def test_likeliest_texts_do_not_depend_on_the_batch_and_are_transformers_own(folders, family):
    """Prompts of different lengths are padded on the left."""
    import torch

    generator = LocalGenerator(folders[family], dtype="float32")
    together = greedy(generator, PROMPTS)
    for prompt, (text, finished) in zip(PROMPTS, together, strict=True):
        assert greedy(generator, [prompt]) == [(text, finished)]
        ids = generator.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        out = generator.model.generate(**ids, max_new_tokens=12, do_sample=False)
        new = out[0, ids["input_ids"].shape[1] :]
        assert text == generator.tokenizer.decode(new, skip_special_tokens=True)
        assert finished == (generator.tokenizer.eos_token_id in new.tolist())
        assert torch.is_tensor(new)


def test_a_prompt_that_all_share_is_continued_as_if_it_stood_alone(generator):
    alone = greedy(generator, PROMPTS[:1])
    assert greedy(generator, PROMPTS[:1] * 5) == alone * 5
    drawn = generator.continuations(PROMPTS[:1] * 40, seed=5, max_new_tokens=6)
    assert len(set(drawn)) > 10


def test_temperature_0_and_one_candidate_both_take_the_likeliest(generator):
    one = generator.continuations(PROMPTS, seed=9, max_new_tokens=12, top_k=1)
    assert one == greedy(generator, PROMPTS)
    many = generator.continuations(PROMPTS, seed=9, max_new_tokens=12, top_k=10**6)
    assert many != one


def test_a_text_is_finished_at_any_of_the_models_end_tokens(folders, tmp_path):
    """Llama 3 names three in its generation config, beside the tokenizer's one."""
    from tests import tiny

    folder = tiny.llama(tmp_path)
    plain = LocalGenerator(folder, dtype="float32")
    asked = plain.tokenizer(PROMPTS[0], return_tensors="pt", add_special_tokens=False)
    out = plain.model.generate(**asked, max_new_tokens=5, do_sample=False)
    *said, stop = out[0, asked["input_ids"].shape[1] :].tolist()
    assert stop not in said
    four = plain.tokenizer.decode(said)
    settings = folder / "generation_config.json"
    ends = [plain.tokenizer.eos_token_id, stop]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": ends}))
    stopping = LocalGenerator(folder, dtype="float32")
    assert greedy(plain, PROMPTS[:1])[0][1] is False
    assert greedy(stopping, PROMPTS[:1]) == [(four, True)]
    assert greedy(stopping, PROMPTS[:1], 4) == [(four, False)]


def test_rows_that_finish_early_leave_the_others_as_they_were(tmp_path):
    """With every third token an end, most of the batch is dropped on the way."""
    from tests import tiny

    folder = tiny.llama(tmp_path)
    settings = folder / "generation_config.json"
    ends = list(range(2, 400, 3))
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": ends}))
    generator = LocalGenerator(folder, dtype="float32")
    prompts = [f"{prompt} {word}" for prompt in PROMPTS for word in ("bread", "river", "Paris")]
    together = greedy(generator, prompts)
    assert sum(finished for _, finished in together) > 0
    assert len({len(text) for text, _ in together}) > 3
    assert together == [greedy(generator, [prompt])[0] for prompt in prompts]


def test_nothing_to_continue_is_nothing(generator):
    assert generator.continuations([], seed=0, max_new_tokens=5) == []


def test_chats_are_rendered_up_to_the_next_turn(generator, folders):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    turns = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n"
    assert generator.render(chat) == turns + "<|im_start|>assistant\n"
    assert generator.render(chat, reply=False) == turns
    with pytest.raises(InputError, match="no chat template"):
        LocalGenerator(folders["gpt2"]).render(chat)


def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        LocalGenerator(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
