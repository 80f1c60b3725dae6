"""Where acknowledgments begin to queue in an open loop, and how long they take at 60 % of that: with the model at rest, at work,
and killed in the middle of it.

knee.py REQUESTS.tsv SECONDS ROUNDS: signed webhooks for the source `bench`. SENTINEL_… settings are in the environment.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import attrs
import trio

from sentinel.chaos.platform import open_platform

PATH = "/webhooks/whatsapp/bench"
FIRST_RATE, STEP, STEP_SECONDS, TRIES = 400.0, 1.25, 4.0, 3
P99_MS_MAX, KEPT_UP = 100.0, 0.97  # beyond the knee the p99 takes off, or fewer are acknowledged than sent
SHARE, CONNECTIONS, WARM_SECONDS = 0.6, 200, 8.0
SENTINEL = (sys.executable, "-m", "sentinel")
BUCKET = re.compile(r'sentinel_loop_lag_seconds_bucket{.*le="([^"]+)"} (\d+)')


@attrs.frozen
class Seen:
    """What one load came to; milliseconds."""

    acks: float
    p50: float
    p99: float
    most: float
    refused: int
    errors: int
    count: int
    p999: float
    sender_late: float


@attrs.define
class Bench:
    """The gateway at `url`, and how many of the webhooks were sent already."""

    url: str
    requests: str
    used: int = 0

    async def load(self, rate: float, seconds: float) -> Seen:
        """Send for so long."""
        command = [sys.executable, str(Path(__file__).with_name("open_loop.py")), self.url, self.requests, PATH]
        numbers = (rate, seconds, CONNECTIONS, self.used)
        done = await trio.run_process([*command, *map(str, numbers)], capture_stdout=True)
        self.used += round(rate * seconds)
        words = done.stdout.decode().split()
        return Seen(*map(float, words[:4]), *map(int, words[4:7]), *map(float, words[7:]))  # type: ignore[arg-type]

    async def knee(self) -> float:
        """The highest rate, of steps of a quarter, that is kept up with; each may be tried again, since others use the machine."""
        rate, best = FIRST_RATE, 0.0
        while True:
            for _ in range(TRIES):
                seen = await self.load(rate, STEP_SECONDS)
                good = seen.p99 <= P99_MS_MAX and seen.count >= KEPT_UP * rate * STEP_SECONDS
                words = f"{seen.refused} refused, the sender {seen.sender_late:.1f} ms late"
                print(f"{rate:8.0f} /s: p99 {seen.p99:8.1f} ms, {words}", flush=True)
                if good:
                    break
            else:
                return best
            best, rate = rate, rate * STEP

    def lags(self) -> dict[float, int]:
        """How often the event loop was late by no more than so many seconds."""
        with urlopen(f"{self.url}/metrics") as answer:  # noqa: S310  our own
            text = answer.read().decode()
        found: dict[float, int] = {}
        for bound, count in BUCKET.findall(text):
            found[float(bound)] = found.get(float(bound), 0) + int(count)
        return found


def lag_p99(before: Mapping[float, int], after: Mapping[float, int]) -> float:
    """The bound under which 99 % of what came in between lies, in ms."""
    new = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    return next(bound for bound, count in new.items() if count >= 0.99 * max(new.values())) * 1000


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[trio.Process]:
    """A `sentinel` command until the block is left."""
    process = await trio.lowlevel.open_process([*SENTINEL, *arguments], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with trio.CancelScope(shield=True):
            await process.wait()


async def side(bench: Bench, name: str, rate: float, seconds: float, worker: trio.Process | None) -> None:
    """One load and its line."""
    before, began, used = bench.lags(), time.monotonic(), cpu_seconds(worker.pid) if worker else 0.0
    seen = await bench.load(rate, seconds)
    cores = (cpu_seconds(worker.pid) - used) / (time.monotonic() - began) if worker else 0.0
    if worker and worker.poll() is not None:
        sys.exit(f"The worker has ended with {worker.returncode}.")
    columns = (seen.acks, seen.p50, seen.p99, seen.p999, seen.most, seen.refused, seen.errors, lag_p99(before, bench.lags()))
    print(f"{name:8}", *(f"{value:8.1f}" for value in (*columns, cores, seen.sender_late)), flush=True)


async def crash(worker: trio.Process, after_seconds: float) -> None:
    """Kill the worker as a fault in the model's library does, and have another one until cancelled."""
    await trio.sleep(after_seconds)
    worker.send_signal(signal.SIGSEGV)
    async with running("worker"):
        await trio.sleep_forever()


async def main(requests: str, seconds: float, rounds: int) -> None:
    """Print what docs/benchmarks.md has."""
    bind = os.environ["SENTINEL_BIND"]
    bench = Bench(f"http://{bind}", requests)
    journal = Path(requests).with_name("arrivals.jsonl")
    async with open_platform(journal, time.monotonic()) as platform:
        values = ("app_secret=s3cret", f"api_base={platform.url}/bench", "access_token=x", "phone_number_id=106540352242922")
        options = [word for value in values for word in ("--set", value)]
        await trio.run_process([*SENTINEL, "sources", "add", "bench", "--channel", "whatsapp", *options], capture_stdout=True)
        async with running("serve"):
            await trio.sleep(4)
            knee = await bench.knee()
            rate = SHARE * knee
            print(f"knee: {knee:.0f} /s; at {SHARE:.0%} of it, {rate:.0f} /s:")
            names = ("acks/s", "p50 ms", "p99 ms", "p99.9", "max ms", "refused", "errors", "lag p99", "worker", "sender")
            print(f"{'model':8}", *(f"{name:>8}" for name in names))
            for _ in range(rounds):
                await side(bench, "at rest", rate, seconds, None)
                async with running("worker") as worker:
                    await trio.sleep(WARM_SECONDS)
                    await side(bench, "at work", rate, seconds, worker)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(crash, worker, seconds / 2)
                        await side(bench, "killed", rate, seconds, None)
                        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
