"""Text out of models: continuations on this machine, replies of OpenAI-compatible servers."""

import json
import re
import socket
import threading
import time
from collections import Counter
from email.utils import formatdate

import numpy as np
import pytest

from fac.endpoints import Endpoint, default_endpoint
from fac.errors import BadReply, Cancelled, InputError, ServiceError
from fac.generator import LocalGenerator, local
from fac.generator.allowance import Limits
from fac.generator.batch_chat import Question, ask_batch
from fac.generator.chat import Declined, NoRoom, OpenAIChat, Refused, Transient, estimated_tokens
from fac.generator.completions import NoCompletion, read_completion
from fac.generator.edges import END_MARK, Edges
from fac.generator.journal import ReplyJournal
from fac.generator.local import AFRESH, Bias, PromptRow, Steer, _Pull, _Spelling, uniforms
from fac.prompts import Excerpt, Prompt, explaining
from tests.server import ScriptedServer, Status, Trickle, completion

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
    names = ("llama", "gpt2", "neox", "gemma")
    return {name: tiny.FAMILIES[name](home / name) for name in names}


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


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma"])
def test_prompts_that_begin_alike_are_continued_as_if_they_stood_alone(folders, family):
    generator = LocalGenerator(folders[family], dtype="float32")
    head = "Water the plants in the garden every morning. " * 4
    prompts = [head + rest for rest in ("The oven", "a", "for loaf in the garden", "")]
    assert min(generator.count(prompts)) > 33
    read = []
    handle = generator.model.register_forward_pre_hook(
        lambda _module, _inputs, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    together = greedy(generator, prompts)
    handle.remove()
    assert together == [greedy(generator, [prompt])[0] for prompt in prompts]
    assert sum(read[:2]) < min(generator.count(prompts)) + 4 * 12  # the head once


def test_temperature_0_and_one_candidate_both_take_the_likeliest(generator):
    likeliest = generator.continuations(PROMPTS, seed=9, max_new_tokens=12, top_k=1)
    assert likeliest == greedy(generator, PROMPTS)
    many = generator.continuations(PROMPTS, seed=9, max_new_tokens=12, top_k=10**6)
    assert many != likeliest


def test_a_text_is_finished_at_any_of_the_models_end_tokens(folders, tmp_path):
    """Llama 3 names three in its generation config, beside the tokenizer's one."""
    from tests import tiny

    folder = tiny.llama(tmp_path)
    plain = LocalGenerator(folder, dtype="float32")
    inputs = plain.tokenizer(PROMPTS[0], return_tensors="pt", add_special_tokens=False)
    out = plain.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    *new_tokens, stop = out[0, inputs["input_ids"].shape[1] :].tolist()
    assert stop not in new_tokens
    text = plain.tokenizer.decode(new_tokens)
    settings = folder / "generation_config.json"
    ends = [plain.tokenizer.eos_token_id, stop]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": ends}))
    stopping = LocalGenerator(folder, dtype="float32")
    assert greedy(plain, PROMPTS[:1])[0][1] is False
    assert greedy(stopping, PROMPTS[:1]) == [(text, True)]
    assert greedy(stopping, PROMPTS[:1], 4) == [(text, False)]


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
    assert generator.write([], max_new_tokens=5) == []
    assert generator.count([]) == []


# --- rows with a stream, a line and a push of their own -------------------------------------------


def test_random_numbers_are_those_of_splitmix64():
    """The first two outputs for seed 0 as its authors' code prints them."""
    zero = np.zeros(1, np.uint64)
    first, second = (int(uniforms(zero, number)[0] * 2**53) for number in (0, 1))
    assert (first, second) == (0xE220A8397B1DCDAF >> 11, 0x6E789E6AA1B965F4 >> 11)
    many = uniforms(np.arange(20_000, dtype=np.uint64), 7)
    assert many.min() >= 0 and many.max() < 1
    counts, _ = np.histogram(many, 20, (0, 1))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert abs(np.corrcoef(many, uniforms(np.arange(20_000, dtype=np.uint64), 8))[0, 1]) < 0.03


def test_a_row_is_written_alike_alone_and_among_any_others(generator):
    rows = [PromptRow(prompt, seed=number) for number, prompt in enumerate(PROMPTS * 3)]
    together = generator.write(rows, max_new_tokens=12)
    assert len({text.text for text in together}) > 6
    for row, text in zip(rows, together, strict=True):
        assert generator.write([row], max_new_tokens=12) == [text]
    assert generator.write(rows[::-1], max_new_tokens=12) == together[::-1]
    assert generator.write(rows[2:7], max_new_tokens=12) == together[2:7]


def test_another_seed_writes_another_text_and_the_same_seed_the_same(generator):
    again = generator.write([PromptRow(PROMPTS[1], seed=5)] * 3, max_new_tokens=12)
    assert again[0] == again[1] == again[2]
    many = generator.write(
        [PromptRow(PROMPTS[1], seed=seed) for seed in range(30)], max_new_tokens=12
    )
    assert len({text.text for text in many}) > 20


def test_tokens_come_as_often_as_the_model_says(generator):
    """Over many seeds, chi-square of the first token against the top-k softmax."""
    import torch

    ids = generator.tokenizer(PROMPTS[0], return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        logits = generator.model(**ids).logits[0, -1].float()
    best = logits.topk(8)
    shares: Counter[str] = Counter()  # half characters of several tokens look the same
    for index, share in zip(
        best.indices.tolist(), torch.softmax(best.values / 0.7, -1), strict=True
    ):
        shares[generator.tokenizer.decode([index], skip_special_tokens=True)] += float(share)
    n = 2000
    rows = [PromptRow(PROMPTS[0], seed=seed) for seed in range(n)]
    drawn = generator.write(rows, max_new_tokens=1, temperature=0.7, top_k=8)
    counts = Counter(text.text for text in drawn)
    assert set(counts) <= set(shares) and len(shares) > 4
    chi = sum((counts[text] - n * share) ** 2 / (n * share) for text, share in shares.items())
    assert chi < 30  # at most 7 degrees of freedom: p about 0.0001


def test_a_row_counts_its_tokens_and_those_of_its_prompt(generator):
    rows = [PromptRow(prompt, seed=1) for prompt in PROMPTS]
    texts = generator.write(rows, max_new_tokens=6)
    assert [text.prompt_tokens for text in texts] == generator.count(PROMPTS)
    assert all(text.tokens == 6 for text in texts if not text.finished)
    assert all(text.tokens <= 6 for text in texts)


def test_a_line_ends_where_the_text_first_breaks(tmp_path):
    """With every "a" read as a line break, many rows end early and are dropped."""
    from tests import tiny

    generator = LocalGenerator(tiny.llama(tmp_path), dtype="float32")
    plain = generator.tokenizer.decode
    generator.tokenizer.decode = lambda ids, **options: plain(ids, **options).replace("a", "\n")
    rows = [PromptRow(prompt, seed=seed) for seed in range(12) for prompt in PROMPTS]
    whole = generator.write(rows, max_new_tokens=12)
    lines = generator.write([row._replace(line=True) for row in rows], max_new_tokens=12)
    assert sum("\n" in text.text for text in whole) > 5
    for text, line in zip(whole, lines, strict=True):
        assert line.text == text.text.partition("\n")[0]
        assert line.finished == (text.finished or "\n" in text.text)
        assert line.tokens <= text.tokens


def test_no_small_letter_comes_first_where_a_text_begins_with_a_capital(generator):
    rows = [PromptRow(prompt, seed=seed) for seed in range(60) for prompt in PROMPTS]
    shaped = [row._replace(edges=Edges(capital=True)) for row in rows]
    free, kept = (
        [text.text.lstrip() for text in generator.write(each, max_new_tokens=4, top_k=500)]
        for each in (rows, shaped)
    )
    assert sum(text[:1].islower() for text in free) > 20
    wrong = [text for text in kept if text[:1].islower()]
    assert not [text for text in wrong if text[0].isascii()], wrong
    assert len(wrong) < 5  # letters that are several tokens


def test_a_line_ends_after_an_end_mark_alone(tmp_path):
    """A model that would rather break the line or end the text than anything else."""
    from tests import tiny

    generator = LocalGenerator(tiny.llama(tmp_path), dtype="float32")
    vocabulary = generator.tokenizer.get_vocab()
    likely = [n for piece, n in vocabulary.items() if piece in ("Ċ", "\n", ".", "<0x0A>")]
    plain = generator._step

    def eager(*arguments):
        logits = plain(*arguments).clone()
        logits[:, [*likely, *generator._ends]] += 6.0
        return logits

    generator._step = eager
    rows = [PromptRow(PROMPTS[0], seed=seed, line=True) for seed in range(60)]
    free = generator.write(rows, max_new_tokens=30)
    kept = generator.write(
        [row._replace(edges=Edges(mark=True)) for row in rows], max_new_tokens=30
    )
    ended = [text.text for text in kept if text.finished]
    assert len(ended) > 10 and all(END_MARK.search(text.rstrip()) for text in ended)
    assert sum(not END_MARK.search(text.text.rstrip()) for text in free if text.finished) > 10


def test_a_continuation_keeps_the_space_that_it_begins_with(folders):
    """SentencePiece drops it from whatever is decoded first."""
    generator = LocalGenerator(folders["llama"], dtype="float32")
    rows = [PromptRow(PROMPTS[1], seed=seed) for seed in range(60)]
    texts = generator.write(rows, max_new_tokens=6)
    assert any(text.text.startswith(" ") for text in texts)
    plain = generator.tokenizer.decode
    generator.tokenizer.decode = lambda ids, **options: plain(ids, **options).removeprefix(" ")
    assert generator.write(rows, max_new_tokens=6) == texts


def layer_inputs(generator, layer, rows, n, **options):
    """What block `layer` is given in each forward pass: float32 `[rows, tokens, d_model]`."""
    seen = []
    block = generator.model.model.layers[layer]
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        texts = generator.write(rows, max_new_tokens=n, **options)
    finally:
        handle.remove()
    return texts, seen


def test_steering_adds_its_vector_to_new_tokens_of_its_row_alone(generator):
    """The first new token is chosen before anything is pushed, so both runs read it alike."""
    push = np.linspace(-1, 1, 32, dtype=np.float32)
    plain = [PromptRow(prompt, seed=number) for number, prompt in enumerate(PROMPTS[:3])]
    steered = [plain[0], plain[1]._replace(steer=Steer(push, 2)), plain[2]]
    _, before = layer_inputs(generator, 2, plain, 2)
    _, after = layer_inputs(generator, 2, steered, 2)
    assert (before[0] == after[0]).all()
    added = (after[1] - before[1])[:, 0].numpy()
    np.testing.assert_allclose(added[1], push, atol=1e-5)
    assert not added[[0, 2]].any()


def test_a_push_fades_and_ends_as_it_was_told():
    push = np.ones(4, np.float32)
    assert [Steer(push, 1).weight(number) for number in range(3)] == [1, 1, 1]
    assert [Steer(push, 1, 2, 0.5).weight(number) for number in range(4)] == [1, 0.5, 0, 0]


def test_a_push_that_ended_leaves_later_tokens_as_they_are(generator):
    """At temperature 0 with a push too weak to change a token, the stream tells what was added."""
    push = np.full(32, 1e-3, np.float32)
    row = PromptRow(PROMPTS[1])
    plain, before = layer_inputs(generator, 2, [row], 5, temperature=0)
    steer = Steer(push, 2, tokens=2, decay=0.5)
    pushed, after = layer_inputs(generator, 2, [row._replace(steer=steer)], 5, temperature=0)
    assert plain == pushed  # otherwise the next line compares different texts
    added = [float((b - a)[0, 0].mean()) for a, b in zip(before[1:], after[1:], strict=True)]
    np.testing.assert_allclose(added, [1e-3, 5e-4, 0, 0], atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma"])
def test_steering_works_in_every_family_and_not_beyond_its_call(folders, family):
    generator = LocalGenerator(folders[family], dtype="float32")
    push = 20 * np.random.default_rng(0).standard_normal(32).astype(np.float32)
    rows = [PromptRow(prompt, seed=number) for number, prompt in enumerate(PROMPTS)]
    plain = generator.write(rows, max_new_tokens=10)
    both = [row._replace(steer=Steer(push, 1 + number % 3)) for number, row in enumerate(rows)]
    steered = generator.write(both, max_new_tokens=10)
    assert steered != plain
    assert [generator.write([row], max_new_tokens=10)[0] for row in both] == steered
    weak = [row._replace(steer=Steer(0 * push, 2)) for row in rows]
    assert generator.write(weak, max_new_tokens=10) == plain
    with pytest.raises(Cancelled):
        generator.write(both, max_new_tokens=10, beat=stop)
    assert generator.write(rows, max_new_tokens=10) == plain


def stop():
    raise Cancelled("enough")


@pytest.mark.parametrize(
    ("steer", "why"),
    [
        (Steer(np.ones(32, np.float32), 0), "Layer 0 cannot be steered: the model has 3 blocks"),
        (Steer(np.ones(32, np.float32), 4), "Layer 4 cannot be steered"),
        (
            Steer(np.ones(16, np.float32), 2),
            "has 16 values, but the model's residual stream has 32",
        ),
    ],
)
def test_a_push_that_does_not_fit_the_model_is_refused(generator, steer, why):
    with pytest.raises(InputError, match=why):
        generator.write([PromptRow("a"), PromptRow("a", steer=steer)], max_new_tokens=2)


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


# --- servers --------------------------------------------------------------------------------------

KEY = "sk-test-0123456789abcdef"

ASKED = Prompt(
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is rye bread?"}),
    {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    max_tokens=20,
)


def serving(envelope=completion):
    """A server whose every answer is "yes", in the given envelope."""
    if not callable(envelope):
        fixed = envelope
        return ScriptedServer(lambda _: "yes", envelope=lambda *_: fixed).running()
    return ScriptedServer(lambda _: "yes", envelope=envelope).running()


def listed(url, variable="LAB_KEY"):
    """A server that the operator lists with the key of this test."""
    return Endpoint(name="lab", url=url, key=variable)


def failure_of(envelope, *, timeout=10.0, key="LAB_KEY"):
    """What asking such a server raises."""
    with serving(envelope) as server, pytest.raises(Exception) as caught:
        OpenAIChat("m", listed(server.endpoint, key), timeout=timeout).ask(ASKED)
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)
    return caught.value


@pytest.fixture(autouse=True)
def a_key_of_no_worth(monkeypatch):
    monkeypatch.setenv("LAB_KEY", KEY)


def test_a_server_is_asked_for_json_at_temperature_0_and_the_reply_is_counted():
    with serving() as server:
        chat = OpenAIChat("small", listed(server.endpoint), seed=7)
        reply = chat.ask(ASKED)
    assert server.bodies == [
        {
            "model": "small",
            "messages": list(ASKED.messages),
            "max_tokens": 20,
            "temperature": 0,
            "seed": 7,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": ASKED.form},
            },
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert reply == ("yes", "stop", 5, 1, False, "small")
    assert chat.identity == f"small at {server.endpoint} seed 7"


def test_a_prompt_may_ask_for_free_text_drawn_with_a_seed():
    with serving() as server:
        chat = OpenAIChat("small", server.endpoint, seed=7)
        chat.ask(ASKED._replace(form={}, temperature=0.8, draw=11))
    assert server.bodies == [
        {
            "model": "small",
            "messages": list(ASKED.messages),
            "max_tokens": 20,
            "temperature": 0.8,
            "seed": 11,
        }
    ]


@pytest.mark.parametrize("usage", [None, "many", {"prompt_tokens": -1, "completion_tokens": 1}, {}])
def test_a_server_that_does_not_count_tokens_has_them_estimated(usage):
    with serving(lambda body, text: completion(body, text) | {"usage": usage}) as server:
        reply = OpenAIChat("m", server.endpoint).ask(ASKED)
    assert reply.estimated and reply.prompt_tokens == estimated_tokens(ASKED)
    assert reply.completion_tokens > 0


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({"content": None, "refusal": "I will not."}, "I will not."),
        ({"content": "", "reasoning_content": "hm"}, ""),
    ],
)
def test_a_complete_reply_without_content_is_a_reply(message, text):
    """It was paid for, and asking again at temperature 0 would bring the same."""
    envelope = {"choices": [{"message": message, "finish_reason": "stop"}]}
    with serving(envelope) as server:
        reply = OpenAIChat("m", server.endpoint).ask(ASKED)
    assert (reply.text, reply.finish, reply.model) == (text, "stop", "m")


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": None, "reasoning_content": "let me see"}, "length"),
        ({"content": "<think>let me see"}, "max_tokens"),
        ({"content": "Let me see, it says bread"}, "length"),
    ],
)
def test_a_reply_cut_off_before_its_answer_began_had_no_room(message, finish):
    envelope = {"choices": [{"message": message, "finish_reason": finish}]}
    envelope["usage"] = {"prompt_tokens": 7, "completion_tokens": 20}
    failure = failure_of(envelope)
    assert isinstance(failure, NoRoom)
    assert (failure.prompt_tokens, failure.completion_tokens) == (7, 20)


