"""How channels prove a webhook genuine: in constant time, on raw bytes, and never with an empty secret. Pure."""

from __future__ import annotations

import hmac

from sentinel.errors import Forged
from sentinel.model import Source


def same_secret(expected: str, given: str) -> bool:
    """Whether both are equal and not empty, in a time that does not tell where they differ; any characters may come in."""
    if expected.isascii() and given.isascii():  # as nearly always, and then strings can be compared as they are
        return bool(expected) and hmac.compare_digest(expected, given)
    return hmac.compare_digest(*(value.encode("utf-8", "surrogatepass") for value in (expected, given)))


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
    return hmac.digest(key, message, "sha256").hex()
