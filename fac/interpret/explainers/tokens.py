"""Explanations without a language model: which words a feature peaks on, and where it tends to be.

From the training spans of a feature (never its test): the words on which it fires, the words around
them, what its samples say more often than samples in which it is silent, and the logit lens. The
same weighted words that make the sentence predict which held-out samples fire; the AUROC of that
prediction is the explanation's score. It describes where a feature fires, not what it means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fac.config import ExplainSpec
from fac.interpret.evidence import Evidence, Span, generator, positions, role_texts
from fac.interpret.parts import Explainer, Explanations, FeatureExplanation, OpenExplainer
from fac.interpret.step_run import ExplainRun
from fac.schema import ROLES, Chat
from fac.store.runs import Runs
from fac.store.samples import read_samples

METHOD = "token statistics 1"  # changes when the same spans would give another explanation
MAX_SAMPLES = 50_000  # of a larger dataset, the words of a fixed random part are counted

CONTEXT_SIGMAS = 2.5
"""How surprising a word's share among the training samples must be to count as context."""

CONTEXT_WEIGHT = 0.5
LENS_WEIGHT = 1 / 3
"""Peak words count in full; context and logit lens, which are weaker evidence, less."""

PSEUDO = 2.0  # samples' worth of background in every share, so that one sighting proves little

_WORD = re.compile(r"\n|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")

Term = tuple[str, str]
"""(role, what is looked for): a word, `#` a shape, `~` one of its ends, `a b` two in a row."""


def terms_of(text: str) -> list[tuple[int, int, list[str]]]:
    """(first character, beyond the last, terms) of every word of a text."""
    matches = list(_WORD.finditer(text))
    low = [m.group().casefold() for m in matches]
    words = []
    for i, match in enumerate(matches):
        word, plain = match.group(), low[i]
        terms = [plain]
        if shape := _shape(word):
            terms.append(shape)
        if len(word) >= 5 and word.isalpha():
            terms += [f"~{plain[-3:]}", f"{plain[:4]}~"]
        if i:
            terms += [f"{low[i - 1]} {plain}", f"{low[i - 1]} _"]
        if i + 1 < len(matches):
            terms.append(f"_ {low[i + 1]}")
        words.append((match.start(), match.end(), terms))
    return words


def _shape(word: str) -> str | None:
    if word.isdigit():
        return f"#digits{min(len(word), 4)}"
    if not word.isascii():
        return "#foreign"
    if len(word) > 1 and word.isupper():
        return "#capitals"
    if len(word) > 1 and word[0].isupper():
        return "#capital"
    return None