def unlike(**kinds):
    """A server that fails, with these statuses, every question that holds such a thing."""

    def envelope(body, text):
        held = {"schema": "response_format" in body}
        held["system"] = any(message["role"] == "system" for message in body["messages"])
        for kind, status in kinds.items():
            if held[kind]:
                return Status(status, {"error": {"message": "Internal failure"}})
        return completion(body, text)

    return envelope


RULED = ASKED._replace(
    messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"})
)


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize("kinds", [("schema",), ("system",), ("schema", "system")])
def test_the_first_question_is_asked_more_plainly_and_what_helped_stays(kinds, status):
    with serving(unlike(**dict.fromkeys(kinds, status))) as server:
        chat = OpenAIChat("m", server.endpoint)
        assert [chat.ask(RULED).text for _ in range(2)] == ["yes", "yes"]
    shapes = [("response_format" in body, len(body["messages"])) for body in server.bodies]
    plain = (False, 2) if kinds == ("schema",) else (False, 1)
    assert shapes == [*dict.fromkeys([(True, 2), (False, 2), plain]), plain]
    if plain[1] == 1:
        (message,) = server.bodies[-1]["messages"]
        assert message == {"role": "user", "content": "Be brief.\n\nIs it?"}
    said = " ".join(chat.notes)
    assert "no JSON schema" in said and ("no system message" in said) == (plain[1] == 1)


