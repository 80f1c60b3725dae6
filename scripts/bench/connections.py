"""What many connections cost one gateway: throughput by their number, memory of idle ones, and good clients beside slow ones.

connections.py PID URL REQUESTS.tsv SECONDS: the gateway's process, where it listens, and signed webhooks for wrk.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

PATH = "/webhooks/whatsapp/bench"
COUNTS = (64, 500, 2_000, 10_000)
IDLE, SLOW, GOOD = 10_000, 2_000, 8
GET = b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: bench\r\n\r\n"
FIRST = (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", LARGE * 20)
NEXT = (b"y", b"z", b"\r\n")  # a blank line before the next request says nothing


def resident_kib(pid: int) -> int:
    """Memory of the process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def wrk(url: str, requests: str, connections: int, seconds: float) -> list[float]:
    """Requests a second, p50, p99 and max in ms, refused, errors."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "--timeout", "10s"]
    command += ["-s", "scripts/bench/signed.lua", url, "--", requests, PATH]
    return [
        float(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    ]


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection that does not block once it stands."""
    while True:
        try:
            opened = socket.create_connection(address, timeout=10)
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.ETIMEDOUT, errno.EAGAIN):
                raise
        else:
            opened.setblocking(False)
            return opened


def idle(pid: int, address: tuple[str, int]) -> float:
    """KiB of the gateway's memory for each connection that has had one answer and says nothing more."""
    before = resident_kib(pid)
    held = [connect(address) for _ in range(IDLE)]
    for each in held:
        each.sendall(GET)
    time.sleep(3)
    after = resident_kib(pid)
    for each in held:
        each.close()
    return (after - before) / IDLE


class Slow:
    """Clients that each keep a connection busy for as long as they are let: slow heads, slow bodies, readers that do not read."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.fresh = set(range(SLOW))
        self.clients = {number: self._open() for number in range(SLOW)}

    def _open(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(self.address)
        return client

    def drip(self) -> None:
        """Each says its next few bytes; who was cut off comes again."""
        for number, client in list(self.clients.items()):
            kind = number % 3
            try:
                client.send(FIRST[kind] if number in self.fresh else NEXT[kind])
                self.fresh.discard(number)
                if kind != 2 and not client.recv(100):
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                client.close()
                self.clients[number] = self._open()
                self.fresh.add(number)


def beside_slow(pid: int, url: str, requests: str, address: tuple[str, int], seconds: float) -> tuple[list[float], int, int, int]:
    """What good clients see beside the slow ones; the gateway's memory at most, and in the end; its open files in the end."""
    child = os.fork()
    if child == 0:
        slow = Slow(address)
        while True:
            time.sleep(0.5)
            slow.drip()
    highest: list[int] = []
    with subprocess.Popen([sys.executable, __file__, "--watch", str(pid)], stdout=subprocess.PIPE, text=True) as watch:
        time.sleep(1)
        seen = wrk(url, requests, GOOD, seconds)
        watch.terminate()
        assert watch.stdout
        highest = [int(line) for line in watch.stdout.read().split()]
    os.kill(child, 9)
    os.waitpid(child, 0)
    time.sleep(12)  # longer than any patience of the gateway
    return seen, max(highest), resident_kib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))


def watch(pid: int) -> None:
    """Print the memory of the process, again and again."""
    while True:
        print(resident_kib(pid), flush=True)
        time.sleep(0.2)


def main(pid: int, url: str, requests: str, seconds: float) -> None:
    """Print what docs/benchmarks.md has."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 80))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    files, memory = len(list(Path(f"/proc/{pid}/fd").iterdir())), resident_kib(pid)
    print(f"idle: {idle(pid, address):.1f} KiB each, {IDLE} of them beside {memory / 1024:.0f} MiB", flush=True)
    time.sleep(2)
    alone = wrk(url, requests, GOOD, seconds)
    beside, highest, memory, left = beside_slow(pid, url, requests, address, 4 * seconds)
    print(f"{GOOD} good clients alone: {alone[0]:.0f} acks/s, p50 {alone[1]:.1f} ms, p99 {alone[2]:.1f} ms")
    print(
        f"beside {SLOW} slow ones: {beside[0]:.0f} acks/s, p50 {beside[1]:.1f} ms, p99 {beside[2]:.1f} ms, refused {beside[4]:.0f}"
    )
    print(
        f"memory then: at most {highest / 1024:.0f} MiB, afterwards {memory / 1024:.0f} MiB; open files {files}, afterwards {left}"
    )
    print("connections   acks/s   p50 ms   p99 ms   max ms  refused  errors", flush=True)
    for count in COUNTS:
        print(f"{count:11d}", *(f"{number:8.0f}" for number in wrk(url, requests, count, seconds)), flush=True)


if __name__ == "__main__":
    run: Callable[[], None] = lambda: main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))  # noqa: E731
    watch(int(sys.argv[2])) if sys.argv[1] == "--watch" else run()
