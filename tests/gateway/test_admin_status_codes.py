"""The matrix of the admin API: every check for every route: what the caller gets, and that nothing comes of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio

from sentinel.admin_api import AdminApi, Route
from sentinel.admin_api.routes import ROUTES
from sentinel.chaos.servers import free_port
from sentinel.edge.keys import hash_key, hint, new_key
from sentinel.errors import Unavailable
from sentinel.http import HEADERS_MAX, Request, Response, problem
from sentinel.model import ADMIN, Key, State
from sentinel.records import JobFilter, Record, Store
from sentinel.records.directory import AuditFilter
from sentinel.serve import ADMIN_CONNECTIONS_MAX, serve
from sentinel.settings import Settings
from sentinel.status_codes import ADMIN_TABLE, EVERY, WITH_BODY, WITHOUT_BODY, AdminRow
from tests.gateway.test_admin_api import accept, admin_api  # noqa: F401  a fixture
from tests.gateway.test_status_codes import same
from tests.gateway.wire import Answer, Server, http

SETTINGS = {"settings": {"secret_token": "a-secret"}}
# A body that each route takes as it is; of a tenant that is not there, where it names one.
BODIES: dict[str, dict[str, Any]] = {
    "POST tenants": {"name": "acme"},
    "POST tenants/{name}/networks": {"network": "10.0.0.0/8"},
    "PUT sources/{channel}/{name}": {"tenant": "nobody"} | SETTINGS,
    "POST sources/{channel}/{name}/rotate": SETTINGS,
    "POST keys": {"tenant": "nobody"},
    "POST keys/{id}/rotate": {},
    "PUT plans/{name}": {"terms": {"jobs": "5"}},
    "PUT tenants/{name}/subscription": {"plan": "nothing"},
    "POST jobs/{id}/quarantine": {"reason": "odd"},
}
# What is there already: the names of something that is in no state for the route.
CONFLICTS = {
    "DELETE tenants/{name}": "tenants/default",
    "POST sources/{channel}/{name}/end_rotation": "sources/telegram/shop/end_rotation",
    "DELETE sources/{channel}/{name}": "sources/telegram/shop",
    "POST keys/{id}/rotate": "keys/key_gone/rotate",
    "POST jobs/{id}/retry": "jobs/{job}/retry",
    "POST jobs/{id}/quarantine": "jobs/{job}/quarantine",
}
WIRE = ("connections", "headers", "large", "slow")  # answered by the listener, before there is a request: tried on a socket
MAKES = ("PUT plans/{name}",)  # names what need not be there


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def meets(row: AdminRow, route: Route) -> bool:
    """Whether the route meets the check."""
    names_one = ("{" in route.path and name_of(route) not in MAKES) or "nobody" in BODIES.get(name_of(route), {}).values()
    rules = {EVERY: True, WITH_BODY: bool(route.fields), WITHOUT_BODY: not route.fields, "-": route is ROUTES[0]}
    return rules.get(row.routes, names_one if row.name == "nothing" else name_of(route) in CONFLICTS)


CELLS = [(row, route) for row in ADMIN_TABLE if row.name not in WIRE for route in ROUTES if meets(row, route)]


@attrs.frozen(eq=False)
class Stage:
    """The admin API, and keys for it."""

    api: AdminApi
    record: Record
    key: str
    plain_key: str

    def request(self, route: Route, **changes: Any) -> Request:
        """A request that is right in every way, but of what is not there."""
        path = "/admin/v1/" + route.path.format(name="nothing", channel="telegram", id="5b0ee9f4-0000-4000-8000-000000000000")
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        body = encoded(BODIES[name_of(route)]) if route.fields else b""
        return attrs.evolve(Request(route.method, path, "", headers, body), **changes)


def encoded(value: Any) -> bytes:
    from sentinel import payload

    return payload.encode_json(value)


@pytest.fixture
async def stage(admin_api: AdminApi, record: Record, key: str) -> Stage:  # noqa: F811  the fixture
    text = new_key()
    record.add_key(Key("key_admin", "default", hint(text), 0, scopes=(ADMIN,)), hash_key(text), 0)
    gone = new_key()
    record.add_key(Key("key_gone", "default", hint(gone), 0, expires_at=1.0), hash_key(gone), 0)
    await admin_api.directory.refresh()
    return Stage(admin_api, record, text, key)


class Silent:
    """A record that does not answer, whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        def unavailable(*_: Any, **__: Any) -> Any:
            raise Unavailable

        return unavailable


