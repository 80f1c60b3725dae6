"""API keys as text: how one is made, recognised and hashed. Pure; knows no store.

`snt_` + 43 characters (256 random bits, base62) + 6 characters of CRC-32, as GitHub's tokens are built: the prefix lets secret
scanners find a leaked key, the checksum lets the edge refuse a typo without a look-up. With 256 random bits a slow hash adds
nothing, so the record keeps SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

PREFIX = "snt_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARACTERS = 43
_CHECKSUM_CHARACTERS = 6
_LENGTH = len(PREFIX) + _SECRET_CHARACTERS + _CHECKSUM_CHARACTERS


def new_key() -> str:
    """A key that nobody can guess."""
    secret = PREFIX + _base62(secrets.randbits(256), _SECRET_CHARACTERS)
    return secret + _checksum(secret)


def is_well_formed(key: str) -> bool:
    """Whether `key` looks like one of ours, down to its checksum."""
    secret = key[:-_CHECKSUM_CHARACTERS]
    return len(key) == _LENGTH and key.isascii() and key.startswith(PREFIX) and key.endswith(_checksum(secret))


def hash_key(key: str) -> str:
    """What the record keeps, and finds the key by."""
    return hashlib.sha256(key.encode()).hexdigest()


def hint(key: str) -> str:
    """Enough of the key for a person to recognise it, too little to use it."""
    return f"{key[: len(PREFIX) + 2]}…{key[-4:]}"


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode("utf-8", "surrogatepass")), _CHECKSUM_CHARACTERS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
