"""The janitor: what it has to do again and again is not held up by what takes long."""

import attrs
import pytest
import trio

from sentinel.records import Store
from worker.janitor import Janitor


@attrs.define(eq=False)
class Endless:
    """A record in which there is always something to erase."""

    reaped: int = 0
    erased: int = 0

    def erase(self, _now: float) -> bool:
        self.erased += 1
        return True

    def reap(self, _now: float, _silent: bool) -> int:
        self.reaped += 1
        return 0

    def up_seconds(self) -> float:
        return 1_000.0

    def promote(self, _now: float) -> int:
        return 0

    def add_up_usage(self) -> None: ...

    def prune(self, _before: float) -> int:
        return 0

    prune_memory = prune


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
