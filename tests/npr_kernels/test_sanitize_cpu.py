"""make sanitize's own parts, without the build, which takes minutes."""

import shutil
import subprocess

import pytest

from tests.npr_kernels import sanitize_cpu


def test_the_planted_overflow_is_found(tmp_path, monkeypatch):
    if shutil.which(sanitize_cpu.compiler()[0]) is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(sanitize_cpu, "BUILD", tmp_path)
    try:
        said = sanitize_cpu.plant()
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no AddressSanitizer")
    assert sanitize_cpu.FOUND in said


@pytest.mark.parametrize("content", [b"", b"__asan_init"])
def test_a_library_that_is_not_watched_is_refused(content, tmp_path, monkeypatch):
    (tmp_path / "npr_kernels").mkdir()
    library = tmp_path / "npr_kernels" / "libnpr_kernels.so"
    monkeypatch.setattr(sanitize_cpu, "PACKAGES", tmp_path)
    library.write_bytes(content)
    with pytest.raises(SystemExit, match="is not watched"):
        sanitize_cpu.check_watched()
    library.write_bytes(b"\0__asan_report_load4\0")
    sanitize_cpu.check_watched()
