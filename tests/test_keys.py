"""API keys: unguessable, recognisable, and never kept."""

import hashlib
import re
import zlib
from string import ascii_lowercase, ascii_uppercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.keys import hash_key, hint, is_well_formed, new_key


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


def test_only_the_hash_is_kept():
    """The hash is SHA-256, in hex."""
    assert hash_key("snt_x") == hashlib.sha256(b"snt_x").hexdigest()


def test_a_hint_gives_little_away():
    """A hint shows six characters of the secret and checksum and no more."""
    key = new_key()
    assert hint(key) == f"{key[:6]}…{key[-4:]}"
