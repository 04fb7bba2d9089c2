"""SaeEncoder against an independent reading: one text at a time, transformers' hidden states,
sae-lens' encode, and loops."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fac import encoder as encoding
from fac.config import DEMO_INPUTS, DEMO_SAE, REPOSITORY, MeasureSpec, Workspace
from fac.encoder import NEAR_KEPT, NearMisses, SaeEncoder
from fac.errors import InputError
from fac.jobs.steps import PRECISIONS, Steps, load_encoder
from fac.models import ROLES, SubjectModel, batches_by_length
from fac.probe import read_text
from fac.saes import load_sae
from fac.schema import Activations
from tests.lexicon import LexiconEncoder

KINDS = ("standard", "standard-normed", "topk", "topk-rescaled", "jumprelu", "gated")
LAYER = 2

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["The oven is hot.", "bread bread bread", "def bake():\n    return 1", "", "🎉 <|im_end|> ok"]
)
CHAT = st.lists(TEXT, min_size=1, max_size=3).map(
    lambda texts: [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
)
CHATS = st.lists(CHAT, max_size=5)

SOME = [
    [{"role": "user", "content": "The oven is hot and the bread smells warm."}],
    [
        {"role": "system", "content": "Speak plainly."},
        {"role": "user", "content": "Water the plants?"},
        {"role": "assistant", "content": "Every morning, before the sun is high over the river."},
    ],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "for loaf in loaves:\n    bake(loaf)\n"}],
    [{"role": "user", "content": "The capital of France is Paris. " * 4}],
]


@pytest.fixture(autouse=True)
def one_thread(request):
    """Tiny matrices gain nothing from threads and lose much where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    if not request.node.get_closest_marker("model"):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("encoder")


@pytest.fixture(scope="module")
def encoders(home):
    """One encoder per SAE architecture, on a ChatML Llama and on a GPT-2 without a template."""
    from tests import tiny

    saes = {kind: str(tiny.sae(home / kind, kind)) for kind in KINDS}
    chat = SubjectModel(tiny.llama(home / "llama"), layer=LAYER)
    plain = SubjectModel(tiny.gpt2(home / "gpt2"), layer=LAYER)
    made = {kind: SaeEncoder(chat, load_sae(path), "tiny@1") for kind, path in saes.items()}
    return {**made, "gpt2": SaeEncoder(plain, load_sae(saes["jumprelu"]), "gpt2@1")}


