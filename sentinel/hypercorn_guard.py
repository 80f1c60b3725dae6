"""Makes Hypercorn on trio survive its connections. Changes nothing but the class that serves one connection.

Hypercorn 0.18 lets any exception but OSError from one connection's protocol code rise into the nursery that serves all of them.
Nine small inputs (an extra byte behind a WebSocket upgrade, a bad HTTP2-Settings, a byte ≥ 0x80 in an HTTP/2 path …) end the
program for everybody.
"""

from __future__ import annotations

import hypercorn.trio.run
from hypercorn.trio.tcp_server import TCPServer

from sentinel.logs import log


class GuardedTCPServer(TCPServer):
    """One connection whose faults are its own."""

    async def run(self) -> None:
        """Serve the connection; log what it raises, close it, and let the others live."""
        try:
            await super().run()
        except* Exception as errors:  # noqa: BLE001  whatever it is, it belongs to this connection
            log.warning("connection.crashed", error=repr(errors.exceptions)[:300])


def guard_hypercorn() -> None:
    """From now on, Hypercorn in this process serves connections with GuardedTCPServer. Idempotent."""
    hypercorn.trio.run.TCPServer = GuardedTCPServer  # type: ignore[attr-defined]
