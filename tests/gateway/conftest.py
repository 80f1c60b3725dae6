"""What the gateway's tests share: sources and keys of known secrets, a gateway in this process, and the true server on port 0."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

import sentinel.serve
from sentinel import standard_webhooks
from sentinel.asgi import Application
from sentinel.channels import Channel, channels
from sentinel.edge.keys import hash_key, hint, new_key
from sentinel.gateway import Gateway, open_gateway
from sentinel.model import Key, Source
from sentinel.records import JobFilter, Record
from sentinel.serve import serve
from sentinel.settings import Settings
from tests.gateway.wire import Api, Server

StartServer = Callable[..., Awaitable[Server]]


def source_of(channel: Channel) -> Source:
    """A source of the tenant `default` with every setting filled in, whose secrets are all known."""
    values = {setting.key: setting.example or f"known-{setting.key}" for setting in channel.settings}
    values |= {"text_field": "", "sender_field": "", "own_user_id": "", "schema": "", "dedup_field": "", "conversation_field": ""}
    if channel.name == "generic":
        values["secret"] = standard_webhooks.encode_secret(b"a key that the tests know as well.")
    return Source("default", channel.name, "shop", {key: value for key, value in values.items() if value})


@pytest.fixture
def sources(record: Record) -> dict[str, Source]:
    """One source per channel."""
    made = {name: source_of(channel) for name, channel in channels().items()}
    assert all(record.put_source(source, 0) for source in made.values())
    return made


@pytest.fixture
def key(record: Record) -> str:
    """An API key of the tenant `default`."""
    return add_key(record, "default")


@pytest.fixture
def other_key(record: Record) -> str:
    """An API key of another tenant."""
    record.add_tenant("other", 0)
    return add_key(record, "other")


def add_key(record: Record, tenant: str) -> str:
    """A new key; its id is `key_` and the tenant's name."""
    key = new_key()
    record.add_key(Key(f"key_{tenant}", tenant, hint(key), 0), hash_key(key), 0)
    return key


@pytest.fixture
async def gateway(settings: Settings, sources: dict[str, Source], key: str, other_key: str) -> AsyncIterator[Gateway]:
    """A gateway in this process that knows the sources and both keys."""
    async with open_gateway(settings) as opened:
        yield opened


@pytest.fixture
def api(gateway: Gateway, key: str) -> Api:
    """The gateway as the tenant `default` calls it."""
    return Api(gateway, key)


@pytest.fixture(params=["serve", "hypercorn"])
def start_server(
    request: pytest.FixtureRequest, settings: Settings, sources: dict[str, Source], key: str, nursery: trio.Nursery
) -> StartServer:
    """Starts a server with changed settings: the true one, or plain Hypercorn with our application."""

    async def start(**changes: object) -> Server:
        run = serve if request.param == "serve" else serve_plainly
        (url,) = await nursery.start(run, attrs.evolve(settings, **changes))
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        return Server(address.hostname, address.port)

    return start


async def serve_plainly(settings: Settings, *, task_status: trio.TaskStatus[list[str]]) -> None:
    """What `hypercorn --worker-class trio sentinel.asgi:app` does, in this process."""
    config = Config()
    config.bind = [settings.bind]
    config.backlog = 4096
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = sentinel.serve.HEADER_SECONDS_MAX
    async with open_gateway(settings) as gateway:
        await hypercorn_serve(Application(gateway), config, task_status=task_status)


@pytest.fixture
async def server(start_server: StartServer) -> Server:
    """The true server."""
    return await start_server()


@pytest.fixture
def count_jobs(record: Record) -> Callable[[], int]:
    """How many jobs the record has."""
    return lambda: len(record.list_jobs(JobFilter(limit=10_000)))