class ByHand:
    """Every activation of some chats, read one chat at a time without the product's encoder.

    `fired[sample, role, feature]` lists (position, value); `pre[sample]` is (positions,
    `[tokens, n_features]`). `doubtful` holds the keys that rounding can decide either way.
    """

    def __init__(self, model, module, renderer, chats, layer, roles=ROLES, shakes=3):
        import torch

        self.n_features = module.cfg.d_sae
        self.fired, self.doubtful, self.pre = {}, set(), {}
        caught = []
        hook = module.hook_sae_acts_pre.register_forward_hook(lambda *a: caught.append(a[2]))
        for sample, rendered in enumerate(renderer.render(chats)):
            wanted = [ROLES.index(role) for role in roles]
            at = [p for p in range(len(rendered.ids)) if rendered.role[p] in wanted]
            if not at:
                continue
            with torch.inference_mode():
                ids = torch.from_numpy(rendered.ids[None].astype(np.int64))
                states = model(ids, output_hidden_states=True).hidden_states[layer][0, at]
                acts = module.encode(states)
                pre = caught[-1]
                if getattr(module.cfg, "rescale_acts_by_decoder_norm", False):
                    pre = pre * module.W_dec.norm(dim=1)
                noise = torch.Generator().manual_seed(0)
                for _ in range(shakes):
                    shake = 1 + 2e-5 * torch.randn(states.shape, generator=noise)
                    flipped = (module.encode(states * shake) > 0) != (acts > 0)
                    for token, feature in flipped.nonzero().tolist():
                        self.doubtful.add((sample, int(rendered.role[at[token]]), feature))
            self.pre[sample] = at, pre.numpy()
            for token, feature in acts.nonzero().tolist():
                key = sample, int(rendered.role[at[token]]), feature
                self.fired.setdefault(key, []).append((at[token], float(acts[token, feature])))
        hook.remove()

    def agree(self, activations: Activations) -> None:
        """Peaks within 1e-3 relative at a position that has them, and the same keys and counts."""
        keys = list(zip(*(column.tolist() for column in activations[:3]), strict=True))
        assert len(set(keys)) == len(keys) and keys == sorted(keys)
        assert set(keys) ^ set(self.fired) <= self.doubtful
        for i, key in enumerate(keys):
            if key in self.doubtful:
                continue
            values = dict(self.fired[key])
            # A pre-activation is a sum of terms around 10, so near zero only its size is certain.
            assert activations.peak[i] == pytest.approx(max(values.values()), rel=1e-3, abs=1e-4)
            at = values[int(activations.position[i])]
            assert at == pytest.approx(activations.peak[i], rel=1e-3, abs=1e-4)
            assert activations.n_tokens[i] == len(values)

    def agree_near(self, near: NearMisses) -> None:
        """For every feature its highest pre-activations, at most one per sample."""
        for feature in range(self.n_features):
            best = sorted(
                (float(pre[:, feature].max()) for _, pre in self.pre.values()), reverse=True
            )[:NEAR_KEPT]
            n = len(best)
            assert near.sample[n:, feature].tolist() == [-1] * (NEAR_KEPT - n)
            assert near.pre[:n, feature] == pytest.approx(best, rel=1e-3, abs=1e-4)
            named = near.sample[:n, feature].tolist()
            assert len(set(named)) == n
            for sample, position, pre in zip(
                named, near.position[:n, feature], near.pre[:n, feature], strict=True
            ):
                at, values = self.pre[sample]
                mine = values[at.index(position), feature]
                assert mine == pytest.approx(pre, rel=1e-3, abs=1e-4)


def by_hand(encoder, chats, roles=ROLES):
    model = encoder.model
    return ByHand(model.model, encoder.sae.module, model.renderer, chats, LAYER, roles)


def read_all(encoder, chats, roles=ROLES):
    """Everything `read` yields: the pooled activations, sorted, and the near misses."""
    parts, near, seen = [], NearMisses.none(encoder.n_features), []
    for reading in encoder.read(chats, roles):
        keys = np.stack([reading.sample, reading.position, reading.feature])
        assert (np.lexsort(keys[::-1]) == np.arange(keys.shape[1])).all()
        assert (reading.value > 0).all()
        for sample, rendered in zip(reading.samples, reading.rendered, strict=True):
            at = reading.sample == sample
            assert (rendered.role[reading.position[at]] == reading.role[at]).all()
        parts.append(reading.pooled())
        near = near.merged(reading.near)
        seen += reading.samples
    assert sorted(seen) == list(range(len(chats)))
    if not parts:
        return encoder.encode([]), near
    joined = Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = np.lexsort(joined[2::-1])
    return Activations(*(column[order] for column in joined)), near


@pytest.mark.parametrize("kind", [*KINDS, "gpt2"])
@settings(max_examples=20)
@given(chats=CHATS, rows=st.sampled_from([1, 2, 64]))
@example(chats=SOME, rows=64)
@example(chats=SOME * 2, rows=3)
def test_peaks_positions_and_near_misses_equal_an_independent_reading(encoders, kind, chats, rows):
    encoder = encoders[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "batches_by_length", partial(batches_by_length, max_rows=rows))
        activations, near = read_all(encoder, chats)
        once = encoder.encode(chats)
    expected = by_hand(encoder, chats)
    expected.agree(activations)
    expected.agree_near(near)
    for column, other in zip(once, activations, strict=True):
        assert column.dtype == other.dtype and (column == other).all()


def test_the_independent_reading_leaves_little_in_doubt(encoders):
    for kind in KINDS:
        expected = by_hand(encoders[kind], SOME)
        assert len(expected.fired) > 200
        assert len(expected.doubtful) < 0.02 * len(expected.fired)


