"""What many connections cost one gateway: throughput by their number, memory of idle ones, and good clients beside slow ones.

connections.py PID URL REQUESTS.tsv all|idle|slow|many SECONDS: the gateway's process, where it listens, signed webhooks for wrk.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

PATH = "/webhooks/whatsapp/bench"
COUNTS = (64, 500, 2_000, 10_000)
IDLE, SLOW, GOOD = 10_000, 2_000, 8
SLOW_SECONDS_MIN, TURNS, SETTLE_SECONDS, PING_SECONDS = 60.0, 4, 3.0, 20.0
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


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def good(name: str, pid: int, url: str, requests: str, seconds: float) -> None:
    """What good clients see, and what it costs the gateway."""
    used = cpu_seconds(pid)
    acks, p50, p99, most, refused, errors = wrk(url, requests, GOOD, seconds)
    used = cpu_seconds(pid) - used
    cost = f"{used / seconds:.0%} of a core, {used / (acks * seconds) * 1e6:.0f} us an ack"
    times = f"p50 {p50:7.1f}  p99 {p99:7.1f}  max {most:7.1f} ms"
    print(f"{name:16} {acks:8.0f} acks/s  {times}  refused {refused:.0f}, errors {errors:.0f}; {cost}", flush=True)


def slow(pid: int, url: str, requests: str, address: tuple[str, int], seconds: float) -> None:
    """Good clients alone and beside slow ones, in turn; the gateway's memory and open files before, during and afterwards."""
    files, memory = open_files(pid), resident_kib(pid)
    waits("alone", pid, address, PING_SECONDS)
    with slow_ones(address):
        waits("beside slow ones", pid, address, PING_SECONDS)
    with subprocess.Popen([sys.executable, __file__, "--watch", str(pid)], stdout=subprocess.PIPE, text=True) as watching:
        good("warming up", pid, url, requests, seconds / TURNS)
        for _ in range(TURNS):
            good("alone", pid, url, requests, seconds / TURNS)
            with slow_ones(address):
                used = cpu_seconds(pid)
                time.sleep(SETTLE_SECONDS)
                print(f"{SLOW} slow ones, coming, by themselves: {(cpu_seconds(pid) - used) / SETTLE_SECONDS:.1%} of a core")
                good("beside slow ones", pid, url, requests, seconds / TURNS)
            time.sleep(1)
        watching.terminate()
        assert watching.stdout
        highest = max(int(line) for line in watching.stdout.read().split())
    time.sleep(16)  # longer than any patience of the gateway
    left = resident_kib(pid)
    print(f"memory before {memory / 1024:.0f}, then at most {highest / 1024:.0f}, afterwards {left / 1024:.0f} MiB")
    print(f"open files before {files}, afterwards {open_files(pid)}", flush=True)


def waits(name: str, pid: int, address: tuple[str, int], seconds: float) -> None:
    """
    How long the gateway computes between a ping and its answer: what others on the machine do does not count.

    It is the kernel's account of the gateway's first thread, which is the one of the event loop.
    """
    seen: list[float] = []
    with Path(f"/proc/{pid}/task/{pid}/schedstat").open() as account, socket.create_connection(address, timeout=10) as client:
        enough = time.monotonic() + seconds
        while time.monotonic() < enough:
            account.seek(0)
            before = int(account.read().split()[0])
            client.sendall(GET)
            client.recv(1_000)
            account.seek(0)
            seen.append((int(account.read().split()[0]) - before) / 1e6)
            time.sleep(0.003)
    seen.sort()
    p50, p99, p999 = (seen[int(len(seen) * share)] for share in (0.5, 0.99, 0.999))
    print(f"{name}: CPU before a ping's answer p50 {p50:.2f}  p99 {p99:.2f}  p99.9 {p999:.2f}  max {seen[-1]:.1f} ms", flush=True)


@contextmanager
def slow_ones(address: tuple[str, int]) -> Iterator[None]:
    """Slow clients in a process of their own, which stands back for all others: real ones would be on other machines."""
    child = os.fork()
    if child == 0:
        os.nice(10)
        clients = Slow(address)
        while True:
            time.sleep(0.5)
            clients.drip()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def open_files(pid: int) -> int:
    """How many the process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def watch(pid: int) -> None:
    """Print the memory of the process, again and again."""
    while True:
        print(resident_kib(pid), flush=True)
        time.sleep(0.2)


def many(url: str, requests: str, seconds: float) -> None:
    """Throughput by the number of connections."""
    print("connections   acks/s   p50 ms   p99 ms   max ms  refused  errors", flush=True)
    for count in COUNTS:
        print(f"{count:11d}", *(f"{number:8.0f}" for number in wrk(url, requests, count, seconds)), flush=True)


def main(pid: int, url: str, requests: str, part: str, seconds: float) -> None:
    """Print what docs/benchmarks.md has."""
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 80))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if part in ("idle", "all"):
        memory = resident_kib(pid)
        print(f"idle: {idle(pid, address):.1f} KiB each, {IDLE} of them beside {memory / 1024:.0f} MiB", flush=True)
        time.sleep(2)
    if part in ("slow", "all"):
        slow(pid, url, requests, address, max(seconds, SLOW_SECONDS_MIN))
    if part in ("many", "all"):
        many(url, requests, seconds)


if __name__ == "__main__":
    run: Callable[[], None] = lambda: main(int(sys.argv[1]), *sys.argv[2:5], float(sys.argv[5]))  # noqa: E731
    watch(int(sys.argv[2])) if sys.argv[1] == "--watch" else run()
