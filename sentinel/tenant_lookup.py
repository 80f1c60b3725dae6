"""Names of hosts that tenants chose, to addresses: in threads of their own, so that whose name service hangs waits alone.

A look-up cannot be interrupted. Whoever waits for one is let go at the deadline; its thread counts until it ends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import trio

from sentinel.errors import SendFailed

SECONDS_MAX = 3.0
THREADS_MAX = 256
THREADS_OF_TENANT_MAX = 8
_tenant: ContextVar[str] = ContextVar("the tenant whose request it is", default="")


@attrs.define(eq=False)
class _Share:
    """A tenant's part of the threads: a limiter in the form that `trio.to_thread` wants, which takes from both."""

    everybody: trio.CapacityLimiter
    tenant: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(THREADS_OF_TENANT_MAX))

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self.tenant.acquire_on_behalf_of(borrower)
        try:
            await self.everybody.acquire_on_behalf_of(borrower)
        except BaseException:
            self.tenant.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self.everybody.release_on_behalf_of(borrower)
        self.tenant.release_on_behalf_of(borrower)


@attrs.define(eq=False)
class TenantLookup(trio.abc.HostnameResolver):
    """Asks the system. As trio's resolver it asks for the tenant of `on_behalf_of`; where there is none, as trio does."""

    ask: Callable[[str, int], list[Any]] = attrs.field(
        default=lambda host, port: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    _everybody: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(THREADS_MAX))
    _shares: dict[str, _Share] = attrs.field(factory=dict)

    async def addresses(self, tenant: str, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order. Raises SendFailed, also if that was not found out in time."""
        return [str(entry[4][0]) for entry in await self._look_up(tenant, host, port)]

    async def getaddrinfo(self, host: Any, port: Any, *how: Any, **more: Any) -> list[Any]:
        """What `socket.getaddrinfo` says; of a tenant's host, for a stream. Raises SendFailed for that, as `addresses` does."""
        if tenant := _tenant.get():
            return await self._look_up(tenant, host.decode("ascii"), port)
        return await trio.to_thread.run_sync(lambda: socket.getaddrinfo(host, port, *how, **more), abandon_on_cancel=True)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """The system's."""
        return await trio.to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)

    async def _look_up(self, tenant: str, host: str, port: int) -> list[Any]:
        share: Any = self._share(tenant)
        try:
            with trio.fail_after(SECONDS_MAX):
                return await trio.to_thread.run_sync(self.ask, host, port, limiter=share, abandon_on_cancel=True)
        except (OSError, UnicodeError, trio.TooSlowError):
            raise SendFailed("The name of the host was not found.") from None

    def _share(self, tenant: str) -> _Share:
        if tenant not in self._shares:
            self._shares[tenant] = _Share(self._everybody)
        return self._shares[tenant]


@contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    """What trio looks up in this block is looked up for this tenant, where its resolver is a TenantLookup."""
    before = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(before)


@contextmanager
def resolving_by(lookup: TenantLookup) -> Iterator[None]:
    """Within this block it is trio's resolver."""
    before = trio.socket.set_custom_hostname_resolver(lookup)
    try:
        yield
    finally:
        trio.socket.set_custom_hostname_resolver(before)
