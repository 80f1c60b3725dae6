"""Lists of jobs: as many at a time as the gateway can bear, and of each tenant as many as the others can."""

import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from sentinel.errors import Unavailable
from sentinel.job_lists import JobLists
from sentinel.records import JobFilter, Store


@attrs.define(eq=False)
class Slow:
    """A record whose lists take until they may end."""

    may_end: threading.Event = attrs.field(factory=threading.Event)
    asked: int = 0

    def list_jobs(self, _wanted: JobFilter) -> list[Any]:
        self.asked += 1
        self.may_end.wait(30)
        return []


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.may_end.set()


async def test_one_tenant_leaves_room_for_others(slow: Slow) -> None:
    """A tenant that asks for list after list gets its share and no more; another's waits its turn and is made."""
    lists = JobLists(Store(slow), at_a_time=4, of_tenant_at_a_time=2)  # type: ignore[arg-type]
    refused, made = [], []

    async def ask(tenant: str) -> None:
        try:
            await lists.find(tenant, JobFilter())
        except Unavailable:
            refused.append(tenant)
        else:
            made.append(tenant)

    async with trio.open_nursery() as asking:
        for tenant in ("big", "big", "big", "small", "other", "late"):
            asking.start_soon(ask, tenant)
            await trio.testing.wait_all_tasks_blocked()
        assert refused == ["big", "late"]
        slow.may_end.set()
    assert sorted(made) == ["big", "big", "other", "small"]
    assert await lists.find("big", JobFilter()) == []


async def test_whoever_leaves_makes_room(slow: Slow) -> None:
    """A caller that is gone is not counted any more."""
    lists = JobLists(Store(slow), at_a_time=1)  # type: ignore[arg-type]
    with trio.move_on_after(0.05):
        await lists.find("a", JobFilter())
    slow.may_end.set()
    assert await lists.find("a", JobFilter()) == []
