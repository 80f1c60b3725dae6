"""How channels send a reply and judge the platform's answer: requests, verdicts, and texts cut to size. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from sentinel import payload
from sentinel.errors import BadInput
from sentinel.model import SENT, Outcome, Outgoing, Source, Verdict

WAIT_SECONDS_MAX = 86_400.0

Measure = Callable[[str], int]
_UNSENDABLE = re.compile("[\ud800-\udfff\0]")


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
    """The seconds that Retry-After asks for, up to its date if it is one; None if it is missing or neither."""
    given = {name.lower(): value.strip() for name, value in headers.items()}
    value = given.get("retry-after", "")
    if value.isascii() and value.isdigit() and len(value) <= 12:
        return float(value)
    try:  # the answer's own clock: ours need not agree with it
        return (parsedate_to_datetime(value) - parsedate_to_datetime(given.get("date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):  # also for a date with a time zone and one without
        return None


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
