"""Chat templates that refuse chats, take messages apart or read the clock."""

import json
import re
from dataclasses import replace
from datetime import datetime
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac.config import IngestSpec, MeasureSpec, Workspace
from fac.errors import InputError
from fac.jobs.steps import Steps
from fac.models import ROLES, SCAFFOLD, ChatRenderer

THINKING = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role != 'assistant' %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- else %}"
    "{%- set answer = m.content %}{%- set thought = '' %}"
    "{%- if '</think>' in answer %}"
    "{%- set thought = answer.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set answer = answer.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + answer }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + answer }}{%- endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}"
)
"""As Qwen3: thoughts after the last user turn get the template's own tags, earlier ones are cut."""

CUTTING = (
    "{{ '<|endoftext|>' }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% set answer = m['content'] %}{% if '</think>' in answer %}"
    "{% set answer = answer.split('</think>')[-1] %}{% endif %}"
    "{{ '<Assistant>' + answer + '<|im_end|>' }}"
    "{% else %}{{ '<User>' + m['content'] }}{% endif %}{% endfor %}"
)
"""As DeepSeek R1: every thought is cut, what follows it stays as it is."""

MOVING = (
    "{% for m in messages %}{% set parts = m['content'].split('</think>') %}"
    "{{ m['role'] + ': ' + parts[-1] | trim }}"
    "{% if parts | length > 1 %}{{ ' (thought: ' + parts[0].replace('<think>', '') | trim + ')' }}"
    "{% endif %}{{ '<|im_end|>' }}{% endfor %}"
)
"""Thoughts after answers."""

STRICT = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
)
"""As Gemma: user and assistant by turns, and no system prompt."""

NO_THINK = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'].replace('/no_think', '').rstrip() + '<|im_end|>\n' }}{% endfor %}"
)
"""As SmolLM3: a switch in the text is taken out."""


def chat(*contents, roles=("user", "assistant")):
    return [
        {"role": roles[i % len(roles)], "content": content} for i, content in enumerate(contents)
    ]


def renderer(template):
    from tests import tiny

    return ChatRenderer(tiny.tokenizer(template), 512)


def owned(template, messages):
    """The rendered text, and [(turn, text)] of each stretch of content tokens."""
    (rendered,) = renderer(template).render([messages])
    out = []
    for i, piece in enumerate(rendered.pieces(0, len(rendered.ids))):
        turn = int(rendered.turn[i])
        if turn == SCAFFOLD:
            assert rendered.role[i] == SCAFFOLD
            out.append([turn, piece])
            continue
        assert ROLES[rendered.role[i]] == messages[turn]["role"]
        if out and out[-1][0] == turn:
            out[-1][1] += piece
        else:
            out.append([turn, piece])
    return rendered.text, [(turn, text) for turn, text in out if turn != SCAFFOLD]


def shortened(template, messages):
    (checked,) = renderer(template).check([messages])
    assert not checked.refusal
    return checked.shortened


THOUGHT = "<think>\nThe oven is hot.\n</think>\n\nIt is warm."


def test_a_thought_that_stays_where_it_was_is_the_assistants_with_its_tags():
    messages = chat("Is the bread warm?", THOUGHT)
    text, parts = owned(THINKING, messages)
    assert text.endswith(f"assistant\n{THOUGHT}<|im_end|>\n")
    assert parts == [(0, "Is the bread warm?"), (1, THOUGHT)]
    assert not shortened(THINKING, messages)


def test_what_is_left_of_an_earlier_turn_is_the_assistants_and_the_thought_is_gone():
    messages = chat("Is the bread warm?", THOUGHT, "And the plants?", "Water them.")
    text, parts = owned(THINKING, messages)
    assert "The oven" not in text
    assert parts == [
        (0, "Is the bread warm?"),
        (1, "It is warm."),
        (2, "And the plants?"),
        (3, "Water them."),
    ]
    assert shortened(THINKING, messages)


def test_an_answer_without_a_thought_owns_nothing_of_the_templates_empty_one():
    text, parts = owned(THINKING, chat("Is the bread warm?", "It is."))
    assert "<think>\n\n</think>\n\nIt is." in text
    assert parts == [(0, "Is the bread warm?"), (1, "It is.")]
    assert not shortened(THINKING, chat("Is the bread warm?", "It is."))