def test_one_failure_that_may_pass_costs_no_schema_and_two_do():
    with serving(unlike(schema=500)) as server:
        chat = OpenAIChat("m", server.endpoint)
        with pytest.raises(Transient):
            chat.ask(ASKED)
        assert len(server.bodies) == 1 and not chat.notes
        assert chat.ask(ASKED).text == "yes"
    assert len(server.bodies) == 3 and "no JSON schema" in chat.notes[0]


def test_after_a_question_was_answered_as_it_was_asked_none_is_asked_more_plainly():
    answers = iter((completion, *[lambda *_: Status(400, {"error": "too long"})] * 2))
    with serving(lambda *request: next(answers)(*request)) as server:
        chat = OpenAIChat("m", server.endpoint)
        chat.ask(RULED)
        for _ in range(2):
            with pytest.raises(Declined, match="too long"):
                chat.ask(RULED)
    assert len(server.bodies) == 3 and not chat.notes


def test_azure_is_given_its_version_in_the_query_and_the_key_in_a_header_of_its_own(monkeypatch):
    monkeypatch.setenv("AZURE_KEY", KEY)
    with serving() as server:
        url = f"{server.endpoint}?api-version=2024-10-21"
        reply = OpenAIChat("m", Endpoint(name="azure", url=url, key="AZURE_KEY")).ask(ASKED)
    assert reply.text == "yes" and server.queries == ["api-version=2024-10-21"]
    headers = server.headers[0]
    assert headers["api-key"] == KEY and "authorization" not in headers


