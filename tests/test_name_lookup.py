"""Looking up names: bounded in time, one thread for each name, and what was known once is believed while nobody answers."""

import socket
import threading
import time
from collections.abc import Iterator

import attrs
import pytest

from sentinel.name_lookup import NameLookup, NameUnknown


@attrs.define(eq=False)
class Resolver:
    """A name service that answers, fails, or hangs until it may go on."""

    fails: bool = False
    hangs: bool = False
    may_go_on: threading.Event = attrs.field(factory=threading.Event)
    asked: list[str] = attrs.field(factory=list)

    def getaddrinfo(self, host: str) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if self.hangs:
            self.may_go_on.wait(10)
        if self.fails:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in ("::1", "127.0.0.1", "127.0.0.1")]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.may_go_on.set()


@pytest.fixture
def names(resolver: Resolver) -> NameLookup:
    return NameLookup(resolver.getaddrinfo)


def test_addresses_in_order(names: NameLookup, resolver: Resolver) -> None:
    """Each address of a name once, in the system's order; a number is not looked up."""
    assert names.addresses("db", 1) == ["::1", "127.0.0.1"]
    assert names.addresses("10.0.0.7", 1) == ["10.0.0.7"]
    assert names.addresses("2001:db8::1", 1) == ["2001:db8::1"]
    assert resolver.asked == ["db"]


def test_a_hang_holds_nobody_up(names: NameLookup, resolver: Resolver) -> None:
    """Whoever asks while the name service hangs waits as long as it wants to; all share one look-up, and its end is used."""
    resolver.hangs = True
    before, started = threading.active_count(), time.monotonic()
    for _ in range(5):
        with pytest.raises(NameUnknown, match="db was not looked up in time"):
            names.addresses("db", 0.02)
    assert time.monotonic() - started < 1
    assert threading.active_count() <= before + 1
    assert resolver.asked == ["db"]
    resolver.may_go_on.set()
    assert names.addresses("db", 5) == ["::1", "127.0.0.1"]


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_what_was_known_is_believed(names: NameLookup, resolver: Resolver, how: str) -> None:
    """A name service that is away takes nothing from us that we know."""
    assert names.addresses("db", 1) == ["::1", "127.0.0.1"]
    setattr(resolver, how, True)
    assert names.addresses("db", 0.02) == ["::1", "127.0.0.1"]
    if how == "fails":
        with pytest.raises(NameUnknown, match="the name other is not known"):
            names.addresses("other", 1)


def test_a_name_that_cannot_be_one(names: NameLookup) -> None:
    """What the system refuses in whatever way is a name that is not known."""
    with pytest.raises(NameUnknown, match="is not known"):
        NameLookup().addresses("a" * 70 + ".invalid", 5)
    assert names.addresses("db", 1)
