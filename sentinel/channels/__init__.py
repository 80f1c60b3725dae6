"""What a channel is: one platform's rules as pure functions. One file per platform, found by name; no I/O in any of them.

A channel turns a webhook into events and the exact acknowledgment that the platform needs, and a reply into the requests that
deliver it. The clock comes in as `now` (seconds since the epoch). `tests/channels/test_conformance.py` tests every file by its
being here.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import attrs

from sentinel import payload
from sentinel.errors import BadInput, Forged, NotFound, SentinelError
from sentinel.http import Request, Response, problem
from sentinel.model import SENT, Event, Outcome, Outgoing, Source, Verdict

ID_MAX = 255
WAIT_SECONDS_MAX = 86_400.0

Measure = Callable[[str], int]
_UNSENDABLE = re.compile("[\ud800-\udfff\0]")


@attrs.frozen
class Setting:
    """One key of `sentinel sources add --set KEY=VALUE`; `example` is a value that would be valid, where not any text is."""

    key: str
    help: str
    required: bool = False
    secret: bool = False
    example: str = ""


SHARED_SETTINGS = (
    Setting("api_base", "base URL of the platform's send API, when it is not the public one"),
    Setting("system_prompt", "what the model is told before every conversation"),
    Setting("merge_window", "seconds within which quick messages of one chat become one prompt"),
)


@attrs.frozen
class Received:
    """
    What a genuine webhook contained.

    `ignored` counts items that are acknowledged and never reach the model (receipts, echoes, edits, own messages);
    `answer`, if set, is sent instead of the acknowledgment (a challenge).
    """

    events: tuple[Event, ...] = ()
    ignored: int = 0
    answer: Response | None = None


class Channel:
    """The contract. A channel file has one subclass, and `channel = ThatClass()`."""

    name: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]]
    content_types: ClassVar[tuple[str, ...]] = ("application/json",)
    text_limit: ClassVar[str]

    def handshake(self, request: Request, source: Source) -> Response:
        """The answer to a GET, which platforms send when the URL is set up. Raises Forged, or NotFound where there is none."""
        raise NotFound("This channel has no GET handshake; send webhooks by POST.")

    def verify(self, request: Request, source: Source, now: float) -> str:
        """The name of the proof that `request` is genuine, checked on the raw bytes in constant time. Raises Forged."""
        raise NotImplementedError

    def parse(self, request: Request, source: Source) -> Received:
        """
        The events of a verified webhook. Raises BadInput if the body is not what its content type says.

        A body that is well-formed but not understood gives an event with a `problem`, so that nothing genuine is lost.
        """
        raise NotImplementedError

    def acknowledge(self, source: Source) -> Response:
        """The 2xx that makes the platform stop sending this webhook."""
        return Response(200)

    def refuse(self, error: SentinelError) -> Response:
        """The answer for a webhook that was not taken, in the platform's own shape where it has one."""
        return problem(error)

    def split(self, text: str) -> list[str]:
        """The reply cut into parts that each fit the platform's limit, in order; at least one, none empty."""
        raise NotImplementedError

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """The request that delivers one part; None if this source has nowhere to deliver to (the caller polls the job)."""
        raise NotImplementedError

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """What the platform's answer to `send` means: sent, worth another attempt, or refused for good."""
        raise NotImplementedError

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A genuine webhook as the platform would send it, distinct for each `number`: for the demo, load tests and checks."""
        raise NotImplementedError


@functools.cache
def channels() -> Mapping[str, Channel]:
    """Every channel by its name: one per file in this folder."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.channel.name: module.channel for module in modules}


def find_channel(name: str) -> Channel:
    """The channel of that name. Raises NotFound."""
    try:
        return channels()[name]
    except KeyError:
        raise NotFound("There is no channel of that name.") from None


def same_secret(expected: str, given: str) -> bool:
    """Whether both are equal and not empty, in a time that does not tell where they differ; any characters may come in."""
    pair = [value.encode("utf-8", "surrogatepass") for value in (expected, given)]
    return bool(expected) and hmac.compare_digest(*pair)


def check_signature(expected: str, given: str, header: str) -> None:
    """Raise Forged unless the signature in `header` is the expected one; the message tells missing from wrong, nothing more."""
    if not given:
        raise Forged(f"The header {header} is missing.")
    if not same_secret(expected, given):
        raise Forged(f"The header {header} does not match the body.")


def secret_of(source: Source, key: str) -> bytes:
    """The secret's bytes. Raises Forged when it is not set: an empty key would let anybody sign."""
    secret = source.setting(key)
    if not secret:
        raise Forged(f"The source has no {key}, so nothing it is sent can be genuine.")
    return secret.encode("utf-8", "surrogatepass")


