"""What pages ask twice is answered once, and never past a change of what it rests on."""

import os
import shutil
import threading
import time

import numpy as np
import pytest

from fac.errors import FacError
from fac.store import cache, open_stores
from fac.store.cache import NotReady
from fac.store.memo import SETTLED, Memo, remembered, remembered_for_good
from fac.store.runs import Runs
from tests.toy import WORDS, publish_dataset, toy_workspace


def settled(*folders):
    """Lets the last change of these folders lie in the past."""
    long_ago = time.time_ns() - 2 * SETTLED
    for folder in folders:
        os.utime(folder, ns=(long_ago, long_ago))


class Counted:
    """Answers, and counts how often it had to."""

    def __init__(self, answer):
        self.answer, self.times = answer, 0

    def __call__(self):
        self.times += 1
        return self.answer


def test_a_question_is_asked_once_until_its_folder_changes(tmp_path):
    settled(tmp_path)
    memo, answer = Memo(), Counted([1, 2])
    assert memo.get("q", [tmp_path], answer) == memo.get("q", [tmp_path], answer) == [1, 2]
    assert answer.times == 1
    (tmp_path / "more").touch()
    settled(tmp_path)
    os.utime(tmp_path, ns=(5, 5))
    memo.get("q", [tmp_path], answer)
    assert answer.times == 2
    memo.get("another", [tmp_path], answer)
    assert answer.times == 3


def test_nothing_is_remembered_of_a_folder_that_changed_just_now(tmp_path):
    memo, answer = Memo(), Counted(1)
    (tmp_path / "new").touch()
    for _ in range(3):
        memo.get("q", [tmp_path], answer)
    assert answer.times == 3


def test_a_folder_that_is_not_there_yet_is_noticed_when_it_comes(tmp_path):
    memo, answer, later = Memo(), Counted(1), tmp_path / "later"
    memo.get("q", [later], answer)
    memo.get("q", [later], answer)
    assert answer.times == 1
    later.mkdir()
    memo.get("q", [later], answer)
    assert answer.times == 2


def test_errors_are_not_remembered(tmp_path):
    settled(tmp_path)
    memo = Memo()

    def fails():
        raise FacError("not yet")

    with pytest.raises(FacError):
        memo.get("q", [tmp_path], fails)
    assert memo.get("q", [tmp_path], Counted(1)) == 1


def test_the_longest_unused_answers_go_first_and_a_huge_one_does_not_stay(tmp_path):
    settled(tmp_path)
    memo = Memo(max_bytes=10_000)
    text, array = Counted("a" * 900), Counted(np.zeros(100))
    for _ in range(2):
        memo.get("text", [tmp_path], text)
        memo.get("array", [tmp_path], array)
    assert (text.times, array.times) == (1, 1)
    for i in range(9):
        memo.get("text", [tmp_path], text)
        memo.get(i, [tmp_path], Counted("b" * 900))
    assert text.times == 1, "it was asked for all the time"
    memo.get("array", [tmp_path], array)
    assert array.times == 2
    huge = Counted("c" * 9000)
    memo.get("huge", [tmp_path], huge)
    memo.get("huge", [tmp_path], huge)
    assert huge.times == 2
    assert memo._bytes == sum(size for *_, size in memo._answers.values()) <= 10_000


def test_threads_may_ask_at_once(tmp_path):
    settled(tmp_path)
    memo, wrong = Memo(max_bytes=5_000), []

    def ask():
        for i in range(300):
            if memo.get(i % 40, [tmp_path], lambda i=i: "x" * (i % 40) * 20) != "x" * (i % 40) * 20:
                wrong.append(i)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memo._bytes == sum(size for *_, size in memo._answers.values()) <= 5_000


def settled_toy(tmp_path, **options):
    """A toy workspace whose files have not changed for long, and its stores that remember."""
    workspace = toy_workspace(tmp_path, **options)
    settled(workspace.cache, workspace.runs, *workspace.runs.iterdir(), *workspace.runs.glob("*/*"))
    return workspace, open_stores(workspace, remember=True)