def picky(*refused, status=400):
    """A server that knows none of these parameters and names one at a time."""

    def envelope(body, text):
        for name in refused:
            if name in body:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                return Status(status, {"error": {"message": message, "param": name}})
        return completion(body, text)

    return envelope


@pytest.mark.parametrize("status", [400, 422])
def test_parameters_a_server_does_not_know_are_given_up_once_and_for_all(status):
    refused = ("response_format", "max_tokens", "temperature", "seed")
    with serving(picky(*refused, status=status)) as server:
        chat = OpenAIChat("m", server.endpoint)
        assert chat.ask(ASKED).text == "yes"
        assert len(server.bodies) == 5
        assert chat.ask(ASKED).text == "yes"
        assert len(server.bodies) == 6
    assert set(server.bodies[-1]) == {"model", "messages", "max_completion_tokens"}


def test_many_threads_give_a_parameter_up_together():
    with serving(picky("response_format")) as server:
        chat = OpenAIChat("m", server.endpoint)
        texts = []
        threads = [
            threading.Thread(target=lambda: texts.append(chat.ask(ASKED).text)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["yes"] * 8


@pytest.mark.parametrize(
    ("status", "kind"),
    [(408, "timed_out"), (409, "409"), (429, "429"), (500, "5xx"), (503, "5xx"), (529, "5xx")],
)
def test_what_may_pass_is_told_from_what_will_not(status, kind):
    failure = failure_of(Status(status, {"error": {"message": f"key {KEY}\nwas slow"}}))
    assert isinstance(failure, Transient) and failure.kind == kind
    assert failure.retry_after is None and not failure.paid
    assert f"answered {status}: key [key] was slow." in failure.reason


@pytest.mark.parametrize(("header", "low", "high"), [("7", 7, 7), ("0.5", 0.5, 0.5), ("-3", 0, 0)])
def test_a_wait_that_the_server_asks_for_is_passed_on(header, low, high):
    failure = failure_of(Status(429, {}, {"Retry-After": header}))
    assert low <= failure.retry_after <= high


def test_a_wait_may_be_a_date_and_nonsense_is_none():
    date = formatdate(time.time() + 30, usegmt=True)
    assert 25 <= failure_of(Status(503, {}, {"Retry-After": date})).retry_after <= 30
    for nonsense in ("soon", "inf", "nan", ""):
        assert failure_of(Status(503, {}, {"Retry-After": nonsense})).retry_after is None


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "Check LAB_KEY"),
        (401, {"error": {"message": "Incorrect API key provided: sk-te******cdef"}}, "[key]"),
        (403, {"error": "not in your country"}, "not in your country"),
        (404, {"detail": "Not Found"}, "knows the model 'm'"),
        (402, {"error": {"message": "Pay first"}}, "Pay first."),
        (405, "no", "answered 405"),
        (429, {"error": {"message": "No quota", "code": "insufficient_quota"}}, "Add credit"),
    ],
)
def test_a_server_that_takes_no_question_is_refused_in_one_sentence_without_the_key(
    status, body, says
):
    failure = failure_of(Status(status, body))
    assert isinstance(failure, Refused) and isinstance(failure, ServiceError)
    assert says in str(failure) and "cdef" not in str(failure)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "This model's maximum context length is 8192 tokens."),
        (400, "The response was filtered due to the content management policy."),
        (413, "Too large"),
        (422, "Unprocessable"),
        (403, "Your input was flagged by moderation"),
    ],
)
def test_a_question_that_a_server_does_not_take_says_nothing_about_others(status, message):
    failure = failure_of(Status(status, {"error": {"message": message}}))
    assert isinstance(failure, Declined) and message.rstrip(".") in str(failure)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad gateway</html>",
        b'{"choices": [{"message": {"content": "ye',
        b'{"choices": [{"message": {"content": "\xff"}}]}',
        b"[1, 2]",
        b"null",
        b'"yes"',
        b"[" * 900 + b"]" * 900,
        b'{"error": ' * 900 + b'"overloaded"' + b"}" * 900,
        b'{"choices": ' * 5000,
        {"error": {"message": "overloaded"}},
        {"choices": []},
        {"choices": "yes"},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": [{"type": "image_url"}]}}]},
        {"choices": [{"message": {"content": "yes"}, "finish_reason": 3}]},
        {"choices": [{"message": {"content": "yes"}}], "model": ["m"]},
    ],
)
def test_a_body_that_is_no_completion_is_a_failure_that_may_pass(body):
    failure = failure_of(body)
    assert isinstance(failure, Transient) and failure.kind == "broken" and failure.paid


