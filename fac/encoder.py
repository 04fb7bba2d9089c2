"""Texts in, sparse activations out.

Owns: batching by length, the truncated forward pass, the SAE, and who fired on which token.
Does not own: where texts come from, what is stored, what counts as active.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fac import coverage
from fac.models import ROLES, Chat, Rendered, SubjectModel, batches_by_length
from fac.saes import Sae
from fac.schema import Activations

DENSE_BYTES = 64 * 2**20
"""Largest `[tokens, n_features]` block of float32 that exists at any time."""

NEAR_KEPT = 3
"""Highest pre-activations kept per feature: the near misses of a dataset."""


class Reading(NamedTuple):
    """What one batch of chats looks like through the SAE.

    The four activation arrays have one entry per (content token, active feature), sorted by
    (sample, position, feature).
    """

    samples: list[int]
    """Index of each chat of the batch in the list that was given."""

    rendered: list[Rendered]
    """The chats as the model read them, in the same order."""

    sample: np.ndarray
    """int32 index in the list that was given."""

    position: np.ndarray
    """int32 token index in the rendered chat."""

    feature: np.ndarray
    """int32."""

    value: np.ndarray
    """float32 activation, above zero."""

    role: np.ndarray
    """int8 owner of the token."""

    near: NearMisses
    """The batch's highest pre-activation of every feature."""

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
        pre, sample, position = (np.concatenate(pair) for pair in zip(self, other, strict=True))
        order = np.lexsort((sample, -pre), axis=0)[: self.pre.shape[0]]
        return NearMisses(
            *(np.take_along_axis(array, order, axis=0) for array in (pre, sample, position))
        )


class Encoder(Protocol):
    """Whatever can say which features fire in a chat."""

    n_features: int
    identity: str
    """Model, revision, layer, SAE and its hash: part of every run's id."""

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """Everything that fires in the chats, sorted by (sample, role, feature)."""
        ...

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """The chats in batches of similar length, token by token."""
        ...

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """The chats as the model reads them, without running it."""
        ...


class SaeEncoder:
    """The real Encoder: a subject model read by an SAE."""

    def __init__(self, model: SubjectModel, sae: Sae, model_identity: str):
        self.model = model
        self.sae = sae
        self.n_features = sae.n_features
        self.identity = (
            f"{model_identity}/layer{model.layer}/{sae.identity}/max{model.renderer.max_tokens}"
        )

    def encode(self, chats: Sequence[Chat]) -> Activations:
        """Everything that fires in the chats, sorted by (sample, role, feature)."""
        parts = [reading.pooled() for reading in self.read(chats)]
        if not parts:
            return coverage.pool(*(np.zeros(0, np.int32) for _ in range(4)), np.zeros(0))
        joined = Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        order = np.lexsort((joined.feature, joined.role, joined.sample))
        return Activations(*(column[order] for column in joined))

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """The chats as the model reads them, without running it."""
        return self.model.renderer.render(chats)

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        """The chats in batches of similar length, token by token.

        Peaks do not depend on the batch beyond float32 rounding: padding is masked.
        """
        wanted = [ROLES.index(role) for role in roles]
        rendered = self.model.renderer.render(chats)
        for rows in batches_by_length([len(r.ids) for r in rendered]):
            yield self._read_batch(rows, [rendered[i] for i in rows], wanted)

    def _read_batch(
        self, samples: list[int], rendered: list[Rendered], wanted: list[int]
    ) -> Reading:
        import torch

        states = self.model.residual([r.ids for r in rendered])
        content = [np.flatnonzero(np.isin(r.role, wanted)) for r in rendered]
        near = NearMisses.none(self.n_features)
        found: list[tuple[np.ndarray, ...]] = []
        with torch.inference_mode():
            for rows in self._chunks([len(positions) for positions in content]):
                x = torch.cat([states[row, content[row]] for row in rows]).float()
                acts, pre = self.sae.encode(x)
                token, feature = torch.nonzero(acts, as_tuple=True)
                value = acts[token, feature].cpu().numpy()
                owner = np.concatenate([np.full(len(content[row]), row) for row in rows])
                position = np.concatenate([content[row] for row in rows])
                token = token.cpu().numpy()
                found.append((owner[token], position[token], feature.cpu().numpy(), value))
                near = near.merged(self._near(rows, content, pre, samples))
        row, position, feature, value = (
            (np.concatenate(column) for column in zip(*found, strict=True))
            if found
            else (np.zeros(0, np.int64),) * 3 + (np.zeros(0, np.float32),)
        )
        role = np.concatenate([r.role for r in rendered])
        starts = np.cumsum([0, *(len(r.role) for r in rendered)])[:-1]
        return Reading(
            samples=samples,
            rendered=rendered,
            sample=np.asarray(samples, np.int32)[row],
            position=position.astype(np.int32),
            feature=feature.astype(np.int32),
            value=value.astype(np.float32),
            role=role[starts[row] + position],
            near=near,
        )

    def _chunks(self, lengths: list[int]) -> Iterator[list[int]]:
        """Whole samples whose tokens times features stay below DENSE_BYTES."""
        limit = max(1, DENSE_BYTES // (4 * self.n_features))
        chunk: list[int] = []
        for row, length in enumerate(lengths):
            if length == 0:
                continue
            if chunk and sum(lengths[i] for i in chunk) + length > limit:
                yield chunk
                chunk = []
            chunk.append(row)
        if chunk:
            yield chunk

    def _near(self, rows: list[int], content: list[np.ndarray], pre, samples) -> NearMisses:  # type: ignore[no-untyped-def]
        import torch

        best, where, offset = [], [], 0
        for row in rows:
            values, index = pre[offset : offset + len(content[row])].max(0)
            best.append(values)
            where.append(index)
            offset += len(content[row])
        values, index = torch.stack(best), torch.stack(where)
        kept = min(NEAR_KEPT, len(rows))
        top, which = values.topk(kept, dim=0)
        token = index.gather(0, which).cpu().numpy()
        chosen = which.cpu().numpy()
        near = NearMisses.none(self.n_features)
        near.pre[:kept] = top.cpu().numpy()
        near.sample[:kept] = np.asarray([samples[row] for row in rows], np.int32)[chosen]
        widest = max(len(content[row]) for row in rows)
        table = np.zeros((len(rows), widest), np.int32)
        for i, row in enumerate(rows):
            table[i, : len(content[row])] = content[row]
        near.position[:kept] = table[chosen, token]
        return near