@pytest.mark.parametrize("roles", [("user",), ("assistant",), ("system", "assistant")])
def test_asking_for_roles_leaves_out_the_others_tokens(encoders, roles):
    activations, near = read_all(encoders["jumprelu"], SOME, roles)
    assert {ROLES[code] for code in activations.role} == set(roles)
    expected = by_hand(encoders["jumprelu"], SOME, roles)
    expected.agree(activations)
    expected.agree_near(near)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [96, 5 * 96, 300])
def test_reading_in_small_blocks_changes_nothing(encoders, monkeypatch, kind, values):
    encoder = encoders[kind]
    sizes = []
    blocks = encoder.sae.blocks

    def watched(states, most):
        for block in blocks(states, most):
            sizes.append(block.pre.numel())
            yield block

    monkeypatch.setattr(encoder.sae, "blocks", watched)
    monkeypatch.setattr(encoding, "BLOCK_VALUES", values)
    activations, near = read_all(encoder, SOME)
    assert max(sizes) <= values and len(sizes) > len(SOME)
    expected = by_hand(encoder, SOME)
    expected.agree(activations)
    expected.agree_near(near)


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=4),
    which=st.lists(st.integers(0, 3), min_size=1, max_size=12),
)
def test_a_text_that_several_samples_have_counts_for_each_of_them(encoders, kind, texts, which):
    encoder = encoders[kind]
    chats = [[{"role": "user", "content": texts[i % len(texts)]}] for i in which]
    read = []
    with pytest.MonkeyPatch.context() as patch:
        residual = encoder.model.residual
        patch.setattr(
            encoder.model, "residual", lambda ids, *a: (read.extend(ids), residual(ids, *a))[1]
        )
        activations, near = read_all(encoder, chats)
    assert len({row.tobytes() for row in read}) == len(read)
    expected = by_hand(encoder, chats)
    expected.agree(activations)
    expected.agree_near(near)


def test_what_chats_begin_with_is_run_once(encoders):
    """The template's own system prompt, and one that samples bring and that is measured itself."""
    encoder = encoders["jumprelu"]
    persona = {
        "role": "system",
        "content": "Answer as a baker who is fond of warm bread and ovens.",
    }
    texts = [
        f"The oven number {i} is hot, and the river is {'long ' * (i % 5)}." for i in range(40)
    ]
    plain = [[{"role": "user", "content": text}] for text in texts]
    chats = [*plain, *([persona, *chat] for chat in plain), *SOME]
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        run = encoder.model._run
        patch.setattr(
            encoder.model, "_run", lambda ids, *a: (ran.append(sum(map(len, ids))), run(ids, *a))[1]
        )
        activations, near = read_all(encoder, chats)
    whole = sum(len(r.ids) for r in encoder.render(chats))
    assert sum(ran) < 0.7 * whole
    expected = by_hand(encoder, chats)
    expected.agree(activations)
    expected.agree_near(near)
    system = activations.role == ROLES.index("system")
    assert set(activations.sample[system].tolist()) == {*range(40, 80), 81}


def test_equal_near_misses_go_to_the_lower_sample(encoders):
    same = [{"role": "user", "content": "bread"}]
    longer = [*same, {"role": "assistant", "content": ""}]
    _, near = read_all(encoders["jumprelu"], [longer, same, same, same])
    assert (near.sample[:, :] < 4).all()
    tied = np.isclose(near.pre[0], near.pre[2], rtol=0, atol=0)
    assert tied.any()
    assert (np.diff(near.sample[:, tied], axis=0) > 0).all()


def test_nothing_to_read_gives_empty_tables_of_the_right_types(encoders):
    for kind in ("jumprelu", "gpt2"):
        silent = [[{"role": "user", "content": ""}]] * 3
        for chats in ([], silent):
            activations = encoders[kind].encode(chats)
            assert [len(column) for column in activations] == [0] * 6
            types = [np.int32, np.int8, np.int32, np.float32, np.int32, np.int32]
            assert [column.dtype for column in activations] == types
        readings = list(encoders[kind].read(silent))
        assert sorted(i for reading in readings for i in reading.samples) == [0, 1, 2]
        assert all((reading.near.sample == -1).all() for reading in readings)
        assert list(encoders[kind].read([])) == []


