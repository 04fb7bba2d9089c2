"""Spans -> explanations -> their scores -> relevance to a task. Each is one immutable run.

Three explainers stand side by side: token statistics (no language model), a language model, and an
imported file. A run holds the explanations, the held-out test of every feature, the scores, and
every reply that was paid for. Stopped at any moment, a run continues without asking twice; stopped
by a person, a budget or a server that gave up, what is complete is published as a smaller run.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fac import agreement, schema
from fac.config import AskSpec, ExplainSpec, JudgeSpec, digest
from fac.errors import BadReply, BudgetReached, Cancelled, InputError, ServiceError
from fac.generator.batch_chat import (
    Question,
    RecordedReply,
    ReplyJournal,
    ask_batch,
    limits_of,
    reply_key,
)
from fac.generator.chat import ChatModel
from fac.interpret import evidence, external, statistics
from fac.interpret.contrast import contrast
from fac.interpret.evidence import Evidence, Span
from fac.interpret.scoring import Estimate
from fac.prompts import Excerpt, Prompt, explaining, relevance, scoring
from fac.schema import CANNOT_TELL, UNREADABLE
from fac.store.runs import ParquetAppender, Runs

Progress = Callable[..., None]
Ask = Callable[[], ChatModel]
"""Opens the chat model; called only when there is something to ask."""

SHOWN = 10
"""Spans a language model sees of a feature (paper App. K)."""

TOKENS = 32
"""Tokens of each, ending a little after the peak (paper: at most 32)."""

PER_QUESTION = 5
"""Texts per detection or fuzzing question, as is common; fewer would leak less, and cost more."""

EXPLAINED, FAILED = "explained", "failed"

Row = dict[str, Any]


def explain(spec: ExplainSpec, *, runs: Runs, ask: Ask, progress: Progress) -> str:
    """Explain features of a measure run and score it on held-out samples; returns the run's id.

    `ask` opens the chat model of the spec. Raises BudgetReached, Cancelled or ServiceError after
    publishing what is complete; InputError for features or files that do not fit.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if spec.model else None
    given, told = _given_texts(spec, runs)
    inputs = [spec.measure, *([spec.explanations] if spec.explanations else [])]
    parts = [*inputs, told, statistics.METHOD, _identity(chat)]
    run_id = spec.run_id(*parts)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        features = [*spec.features] or evidence.firing_features(runs, spec.measure)
        asking = _Asking(spec, chat, runs, run_id, len(features), progress)
        explainer = _Explainer(spec, runs, given, asking)
        tables = {n: getattr(schema, n.upper()) for n in ("explanations", "scores", "examples")}
        with _Tables(runs.scratch(run_id), tables | {"replies": schema.REPLIES}) as out:
            finished: list[int] = []
            statuses: Counter[str] = Counter()
            values: dict[str, list[float]] = {}
            reads = bool(spec.model)  # only a language model reads the texts of the test
            for block in evidence.blocks(runs, spec.measure, features, texts=reads):
                for result in explainer.block(block):
                    finished.append(result.explanation["feature"])
                    statuses[result.explanation["status"]] += 1
                    out.add("explanations", [result.explanation])
                    out.add("scores", result.scores)
                    out.add("examples", result.examples)
                    for score in result.scores:
                        if score["value"] is not None:
                            values.setdefault(score["score"], []).append(score["value"])
                out.add("replies", asking.take())
                out.flush()
                asking.report(len(finished), "explained")
                if asking.stopped:
                    break
        said = {
            "explainer": spec.explainer,
            "source": explainer.source,
            "silent": None if asking.stopped else len(features) - len(finished),
            "counts": dict(sorted(statuses.items())),
            "scores": {
                name: {"n": len(found), "median": float(np.median(found))}
                for name, found in sorted(values.items())
            },
        }
        return _publish(spec, runs, run_id, parts, inputs, finished, said, asking, begun)