@pytest.mark.parametrize("part", [b"<", b"<a ", b"<script", b"<style>", b"<!--", b"data: {}\n\n"])
def test_a_body_is_read_in_time_linear_in_its_length(part):
    body = part * (300_000 // len(part))
    begun = time.process_time()
    with pytest.raises(NoCompletion):
        read_completion(body)
    assert time.process_time() - begun < 1


def test_a_body_cut_off_on_its_way_is_a_failure_that_may_pass():
    server = ScriptedServer(lambda _: "yes", {"broken": 1.0})
    with server.running(), pytest.raises(Transient) as caught:
        OpenAIChat("m", server.endpoint).ask(ASKED)
    assert caught.value.kind == "broken"


@pytest.mark.parametrize("slow", ["stall", "trickle"])
def test_a_reply_has_to_be_complete_in_time(slow):
    """A byte now and then does not count as an answer."""
    shares = {"stall": 1.0} if slow == "stall" else {}
    drop = Trickle(b" " * 1000, 0.1)
    server = ScriptedServer(lambda _: "yes", shares, stall=30, envelope=lambda *_: drop)
    with server.running():
        begun = time.monotonic()
        with pytest.raises(Transient, match="within 0.5 seconds") as caught:
            OpenAIChat("m", server.endpoint, timeout=0.5).ask(ASKED)
    assert caught.value.kind == "timed_out" and caught.value.paid
    assert time.monotonic() - begun < 10


def test_a_server_that_is_not_there_cannot_be_reached():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Transient, match=f"http://127.0.0.1:{port}/v1 cannot be reached") as caught:
        OpenAIChat("m", f"http://127.0.0.1:{port}/v1").ask(ASKED)
    assert caught.value.kind == "unreachable" and not caught.value.paid


