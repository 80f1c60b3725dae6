"""A request and its response as plain values, whatever server carried them. No I/O, no parsing of sockets."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import attrs

from sentinel import payload
from sentinel.errors import BadInput, MethodNotAllowed, NotFound, SentinelError
from sentinel.values import made_often

Headers = tuple[tuple[str, str], ...]

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # what no path may have, on any server
HEADERS_MAX = 100
HEADER_BYTES_MAX = 16_384


@made_often
class Request:
    """
    One HTTP request, whole. Header names are lower case; a repeated header is joined by ", " (RFC 9110, 5.3).

    `client` is the IP address that it came from, behind the proxies that are believed; "" if there is none.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    client: str = ""

    def header(self, name: str) -> str:
        """The header's value, or "" when it was not sent."""
        return self.headers.get(name, "")

    def names(self) -> list[str]:
        """The names that the path is made of. Raises NotFound for a NUL, which is in no name and in no text of PostgreSQL."""
        if "\0" in self.path:
            raise NotFound("There is nothing at this path.")
        return self.path.split("/")[1:]

    def parameters(self) -> dict[str, str]:
        """The query's fields; of a repeated one the last. Raises BadInput for more than 100 fields and for NUL."""
        if "%00" in self.query:
            raise BadInput("The query has a NUL character.")
        try:
            return dict(parse_qsl(self.query, keep_blank_values=True, max_num_fields=100))
        except ValueError:
            raise BadInput("The query has too many fields.") from None

    def content_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.header("content-type").partition(";")[0].strip().lower()


@made_often
class Response:
    """
    One HTTP response, whole. `headers` has no Content-Length: the server that sends it adds one.

    With a `stream`, what it gives comes in place of the body, piece by piece, where the server can; else the body stands for it.
    """

    status: int
    body: bytes = b""
    headers: Headers = ()
    stream: Callable[[], AsyncGenerator[bytes, None]] | None = attrs.field(default=None, repr=False, eq=False)

    def with_headers(self, *more: tuple[str, str]) -> Response:
        """The same response with more headers."""
        return Response(self.status, self.body, self.headers + more)


class Exchange(Protocol):
    """A request that waits for its answer."""

    request: Request

    def answer(self, response: Response) -> None:
        """Send the answer, without waiting. Whoever has had one, or a fault, gets nothing more."""

    def crash(self, error: Exception) -> None:
        """There is no answer, by a fault of ours: end the connection."""


def json_response(status: int, value: Any, *headers: tuple[str, str]) -> Response:
    """A response whose body is `value` as JSON."""
    return Response(status, payload.encode_json(value), (("content-type", "application/json"), *headers))


def problem(error: SentinelError) -> Response:
    """The error as application/problem+json (RFC 9457)."""
    body = {"type": f"urn:sentinel:{error.code}", "title": error.title, "status": error.status, "detail": error.told}
    headers: Headers = (("content-type", "application/problem+json"),)
    return Response(error.status, payload.encode_json(body), headers + error_headers(error))


def error_headers(error: SentinelError) -> Headers:
    """The headers that an error asks for: Retry-After (seconds), Allow, and what it brings itself."""
    headers: Headers = error.headers
    if error.retry_after_seconds is not None:
        headers += (("retry-after", str(error.retry_after_seconds)),)
    if isinstance(error, MethodNotAllowed):
        headers += (("allow", ", ".join(error.allowed)),)
    return headers
