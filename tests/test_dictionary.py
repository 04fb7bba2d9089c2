"""What is known of a dictionary before any data: neighbours, a map, the logit lens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fac import dictionary, layout
from fac.config import SaeSpec, Workspace
from fac.dictionary import (
    LENS_TOKENS,
    MAP_DONE,
    describe,
    likely_nearest,
    logit_lens,
    nearest,
    principal,
    survey,
    umap,
)
from fac.encoder import SaeEncoder
from fac.errors import Cancelled
from fac.models import SubjectModel
from fac.saes import load_sae
from fac.store.runs import Runs

WHOLE = st.integers(-4, 4).map(float)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@given(
    directions=st.integers(2, 9).flatmap(lambda n: arrays(np.float32, (n, 3), elements=WHOLE)),
    k=st.integers(1, 12),
)
def test_neighbours_are_the_highest_cosines_by_brute_force(directions, k):
    neighbours, cosines = nearest(directions, k)
    n = len(directions)
    assert neighbours.shape == cosines.shape == (n, min(k, n - 1))
    for i in range(n):
        sizes = np.linalg.norm(directions, axis=1) * np.linalg.norm(directions[i])
        cosine = (directions @ directions[i]) / np.where(sizes > 0, sizes, 1)
        others = [j for j in range(n) if j != i]
        best = sorted((float(cosine[j]) for j in others), reverse=True)[: min(k, n - 1)]
        assert cosines[i] == pytest.approx(best, abs=1e-5)
        assert i not in neighbours[i] and len(set(neighbours[i].tolist())) == len(neighbours[i])
        assert cosine[neighbours[i]] == pytest.approx(best, abs=1e-5)


def test_neighbours_are_found_across_blocks_of_a_large_dictionary():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(1100, 16)).astype(np.float32)
    neighbours, cosines = nearest(np.concatenate([half, 3 * half]), 1)
    assert neighbours[:, 0].tolist() == [*range(1100, 2200), *range(1100)]
    assert cosines == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 16, 80])
def test_the_map_is_finite_and_the_same_every_time(n):
    directions = np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32)
    directions[0] = 0  # a dead feature
    first, other = umap(directions), umap(directions)
    assert first.shape == (n, 2) and first.dtype == np.float32
    assert np.isfinite(first).all()
    assert (first == other).all()


def test_the_map_keeps_clusters_of_directions_together():
    rng = np.random.default_rng(0)
    centers = np.eye(3, 16) * 10
    group = np.repeat(np.arange(3), 20)
    xy = umap((centers[group] + rng.normal(size=(60, 16)) / 2).astype(np.float32))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(1)] == group).all()


def families(n=400, d=48, groups=40, seed=0):
    """Directions in tight groups, and the group of each."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % groups
    centers = rng.normal(size=(groups, d)) * 2
    return (centers[group] + rng.normal(size=(n, d))).astype(np.float32), group


def test_principal_components_keep_the_cosines_of_what_has_no_more_dimensions():
    rng = np.random.default_rng(0)
    flat = (rng.normal(size=(5000, 6)) @ rng.normal(size=(6, 40))).astype(np.float32)
    flat[0] = 0
    reduced = principal(flat, 6)
    assert reduced.shape == (5000, 6)
    unit = dictionary._unit(flat[:300])
    assert reduced[:300] @ reduced[:300].T == pytest.approx(unit @ unit.T, abs=1e-4)
    assert (principal(flat, 6) == reduced).all()
    spread = np.square(reduced).sum(0)
    assert (np.diff(spread) <= 0).all(), "what spreads most comes first"
    assert principal(flat[:4], 50).shape == (4, 4)


