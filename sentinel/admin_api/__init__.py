"""The admin API: what administrators do, over HTTP, on a listener of its own. Never served where webhooks come in.

`ROUTES` of `routes.py` is the whole table. Each move runs in the record's thread as one call of `sentinel.administration`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import attrs

from sentinel.admin_api.fields import Fields, read_fields
from sentinel.administration import Administrator, CheckSettings
from sentinel.directory import DirectoryFollower
from sentinel.errors import BadInput, Forbidden, Forged, MethodNotAllowed, NotFound, SentinelError, SettingsError, Unavailable
from sentinel.http import Request, Response, json_response, problem
from sentinel.keyring import open_keyring
from sentinel.logs import begin_request, log
from sentinel.model import ADMIN
from sentinel.records import Store, open_record
from sentinel.settings import Settings
from sentinel.webhooks import check_media

PREFIX = "/admin/v1/"
RECORD_SECONDS_MAX = 5.0


@attrs.frozen
class Call:
    """One call of a route: who, the names in its path, the fields of its body, the parameters of its query."""

    admin: Administrator
    names: Mapping[str, str]
    values: Mapping[str, Any]
    query: Mapping[str, str]


@attrs.frozen
class Route:
    """
    One line of the table. `path` has names in braces; `run` gives the document, in the record's thread.

    `fields` describe the body: a route without them takes none. `query` names the parameters that there are.
    """

    method: str
    path: str
    run: Callable[[Call], Any]
    fields: Fields = attrs.field(factory=dict)
    query: tuple[str, ...] = ()
    status: int = 200

    def match(self, given: Sequence[str]) -> dict[str, str] | None:
        """The names that fill those in braces, if this is the route of a path made of them."""
        wanted = self.path.split("/")
        if len(wanted) != len(given) or not all(given):
            return None
        pairs = list(zip(wanted, given, strict=True))
        if any(want != part for want, part in pairs if not want.startswith("{")):
            return None
        return {want[1:-1]: part for want, part in pairs if want.startswith("{")}


@attrs.frozen(eq=False)
class AdminApi:
    """Answers the requests of administrators. `handle` has the form of `Gateway.handle`."""

    routes: tuple[Route, ...]
    directory: DirectoryFollower
    store: Store
    check_settings: CheckSettings
    clock: Callable[[], float] = time.time

    async def handle(self, request: Request) -> Response:
        """The answer to `request`; never raises for anything that a request can cause."""
        begin_request()
        try:
            return await self._answer(request)
        except (Forged, Forbidden) as error:
            log.warning("admin.refused", status=error.status, reason=error.detail, client=request.client)
            return problem(error).with_headers(*([("www-authenticate", "Bearer")] if isinstance(error, Forged) else []))
        except SettingsError as error:  # a server key that is not here: the operator's own trouble, which the log tells
            log.error("admin.server_key", client=request.client, reason=error.detail)
            return problem(Unavailable("The record's secrets cannot be opened with the server keys that are here."))
        except SentinelError as error:
            return problem(error)
        except Exception as error:  # noqa: BLE001  one request's fault must not end the gateway beside it
            path, client = request.path[:100], request.client
            log.exception("admin.crashed", method=request.method, path=path, client=client, error=error)
            return problem(SentinelError("Internal error."))

    async def _answer(self, request: Request) -> Response:
        if not request.path.startswith(PREFIX):
            raise NotFound(f"There is nothing at this path; the admin API is at {PREFIX}.")
        key = self.directory.authenticate(request, ADMIN)
        route, names = self._find_route(request)
        if route.fields:
            check_media(request, ("application/json",))
        values = read_fields(request.body, route.fields)
        query = _query(request, route)
        admin = Administrator(self.store.record, f"key:{key.id}", self.clock(), self.check_settings)
        document = await self.store.call(route.run, Call(admin, names, values, query))
        if request.method != "GET":
            with suppress(Unavailable, SettingsError):
                await self.directory.refresh()  # here at once; the other gateways hear of it
            log.info("admin.done", actor=admin.actor, method=request.method, path=request.path[:200])
        return json_response(route.status, document, ("cache-control", "no-store"))

    def _find_route(self, request: Request) -> tuple[Route, dict[str, str]]:
        given = request.names()[PREFIX.count("/") - 1 :]
        found = [(route, names) for route in self.routes if (names := route.match(given)) is not None]
        for route, names in found:
            if route.method == request.method:
                return route, names
        if found:
            raise MethodNotAllowed(tuple(sorted({route.method for route, _ in found})))
        raise NotFound("There is nothing at this path.")


@asynccontextmanager
async def open_admin_api(
    settings: Settings, directory: DirectoryFollower, check_settings: CheckSettings
) -> AsyncIterator[AdminApi]:
    """The admin API beside a gateway, with a connection to the record of its own."""
    from sentinel.admin_api.routes import ROUTES

    with _record(settings) as store:
        yield AdminApi(ROUTES, directory, store, check_settings)


@contextmanager
def _record(settings: Settings) -> Iterator[Store]:
    keyring = open_keyring(settings.record, settings.secret_key)
    record = open_record(settings.record, RECORD_SECONDS_MAX, prepared=False, keyring=keyring)
    try:
        yield Store(record)
    finally:
        record.close()


def _query(request: Request, route: Route) -> dict[str, str]:
    given = request.parameters()
    if unknown := sorted(given.keys() - set(route.query)):
        there_are = f"there are {', '.join(route.query)}" if route.query else "this path takes none"
        raise BadInput(f"There is no parameter {unknown[0][:40]!r}; {there_are}.")
    return {name: value for name, value in given.items() if value}
