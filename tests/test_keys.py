"""API keys: unguessable, recognisable, and never kept."""

import hashlib
import hmac
import re
import zlib
from string import ascii_lowercase, ascii_uppercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.keys import every_hash, hash_key, hint, is_well_formed, keyed_hash, new_key, server_key_id_of
from sentinel.sealing import ServerKey


def test_a_new_key():
    """A key is the prefix, 43 characters for 256 random bits, and a checksum; no two are the same."""
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(re.fullmatch(r"snt_[0-9A-Za-z]{49}", key) for key in keys)
    assert all(is_well_formed(key) for key in keys)
    assert len({key[4:7] for key in keys}) > 100


def test_the_checksum():
    """The checksum is CRC-32 in base 62, so that a secret scanner can compute it."""
    secret = "snt_" + "0" * 43
    number, text = zlib.crc32(secret.encode()), ""
    while number:
        number, digit = divmod(number, 62)
        text = (digits + ascii_uppercase + ascii_lowercase)[digit] + text
    assert is_well_formed(secret + text.rjust(6, "0"))


@given(place=st.integers(0, 52), character=st.characters(codec="utf-8"))
def test_a_typo_is_seen(place, character):
    """A key with one other character anywhere is not well formed."""
    key = new_key()
    typo = key[:place] + character + key[place + 1 :]
    assert is_well_formed(typo) is (typo == key)


@given(text=st.text(max_size=80))
def test_anything_else(text):
    """No other text is well formed, and asking never raises."""
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    "key",
    ["", "snt_", "\ud800" * 53, "snt_" + "é" * 49, new_key() + " ", new_key()[1:], " " + new_key()],
    ids=["empty", "prefix", "surrogates", "letters", "space after", "cut", "space before"],
)
def test_not_a_key(key):
    """What is too short, too long or not ASCII is no key."""
    assert not is_well_formed(key)


def test_only_a_hash_is_kept():
    """The hash is HMAC-SHA-256 under the server key, named with that key's id; of another server key it is another."""
    one, other = ServerKey.of("a" * 32), ServerKey.of("b" * 32)
    kept = keyed_hash("snt_x", one)
    assert kept == f"hmac:{one.id}:{hmac.new(one.hashing_key, b'snt_x', 'sha256').hexdigest()}"
    assert keyed_hash("snt_x", other).rpartition(":")[2] != kept.rpartition(":")[2]
    assert (server_key_id_of(kept), server_key_id_of(hash_key("snt_x"))) == (one.id, "")


def test_every_hash_that_may_have_been_kept():
    """A key is looked for under each server key, and as the first version kept it: SHA-256, in hex."""
    servers = [ServerKey.of("a" * 32), ServerKey.of("b" * 32)]
    assert every_hash("snt_x", servers) == [*(keyed_hash("snt_x", server) for server in servers), hash_key("snt_x")]
    assert hash_key("snt_x") == hashlib.sha256(b"snt_x").hexdigest()


def test_a_hint_gives_little_away():
    """A hint shows six characters of the secret and checksum and no more."""
    key = new_key()
    assert hint(key) == f"{key[:6]}…{key[-4:]}"
