"""
Runs the sides in turn on one private PostgreSQL and one private Redis, and prints the table.

`run.py ROUNDS SAMPLES PEERS [SIDE…]`; PEERS is the folder of their environments.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import psycopg
import redis
from common import Tally
from sides import SIDES, Side

from sentinel.chaos.servers import PostgresServer, RedisServer, new_postgres, new_redis

FOLDER = Path(__file__).parent
DRAIN_SECONDS_MAX = 120.0
COLUMNS = ("enqueue", "drain1", "drain2", "p50", "p99", "wal")
# One checkpoint at the beginning of each side's turn and none later; all else as PostgreSQL comes: fsync and synchronous_commit on.
POSTGRES = {"max_wal_size": "8GB", "checkpoint_timeout": "30min", "fsync": "on", "synchronous_commit": "on"}
REDIS = {"appendonly": "yes", "appendfsync": "everysec"}


class _Failed(Exception):
    """A side did not do what it should; the others go on."""


class Turn:
    """One side's turn of one round, in a database of its own."""

    def __init__(self, side: Side, peers: Path, postgres: PostgresServer, dispatch: RedisServer, tally: Path) -> None:
        self.side, self.tally, self.path = side, Tally(str(tally)), str(tally)
        self.redis = redis.Redis.from_url(dispatch.url)
        self.redis.flushall()
        self.admin = psycopg.connect(postgres.url, autocommit=True)
        self.admin.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        self.admin.execute("CREATE DATABASE bench")
        self.database = psycopg.connect(postgres.database("bench"), autocommit=True)
        self.url = dispatch.url if side.store == "redis" else postgres.database("bench")
        self.options = [dispatch.url if option == "REDIS" else option for option in side.options]
        folder = {"sentinel": Path(sys.executable).parents[1], "saq": peers / "saq"}.get(side.python, peers / "peers")
        self.python = str(folder / "bin" / "python")

    def run(self, samples: int) -> dict[str, float]:
        """All phases; the figures by the names of the columns."""
        self._phase("setup", 0)
        self.admin.execute("CHECKPOINT")
        result: dict[str, float] = {}
        before = self._wal()
        result["enqueue"] = self.side.jobs / float(self._phase("enqueue", self.side.jobs))
        written = self._wal() - before
        self.database.execute("ANALYZE")
        before = self._wal()
        result["drain1"] = self._drain(1)
        if self.side.store != "redis":
            result["wal"] = (written + self._wal() - before) / self.side.jobs
        self._phase("enqueue", self.side.jobs)
        self.database.execute("ANALYZE")
        result["drain2"] = self._drain(2)
        with self._workers(1):
            time.sleep(0.5)
            self._phase("pickup", samples)
            picked = sorted(1e3 * seconds for seconds in self.tally.pickups)
        result["p50"], result["p99"] = median(picked), quantiles(picked, n=100)[98]
        self.database.close()
        self.admin.close()
        return result

    def _drain(self, workers: int) -> float:
        """Jobs a second from the first handler's start until all are acknowledged."""
        with self._workers(workers) as processes:
            deadline = time.monotonic() + DRAIN_SECONDS_MAX
            while self.tally.begun < self.side.jobs or self._left():
                if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                    raise _Failed(f"{self.tally.begun} jobs begun, {self._left()} left; a worker ended or hangs")
                time.sleep(0.01)
            seconds = time.monotonic() - self.tally.first
        if self.tally.begun != self.side.jobs:
            print(f"{self.side.name}: {self.tally.begun} jobs begun instead of {self.side.jobs}", file=sys.stderr)
        return self.side.jobs / seconds

    def _left(self) -> int:
        if self.side.store == "redis":
            return int(self.redis.eval(self.side.left, 0))
        return int(self.database.execute(self.side.left).fetchone()[0])

    def _wal(self) -> int:
        return int(self.admin.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])

    @contextlib.contextmanager
    def _workers(self, count: int) -> Iterator[list[subprocess.Popen[str]]]:
        """Workers that wait at the gate until all are ready; killed at the end, with nothing left to do."""
        self.tally.clear()
        pipe = subprocess.PIPE
        processes = [subprocess.Popen(self._command("work", number), stdin=pipe, stdout=pipe, text=True) for number in range(count)]
        try:
            for process in processes:
                if process.stdout.readline().strip() != "ready":
                    raise _Failed("a worker did not start")
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()

    def _phase(self, phase: str, number: int) -> str:
        return subprocess.run(self._command(phase, number), check=True, stdout=subprocess.PIPE, text=True).stdout

    def _command(self, phase: str, number: int) -> list[str]:
        return [self.python, str(FOLDER / self.side.file), phase, self.url, self.path, str(number), *self.options]