def test_line_breaks_that_the_template_adds_are_its_own():
    """The tags in the text are the template's too: the message has none with line breaks."""
    messages = chat("Is the bread warm?", "<think>The oven is hot.</think>It is warm.")
    text, parts = owned(THINKING, messages)
    assert "<think>\nThe oven is hot.\n</think>\n\nIt is warm." in text
    assert parts == [(0, "Is the bread warm?"), (1, "The oven is hot."), (1, "It is warm.")]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (THOUGHT, "\n\nIt is warm."),
        ("<think>The oven is hot.</think>It is warm.", "It is warm."),
        ("The oven is hot.</think> It is warm. ", " It is warm. "),
    ],
)
def test_white_space_that_a_template_leaves_is_content(answer, left):
    messages = chat("Is the bread warm?", answer, "Good.")
    text, parts = owned(CUTTING, messages)
    assert text == f"<|endoftext|><User>Is the bread warm?<Assistant>{left}<|im_end|><User>Good."
    assert parts == [(0, "Is the bread warm?"), (1, left), (2, "Good.")]
    assert shortened(CUTTING, messages)


def test_a_thought_alone_leaves_nothing_of_its_turn():
    messages = chat("Is the bread warm?", "<think>The oven is hot.</think>", "Good.")
    assert owned(CUTTING, messages)[1] == [(0, "Is the bread warm?"), (2, "Good.")]
    assert shortened(CUTTING, messages)


def test_a_thought_that_is_moved_keeps_its_owner():
    text, parts = owned(MOVING, chat("Is the bread warm?", THOUGHT))
    assert text.endswith("assistant: It is warm. (thought: The oven is hot.)<|im_end|>")
    contents = [(turn, part.strip()) for turn, part in parts]
    assert contents == [(0, "Is the bread warm?"), (1, "It is warm."), (1, "The oven is hot.")]


def test_equal_words_of_several_turns_keep_their_owners():
    """The word before the tag and those of the scaffold are no guide: only marks are."""
    messages = chat("assistant", "<think>assistant\n</think>\nassistant", "assistant", "user")
    text, parts = owned(THINKING, messages)
    assert parts == [(0, "assistant"), (1, "assistant"), (2, "assistant"), (3, "user")]
    assert text.count("assistant") == 5


SPACE = st.sampled_from(["", " ", "\n", "\n\n", " \n "])
PIECES = st.lists(st.tuples(st.sampled_from(["word", "<think>", "</think>"]), SPACE), max_size=6)


@pytest.mark.parametrize("template", [THINKING, CUTTING, MOVING])
@settings(max_examples=60)
@given(contents=st.lists(PIECES, min_size=1, max_size=4))
def test_wherever_thoughts_begin_and_end_each_word_is_its_messages(template, contents):
    """Every word has a number, so that the text itself says whose it is."""
    numbers = count(10)
    texts = [
        "".join(
            (f"w{next(numbers)}." if kind == "word" else kind) + space for kind, space in pieces
        )
        for pieces in contents
    ]
    messages = chat(*texts)
    text, parts = owned(template, messages)
    of_text, of_parts = ({*re.findall(r"w\d+\.", each)} for each in (text, str(parts)))
    assert of_text == of_parts
    for turn, part in parts:
        assert {*re.findall(r"w\d+\.", part)} <= {*re.findall(r"w\d+\.", texts[turn])}
        assert not re.search(r"assistant|user|User|Assistant|thought", part)
        without = texts[turn].replace("<think>", "")  # as a template may leave it: glued together
        assert part.strip() in texts[turn] or part.strip() in without
    cut = sum(len("".join(t.split())) for t in texts) - sum(
        len("".join(part.split())) for _, part in parts
    )
    assert shortened(template, messages) == (cut > 0)


def test_a_switch_is_taken_out_and_the_rest_stays():
    messages = chat("Speak plainly. /no_think", "Is it? ", roles=("system", "user"))
    assert owned(NO_THINK, messages)[1] == [(0, "Speak plainly."), (1, "Is it?")]
    assert shortened(NO_THINK, messages)
    assert not shortened(NO_THINK, messages[1:])


def refusal(template, messages):
    (checked,) = renderer(template).check([messages])
    assert checked.refusal and "\n" not in checked.refusal
    with pytest.raises(InputError) as caught:
        renderer(template).render([messages])
    assert str(caught.value).startswith(checked.refusal)
    return checked.refusal


@pytest.mark.parametrize(
    ("roles", "why"),
    [
        (("system", "user", "assistant"), "System role not supported"),
        (("user", "user"), "Roles must alternate"),
        (("assistant", "user"), "Roles must alternate"),
        (("system",), "System role not supported"),
    ],
)
def test_roles_that_a_template_refuses_are_named_with_its_reason(roles, why):
    said = refusal(STRICT, chat(*(["bread"] * len(roles)), roles=roles))
    assert said == f"The chat template refuses a chat of {', '.join(roles)} ({why})"


def test_an_empty_turn_is_no_reason_to_refuse():
    messages = chat("Hm", "", "Is the bread warm?", "Yes.")
    assert owned(STRICT, messages)[1] == [(0, "Hm"), (2, "Is the bread warm?"), (3, "Yes.")]


