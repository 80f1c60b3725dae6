"""What a worker writes about its jobs, in groups: replies, parts sent, endings. One commit for all jobs that wait together."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from sentinel.errors import SentinelError
from sentinel.group_commit import GroupCommit
from sentinel.records import Ending, PartSettled, Reply, Store


class LeaseLost(SentinelError):
    """The job belongs to somebody else by now; nothing more may be written or sent for it."""


@attrs.frozen(eq=False)
class Commits:
    """Each `submit` gives True, or False when the lease was lost."""

    replies: GroupCommit[Reply, bool]
    settled: GroupCommit[PartSettled, bool]
    endings: GroupCommit[Ending, bool]


@asynccontextmanager
async def open_commits(store: Store) -> AsyncIterator[Commits]:
    """Commits that are written in the background; on leaving, what was submitted is written first."""
    record = store.record

    def grouped(write: Callable[[Sequence[Any], float], list[bool]]) -> GroupCommit[Any, bool]:
        return GroupCommit(lambda items: write(items, time.time()), store.limiter)

    commits = Commits(grouped(record.save_replies), grouped(record.settle_parts), grouped(record.end))
    async with trio.open_nursery() as nursery:
        groups = (commits.replies, commits.settled, commits.endings)
        for group in groups:
            nursery.start_soon(group.run)
        try:
            yield commits
        finally:
            for group in groups:
                group.close()
