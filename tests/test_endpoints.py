"""Keys and where they go: addresses that are the same, the operator's list, and canaries.

A canary is a key that only one server may ever hear. Every step that asks a language model is
driven through the command line, through jobs that somebody put into the queue by hand, and through
the pages; a server of the operator's and one of somebody else's note all that they hear.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from fac.cli import frame
from fac.config import (
    SPECS,
    AskSpec,
    ExplainSpec,
    JudgeSpec,
    PairsSpec,
    SynthesizeSpec,
    Workspace,
    read_spec,
)
from fac.endpoints import (
    OPENAI,
    Endpoint,
    Endpoints,
    default_endpoint,
    read_address,
    read_endpoints,
)
from fac.errors import InputError
from fac.jobs.worker import Worker
from fac.manifest import Manifest
from fac.prompts.relevance import TASKS
from fac.review import approved_pairs
from fac.store.decisions import Decisions
from fac.store.queue import Job, Queue
from fac.store.runs import Runs
from tests import toy
from tests.server import ScriptedServer, Status
from tests.test_cli import PAIR, assert_one_sentence, fac
from tests.test_cli_make import MakingSteps, approved, done, marked
from tests.test_interpret import honest, prompt_of
from tests.test_pages import button, navigation_decides, opened, ran, started, words

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses

LAB, DEFAULT = "canary-of-the-lab-0123456789", "canary-of-openai-0123456789"

GAPS = (3, 6)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys, and nothing else that says where to ask."""
    for name in ("OPENAI_BASE_URL", "FAC_ENDPOINTS", "FAC_UNLISTED_ENDPOINTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", DEFAULT)
    monkeypatch.setenv("LAB_KEY", LAB)
    monkeypatch.setattr("fac.generator.batch_chat.FIRST_PAUSE", 0.001)


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://gate.example/v1/",
        "HTTPS://Gate.EXAMPLE:443/v1",
        "https://gate.example./v1",
        " https://gate.example:0443/v1//",
    ],
)
def test_spellings_of_one_address_are_one_address(url):
    assert str(read_address(url)) == "https://gate.example/v1"
    assert read_address("http://[0:0::1]:8000/v1") == read_address("http://[::1]:8000/v1")


@pytest.mark.parametrize(
    "url",
    [
        "http://gate.example/v1",
        "https://gate.example:8443/v1",
        "https://gate.example.org/v1",
        "https://api.gate.example/v1",
        "https://gate.example/v10",
        "https://gate.example/V1",
        "https://gate.example",
        "https://gate-example/v1",
        "https://xn--gte-hoa.example/v1",
    ],
)
def test_an_address_that_only_looks_alike_has_no_key(url):
    lab = Endpoint(name="lab", url="https://gate.example/v1", key="LAB_KEY")
    endpoint = Endpoints((lab,), unlisted=True).of(url)
    assert (endpoint.key, endpoint.read_key(), endpoint.url) == ("", None, url)
    with pytest.raises(InputError, match="not among the endpoints that the operator lists"):
        Endpoints((lab,), unlisted=False).of(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8000/v1", "must be an http(s) address"),
        ("ftp://host/v1", "must be an http(s) address"),
        ("http://", "must be an http(s) address"),
        ("http://host:port/v1", "must be an http(s) address"),
        ("http://host:99999/v1", "must be an http(s) address"),
        ("http://host:0/v1", "must be an http(s) address"),
        ("http:/me:hush@host/v1", "must be an http(s) address"),
        ("http://me:hush@host/v1", "no password"),
        ("http://me@host/v1", "no password"),
        ("https://host/v1?key=hush", "nothing after '?'"),
        ("https://host/v1?", "nothing after '?'"),
        ("https://host/v1#hush", "nothing after '?'"),
        ("https://evil.example\\@host/v1", "no password"),
        ("https://evil.example\\.host/v1", "must be an http(s) address"),
        ("https://ev\til.example/v1", "must be an http(s) address"),
        ("https://[::1].evil.example/v1", "must be an http(s) address"),
        ("https://g\N{CYRILLIC SMALL LETTER A}te.example/v1", "xn--"),
        ("https://\N{FULLWIDTH LATIN SMALL LETTER G}ate.example/v1", "xn--"),
        ("https://host/v1/../v2", "no . or .."),
        ("https://host/v1/%2e%2e/v2", "no %"),
        ("https://host/v1//v2", "no empty part"),
    ],
)
def test_an_endpoint_is_an_address_that_nobody_can_read_in_two_ways(url, why):
    with pytest.raises(InputError, match=re.escape(why)) as caught:
        read_address(url)
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://me:hush@host/v1", "https://host/v1?key=hush", "https://host/v1#hush", "host"]
)
def test_no_spec_holds_what_could_be_a_key(url):
    with pytest.raises(InputError):
        ExplainSpec(measure="m", endpoint=url)


