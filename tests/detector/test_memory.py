import platform
import subprocess
import sys

import pytest

# Fills and frees a buffer of 20480 pages 40 times; by default every one of them faults every time. It is larger than
# the arena that a thread has by default. The buffer comes from malloc itself: a tensor's is aligned, and what the
# allocator cuts off for that may go to others, so that a hole is too small for the next tensor a few times over.
_PROGRAM = """
import ctypes, resource, threading
from detector.memory import keep_freed_memory
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.free.argtypes = [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
{keep}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(40):
        buffer = c.malloc(20480 * 4096)
        c.memset(buffer, 1, 20480 * 4096)
        c.free(buffer)
{start}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(start: str, keep: str) -> int:
    program = _PROGRAM.format(start=start, keep=keep)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(
    "start",
    ["work()", "thread = threading.Thread(target=work); thread.start(); thread.join()"],
    ids=["main thread", "other thread"],
)
def test_freed_memory_is_used_again(start):
    assert faults(start, keep="keep_freed_memory()") < 3 * 20480
    assert faults(start, keep="pass") > 20 * 20480
