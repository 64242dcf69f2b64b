"""`npr serve` under four times the requests that it can answer: what it answers, how late, and how large it grows.

    python -m benchmarks.serve [--seconds 120] [--times 4] [-- ARGUMENTS OF NPR SERVE]

Starts the service on a free port, measures what it answers when few ask without a pause, then sends that many times
`--times` at even distances, whether or not answers come. Prints statuses, latencies of what was answered, and the
service's memory at ten moments. Exit status 1 where anything but 200 and 429 came, or an answer after the time-out.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import subprocess
import sys
import time
from collections import Counter

import httpx
import numpy as np
from PIL import Image

TIMEOUT = 10.0
"""Seconds to an answer that the service is given, and held to."""

_SIDES = (192, 256, 256, 320)
_MEASURED_SECONDS = 15.0
_SIDE_BY_SIDE = 4


def files(rng: np.random.Generator) -> list[bytes]:
    """JPEGs of a few sizes."""
    found = []
    for side in _SIDES:
        small = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def memory_of(pid: int) -> float:
    """Resident megabytes; NaN where the system does not tell."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024  # type: ignore[index]
    except OSError:
        return float("nan")


class Load:
    """Requests and what came of them."""

    def __init__(self, client: httpx.AsyncClient, pictures: list[bytes]) -> None:
        self._client, self._pictures = client, pictures
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []

    async def ask(self, number: int) -> None:
        begun = time.perf_counter()
        try:
            data = self._pictures[number % len(self._pictures)]
            answer = await self._client.post("/v1/detect", files=[("files", (f"{number}.jpg", data))])
            status = str(answer.status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        self.statuses[status] += 1
        if status == "200":
            self.latencies.append(time.perf_counter() - begun)


async def capacity(load: Load) -> float:
    """Files a second that are answered when a few ask without a pause."""
    end = time.perf_counter() + _MEASURED_SECONDS

    async def one(first: int) -> int:
        count = 0
        while time.perf_counter() < end:
            await load.ask(first + count)
            count += 1
        return count

    return sum(await asyncio.gather(*map(one, range(_SIDE_BY_SIDE)))) / _MEASURED_SECONDS


async def press(load: Load, rate: float, seconds: float, pid: int) -> list[float]:
    """Sends so many a second; returns the memory at ten moments."""
    tasks, memory = set(), []
    begun, total = time.perf_counter(), int(rate * seconds)
    for number in range(total):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        if number % max(1, total // 10) == 0:
            memory.append(memory_of(pid))
        task = asyncio.ensure_future(load.ask(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return [*memory, memory_of(pid)]


async def run(address: str, pid: int, seconds: float, times: float) -> int:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=5)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=4 * TIMEOUT) as client:
        pictures = files(np.random.default_rng())
        alone = Load(client, pictures)
        rate = await capacity(alone)
        print(f"capacity {rate:.1f} files/s, median {1000 * float(np.median(alone.latencies)):.0f} ms")
        load = Load(client, pictures)
        memory = await press(load, times * rate, seconds, pid)
    answered = load.latencies
    print(f"asked {times * rate:.1f} a second for {seconds:g} s: {dict(load.statuses.most_common())}")
    print(f"answered {len(answered) / seconds:.1f} files/s")
    late = [f"p{share} {np.percentile(answered, share):.2f}" for share in (50, 90, 99, 100)]
    print(f"seconds to an answer: {', '.join(late)}; the limit is {TIMEOUT:g}")
    print(f"resident MB: {' '.join(f'{value:.0f}' for value in memory)}")
    return int(not set(load.statuses) <= {"200", "429"} or float(np.percentile(answered, 99)) > TIMEOUT)


def main() -> int:
    parser = argparse.ArgumentParser(description="npr serve under more requests than it can answer")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--times", type=float, default=4.0, help="what the service can answer")
    parser.add_argument("serve", nargs="*", help="arguments of npr serve, after --")
    args = parser.parse_args()
    command = [sys.executable, "-m", "detector.cli", "serve", "--port", "0", "--timeout", str(TIMEOUT), *args.serve]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as service:
        try:
            assert service.stderr is not None
            found = re.search(r"http://\S+", service.stderr.readline())
            if found is None:
                raise SystemExit("the service did not start")
            while True:
                try:
                    if httpx.get(f"{found[0]}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            return asyncio.run(run(found[0], service.pid, args.seconds, args.times))
        finally:
            service.terminate()
            print(f"exit status of the service: {service.wait(60)}")


if __name__ == "__main__":
    sys.exit(main())
