"""What pages ask twice is answered once, and never past a change of what it rests on."""

import os
import shutil
import threading
import time

import numpy as np
import pytest

from fac.errors import FacError
from fac.store import cache
from fac.store.cache import Cache, NotReady
from fac.store.runs import Runs
from fac.ui.handles import SETTLED, Kept, KeptCache, KeptRuns
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
    kept, answer = Kept(), Counted([1, 2])
    assert kept.get("q", [tmp_path], answer) == kept.get("q", [tmp_path], answer) == [1, 2]
    assert answer.times == 1
    (tmp_path / "more").touch()
    settled(tmp_path)
    os.utime(tmp_path, ns=(5, 5))
    kept.get("q", [tmp_path], answer)
    assert answer.times == 2
    kept.get("another", [tmp_path], answer)
    assert answer.times == 3


def test_nothing_is_kept_of_a_folder_that_changed_just_now(tmp_path):
    kept, answer = Kept(), Counted(1)
    (tmp_path / "new").touch()
    for _ in range(3):
        kept.get("q", [tmp_path], answer)
    assert answer.times == 3


def test_a_folder_that_is_not_there_yet_is_noticed_when_it_comes(tmp_path):
    kept, answer, later = Kept(), Counted(1), tmp_path / "later"
    kept.get("q", [later], answer)
    kept.get("q", [later], answer)
    assert answer.times == 1
    later.mkdir()
    kept.get("q", [later], answer)
    assert answer.times == 2


def test_errors_are_not_kept(tmp_path):
    settled(tmp_path)
    kept = Kept()

    def fails():
        raise FacError("not yet")

    with pytest.raises(FacError):
        kept.get("q", [tmp_path], fails)
    assert kept.get("q", [tmp_path], Counted(1)) == 1


def test_the_longest_unused_answers_go_first_and_a_huge_one_does_not_stay(tmp_path):
    settled(tmp_path)
    kept = Kept(most=10_000)
    one, two = Counted("a" * 900), Counted(np.zeros(100))
    for _ in range(2):
        kept.get("one", [tmp_path], one)
        kept.get("two", [tmp_path], two)
    assert (one.times, two.times) == (1, 1)
    for i in range(9):
        kept.get("one", [tmp_path], one)
        kept.get(i, [tmp_path], Counted("b" * 900))
    assert one.times == 1, "it was asked for all the time"
    kept.get("two", [tmp_path], two)
    assert two.times == 2
    huge = Counted("c" * 9000)
    kept.get("huge", [tmp_path], huge)
    kept.get("huge", [tmp_path], huge)
    assert huge.times == 2
    assert kept._bytes == sum(size for *_, size in kept._answers.values()) <= 10_000


def test_threads_may_ask_at_once(tmp_path):
    settled(tmp_path)
    kept, wrong = Kept(most=5_000), []

    def ask():
        for i in range(300):
            if kept.get(i % 40, [tmp_path], lambda i=i: "x" * (i % 40) * 20) != "x" * (i % 40) * 20:
                wrong.append(i)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept._bytes == sum(size for *_, size in kept._answers.values()) <= 5_000


def test_pages_read_what_the_stores_say(tmp_path):
    place = toy_workspace(tmp_path, explained=True)
    plain, kept = Cache(place.cache), KeptCache(place.cache)
    runs, kept_runs = Runs(place), KeptRuns(place)
    anchor, explain = runs.resolve("measure", "toy-anchor"), runs.list("explain")[0]["run"]
    sae = runs.list("sae")[0]["run"]
    settled(place.cache, *place.runs.iterdir(), *place.runs.glob("*/*"))
    for _ in range(2):
        assert kept.ready(anchor) and not kept.ready("measure-000000000000")
        assert kept.summary(anchor) == plain.summary(anchor)
        asked = {"search": "bake", "explained": [explain], "ids": [0, 1]}
        assert kept.features_page(anchor, **asked) == plain.features_page(anchor, **asked)
        for threshold, role in ((0.0, "user"), (0.0, "all"), (1.2, "all")):
            found = kept.support(anchor, threshold, role)
            assert (found == plain.support(anchor, threshold, role)).all()
        assert kept.spans(anchor, 0) == plain.spans(anchor, 0)
        assert kept.spans(anchor, 0, "top") == plain.spans(anchor, 0, "top")
        assert kept.near(anchor, 4, sae_run=sae) == plain.near(anchor, 4, sae_run=sae)
        assert kept.points(sae).equals(plain.points(sae))
        assert kept.explanations(explain, np.array([1, 2])) == plain.explanations(explain, [1, 2])
        assert kept_runs.list("measure") == runs.list("measure")
        assert kept_runs.manifest(anchor) == runs.manifest(anchor)
    with pytest.raises(ValueError):
        kept.support(anchor, 0.0)[0] = 7


def test_new_runs_and_lost_caches_are_noticed_at_once(tmp_path):
    place = toy_workspace(tmp_path)
    kept, runs = KeptCache(place.cache), KeptRuns(place)
    anchor = runs.resolve("measure", "toy-anchor")
    settled(place.cache, *place.runs.iterdir(), *place.runs.glob("*/*"))
    assert kept.feature(anchor, 0)["label"].startswith(WORDS[0])
    assert len(runs.list("dataset")) == 2
    publish_dataset(runs, "new", [[{"role": "user", "content": "hello"}]])
    assert {m["facts"]["name"] for m in runs.list("dataset")} == {"toy-anchor", "toy-seed", "new"}
    (place.cache / f"{anchor}.duckdb").unlink()
    assert not kept.ready(anchor)
    with pytest.raises(NotReady):
        kept.feature(anchor, 0)
    cache.build(Runs(place), anchor, place.cache)
    assert kept.ready(anchor)
    shutil.rmtree(runs.path(anchor))
    with pytest.raises(FacError):
        runs.manifest(anchor)
