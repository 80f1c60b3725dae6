"""The gateway as an ASGI application: `hypercorn --worker-class trio sentinel.asgi:app` serves every route.

Only translates between ASGI and `Gateway.handle`, within limits that Hypercorn leaves to the application: the size, the time and
the framing of a request. Importing this file makes Hypercorn survive what a connection can throw at it (see `serve.py`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import attrs
import trio

from sentinel.edge.forwarded import forwarded_client, is_proxy, networks, plain_address
from sentinel.errors import BadInput, HeadersTooLarge, SentinelError, TooLarge, TooSlow, Unavailable
from sentinel.gateway import Gateway, open_gateway
from sentinel.http import CONTROL, HEADER_BYTES_MAX, HEADERS_MAX, Request, Response, problem
from sentinel.hypercorn_guard import guard_hypercorn
from sentinel.logs import configure_logs, log
from sentinel.settings import load_settings

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

DRAIN_SECONDS_MAX = 2.0
VERSIONS = ("1.0", "1.1", "2", "3")  # Hypercorn takes whatever looks like one


class ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


@attrs.define(eq=False)
class Application:
    """An ASGI application around a gateway; without one it opens its own when the lifespan starts."""

    gateway: Gateway | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one ASGI scope. WebSockets are refused."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        whole = False
        try:
            if self.gateway is None:
                raise Unavailable("The gateway has not started.")
            request = await _read_request(scope, receive, self.gateway)
            whole = True
            response = await self.gateway.handle(request)
        except ClientGone:
            return
        except SentinelError as error:
            response = problem(error)
        if response.stream is not None:
            await _send_stream(response, request.client, scope, receive, send)
        else:
            await _send_response(response, scope, send, None if whole else receive)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.gateway is not None:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            await self._live(receive, send)
        except Exception as error:
            # Hypercorn would log this and go on answering without us; a gateway that cannot keep jobs must not look alive.
            log.critical("gateway.died", error=error)
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    async def _live(self, receive: Receive, send: Send) -> None:
        settings = load_settings(os.environ)
        configure_logs(settings.log_format, settings.log_level)
        async with open_gateway(settings) as self.gateway:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})


async def _read_request(scope: dict[str, Any], receive: Receive, gateway: Gateway) -> Request:
    headers = _read_headers(scope["headers"])
    path = scope["path"]
    if scope["http_version"] not in VERSIONS:
        raise BadInput("The HTTP version must be 1.0 or 1.1.")
    if CONTROL.search(path):
        raise BadInput("The path has control characters.")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > gateway.settings.body_bytes_max:
        raise TooLarge(f"The body is larger than {gateway.settings.body_bytes_max} bytes.")
    body = await _read_body(receive, gateway.settings.body_bytes_max, gateway.settings.body_seconds_max)
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return Request(method, path, scope["query_string"].decode("latin-1"), headers, body, _client(scope, headers, gateway))


def _client(scope: dict[str, Any], headers: dict[str, str], gateway: Gateway) -> str:
    """The client's address, from the proxy if it is one of ours."""
    peer = plain_address((scope.get("client") or ("",))[0])
    proxies = networks(gateway.settings.proxies)
    return forwarded_client(peer, headers, proxies) if is_proxy(peer, proxies) else peer


def _read_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers as text. Raises for too many, and for framing that a proxy in front could read in another way (RFC 9112, 6.1)."""
    if len(raw) > HEADERS_MAX or sum(len(name) + len(value) for name, value in raw) > HEADER_BYTES_MAX:
        raise HeadersTooLarge(f"At most {HEADERS_MAX} headers and {HEADER_BYTES_MAX} bytes of them are taken.")
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    if "transfer-encoding" in headers and "content-length" in headers:
        raise BadInput("A request must not have both Content-Length and Transfer-Encoding.")
    return headers


async def _read_body(receive: Receive, bytes_max: int, seconds_max: float) -> bytes:
    chunks, size = [], 0
    with trio.move_on_after(seconds_max):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > bytes_max:
                raise TooLarge(f"The body is larger than {bytes_max} bytes.")
            if not message.get("more_body"):
                return b"".join(chunks)
    raise TooSlow(f"The body did not arrive within {seconds_max:g} seconds.")


async def _send_stream(response: Response, client: str, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Send what the stream gives as it comes, until it ends, fails, or the client leaves."""
    assert response.stream is not None
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if scope["method"] != "HEAD":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            try:
                async with aclosing(response.stream()) as pieces:
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            except Unavailable as error:
                # The client comes again with the id of its last event.
                log.info("stream.broken", client=client, reason=error.detail)
            nursery.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_response(response: Response, scope: dict[str, Any], send: Send, unread: Receive | None) -> None:
    """Send it. A refused body that is still coming is read on for a moment: a reset would hide the answer from who sends it."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", str(len(response.body)).encode()))
    if unread and scope["http_version"] < "2":  # HTTP/2 has no such header, and Hypercorn would drop the answer (RFC 9113, 8.2.2)
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body, "more_body": True})
    if unread:
        with trio.move_on_after(DRAIN_SECONDS_MAX):
            while (await unread()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})  # the last word: Hypercorn closes the connection upon it


guard_hypercorn()
app = Application()
