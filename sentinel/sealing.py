"""Texts that only a server key can read: AES-256-GCM, with what the text belongs to as associated data. No I/O.

A server key is a text of at least 32 characters that nobody can guess. What it is used for, and its name, are derived from it by
HMAC-SHA-256, so that no use tells anything about another.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sentinel.errors import SettingsError

PREFIX = "sealed:"
KEY_CHARACTERS_MIN = 32
_NONCE_BYTES = 12


@attrs.frozen
class ServerKey:
    """A key of this server. `id` names it in what it sealed and hashed, and gives nothing of it away."""

    id: str
    sealing_key: bytes = attrs.field(repr=False)
    hashing_key: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, text: str) -> ServerKey:
        """The key that the text stands for."""
        name, sealing_key, hashing_key = (
            hmac.digest(text.encode("utf-8", "surrogatepass"), purpose, "sha256")
            for purpose in (b"sentinel server key name", b"sentinel sealing 1", b"sentinel api key hashing 1")
        )
        return cls(name.hex()[:12], sealing_key, hashing_key)


def new_key_text() -> str:
    """A server key that nobody can guess."""
    return "sks_" + secrets.token_urlsafe(32)


def is_sealed(text: str) -> bool:
    """Whether `seal` made it."""
    return text.startswith(PREFIX)


def key_id_of(sealed: str) -> str:
    """The id of the server key that sealed it; "" for what is not sealed."""
    return sealed.removeprefix(PREFIX).partition(":")[0] if is_sealed(sealed) else ""


def seal(text: str, key: ServerKey, owner: str) -> str:
    """The text, unreadable without the key, and of no use anywhere but at its owner's place."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(key.sealing_key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), owner.encode())
    return f"{PREFIX}{key.id}:{base64.b64encode(nonce + sealed).decode()}"


def unseal(sealed: str, find: Callable[[str], ServerKey], owner: str) -> str:
    """The text that was sealed for that owner; `find` gives the key of an id. What is not sealed comes back as it is."""
    if not is_sealed(sealed):
        return sealed
    key_id, _, encoded = sealed.removeprefix(PREFIX).partition(":")
    key = find(key_id)
    try:
        raw = base64.b64decode(encoded, validate=True)
        return (
            AESGCM(key.sealing_key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], owner.encode()).decode("utf-8", "surrogatepass")
        )
    except (InvalidTag, ValueError):
        raise SettingsError(f"What is sealed for {owner} was changed or damaged: server key {key_id} does not open it.") from None
