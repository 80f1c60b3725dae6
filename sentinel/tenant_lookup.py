"""Names of hosts that tenants chose, to addresses: in threads of their own, so that whose name service hangs waits alone.

A look-up cannot be interrupted. Whoever waits for one is let go at the deadline; its thread counts until it ends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import attrs
import trio

from sentinel.errors import SendFailed

SECONDS_MAX = 3.0
THREADS_MAX = 256
THREADS_OF_TENANT_MAX = 8


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
class TenantLookup:
    """Asks the system."""

    ask: Callable[[str, int], list[Any]] = attrs.field(
        default=lambda host, port: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    _everybody: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(THREADS_MAX))
    _shares: dict[str, _Share] = attrs.field(factory=dict)

    async def addresses(self, tenant: str, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order. Raises SendFailed, also if that was not found out in time."""
        share: Any = self._shares.setdefault(tenant, _Share(self._everybody))
        try:
            with trio.fail_after(SECONDS_MAX):
                found = await trio.to_thread.run_sync(self.ask, host, port, limiter=share, abandon_on_cancel=True)
        except (OSError, UnicodeError, trio.TooSlowError):
            raise SendFailed("The name of the host was not found.") from None
        return [str(entry[4][0]) for entry in found]
