"""API keys as text: how one is made, recognised and hashed. Pure; knows no store.

`snt_` + 43 characters (256 random bits, base62) + 6 characters of CRC-32, as GitHub's tokens are built: the prefix lets secret
scanners find a leaked key, the checksum lets the edge refuse a typo without a look-up. The record keeps HMAC-SHA-256 under the
server key: of no use without it, and with 256 random bits a slow hash adds nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence

from sentinel.sealing import ServerKey

PREFIX = "snt_"
_KEYED = "hmac:"
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


def keyed_hash(key: str, server_key: ServerKey) -> str:
    """What the record keeps, and finds the key by: `hmac:`, the server key's id, and HMAC-SHA-256 in hex."""
    return f"{_KEYED}{server_key.id}:{hmac.digest(server_key.hashing_key, key.encode(), 'sha256').hex()}"


def hash_key(key: str) -> str:
    """What the record kept before there was a server key: SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def every_hash(key: str, server_keys: Sequence[ServerKey]) -> list[str]:
    """All that the record may have kept of the key. Each is computed, so that no key takes longer to refuse than another."""
    return [*(keyed_hash(key, server_key) for server_key in server_keys), hash_key(key)]


def server_key_id_of(key_hash: str) -> str:
    """The id of the server key that a hash was made with; "" for one without."""
    return key_hash.removeprefix(_KEYED).partition(":")[0] if key_hash.startswith(_KEYED) else ""


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