class Corpus:
    """Which terms occur in which samples of a dataset: bool `[samples, terms]`, sparse."""

    def __init__(self, chats: Iterable[Chat], lengths: np.ndarray, read: np.ndarray, measure: str):
        """`lengths` are the content tokens of every sample, int `[samples]`; those not `read`,
        bool, take no part."""
        from scipy import sparse

        self.lengths, n_samples = lengths, len(lengths)
        rng = generator(measure, "corpus")
        keep = np.ones(n_samples, bool)
        if n_samples > MAX_SAMPLES:
            keep[:] = False
            keep[rng.choice(n_samples, MAX_SAMPLES, replace=False)] = True
        keep &= read
        self.tests = np.zeros(n_samples, bool)
        """Which silent samples belong to the test; the others shape explanations."""
        self.tests[rng.permutation(n_samples)[: n_samples // 2]] = True
        self.kept = keep
        self.terms: dict[Term, int] = {}
        rows, columns = [], []
        for row, chat in enumerate(chats):
            if not keep[row]:
                continue
            texts = role_texts(chat).items()
            occurring = {(r, term) for r, text in texts for *_, ts in terms_of(text) for term in ts}
            columns += [self.terms.setdefault(key, len(self.terms)) for key in sorted(occurring)]
            rows += [row] * len(occurring)
        self.by_sample = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, columns)), (n_samples, len(self.terms))
        )
        self.by_term = self.by_sample.tocsc()
        self._names = [*self.terms]
        self._background = self._counts(np.flatnonzero(~self.tests & keep))

    def _counts(self, samples: np.ndarray) -> np.ndarray:
        """Of the given samples, how many say each term: float `[terms]`."""
        return np.asarray(self.by_sample[samples].sum(axis=0)).ravel()

    def explain(self, item: Evidence) -> FeatureExplanation:
        """The explanation of one feature from its training samples."""
        training = item.training[self.kept[item.training]]
        counted = self._counts(training)
        shaping = item.firing[self.kept[item.firing] & ~self.tests[item.firing]]
        silent = max(1, int((~self.tests & self.kept).sum()) - len(shaping))
        background = (self._background - self._counts(shaping) + 0.5) / (silent + 1)
        n = len(training)
        seen = np.zeros(len(counted))  # in how many training samples it fires on the term
        expected = n * background
        surprise = (counted - expected) / np.sqrt(expected * (1 - background) + 1e-9)
        context = np.flatnonzero((counted >= 2) & (surprise > CONTEXT_SIGMAS))
        spans = item.training_spans
        peaks = _peak_terms(spans)
        roles = sorted({s["role"] for s in spans}, key=ROLES.index) or list(ROLES)
        for column, term in self._columns(peaks, roles):
            seen[column] = min(peaks[term][0], counted[column])
        ratios: list[tuple[int, float]] = []
        peaked = 1.0, seen, np.flatnonzero(seen)
        for share, of, used in (peaked, (CONTEXT_WEIGHT, counted, context)):
            usual = background[used]
            ratio = share * np.log((of[used] + PSEUDO * usual) / (n + PSEUDO) / usual)
            ratios += zip(used.tolist(), ratio.tolist(), strict=True)
        promoted = [token.strip().casefold() for token in item.promotes]
        for column, _ in self._columns(promoted, roles):
            ratios.append((column, -float(np.log(background[column])) * LENS_WEIGHT))
        weights: dict[Term, float] = {}  # log-likelihood ratios that the prediction sums up
        for column, ratio in ratios:
            if ratio > weights.get(self._names[column], 0.0):
                weights[self._names[column]] = ratio
        near = [self._names[column] for column in context.tolist()]
        text = _sentence(item.promotes, len(spans), peaks, weights, near)
        inputs = {"spans": positions(spans), "promotes": [*item.promotes][:3]}
        rows, fires = self._held_out(item)
        return FeatureExplanation(
            text=text,
            reason="" if text else "nothing that it peaks on or near stands out",
            inputs=json.dumps(inputs),
            prediction=(self._predict(rows, weights), fires),
            lengths=self.lengths[rows],
        )

    def _columns(self, terms: Iterable[str], roles: Sequence[str]) -> list[tuple[int, str]]:
        """(column, term) of the terms that these roles say."""
        keys = ((role, term) for term in terms for role in roles)
        return [(self.terms[key], key[1]) for key in keys if key in self.terms]

    def _held_out(self, item: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """(int which they are, bool whether they fire) of the samples that test a feature."""
        firing = np.zeros(len(self.kept), bool)
        firing[item.firing] = True
        held = self.kept & self.tests & ~firing
        held[item.tested] = self.kept[item.tested]
        rows = np.flatnonzero(held)
        return rows, firing[rows]

    def _predict(self, rows: np.ndarray, weights: Mapping[Term, float]) -> np.ndarray:
        """float: how surely each of these samples fires."""
        columns = [self.terms[term] for term in weights]
        predicted = self.by_term[:, columns] @ np.array([*weights.values()], np.float64)
        return predicted[rows]


def _peak_terms(spans: Sequence[Span]) -> dict[str, tuple[int, float]]:
    """Of each term on whose words the feature fires: in how many spans, and how strongly in sum."""
    peaks: dict[str, tuple[int, float]] = {}
    for span in spans:
        edges = np.cumsum([0, *map(len, span["tokens"])])
        activation = np.asarray(span["activations"])
        strongest: dict[str, float] = {}
        for first, beyond, terms in terms_of("".join(span["tokens"])):
            strength = activation[(edges[:-1] < beyond) & (edges[1:] > first)].max(initial=0.0)
            if strength > 0:
                strongest |= {t: max(strength, strongest.get(t, 0.0)) for t in terms}
        for term, strength in strongest.items():
            times, total = peaks.get(term, (0, 0.0))
            peaks[term] = times + 1, total + float(strength)
    return peaks


def _sentence(
    promotes: Sequence[str],
    n_spans: int,
    peaks: Mapping[str, tuple[int, float]],
    weights: Mapping[Term, float],
    context: Sequence[Term],
) -> str | None:
    """What stands out, in words: peak words, what precedes them, their samples, the logit lens."""
    best: dict[str, float] = {}
    for (_, term), weight in weights.items():
        best[term] = max(best.get(term, 0.0), weight)

    def strongest(terms: Iterable[str], n: int) -> list[str]:
        ranked = sorted({t for t in terms if t in best}, key=lambda t: (-best[t] * peaks[t][1], t))
        return ranked[:n]

    words = strongest((t for t in peaks if _is_word(t)), 3)
    before = strongest((t for t in peaks if t.endswith(" _") and t[:-2] not in words), 2)
    shapes = strongest((t for t in peaks if t in _SHAPES and 2 * peaks[t][0] > n_spans), 1)
    around = sorted(
        {t for _, t in context if t.isalnum() and t not in peaks}, key=lambda t: (-best[t], t)
    )[:3]
    clauses = []
    if words:
        clauses.append(f"Peaks on {_listed(words)}")
    if shapes:
        clauses.append(f"{'mostly' if words else 'Peaks on'} {_SHAPES[shapes[0]]}")
    if before:
        clauses.append(f"after {_listed([t[:-2] for t in before])}")
    if around:
        clauses.append(f"in samples that say {_listed(around)}")
    if clauses and not (words or shapes):
        clauses[0] = f"Fires {clauses[0]}"
    lens = [token.strip() for token in promotes if token.strip()][:3]
    if not clauses and not lens:
        return None
    if lens and len(clauses) < 3:
        clauses.append(f"{'makes' if clauses else 'Makes'} {_listed(lens)} likelier next")
    return ", ".join(clauses)


_SHAPES = {
    **{f"#digits{n}": f"numbers of {n} digits" for n in (2, 3)},
    "#digits1": "single digits",
    "#digits4": "long numbers or years",
    "#foreign": "characters beyond ASCII",
    "#capitals": "words in capitals",
    "#capital": "capitalised words",
}


def _is_word(term: str) -> bool:
    return " " not in term and "~" not in term and not (len(term) > 1 and term[0] == "#")


def _listed(words: Sequence[str]) -> str:
    return ", ".join("“↵”" if word == "\n" else f"“{word}”" for word in words)


def _open(spec: ExplainSpec, runs: Runs) -> OpenExplainer:
    corpora: list[Corpus] = []  # counted once the first block is there

    def explain(run: ExplainRun, items: Sequence[Evidence]) -> Explanations:
        if not corpora:
            run.report(0, "counting the words of every sample")
            facts = runs.manifest(spec.measure).facts
            batches = runs.batches(facts.dataset, "samples")
            chats = (chat for batch in batches for chat in batch.column("messages").to_pylist())
            read = read_samples(runs, spec.measure)
            lengths = runs.table(spec.measure, "sample_tokens", ["n_content"])["n_content"]
            corpora.append(Corpus(chats, lengths.to_numpy(), read, spec.measure))
        return {item.feature: corpora[0].explain(item) for item in items}

    return OpenExplainer(explain, source=METHOD)


EXPLAINER = Explainer(title="token statistics", job_title="by its tokens", preference=2, open=_open)
