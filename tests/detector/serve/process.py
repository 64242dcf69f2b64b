"""`npr serve` as a process."""

import contextlib
import os
import re
import subprocess
import sys
import time

import httpx


@contextlib.contextmanager
def running(weights, *arguments, environment=()):
    """A service on a free port: the process and its address."""
    command = [sys.executable, "-m", "detector.cli", "serve", "--weights", str(weights), "--port", "0", *arguments]
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | paths | dict(environment)
    ) as process:
        try:
            line = process.stderr.readline()
            address = re.search(r"http://\S+", line)
            assert address, line
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address[0]}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            yield process, address[0]
        finally:
            process.kill()