@pytest.mark.parametrize(
    "body",
    [
        "m['content'] | upper",
        "m['content'].replace('bread', 'cake')",
        "m['content'] + m['content']",
        "m['content'].split() | join(' ')",
        "m['content'][:9]",
        "m['content'].split(' warm ')[-1]",
        "m['content'].split('</think>')[-1].replace('  ', ' ')",
        "m['content'] | tojson",
    ],
)
def test_what_cannot_be_told_apart_is_refused_and_never_guessed(body):
    template = "{% for m in messages %}{{ m['role'] + ': ' + " + body + " }}{% endfor %}"
    content = 'The "bread"  is warm </think>  and  the bread is\nhere '
    assert "rewrites message contents" in refusal(template, [{"role": "user", "content": content}])


def test_a_refused_chat_does_not_hide_the_others():
    chats = [chat("a", "b"), chat("a", "b", roles=("user", "user")), chat("c")]
    checks = [*renderer(STRICT).check(chats)]
    assert [bool(check.refusal) for check in checks] == [False, True, False]


def test_a_chat_of_no_messages_has_no_tokens():
    first, none = renderer(STRICT).render([chat("bread"), []])
    assert len(first.ids) and not len(none.ids) and none.text == "" and none.cut == 0


def test_a_refused_chat_ends_a_measure_before_any_weight_is_read(tmp_path):
    """There are none: what is told first was known from the tokenizer."""
    from tests import tiny

    place = Workspace(tmp_path / "place")
    folder = tiny.llama(tmp_path / "strict", template=STRICT)
    (folder / "model.safetensors").unlink()
    rows = [chat("bread"), chat("a", "b"), chat("a", "b", roles=("user", "user"))]
    lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in rows)
    (tmp_path / "rows.jsonl").write_text("\n" + lines)
    steps = Steps(place)
    source = IngestSpec(name="rows", source=str(tmp_path / "rows.jsonl"))
    dataset = steps.perform(source, lambda *_: None)
    sae = tiny.sae(tmp_path / "sae", model_name="strict")
    spec = MeasureSpec(dataset=dataset, model=str(folder), layer=2, sae=str(sae))
    with pytest.raises(InputError, match=r"^Line 4 of rows cannot be measured: the chat template"):
        steps.perform(spec, lambda *_: None)
    with pytest.raises(InputError, match="cannot be loaded"):
        steps.perform(replace(spec, on_bad="skip"), lambda *_: None)


def test_chats_are_read_alike_whether_or_not_one_between_them_is_left_out(tmp_path):
    from fac.encoder import SaeEncoder
    from fac.models import SubjectModel
    from fac.saes import load_sae
    from tests import tiny

    model = SubjectModel(tiny.llama(tmp_path / "thinks", template=THINKING), layer=2)
    encoder = SaeEncoder(model, load_sae(str(tiny.sae(tmp_path / "sae")), "cpu"), "tiny")
    chats = [chat("Is the bread warm?", THOUGHT, "Good."), chat("Water", "The plants.")]
    alone, mixed = encoder.encode(chats), encoder.encode([[], chats[0], [], chats[1], []])
    assert len(alone.peak) > 20
    assert mixed.sample.tolist() == (2 * alone.sample + 1).tolist()
    for name in ("role", "feature", "position", "n_tokens"):
        assert (getattr(mixed, name) == getattr(alone, name)).all()
    assert mixed.peak == pytest.approx(alone.peak, rel=1e-5)
    read = [s for reading in encoder.read([[], [], chats[0]]) for s in reading.samples]
    assert sorted(read) == [0, 1, 2]


@pytest.mark.parametrize(
    "head",
    [
        "{{ 'Today is ' + strftime_now('%A, %Y-%m-%d %H:%M:%S.%f') + '.' }}",
        "{% if strftime_now is defined %}{% set day = strftime_now('%d %B %Y') %}{% else %}"
        "{% set day = 'never' %}{% endif %}{{ 'Today is ' + day }}",
        "{% if date_string is not defined %}{% set date_string = strftime_now('%f') %}{% endif %}"
        "{{ 'Today is ' + date_string }}",
    ],
)
def test_a_template_reads_one_date_on_every_day(monkeypatch, head):
    from transformers.utils import chat_template_utils

    texts = set()
    for day in (datetime(2025, 12, 31, 23, 59, 59, 9), datetime(2026, 1, 1)):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return day

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        template = head + "{{ messages[0]['content'] }}"
        texts.add(renderer(template).render([chat("bread")])[0].text)
    (text,) = texts
    assert text.startswith("Today is ") and "2024" in text and "26" in text
