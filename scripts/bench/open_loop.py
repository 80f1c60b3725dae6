"""An open loop: signed webhooks at fixed times, whatever the answers; latencies count from the planned time.

open_loop.py URL REQUESTS.tsv PATH RATE SECONDS [CONNECTIONS [SKIP]]: over at most so many connections that stay, or, for 0, each
webhook over a fresh one; without the first SKIP of the file. Prints: acks/s, p50, p99, max (ms), refused, errors, acks, p99.9, and
how late the sender itself was (ms, p99).
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from sentinel.spike.histogram import Histogram

PATIENCE_SECONDS = 15.0
HEAD = "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n"


@attrs.define(eq=False)
class Wire:
    """One connection and what it waits for."""

    socket: socket.socket
    request: bytes = b""
    planned: float = 0.0
    answer: bytes = b""
    connected: bool = False


@attrs.define(eq=False)
class Load:
    """What is to be sent, and what came of it. With `connections` of 0 each request has a fresh one."""

    address: tuple[str, int]
    requests: Sequence[bytes]
    rate: float
    connections: int
    latencies: Histogram = attrs.field(factory=Histogram)
    lags: Histogram = attrs.field(factory=Histogram)
    refused: int = 0
    errors: int = 0
    _epoll: select.epoll = attrs.field(factory=select.epoll)
    _open: dict[int, Wire] = attrs.field(factory=dict)
    _free: list[Wire] = attrs.field(factory=list)
    _waiting: deque[tuple[bytes, float]] = attrs.field(factory=deque)

    def run(self) -> float:
        """Send all of it; the seconds until the last answer. Who has no answer long after its time is an error."""
        began, sent, total = time.monotonic(), 0, len(self.requests)
        while (done := self.latencies.count + self.refused + self.errors) < total:
            now = time.monotonic() - began
            while sent < total and sent / self.rate <= now:
                self._waiting.append((self.requests[sent], began + sent / self.rate))
                self.lags.add(now - sent / self.rate)
                sent += 1
                self._give_out()
            if now > total / self.rate + PATIENCE_SECONDS:
                self.errors += total - done
                break
            due = sent / self.rate - (time.monotonic() - began) if sent < total else 0.1
            for descriptor, events in self._epoll.poll(max(0.0, min(due, 0.1)), 1_024):
                self._ready(self._open[descriptor], events)
        return time.monotonic() - began

    def _give_out(self) -> None:
        while self._waiting and (self._free or not self.connections or len(self._open) < self.connections):
            wire = self._free.pop() if self._free else self._connect()
            wire.request, wire.planned = self._waiting.popleft()
            wire.answer = b""
            if wire.connected:
                self._send(wire)

    def _connect(self) -> Wire:
        wire = Wire(socket.socket())
        wire.socket.setblocking(False)
        with suppress(BlockingIOError):
            wire.socket.connect(self.address)
        self._open[wire.socket.fileno()] = wire
        self._epoll.register(wire.socket, select.EPOLLOUT)
        return wire

    def _ready(self, wire: Wire, events: int) -> None:
        try:
            if not wire.connected:
                wire.connected = True
                self._epoll.modify(wire.socket, select.EPOLLIN)
                self._send(wire)
            elif data := wire.socket.recv(65_536):
                wire.answer += data
                self._take(wire)
            else:
                raise ConnectionResetError
        except OSError:
            self.errors += bool(wire.request)
            self._drop(wire)

    def _send(self, wire: Wire) -> None:
        wire.socket.sendall(wire.request)

    def _take(self, wire: Wire) -> None:
        head, end, body = wire.answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if not end or len(body) < length:
            return
        if head[9:10] == b"2":
            self.latencies.add(time.monotonic() - wire.planned)
        else:
            self.refused += 1
        wire.request = b""
        if self.connections and b"connection: close" not in head.lower():
            self._free.append(wire)
            self._give_out()
        else:
            self._drop(wire)

    def _drop(self, wire: Wire) -> None:
        del self._open[wire.socket.fileno()]
        wire.socket.close()
        self._give_out()


def read_requests(file: Path, path: str, count: int, skip: int = 0) -> list[bytes]:
    """So many of the webhooks that requests.py wrote, as bytes."""

    def made() -> Iterator[bytes]:
        with file.open() as lines:
            for line in islice(lines, skip, skip + count):
                signature, body = line.rstrip("\n").split("\t", 1)
                yield HEAD.format(path, signature, len(body.encode())).encode() + body.encode()

    return list(made())


def allow_descriptors() -> None:
    """As many as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(url: str, file: str, path: str, *numbers: str) -> None:
    """Run it and print one line."""
    allow_descriptors()
    parts = urlsplit(url)
    rate, seconds, connections, skip = map(float, (*numbers, "0", "0")[:4])
    requests = read_requests(Path(file), path, round(rate * seconds), int(skip))
    load = Load((str(parts.hostname), int(parts.port or 80)), requests, rate, int(connections))
    elapsed, latencies = load.run(), load.latencies
    p50, p99, p999, most = (latencies.percentile(percent) * 1000 for percent in (50, 99, 99.9, 100))
    counts, lag = f"{load.refused} {load.errors} {latencies.count}", load.lags.percentile(99) * 1000
    print(f"{latencies.count / elapsed:.0f} {p50:.2f} {p99:.2f} {most:.2f} {counts} {p999:.2f} {lag:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
