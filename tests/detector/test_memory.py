import platform
import subprocess
import sys

import pytest

# Fills and frees a buffer of 20480 pages 40 times; by default every one of them faults every time. It is larger than
# the arena that a thread has by default.
_PROGRAM = """
import resource, threading, torch
from detector.memory import keep_freed_memory
keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(40):
        torch.empty(20480 * 4096, dtype=torch.uint8).fill_(1)
{start}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(
    "start",
    ["work()", "thread = threading.Thread(target=work); thread.start(); thread.join()"],
    ids=["main thread", "other thread"],
)
def test_freed_memory_is_used_again(start):
    program = _PROGRAM.format(start=start)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 20480
