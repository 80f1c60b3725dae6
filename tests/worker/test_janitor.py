"""The janitor: what it has to do again and again is not held up by what takes long."""

from collections.abc import Mapping

import attrs
import pytest
import trio

from sentinel.records import Store, Worker
from worker.janitor import Janitor


@attrs.define(eq=False)
class Endless:
    """A record in which there is always something to erase."""

    reaped: int = 0
    erased: int = 0
    left_to_prune: int = 0

    def erase(self, _now: float) -> bool:
        self.erased += 1
        return True

    def reap(self, _now: float, _silent: Mapping[int, float]) -> int:
        self.reaped += 1
        return 0

    def workers(self) -> list[Worker]:
        return []

    def promote(self, _now: float) -> int:
        return 0

    def add_up_usage(self) -> None: ...

    def prune(self, _before: float) -> int:
        return self.left_to_prune

    def prune_memory(self, _before: float) -> int:
        return 0


async def test_dead_workers_are_noticed_while_much_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Erasing goes on a little at a time, and what dead workers held is taken back in between."""
    monkeypatch.setattr("worker.janitor.REAP_SECONDS", 0.01)
    monkeypatch.setattr("worker.janitor.ERASE_SECONDS", 0.01)
    record = Endless()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Janitor(Store(record), 30, 30).run)  # type: ignore[arg-type]
            while record.reaped < 3:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert record.reaped >= 3
    assert record.erased >= record.reaped - 1


async def test_dead_workers_are_noticed_while_much_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many old jobs are to be removed, what dead workers held is taken back meanwhile."""
    monkeypatch.setattr("worker.janitor.REAP_SECONDS", 0.01)
    record = Endless(left_to_prune=1_000)
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Janitor(Store(record), 30, 30).run)  # type: ignore[arg-type]
            while record.reaped < 3:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert record.reaped >= 3
