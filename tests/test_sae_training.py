"""Training an SAE: the sparse step, the order of tokens, and going on after a kill."""

import json
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fac import sae_training
from fac.config import Workspace
from fac.errors import Cancelled, InputError
from fac.jobs.training import Clock, train_sae
from fac.models import SCAFFOLD, SubjectModel
from fac.sae_training import (
    TrainRecipe,
    collect_activations,
    shuffled_batches,
    sparse_batch_topk,
    steps_per_pass,
    train,
)
from fac.saes import load_sae
from tests import toy


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(done, total, note=""):
    assert 0 <= done <= total and note


# --- the sparse step --------------------------------------------------------------------------


def both_steps(*, dead_share=0.0, threshold=0.0, rounds=1, b_enc=None):
    """The same steps of sae-lens' dense class and of the sparse one.

    Returns two lists, one entry per round: loss, threshold, fired features, gradients.
    """
    import torch

    from tests.tiny import sae_lens

    torch.manual_seed(0)
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=32, d_sae=128, k=6, device="cpu")
    dense = sae_lens.BatchTopKTrainingSAE(config)
    with torch.no_grad():
        dense.b_dec.normal_()
        dense.W_dec.mul_(torch.rand(128, 1) + 0.5)  # norms differ, so rescaling shows
        dense.b_enc.normal_() if b_enc is None else dense.b_enc.fill_(b_enc)
        dense.topk_threshold.fill_(threshold)
    sparse = sparse_batch_topk()(config)
    sparse.load_state_dict(dense.state_dict())
    dead = torch.rand(128) < dead_share
    records: tuple[list, list] = ([], [])
    for module, out in zip((dense, sparse), records, strict=True):
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        noise = torch.Generator().manual_seed(1)
        for step in range(rounds):
            x = torch.randn(64, 32, generator=noise)
            given_step = sae_lens.saes.sae.TrainStepInput(
                sae_in=x,
                dead_neuron_mask=dead,
                coefficients={},
                n_training_steps=step,
                is_logging_step=False,
            )
            optimizer.zero_grad()
            output = module.training_forward_pass(given_step)
            output.loss.backward()
            acts = output.feature_acts
            fired = (acts.to_dense() if acts.is_sparse else acts) > 0
            gradients = {n: p.grad.clone() for n, p in module.named_parameters()}
            out.append((output.loss, module.topk_threshold.clone(), fired, gradients))
            optimizer.step()
    return records


