"""Processes that answer, fail, die and are late."""

import gc
import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from detector.bench import resident
from detector.bench.cases import FORWARD, Case
from detector.bench.processes import SETTINGS, Worker, Workers
from detector.bench.worker import Session
from detector.memory import give_back_memory
from tests import needs

CASE = Case("op", FORWARD, 2, 18, ("npr", "eager"))


@pytest.fixture
def place():
    """Starts a worker that runs a program, and ends it after the test."""
    workers = []

    def start(program):
        workers.append(Worker([sys.executable, "-c", program], {}))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


# ---- What the process answers -------------------------------------------------------------------------------------


def test_a_session():
    state = SimpleNamespace(now=0.0, asked=[], calls=0)

    def call():
        state.now += 3 if state.calls == 0 else 0.5
        state.calls += 1

    def prepare(case, implementation):
        state.asked.append((case, implementation))
        return call

    session = Session("eager", prepare, lambda: state.now)
    case = json.loads(json.dumps(asdict(CASE)))
    assert session.answer("prepare", case) == {"seconds": 0.5}
    assert state.asked == [(CASE, "eager")]
    assert session.answer("turn", 2) == {"seconds": [0.5] * 3}
    assert session.answer("finish", None).keys() == {"memory"}


def test_a_session_goes_on_after_a_failure():
    calls = [lambda: 1 / 0, lambda: None]
    session = Session("npr", lambda case, name: calls.pop(0))
    assert session.answer("prepare", asdict(CASE)) == {"error": "ZeroDivisionError: division by zero"}
    assert "seconds" in session.answer("prepare", asdict(CASE))


@pytest.mark.skipif(resident.now() is None, reason="the system does not tell resident memory")
def test_memory_is_what_a_case_needed_at_most():
    def prepare(case, name):
        size = {1: 40 << 20, 2: 10 << 20}[case.batch]
        return lambda: bytearray(b"x") * size

    gc.collect()  # what earlier tests left, which would be given back between the cases
    give_back_memory()
    session = Session("npr", prepare)
    for batch, least in ((1, 40 << 20), (2, 10 << 20)):  # the second is not the first one's peak
        session.answer("prepare", asdict(Case("op", FORWARD, batch, 2, ("npr",))))
        memory = session.answer("finish", None)["memory"]
        assert abs(memory - least) < 4 << 20  # the system counts pages in batches, and the test is in memory too


# ---- The process ---------------------------------------------------------------------------------------------------

ECHO = """
import json, sys
print('{"ready": true}', flush=True)
for line in sys.stdin: print(line, end="", flush=True)
"""


def test_questions_and_answers(place):
    worker = place(ECHO)
    assert worker.ask("turn", 0.5, 60) == {"turn": 0.5}
    assert worker.ask("finish", None, 60) == {"finish": None}
    assert worker.broken is None


def test_a_process_that_dies_leaves_its_last_words(place):
    worker = place("import sys; print('{}', flush=True); input(); sys.exit('no such engine')")
    answer = worker.ask("prepare", {}, 60)
    assert answer == {"error": "its process ended with status 1: no such engine"}
    assert worker.ask("turn", 1, 60) == answer


def test_a_process_that_cannot_begin(place):
    assert place("import nothing_of_this_name").ask("turn", 1, 60) == {
        "error": "its process ended with status 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    }
    assert place("""print('{"error": "no glibc"}', flush=True)""").ask("turn", 1, 60) == {"error": "no glibc"}


def test_a_process_that_is_late_is_ended(place):
    worker = place("import time; print('{}', flush=True); time.sleep(600)")
    assert worker.ask("prepare", {}, 0.2) == {"error": "out of time"}
    assert worker.ask("turn", 1, 60) == {"error": "out of time"}
    assert worker._process.wait(60) != 0


@needs.extension
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_implementation(setting, tmp_path):
    """A real one, from its start to its memory."""
    with Workers(1, tmp_path) as workers:
        workers.start(["npr"], setting)
        workers.start(["npr"], setting)  # which runs already
        answer = workers.ask("npr", setting, "prepare", asdict(CASE), 300)
        if setting == "kept" and answer.get("error", "").startswith("no glibc"):
            pytest.skip(answer["error"])
        assert answer["seconds"] > 0
        times = workers.ask("npr", setting, "turn", 0.01, 300)["seconds"]
        assert times
        assert min(times) > 0
        assert "memory" in workers.ask("npr", setting, "finish", None, 300)
        unknown = workers.ask("npr", setting, "prepare", asdict(CASE) | {"kind": "soup"}, 300)
        assert unknown == {"error": "AttributeError: 'Caller' object has no attribute '_soup'"}
        first = workers._workers["npr", setting]
        workers.ask("npr", setting, "prepare", asdict(CASE), 0)
        workers.start(["npr"], setting)
        assert workers._workers["npr", setting] is not first  # another one, as that was late
