"""Candidate texts: one protocol, a stream of random numbers each, nothing written or paid twice."""

from collections import Counter
from contextlib import ExitStack

import numpy as np
import pytest

from fac.config import WRITERS, PairsSpec
from fac.endpoints import Endpoints
from fac.errors import BudgetReached, Cancelled, InputError, ServiceError
from fac.generator import LocalGenerator
from fac.generator.allowance import Limits
from fac.generator.chat import Declined, OpenAIChat, Reply
from fac.generator.journal import ReplyJournal
from fac.generator.local import PromptRow
from fac.generator.writer import Means, Request, Steer, Writer, Written, stream
from fac.generator.writers import local
from fac.generator.writers.local import BLANK, LocalWriter
from fac.generator.writers.openai import ChatWriter
from fac.prompts import Excerpt, Prompt, drafts
from fac.prompts.drafts import Opening, candidate_opening
from tests.scripted import ScriptedChat, ScriptedWriter
from tests.server import ScriptedServer

BREAD = Excerpt(("I", " baked", " bread"), (False, False, True))
WORDS = ("oven", "river", "plants", "Paris", "kitchen", "garden", "France")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    from tests import tiny

    return LocalGenerator(tiny.llama(tmp_path_factory.mktemp("writer")), dtype="float32")


def ignore(*_):
    """Nobody watches, nothing is kept."""


def write(writer: Writer, requests, **options) -> dict[str, Written]:
    """Without watching and keeping, unless told otherwise."""
    defaults = {"seed": 0, "max_new_tokens": 8, "temperature": 1.0, "done": {}}
    return writer.write(requests, **{**defaults, "record": ignore, "progress": ignore, **options})


def openings(n: int) -> list[Request]:
    """Lists of different lengths, some of them alike."""
    return [
        Request(f"f{number}", opening=Opening(" ".join(["The", *WORDS[: number % 5]]), ""))
        for number in range(n)
    ]


# --- what every writer does -----------------------------------------------------------------------


@pytest.fixture(params=["local", "chat", "scripted"])
def writer(request, generator, tmp_path):
    if request.param == "local":
        return LocalWriter(generator, "tiny", batch=3)
    if request.param == "chat":
        chat = ScriptedChat(lambda prompt: f"number {prompt.draw}")
        return ChatWriter(chat, ReplyJournal(tmp_path / "journal"), Limits(2))
    return ScriptedWriter(lambda request: f"about {request.key}")


def test_every_request_is_written_and_recorded_once_in_the_order_given(writer):
    recorded = []
    requests = openings(8)[::-1]
    written = write(writer, requests, record=recorded.append)
    assert list(written) == [request.key for request in requests]
    assert sorted(recorded) == sorted(written.values())
    assert all(text.key == key and not text.failure for key, text in written.items())
    assert all(text.tokens >= 0 and text.prompt_tokens > 0 for text in written.values())
    assert isinstance(writer.identity, str) and writer.identity


def test_what_is_done_is_neither_written_nor_recorded_again(writer):
    requests = openings(8)
    before = Written("f3", "as it was", True, 2, "", 5, None)
    recorded: list[Written] = []
    written = write(writer, requests, record=recorded.append, done={"f3": before, "other": before})
    assert written["f3"] is before
    assert Counter(text.key for text in recorded) == Counter(set(written) - {"f3"})
    assert write(writer, requests, done=written, record=pytest.fail) == written
    assert write(writer, []) == {}


def test_a_text_is_recorded_before_anybody_hears_of_it(writer):
    """A server's reply is in the journal first; its texts are recorded when all are there."""
    recorded: list[Written] = []
    reports = []

    def watch(done, total, note=""):
        kept = writer.journal.read() if isinstance(writer, ChatWriter) else recorded
        reports.append(done)
        assert done <= len(kept) and total == 8

    write(writer, openings(8), record=recorded.append, progress=watch)
    assert max(reports) == 8


def test_the_last_report_is_that_all_is_done(writer):
    seen = []
    write(writer, openings(8), progress=lambda *report: seen.append(report[:2]))
    assert seen[-1] == (8, 8) and seen == sorted(seen)


