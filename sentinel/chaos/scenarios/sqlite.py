"""Faults of a Sentinel on one machine, with the record in a SQLite file."""

from __future__ import annotations

import subprocess
import sys

import trio

from sentinel.chaos.checker import Rules
from sentinel.chaos.stage import Scenario, Stage
from sentinel.chaos.subject import in_thread

# Another program, which takes the write lock and keeps it until its standard input ends.
_LOCKER = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=20); c.execute('BEGIN IMMEDIATE'); sys.stdin.read()"


async def _nothing(stage: Stage) -> None:
    await stage.warm_up(0.3)


async def _disk_full(stage: Stage) -> None:
    await stage.warm_up()
    async with stage.fault("the record's disk is full"):
        await in_thread(stage.disk.fill)
        await stage.hole()
        await in_thread(stage.disk.free)


async def _locked(stage: Stage) -> None:
    await stage.warm_up()
    path = stage.record_url.partition(":")[2]
    async with stage.fault("another program has locked the record"):
        locker = await trio.lowlevel.open_process([sys.executable, "-c", _LOCKER, path], stdin=subprocess.PIPE)
        await stage.hole()
        locker.kill()
        await locker.wait()


SCENARIOS = (
    Scenario(
        name="sqlite-calm",
        numbers=(),
        what="SQLite record, no fault: what the others are compared with",
        act=_nothing,
        record="sqlite",
        redis=False,
    ),
    Scenario(
        name="sqlite-disk-full",
        numbers=(19,),
        what="the disk of the SQLite record fills up, and is freed",
        act=_disk_full,
        record="sqlite",
        redis=False,
        disk="record",
        rules=Rules(refusals_allowed=True),
    ),
    Scenario(
        name="sqlite-locked",
        numbers=(18,),
        what="another program locks the SQLite record",
        act=_locked,
        record="sqlite",
        redis=False,
        rules=Rules(refusals_allowed=True),
    ),
)
