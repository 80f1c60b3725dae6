"""HTTP/1.1 between bytes and values, without I/O: requests from what arrives, responses to what is sent, by llhttp.

Takes what RFC 9112 allows and two readers cannot read differently, within limits; the rest becomes an error with its status.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

import attrs
import httptools

from sentinel.edge.forwarded import Networks, forwarded_client
from sentinel.errors import BadInput, HeadersTooLarge, SentinelError, TooLarge, Unavailable
from sentinel.http import CONTROL, HEADER_BYTES_MAX, HEADERS_MAX, Request, Response

# The names that come with nearly every request, as they are usually spelled: looked up faster than decoded.
_NAMES = {
    spelling.encode(): name
    for name in (
        "host", "content-type", "content-length", "user-agent", "accept", "accept-encoding", "connection", "authorization",
        "transfer-encoding", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded", "x-hub-signature-256",
        "x-telegram-bot-api-secret-token", "x-slack-signature", "x-slack-request-timestamp", "webhook-id", "webhook-timestamp",
        "webhook-signature", "idempotency-key", "prefer", "soapaction",
    )
    for spelling in (name, name.title())
}  # fmt: skip
UNREAD_BYTES_MAX = 65_536  # more than a head within its limits
_REASONS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


@attrs.frozen
class Limits:
    """
    What one request may take: bytes and seconds of its body; and all at a time: bodies on their way, connections, requests.

    `connections_per_address` holds for each address but those of `proxies`, which are believed when they say whose request it is.
    """

    body_bytes: int
    body_seconds: float
    all_bodies_bytes: int = 67_108_864
    connections: int = 15_000
    connections_per_address: int = 512
    requests: int = 12_000
    proxies: Networks = ()


class Reader:
    """
    llhttp's events made into requests. `error` is set by the first thing that is wrong; nothing is read after it.

    `client` is the other side's address; with `from_proxy` it is who the request's own headers say.
    """

    __slots__ = (
        "_body", "_ended", "_header_bytes", "_header_count", "_headers", "_hosts", "_limits", "_may_hold", "_parser", "_url",
        "begun", "body_bytes", "client", "continue_wanted", "error", "from_proxy", "phase", "requests", "unread_bytes",
    )  # fmt: skip

    def __init__(self, limits: Limits, may_hold: Callable[[int], bool] = lambda _size: True) -> None:
        self.requests: deque[tuple[Request, bool]] = deque()
        self.error: SentinelError | None = None
        self.continue_wanted = False
        self.phase = "idle"
        self.begun = 0
        self.body_bytes = 0  # how much of the body that is on its way has arrived
        self.unread_bytes = 0  # how much arrived since the last head or piece of a body was whole
        self.client, self.from_proxy = "", False
        self._body: list[bytes] = []
        self._ended = False  # the last request of the connection was read; what comes behind it is nobody's
        self._limits = limits
        self._may_hold = may_hold
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Read what arrived. Anything may come in; what is not HTTP/1.1 becomes `error`."""
        if self.error is not None or self._ended:
            return
        try:
            self._parser.feed_data(data)
            if self.phase != "idle" or not self.requests:
                self._count_unread(len(data))
        except httptools.HttpParserUpgrade:
            self._end_here()
        except httptools.HttpParserError as error:
            if str(error) == "Data after `Connection: close`":
                return
            self.error = self.error or BadInput(f"The request is not valid HTTP/1.1 ({_reason(error)}).")

    def _count_unread(self, size: int) -> None:
        """llhttp says nothing of a header until it is whole, and httptools keeps it till then, however long it gets."""
        self.unread_bytes += size
        if self.unread_bytes > UNREAD_BYTES_MAX:
            self._fail(HeadersTooLarge("What stands around the body is too long."))

    def _end_here(self) -> None:
        """An Upgrade that we do not offer is answered as if it were not there (RFC 9110, 7.8), and the connection ends with it."""
        if self.requests:
            request, _ = self.requests.pop()
            self.requests.append((request, False))
            self._ended = True
        else:
            self.error = self.error or BadInput("This server offers no upgrade.")

    def close(self) -> None:
        """Read nothing more. Reader and parser know each other: the garbage collector would have to part thousands at once."""
        self._ended = True
        del self._parser, self._may_hold

    # llhttp's events

    def on_message_begin(self) -> None:
        self.begun += 1
        self.phase = "head"
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_count = self._header_bytes = self._hosts = self.body_bytes = self.unread_bytes = 0
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > HEADER_BYTES_MAX:
            self._fail(HeadersTooLarge("The URL is too long."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "body":
            return  # a trailer; nothing here reads trailers
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > HEADERS_MAX or self._header_bytes > HEADER_BYTES_MAX:
            self._fail(HeadersTooLarge(f"At most {HEADERS_MAX} headers and {HEADER_BYTES_MAX} bytes of them are taken."))
            return
        headers = self._headers
        key = _NAMES.get(name) or name.decode("latin-1").lower()
        if key not in headers:
            headers[key] = value.decode("latin-1")
        else:
            headers[key] += f", {value.decode('latin-1')}"
            self._hosts += key == "host"

    def on_headers_complete(self) -> None:
        self.phase = "body"
        self.unread_bytes = 0
        headers, version = self._headers, self._parser.get_http_version()
        if version != "1.1" and version != "1.0":  # noqa: PLR1714  twice as fast as a tuple
            self._fail(BadInput("The HTTP version must be 1.0 or 1.1."))
        elif self._hosts > 0 or ("host" not in headers and version == "1.1"):
            self._fail(BadInput("The request must have one Host header."))
        elif "transfer-encoding" in headers and headers["transfer-encoding"].lower() != "chunked":
            self._fail(BadInput("No transfer encoding but chunked is taken."))
        elif int(headers.get("content-length", "0")[:20] or 0) > self._limits.body_bytes:
            self._fail(self._too_large())
        elif "expect" in headers and headers["expect"].lower() == "100-continue" and version == "1.1":
            self.continue_wanted = True

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        self.unread_bytes = 0
        if self.body_bytes > self._limits.body_bytes:
            self._fail(self._too_large())
        elif self.error is None and not self._may_hold(len(body)):
            self._fail(Unavailable("Too many bodies are on their way."))
        elif self.error is None:
            self._body.append(body)
        self.continue_wanted = False

    def on_message_complete(self) -> None:
        self.phase = "idle"
        self.continue_wanted = False
        if self.error is not None:
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        path = _plain_path(path)
        if not path.isprintable() and CONTROL.search(path):
            self._fail(BadInput("The path has control characters."))
            return
        client = forwarded_client(self.client, self._headers, self._limits.proxies) if self.from_proxy else self.client
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self._parser.get_method().decode("ascii"), path, query, self._headers, body, client)
        keep = self._parser.should_keep_alive()
        self.requests.append((request, keep))
        self._ended = not keep
        self._body = []

    def _fail(self, error: SentinelError) -> None:
        self.error = self.error or error
        self._body.clear()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limits.body_bytes} bytes.")


