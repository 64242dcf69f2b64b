"""The kernels measured without torch: bench_kernels (csrc/bench), and NVIDIA's profiler on it where that is installed.

Each row is a process of its own, so there is no worker to replace; this one starts them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.gpu.journal import Row

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "bench_kernels"
OP, NCU = "bench_kernels", "ncu"


def rows(program: Path, ncu: str | None) -> list[Row]:
    """A row for each kernel, and one for the profile of each that has the residual npr, in bfloat16.

    Raises:
        OSError, subprocess.SubprocessError: the program is not there, or does not run.
    """
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    profiled = [name for name in listed if name.endswith("-bf16") or name == "moments"] if ncu else []
    measured = [Row("kernels", OP, name, "cuda", "") for name in sorted(listed, key=lambda name: "bf16" not in name)]
    return measured + [Row("kernels", NCU, name, NCU, "") for name in profiled]


def find_ncu() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(NCU, path=os.pathsep.join([os.environ.get("PATH", ""), f"{home}/bin"]))


def gpu_name() -> str:
    """As nvidia-smi tells it, which needs no torch."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "unknown GPU"
    return lines[0].strip() if lines else "unknown GPU"


class Programs:
    """See :class:`benchmarks.gpu.runner.Worker`.

    Args:
        program: bench_kernels.
        options: of each of its runs.
        ncu: the profiler.
        folder: where profiles go.
    """

    broken: str | None = None

    def __init__(self, program: Path, options: list[str], ncu: str | None, folder: Path) -> None:
        self._program, self._options, self._ncu, self._folder = program, options, ncu, folder

    def wait(self, timeout: float) -> None:
        pass

    def ask(self, request: str, value: Any, timeout: float) -> dict[str, Any]:
        row = Row(*value)
        try:
            return self._profile(row.work, timeout) if row.op == NCU else self._measure(row.work, timeout)
        except subprocess.TimeoutExpired:
            self.broken = "out of time"
            return {"error": self.broken}
        except OSError as error:
            return {"error": str(error)}

    def close(self) -> None:
        pass

    def _measure(self, name: str, timeout: float) -> dict[str, Any]:
        status, said, complaint = run([str(self._program), name, *self._options], timeout)
        try:
            outcome = json.loads(said.splitlines()[-1])
        except (IndexError, ValueError):
            return {"error": f"it ended with status {status}: {last_line(complaint or said)}"}
        return {key: value for key, value in outcome.items() if key != "work"}

    def _profile(self, name: str, timeout: float) -> dict[str, Any]:
        """The second launch of the kernel: the first one is of the small images."""
        assert self._ncu is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        report = self._folder / f"{name}.ncu-rep"
        kernels = f"regex:^{name.partition('-')[0].removesuffix('_codes')}_(kernel|channels)"
        command = [
            self._ncu, "--set", "full", "--clock-control", "none", "--kernel-name", kernels,
            "--launch-skip", "1", "--launch-count", "1", "--force-overwrite", "--export", str(report),
            str(self._program), name, *self._options, "--rounds", "1", "--calls", "1",
        ]  # fmt: skip
        status, said, complaint = run(command, timeout)
        if status != 0 or not report.exists():
            errors = [line for line in said.splitlines() if "ERROR" in line]
            return {"error": f"it ended with status {status}: {last_line(errors[0] if errors else complaint or said)}"}
        _, text, _ = run([self._ncu, "--import", str(report), "--page", "details"], timeout)
        report.with_suffix(".txt").write_text(text, encoding="utf-8")
        return {"said": f"{report.parent.name}/{report.name}"}


def run(command: list[str], timeout: float) -> tuple[int, str, str]:
    """Status, output and errors of a program, which is ended with all that it started when it is late.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        said, complaint = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, said, complaint


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