def test_what_an_older_version_recorded_stays_readable_less_what_could_be_a_key():
    spec = ExplainSpec(measure="m", endpoint="https://host/v1").as_json()
    with pytest.raises(InputError, match="nothing after"):
        read_spec("explain", spec | {"endpoint": "https://host/v1?key=hush"})
    about = {"run": "explain-0", "step": "explain", "created": "2026-01-01"}
    content = {**about, "inputs": ["m"], "facts": {}, "files": {}}
    content |= {"spec": spec | {"endpoint": "https://host/v1?key=hush"}}
    assert Manifest.read(content).spec.endpoint == "https://host/v1"


# --- the list -------------------------------------------------------------------------------------


def listing(tmp_path: Path, text: str, **options: Any) -> Endpoints:
    (tmp_path / "endpoints.toml").write_text(text)
    return read_endpoints(tmp_path / "endpoints.toml", **options)


def test_the_longest_path_decides_whose_key_it_is(tmp_path):
    endpoints = listing(
        tmp_path,
        '[all]\nurl = "https://gate.example"\nkey = "ALL_KEY"\n'
        '[team]\nurl = "https://gate.example/team/v1"\nkey = "LAB_KEY"\n',
    )
    assert [each.name for each in endpoints.listed] == ["all", "team"]
    urls = ("https://gate.example/v1", "https://gate.example/team/v1", "https://gate.example/team")
    assert [endpoints.of(url).key for url in urls] == ["ALL_KEY", "LAB_KEY", "ALL_KEY"]
    assert endpoints.of("https://GATE.example:443/team/v1/x").key == "LAB_KEY"


def test_models_and_prices_are_those_of_the_list(tmp_path):
    endpoints = listing(
        tmp_path,
        '[small]\nurl = "http://gate/v1"\nmodels = ["s"]\nprice_in = 1\nprice_out = 2.5\n'
        '[large]\nurl = "http://gate/v1"\nmodels = ["l", "xl"]\nprice_in = 10\nprice_out = 20\n',
        unlisted=True,
    )
    assert endpoints.of("http://gate/v1", "xl").name == "large"
    with pytest.raises(InputError, match="the models s, l, xl, got 'q'"):
        endpoints.of("http://gate/v1", "q")
    settings = {"model": "s", "endpoint": "http://gate/v1", "price_in": None, "price_out": None}
    assert endpoints.priced(settings) == settings | {"price_in": 1, "price_out": 2.5}
    priced = settings | {"price_in": 7.0, "price_out": 8.0}
    assert endpoints.priced(priced) == priced
    assert endpoints.priced(settings | {"endpoint": "http://other/v1"})["price_in"] is None


def test_a_model_that_is_not_listed_is_not_asked_with_the_defaults_key(tmp_path):
    endpoints = listing(tmp_path, f'[ours]\nurl = "{OPENAI}"\nkey = "LAB_KEY"\nmodels = ["s"]\n')
    assert endpoints.of("", "s").key == "LAB_KEY"
    with pytest.raises(InputError, match="models s, got 'l'"):
        endpoints.of("", "l")


