"""AOTInductor: the plain network compiled by torch to machine code, in a .pt2 archive that torch runs.

Loading one runs the code in it, so an archive is to be trusted like a program; what it says of itself is read without.
The code is made for this machine's processor. torch calls these functions its own affair, not a stable interface.
"""

from __future__ import annotations

import json
import platform
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from detector.export.errors import ExportError, damaged
from detector.export.network import PlainNetwork
from detector.files import whole_file
from detector.models.folding import PlainDetector

_MACHINE = "machine"  # what the code was compiled for
_MOST_METADATA = 2**24  # bytes


def write(detector: PlainDetector, metadata: Mapping[str, str], target: Path) -> None:
    """Compiles the detector, which takes a minute and a C++ compiler, and writes the archive.

    Raises:
        ExportError: it cannot be compiled. OSError: the file cannot be written.
    """
    from torch._inductor import aoti_compile_and_package

    network = PlainNetwork(detector).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)  # an example: batch, height and width are free
    free = torch.export.Dim.DYNAMIC
    options = {
        "freezing": True,  # weights in the layout that the convolutions want
        "cpp.dynamic_threads": True,  # as many threads as torch has when the code runs
        "aot_inductor.metadata": {**metadata, _MACHINE: _this_machine()},
    }
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's on its own parts
        archive = Path(folder, "model.pt2")
        try:
            with torch.no_grad():
                program = torch.export.export(network, (images,), dynamic_shapes=({0: free, 2: free, 3: free},))
                aoti_compile_and_package(program, package_path=str(archive), inductor_configs=options)
        except Exception as error:  # of a compiler that is missing or fails, and of torch's own limits
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"AOTInductor could not compile the detector ({lines[0]})") from error
        with whole_file(target) as part:
            shutil.copyfile(archive, part)


def read_metadata(path: Path) -> dict[str, str]:
    """What the archive says of itself, without running anything of it; empty for foreign archives.

    Raises:
        ExportError: the archive is damaged, or was compiled for another machine.
    """
    with damaged(path, "torch"), zipfile.ZipFile(path) as archive:
        strings = _find_metadata(archive)
    compiled_for = strings.pop(_MACHINE, None)
    if compiled_for is not None and compiled_for != _this_machine():
        raise ExportError(
            f"{path}: compiled for {compiled_for}, and this is {_this_machine()}: export the checkpoint here"
        )
    return strings


def _find_metadata(archive: zipfile.ZipFile) -> dict[str, str]:
    """What torch wrote of `aot_inductor.metadata`, beside facts of its own: a JSON object for each source file."""
    for entry in archive.infolist():
        if entry.filename.endswith("_metadata.json") and entry.file_size <= _MOST_METADATA:
            strings = json.loads(archive.read(entry))
            if "format_version" in strings:
                return {name: value for name, value in strings.items() if not name.startswith("AOTI_")}
    return {}


class Engine:
    """torch, running the compiled code on the CPU.

    Args:
        threads: how many it uses; None for torch's setting.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        from torch._inductor import aoti_load_package

        with damaged(path, "torch"):
            self._model = aoti_load_package(str(path))
        self._threads = threads

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, 3, H, W], contiguous -> logits and scores, float32 [N, 1]."""
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                logits, scores = self._model(torch.from_numpy(images))
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)
        return logits.numpy(), scores.numpy()


def _this_machine() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()} on {platform.machine()}"
