"""What the launchers say when the CUDA runtime fails, and what they refuse: on the emulator, with planted failures."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tests import emulator
from tests.npr_kernels.implementations import Reference
from tests.npr_kernels.inputs import RESIDUALS, draw_images, draw_weight

SCALE = [0.01, 0.02, 0.03]


@pytest.fixture
def library() -> Iterator[ctypes.CDLL]:
    emulator.implementation()
    loaded = emulator.kernels()
    loaded.emulator_probe.restype = ctypes.c_char_p
    yield loaded
    plant(loaded, None)


def plant(library: ctypes.CDLL, call: str | None) -> None:
    """The runtime's next call of that name fails."""
    library.emulator_plant_failure(None if call is None else call.encode())


def stem(rng) -> tuple:
    images, weight = draw_images(rng, (1, 3, 12, 14)), draw_weight(rng, 8, 3)
    mean, var = torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    return images, None, weight, None, None, mean, var, 1e-5, SCALE, torch.float32, False, False


def test_a_failed_call_is_not_reported_twice(library, rng):
    """The stem asks for shared memory. What fails there is reported by that call, and not again by the next kernel."""
    plant(library, "cudaFuncSetAttribute")
    with pytest.raises(emulator.EmulatorError, match=r"^stem_forward_kernel: cudaFuncSetAttribute failed$"):
        emulator.stem(*stem(rng))
    arguments = draw_images(rng, (1, 3, 8, 8)), draw_weight(rng, 4, 3), None, SCALE, torch.float64, False, False
    torch.testing.assert_close(emulator.conv2d(*arguments), Reference.conv2d(*arguments))


@pytest.mark.parametrize("call", ["cudaGetDevice", "cudaDeviceGetAttribute"])
def test_a_device_that_does_not_answer(library, rng, call):
    """It is not taken for one of a single multiprocessor."""
    images = draw_images(rng, (1, 3, 8, 8))
    plant(library, call)
    with pytest.raises(emulator.EmulatorError, match=f"^{call}: {call} failed$"):
        emulator.patch_moments(images)
    assert torch.equal(emulator.patch_moments(images), Reference.patch_moments(images))


def test_the_probe_loads_a_kernel(library):
    assert library.emulator_probe() is None
    plant(library, "cudaFuncGetAttributes")
    assert library.emulator_probe() == b"cudaFuncGetAttributes: cudaFuncGetAttributes failed"
    assert library.emulator_probe() is None


# A kernel's fault that only waiting for it shows, in a process of its own, since the environment is read once.
_PROGRAM = """
import torch
from tests import emulator
library = emulator.kernels()
library.emulator_plant_failure(b"cudaStreamSynchronize")
try:
    emulator.patch_moments(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    print("nobody waited")
except emulator.EmulatorError as error:
    print(error)
"""


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("asked", "said"),
    [(None, "nobody waited"), ("0", "nobody waited"), ("1", "moments_kernel: cudaStreamSynchronize failed")],
)
def test_kernels_are_waited_for_when_asked(asked, said):
    environment = {name: value for name, value in os.environ.items() if name != "NPR_CUDA_SYNC"}
    if asked is not None:
        environment["NPR_CUDA_SYNC"] = asked
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr


# ---- Sizes ------------------------------------------------------------------------------------------------------


def said_of(library: ctypes.CDLL, operation: str, parameters: ctypes.Structure) -> tuple[int, str]:
    """Workspace and answer of an operation on memory that is not there, which it must refuse before it reads any."""
    library.emulator_clear()
    workspace = getattr(library, f"emulator_{operation}_workspace")
    workspace.restype = ctypes.c_int64
    launch = getattr(library, f"emulator_{operation}")
    launch.restype = ctypes.c_char_p
    size = workspace(ctypes.byref(parameters), 132)
    message = launch(ctypes.byref(parameters), 132, ctypes.c_void_p(None))
    return size, "" if message is None else message.decode()


def expanded(*shape: int) -> emulator.Images:
    """One image, again and again: no memory is too small for it."""
    return emulator.Images(None, (emulator.Size * 4)(*shape), (emulator.Size * 4)(0, shape[2] * shape[3], shape[3], 1))


def operations(images: emulator.Images, residual: str = "npr") -> dict[str, ctypes.Structure]:
    scale = ctypes.cast((ctypes.c_double * 6)(*[1] * 6), ctypes.c_void_p)
    reading = emulator.Reading(images, RESIDUALS.index(residual))
    grad = emulator.Gradient(None, 0, (emulator.Size * 4)(0, 0, 0, 0))
    common = {"reading": reading, "outputs": 8, "channel_scale": scale, "type": 0}
    return {
        "conv_forward": emulator.ConvForward(**common),
        "conv_backward": emulator.ConvBackward(**common, grad=grad),
        "moments": emulator.Moments(reading=reading),
        "stem_forward": emulator.StemForward(**common),
        "stem_backward": emulator.StemBackward(**common, grad=grad),
    }


@pytest.mark.parametrize("operation", operations(expanded(1, 3, 2, 2)))
@pytest.mark.parametrize(
    "shape", [(2**30 + 1, 3, 2, 2), (2**31 - 1, 3, 2, 2), (2**40, 3, 2, 2), (2**20, 3, 2**12, 2**12)],
    ids=str,
)  # fmt: skip
def test_more_tiles_than_can_be_counted_are_refused(library, operation, shape, residual):
    """Rather than overflow the loops' numbers; and the workspace asked for before is small."""
    size, said = said_of(library, operation, operations(expanded(*shape), residual)[operation])
    assert said == "tiling: the images have more than 2^30 tiles of outputs; split the batch"
    assert 0 <= size < 2**24


@pytest.mark.parametrize("operation", operations(expanded(1, 3, 2, 2)))
@pytest.mark.parametrize(
    "shape", [(1, 3, 2, 2**29 + 2), (1, 3, 2**29 + 2, 2), (1, 3, 2**33, 2), (1, 3, 2, 2**40)], ids=str
)
def test_images_whose_rows_have_more_bytes_than_an_int_counts_are_refused(library, operation, shape, residual):
    size, said = said_of(library, operation, operations(expanded(*shape), residual)[operation])
    assert said == "tiling: the images have more than 2^28 rows or columns of outputs"
    assert 0 <= size < 2**24


@pytest.mark.parametrize(("residual", "most"), list(zip(RESIDUALS, (8191, 7281, 3854), strict=True)))
def test_moments_of_more_channels_than_a_grid_has_blocks(library, residual, most):
    moments = operations(expanded(1, most + 1, 2, 2), residual)["moments"]
    assert said_of(library, "moments", moments)[1] == f"moments: images have more than {most} channels"
