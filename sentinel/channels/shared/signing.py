"""How channels prove a webhook genuine: in constant time, on raw bytes, and never with an empty secret. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import lru_cache

from sentinel.errors import Forged
from sentinel.model import Source

BY_PREVIOUS = ", previous secret"  # in the name of a proof: the sender has not changed over yet


def same_secret(expected: str, given: str) -> bool:
    """Whether both are equal and not empty, in a time that does not tell where they differ; any characters may come in."""
    if expected.isascii() and given.isascii():  # as nearly always, and then strings can be compared as they are
        return bool(expected) and hmac.compare_digest(expected, given)
    return hmac.compare_digest(*(value.encode("utf-8", "surrogatepass") for value in (expected, given)))


def known_secret(source: Source, key: str, given: str) -> str | None:
    """If `given` is the source's secret, what to add to the proof's name: nothing, or that it is the previous one. Else None."""
    matches = [same_secret(secret, given) for secret in source.secrets(key)]
    return _which(matches) if any(matches) else None


def check_signature(expected: Iterable[str], given: str, header: str) -> str:
    """
    Raise Forged unless the signature in `header` is one of the expected ones, by the present secret and by the previous one.

    The message tells missing from wrong, nothing more. What to add to the proof's name: nothing, or that it is by the previous one.
    """
    if not given:
        raise Forged(f"The header {header} is missing.")
    matches = [same_secret(one, given) for one in expected]
    if not any(matches):
        raise Forged(f"The header {header} does not match the body.")
    return _which(matches)


def secrets_of(source: Source, key: str) -> list[bytes]:
    """The bytes of each secret that is accepted. Raises Forged when none is set: an empty key would let anybody sign."""
    secrets = source.secrets(key)
    if not secrets:
        raise Forged(f"The source has no {key}, so nothing it is sent can be genuine.")
    return [secret.encode("utf-8", "surrogatepass") for secret in secrets]


def _which(matches: list[bool]) -> str:
    return "" if matches[0] else BY_PREVIOUS


def hmac_hex(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 in lower-case hex."""
    signing = _keyed(key).copy()
    signing.update(message)
    return signing.hexdigest()


@lru_cache(1_024)
def _keyed(key: bytes) -> hmac.HMAC:
    """The state of an HMAC that has hashed its key: a third of the time of a short message, and no hand-over of the interpreter."""
    return hmac.new(key, digestmod="sha256")