# --- which text a request becomes -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [LocalWriter, ChatWriter])
def test_a_request_is_either_a_prompt_or_an_opening_and_keys_differ(kind, generator, tmp_path):
    if kind is LocalWriter:
        writer = LocalWriter(generator, "tiny")
    else:
        writer = ChatWriter(ScriptedChat(["x"]), ReplyJournal(tmp_path / "journal"), Limits())
    prompt, opening = drafts.unguided_prompt("chat"), Opening("a", "")
    for wrong in (Request("a"), Request("a", prompt, opening)):
        with pytest.raises(ValueError, match="'a' needs either"):
            write(writer, [wrong])
    with pytest.raises(ValueError, match="share a key"):
        write(writer, [Request("a", prompt), Request("a", None, opening)])


class Watching:
    """A generator that remembers its rows."""

    def __init__(self, generator):
        self.generator = generator
        self.calls: list[tuple[list[PromptRow], int]] = []

    def write(self, rows, *, max_new_tokens, **options):
        self.calls.append((list(rows), max_new_tokens))
        return self.generator.write(rows, max_new_tokens=max_new_tokens, **options)

    def __getattr__(self, name):
        return getattr(self.generator, name)


def test_prompts_are_rendered_and_openings_are_lines(generator):
    watched = Watching(generator)
    push = Steer(np.ones(32, np.float32), 2)
    candidate = drafts.candidate_prompt("instruction", "bread", [BREAD])
    requests = [
        Request("prompt", candidate),
        Request("opening", None, Opening("- The oven", "The oven"), push),
        Request("magpie", None, Opening("", "")),
    ]
    written = write(LocalWriter(watched, "tiny"), requests, seed=4)
    ((rows, _),) = watched.calls
    by_key = {row.seed: row for row in rows}
    prompt, opening, magpie = (by_key[stream(4, request.key)] for request in requests)
    assert prompt.prompt == generator.render(candidate.messages) and not prompt.line
    assert (opening.prompt, opening.line, opening.steer) == ("- The oven", True, push)
    assert magpie.prompt == generator.render([{"role": "user", "content": BLANK}]).split(BLANK)[0]
    assert magpie.prompt.endswith("<|im_start|>user\n") and not magpie.line
    assert written["prompt"].prompt_tokens == generator.count([prompt.prompt])[0]


def test_a_model_without_a_template_writes_lists_only(tmp_path):
    from tests import tiny

    writer = LocalWriter(LocalGenerator(tiny.gpt2(tmp_path), dtype="float32"), "tiny")
    assert len(write(writer, openings(2))) == 2
    for request in (
        Request("a", drafts.unguided_prompt("instruction")),
        Request("a", None, Opening("", "")),
    ):
        with pytest.raises(InputError, match="no chat template"):
            write(writer, [request])


def test_a_reply_in_json_has_the_room_that_its_form_needs(generator, tmp_path):
    watched = Watching(generator)
    plain = Prompt(({"role": "user", "content": "a"},), {}, 20)
    object_ = plain._replace(form={"type": "object"})
    requests = [Request("plain", plain), Request("object", object_)]
    write(LocalWriter(watched, "tiny"), requests)
    assert sorted(room for _, room in watched.calls) == [8, 20]
    chat = ScriptedChat(lambda prompt: "x")
    write(ChatWriter(chat, ReplyJournal(tmp_path / "journal"), Limits(1)), requests)
    assert {prompt.max_tokens for prompt in chat.prompts if prompt.form} == {20}
    assert {prompt.max_tokens for prompt in chat.prompts if not prompt.form} == {8}
    write(
        ChatWriter(chat, ReplyJournal(tmp_path / "other"), Limits(1)), requests, max_new_tokens=30
    )
    assert {prompt.max_tokens for prompt in chat.prompts[2:]} == {30}


# --- local: streams, batches, resuming ------------------------------------------------------------


def test_texts_depend_on_seed_and_key_and_not_on_order_or_company(generator):
    requests = openings(10)
    written = write(LocalWriter(generator, "tiny", batch=4), requests)
    assert write(LocalWriter(generator, "tiny", batch=4), requests[::-1]) == written
    assert write(LocalWriter(generator, "tiny", batch=64), requests) == written
    assert write(LocalWriter(generator, "tiny"), requests[3:5]) == {
        key: written[key] for key in ("f3", "f4")
    }
    other = write(LocalWriter(generator, "tiny"), requests, seed=1)
    assert sum(other[key].text != written[key].text for key in written) >= 8
    same = [request._replace(key=f"g{number}") for number, request in enumerate(requests)]
    renamed = write(LocalWriter(generator, "tiny"), same)
    assert [t.text for t in renamed.values()] != [t.text for t in written.values()]