def test_a_key_that_a_server_repeats_is_taken_out_of_the_reply():
    with serving(lambda body, _: completion(body, f"you sent {KEY}")) as server:
        assert OpenAIChat("m", listed(server.endpoint)).ask(ASKED).text == "you sent [key]"


def test_a_server_that_is_not_listed_hears_the_question_and_nothing_else(monkeypatch):
    """The client itself would add all of these."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"api-key: {KEY}\nAuthorization: Bearer {KEY}")
    with serving() as server:
        assert OpenAIChat("m", server.endpoint).ask(ASKED).text == "yes"
        assert OpenAIChat("m", listed(server.endpoint)).ask(ASKED).text == "yes"
    bare, keyed = server.headers
    assert KEY not in str(bare) and "authorization" not in bare
    assert keyed.pop("authorization") == f"Bearer {KEY}" and KEY not in str(keyed)
    failure = failure_of(Status(401, {"error": "who are you"}), key="")
    assert "without a key" in str(failure) and "--key-variable" in str(failure)


def test_what_the_environment_says_of_an_account_goes_where_its_key_goes(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-this-test")
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.endpoint)
        OpenAIChat("m", default_endpoint()).ask(ASKED)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["openai-organization"] == "org-of-this-test"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_never_followed(status):
    with (
        serving() as other,
        serving(Status(status, {}, {"Location": f"{other.endpoint}/chat/completions"})) as server,
    ):
        with pytest.raises(Refused, match=f"answered {status}.* {other.endpoint}"):
            OpenAIChat("m", listed(server.endpoint)).ask(ASKED)
        assert len(server.headers) == 1 and other.headers == []


def test_a_key_with_foreign_characters_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setenv("LAB_KEY", "sk-schlüssel")
    with pytest.raises(InputError, match="characters that no key has") as caught:
        OpenAIChat("m", listed("http://127.0.0.1:1/v1"))
    assert "schl" not in str(caught.value)


# --- a real server --------------------------------------------------------------------------------


@pytest.mark.model
def test_a_real_server_answers_through_the_real_client(real_server, tmp_path):
    endpoint, name = real_server
    chat = OpenAIChat(name, endpoint, timeout=300)
    texts = [
        Excerpt(("I", " baked", " bread"), (False, False, True)),
        Excerpt(("fresh", " bread", " and", " rolls"), (False, True, False, False)),
    ]
    questions = [
        Question("detection/1/0", explaining.detect("words about bread", texts)),
        Question("fuzzing/1/0", explaining.fuzz("words about bread", texts)),
    ]
    journal = ReplyJournal(tmp_path / "journal.jsonl")
    done = ask_batch(
        questions, chat, journal, limits=Limits(2), progress=lambda *_: None, sleep=time.sleep
    )
    assert done.counts["answered"] == 2 and done.tokens > 300
    for answer in done.replies.values():
        assert answer.finish in ("stop", "length") and not answer.estimated
        assert name in answer.model
        try:
            assert len(explaining.read_answers(answer.reply, 2)) == 2
        except BadReply as error:  # a model this small may fail the form, never silently
            assert "cannot be read" in str(error)
    with pytest.raises(Declined, match="pinned"):
        OpenAIChat("another-model", endpoint).ask(ASKED)


@pytest.mark.model
def test_a_text_is_written_without_phrases(demo_model_home):
    """What an unhindered text says is what the next one must not; the rest may stay as it is."""
    (weights,) = demo_model_home.rglob("model.safetensors")
    generator = LocalGenerator(weights.parent)
    row = PromptRow("A list of fruit: apples, pears,", seed=3)
    (free,) = generator.write([row], max_new_tokens=24, temperature=0.0)
    first, second, third, *_ = free.text.split()
    phrase = f"{first} {second} {third}".strip(".,")
    banned = row._replace(without=(phrase, phrase.upper()))
    (text, same) = generator.write([banned, row], max_new_tokens=24, temperature=0.0)
    assert phrase in free.text and phrase not in text.text and same == free


@pytest.mark.model
def test_a_text_goes_in_no_circles_at_its_beginning(demo_model_home):
    (weights,) = demo_model_home.rglob("model.safetensors")
    generator = LocalGenerator(weights.parent)
    row = PromptRow("The owl, the owl, the owl, the owl,", seed=3)
    doubled = PromptRow("They sang: never never never never never never", seed=3)
    pair = PromptRow("Brain injury brain injury brain injury brain injury brain", seed=3)
    limits = {"max_new_tokens": AFRESH, "temperature": 0.0}
    rows = (row, doubled, pair)
    circle, again, twice = (text.text.split() for text in generator.write(rows, **limits))
    rows = [each._replace(afresh=True) for each in rows]
    straight, once, apart = (text.text.split() for text in generator.write(rows, **limits))

    def phrases(words, n):
        return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]

    assert len({*phrases(circle, 5)}) < len(phrases(circle, 5))  # unhindered it does
    assert len({*phrases(straight, 5)}) == len(phrases(straight, 5))
    assert any(a == b for a, b in phrases(again, 2))
    assert not any(a == b and len(a) >= 4 for a, b in phrases(once, 2))
    assert any(gram[:2] == gram[2:] for gram in phrases(twice, 4))
    assert not any(gram[:2] == gram[2:] for gram in phrases(apart, 4))


@pytest.mark.model
def test_a_text_ends_within_its_room_and_seldom_says_a_word_again(demo_model_home, monkeypatch):
    (weights,) = demo_model_home.rglob("model.safetensors")
    generator = LocalGenerator(weights.parent)
    prompt = "A list of messages that people sent to an AI assistant:\n\n- How do I bake bread?\n-"
    rows = [
        PromptRow(prompt, seed, line=True, edges=Edges(capital=True, mark=True), afresh=True)
        for seed in range(24)
    ]

    def write():
        written = generator.write(rows, max_new_tokens=16, temperature=1.0)
        spoken = [re.findall(r"[a-z]{4,}", text.text.lower()) for text in written]
        ended = sum(END_MARK.search(text.text.rstrip()) is not None for text in written)
        return ended, sum(len(words) - len({*words}) for words in spoken)

    ended, again = write()
    monkeypatch.setattr(local, "ROUND_OFF", 0)
    monkeypatch.setattr(local, "SAID", 0.0)
    ended_by_chance, again_by_chance = write()
    assert ended > ended_by_chance and ended >= 20, (ended, ended_by_chance)
    assert again <= again_by_chance, (again, again_by_chance)


@pytest.mark.model
def test_a_text_is_led_to_words_until_it_says_them(demo_model_home):
    """Words of several tokens and of one, in a batch with a text that is left alone."""
    (weights,) = demo_model_home.rglob("model.safetensors")
    generator = LocalGenerator(weights.parent)
    row = PromptRow("A list of fruit: apples, pears,", seed=3)
    words = ("zeppelins of Antwerp", "lantern")
    led = [row._replace(biases=(Bias((each,), 30.0),)) for each in words]
    weak = row._replace(biases=(Bias(words, 0.0),))
    limits = {"max_new_tokens": 24, "temperature": 0.0}
    *texts, same, free = generator.write([*led, weak, row], **limits)
    assert same == free
    for text, each in zip(texts, words, strict=True):
        assert each not in free.text and text.text.lower().count(each.lower()) == 1
        assert re.search(rf"\b{each}\b", text.text, re.I)


def test_words_that_are_begun_are_gone_on_with_and_twice_begun_in_vain_given_up():
    """By hand: 1 2 3 are words with a space before them, 4 2 3 the same without one."""
    spellings = [_Spelling((1, 2, 3), glued=False), _Spelling((4, 2, 3), glued=True)]
    pull = _Pull(5.0, spellings)
    assert pull.tokens([], lambda token: False) == [1, 4]  # nothing is before it: glued to nothing
    assert pull.tokens([9], lambda token: False) == [1]
    assert pull.tokens([9], lambda token: True) == [1, 4]
    assert pull.tokens([9, 1], lambda token: False) == [2]
    assert pull.tokens([9, 1, 2], lambda token: False) == [3]
    assert pull.tokens([9, 1, 2, 8], lambda token: False) == [1]  # begun in vain once
    assert pull.tokens([8, 1], lambda token: False) == [2]
    assert pull.tokens([8, 1, 8], lambda token: False) == []  # and twice
    other = _Pull(5.0, spellings)
    assert other.tokens([9, 1, 2, 3], lambda token: False) == []  # said
    assert other.tokens([2, 3, 9], lambda token: True) == []
