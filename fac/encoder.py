"""Texts in, sparse activations out.

Owns: batching by length, the truncated forward pass, the SAE, and who fired on which token.
Does not own: where texts come from, what is stored, what counts as active.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from fac import coverage
from fac.errors import InputError
from fac.models import ROLES, Chat, Rendered, SubjectModel, batches_by_length
from fac.saes import Sae
from fac.schema import Activations

if TYPE_CHECKING:
    import torch

DENSE_BYTES = 64 * 2**20
"""Largest `[tokens, n_features]` block of float32 that the SAE is asked for at once."""

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
    """The real Encoder: a subject model read by an SAE.

    Raises InputError when the SAE reads another width than the model has.
    """

    def __init__(self, model: SubjectModel, sae: Sae, model_identity: str):
        if sae.d_in != model.d_model:
            raise InputError(
                f"The SAE {sae.identity} reads {sae.d_in} values, but {model_identity} has a "
                f"residual stream of {model.d_model}: it belongs to another model. "
                f"`fac preflight` compares them."
            )
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
            none = np.zeros(0, np.int32)
            return coverage.pool(none, none, none, none, none)
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

        content = [np.flatnonzero(np.isin(r.role, wanted)) for r in rendered]
        spoken = [row for row, positions in enumerate(content) if len(positions)]
        near = _Near(self.n_features)
        found: list[tuple[np.ndarray, ...]] = []
        if spoken:
            # In the order of the samples, so that of equal near misses the lower sample is kept.
            spoken.sort(key=lambda row: samples[row])
            states = self.model.residual([rendered[row].ids for row in spoken])
            place = np.repeat(np.arange(len(spoken)), [len(content[row]) for row in spoken])
            position = np.concatenate([content[row] for row in spoken])
            step = max(1, DENSE_BYTES // (4 * self.n_features))
            with torch.inference_mode():
                for first in range(0, len(place), step):
                    chunk = slice(first, first + step)
                    acts, pre = self.sae.encode(states[place[chunk], position[chunk]].float())
                    fired = torch.nonzero(acts, as_tuple=True)
                    value = acts[fired].cpu().numpy()
                    token, feature = (index.cpu().numpy() for index in fired)
                    token += first
                    found.append((place[token], position[token], feature, value))
                    near.offer(place[chunk], position[chunk], pre)
        nothing = (*(np.zeros(0, np.int64),) * 3, np.zeros(0, np.float32))
        columns = [np.concatenate(column) for column in zip(nothing, *found, strict=True)]
        at, where, features, values = columns
        rows = np.asarray(spoken, np.int64)
        role = np.concatenate([r.role for r in rendered])
        starts = np.cumsum([0, *(len(r.role) for r in rendered)])[:-1]
        return Reading(
            samples=samples,
            rendered=rendered,
            sample=np.asarray(samples, np.int32)[rows[at]],
            position=where.astype(np.int32),
            feature=features.astype(np.int32),
            value=values,
            role=role[starts[rows[at]] + where],
            near=near.strongest(np.asarray(samples, np.int32)[rows]),
        )


class _Near:
    """The highest pre-activation of every feature in each sample of a batch, chunk by chunk."""

    def __init__(self, n_features: int):
        self.n_features = n_features
        self.best: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def offer(self, place: np.ndarray, position: np.ndarray, pre: torch.Tensor) -> None:
        """`pre` is `[tokens, n_features]`; `place`, ascending, says whose token each one is."""
        import torch

        cuts = np.flatnonzero(np.diff(place)) + 1
        for first, last in zip([0, *cuts], [*cuts, len(place)], strict=True):
            highest, index = pre[first:last].max(0)
            where = torch.from_numpy(position[first:last].astype(np.int32)).to(pre.device)[index]
            sample = int(place[first])
            if sample in self.best:  # a sample cut in two; the earlier position wins a tie
                before, earlier = self.best[sample]
                where = torch.where(highest > before, where, earlier)
                highest = torch.maximum(highest, before)
            self.best[sample] = highest, where

    def strongest(self, samples: np.ndarray) -> NearMisses:
        """The NEAR_KEPT best; `samples` names the places, ascending."""
        import torch

        near = NearMisses.none(self.n_features)
        if self.best:
            pre, where = (torch.stack(column) for column in zip(*self.best.values(), strict=True))
            which = pre.argsort(dim=0, descending=True, stable=True)[:NEAR_KEPT]
            kept = len(which)
            near.pre[:kept] = pre.gather(0, which).cpu().numpy()
            near.position[:kept] = where.gather(0, which).cpu().numpy()
            near.sample[:kept] = samples[np.fromiter(self.best, int)][which.cpu().numpy()]
        return near
