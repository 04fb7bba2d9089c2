"""The shape of a dataset: what is written for it has the form of what is there."""

from contextlib import closing
from pathlib import Path

import pytest

from fac.config import IngestSpec, MeasureSpec, PairsSpec, Workspace
from fac.ingest import ingest
from fac.manifest import MeasureFacts
from fac.models import knows_chats
from fac.questions.shape import Shape, shape_of, writes_chats
from fac.store import open_stores
from fac.store.runs import Runs
from tests.rows import assistant, json_lines, system, user


def shape(tmp_path: Path, *rows: dict, name: str = "it", **how: object) -> Shape:
    """The shape of a dataset of these rows, once it is measured."""
    workspace = Workspace(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(json_lines(*rows))
    source = str(tmp_path / "rows.jsonl")
    runs = Runs(workspace)
    dataset = ingest(IngestSpec(name=name, source=source, **how), runs=runs)
    spec = MeasureSpec(dataset=dataset, model="some/model")
    measure = spec.run_id(dataset)
    facts = MeasureFacts(name=name, dataset=dataset)
    with runs.exclusive(measure):
        runs.publish(measure, spec=spec, inputs=[dataset], facts=facts, seconds=0.0)
    stores = open_stores(workspace, remember=False)
    with closing(stores.cache):
        written = PairsSpec(anchor=measure, dataset=measure, features=(1,))
        assert writes_chats(stores, written, measure)  # whose files are not here
        return shape_of(stores, measure)


@pytest.mark.parametrize(
    ("rows", "profile"),
    [
        ([{"messages": [user("a"), assistant("b")]}], "chat"),
        ([{"messages": [system("s"), user("a"), assistant("b"), user("c")]}], "chat"),
        ([{"messages": [user("a")]}], "instruction"),
        ([{"prompt": "a"}], "instruction"),
        ([{"text": "a"}], "text"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 0}], "toxicity"),
        ([{"text": "a", "label": "news"}, {"text": "b", "label": "sports"}], "text"),
        ([{"messages": [user("a"), assistant("b")], "label": "1"}], "chat"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "preference"),
        ([{"prompt": "a", "completion": "b"}], "chat"),
        ([{"text": f"Is it {n}?\n\nChoices:\n(A) Yes\n (B) No"} for n in range(3)], "choice"),
        ([{"text": "Is it?\n\nChoices:\n(A) Yes\n(B) No"}, {"text": "no"}], "text"),
    ],
)
def test_what_is_written_has_the_shape_of_the_data(tmp_path, rows, profile):
    answer = shape(tmp_path, *rows)
    assert answer.profile == profile
    assert answer.reason and answer.reason[0].islower() and not answer.reason.endswith(".")


def test_whether_a_model_knows_chats_is_read_from_its_files(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"bos_token": "<bos>"}')
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "apart" / "chat_template.jinja").write_text("{{ x }}")
    known = {name: knows_chats(str(tmp_path / name), tmp_path) for name in ("base", "chat")}
    assert known == {"base": False, "chat": True}
    assert knows_chats(str(tmp_path / "apart"), tmp_path)
    assert knows_chats("demo", tmp_path)
    assert knows_chats("nobody/has-this", tmp_path)
    assert knows_chats("no repo id at all/with/this", tmp_path)