def measure(rounds: int, samples: int, peers: Path, sides: list[Side]) -> dict[Side, list[dict[str, float]]]:
    """Every side once a round, in turn."""
    results: dict[Side, list[dict[str, float]]] = defaultdict(list)
    postgres, dispatch = new_postgres(**POSTGRES), new_redis(**REDIS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            postgres.start()
            dispatch.start()
            for number in range(1, rounds + 1):
                for side in sides:
                    spin = _spin()
                    try:
                        result = Turn(side, peers, postgres, dispatch, Path(folder) / "tally").run(samples) | {"spin": spin}
                    except (_Failed, subprocess.CalledProcessError) as error:
                        print(f"round {number}  {side.store:8} {side.name:22} failed: {error}", file=sys.stderr, flush=True)
                        continue
                    results[side].append(result)
                    words = "  ".join(f"{name} {result.get(name, 0):,.1f}" for name in (*COLUMNS, "spin"))
                    print(f"round {number}  {side.store:8} {side.name:22} {words}", file=sys.stderr, flush=True)
        finally:
            postgres.remove()
            dispatch.remove()
    return results


def _spin() -> float:
    """Milliseconds of a loop that is always the same: how busy the machine is otherwise."""
    began = time.monotonic()
    for _ in range(3_000_000):
        pass
    return 1e3 * (time.monotonic() - began)


def table(results: dict[Side, list[dict[str, float]]], began: float) -> None:
    """The medians with the lowest and the highest, as Markdown; then what to know to read them."""
    print("| side | store | enqueue /s | 1 worker /s | 2 workers /s | pickup p50 ms | p99 ms | WAL B/job |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for side, rounds in results.items():
        cells = [_cell([turn[name] for turn in rounds if name in turn], 1 if name in ("p50", "p99") else 0) for name in COLUMNS]
        print(f"| {side.name} | {side.store} | {' | '.join(cells)} |")
    for store, own in (("postgres", "postgres"), ("redis", "both")):
        _against(results, store, own)
    spins = [turn["spin"] for rounds in results.values() for turn in rounds]
    count, minutes = len(next(iter(results.values()))), (time.monotonic() - began) / 60
    print(f"\nMedian of {count} rounds in turn (lowest–highest); {minutes:.0f} minutes; Python {platform.python_version()}.")
    print(
        f"The same loop took {min(spins):.0f}–{max(spins):.0f} ms before a turn, median {median(spins):.0f}: the machine's noise."
    )
    print("\nSettings:")
    for side in results:
        print(f"- {side.name} ({side.store}; {side.jobs:,} jobs): {side.settings}")


def _against(results: dict[Side, list[dict[str, float]]], store: str, own: str) -> None:
    peers = {side: rounds for side, rounds in results.items() if side.store == store and side.python != "sentinel"}
    ours = {side: rounds for side, rounds in results.items() if side.store == own and side.python == "sentinel"}
    for drain, words in (("drain1", "one worker"), ("drain2", "two workers")):
        for side, rounds in ours.items():
            if peers:
                best = max(peers, key=lambda peer: median(turn[drain] for turn in peers[peer]))
                ratio = median(turn[drain] for turn in rounds) / median(turn[drain] for turn in peers[best])
                print(f"\n{side.name} ({own}) with {words}: {ratio:.2f} of {best.name}, the best {store} peer.", end="")
    print()


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle


def main(arguments: list[str]) -> None:
    rounds, samples, peers, *names = arguments
    sides = [side for side in SIDES if not names or f"{side.store} {side.name}".startswith(tuple(names))]
    began = time.monotonic()
    table(measure(int(rounds), int(samples), Path(peers), sides), began)


main(sys.argv[1:])
