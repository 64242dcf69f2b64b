"""Turns, ratios and limits of time, on machines whose clock the test decides."""

import math

import pytest

from detector.bench.cases import Case
from detector.bench.frame import Effort, measure
from tests.detector.bench.fakes import Machine

CASE = Case("model", "model in inference", 4, 256, ("npr", "eager", "compile"))
SPEEDS = {"npr": 0.02, "eager": 0.1, "compile": 0.05}
EFFORT = Effort(seconds=1000, turn=0.2, rounds=5)


def run(machine, cases=(CASE,), settings=("kept",), effort=EFFORT):
    said = []
    rows, loads = measure(cases, settings, machine, effort, said.append, machine.clock)
    assert len(said) == len(loads) == len(cases) * len(settings)
    return rows


def by_name(rows):
    return {row["implementation"]: row for row in rows}


def test_times_are_of_an_image_and_ratios_to_ours():
    rows = by_name(run(Machine(SPEEDS)))
    assert list(rows) == list(CASE.implementations)
    assert rows["npr"]["ms_per_image"] == pytest.approx(5)
    assert rows["eager"]["ms_per_image"] == pytest.approx(25)
    assert rows["eager"]["ratio"] == pytest.approx(5)
    assert "ratio" not in rows["npr"]
    assert rows["npr"]["calls"] == 5 * 10
    assert rows["compile"]["memory"] == 1000
    assert {row["work"] for row in rows.values()} == {"model in inference"}


def test_ratios_hold_on_a_machine_that_drifts(rng):
    """Its speed changes between rounds by far more than the implementations differ."""
    phase = rng.uniform(0, 6)
    rows = by_name(
        run(Machine(SPEEDS, slowness=lambda now: 2 ** math.sin(phase + now / 60)), effort=Effort(900, 0.2, 21))
    )
    assert rows["eager"]["ratio"] == pytest.approx(5, rel=0.05)
    assert rows["compile"]["ratio"] == pytest.approx(2.5, rel=0.05)
    low, high = rows["eager"]["of"]
    assert low < rows["eager"]["ms_per_image"] < high


def test_implementations_take_turns():
    machine = Machine(SPEEDS)
    run(machine)
    turns = [name for name, _, request in machine.log if request == "turn"]
    assert turns == list(CASE.implementations) * 5
    assert [request for _, _, request in machine.log[:3]] == ["prepare"] * 3
    assert [request for _, _, request in machine.log[-3:]] == ["finish"] * 3


def test_settings_are_measured_by_themselves():
    rows = run(Machine({("npr", "default"): 0.08, **SPEEDS}), settings=("default", "kept"))
    times = {(row["setting"], row["implementation"]): row for row in rows}
    assert times["default", "npr"]["ms_per_image"] == pytest.approx(20)
    assert times["default", "eager"]["ratio"] == pytest.approx(1.25)
    assert times["kept", "eager"]["ratio"] == pytest.approx(5)


@pytest.mark.parametrize("request_", ["prepare", "turn", "finish"])
def test_a_failure_costs_its_own_row(request_):
    rows = by_name(run(Machine(SPEEDS, errors={("eager", request_): "it broke"})))
    assert rows["eager"]["error"] == "it broke"
    assert "ms_per_image" not in rows["eager"]
    assert rows["compile"]["ratio"] == pytest.approx(2.5)


def test_without_ours_there_is_no_ratio():
    rows = by_name(run(Machine(SPEEDS, errors={("npr", "prepare"): "not built"})))
    assert rows["npr"]["error"] == "not built"
    assert rows["eager"]["ms_per_image"] == pytest.approx(25)
    assert "ratio" not in rows["eager"]


def test_the_time_is_divided_among_the_cases():
    """With time for 20 rounds, two cases in two settings get about five each, of 100."""
    machine = Machine(dict.fromkeys(SPEEDS, 0.2))
    cases = (CASE, Case("train", "training step", 4, 256, CASE.implementations))
    seconds = 20 * 3 * 0.2 + 4 * 3 * 2 * 0.2  # and for preparing
    rows = run(machine, cases, ("default", "kept"), Effort(seconds, 0.2, 100))
    assert machine.now <= seconds
    assert machine.now > seconds - 3 * 0.2
    assert all(4 <= row["calls"] <= 6 for row in rows)


def test_what_does_not_fit_says_so():
    """Building takes 40 s each: the first case fits, of the second only ours, and of the last nothing is begun."""
    machine = Machine(SPEEDS, preparing=40)
    cases = [Case("train", f"step {number}", 4, 256, CASE.implementations) for number in range(4)]
    rows = run(machine, cases, effort=Effort(220, 0.2, 5))
    assert all("ms_per_image" in row for row in rows[:4])
    assert [row["error"] for row in rows[4:]] == ["out of time"] * 8
    assert machine.now <= 220 * 1.1
    assert len(machine.started) < 4 * 3


def test_what_is_built_for_too_long_leaves_time_for_the_others():
    machine = Machine(SPEEDS, preparing={"eager": 500})
    rows = by_name(run(machine, effort=Effort(200, 0.2, 5)))
    assert rows["eager"]["error"] == "out of time"
    assert rows["compile"]["ratio"] == pytest.approx(2.5)
    assert machine.now <= 110


def test_least_rounds_are_kept_where_one_case_is_slow():
    """The first case has used its share when it is built; it still gets its least rounds, for there is time in all."""
    machine = Machine(SPEEDS, preparing=60)
    cases = (CASE, Case("train", "training step", 4, 256, ("npr",)))
    rows = run(machine, cases, effort=Effort(320, 0.2, 9, least_rounds=2))
    assert rows[1]["calls"] == 2 * 2
    assert rows[3]["calls"] == 9 * 10
