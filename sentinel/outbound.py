"""The one place that opens a connection to the outside: one request, one bounded answer, within a deadline.

The only importer of httpx2. Follows no redirect, uses no proxy from the environment, decodes nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import attrs
import httpcore2
import httpx2
import trio

from sentinel.bulkhead import Bulkhead
from sentinel.edge.addresses import is_public, is_within
from sentinel.edge.urls import Target, authority, parse_url
from sentinel.errors import RefusedAddress, SendFailed
from sentinel.model import Outgoing
from sentinel.tenant_lookup import TenantLookup, on_behalf_of, resolving_by

ANSWER_BYTES_MAX = 65_536
CONNECT_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 200  # more than a worker has requests under way: nobody waits for the connections of those who hang
GUARDED_PORTS = (443, 8443)
Resolve = Callable[[str, int], Awaitable[list[str]]]
_PLAIN = {"accept-encoding": "identity", "user-agent": "Sentinel"}


@attrs.frozen
class Answer:
    """What came back: at most ANSWER_BYTES_MAX bytes of body, not decoded. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


@attrs.frozen(eq=False)
class Outbound:
    """Sends requests; safe to use from many tasks."""

    seconds_max: float
    _client: httpx2.AsyncClient
    _tls: ssl.SSLContext
    _lookup: TenantLookup
    _bulkhead: Bulkhead = attrs.field(factory=Bulkhead)

    async def send(self, outgoing: Outgoing, networks: Sequence[str] = (), tenant: str = "") -> Answer:
        """
        The answer to `outgoing`, whatever its status. `networks` are the inside networks that a guarded request may reach.

        Raises:
            HostRests: nothing was sent, because this tenant's requests to that host fail or hang.
            SendFailed: no answer in time; the message says no more about the other side than "refused", "timed out" or "broken".
            RefusedAddress: the URL leads where a guarded request may not go, or no request can have this URL or these headers.
        """
        async with self._bulkhead.enter(way(tenant, outgoing.url)):
            return await self._send(outgoing, networks, tenant)

    def resting(self) -> list[str]:
        """The ways (see `way`) that are not to be tried now."""
        return self._bulkhead.resting()

    @asynccontextmanager
    async def stream(self, outgoing: Outgoing, silence_seconds_max: float) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """
        The status of the answer to `outgoing`, which must not be guarded, and its body as it comes, without a bound on its length.

        Raises:
            SendFailed: no connection, or nothing came for `silence_seconds_max`.
        """
        assert not outgoing.guarded
        timeout = httpx2.Timeout(silence_seconds_max, connect=CONNECT_SECONDS_MAX)
        request = partial(self._client.stream, headers=_PLAIN | dict(outgoing.headers), content=outgoing.body, timeout=timeout)
        try:
            async with request(outgoing.method, outgoing.url) as response:
                body = response.aiter_raw()
                try:
                    yield response.status_code, body
                finally:
                    await _leave(response, body)
        except httpx2.TimeoutException:
            raise SendFailed("The request timed out.") from None
        except httpx2.ConnectError:
            raise SendFailed("The connection was refused.") from None
        except httpx2.TransportError:
            raise SendFailed("The connection broke.") from None

    async def _send(self, outgoing: Outgoing, networks: Sequence[str], tenant: str) -> Answer:
        try:
            with trio.fail_after(self.seconds_max):
                if not outgoing.guarded:
                    with on_behalf_of(tenant):
                        return await _exchange(self._client, outgoing)
                target = parse_url(outgoing.url)
                if target is None:
                    raise RefusedAddress("The URL is not an http or https URL that every program reads alike.")
                resolve = partial(self._lookup.addresses, tenant)
                async with _guarded_client(target, networks, self._tls, resolve) as client:
                    return await _exchange(client, attrs.evolve(outgoing, url=target.url))
        except (trio.TooSlowError, httpx2.TimeoutException):
            raise SendFailed("The request timed out.") from None
        except httpx2.ConnectError:
            raise SendFailed("The connection was refused.") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, UnicodeError):
            raise RefusedAddress("The URL or a header cannot be used.") from None
        except httpx2.TransportError:
            raise SendFailed("The connection broke.") from None


def way(tenant: str, url: str) -> str:
    """The name of a tenant's way to a host: what a dead receiver is allowed to hold up."""
    return f"{tenant} {authority(url)}"


@asynccontextmanager
async def open_outbound(seconds_max: float) -> AsyncIterator[Outbound]:
    """An outbound whose connections are closed on leaving. `seconds_max` bounds a whole exchange, from connect to the last byte."""
    tls = ssl.create_default_context()
    limits = httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=20)
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # one jar for all tenants would carry sessions between them
    lookup = TenantLookup()
    async with httpx2.AsyncClient(verify=tls, trust_env=False, limits=limits, timeout=seconds_max, cookies=no_cookies) as client:
        with resolving_by(lookup):
            yield Outbound(seconds_max, client, tls, lookup)


async def _leave(response: httpx2.Response, body: AsyncIterator[bytes]) -> None:
    """Close the connection, and then read on into the error of that: else the client's generators would be left half-way."""
    with trio.CancelScope(shield=True), suppress(httpx2.TransportError, httpx2.StreamError):
        await response.aclose()
        async for _ in body:
            pass


async def _exchange(client: httpx2.AsyncClient, outgoing: Outgoing) -> Answer:
    headers = _PLAIN | dict(outgoing.headers)
    async with client.stream(outgoing.method, outgoing.url, headers=headers, content=outgoing.body) as response:
        body = await _read(response)
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


async def _read(response: httpx2.Response) -> bytes:
    """The first ANSWER_BYTES_MAX bytes of the body."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk[: ANSWER_BYTES_MAX - len(body)]
            if len(body) == ANSWER_BYTES_MAX:
                await response.aclose()  # ends the loop by an error; leaving it would leave the client's generators half-way
    except httpx2.TransportError:
        if len(body) < ANSWER_BYTES_MAX:
            raise
    return bytes(body)


@asynccontextmanager
async def _guarded_client(
    target: Target, networks: Sequence[str], tls: ssl.SSLContext, resolve: Resolve
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for one request. Nothing is pooled: another tenant must not inherit a connection that it could not have opened."""
    backend = _GuardedBackend(target, networks, resolve)
    transport = httpx2.AsyncHTTPTransport(verify=tls, trust_env=False)
    # The transport takes no network backend of its own; the pool below it does, and that is where a name becomes an address.
    transport._pool = httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=backend, max_connections=1)  # noqa: SLF001
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=httpx2.Timeout(None)) as client:
        yield client


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves, checks every address, and connects to the address that was checked: no gap for DNS rebinding."""

    def __init__(self, target: Target, networks: Sequence[str], resolve: Resolve) -> None:
        self._target, self._networks, self._resolve = target, networks, resolve
        self._public_allowed = target.scheme == "https" and target.port in GUARDED_PORTS
        self._sockets = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if (host.lower(), port) != (self._target.host, self._target.port):
            raise RefusedAddress("The URL was not read in one way only.")
        addresses = await self._resolve(host, port)
        if not all(self._may_reach(address) for address in addresses):
            raise RefusedAddress("The URL leads to an address that is not public, or not by https on port 443 or 8443.")
        connect = partial(
            self._sockets.connect_tcp,
            port=port,
            timeout=timeout or CONNECT_SECONDS_MAX,
            local_address=local_address,
            socket_options=socket_options,
        )
        for address in addresses[:-1]:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await connect(address)
        return await connect(addresses[-1])

    def _may_reach(self, address: str) -> bool:
        return is_within(address, self._networks) or (self._public_allowed and is_public(address))