def hmac_hex(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 in lower-case hex."""
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def received(found: Iterable[Event | None]) -> Received:
    """What a webhook contained, from its items in order; None stands for one that is ignored."""
    items = list(found)
    events = tuple(item for item in items if item is not None)
    return Received(events, ignored=len(items) - len(events))


def unclear(item: Any, why: str, external_id: str = "") -> Event:
    """The event for a genuine item that was not understood; the item itself is kept in `reply_to["received"]`."""
    name = short_id(external_id) or fingerprint(payload.encode_json(item))
    return Event(name, "", "", "", {"received": item}, identity=name, problem=why)


def fingerprint(raw: bytes) -> str:
    """SHA-256 in hex: the id of what has no other."""
    return hashlib.sha256(raw).hexdigest()


def short_id(text: str) -> str:
    """`text`, or its fingerprint if it is too long for an index of the record."""
    return text if len(text) <= ID_MAX else fingerprint(text.encode("utf-8", "surrogatepass"))


def dig(value: Any, *path: str) -> Any:
    """What is at the end of the path of keys; None where the path breaks off. Takes any value and never raises."""
    for key in path:
        if type(value) is not dict and not isinstance(value, Mapping):  # the first is all that JSON gives, and ten times faster
            return None
        value = value.get(key)
    return value


def text_at(value: Any, *path: str) -> str:
    """The string at the end of the path; "" if there is none."""
    found = dig(value, *path)
    return found if isinstance(found, str) else ""


def list_at(value: Any, *path: str) -> list[Any]:
    """The list at the end of the path; an empty one if there is none."""
    found = dig(value, *path)
    return found if isinstance(found, list) else []


def first_text(value: Any, paths: Iterable[tuple[str, ...]]) -> str:
    """The first string at one of the paths that is not blank; "" if all are."""
    return next((text for text in (text_at(value, *path) for path in paths) if text.strip()), "")


def post_json(url: str, value: Any, headers: Mapping[str, str] | None = None) -> Outgoing:
    """A POST of `value` as JSON."""
    return Outgoing(url, payload.encode_json(value), {"content-type": "application/json; charset=utf-8", **(headers or {})})


def base_of(source: Source, public: str) -> str:
    """The base URL of the platform's API, without a slash at its end: the source's `api_base`, else the public one."""
    return (source.setting("api_base") or public).rstrip("/")


def may_send(source: Source, token_key: str) -> bool:
    """Whether the source can deliver: it has a token, or an api_base of its own, which may need none."""
    return bool(source.setting(token_key) or source.setting("api_base"))


def bearer(source: Source, token_key: str) -> dict[str, str]:
    """The Authorization header with the source's token (RFC 6750); none without a token."""
    token = source.setting(token_key)
    return {"authorization": f"Bearer {token}"} if token else {}


def read_answer(body: bytes) -> Any:
    """The JSON of a platform's answer; None if it is not JSON."""
    try:
        return payload.decode_json(body)
    except BadInput:
        return None


def judge_status(status: int, headers: Mapping[str, str], reason: str = "") -> Verdict:
    """The verdict where only the status tells: 2xx is sent, 429 and 5xx deserve another attempt, everything else failed."""
    if 200 <= status < 300:
        return SENT
    if status == 429 or status >= 500:
        return retry(status, headers, reason)
    return failed(status, reason)


def retry(status: int, headers: Mapping[str, str], reason: str = "", seconds: float | None = None) -> Verdict:
    """Another attempt, after `seconds` or what Retry-After asks for."""
    wait = retry_after(headers) if seconds is None else seconds
    if wait is not None:
        wait = min(max(wait, 0.0), WAIT_SECONDS_MAX)
    return Verdict(Outcome.RETRY, _reason(status, reason), wait)


def failed(status: int, reason: str = "") -> Verdict:
    """No other attempt: the platform would refuse it again."""
    return Verdict(Outcome.FAILED, _reason(status, reason))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After asks for; None if it is missing or a date, which our clock need not agree with."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 12 else None


def _reason(status: int, reason: str) -> str:
    return f"HTTP {status}: {reason[:200]}" if reason else f"HTTP {status}"


def utf16_length(text: str) -> int:
    """The length in UTF-16 code units, of which a character beyond U+FFFF takes two."""
    return len(text) + sum(character > "\uffff" for character in text)


def utf8_length(text: str) -> int:
    """The length in bytes."""
    return len(text.encode())


def split_text(text: str, limit: int, measure: Measure = len) -> list[str]:
    """
    `text` in parts of at most `limit`, by `measure`; cut at a paragraph, a line, a sentence or a space where one is near.

    Never inside a character. Joined again, the parts give the text without the white space at the cuts; a text that is blank
    gives one part, "…", because no platform takes an empty message. Lone surrogates and U+0000, which no JSON or XML can
    carry, become U+FFFD.
    """
    parts: list[str] = []
    rest = _UNSENDABLE.sub("\ufffd", text).strip()
    while measure(rest) > limit:
        cut = _cut(rest, limit, measure)
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        parts.append(rest)
    return [part for part in parts if part] or ["…"]


def _cut(text: str, limit: int, measure: Measure) -> int:
    """Where to cut: the longest prefix within the limit, moved back to a natural border if one lies in its second half."""
    low, high = 1, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(text[:middle]) <= limit else (low, middle - 1)
    for border in ("\n\n", "\n", ". ", " "):
        at = text.rfind(border, low // 2, low)
        if at > 0:
            return at + len(border.rstrip(" "))
    return low
