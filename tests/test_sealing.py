"""Sealing: only the right key, at the right place, opens what was sealed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import SettingsError
from sentinel.sealing import KEY_CHARACTERS_MIN, ServerKey, key_id_of, new_key_text, seal, unseal

KEY = ServerKey.of("k" * 32)


@given(text=st.text(), owner=st.text(max_size=20))
def test_it_comes_back(text, owner):
    """What was sealed for an owner opens for that owner, byte for byte, and does not hold the text."""
    sealed = seal(text, KEY, owner)
    assert unseal(sealed, lambda _: KEY, owner) == text
    assert len(text) < 3 or text not in sealed
    assert sealed != seal(text, KEY, owner)


def test_another_key_does_not_open_it():
    """A key of another text, even one that claims the same id, does not open it, and the error shows neither."""
    sealed = seal("canary", KEY, "a")
    wrong = ServerKey(KEY.id, ServerKey.of("w" * 32).sealing_key, b"")
    with pytest.raises(SettingsError) as caught:
        unseal(sealed, lambda _: wrong, "a")
    assert "canary" not in caught.value.detail
    assert KEY.id in caught.value.detail


def test_it_is_of_no_use_elsewhere():
    """A sealed text that was moved to another owner's row does not open there."""
    with pytest.raises(SettingsError):
        unseal(seal("canary", KEY, "source a/telegram/bot"), lambda _: KEY, "source b/telegram/bot")


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-4], lambda s: s[:-1] + "!", lambda s: s[:30] + "A" + s[31:], lambda s: s + "AAAA"]
)
def test_damage_is_told(damage):
    """A sealed text that was cut, changed or lengthened is refused as damaged."""
    sealed = seal("canary", KEY, "a")
    with pytest.raises(SettingsError, match="damaged"):
        unseal(damage(sealed), lambda _: KEY, "a")


def test_what_is_not_sealed_stays():
    """A text of an earlier version, which sealed nothing, comes back as it is and has no key."""
    assert unseal('{"a": 1}', lambda _: KEY, "a") == '{"a": 1}'
    assert (key_id_of('{"a": 1}'), key_id_of(seal("x", KEY, "a"))) == ("", KEY.id)


def test_a_key_shows_nothing():
    """A server key prints its id only, and a fresh one is long enough to be set."""
    text = new_key_text()
    assert len(text) >= KEY_CHARACTERS_MIN
    assert text != new_key_text()
    key = ServerKey.of(text)
    assert repr(key) == f"ServerKey(id='{key.id}')"
    assert key.id not in text
    assert len({key.id.encode(), key.sealing_key, key.hashing_key}) == 3