def test_samples_without_content_do_not_touch_their_neighbours(encoders):
    """GPT-2 has no template: an empty sample has no token at all."""
    empty = [{"role": "user", "content": ""}]
    chats = [empty, SOME[0], empty, SOME[3]]
    activations = encoders["gpt2"].encode(chats)
    assert set(activations.sample.tolist()) == {1, 3}
    by_hand(encoders["gpt2"], chats).agree(activations)


def test_an_sae_of_another_width_is_refused_in_words(home, encoders):
    from tests import tiny

    narrow = load_sae(str(tiny.sae(home / "narrow", d_in=16)))
    with pytest.raises(InputError, match="reads 16 values, but tiny@1 has a residual stream of 32"):
        SaeEncoder(encoders["topk"].model, narrow, "tiny@1")


def test_the_identity_names_all_that_decides_a_number(home, encoders):
    from tests import tiny

    folder = home / "llama"
    sae, other = (load_sae(str(tiny.sae(home / n / "s", seed=i))) for i, n in enumerate("ab"))
    made = {
        SaeEncoder(SubjectModel(folder, layer=layer, max_tokens=limit, **how), sae, name).identity
        for layer, limit, sae, name, how in (
            (2, 512, sae, "tiny@1", {}),
            (1, 512, sae, "tiny@1", {}),
            (2, 100, sae, "tiny@1", {}),
            (2, 512, other, "tiny@1", {}),
            (2, 512, sae, "tiny@2", {}),
            (2, 512, sae, "tiny@1", {"dtype": "bfloat16"}),
        )
    }
    assert len(made) == 6


def test_a_model_in_bfloat16_is_read_nearly_alike(home):
    from tests import tiny

    sae = str(tiny.sae(home / "rough", model_name="llama"))
    exact, rough = (
        load_encoder(str(home / "llama"), LAYER, sae, 512, dtype, home) for dtype in PRECISIONS
    )
    peaks, rounded = (
        {k[:3]: k[3] for k in zip(*e.encode(SOME)[:4], strict=True)} for e in (exact, rough)
    )
    assert (
        exact.identity != rough.identity == exact.identity.replace("/layer", " in bfloat16/layer")
    )
    both = peaks.keys() & rounded.keys()
    assert len(both) > 0.9 * len(peaks.keys() | rounded.keys()) > 0
    off = [abs(peaks[key] - rounded[key]) / peaks[key] for key in both]
    assert 0 < np.median(off) < 0.02


def test_another_precision_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.setenv("FAC_DTYPE", "float16")
    with pytest.raises(
        InputError, match="FAC_DTYPE takes float32, bfloat16, 8bit or 4bit, got 'float16'"
    ):
        Steps(Workspace(tmp_path)).encoder(MeasureSpec(dataset="x"), lambda *_: None)


# --- near misses ------------------------------------------------------------------------------


def near_of(*rows):
    """One feature's near misses from (pre, sample) pairs, strongest first."""
    near = NearMisses.none(1)
    for rank, (pre, sample) in enumerate(rows):
        near.pre[rank], near.sample[rank], near.position[rank] = pre, sample, 10 * sample
    return near


def test_merging_keeps_the_best_of_both_and_the_lower_sample_of_equals():
    merged = near_of((9.0, 4), (5.0, 2)).merged(near_of((7.0, 1), (5.0, 0)))
    assert merged.pre[:, 0].tolist() == [9.0, 7.0, 5.0]
    assert merged.sample[:, 0].tolist() == [4, 1, 0]
    assert merged.position[:, 0].tolist() == [40, 10, 0]
    alone = NearMisses.none(1).merged(near_of((-2.0, 3)))
    assert alone.sample[:, 0].tolist() == [3, -1, -1]


PRES = st.lists(st.floats(-9, 9, width=32), max_size=12)


