"""Texts in, sparse activations out.

Owns: batching by length, the truncated forward pass, the SAE, and who fired on which token.
Does not own: where texts come from, what is stored, what counts as active.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from fac import coverage
from fac.errors import InputError
from fac.models import (
    ROLES,
    Chat,
    Checked,
    Rendered,
    SubjectModel,
    batches_by_length,
    by_beginning,
)
from fac.saes import Sae
from fac.schema import Activations

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 16 * 2**20
"""Values of the largest `[tokens, features]` block that the SAE is asked for at once."""

SCOUTS = 16  # samples of the first batch that say what a near miss must reach

NEAR_KEPT = 3  # highest pre-activations kept per feature: the near misses of a dataset


class Reading(NamedTuple):
    """What one batch of chats looks like through the SAE.

    The four activation arrays have one entry per (content token, active feature), sorted by
    (sample, position, feature).
    """

    samples: list[int]  # index of each chat of the batch in the list that was given
    rendered: list[Rendered]  # the chats as the model read them, in the same order
    sample: np.ndarray  # int32 index in the list that was given
    position: np.ndarray  # int32 token index in the rendered chat
    feature: np.ndarray  # int32
    value: np.ndarray  # float32 activation, above zero
    role: np.ndarray  # int8 owner of the token
    near: NearMisses
    """The batch's highest pre-activations of every feature, as far as they are among the highest
    of all that this call has read by now."""

    def pooled(self) -> Activations:
        """g_i(x) per role (paper App. D)."""
        return coverage.pool(self.sample, self.role, self.feature, self.position, self.value)


class NearMisses(NamedTuple):
    """The highest pre-activations of every feature, at most one per sample.

    Arrays of shape `[NEAR_KEPT, n_features]`, strongest first; `sample` is -1 where there is none.
    """

    pre: np.ndarray
    sample: np.ndarray
    position: np.ndarray

    @classmethod
    def none(cls, n_features: int) -> NearMisses:
        shape = NEAR_KEPT, n_features
        return cls(
            np.full(shape, -np.inf, np.float32),
            np.full(shape, -1, np.int32),
            np.full(shape, -1, np.int32),
        )

    def merged(self, other: NearMisses) -> NearMisses:
        """The best of both; ties go to the lower sample."""
        new = np.flatnonzero(other.sample[0] >= 0)
        if not len(new):
            return self
        pre, sample, position = (
            np.concatenate([ours[:, new], theirs[:, new]])
            for ours, theirs in zip(self, other, strict=True)
        )
        order = np.lexsort((sample, -pre), axis=0)[: len(self.pre)]
        merged = NearMisses(*(array.copy() for array in self))
        for array, both in zip(merged, (pre, sample, position), strict=True):
            array[:, new] = np.take_along_axis(both, order, axis=0)
        return merged

    @classmethod
    def highest(
        cls,
        n_features: int,
        feature: np.ndarray,
        pre: np.ndarray,
        sample: np.ndarray,
        position: np.ndarray,
    ) -> NearMisses:
        """Of pre-activations, each array `[n]`, in any order; the earlier of equal positions."""
        top, _ = coverage.strongest(feature, sample, position, value=pre)
        feature, pre, sample, position = (x[top] for x in (feature, pre, sample, position))
        falling = (feature.astype(np.int64) << 32) - _whole(pre)
        order = np.argsort(falling, kind="stable")  # which leaves equal ones by sample
        feature, pre, sample, position = (x[order] for x in (feature, pre, sample, position))
        rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
        top_few = rank < NEAR_KEPT
        near = cls.none(n_features)
        for array, column in zip(near, (pre, sample, position), strict=True):
            array[rank[top_few], feature[top_few]] = column[top_few]
        return near


class TextBatch(NamedTuple):
    """Samples that go through the model together."""

    samples: list[int]
    """Index of each in the list that was given, also of those with nothing to read."""

    alike: list[list[int]]  # those with something to read, the ones that read alike together
    ids: list[np.ndarray]  # int32 token ids of each text, up to its last token that counts
    content: list[np.ndarray]  # positions of each text's tokens that count
    shared: int  # tokens with which all texts begin


class Encoder(Protocol):
    """Whatever can say which features fire in a chat."""

    n_features: int
    identity: str  # model, revision, layer, SAE and its hash: part of every run's id

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """Everything that fires in the chats, sorted by (sample, role, feature)."""
        ...

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """The chats in batches of similar length, token by token."""
        ...

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """The chats as the model reads them, without running it."""
        ...

    def check(self, chats: Sequence[Chat]) -> Iterable[Checked]:
        """Which chats it can read, without making tokens of them."""
        ...


class SaeEncoder:
    """The real Encoder: a subject model read by an SAE.

    Raises InputError when the SAE reads another width than the model has.
    """

    def __init__(self, model: SubjectModel, sae: Sae, model_identity: str, doubt: str = ""):
        if sae.d_in != model.d_model:
            raise InputError(
                f"The SAE {sae.identity} reads {sae.d_in} values, but {model_identity} has a "
                f"residual stream of {model.d_model}: it belongs to another model. "
                f"`fac preflight` compares them."
            )
        self.model = model
        self.sae = sae
        self.n_features = sae.n_features
        self.doubt = doubt  # what the SAE's metadata leaves open about its belonging here
        # Peaks of two precisions differ in their third digit: runs of both are not to be compared.
        held = "" if model.dtype == "float32" else f" in {model.dtype}"
        self.identity = (
            f"{model_identity}{held}/layer{model.layer}/{sae.identity}"
            f"/max{model.renderer.max_tokens}"
        )

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """Everything that fires in the chats, sorted by (sample, role, feature)."""
        parts = [reading.pooled() for reading in self.read(chats)]
        if not parts:
            none = np.zeros(0, np.int32)
            return coverage.pool(none, none, none, none, none)
        joined = Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        order = np.lexsort((joined.feature, joined.role, joined.sample))
        return Activations(*(column[order] for column in joined))

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """The chats as the model reads them, without running it."""
        return self.model.renderer.render(chats)

    def check(self, chats: Sequence[Chat]) -> Iterator[Checked]:
        """Which chats it can read, without making tokens of them."""
        return self.model.renderer.check(chats)

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """The chats in batches of similar length, token by token.

        Peaks do not depend on the batch beyond float32 rounding: padding is masked.
        """
        rendered = self.model.renderer.render(chats)
        highest = NearMisses.none(self.n_features)
        for batch in self.batches(rendered, roles):
            reading = self._read_batch(batch, rendered, highest.pre[-1])
            highest = highest.merged(reading.near)
            yield reading

    def batches(
        self, rendered: Sequence[Rendered], roles: Sequence[str] = ROLES
    ) -> list[TextBatch]:
        """What is run together: texts of similar length that begin alike, equal ones once, each
        only as far as its last token of these roles."""
        codes = [ROLES.index(role) for role in roles]
        content = [np.flatnonzero(np.isin(r.role, codes)) for r in rendered]
        ids = [r.ids[: c[-1] + 1 if len(c) else 0] for r, c in zip(rendered, content, strict=True)]
        texts: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
        for i, spoken in enumerate(ids):
            texts[spoken.tobytes(), content[i].tobytes()].append(i)
        silent = texts.pop((b"", b""), [])
        batches = [TextBatch(silent, [], [], [], 0)] if silent else []
        groups = [*texts.values()]
        unique = [ids[same[0]] for same in groups]
        for shared, group in by_beginning(unique):
            lengths = [len(unique[text]) - shared for text in group]
            for rows in batches_by_length(lengths, max_padded=self.model.batch_tokens):
                alike = [groups[group[row]] for row in rows]
                samples = sorted(i for same in alike for i in same)
                firsts = [same[0] for same in alike]
                columns = [ids[i] for i in firsts], [content[i] for i in firsts]
                batches.append(TextBatch(samples, alike, *columns, shared))
        return batches

    def _read_batch(
        self, batch: TextBatch, rendered: Sequence[Rendered], admission: np.ndarray
    ) -> Reading:
        """`admission` (float32 `[n_features]`) is what a near miss must reach by now."""
        entries = _Entries.none()
        if batch.ids:
            text = np.repeat(np.arange(len(batch.ids)), [len(tokens) for tokens in batch.content])
            position = np.concatenate(batch.content)
            states = self.model.residual(batch.ids, batch.shared)[text, position].float()
            entries = self._entries(states, text, position, admission).of(batch.alike)
        fired = entries.fired(self.n_features)
        texts = [rendered[i] for i in batch.samples]
        starts = np.zeros(max(batch.samples) + 1, np.int64)
        starts[batch.samples] = np.cumsum([0, *(len(r.role) for r in texts)])[:-1]
        return Reading(
            samples=batch.samples,
            rendered=texts,
            sample=fired.sample.astype(np.int32),
            position=fired.position.astype(np.int32),
            feature=fired.feature.astype(np.int32),
            value=fired.value,
            role=np.concatenate([r.role for r in texts])[starts[fired.sample] + fired.position],
            near=entries.highest(self.n_features, admission),
        )

    def _entries(
        self, states: torch.Tensor, text: np.ndarray, position: np.ndarray, admission: np.ndarray
    ) -> _Entries:
        """What of residual streams `[tokens, d_model]` is active or is admitted.

        `text`, ascending, and `position` say where each token stands.
        """
        import torch

        blocks = []
        with torch.inference_mode():
            lowest = torch.from_numpy(admission).to(states.device)
            for block in self.sae.blocks(states.float(), BLOCK_VALUES):
                pre, cut, reach = block.pre, block.cut, lowest[block.features]
                if np.isneginf(admission[0]):
                    reach = _scouted(pre, text[block.tokens])
                if cut.ndim == reach.ndim == 1:  # one pass over the block instead of three
                    below = torch.nextafter(reach, reach.new_tensor(-torch.inf))
                    flat = _where(pre > torch.minimum(cut, below))
                else:
                    flat = _where((pre > cut) | (pre >= reach))
                token, column = flat // pre.shape[1], flat % pre.shape[1]
                value = pre.flatten()[flat]
                active = value > cut.expand(pre.shape)[token, column]
                columns = (x.cpu().numpy() for x in (token, column, value, active))
                row, feature, *rest = columns
                row = row + block.tokens.start
                blocks.append((text[row], position[row], feature + block.features.start, *rest))
        return _Entries(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _scouted(pre: torch.Tensor, text: np.ndarray) -> torch.Tensor:
    """What a near miss must reach while none is known: float32 `[features]`, or, where too few
    texts could say so, `[tokens, features]`, the highest of each token's own text.

    `pre` is `[tokens, features]`; `text`, ascending, says whose each token is. At least NEAR_KEPT
    samples do reach it, so nothing below can be among the highest.
    """
    import torch

    edges = [0, *(np.flatnonzero(np.diff(text)) + 1).tolist(), len(text)]
    spans = list(pairwise(edges))[:SCOUTS]
    highest = torch.stack([pre[first:last].amax(0) for first, last in spans])
    if len(spans) >= NEAR_KEPT:
        return highest.topk(NEAR_KEPT, dim=0).values[-1]
    sizes = torch.tensor([last - first for first, last in spans], device=pre.device)
    return highest.repeat_interleave(sizes, 0)


def _where(mask: torch.Tensor) -> torch.Tensor:
    """Places of the true values in the flattened mask, ascending."""
    import torch

    if mask.device.type == "cpu":  # numpy skips what is false much faster
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


class _Entries(NamedTuple):
    """Pre-activations of single tokens and features; every array has one entry for each."""

    sample: np.ndarray  # or the text, until `of` says who has it
    position: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    active: np.ndarray

    @classmethod
    def none(cls) -> _Entries:
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, empty, np.zeros(0, np.float32), np.zeros(0, bool))

    def of(self, samples: Sequence[Sequence[int]]) -> _Entries:
        """From texts to the samples that have them: each entry once for every one."""
        sizes = np.array([len(same) for same in samples])
        owners = np.concatenate([np.asarray(same, np.int64) for same in samples])
        times = sizes[self.sample]
        row = np.repeat(np.arange(len(times)), times)
        copy = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
        repeated = _Entries(*(column[row] for column in self))
        return repeated._replace(sample=owners[(np.cumsum(sizes) - sizes)[repeated.sample] + copy])

    def fired(self, n_features: int) -> _Entries:
        """The active ones, by sample, position and feature."""
        active = _Entries(*(column[self.active] for column in self))
        longest = 1 + active.position.max(initial=0)
        order = np.argsort(
            (active.sample * longest + active.position) * n_features + active.feature
        )
        return _Entries(*(column[order] for column in active))

    def highest(self, n_features: int, admission: np.ndarray) -> NearMisses:
        """Of those that reach the admission threshold of their feature."""
        high = self.value >= admission[self.feature]
        sample, position, feature, pre, _ = (column[high] for column in self)
        return NearMisses.highest(n_features, feature, pre, sample, position)


def _whole(values: np.ndarray) -> np.ndarray:
    """int64 of at most 32 bits in the order of these float32."""
    bits = (values + np.float32(0)).view(np.int32).astype(np.int64)  # no negative zero
    return np.where(bits < 0, -(bits + 2**31), bits)