def judge(spec: JudgeSpec, *, runs: Runs, ask: Ask, progress: Progress) -> str:
    """Judge which features of a measure run matter for a task; returns the run's id.

    Raises as `explain` does; InputError for a label no sample carries.
    """
    runs.manifest(spec.measure)  # a measure that is gone is told before anybody is asked
    chat = ask() if spec.judge == "llm" else None
    inputs = [spec.measure, *spec.explanations]
    parts = [*inputs, _identity(chat)]
    run_id = spec.run_id(*parts)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        features = [*spec.features] or evidence.firing_features(runs, spec.measure)
        asking = _Asking(spec, chat, runs, run_id, len(features), progress)
        tables = {"relevance": schema.RELEVANCE, "replies": schema.REPLIES}
        levels: Counter[str] = Counter()
        finished: list[int] = []
        with _Tables(runs.scratch(run_id), tables) as out:
            rows = (
                _verdicts(spec, runs, features, asking, out)
                if chat
                else [contrast(runs, spec.measure, spec.label, features)]
            )
            for block in rows:
                out.add("relevance", block)
                finished += [row["feature"] for row in block]
                levels.update(row["level"] for row in block)
                out.flush()
                asking.report(len(finished), "judged")
                if asking.stopped:
                    break
        said = {
            "task": spec.task,
            "judge": spec.judge,
            "source": chat.identity if chat else f"label {spec.label}",
            "counts": dict(sorted(levels.items())),
        }
        return _publish(spec, runs, run_id, parts, inputs, finished, said, asking, begun)


def _identity(chat: ChatModel | None) -> str:
    """Who answers, to which words: an edited prompt is a new run."""
    if chat is None:
        return ""
    sample = Excerpt(("a", "b"), (True, False))
    task = relevance.TaskProfile("t", "t", ("r",))
    asked = (
        explaining.explain([sample]),
        scoring.detect("e", [sample]),
        scoring.fuzz("e", [sample]),
        relevance.judge(task, "e", [sample]),
    )
    return f"{chat.identity} {digest([prompt.key for prompt in asked])}"


def _publish(
    spec: ExplainSpec | JudgeSpec,
    runs: Runs,
    run_id: str,
    parts: Sequence[str],
    inputs: Sequence[str],
    finished: Sequence[int],
    said: Row,
    asking: _Asking,
    begun: float,
) -> str:
    """The finished run; of a stopped one what is complete, as the run that asked for just that."""
    seconds = time.monotonic() - begun
    facts = {
        "name": runs.manifest(spec.measure)["facts"]["name"],
        "measure": spec.measure,
        "n_features": len(finished),
        **said,
        **asking.facts(),
    }
    if asking.stopped is None:
        runs.publish(run_id, spec=spec, inputs=inputs, facts=facts, seconds=seconds)
        return run_id
    if not finished:
        raise asking.stopped
    smaller = replace(spec, features=tuple(finished))
    part = smaller.run_id(*parts)
    if not runs.find(part):
        with runs.exclusive(part):
            home, scratch = runs.scratch(run_id), runs.scratch(part)
            for path in home.glob("*.parquet"):
                path.rename(scratch / path.name)
            runs.publish(part, spec=smaller, inputs=inputs, facts=facts, seconds=seconds)
    sentence = (
        f"{str(asking.stopped).rstrip('.')}. {len(finished):,} features are complete and kept "
        f"({part}); started again, nothing is asked twice."
    )
    raise type(asking.stopped)(sentence)


class _Tables:
    """The tables of one run while they grow; `flush` writes what was added since the last."""

    def __init__(self, folder: Path, tables: Mapping[str, pa.Schema]):
        self._stack = ExitStack()
        self._folder, self._schemas = folder, tables
        self._out: dict[str, ParquetAppender] = {}
        self._rows: dict[str, list[Row]] = {name: [] for name in tables}

    def __enter__(self) -> _Tables:
        for name, wanted in self._schemas.items():
            appender = ParquetAppender(self._folder / f"{name}.parquet", wanted)
            self._out[name] = self._stack.enter_context(appender)
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self.flush()
        self._stack.__exit__(*exception)

    def add(self, name: str, rows: Sequence[Row]) -> None:
        names = self._schemas[name].names
        self._rows[name] += [{column: row.get(column) for column in names} for row in rows]

    def flush(self) -> None:
        for name, rows in self._rows.items():
            self._out[name].append(pa.Table.from_pylist(rows, self._schemas[name]))
            rows.clear()