@given(pres=PRES, cut=st.integers(0, 12))
def test_merging_in_any_cut_gives_the_best_of_all(pres, cut):
    near = NearMisses.none(1)
    for part in (range(len(pres))[:cut], range(len(pres))[cut:]):
        held = NearMisses.none(1)
        for sample in part:
            held = held.merged(near_of((pres[sample], sample)))
        near = near.merged(held)
    order = sorted(range(len(pres)), key=lambda i: (-pres[i], i))[:NEAR_KEPT]
    padding = [-1] * (NEAR_KEPT - len(order))
    assert near.sample[:, 0].tolist() == order + padding


# --- probe ------------------------------------------------------------------------------------


def test_a_probe_lists_every_token_with_its_owner_and_what_fires_on_it():
    tokens, active = read_text("tea, tea!! or milk", LexiconEncoder("tea!!", "milk", "tea"))
    assert tokens.column("token").to_pylist() == ["<user>", " tea,", " tea!!", " or", " milk"]
    assert tokens.column("role").to_pylist() == [None, "user", "user", "user", "user"]
    assert active.to_pylist() == [
        {"position": 2, "feature": 2, "value": 2.0},
        {"position": 4, "feature": 1, "value": 1.0},
    ]


def test_a_probe_shows_what_encode_pools(encoders):
    text = "The oven is hot 🎉."
    tokens, active = read_text(text, encoders["jumprelu"])
    spoken = [t["token"] for t in tokens.to_pylist() if t["role"] == "user"]
    assert "".join(spoken) == text
    activations = encoders["jumprelu"].encode([[{"role": "user", "content": text}]])
    peaks = {}
    for row in active.to_pylist():
        peaks[row["feature"]] = max(peaks.get(row["feature"], 0), row["value"])
    assert peaks == dict(zip(activations.feature.tolist(), activations.peak.tolist(), strict=True))


# --- the real model and the committed SAE -----------------------------------------------------

DEMO_LAYER = 15
N_TEXTS, WORDS = 200, 24


def real_chats():
    """200 short texts that people wrote, where the machine has them; else the demo's own."""
    given_texts = REPOSITORY.parent / "shared" / "data" / "toxicity_surge.jsonl"
    if given_texts.exists():
        rows = [json.loads(line) for line in given_texts.read_text("utf-8").splitlines()]
        texts = [next(v for v in row.values() if isinstance(v, str) and v) for row in rows]
    else:
        lines = (DEMO_INPUTS / "anchor.jsonl").read_text("utf-8").splitlines()
        texts = [json.loads(line)["messages"][0]["content"] for line in lines]
    short = dict.fromkeys(" ".join(text.split()[:WORDS]) for text in texts)
    return [[{"role": "user", "content": text}] for text in list(short)[:N_TEXTS]]


@pytest.mark.model
@pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")
def test_the_demo_encoder_equals_an_independent_reading_of_real_texts(demo_model_home):
    """Whatever the batch; about a minute on two cores."""
    if not (DEMO_SAE / "sae_weights.safetensors").exists():
        pytest.skip(f"there is no demo SAE in {DEMO_SAE}: fac train-sae writes it")
    from transformers import AutoModelForCausalLM

    from fac.models import demo_model

    folder = demo_model(demo_model_home)
    chats = real_chats()
    assert len(chats) == N_TEXTS
    encoder = SaeEncoder(SubjectModel(folder, layer=DEMO_LAYER), load_sae("demo"), "demo")
    readings = [encoder.encode(chats)]
    parts = [(first, encoder.encode(chats[first : first + 7])) for first in range(0, N_TEXTS, 7)]
    readings.append(
        Activations(
            np.concatenate([part.sample + np.int32(first) for first, part in parts]),
            *(np.concatenate([part[i] for _, part in parts]) for i in range(1, 6)),
        )
    )
    # One block more than is read, so that hidden_states[15] is not the normed last entry.
    short = AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=DEMO_LAYER + 1).eval()
    expected = ByHand(
        short, encoder.sae.module, encoder.model.renderer, chats, DEMO_LAYER, shakes=1
    )
    assert len(expected.fired) > 50 * N_TEXTS
    assert len(expected.doubtful) < 0.01 * len(expected.fired)
    for activations in readings:
        expected.agree(activations)
