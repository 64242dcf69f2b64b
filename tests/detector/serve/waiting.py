"""Waiting for what another thread does."""

import time


def wait_for(condition):
    """Returns when the condition holds; fails after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