def test_stores_that_remember_answer_as_those_that_do_not(tmp_path):
    workspace, stores = settled_toy(tmp_path, explained=True)
    plain = open_stores(workspace, remember=False)
    assert plain.memo is None
    runs, cache = stores.runs, stores.cache
    anchor, explain = runs.resolve("measure", "toy-anchor"), runs.list("explain")[0].run
    sae = runs.list("sae")[0].run
    for _ in range(2):
        assert cache.ready(anchor) and not cache.ready("measure-000000000000")
        assert cache.summary(anchor) == plain.cache.summary(anchor)
        page = {"search": "bake", "explained": [explain], "ids": [0, 1]}
        assert cache.features_page(anchor, **page) == plain.cache.features_page(anchor, **page)
        for threshold, role in ((0.0, "user"), (0.0, "all"), (1.2, "all")):
            support = cache.support(anchor, threshold, role)
            assert (support == plain.cache.support(anchor, threshold, role)).all()
        assert cache.spans(anchor, 0) == plain.cache.spans(anchor, 0)
        assert cache.spans(anchor, 0, "top") == plain.cache.spans(anchor, 0, "top")
        assert cache.near(anchor, 4, sae_run=sae) == plain.cache.near(anchor, 4, sae_run=sae)
        assert cache.points(sae).equals(plain.cache.points(sae))
        explanations = cache.explanations(explain, np.array([1, 2]))
        assert explanations == plain.cache.explanations(explain, [1, 2])
        assert runs.list("measure") == plain.runs.list("measure")
        assert runs.manifest(anchor) == plain.runs.manifest(anchor)
    assert cache.spans(anchor, 0) is cache.spans(anchor, 0)
    assert plain.cache.spans(anchor, 0) is not plain.cache.spans(anchor, 0)
    with pytest.raises(ValueError):
        cache.support(anchor, 0.0)[0] = 7


def test_new_runs_and_lost_caches_are_noticed_at_once(tmp_path):
    workspace, stores = settled_toy(tmp_path)
    runs = stores.runs
    anchor = runs.resolve("measure", "toy-anchor")
    assert stores.cache.feature(anchor, 0)["label"].startswith(WORDS[0])
    assert len(runs.list("dataset")) == 2
    publish_dataset(runs, "new", [[{"role": "user", "content": "hello"}]])
    assert {m.facts.name for m in runs.list("dataset")} == {"toy-anchor", "toy-seed", "new"}
    (workspace.cache / f"{anchor}.duckdb").unlink()
    assert not stores.cache.ready(anchor)
    with pytest.raises(NotReady):
        stores.cache.feature(anchor, 0)
    cache.build(Runs(workspace), anchor, workspace.cache)
    assert stores.cache.ready(anchor)
    shutil.rmtree(runs.path(anchor))
    with pytest.raises(FacError):
        runs.manifest(anchor)


@pytest.mark.parametrize("decorator", [remembered, remembered_for_good])
def test_a_question_about_the_stores_is_computed_once(tmp_path, decorator):
    workspace, stores = settled_toy(tmp_path)
    anchor = stores.runs.resolve("measure", "toy-anchor")
    times = []

    @decorator
    def loudest(stores, run, features, *, above=0.0):
        times.append(run)
        return stores.cache.support(run, above)[np.array(features)]

    for _ in range(2):
        assert loudest(stores, anchor, [0, 1]).shape == (2,)
        assert loudest(stores, anchor, [0, 1], above=1.0).shape == (2,)
    assert len(times) == 2
    loudest(open_stores(workspace, remember=False), anchor, [0, 1])
    assert len(times) == 3
    publish_dataset(stores.runs, "new", [[{"role": "user", "content": "hello"}]])
    loudest(stores, anchor, [0, 1])
    assert len(times) == (4 if decorator is remembered else 3)