def test_openais_key_belongs_to_the_default_endpoint_alone(tmp_path, monkeypatch):
    endpoints = read_endpoints(tmp_path / "none")
    assert endpoints == Endpoints((default_endpoint(),), unlisted=False)
    assert endpoints.of("").read_key().text == DEFAULT
    assert DEFAULT not in repr(endpoints.of("").read_key())
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1/")
    endpoints = read_endpoints(tmp_path / "none", unlisted=True)
    assert endpoints.of("").url == "http://127.0.0.1:8000/v1"
    assert endpoints.of("").read_key().variable == "OPENAI_API_KEY"
    assert endpoints.of(OPENAI).read_key() is None, "it is somebody else's key now"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert endpoints.of("").read_key() is None, "a server of one's own may need none"
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        read_endpoints(tmp_path / "none").of("").read_key()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("url = ", "is no TOML"),
        ("price = " + "9" * 5000, "is no TOML"),
        ('lab = "http://gate/v1"', "lab: an endpoint is a table with a url"),
        ('[lab]\nkey = "LAB_KEY"', "an endpoint is a table with a url"),
        ('[lab]\nurl = "gate"', "lab: The endpoint must be an http(s) address"),
        ('[lab]\nurl = "http://gate"\nkey = "sk-hush-012345"', "never the key itself"),
        ('[lab]\nurl = "http://gate"\nkey = "hf_hush"', "never the key itself"),
        ('[lab]\nurl = "http://gate"\nkeys = "A"', "there is no 'keys'"),
        ('[lab]\nurl = "http://gate"\nprice_in = -1', "from 0 on"),
        ('[lab]\nurl = "http://gate"\nprice_in = true', "price_in has the wrong form"),
        ('[lab]\nurl = "http://gate"\nmodels = [1]', "models are a list of names"),
        (
            '[a]\nurl = "http://gate"\nkey = "A"\n[b]\nurl = "http://GATE:80/"\nkey = "B"',
            "with two keys",
        ),
    ],
)
def test_a_list_that_is_wrong_is_one_sentence_that_repeats_no_key(tmp_path, text, why):
    with pytest.raises(InputError, match=re.escape(why)) as caught:
        listing(tmp_path, text)
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_list_may_lie_elsewhere_and_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FAC_ENDPOINTS", str(tmp_path / "ours.toml"))
    file = Workspace(tmp_path / "workspace").endpoints
    with pytest.raises(InputError, match="FAC_ENDPOINTS names .*ours.toml, which is not there"):
        read_endpoints(file)
    file.write_text('[lab]\nurl = "http://gate/v1"\n')
    assert [each.name for each in read_endpoints(file).listed] == ["lab"]
    monkeypatch.setenv("FAC_UNLISTED_ENDPOINTS", "yes")
    with pytest.raises(InputError, match="takes allow or refuse, got 'yes'"):
        read_endpoints(file)


# --- canaries -------------------------------------------------------------------------------------


def answer(body: dict[str, Any]) -> str:
    """What explains, judges and writes about the toy."""
    return honest(prompt_of(body)) if "response_format" in body else marked(body)


@pytest.fixture
def ours() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer).running() as server:
        yield server


@pytest.fixture
def foreign() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer).running() as server:
        yield server


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy with approved pairs for two gaps."""
    place = toy.toy_workspace(tmp_path_factory.mktemp("kitchen"), explained=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "Steps", MakingSteps)
        line = ("--features", ",".join(map(str, GAPS)), "--candidates", 2)
        approved(place, done("pairs", *PAIR, *line, workspace=place)["run"])
    return place


@pytest.fixture
def place(
    kitchen: Workspace, ours: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A copy that a test may change, with one server listed and steps that need no model."""
    copied = Workspace(tmp_path / "kitchen")
    shutil.copytree(kitchen.root, copied.root)
    copied.endpoints.write_text(f'[lab]\nurl = "{ours.endpoint}"\nkey = "LAB_KEY"\n')
    monkeypatch.setattr(frame, "Steps", MakingSteps)
    monkeypatch.setenv("FAC_WORKSPACE", str(copied.root))
    return copied


def jobs_of_every_form(place: Workspace, url: str) -> list[AskSpec]:
    """One spec for every step that asks a server."""
    runs = Runs(place)
    anchor, dataset = (runs.resolve("measure", f"toy-{side}") for side in ("anchor", "seed"))
    pairs = runs.resolve("pairs", "toy-seed")
    rows = approved_pairs(Decisions(place.decisions), runs, pairs)
    server: dict[str, Any] = {"model": "m", "endpoint": url}
    writing: dict[str, Any] = {**server, "writer": "openai", "candidates": 2}
    scores = ("detection", "fuzzing")
    rubric = TASKS["toxicity"].rubric
    return [
        ExplainSpec(measure=anchor, explainer="llm", features=GAPS, scores=scores, **server),
        JudgeSpec(measure=anchor, task="toxicity", rubric=rubric, features=GAPS, **server),
        PairsSpec(anchor=anchor, dataset=dataset, features=GAPS, **writing),
        SynthesizeSpec(pairs=pairs, approved=tuple(row["pair"] for row in rows), **writing),
    ]


def worked(place: Workspace, specs: list[AskSpec], log: list[str]) -> list[Job]:
    """What became of jobs that somebody put into the queue, oldest first; the worker's log."""
    queue = Queue(place.queue)
    numbers = [queue.enqueue(spec) for spec in specs]
    Worker(place, say=log.append, steps=MakingSteps(place)).run(until_idle=True)
    return [queue.job(number) for number in numbers]


def assert_heard(server: ScriptedServer, key: str) -> None:
    """Every request had this key alone; "" is none, nor anything else of the environment's."""
    for headers in server.headers:
        assert headers.pop("authorization", "") == (f"Bearer {key}" if key else "")
        assert "canary" not in json.dumps(headers)
    assert "canary" not in json.dumps(server.bodies)