def prepare(row: AdminRow, stage: Stage, route: Route) -> tuple[AdminApi, Request]:
    """A request that the row refuses, and who is asked."""
    request = stage.request(route)
    changes: dict[str, Any] = {}
    match row.name:
        case "key" | "scope":
            bearer = new_key() if row.name == "key" else stage.plain_key
            changes = {"headers": request.headers | {"authorization": f"Bearer {bearer}"}}  # type: ignore[operator]
        case "path":
            changes = {"path": "/admin/v1/nowhere"}
        case "method":
            changes = {"method": "PATCH"}
        case "media":
            changes = {"headers": {**request.headers, "content-type": "text/plain"}}
        case "compressed":
            changes = {"headers": {**request.headers, "content-encoding": "gzip"}}
        case "malformed":
            changes = {"body": b'{"a": 1, "a": 2}'}
        case "field":
            changes = {"body": encoded({**BODIES[name_of(route)], "color": "red"})}
        case "body":
            changes = {"body": b"{}"}
        case "parameter":
            changes = {"query": "color=red"}
        case "conflict":
            job = accept(stage.record, "a", source="shop", state=State.QUEUED if "retry" in route.path else State.QUARANTINED)
            if "DELETE sources" in name_of(route):
                accept(stage.record, "b", source="shop")
            changes = {"path": "/admin/v1/" + CONFLICTS[name_of(route)].format(job=job)}
        case "store":
            return attrs.evolve(stage.api, store=Store(Silent())), request  # type: ignore[arg-type]
    return stage.api, attrs.evolve(request, **changes)


def kept(record: Record) -> object:
    """All that a move could have changed."""
    return record.directory_version(), record.audit(AuditFilter()), [(job.id, job.state) for job in record.list_jobs(JobFilter())]


@pytest.mark.parametrize(("row", "route"), CELLS, ids=lambda part: part.name if isinstance(part, AdminRow) else name_of(part))
async def test_every_check_of_the_admin_api(stage: Stage, row: AdminRow, route: Route) -> None:
    """A request that a check refuses gets what the table says, as a problem document, and nothing has changed."""
    api, request = prepare(row, stage, route)
    before = kept(stage.record)
    answer = await api.handle(request)
    same(answer, problem(row.error))
    assert dict(answer.headers)["content-type"] == "application/problem+json"
    assert kept(stage.record) == before


@pytest.fixture
async def listener(settings: Settings, record: Record, nursery: trio.Nursery) -> Server:
    """The admin listener of a true server."""
    port = free_port()
    changed = attrs.evolve(settings, admin_bind=f"127.0.0.1:{port}", body_bytes_max=2_000, body_seconds_max=0.3)
    await nursery.start(serve, changed)
    return Server("127.0.0.1", port)


async def test_what_the_listener_refuses(listener: Server, stage: Stage) -> None:
    """What never becomes a request is refused alike on every route, as a problem document, with the best of keys."""
    before = kept(stage.record)

    async def attempt(name: str, sent: bytes) -> None:
        async with listener.connected() as wire:
            await wire.send(sent)
            refused(await wire.answer(), name)

    async with trio.open_nursery() as nursery:
        for route in ROUTES:
            request = stage.request(route)
            headers = [f"{name}: {value}" for name, value in request.headers.items()]
            many, whole = [f"x-{number}: 1" for number in range(HEADERS_MAX + 10)], request.body or b"{}"
            nursery.start_soon(attempt, "headers", http(route.method, request.path, *headers, *many, body=whole))
            nursery.start_soon(attempt, "slow", http(route.method, request.path, *headers, body=whole)[:-1])
            await attempt("large", http(route.method, request.path, *headers, body=b" " * 3_000))
    assert kept(stage.record) == before


async def test_more_connections_than_it_takes(listener: Server) -> None:
    """Who comes when all connections are taken is told to come again, and is served once there is room."""
    async with AsyncExitStack() as held:
        for _ in range(ADMIN_CONNECTIONS_MAX):
            wire = await held.enter_async_context(listener.connected())
            await wire.send(http("GET", "/admin/v1/tenants"))
            assert (await wire.answer()).status == 401
        async with listener.connected() as wire:
            refused(await wire.answer(), "connections")
    with trio.fail_after(5):
        while (await listener.exchange(http("GET", "/admin/v1/tenants"))).status != 401:
            await trio.sleep(0.05)


def refused(answer: Answer, name: str) -> None:
    """It is what the table says of this row, and the connection ends with it."""
    (row,) = [row for row in ADMIN_TABLE if row.name == name]
    same(Response(answer.status, answer.body, tuple(answer.headers.items())), problem(row.error))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"


def test_every_row_and_route_has_a_cell() -> None:
    """No row of the table is met by nobody, and there is a body for each route that takes one."""
    assert {row.name for row, _ in CELLS} == {row.name for row in ADMIN_TABLE} - set(WIRE)
    assert {name_of(route) for route in ROUTES if route.fields} == BODIES.keys()
    assert {name_of(route) for route in ROUTES} >= CONFLICTS.keys()
