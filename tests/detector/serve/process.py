"""`npr serve` as a process."""

import contextlib
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

from tests.detector.serve.waiting import wait_for


def is_ready(address):
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=60) as answer:
            return answer.status == 200
    except urllib.error.URLError:  # the socket is there before it is served; or status 503
        return False


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
            wait_for(lambda: is_ready(address[0]))
            yield process, address[0]
        finally:
            process.kill()