def assert_nowhere(*places: Path | str) -> None:
    """No file, text or name of a file holds a canary."""
    for each in places:
        files = [path for path in each.rglob("*")] if isinstance(each, Path) else []
        assert "canary" not in (each if isinstance(each, str) else " ".join(map(str, files)))
        for path in files:
            if path.is_file():
                assert b"canary-of" not in path.read_bytes(), path


def test_every_step_that_asks_a_server_is_driven_here(place):
    forms = {type(spec) for spec in jobs_of_every_form(place, "http://gate/v1")}
    assert forms == {spec for spec in SPECS.values() if issubclass(spec, AskSpec)}


def test_jobs_give_a_key_to_its_own_server_and_no_other_is_asked(place, ours, foreign):
    log: list[str] = []
    jobs = worked(place, jobs_of_every_form(place, ours.endpoint), log)
    assert [job.status for job in jobs] == ["done"] * 4, [job.error for job in jobs]
    assert len(ours.headers) >= 4 * len(GAPS)
    jobs = worked(place, jobs_of_every_form(place, foreign.endpoint), log)
    for job in jobs:
        assert job.status == "failed" and foreign.endpoint in job.error
        assert "not among the endpoints that the operator lists" in job.error
    assert foreign.headers == []
    assert_heard(ours, LAB)
    assert_nowhere(place.root, "\n".join(log))


def test_where_the_operator_allows_it_another_server_is_asked_without_a_key(
    place, ours, foreign, monkeypatch
):
    monkeypatch.setenv("FAC_UNLISTED_ENDPOINTS", "allow")
    jobs = worked(place, jobs_of_every_form(place, foreign.endpoint), [])
    assert [job.status for job in jobs] == ["done"] * 4, [job.error for job in jobs]
    assert foreign.headers and ours.headers == []
    assert_heard(foreign, "")


def test_a_redirect_from_ours_to_another_carries_nothing_there(place, ours, foreign):
    where = {"Location": f"{foreign.endpoint}/chat/completions"}
    ours.envelope = lambda *_: Status(307, {}, where)
    for job in worked(place, jobs_of_every_form(place, ours.endpoint), []):
        assert job.status == "failed" and "answered 307" in job.error
    assert ours.headers and foreign.headers == []
    assert_heard(ours, LAB)


def test_a_command_gives_a_key_to_its_own_server_alone(place, ours, foreign, tmp_path):
    """Who types a command is the operator: another server is asked, without a key."""
    answers = []

    def typed(*line: object) -> dict[str, Any]:
        answers.append(fac(*line, "--json", workspace=place))
        assert answers[-1].code == 0, answers[-1].err
        return answers[-1].json

    features = ("--features", ",".join(map(str, GAPS)))
    for number, server in enumerate((ours, foreign)):
        model = ("--model", "m", "--endpoint", server.endpoint)
        typed("explain", "toy-anchor", "--explainer", "llm", *features, *model)
        typed("judge", "toy-anchor", "--task", "toxicity", *features, *model)
        writing = ("--writer", "openai", *model)
        pairs = typed("pairs", *PAIR, *features, "--candidates", 2, *writing)["run"]
        typed("approve", pairs, "--all", "--reviewer", "ana")
        kept = typed("synthesize", pairs)  # by the same server
        typed("export", kept["run"], "--out", tmp_path / "out" / f"{number}.jsonl")
        assert len(server.headers) >= 4 * len(GAPS)
    assert_heard(ours, LAB)
    assert_heard(foreign, "")
    assert_nowhere(place.root, tmp_path / "out", *(each.out + each.err for each in answers))


def test_a_key_that_is_named_goes_to_the_address_typed_beside_it(place, ours, foreign, monkeypatch):
    monkeypatch.setenv("MY_KEY", "canary-of-mine")
    line = ("judge", "toy-anchor", "--task", "toxicity", "--features", "3", "--model", "m")
    at = ("--endpoint", foreign.endpoint)
    answer = fac(*line, *at, "--key-variable", "MY_KEY", workspace=place)
    assert answer.code == 0, answer.err
    assert_heard(foreign, "canary-of-mine")
    for wrong, why in (
        (("--key-variable", "canary-of-mine", *at), "never the key itself"),
        (("--key-variable", "MY_KEY"), "needs --endpoint beside it"),
        (("--key-variable", "UNSET_KEY", "--attempt", 1, *at), "set UNSET_KEY"),
    ):
        refused = fac(*line, *wrong, workspace=place)
        assert_one_sentence(refused)
        assert why in refused.err and "canary" not in refused.err
    assert_nowhere(place.root)


