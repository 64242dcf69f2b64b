"""The set of paths beside Python's own."""

from detector.scan.seen import Seen


def test_it_is_a_set(rng):
    seen, known = Seen(), set()
    for _ in range(60):
        paths = [f"folder/{number} é" for number in rng.integers(0, 3000, rng.integers(0, 200))]
        wanted = []
        for path in paths:
            wanted.append(path not in known)
            known.add(path)
        assert seen.add(paths).tolist() == wanted
        assert len(seen) == len(known)
    assert len(seen._runs) <= 12  # each more than twice the next: 2^12 > 3000
