"""What a synthesis asks of every text beside what it fires: the quality gates, whether it is
another's text, and whether it deserves its label; and what could not be asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fac import datasets
from fac.encoder import Encoder
from fac.errors import BadRow, InputError, Progress
from fac.manifest import PairsFacts
from fac.prompts.lists import ASSISTANT
from fac.schema import Chat
from fac.store.runs import Runs
from fac.synthesis import gates, labels
from fac.synthesis.answers import Likelihood
from fac.synthesis.doubts import LABEL_BARELY, doubts, usual
from fac.synthesis.filter import Leaks
from fac.synthesis.gates import Norms
from fac.synthesis.labels import LabelCheck
from fac.synthesis.plan import chats_in
from fac.synthesis.writing import Candidate, same_encoder

LOSSES = 32  # texts whose loss is computed between two reports of progress


@dataclass(kw_only=True)
class Checks:
    """The checks of one synthesis. What they rest on is read once, when it is first needed.

    Raises InputError where `labelled` was measured with another encoder.
    """

    runs: Runs
    about: PairsFacts
    encoder: Encoder
    held_out: Sequence[str] = ()  # files that no text may overlap with
    likelihood: Likelihood | None = None
    labelled: str = ""  # run id of the measure with labels; "": the dataset's, or else the anchor's
    probability: dict[str, float] = field(default_factory=dict)
    """Of each labelled candidate to have its label, as the check has it."""

    _norms: Norms | None = None
    _nats: dict[str, np.ndarray] = field(default_factory=dict)  # of candidates the model has read
    _learned: dict[str, tuple[str, LabelCheck | None]] = field(default_factory=dict)
    _usual: frozenset[str] = frozenset()  # doubts that most of the dataset's chats leave
    _barely: set[str] = field(default_factory=set)  # names of those whose label leaves a doubt
    _peaks: dict[str, Any] = field(default_factory=dict)  # scipy csr `[1, n_features]`

    def __post_init__(self) -> None:
        if self.labelled:
            same_encoder(self.runs, [self.labelled], self.encoder)

    def flaws(self, candidates: Sequence[Candidate], progress: Progress) -> dict[str, str]:
        """Which gate each candidate fails, "" where it fails none. The model is asked about those
        that pass every other one."""
        going = [each for each in candidates if each.messages]
        norms = self._norms_of(progress) if going else Norms({})
        flaws = dict.fromkeys((each.name for each in candidates), "")
        for each in going:
            flaws[each.name] = gates.flaw(each.messages, norms, each.finished)
            self._nats.pop(each.name, None)
        # An answer whose message is still to be written surprises any model: it is read with it.
        whole = [each for each in going if each.messages[0]["role"] != ASSISTANT]
        fine = [each for each in whole if not flaws[each.name]]
        losses = self._losses([each.messages for each in fine], "reading the texts", progress)
        if losses is not None:
            for each, loss in zip(fine, losses, strict=True):
                flaws[each.name] = gates.flaw(each.messages, norms, each.finished, loss)
                self._nats[each.name] = loss
        return flaws

    def doubts(
        self, candidates: Sequence[Candidate], progress: Progress
    ) -> dict[str, tuple[str, ...]]:
        """By name what there is to doubt about each, its end included once `flaws` has asked the
        model, and its label once `unsure` has looked at it."""
        going = [each for each in candidates if each.messages]
        norms = self._norms_of(progress) if going else Norms({})
        return {
            each.name: (
                *(
                    doubt
                    for doubt in doubts(each.messages, norms, self._nats.get(each.name))
                    if doubt not in self._usual
                ),
                *((LABEL_BARELY,) if each.name in self._barely else ()),
            )
            for each in going
        }

    def flaw(self, chat: Chat, progress: Progress) -> str:
        """The first gate that a whole text fails, leaving out its loss; "" where it fails none."""
        return gates.flaw(chat, self._norms_of(progress), finished=True)

    def leaked(self, candidates: Sequence[Candidate], progress: Progress) -> frozenset[str]:
        """Candidates that overlap with a sample of the dataset, of the anchor or of a held-out
        file. Raises InputError for a row of such a file that is no sample."""
        progress(0, 1, "comparing with dataset, anchor and held-out texts")
        leaks = Leaks({each.name: each.messages for each in candidates})
        for chat in self._chats(self.about.dataset, self.about.anchor):
            leaks.compare(chat)
        for path in self.held_out:
            for row in datasets.read_samples(path):
                if isinstance(row, BadRow):
                    raise InputError(f"{Path(path).name}, {row}.")
                leaks.compare(row.messages)
        return frozenset(leaks.candidates)

    def unsure(self, candidates: Sequence[Candidate]) -> Collection[str]:
        """Candidates whose label the check does not confirm; none where it cannot be trusted."""
        names = []
        for label in sorted({label for each in candidates if (label := _label(each))}):
            _, check = self._check(label)
            if check is None:
                continue
            of_label = [each for each in candidates if _label(each) == label and each.messages]
            peaks = self._read([each.messages for each in of_label])
            for number, p in enumerate(check.probabilities(peaks).tolist()):
                name = of_label[number].name
                self.probability[name], self._peaks[name] = p, peaks[number]
                names += [name] if check.decides and p < check.threshold else []
                barely = check.sure <= 1 and p < check.sure
                (self._barely.add if barely else self._barely.discard)(name)
        return names

    def facts(self, kept: Sequence[Candidate]) -> dict[str, Any]:
        """What was checked how, for the run's facts: the gates that nothing was at hand for, and
        the label check's worth. `label_agreement` is the share of kept labelled samples to which a
        probe that learned from other rows gives the same label."""
        norms = self._norms or Norms({})
        label = next((label for each in kept if (label := _label(each))), "")
        label = label or next(iter(self._learned), "")
        if not label:
            return {"unchecked": norms.unchecked}
        measure, check = self._check(label)
        unchecked = (*norms.unchecked, *(() if check and check.decides else ("label",)))
        if check is None:
            return {"unchecked": unchecked}
        texts = [self._peaks[each.name] for each in kept if each.name in self._peaks]
        return {
            "unchecked": unchecked,
            "label_auroc": check.auroc,
            "label_auroc_low": check.low,
            "label_auroc_high": check.high,
            "label_rows": check.rows,
            "label_threshold": check.threshold if check.decides else None,
            "label_precision": check.precision if check.decides else None,
            "label_agreement": labels.agreement(self._samples[measure], texts, label),
        }

    def _check(self, label: str) -> tuple[str, LabelCheck | None]:
        """The check of a label and the measure that it learned from, ("", None) without one."""
        if label not in self._learned:
            self._learned[label] = "", None
            for measure, samples in self._samples.items():
                if check := labels.learn(samples, label):
                    self._learned[label] = measure, check
                    break
        return self._learned[label]

    @cached_property
    def _samples(self) -> dict[str, labels.Labelled]:
        """The measures that have labels, in the order of preference."""
        measures = (self.labelled,) if self.labelled else (self.about.dataset, self.about.anchor)
        read = {measure: labels.labelled(self.runs, measure) for measure in measures}
        return {measure: samples for measure, samples in read.items() if samples is not None}

    def _read(self, chats: Sequence[Chat]) -> Any:
        fired = self.encoder.encode(chats)
        return labels.peak_matrix(fired, len(chats), self.encoder.n_features)

    def _norms_of(self, progress: Progress) -> Norms:
        if self._norms is None:
            note = "reading what the dataset's texts are like"
            progress(0, 1, note)
            dataset, anchor = (
                gates.sampled([*self._chats(run)], gates.MOST)
                for run in (self.about.dataset, self.about.anchor)
            )
            read = [
                self._losses(gates.sampled(chats, gates.READ), note, progress)
                for chats in (dataset, anchor)
            ]
            losses = [each for each in read if each is not None]
            self._norms = gates.norms_of(dataset, anchor, losses)
            self._usual = usual(dataset, self._norms)
        return self._norms

    def _losses(self, chats: Sequence[Chat], note: str, progress: Progress) -> np.ndarray | None:
        """Of all texts `[n, 2, n_roles]`; None where no model is at hand."""
        if self.likelihood is None or not chats:
            return None
        parts = []
        for start in range(0, len(chats), LOSSES):
            progress(start, len(chats), note)
            parts.append(self.likelihood(chats[start : start + LOSSES]))
        return np.concatenate(parts)

    def _chats(self, *measures: str) -> Iterator[Chat]:
        """The chats of measured datasets, each dataset once."""
        for source in dict.fromkeys(self.runs.manifest(run).facts.dataset for run in measures):
            yield from chats_in(self.runs, source)


def _label(candidate: Candidate) -> str:
    """The label that a candidate is to have; "" for those without."""
    return str(candidate.extra.get("label") or "")
