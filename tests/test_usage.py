"""How often a gateway looks at what was used."""

import attrs
import pytest
import trio
import trio.testing

from sentinel.admission import Admission
from sentinel.edge.plans import parse_line
from sentinel.records.directory import Directory
from sentinel.records.metering import Look
from sentinel.usage import UsageFollower


@attrs.define
class SlowStore:
    """A store whose looks take so long; it notes when each began."""

    look_seconds: float
    looks: list[float] = attrs.field(factory=list)

    @property
    def record(self):
        """Itself: `call` is told which method is meant."""
        return self

    async def call(self, method, *arguments):
        """What the method gives, after its time."""
        if method == self.usage:
            self.looks.append(trio.current_time())
            await trio.sleep(self.look_seconds)
        return method(*arguments)

    def usage(self, _month, _since):
        """Nobody has used anything."""
        return Look([], 1)

    def see_gateway(self, _name):
        """One is alone."""
        return 1


async def pauses_between_looks(look_seconds, each_second=lambda _admission: None):
    """Follow for half a minute; `each_second` is called with the admission. The seconds from look to look."""
    store, admission = SlowStore(look_seconds), Admission(Directory, parse_line("jobs=10"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(UsageFollower(store, admission).run)
        for _ in range(30):
            await trio.sleep(1)
            each_second(admission)
        nursery.cancel_scope.cancel()
    return [later - earlier for earlier, later in zip(store.looks, store.looks[1:], strict=False)]


@pytest.mark.parametrize(("look_seconds", "between"), [(0.002, 1.002), (0.03, 1.03), (0.05, 2.05), (0.12, 3.12), (0.4, 3.4)])
async def test_a_look_that_takes_long_comes_less_often(autojump_clock, look_seconds, between):
    """Looks take a twenty-fifth of the time at most, until they are three seconds apart."""
    pauses = await pauses_between_looks(look_seconds)
    assert pauses
    assert pauses == pytest.approx([between] * len(pauses))


async def test_somebody_is_short(autojump_clock):
    """Once somebody is refused of whose quota others may have left something, the next look does not wait."""

    def refuse(admission):
        admission.ledger.is_short = True

    pauses = await pauses_between_looks(0.12, refuse)
    assert pauses == pytest.approx([1.12] * len(pauses))


async def test_its_own_machine_is_known(autojump_clock):
    """The first of two processes to say that it lives does not take the other's share, though nobody has heard of that one yet."""
    store, admission = SlowStore(0.01), Admission(Directory, parse_line("jobs=10"))
    await UsageFollower(store, admission, processes_min=2).start()
    assert admission.limiter.processes == 2