@pytest.mark.parametrize("dead_share", [0.0, 0.2, 0.05])
@pytest.mark.parametrize("threshold", [0.0, 1.5, 1e6])
def test_the_sparse_step_is_sae_lens_dense_one(dead_share, threshold):
    """Whether or not the running threshold lets it look at few candidates only."""
    import torch

    dense, sparse = both_steps(dead_share=dead_share, threshold=threshold, rounds=3)
    for expected, other in zip(dense, sparse, strict=True):
        torch.testing.assert_close(other[0], expected[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(other[1], expected[1], rtol=1e-6, atol=0)
        assert torch.equal(other[2], expected[2]) and expected[2].sum() == 6 * 64
        assert expected[3].keys() == other[3].keys()
        for name, gradient in expected[3].items():
            size = float(gradient.abs().max())
            assert size > 0
            torch.testing.assert_close(other[3][name], gradient, rtol=1e-4, atol=1e-5 * size)


def test_a_batch_on_which_nothing_fires_changes_no_threshold():
    import torch

    dense, sparse = both_steps(b_enc=-1e3, threshold=1.5)
    for loss, threshold, fired, gradients in (*dense, *sparse):
        assert torch.isfinite(loss) and not fired.any()
        assert float(threshold) == 1.5
        assert not gradients["W_enc"].any()
    torch.testing.assert_close(sparse[0][0], dense[0][0])


# --- the order of tokens ----------------------------------------------------------------------


def shards_of(folder, sizes):
    """Shards whose tokens are the numbers 0, 1, 2, ... in one dimension."""
    first = 0
    for number, size in enumerate(sizes):
        tokens = np.arange(first, first + size, dtype=np.float16)[:, None]
        np.save(folder / f"shard-{number:05d}.npy", tokens)
        first += size
    return first


def numbers(batches):
    return [batch[:, 0].astype(int).tolist() for batch in batches]


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=7),
    batch=st.integers(1, 12),
    whole=st.booleans(),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_a_pass_shows_every_token_once_and_a_start_skips_exactly(sizes, batch, whole, seed, data):
    """`whole` permutes all shards together, else each on its own; remainders wait."""
    group = len(sizes) if whole else 1
    full = sum(sizes) // batch if whole else sum(size // batch for size in sizes)
    recipe = TrainRecipe(width=8, k=2, batch=batch, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = shards_of(folder, sizes)
        if not full:
            with pytest.raises(InputError, match=f"{total} tokens do not fill one batch"):
                next(shuffled_batches(folder, recipe, group=group))
            return
        two = numbers(islice(shuffled_batches(folder, recipe, group=group), 2 * full))
        start = data.draw(st.integers(0, 2 * full))
        rest = shuffled_batches(folder, recipe, start=start, group=group)
        assert numbers(islice(rest, 2 * full - start)) == two[start:]
    for half in (two[:full], two[full:]):
        assert all(len(rows) == batch for rows in half)
        seen = [token for rows in half for token in rows]
        assert len(set(seen)) == len(seen) == full * batch
        assert set(seen) <= set(range(total))


def test_passes_and_seeds_have_their_own_order(tmp_path):
    shards_of(tmp_path, [40, 40])
    recipe = TrainRecipe(width=8, k=2, batch=10)
    order = numbers(islice(shuffled_batches(tmp_path, recipe), 16))
    other = TrainRecipe(width=8, k=2, batch=10, seed=1)
    assert order[:8] != order[8:]
    assert numbers(islice(shuffled_batches(tmp_path, other), 8)) != order[:8]
    assert any(min(rows) < 40 <= max(rows) for rows in order[:8]), "shards of a group are mixed"


def test_a_pass_has_about_as_many_steps_as_full_batches(tmp_path):
    shards_of(tmp_path, [40] * 9)
    assert steps_per_pass(tmp_path, TrainRecipe(width=8, k=2, batch=10)) in (35, 36)
    assert steps_per_pass(tmp_path, TrainRecipe(width=8, k=2, batch=300)) == 1


def test_a_folder_without_shards_is_told(tmp_path):
    with pytest.raises(InputError, match="0 tokens do not fill one batch of 4096"):
        next(shuffled_batches(tmp_path, TrainRecipe()))


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"k": 9}, {"width": 1, "k": 0.5}, {"passes": 0}, {"batch": 0}]
)
def test_recipes_that_cannot_be_trained_are_refused_at_birth(wrong):
    with pytest.raises(InputError):
        TrainRecipe(**{"width": 8, "k": 2, **wrong})


# --- collecting -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests import tiny

    return SubjectModel(tiny.llama(tmp_path_factory.mktemp("tiny")), layer=2)


