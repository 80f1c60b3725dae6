"""Redis servers of the tests' own, and dispatches that are closed at the end."""

import itertools
from collections.abc import Callable, Iterator

import attrs
import pytest

from sentinel.chaos.servers import RedisServer, new_redis
from sentinel.dispatch import Dispatch
from sentinel.dispatch.redis import RedisDispatch
from sentinel.model import Hint

PREFIX = "{sentinel}:"

_numbers = itertools.count(1)


def hint(job_id: str = "", tenant: str = "acme", priority: int = 100) -> Hint:
    """A hint with an id of its own."""
    return Hint(job_id or f"job-{next(_numbers)}", tenant, priority)


def hints(text: str) -> list[Hint]:
    """`"a1 a2 b1"`: a hint for each word, of the tenant that its first letter names."""
    return [hint(word, word[0]) for word in text.split()]


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    server = new_redis()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """An empty Redis that the test must leave running."""
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture
def new_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts a Redis of the test's own, to be broken."""
    started = []

    def start(**options: str) -> RedisServer:
        server = new_redis(**options)
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
