"""Looking up names for tenants: each within its share of the threads, which an abandoned look-up holds until it ends."""

import socket
import threading
from collections.abc import Iterator

import attrs
import pytest
import trio

from sentinel import tenant_lookup
from sentinel.errors import SendFailed
from sentinel.tenant_lookup import THREADS_OF_TENANT_MAX, TenantLookup


@attrs.define(eq=False)
class Resolver:
    """A name service that hangs for some names until it may go on."""

    may_go_on: threading.Event = attrs.field(factory=threading.Event)
    asked: list[str] = attrs.field(factory=list)

    def ask(self, host: str, port: int) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host.startswith("hangs"):
            self.may_go_on.wait(30)
        if host.startswith("fails"):
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in ("2001:db8::1", "192.0.2.1")]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.may_go_on.set()


async def test_addresses_in_order(resolver: Resolver) -> None:
    """A name's addresses are the system's, and one that is not known is a failed sending."""
    lookup = TenantLookup(resolver.ask)
    assert await lookup.addresses("a", "fine", 443) == ["2001:db8::1", "192.0.2.1"]
    with pytest.raises(SendFailed, match="not found"):
        await lookup.addresses("a", "fails", 443)
    with pytest.raises(SendFailed, match="not found"):
        await TenantLookup().addresses("a", "a" * 70 + ".invalid", 443)
    assert await TenantLookup().addresses("a", "127.0.0.1", 443) == ["127.0.0.1"]


async def test_a_tenant_that_hangs_is_alone(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant whose names hang has its share of threads and no more, also when nobody waits for them any more; others go on."""
    lookup = TenantLookup(resolver.ask)
    failed: list[str] = []

    async def hang(host: str) -> None:
        with pytest.raises(SendFailed):
            await lookup.addresses("a", host, 443)
        failed.append(host)

    async with trio.open_nursery() as nursery:
        for number in range(THREADS_OF_TENANT_MAX):
            nursery.start_soon(hang, f"hangs {number}")
        with trio.fail_after(5):
            while len(resolver.asked) < THREADS_OF_TENANT_MAX:
                await trio.sleep(0.01)
        monkeypatch.setattr(tenant_lookup, "SECONDS_MAX", 0.2)
        async with trio.open_nursery() as more:
            for number in range(50):
                more.start_soon(hang, f"fine {number}")
        monkeypatch.setattr(tenant_lookup, "SECONDS_MAX", 5.0)
        for _ in range(50):
            await lookup.addresses("b", "fine", 443)
        nursery.cancel_scope.cancel()
    assert len(failed) == 50
    assert len(resolver.asked) == THREADS_OF_TENANT_MAX + 50
    monkeypatch.setattr(tenant_lookup, "SECONDS_MAX", 0.2)
    with pytest.raises(SendFailed):  # the abandoned are still under way
        await lookup.addresses("a", "fine", 443)
    resolver.may_go_on.set()
    with trio.fail_after(5):
        while not await _answers(lookup):
            pass


async def _answers(lookup: TenantLookup) -> bool:
    try:
        return bool(await lookup.addresses("a", "fine", 443))
    except SendFailed:
        return False


async def test_all_have_an_end(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tenants together have no more than a number of threads; who gets none in time has given its share back."""
    monkeypatch.setattr(tenant_lookup, "SECONDS_MAX", 0.1)
    monkeypatch.setattr(tenant_lookup, "THREADS_MAX", 2)
    lookup = TenantLookup(resolver.ask)
    for tenant in "abc":
        with pytest.raises(SendFailed):
            await lookup.addresses(tenant, "hangs", 443)
    assert len(resolver.asked) == 2
    resolver.may_go_on.set()
    with trio.fail_after(5):
        while not await _answers(lookup):
            pass
    assert await lookup.addresses("c", "fine", 443)
