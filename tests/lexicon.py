"""An Encoder whose features are words: the whole product runs on it without a download.

Feature i fires on the tokens whose bare word is word i, with activation 1 plus a half for every
exclamation mark, so the true coverage of a text is known by eye. Its template refuses a chat whose
first word is `refuse`, and shortens one whose first word is `shorten`.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np

from fac import coverage
from fac.encoder import NEAR_KEPT, NearMisses, Reading
from fac.models import ROLES, SCAFFOLD, Chat, Checked, Rendered
from fac.schema import Activations


class LexiconEncoder:
    def __init__(self, *words: str, rows: int = 4):
        self.words = words
        self.n_features = len(words)
        self.identity = "lexicon/" + ",".join(words)
        self.doubt = ""
        self.sae = SimpleNamespace(decoder=np.eye(len(words), dtype=np.float32))
        self.rows = rows
        self.read_samples = 0

    def render(self, chats: Sequence[Chat]) -> list[Rendered]:
        """Each message is a marker token, then its words; a token carries its leading space."""
        out = []
        for chat in chats:
            text, role, turn, starts, ends = "", [], [], [], []
            for i, message in enumerate(chat):
                for j, word in enumerate([f"<{message['role']}>", *message["content"].split()]):
                    piece = f" {word}" if text else word
                    starts.append(len(text))
                    text += piece
                    ends.append(len(text))
                    role.append(ROLES.index(message["role"]) if j else SCAFFOLD)
                    turn.append(i if j else SCAFFOLD)
            out.append(
                Rendered(
                    ids=np.arange(len(role), dtype=np.int32),
                    role=np.array(role, np.int8),
                    turn=np.array(turn, np.int16),
                    starts=np.array(starts, np.int32),
                    ends=np.array(ends, np.int32),
                    text=text,
                    cut=0,
                )
            )
        return out

    def check(self, chats: Sequence[Chat]) -> Iterator[Checked]:
        for chat in chats:
            first = chat[0]["content"].split(" ")[0]
            yield Checked("The template refuses" if first == "refuse" else "", first == "shorten")

    def encode(self, chats: Sequence[Chat]) -> Activations:
        parts = [reading.pooled() for reading in self.read(chats)]
        return Activations(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def read(self, chats: Sequence[Chat], roles: Sequence[str] = ROLES) -> Iterator[Reading]:
        rendered = self.render(chats)
        wanted = {ROLES.index(role) for role in roles}
        for first in range(0, len(chats), self.rows):
            samples = list(range(first, min(first + self.rows, len(chats))))
            batch = [rendered[i] for i in samples]
            rows = [
                (s, p, self.words.index(bare), 1 + word.count("!") / 2, int(r.role[p]))
                for s, r in zip(samples, batch, strict=True)
                for p, word in enumerate(r.pieces(0, len(r.ids)))
                if int(r.role[p]) in wanted and (bare := word.strip(" !")) in self.words
            ]
            columns = list(zip(*rows, strict=True)) or [()] * 5
            self.read_samples += len(samples)
            yield Reading(
                samples=samples,
                rendered=batch,
                sample=np.array(columns[0], np.int32),
                position=np.array(columns[1], np.int32),
                feature=np.array(columns[2], np.int32),
                value=np.array(columns[3], np.float32),
                role=np.array(columns[4], np.int8),
                near=self._near(samples, batch, wanted),
            )

    def _near(self, samples: list[int], batch: list[Rendered], wanted: set[int]) -> NearMisses:
        """The pre-activation of a word is the share of its first letters that a token has."""
        near = NearMisses.none(self.n_features)
        for s, r in zip(samples, batch, strict=True):
            for f, target in enumerate(self.words):
                scores = [
                    (_common(word.strip(" !"), target) / len(target), -p)
                    for p, word in enumerate(r.pieces(0, len(r.ids)))
                    if int(r.role[p]) in wanted
                ]
                if scores:
                    pre, last = max(scores)
                    misses = NearMisses.none(self.n_features)
                    misses.pre[0, f], misses.sample[0, f], misses.position[0, f] = pre, s, -last
                    near = near.merged(misses)
        assert near.pre.shape[0] == NEAR_KEPT
        return near


def _common(text: str, other: str) -> int:
    pairs = zip(text, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(other)))


def brute_force_support(
    encoder: LexiconEncoder, chats: Sequence[Chat], threshold: float
) -> np.ndarray:
    """Samples in which each word's activation exceeds the threshold, by reading the words."""
    return support(encoder.encode(chats), n_features=encoder.n_features, threshold=threshold)


def support(
    activations: Activations, *, n_features: int, threshold: float, role: int | None = None
) -> np.ndarray:
    """Samples in which each feature is active: int64 `[n_features]`.

    `role` restricts to one role's tokens; None counts a sample once whatever role fired.
    """
    active = coverage.is_active(activations.peak, threshold)
    if role is not None:
        active &= activations.role == role
    return coverage.distinct_samples(
        activations.feature[active], activations.sample[active], n_features
    )