def test_streams_of_seeds_and_keys_do_not_run_together():
    pairs = [(seed, f"{key}/0") for seed in range(30) for key in range(30)]
    assert len({stream(*pair) for pair in pairs}) == 900
    assert stream(1, "1/0") != stream(11, "/0")


@pytest.mark.parametrize("after", range(11))
def test_a_call_that_was_stopped_anywhere_goes_on_to_the_same_texts(generator, after):
    """A kill between two records; batches half recorded are written as whole batches again."""
    requests = openings(11)
    wanted = write(LocalWriter(generator, "tiny", batch=4), requests)
    kept: dict[str, Written] = {}

    def record(text):
        if len(kept) == after:
            raise KeyboardInterrupt
        kept[text.key] = text

    with pytest.raises(KeyboardInterrupt):
        write(LocalWriter(generator, "tiny", batch=4), requests, record=record)
    assert len(kept) == after
    watched, recorded = Watching(generator), []
    written = write(
        LocalWriter(watched, "tiny", batch=4), requests, done=kept, record=recorded.append
    )
    assert written == wanted
    assert {text.key for text in recorded} == wanted.keys() - kept.keys()
    assert len(watched.calls) == 3 - after // 4
    assert len(watched.calls[0][0]) == (4 if after < 8 else 3)


def test_whoever_stops_the_writing_keeps_whole_batches(generator):
    kept: list[Written] = []

    def stop(done, _total, _note):
        if done >= 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        write(
            LocalWriter(generator, "tiny", batch=4), openings(11), record=kept.append, progress=stop
        )
    assert len(kept) == 4


def test_progress_is_heard_of_within_a_batch(generator, monkeypatch):
    """A lease is kept while a large batch is written."""
    monkeypatch.setattr(local, "HEARTBEAT", 0.0)
    seen = []
    write(LocalWriter(generator, "tiny"), openings(3), progress=lambda *report: seen.append(report))
    assert len(seen) > 5 and seen[0][:2] == (0, 3) and seen[-1][:2] == (3, 3)
    assert "tokens, " in seen[-1][2]
    assert [note for _, _, note in seen if "3 texts at once: token 2 of at most 8" in note]
    assert "at once" not in seen[-1][2]


def test_a_budget_ends_the_writing_before_it_is_exceeded(generator):
    requests = openings(11)
    for budget in (1, 40, 77, 100):
        kept: dict[str, Written] = {}
        writer = LocalWriter(generator, "tiny", batch=4, budget_tokens=budget)
        with pytest.raises(BudgetReached, match=f"budget of {budget}") as caught:
            write(writer, requests, record=lambda text, kept=kept: kept.update({text.key: text}))
        used = sum(text.tokens + text.prompt_tokens for text in kept.values())
        assert used <= budget and f"but {used:,} of the" in str(caught.value)
        assert bool(kept) == (budget > 20)
        assert "\n" not in str(caught.value)
        more = LocalWriter(generator, "tiny", batch=4, budget_tokens=10_000)
        assert write(more, requests, done=kept) == write(
            LocalWriter(generator, "tiny", batch=4), requests
        )
    with pytest.raises(BudgetReached):  # what was spent before counts
        done = {"f0": Written("f0", "x", True, 90, "", 10, None)}
        write(LocalWriter(generator, "tiny", budget_tokens=105), requests, done=done)
    with pytest.raises(BudgetReached, match="but 100 of the"):  # whatever it was spent on
        done = {"another": Written("another", "x", True, 90, "", 10, None)}
        write(LocalWriter(generator, "tiny", budget_tokens=105), requests, done=done)


def test_the_push_of_a_request_reaches_its_text_alone(generator):
    push = Steer(30 * np.random.default_rng(1).standard_normal(32).astype(np.float32), 2)
    plain = openings(6)
    some = [r._replace(steer=push) if n % 2 else r for n, r in enumerate(plain)]
    before, after = (write(LocalWriter(generator, "tiny"), requests) for requests in (plain, some))
    changed = [before[f"f{n}"] != after[f"f{n}"] for n in range(6)]
    assert changed == [False, True] * 3