class _Asking:
    """The one line to the chat model of a run: journal, limits, and what was answered before."""

    def __init__(
        self,
        spec: AskSpec,
        chat: ChatModel | None,
        runs: Runs,
        run_id: str,
        total: int,
        progress: Progress,
    ):
        self._spec, self._chat, self._progress, self._total = spec, chat, progress, total
        self._counts: Counter[str] = Counter()
        self._taken: dict[str, RecordedReply] = {}
        self._tokens, self._cost = 0, 0.0
        self._unread: list[str] = []
        self.done = 0
        """Features finished before the present block."""
        self.stopped: BudgetReached | Cancelled | ServiceError | None = None
        """Why nothing more is asked; what is known still answers."""
        if chat is None:
            return
        self._journal = ReplyJournal(runs.scratch(run_id) / "_journal.jsonl")
        self._before: dict[str, RecordedReply] = {}
        for manifest in runs.list(spec.step):
            if manifest["spec"].get("model"):
                rows = runs.table(manifest["run"], "replies").to_pylist()
                answers = (RecordedReply(**row) for row in rows)
                self._before |= {a.key: a for a in answers if a.reply is not None}

    def report(self, done: int, note: str) -> None:
        """Progress between blocks; a wish to stop ends the run after what is complete."""
        if self.stopped is None:
            try:
                self._progress(done, self._total, note)
            except Cancelled as error:
                self.stopped = error

    def __call__(
        self, questions: Sequence[Question], block: int, note: str
    ) -> dict[str, RecordedReply]:
        """Answers by `about`; some lack once the run was stopped."""
        assert self._chat is not None, "a run that asks has a model"

        def told(done: int, total: int, detail: str = "") -> None:
            share = block * done // max(total, 1)
            self._progress(self.done + share, self._total, f"{note}, {detail}")

        found: dict[str, RecordedReply] = {}
        if self.stopped is None:
            try:
                asked = ask_batch(
                    questions,
                    self._chat,
                    self._journal,
                    attempt=self._spec.attempt,
                    limits=limits_of(self._spec),
                    earlier=self._before,
                    progress=told,
                )
            except (BudgetReached, Cancelled, ServiceError) as error:
                self.stopped = error
            else:
                found = asked.replies
                self._counts.update(asked.counts)
        if self.stopped is not None:
            known = self._before | self._journal.read()
            keys = {q.about: reply_key(q, self._chat, self._spec.attempt) for q in questions}
            found = {
                about: known[key]._replace(about=about)
                for about, key in keys.items()
                if key in known
            }
        self._taken |= found
        return found

    def read(self, answer: RecordedReply, parse: Callable[[str], Any]) -> Any:
        """What a reply says; raises BadReply, and the reply is listed with why."""
        if answer.reply is None:
            raise BadReply(answer.failure)
        try:
            return parse(answer.reply)
        except BadReply as error:
            self._taken[answer.about] = answer._replace(failure=str(error))
            self._counts[UNREADABLE] += 1
            raise

    def take(self) -> list[Row]:
        """The replies since the last time, for the run's table; one row for each key."""
        rows = {answer.key: answer._asdict() for answer in self._taken.values()}
        self._tokens += sum(r["prompt_tokens"] + r["completion_tokens"] for r in rows.values())
        self._cost += sum(r["cost"] or 0.0 for r in rows.values())
        self._taken = {}
        return [*rows.values()]

    def facts(self) -> Row:
        """Counts, tokens and cost of everything the run was told, for its manifest."""
        if self._chat is None:
            return {}
        priced = None not in (self._spec.price_in, self._spec.price_out)
        return {
            "asked": dict(sorted(self._counts.items())),
            "tokens": self._tokens,
            "cost": self._cost if priced else None,
        }


# --- explanations ---------------------------------------------------------------------------------


class _Result(NamedTuple):
    explanation: Row
    scores: list[Row]
    examples: list[Row]


def _given_texts(spec: ExplainSpec, runs: Runs) -> tuple[dict[int, Row], str]:
    """Explanations that exist already, by feature, and what tells them apart from others."""
    if spec.explanations:
        about = runs.manifest(spec.explanations)
        if about["step"] != ExplainSpec.step or about["inputs"][0] != spec.measure:
            raise InputError(
                f"{spec.explanations} does not explain features of {spec.measure}: name a run of "
                f"`fac explain` on the same measure."
            )
        rows = runs.table(spec.explanations, "explanations").to_pylist()
        return {row["feature"]: row for row in rows}, ""
    if spec.explainer == "external":
        return external.read(Path(spec.source))
    return {}, ""


