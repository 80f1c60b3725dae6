"""Signatures by the Standard Webhooks specification, both ways: what we send and what we are sent. No I/O, no clock.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets as randomness
from collections.abc import Iterable, Mapping

from sentinel.errors import Forged, SettingsError

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300
SIGNATURES_MAX = 16


def new_secret() -> str:
    """A new secret of 256 random bits, in the form that receivers paste into their library."""
    return encode_secret(randomness.token_bytes(32))


def encode_secret(key: bytes) -> str:
    """The secret that stands for the bytes of `key`."""
    return PREFIX + base64.b64encode(key).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """
    The value of `webhook-signature` for one attempt; `timestamp` is the attempt's own time, in whole seconds.

    Raises:
        SettingsError: if `secret` is not base64.
        ValueError: if `message_id` has a "." in it, which would let two messages have the same signed content.
    """
    if "." in message_id:
        raise ValueError("A webhook-id must not contain '.'.")
    key = _key(secret)
    if not key:
        raise SettingsError("A Standard Webhooks secret must be base64, with or without the prefix whsec_.")
    return _signature(key, message_id, str(timestamp), body)


def rotated(text: str, fresh: str, until: float) -> str:
    """
    A tenant's callback secrets as one text, after a rotation: `fresh`, and the one before it, which signs too until then.

    Of a text without a rotation, the secret is the text.
    """
    return f"{fresh} {text.split(' ', maxsplit=1)[0]} {int(until)}"


def in_force(text: str, now: float) -> list[str]:
    """The secrets of such a text that sign now, the newest first."""
    newest, *before = text.split(" ")
    return [newest, before[0]] if len(before) == 2 and now < float(before[1]) else [newest]


def sign_all(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature` with one signature by each secret, of which any will do. Raises what `sign` raises."""
    return " ".join([sign(secret, message_id, timestamp, body) for secret in secrets])


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. Raises what `sign` raises."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }


def verify(secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now: float) -> str:
    """
    The message's id, once one of its `v1` signatures is by one of `secrets`; header names are lower case.

    Raises:
        Forged: if none is, or the timestamp is not within five minutes of `now`.
    """
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id:
        raise Forged("The header webhook-id is missing.")
    check_timestamp("webhook-timestamp", timestamp, now)
    expected = [_signature(key, message_id, timestamp, body) for key in map(_key, secrets) if key]
    # Other versions (`v1a`) can stand beside ours; comparing whole entries skips them.
    given = headers.get("webhook-signature", "").split(" ", SIGNATURES_MAX)[:SIGNATURES_MAX]
    if not any(_same(ours, theirs) for ours in expected for theirs in given):
        raise Forged("The header webhook-signature has no signature that matches the body.")
    return message_id


def check_timestamp(header: str, value: str, now: float) -> None:
    """Raise Forged unless `value` is whole seconds in ASCII digits, within five minutes of `now`."""
    # str.isdigit takes digits of every script, and int() takes time that grows with the square of the length.
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise Forged(f"The header {header} is not a time in seconds.")
    if abs(now - int(value)) > TOLERANCE_SECONDS:
        raise Forged(f"The header {header} is more than {TOLERANCE_SECONDS} seconds away from now.")


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    head = f"{message_id}.{timestamp}.".encode("utf-8", "surrogatepass")
    return "v1," + base64.b64encode(hmac.new(key, head + body, hashlib.sha256).digest()).decode()


def _same(ours: str, theirs: str) -> bool:
    return hmac.compare_digest(ours.encode(), theirs.encode("utf-8", "surrogatepass"))


def _key(secret: str) -> bytes:
    """The secret's bytes; b"" if it is not base64. As in the reference libraries, prefix and padding may be left out."""
    text = secret.removeprefix(PREFIX).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
