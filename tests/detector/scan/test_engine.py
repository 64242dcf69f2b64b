"""Which actor gets which block, when actors die and when there is no room for one. The actors here only pretend."""

import os
import signal
from collections import Counter

import pytest

from tests.detector.scan.packages import needed

ray, engine = needed("ray", "detector.scan.engine")

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("ray_here")]


class Actor:
    """Dies over a block as often as the block says; each time it has it, the file of its name grows by a byte."""

    def __init__(self, folder):
        self._folder = folder

    def ready(self):
        pass

    def score(self, block):
        name, deaths = block.decode().split()
        with open(self._folder / name, "ab") as file:
            file.write(b".")
        if (self._folder / name).stat().st_size <= int(deaths):
            os.kill(os.getpid(), signal.SIGKILL)
        return Counter({name: 1})


class Stillborn(Actor):
    def ready(self):
        (self._folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def working(tmp_path):
    """Has so many actors of a kind begin, each with so many cores."""
    begun = []

    def make(actors, *cores, kind=Actor):
        left = list(cores)
        work = engine._Work(
            lambda: ray.remote(num_cpus=left.pop(0) if left else 1)(kind).remote(tmp_path), look=lambda: None
        )
        begun.append(work)
        work.start(actors)
        return work

    yield make
    for work in begun:
        work.end()


def test_each_block_is_counted_once_whoever_dies_over_it(working, tmp_path, rng):
    """As often as a block may be begun again, all deaths together: it may have shared the actor each time."""
    deaths = [*[0] * 20, 1, engine._TRIES - 1]
    rng.shuffle(deaths)
    drawn, counts = [], Counter()
    blocks = (drawn.append(number) or f"{number} {count}".encode() for number, count in enumerate(deaths))
    for found in working(2).done(blocks):
        counts += found
        assert len(drawn) <= counts.total() + 2 * engine._PLACES
    assert counts == {str(number): 1 for number in range(len(deaths))}
    for number, count in enumerate(deaths):
        assert (tmp_path / str(number)).stat().st_size >= count + 1


def test_a_block_that_kills_whoever_has_it_is_an_error(working, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_TRIES", 1)
    with pytest.raises(ray.exceptions.RayActorError) as raised:
        list(working(1).done([f"0 {engine._TRIES + 1}".encode()]))
    assert (tmp_path / "0").stat().st_size == engine._TRIES + 1
    assert "actors died over the same files or as they started" in str(engine._cause(raised.value))


def test_actors_that_die_as_they_start_are_an_error(working, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_TRIES", 1)
    with pytest.raises(ray.exceptions.RayActorError):
        list(working(1, kind=Stillborn).done([b"0 0"]))
    assert len(list(tmp_path.iterdir())) == engine._TRIES + 1


def test_an_actor_that_ray_kills_for_its_memory_has_died(working, tmp_path, monkeypatch):
    """Of which Ray tells by another name; here it does of an actor that is well."""
    get, told = ray.get, []

    def killed(reference):
        value = get(reference)
        if isinstance(value, Counter) and not told:
            told.append(value)
            raise ray.exceptions.OutOfMemoryError("no memory")
        return value

    monkeypatch.setattr(ray, "get", killed)
    counts = sum(working(2).done(f"{number} 0".encode() for number in range(5)), Counter())
    assert counts == {str(number): 1 for number in range(5)}
    (name,) = told[0]
    assert (tmp_path / name).stat().st_size == 2


def test_what_the_machines_lack_is_said_at_once(working, tmp_path, monkeypatch):
    """Workers import the actor; its module is here and not in their paths."""
    (tmp_path / "only_here.py").write_text(
        "class Actor:\n    def __init__(self, folder): ...\n    def ready(self): ..."
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(engine, "_TRIES", 10**9)
    from only_here import Actor as Elsewhere

    with pytest.raises(ray.exceptions.RayActorError) as raised:
        list(working(1, kind=Elsewhere).done([b"0 0"]))
    said = str(engine._cause(raised.value))
    assert "no actor starts there (ModuleNotFoundError: No module named 'only_here')" in said
    assert said.endswith("each machine of the cluster needs npr-kernels[scan]")


def test_nothing_waits_for_an_actor_without_room(working):
    blocks = [f"{number} 0".encode() for number in range(9)]
    assert len(list(working(2, 1, 1000).done(blocks))) == len(blocks)
    assert list(working(1, 1000).done([])) == []