def chats(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


TEXTS = ("The oven is hot.", "", "bread", "Water the plants.", "a", "The river Seine in Paris.", "")


def content_states(model, some):
    """One chat at a time."""
    rendered = model.renderer.render(some)
    return np.concatenate([model.residual([r.ids])[0, r.role != SCAFFOLD] for r in rendered])


def shards(folder):
    return {path.name: np.load(path) for path in sorted(folder.iterdir())}


def test_shards_hold_the_residual_stream_of_every_content_token(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sae_training, "CHATS_PER_SHARD", 3)
    tokens = collect_activations(chats(*TEXTS), model, tmp_path, quiet)
    held = shards(tmp_path)
    assert list(held) == ["shard-00000.npy", "shard-00001.npy", "shard-00002.npy"]
    assert {shard.dtype for shard in held.values()} == {np.dtype(np.float16)}
    assert held["shard-00002.npy"].shape == (0, model.d_model)  # an empty text has no content
    assert tokens == sum(map(len, held.values()))
    for first, shard in zip((0, 3), held.values(), strict=False):
        expected = content_states(model, chats(*TEXTS[first : first + 3]))
        order = [np.lexsort(x.astype(np.float16).T) for x in (shard, expected)]
        assert shard[order[0]] == pytest.approx(expected[order[1]], rel=2e-3, abs=2e-2)


def test_a_killed_collection_goes_on_after_the_last_whole_shard(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sae_training, "CHATS_PER_SHARD", 2)
    whole = tmp_path / "whole"
    tokens = collect_activations(chats(*TEXTS), model, whole, quiet)
    read = []
    residual = model.residual
    monkeypatch.setattr(model, "residual", lambda ids: (read.extend(ids), residual(ids))[1])

    def impatient(done, total, note=""):
        if done >= 4:
            raise Cancelled("stopped")

    again = tmp_path / "again"
    with pytest.raises(Cancelled):
        collect_activations(chats(*TEXTS), model, again, impatient)
    assert sorted(p.name for p in again.iterdir()) == ["shard-00000.npy", "shard-00001.npy"]
    (again / "shard-00002.part").write_bytes(b"half a shard")
    before = len(read)
    assert collect_activations(chats(*TEXTS), model, again, quiet) == tokens
    assert len(read) - before == 2  # "a" and the river; the rest was there or is empty
    (again / "shard-00002.part").unlink(missing_ok=True)
    for name, shard in shards(whole).items():
        assert (np.load(again / name) == shard).all()


def test_a_stream_beyond_half_precision_is_told_instead_of_stored(model, tmp_path, monkeypatch):
    residual = model.residual
    monkeypatch.setattr(model, "residual", lambda ids: 1e6 * residual(ids))
    with pytest.raises(InputError, match="shard 0 exceed the range of float16"):
        collect_activations(chats("bread"), model, tmp_path, quiet)
    assert not list(tmp_path.glob("*.npy"))


# --- training ---------------------------------------------------------------------------------

RECIPE = TrainRecipe(width=48, k=3, passes=3, batch=128, lr=1e-2, dead_window=20)


@pytest.fixture(scope="module")
def sparse_stream(tmp_path_factory):
    """Tokens that are sums of a few of 40 directions: what an SAE is made to find."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 24))
    for number in range(4):
        active = rng.random((1000, 40)) < 0.06
        tokens = (active * rng.uniform(2, 6, size=active.shape)) @ directions + 3
        np.save(folder / f"shard-{number:05d}.npy", tokens.astype(np.float16))
    return folder


def trained(stream, home, report=quiet, recipe=RECIPE):
    train(
        stream,
        recipe,
        work=home / "work",
        out=home / "out",
        model_name="tiny",
        layer=5,
        device="cpu",
        report=report,
    )
    return load_sae(str(home / "out"))


def test_a_trained_sae_is_a_half_precision_jumprelu_that_knows_where_it_belongs(
    sparse_stream, tmp_path
):
    import torch

    # Long enough for the running mean of thresholds to arrive: 1 - 0.99^310 = 0.96.
    sae = trained(sparse_stream, tmp_path, recipe=replace(RECIPE, passes=10))
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert (config["architecture"], config["dtype"]) == ("jumprelu", "float16")
    assert (sae.stored, sae.n_features, sae.d_in) == ("float16", 48, 24)
    assert (sae.trained_on, sae.hook_name, sae.trained_layer) == (
        "tiny",
        "blocks.4.hook_resid_post",
        5,
    )
    assert (sae.thresholds > 0).all() and len(set(sae.thresholds.tolist())) == 1
    x = torch.from_numpy(np.load(sparse_stream / "shard-00000.npy").astype(np.float32))
    with torch.inference_mode():
        acts, _ = sae.encode(x)
        error = (sae.module.decode(acts) - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert error < 0.2
    assert (acts > 0).sum(1).float().mean() == pytest.approx(RECIPE.k, rel=0.35)


def test_a_training_killed_after_a_checkpoint_ends_where_an_uninterrupted_one_ends(
    sparse_stream, tmp_path, monkeypatch
):
    monkeypatch.setattr(sae_training, "CHECKPOINT_STEPS", 20)
    whole = trained(sparse_stream, tmp_path / "whole")

    def impatient(done, total, note=""):
        if done == 50:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        trained(sparse_stream, tmp_path / "again", impatient)
    assert not (tmp_path / "again" / "out").exists()
    starts, steps = [], []
    ordered = sae_training.shuffled_batches

    def watched(folder, recipe, *, start=0, group=8):
        starts.append(start)
        return ordered(folder, recipe, start=start, group=group)

    monkeypatch.setattr(sae_training, "shuffled_batches", watched)
    again = trained(sparse_stream, tmp_path / "again", lambda done, *_: steps.append(done))
    assert starts[-1] == 40 and steps[0] == 50
    for name, weight in whole.module.state_dict().items():
        resumed = again.module.state_dict()[name]
        assert resumed.numpy() == pytest.approx(weight.numpy(), rel=2e-3, abs=2e-3)
    whole, other = ((tmp_path / n / "out" / "cfg.json").read_text() for n in ("whole", "again"))
    assert whole == other


def test_a_finished_training_asked_again_writes_the_same_sae(sparse_stream, tmp_path, monkeypatch):
    steps = steps_per_pass(sparse_stream, RECIPE) * RECIPE.passes
    monkeypatch.setattr(sae_training, "CHECKPOINT_STEPS", steps)
    first = trained(sparse_stream, tmp_path)
    again = trained(sparse_stream, tmp_path, lambda *_: pytest.fail("nothing is left to do"))
    assert first.identity == again.identity


# --- the whole job ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A small model and 24 chats in a file."""
    from tests import tiny

    home = tmp_path_factory.mktemp("home")
    tiny.llama(home / "model")
    rows = [json.dumps({"messages": chat}) + "\n" for chat in toy.ANCHOR]
    (home / "texts.jsonl").write_text("".join(rows))
    return home


def job(home, root, seed=0, progress=quiet):
    return train_sae(
        Workspace(root),
        [home / "texts.jsonl"],
        root / f"sae-{seed}",
        recipe=TrainRecipe(width=64, k=4, passes=2, batch=64, seed=seed),
        model=str(home / "model"),
        layer=2,
        context=512,
        held_out=6,
        max_samples=12,
        progress=progress,
    )


def weights_in(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "sae_weights.safetensors")


def test_a_job_killed_in_every_phase_ends_as_an_undisturbed_one(home, tmp_path, monkeypatch):
    monkeypatch.setattr(sae_training, "CHATS_PER_SHARD", 5)
    monkeypatch.setattr(sae_training, "CHECKPOINT_STEPS", 5)
    calm = job(home, tmp_path / "calm")
    for phase in ("collecting", "collecting", "FVU", "judging"):

        def mortal(done, total, note="", phase=phase):
            if note.startswith(phase):
                raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            job(home, tmp_path / "mortal", progress=mortal)
        assert not (tmp_path / "mortal" / "sae-0" / "recipe.json").exists()
    finished = job(home, tmp_path / "mortal")
    for name, weight in weights_in(tmp_path / "calm" / "sae-0").items():
        resumed = weights_in(tmp_path / "mortal" / "sae-0")[name]
        assert resumed == pytest.approx(weight, rel=2e-3, abs=2e-3)
    assert finished["recipe"]["training_tokens"] == calm["recipe"]["training_tokens"] > 64
    assert finished["quality"]["samples"] == 6


def test_another_seed_differs_in_weights_alone_and_reads_no_text_again(home, tmp_path, monkeypatch):
    first = job(home, tmp_path)
    monkeypatch.setattr(SubjectModel, "content_batches", lambda *_, **__: pytest.fail("read again"))
    monkeypatch.setattr("fac.saes.quality", lambda sae, subject, judged: Judged(judged))
    again, other = job(home, tmp_path), job(home, tmp_path, seed=1)
    assert again["quality"]["chats"] == other["quality"]["chats"]  # the same are held back
    names = ("training_tokens", "seconds_collecting", "files", "training_samples")
    assert [other["recipe"][n] for n in names] == [first["recipe"][n] for n in names]
    one, two = (weights_in(tmp_path / f"sae-{seed}")["W_enc"] for seed in (0, 1))
    assert abs(one - two).max() > 0.01


class Judged(NamedTuple):
    chats: list


def test_the_time_that_is_stated_is_of_every_start(tmp_path):
    moments = iter((0.0, 5.0, 100.0, 101.0, 200.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fac.jobs.training.time.monotonic", lambda: next(moments))
        Clock(tmp_path / "seconds", quiet)(1, 9, "five seconds, then killed")
        again = Clock(tmp_path / "seconds", quiet)
        again(9, 9, "one more")
        assert again.seconds == Clock(tmp_path / "seconds", quiet).seconds == 6
