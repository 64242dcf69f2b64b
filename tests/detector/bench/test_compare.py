"""What got slower, whichever machine measured."""

import pytest

from detector.bench.compare import compare
from tests.detector.bench.fakes import results

OLD = {"npr": 10.0, "npr-int8": 5.0, "eager": 50.0, "compile": 30.0, "openvino": 20.0}


def changes(old, new):
    return {change.name.split(": ")[1]: change for change in compare(results(old), results(new))}


def test_another_machine_changes_nothing(rng):
    speed = rng.uniform(0.1, 10)
    for change in changes(OLD, {name: speed * time for name, time in OLD.items()}).values():
        assert change.factor == pytest.approx(1)
        assert not change.is_slower(0.001)
        assert set(change.rivals) == {"eager", "compile", "openvino"}


def test_what_is_slower_is_named():
    found = changes(OLD, {name: 3 * time for name, time in OLD.items()} | {"npr": 33.0})
    assert found["npr"].factor == pytest.approx(1.1)
    assert found["npr"].is_slower(0.05)
    assert not found["npr"].is_slower(0.11)
    assert found["npr-int8"].factor == pytest.approx(1)


def test_one_rival_alone_does_not_decide():
    assert changes(OLD, OLD | {"eager": 25.0})["npr"].factor == pytest.approx(1)
    assert changes(OLD, OLD | {"compile": 60.0})["npr-int8"].factor == pytest.approx(1)


def test_what_is_no_longer_measured_counts_as_slower():
    found = changes(OLD, OLD | {"npr": "it broke"})
    assert found["npr"].factor is None
    assert found["npr"].error == "it broke"
    assert found["npr"].is_slower(0.99)
    assert found["npr-int8"].factor == pytest.approx(1)  # its rivals are there


def test_what_one_file_does_not_have_is_left_out():
    assert list(changes(OLD, {"npr": 10.0, "eager": 50.0})) == ["npr"]
    assert changes(OLD, {"npr": 10.0, "eager": 50.0, "openvino": "out of time"})["npr"].rivals == ("eager",)
    assert list(changes(OLD | {"npr": "it broke"}, OLD)) == ["npr-int8"]


def test_nothing_in_common():
    other = results(OLD)
    for row in other["results"]:
        row["size"] = 64
    with pytest.raises(ValueError, match="nothing in common"):
        compare(results(OLD), other)
    with pytest.raises(ValueError, match="nothing in common"):
        compare(results({"npr": 1.0}), results({"npr": 1.0}))
