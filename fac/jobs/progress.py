"""One figure of how far a job is, made of the counts of its phases."""

from __future__ import annotations

from fac.config import PairsSpec, SynthesizeSpec

THOUSAND = 1000
"""What a whole job counts as."""

USUAL_SHARE = 0.95
SHARES = {PairsSpec.step: 0.6, SynthesizeSpec.step: 0.6}
"""Of what is left of a job, the share of its next phase. A step that writes measures what it wrote,
has answers written, measures again, and nobody knows how often; of others one phase takes long."""


class Extent:
    """How far a job is, in thousandths that never decrease.

    A phase counts from none to all of its own; another one has begun where the total is another or
    fewer are done. It begins where the one before it stood.
    """

    def __init__(self, step: str, begun: float = 0.0):
        """`begun` is the share that an earlier attempt at the job had come to."""
        self.counts = step in SHARES
        """Whether what a phase counts is to be said beside the figure."""

        self._share = SHARES.get(step, USUAL_SHARE)
        self._start = self._reached = min(max(begun, 0.0), 1.0)
        self._phase = (0, 0)

    def at(self, done: int, total: int) -> int:
        """The thousandths after a phase reports `done` of `total`."""
        before, of = self._phase
        if total != of or done < before:
            self._start = self._reached
        self._phase = done, total
        if total > 0:
            room = self._share * (1 - self._start)
            self._reached = max(self._reached, self._start + room * min(done / total, 1.0))
        return int(THOUSAND * self._reached)

    def words(self, done: int, total: int, note: str) -> str:
        """The note, with what the phase counts where that says more than the figure."""
        return f"{done:,} of {total:,}, {note}" if self.counts and total > 1 else note
