"""`python -m benchmarks.periodicity`: the coherence of detail by the native op, its reference and that compiled.

Each path of the processor, on one thread and one image, in turns; medians. The floors are the least that any pass can
take: the image's bytes over the measured bandwidth of reading, and the operations of float vectors that the header of
csrc/cpu/periodicity.cpp counts over the measured peak of multiply-adds, one each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from detector.bench import floors, machine, timing
from npr_kernels import periodicity
from npr_kernels.backends import native

SIZES = ((256, 256), (1024, 1024), (3000, 4000))
OPERATIONS = 20
"""Of a position, for each channel, difference and scale: the logarithm, the transform and the sums."""

_TOGETHER = 1024 * 1024  # pixels; torch.compile is not tried on more, for which it takes too long
_MEGABYTES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    args = parser.parse_args()
    if native.extension is None:
        raise SystemExit(f"benchmarks.periodicity: {native.unavailable_reason('cpu')}")
    torch.set_num_threads(1)
    print(f"{machine.cpu_name()}, one thread")
    bandwidth, peak = read_bandwidth(), floors.multiply_add_peak(1)
    for height, width in SIZES:
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        found = measure(calls(image), args.seconds, args.rounds)
        print(f"\n{height}x{width}: {'ms':>30} {'reference / it':>15}")
        for name, seconds in found.items():
            print(f"  {name:34} {1e3 * seconds:10.3f} {found['reference'] / seconds:12.1f}")
        print(f"  {'floor: bytes read':34} {1e3 * image.numel() / bandwidth:10.3f}")
        if peak:
            print(f"  {'floor: operations':34} {1e3 * operations(height, width) / peak:10.3f}")


def calls(image: Tensor) -> dict[str, Callable[[], Tensor]]:
    assert native.extension is not None
    native_extension = native.extension
    last = image.contiguous(memory_format=torch.channels_last)

    def on(path: str, images: Tensor) -> Callable[[], Tensor]:
        def call() -> Tensor:
            native_extension.select_instruction_set(path)
            return periodicity.coherence(images)

        return call

    paths = [path for path in native_extension.instruction_sets() if path != "avx512vnni"]  # the same as avx512
    found = {path: on(path, image) for path in paths}
    found[f"{paths[-1]}, channels_last"] = on(paths[-1], last)
    found["reference"] = lambda: periodicity.reference(image)
    if image[0, 0].numel() <= _TOGETHER:
        compiled = torch.compile(periodicity.reference, dynamic=False)
        found["torch.compile of the reference"] = lambda: compiled(image)
    return found


def measure(works: dict[str, Callable[[], Tensor]], seconds: float, rounds: int) -> dict[str, float]:
    """Median seconds by name."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # compiles
    for _ in range(rounds):
        for name, work in works.items():
            times[name] += timing.turn(work, seconds)
    return {name: statistics.median(each) for name, each in times.items()}


def operations(height: int, width: int) -> int:
    positions = periodicity.blocks_of(height, width) * periodicity.BLOCK**2
    channels, scales = periodicity.SHAPE[2], len(periodicity.SCALES)
    return positions * channels * len(periodicity.DIFFERENCES) * scales * OPERATIONS


def read_bandwidth() -> float:
    """Bytes a second of a sum over memory far larger than any cache."""
    memory = torch.ones(_MEGABYTES << 17, dtype=torch.int64)
    return memory.nbytes / min(timing.turn(memory.sum, 1.0))


if __name__ == "__main__":
    main()