def test_a_base_model_goes_on_with_texts_that_begin_as_its_tokenizer_has_it(tmp_path):
    """Gemma, for one, reads nothing well without its first token."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    from tests import tiny

    base = tiny.gpt2(tmp_path / "base")
    plain = LocalGenerator(base, dtype="float32")
    assert not plain.chats and plain.begin == ""
    words = AutoTokenizer.from_pretrained(base)
    bos = words.bos_token
    special = [(bos, words.bos_token_id)]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=special
    )
    words.save_pretrained(base)
    generator = LocalGenerator(base, dtype="float32")
    assert not generator.chats and generator.begin == bos
    (before,) = write(LocalWriter(plain, "tiny"), openings(1)).values()
    writer = LocalWriter(generator, "tiny")
    (after,) = write(writer, openings(1)).values()
    assert not writer.chats
    assert after.prompt_tokens == before.prompt_tokens + 1
    opening = openings(1)[0].opening
    (alone,) = generator.write(
        [PromptRow(bos + opening.text, stream(0, openings(1)[0].key), line=True)],
        max_new_tokens=8,
    )
    assert after.text == alone.text


# --- behind a server ------------------------------------------------------------------------------


def write_by_server(requests, script, tmp_path, *, limits=None, **options):
    chat = ScriptedChat(script)
    writer = ChatWriter(chat, ReplyJournal(tmp_path / "journal"), limits or Limits(1))
    return write(writer, requests, **options), chat


def test_each_request_is_drawn_with_a_seed_of_its_own_and_never_asked_twice(tmp_path):
    prompt = drafts.unguided_prompt("instruction")
    requests = [Request(f"unguided/{number}", prompt) for number in range(6)]
    written, chat = write_by_server(requests, lambda prompt: f"How is {prompt.draw}?", tmp_path)
    assert len({prompt.draw for prompt in chat.prompts}) == 6
    assert all(0 <= prompt.draw < 2**31 and prompt.temperature == 1.0 for prompt in chat.prompts)
    assert len({text.text for text in written.values()}) == 6
    again, silent = write_by_server(requests, [], tmp_path)
    assert again == written and silent.prompts == []
    _, more = write_by_server(requests, lambda prompt: "x", tmp_path, seed=1)
    assert len(more.prompts) == 6
    _, warmer = write_by_server(requests, lambda prompt: "x", tmp_path, temperature=0.5)
    assert len(warmer.prompts) == 6


def test_a_server_is_sent_temperature_and_seed_but_no_form_for_plain_text(tmp_path):
    plain = drafts.unguided_prompt("instruction")
    formed = plain._replace(form={"type": "object"})
    requests = [Request("plain", plain), Request("object", formed)]
    with ScriptedServer(lambda body: "How late is it?").running() as server:
        chat = OpenAIChat("small", server.endpoint)
        writer = ChatWriter(chat, ReplyJournal(tmp_path / "journal"), Limits(1))
        written = write(writer, requests, seed=3, temperature=0.9)
    assert writer.identity == chat.identity
    assert [text.text for text in written.values()] == ["How late is it?"] * 2
    first, second = server.bodies
    assert "response_format" not in first and "response_format" in second
    for body, key in ((first, "plain"), (second, "object")):
        assert body["temperature"] == 0.9 and body["seed"] == stream(3, key) % 2**31


def test_a_list_is_sent_as_a_message_and_its_line_comes_back(tmp_path):
    opening = candidate_opening("instruction", None, [BREAD], "I baked")
    requests = [Request("a", None, opening)]
    written, chat = write_by_server(
        requests, [Reply("- I baked rolls.\n- And more", "length", 9, 5, False, "m")], tmp_path
    )
    assert written["a"].text == " rolls." and written["a"].finished
    assert opening.text in chat.prompts[0].messages[-1]["content"]
    assert chat.prompts[0].form == {}
    with pytest.raises(ValueError, match="empty chat"):
        write_by_server([Request("b", None, Opening("", ""))], [], tmp_path)
    with pytest.raises(ValueError, match="cannot be steered"):
        write_by_server([Request("b", None, opening, Steer(np.ones(2), 1))], [], tmp_path)


@pytest.mark.parametrize(
    ("finish", "finished"),
    [("stop", True), ("", True), ("length", False), ("content_filter", False)],
)
def test_a_reply_that_was_cut_off_is_not_finished(tmp_path, finish, finished):
    request = Request("a", drafts.unguided_prompt("instruction"))
    script = [Reply("How late is", finish, 9, 4, False, "m")]
    written, _ = write_by_server(
        [request], script, tmp_path, limits=Limits(1, None, None, 1.0, 2.0)
    )
    assert written["a"] == Written("a", "How late is", finished, 4, "", 9, (9 + 8) / 1e6)


def test_what_a_server_declines_has_a_failure_and_is_asked_again_next_time(tmp_path):
    prompt = drafts.unguided_prompt("instruction")
    requests = [Request(f"{number}", prompt) for number in range(3)]
    declined = stream(0, "1") % 2**31

    def script(prompt):
        return Declined("too long") if prompt.draw == declined else "How late is it?"

    kept: list[Written] = []
    written, _ = write_by_server(requests, script, tmp_path, record=kept.append)
    assert written["1"] == Written("1", "", False, 0, "too long", 0, None)
    assert sorted(text.key for text in kept) == ["0", "2"]
    again, chat = write_by_server(
        requests, ["Better?"], tmp_path, record=kept.append, done={text.key: text for text in kept}
    )
    assert again["1"].text == "Better?" and len(chat.prompts) == 1
    assert Counter(text.key for text in kept) == {"0": 1, "1": 1, "2": 1}


def test_nothing_paid_for_is_lost_when_the_budget_ends(tmp_path):
    prompt = drafts.unguided_prompt("instruction")
    requests = [Request(f"{number}", prompt) for number in range(30)]

    def script(prompt):
        return Reply("How late is it?", "stop", 300, 100, False, "m")

    with pytest.raises(BudgetReached):
        write_by_server(requests, script, tmp_path, limits=Limits(1, budget_tokens=4000))
    paid = len(ReplyJournal(tmp_path / "journal").read())
    assert 1 < paid <= 10
    written, chat = write_by_server(requests, script, tmp_path)
    assert len(written) == 30 and len(chat.prompts) == 30 - paid


def test_a_server_that_answers_nothing_is_an_error_not_an_empty_result(tmp_path):
    request = Request("a", drafts.unguided_prompt("instruction"))
    with pytest.raises(ServiceError, match="The first question was not answered"):
        write_by_server([request], [Declined("no")], tmp_path)


# --- the real model -------------------------------------------------------------------------------


@pytest.mark.model
def test_the_demo_model_writes_samples_of_its_list(demo_model_home):
    folder = next(path.parent for path in demo_model_home.rglob("model.safetensors"))
    writer = LocalWriter(LocalGenerator(folder), "demo")
    spans = [
        Excerpt((text,), (False,))
        for text in (
            "How do I bake rye bread without yeast?",
            "Which flour is best for baking white bread?",
            "Can you tell me why my bread does not rise?",
        )
    ]
    opening = candidate_opening("instruction", "baking bread", spans, "Why is my bread")
    requests = [Request(f"bread/{number}", None, opening) for number in range(6)]
    written = write(writer, requests, max_new_tokens=40, temperature=0.8)
    messages = []
    for text in written.values():
        assert "\n" not in text.text and text.prompt_tokens > 40
        draft = drafts.read_draft("instruction", text.text, opening.starts, finished=text.finished)
        messages.append(draft.messages[0]["content"])
    assert all(draft.startswith("Why is my bread") for draft in messages)
    assert len(set(messages)) > 2
    assert write(writer, requests, max_new_tokens=40, temperature=0.8) == written


# --- the kinds ------------------------------------------------------------------------------------


def test_each_kind_says_what_it_needs_and_stands_where_it_is_preferred():
    assert list(WRITERS) == ["local", "steered", "openai"] and WRITERS.names[1] == "openai"
    kinds = dict(WRITERS.items())
    assert {name for name, kind in kinds.items() if kind.server} == {"openai"}
    assert {name for name, kind in kinds.items() if kind.steers} == {"steered"}
    assert len({kind.title for kind in kinds.values()}) == 3


def test_a_kind_is_opened_with_what_a_job_lends_it(tmp_path):
    here = ScriptedWriter(str)
    with ExitStack() as closing:
        endpoints = Endpoints((), unlisted=True)
        means = Means(lambda spec: here, tmp_path / "replies", closing, endpoints)
        for name in ("local", "steered"):
            spec = PairsSpec(anchor="a", dataset="d", features=(1,), writer=name)
            assert WRITERS[name].open(spec, means) is here
        spec = PairsSpec(
            anchor="a",
            dataset="d",
            features=(1,),
            writer="openai",
            model="m",
            endpoint="http://here/v1",
        )
        served = WRITERS["openai"].open(spec, means)
    assert served.identity == "m at http://here/v1" and served.journal.path == means.replies
