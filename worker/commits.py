"""
What a worker writes about its jobs, in groups: replies, parts sent, endings. One commit for all jobs that wait together.

And what it asks about their chats: a server that is far away takes as long for one question as for many.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from sentinel.errors import SentinelError, Unavailable
from sentinel.group_commit import GroupCommit
from sentinel.model import Chat
from sentinel.records import Ending, PartSettled, Reply, Store
from sentinel.records.memory import Memory

WRITE_SECONDS_MAX = 15.0
WRITE_AGAIN_SECONDS = 0.2
CHATS_AT_A_TIME = 64  # each may have TURNS_READ_MAX turns

Item = TypeVar("Item")


class LeaseLost(SentinelError):
    """The job belongs to somebody else by now; nothing more may be written or sent for it."""


@attrs.frozen(eq=False)
class Commits:
    """Each `submit` gives True, or False when the lease was lost; that of `memories`, what is known of a chat."""

    replies: GroupCommit[Reply, bool]
    settled: GroupCommit[PartSettled, bool]
    endings: GroupCommit[Ending, bool]
    memories: GroupCommit[Chat, Memory]


async def insist(group: GroupCommit[Item, bool], item: Item) -> bool:
    """
    Submit until the record takes it, for what must not be forgotten once it has happened; nothing from outside interrupts.

    Raises:
        Unavailable: the record did not take it for WRITE_SECONDS_MAX, or the group was closed.
    """
    return await until_written(lambda: group.submit(item), lambda: not group.closed)


async def until_written(write: Callable[[], Awaitable[bool]], worthwhile: Callable[[], bool] = lambda: True) -> bool:
    """`write()`, again and again while the record is unavailable and it is worthwhile, as `insist` does."""
    deadline = trio.current_time() + WRITE_SECONDS_MAX
    while True:
        with trio.CancelScope(shield=True):
            try:
                return await write()
            except Unavailable:
                if trio.current_time() > deadline or not worthwhile():
                    raise
            await trio.sleep(WRITE_AGAIN_SECONDS)


@asynccontextmanager
async def open_commits(store: Store) -> AsyncIterator[Commits]:
    """Commits that are written in the background; on leaving, what was submitted is written first."""
    record = store.record

    def grouped(write: Callable[[Sequence[Any], float], list[bool]]) -> GroupCommit[Any, bool]:
        return GroupCommit(lambda items: write(items, time.time()), store.limiter)

    memories: GroupCommit[Chat, Memory] = GroupCommit(record.memories, store.limiter, batch_max=CHATS_AT_A_TIME)
    commits = Commits(grouped(record.save_replies), grouped(record.settle_parts), grouped(record.end), memories)
    async with trio.open_nursery() as nursery:
        groups: tuple[GroupCommit[Any, Any], ...] = (commits.replies, commits.settled, commits.endings, commits.memories)
        for group in groups:
            nursery.start_soon(group.run)
        try:
            yield commits
        finally:
            for group in groups:
                group.close()