class _Explainer:
    """Blocks of evidence -> explanations, scores and tests."""

    def __init__(self, spec: ExplainSpec, runs: Runs, given: dict[int, Row], asking: _Asking):
        self._spec, self._given, self._asking = spec, given, asking
        self._corpus: statistics.Corpus | None = None
        self.source = spec.model or (Path(spec.source).name if spec.source else statistics.METHOD)
        if spec.explainer == "tokens" and not given:
            asking.report(0, "counting the words of every sample")
            facts = runs.manifest(spec.measure)["facts"]
            chats = (
                chat
                for batch in runs.batches(facts["dataset"], "samples")
                for chat in batch.column("messages").to_pylist()
            )
            self._corpus = statistics.Corpus(chats, facts["n_samples"], spec.measure)

    def block(self, items: Sequence[Evidence]) -> Iterator[_Result]:
        """The results of one block; fewer than asked once the run was stopped."""
        if self._given:
            results = {i.feature: self._take_over(i) for i in items if i.feature in self._given}
        elif self._corpus:
            results = {item.feature: self._count(item, self._corpus) for item in items}
        else:
            results = self._ask(items)
        for score in self._spec.scores:
            self._test(score, results)
        self._asking.done += len(items)
        yield from results.values()

    def _row(self, item: Evidence, **said: Any) -> _Result:
        explanation = {
            "feature": item.feature,
            "explainer": self._spec.explainer,
            "source": self.source,
            "reason": "",
            "prompt_hash": "",
            "status": EXPLAINED,
            **said,
        }
        return _Result(explanation, [], item.examples)

    def _take_over(self, item: Evidence) -> _Result:
        given = self._given[item.feature]
        return self._row(item, **{k: v for k, v in given.items() if k != "feature"})

    def _count(self, item: Evidence, corpus: statistics.Corpus) -> _Result:
        said = corpus.explain(item)
        inputs = {"spans": _places(item.training_spans), "promotes": [*item.promotes][:3]}
        status = EXPLAINED if said.text else CANNOT_TELL
        result = self._row(
            item, text=said.text, reason=said.reason, status=status, inputs=json.dumps(inputs)
        )
        estimate, n, n_positive = corpus.score(item, said.weights)
        result.scores.append(_score(item.feature, "auroc", estimate, n, n_positive, 0))
        return result

    def _ask(self, items: Sequence[Evidence]) -> dict[int, _Result]:
        questions, shown = {}, {}
        for item in items:
            spans = item.training_spans
            if not spans:  # one firing sample in all: better an explanation than a score
                item.examples[:], spans = [], [e["span"] for e in item.examples if e["positive"]]
            shown[item.feature] = evidence.evenly(spans, SHOWN)
            prompt = explaining.explain([_excerpt(s) for s in shown[item.feature]], item.promotes)
            questions[item.feature] = Question(f"explain/{item.feature}", prompt)
        answers = self._asking([*questions.values()], len(items) // 3, "explaining")
        results = {}
        for item in items:
            question = questions[item.feature]
            answer = answers.get(question.about)
            if answer is None:
                continue
            said: Row = {"text": None, "prompt_hash": question.prompt.key}
            said["inputs"] = json.dumps({"spans": _places(shown[item.feature])})
            try:
                read = self._asking.read(answer, explaining.read_explanation)
            except BadReply as error:
                said["status"] = FAILED if answer.reply is None else UNREADABLE
                said["reason"] = str(error)
            else:
                said |= {"text": read.text, "reason": read.reason}
                said["status"] = EXPLAINED if read.text else CANNOT_TELL
            results[item.feature] = self._row(item, **said)
        return results

    def _test(self, score: str, results: dict[int, _Result]) -> None:
        """Has the language model take the test of every explained feature; drops the unanswered."""
        papers: dict[int, list[tuple[Question, list[Row]]]] = {}
        for feature, result in results.items():
            text = result.explanation["text"]
            rows = result.examples if score == "detection" else _marked(result.examples)
            papers[feature] = [
                (
                    Question(f"{score}/{feature}/{at // PER_QUESTION}", _paper(score, text, part)),
                    part,
                )
                for at in range(0, len(rows), PER_QUESTION)
                if text and (part := rows[at : at + PER_QUESTION])
            ]
        questions = [question for paper in papers.values() for question, _ in paper]
        answers = self._asking(questions, len(results) // 3, f"scoring by {score}")
        for feature, paper in papers.items():
            if any(question.about not in answers for question, _ in paper):
                del results[feature]
                continue
            unreadable = 0
            for question, part in paper:
                try:
                    parse = partial(scoring.read_answers, n=len(part))
                    said = self._asking.read(answers[question.about], parse)
                except BadReply:
                    unreadable += len(part)
                    continue
                for row, yes in zip(part, said, strict=True):
                    row["detected" if score == "detection" else "fuzzed"] = yes
            if paper:
                results[feature].scores.append(_graded(feature, score, paper, unreadable))


def _graded(
    feature: int, score: str, paper: Sequence[tuple[Question, list[Row]]], unreadable: int
) -> Row:
    said, truth = ("detected", "positive") if score == "detection" else ("fuzzed", "fuzz_right")
    rows = [row for _, part in paper for row in part if row.get(said) is not None]
    right = np.array([row[truth] for row in rows], bool)
    found = agreement.balanced_accuracy([row[said] for row in rows], right.tolist())
    return _score(feature, score, found, found.n, found.n_positive, unreadable)


def _score(
    feature: int,
    score: str,
    estimate: Estimate | agreement.BalancedAccuracy,
    n: int,
    n_positive: int,
    n_unreadable: int,
) -> Row:
    defined = not math.isnan(estimate.value)
    return {
        "feature": feature,
        "score": score,
        "value": estimate.value if defined else None,
        "low": estimate.low if defined else None,
        "high": estimate.high if defined else None,
        "n": n,
        "n_positive": n_positive,
        "n_unreadable": n_unreadable,
    }


def _paper(score: str, text: str, rows: Sequence[Row]) -> Prompt:
    if score == "detection":
        return scoring.detect(text, [_excerpt(row["span"], marks=False) for row in rows])
    return scoring.fuzz(text, [_excerpt(r["span"], right=r["fuzz_right"]) for r in rows])


def _marked(examples: Sequence[Row]) -> list[Row]:
    """The positives for fuzzing; every second one gets marks on tokens where it is silent."""
    positives = [row for row in examples if row["positive"]]
    for number, row in enumerate(positives):
        row["fuzz_right"] = number % 2 == 0
    return positives


def _excerpt(span: Span, *, marks: bool = True, right: bool = True) -> Excerpt:
    """A span as a language model sees it: TOKENS around the peak, firing tokens marked.

    Wrong marks are as many, on silent tokens spread over the text.
    """
    tokens, active = span["tokens"], np.asarray(span["activations"]) > 0
    beyond = min(len(tokens), max(span["peak_index"] + 5, TOKENS))
    window = slice(max(0, beyond - TOKENS), beyond)
    marked = active[window]
    if not right:
        silent = np.flatnonzero(~marked)
        chosen = np.linspace(0, len(silent) - 1, min(int(marked.sum()), len(silent))).round()
        marked = np.isin(np.arange(len(marked)), silent[chosen.astype(int)])
    return Excerpt(tuple(tokens[window]), tuple((marked & marks).tolist()))


def _places(spans: Sequence[Span]) -> list[list[Any]]:
    """Which spans an explanation was made from: (sample, role, position)."""
    return [[s["sample"], s["role"], s["position"]] for s in spans]


# --- relevance ------------------------------------------------------------------------------------


def _verdicts(
    spec: JudgeSpec, runs: Runs, features: Sequence[int], asking: _Asking, out: _Tables
) -> Iterator[list[Row]]:
    """A language model's verdicts, a block at a time."""
    task = relevance.TaskProfile(spec.task, spec.title or spec.task, spec.rubric)
    texts: dict[int, str] = {}
    for run in reversed(spec.explanations):
        rows = runs.table(run, "explanations", ["feature", "text"]).to_pylist()
        texts |= {row["feature"]: row["text"] for row in rows if row["text"]}
    for items in evidence.blocks(runs, spec.measure, features, test=False):
        questions = {}
        for item in items:
            excerpts = [_excerpt(s) for s in evidence.evenly(item.spans, SHOWN)]
            prompt = relevance.judge(task, texts.get(item.feature), excerpts)
            questions[item.feature] = Question(f"judge/{item.feature}", prompt)
        answers = asking([*questions.values()], len(items), "judging")
        block = []
        for feature, question in questions.items():
            answer = answers.get(question.about)
            if answer is None:
                continue
            row: Row = {"feature": feature, "prompt_hash": question.prompt.key}
            try:
                verdict = asking.read(answer, relevance.read_judgement)
            except BadReply as error:
                row["level"] = FAILED if answer.reply is None else UNREADABLE
                row["rationale"] = str(error)
            else:
                row |= {"level": verdict.level, "rationale": verdict.rationale}
            block.append(row)
        asking.done += len(items)
        out.add("replies", asking.take())
        yield block
