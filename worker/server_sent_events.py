"""Takes the data out of server-sent events (WHATWG HTML, 9.2), which arrive in pieces. Pure; knows only `data` lines."""

from __future__ import annotations

LINE_BYTES_MAX = 1_000_000


class ServerSentEvents:
    """The lines of one stream so far. A line that is too long is cut to nothing."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the lines that `piece` completes, in their order."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest = b""
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