def _plain_path(target: str) -> str:
    """The path of a request target, decoded; an absolute one (RFC 9112, 3.2.2) loses its scheme and host."""
    if not target.startswith("/") and target.startswith(("http://", "https://")):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return unquote(target) if "%" in target else target


_date: tuple[int, bytes] = (0, b"")


def _date_header() -> bytes:
    """The Date header, made anew once a second."""
    global _date  # noqa: PLW0603  a cache of one line, the same for every connection
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _date[1]


def encode_response(response: Response, *, keep: bool, head: bool = False) -> bytes:
    """The response as bytes. Header values come from our own code; a line break in one would be a fault, and is refused."""
    lines = [_REASONS[response.status], _date_header()]
    for name, value in response.headers:
        line = f"{name}: {value}\r\n"
        if line.count("\n") != 1 or line.count("\r") != 1:
            raise ValueError(f"the header {name} has a line break")
        lines.append(line.encode("latin-1"))
    lines.append(
        b"content-length: %d\r\n" % len(response.body)
        if keep
        else b"content-length: %d\r\nconnection: close\r\n" % len(response.body)
    )
    lines.append(b"\r\n")
    if not head:
        lines.append(response.body)
    return b"".join(lines)


def _reason(error: Exception) -> str:
    return str(error)[:80].replace("`", "'")
