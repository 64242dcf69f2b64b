"""The emulator finds what is wrong with a kernel, and nothing wrong with a sound one."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from tests import emulator

if emulator.compiler() is None:
    pytest.skip("the emulator needs a C++ compiler", allow_module_level=True)

BLOCKS, THREADS = 3, 64

# Which of the two accesses comes second depends on the order in which the emulator lets threads run.
RACE = r"race: (reads|writes) byte \d+ of shared memory that (thread \d+|other threads) (wrote|read) without a barrier"


@pytest.fixture(scope="module")
def library():
    here = Path(__file__).parent
    kernels = [here / "planted.cu", emulator.ROOT / "csrc" / "cuda" / "device.cu"]
    return emulator.build(kernels, emulator.HERE / "buffers.cpp")


def run(library: ctypes.CDLL, name: str) -> tuple[np.ndarray, np.ndarray, str | None, int]:
    """in, out, the error, and the first byte of out that was never written."""
    numbers = np.random.default_rng().standard_normal(BLOCKS * THREADS + 4).astype(np.float32)
    numbers = numbers[numbers.ctypes.data % 16 // 4 :][: BLOCKS * THREADS]
    out = np.zeros_like(numbers)
    library.emulator_clear()
    for array, output in ((numbers, False), (out, True)):
        library.emulator_add_buffer(
            ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_bool(output)
        )
    library.run_planted.restype = ctypes.c_char_p
    library.emulator_missing_store.restype = ctypes.c_ssize_t
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (numbers, out)]
    error = library.run_planted(name.encode(), *pointers, BLOCKS)
    missing = library.emulator_missing_store(pointers[1])
    return numbers, out, None if error is None else emulator.locate(error.decode(), library), missing


@pytest.mark.parametrize("name", ["sound", "within_a_warp", "shuffle", "asynchronous_copy", "multiply_bytes"])
def test_sound_kernels_pass(library, name):
    numbers, out, error, missing = run(library, name)
    assert error is None
    assert missing == -1
    np.testing.assert_array_equal(out.reshape(BLOCKS, THREADS), numbers.reshape(BLOCKS, THREADS)[:, ::-1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("read_after_write_race", RACE),
        ("write_after_read_race", RACE),
        ("write_after_write_race", RACE),
        ("race_within_a_warp", RACE),
        ("race_of_blocks", r"race: writes byte 0 of a buffer that block 0 wrote"),
        ("out_of_bounds_read", r"block \(2, 0\), thread 0: out of bounds: reads 4 bytes"),
        ("out_of_bounds_write", r"block \(0, 0\), thread 0: out of bounds: writes 4 bytes"),
        ("write_to_input", r"writes 4 bytes to an input"),
        ("uninitialised_read", r"thread 46: uninitialised: reads byte \d+ of shared memory"),
        ("read_of_output", r"uninitialised: reads byte 0 of a buffer"),
        ("divergent_barrier", r"divergence: 40 of 64 threads wait at a barrier that the others do not reach"),
        ("two_barriers", r"divergence: waits at the barrier of line \d+ while others wait at the one of line \d+"),
        ("divergent_multiply", r"divergence: 40 of 64 threads wait at a warp-wide operation"),
        ("divergent_shuffle", r"divergence: 40 of 64 threads wait at a warp-wide operation"),
        ("unawaited_copy", r"reads byte \d+ of shared memory before the asynchronous copy to it was waited for"),
        ("misaligned", r"misaligned: reads 16 bytes"),
    ],
)
def test_planted_faults_are_found(library, name, message):
    _, _, error, _ = run(library, name)
    assert error is not None
    assert re.search(message, error), error


def test_products_of_bytes_are_exact(library, rng):
    """Of any bytes, the largest too, added to any sums, past whose end they wrap around."""
    left, right = rng.integers(0, 256, (16, 32), dtype=np.uint8), rng.integers(0, 256, (8, 32), dtype=np.uint8)
    left[3], right[5] = 255, 255
    start = rng.integers(-(2**31), 2**31, (16, 8), dtype=np.int64).astype(np.int32)
    start[3, 5] = 2**31 - 1
    sums = np.zeros_like(start)
    arrays = left, right, start, sums
    library.emulator_clear()
    for array in arrays:
        library.emulator_add_buffer(
            ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), ctypes.c_bool(array is sums)
        )
    library.run_product.restype = ctypes.c_char_p
    assert library.run_product(*[ctypes.c_void_p(array.ctypes.data) for array in arrays]) is None
    truth = start.astype(np.int64) + left.astype(np.int64) @ right.T.astype(np.int64)
    np.testing.assert_array_equal(sums, truth.astype(np.int32))


def test_a_missing_store_is_found(library):
    _, _, error, missing = run(library, "missing_store")
    assert error is None
    assert missing == 4 * 17


def test_an_error_names_the_line(library):
    _, _, error, _ = run(library, "read_after_write_race")
    assert "planted.cu:" in error or "[+0x" in error