def endpoint_box(at: AppTest) -> Any:
    return next(each for each in at.selectbox if each.label == "Endpoint")


def asked_on_review(at: AppTest) -> None:
    ran(button(at, "Explain").click().run())


def asked_on_coverage(at: AppTest) -> None:
    box = {each.label: each for each in at.selectbox}
    box["Task"].set_value("toxicity")
    ran(button(at, "Judge").click().run())


def asked_on_pairs(at: AppTest) -> None:
    label = next(each.label for each in at.button if each.label.startswith("Write pairs"))
    ran(button(at, label).click().run())


def asked_on_synthesis(at: AppTest) -> None:
    label = next(each.label for each in at.button if each.label.startswith("Synthesize from"))
    ran(button(at, label).click().run())


@pytest.mark.parametrize(
    ("page", "view", "ask"),
    [
        ("review", {"threshold": "0", "reviewer": "ana"}, asked_on_review),
        ("coverage", {}, asked_on_coverage),
        ("pairs", {"features": "3,6"}, asked_on_pairs),
        ("synthesis", {}, asked_on_synthesis),
    ],
)
def test_a_page_offers_what_is_listed_and_its_job_keeps_the_key_at_home(
    place, ours, foreign, page, view, ask
):
    at = opened(page, **view)
    for writer in (each for each in at.segmented_control if each.label == "Writer"):
        ran(writer.set_value("openai").run())
    assert [*endpoint_box(at).options] == [f"lab · {ours.endpoint}"]
    assert not endpoint_box(at).proto.accept_new_options
    next(each for each in at.text_input if each.label == "Model").set_value("m")
    if page in ("pairs", "synthesis"):
        ran(at.run())
    ask(at)
    (job,) = [each for each in Queue(place.queue).jobs() if each.status == "waiting"]
    assert job.spec["endpoint"] == ours.endpoint and "canary" not in json.dumps(job.spec)
    log: list[str] = []
    Worker(place, say=log.append, steps=MakingSteps(place)).run(until_idle=True)
    assert Queue(place.queue).job(job.id).status == "done", log
    assert ours.headers and foreign.headers == []
    assert_heard(ours, LAB)
    assert_nowhere(place.root, "\n".join(log), words(at), str(at.session_state))


def test_a_page_refuses_an_address_that_is_not_listed_unless_the_operator_allows_it(
    place, foreign, monkeypatch
):
    from fac.ui.endpoints import check_endpoint

    for spec in jobs_of_every_form(place, foreign.endpoint):
        with pytest.raises(InputError, match="not among the endpoints that the operator lists"):
            check_endpoint(spec)
    monkeypatch.setenv("FAC_UNLISTED_ENDPOINTS", "allow")
    for spec in jobs_of_every_form(place, foreign.endpoint):
        check_endpoint(spec)


def endpoint_form(before: str) -> AppTest:
    """The control that all forms share, beginning with what a spec recorded."""

    def draw(before: str) -> None:
        import streamlit as st

        from fac.ui.endpoints import pick_endpoint, pick_model

        st.text(f"<{pick_endpoint(before)}> {pick_model(st)}")

    return ran(AppTest.from_function(draw, args=(before,)).run())


def test_what_was_asked_before_is_offered_again_if_it_still_may_be(place, ours, monkeypatch):
    before = "http://127.0.0.1:9/v1"
    at = endpoint_form(before)
    assert [*endpoint_box(at).options] == [f"lab · {ours.endpoint}"]
    assert f"cannot be asked: {before} is not among the endpoints" in words(at)
    assert endpoint_form(f"{ours.endpoint}/").text[0].value == f"<{ours.endpoint}/>"
    monkeypatch.setenv("FAC_UNLISTED_ENDPOINTS", "allow")
    at = endpoint_form(before)
    assert at.text[0].value == f"<{before}>" and endpoint_box(at).proto.accept_new_options
    assert "cannot be asked" not in words(at)


def test_models_that_are_listed_are_offered_and_the_default_is_recorded_as_such(place):
    place.endpoints.write_text(f'[ours]\nurl = "{OPENAI}"\nkey = "NO_KEY"\nmodels = ["s", "l"]\n')
    at = endpoint_form("")
    (model,) = [each for each in at.selectbox if each.label == "Model"]
    assert [*model.options] == ["s", "l"] and "NO_KEY is not set" in words(at)
    ran(model.set_value("l").run())
    assert at.text[0].value == "<> l", "the default endpoint has no address in a spec"