def test_likely_neighbours_are_nearly_the_true_ones_at_their_true_cosines():
    directions, _ = families()
    neighbours, cosines = likely_nearest(directions, principal(directions, 24), 10)
    true, _ = nearest(directions, 10)
    unit = dictionary._unit(directions)
    assert np.mean([len({*a} & {*b}) for a, b in zip(neighbours, true, strict=True)]) > 9.7
    for i in range(len(directions)):
        assert i not in neighbours[i] and len({*neighbours[i]}) == 10
        assert cosines[i] == pytest.approx(unit[neighbours[i]] @ unit[i], abs=1e-5)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_a_large_dictionary_is_surveyed_by_an_approximate_search(monkeypatch):
    directions, group = families()
    monkeypatch.setattr(dictionary, "EXACT", 100)
    monkeypatch.setattr(layout, "PROGRESS_SECONDS", 0)
    reports = []
    options = {"progress": lambda done, total, note: reports.append((done, total))}
    neighbours, cosines, xy = survey(directions, **options)
    assert neighbours.shape == cosines.shape == (400, 10)
    assert xy.shape == (400, 2) and xy.dtype == np.float32 and np.isfinite(xy).all()
    assert (group[neighbours[:, :9]] == group[:, None]).mean() > 0.95
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(1)] == group).mean() > 0.95
    done = [each for each, _ in reports]
    assert (
        done == sorted(done)
        and done[-1] == MAP_DONE
        and {total for _, total in reports} == {MAP_DONE}
    )
    assert len([each for each in {*done} if each > dictionary.NEIGHBOURS_DONE]) > 20, (
        "epochs are told"
    )
    assert (survey(directions, **options)[2] == xy).all()


def test_a_small_dictionary_is_surveyed_by_every_cosine():
    directions, _ = families(80)
    neighbours, cosines, xy = survey(directions, progress=lambda *_: None)
    exact, cosine = nearest(directions, 10)
    assert (neighbours == exact).all() and (cosines == cosine).all()
    assert (xy == umap(directions)).all()


def test_a_map_can_be_cancelled_while_it_is_drawn():
    def stop(done, total, note):
        if done > 80:
            raise Cancelled

    with pytest.raises(Cancelled):
        survey(families()[0], progress=stop)


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory):
    from tests import tiny

    home = tmp_path_factory.mktemp("dictionary")

    def made(family):
        sae = load_sae(str(tiny.sae(home / "sae", n_features=40)))
        model = SubjectModel(tiny.FAMILIES[family](home / family), layer=2)
        return SaeEncoder(model, sae, f"{family}@1")

    return made


def gain_by_hand(model, family):
    """The final norm's weight, where each family keeps it, and whether the norm centres."""
    body = model.base_model
    norms = {
        "llama": lambda: (body.norm.weight, False),
        "gpt2": lambda: (body.ln_f.weight, True),
        "neox": lambda: (body.final_layer_norm.weight, True),
        "gemma": lambda: (1 + body.norm.weight, False),
    }
    weight, centres = norms[family]()
    return weight.detach(), centres


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma"])
def test_the_logit_lens_is_the_direction_times_the_norms_gain_times_the_unembedding(
    encoder_of, family
):
    import torch

    encoder = encoder_of(family)
    tokenizer = encoder.model.tokenizer
    gain, centres = gain_by_hand(encoder.model.model, family)
    directions = torch.from_numpy(encoder.sae.decoder)
    if centres:
        directions = directions - directions.mean(1, keepdim=True)
    unembedding = encoder.model.model.get_output_embeddings().weight.detach()
    logits = ((directions * gain) @ unembedding.T)[:, : len(tokenizer)]
    promotes, suppresses = logit_lens(encoder, encoder.sae.decoder)
    assert len(promotes) == len(suppresses) == 40
    for feature in range(40):
        order = logits[feature].argsort(descending=True).tolist()
        assert promotes[feature] == [tokenizer.decode([i]) for i in order[:LENS_TOKENS]]
        last = order[: -LENS_TOKENS - 1 : -1]
        assert suppresses[feature] == [tokenizer.decode([i]) for i in last]


def test_describing_a_dictionary_is_one_run_that_is_found_again(tmp_path, encoder_of):
    encoder = encoder_of("llama")
    runs, notes = Runs(Workspace(tmp_path)), []
    spec = SaeSpec(model="tiny", layer=2, sae="tiny")

    def described():
        return describe(
            spec, runs=runs, encoder=encoder, progress=lambda done, total, note: notes.append(note)
        )

    run_id = described()
    table = runs.table(run_id, "features")
    assert table.column("feature").to_pylist() == list(range(40))
    assert table.column("threshold").to_numpy() == pytest.approx(encoder.sae.thresholds)
    neighbours, cosines = nearest(encoder.sae.decoder, 10)
    assert table.column("neighbours").to_pylist() == neighbours.tolist()
    assert table.column("cosines").to_pylist() == cosines.tolist()
    facts = runs.manifest(run_id).facts
    assert (facts.n_features, facts.d_model) == (40, 32)
    assert facts.identity == encoder.identity
    reported = len(notes)
    assert described() == run_id and len(notes) == reported
