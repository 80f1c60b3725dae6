"""What is secret in a record is sealed: unreadable without the server key, and readable again after the key was changed."""

import json

import attrs
import pytest

from sentinel.errors import SettingsError
from sentinel.keyring import Keyring, open_keyring
from sentinel.model import Source
from sentinel.records import open_record
from sentinel.secret import Secret

CANARY = "canary-5e1f"
SOURCE = Source("default", "telegram", "bot", {"secret_token": CANARY, "bot_token": CANARY + "é"})
OLD, NEW = "o" * 32, "n" * 32


def raw(record):
    """What is written in the rows."""
    rows = [*record._all("sources"), *record._all("tenants")]
    return " ".join(str(value) for row in rows for value in dict(row).values())


@pytest.fixture
def opened(fresh_url):
    """Opens the test's one store with server keys, as the setting gives them."""
    url, records = fresh_url().removeprefix("dispatched:"), []

    def open_with(keys: str | None):
        records.append(open_record(url, keyring=open_keyring(url, Secret(keys) if keys else None)))
        return records[-1]

    yield open_with
    for record in records:
        record.close()


def test_secrets_are_sealed_and_come_back(opened):
    """Settings and callback secrets come back as they were; in the rows there is nothing of them."""
    record = opened(OLD)
    assert record.server_key_id() is None
    record.put_source(SOURCE, 0)
    assert record.callback_secret("default", "whsec_" + CANARY) == "whsec_" + CANARY
    directory = record.directory()
    assert directory.sources == {("telegram", "bot"): SOURCE}
    assert directory.callback_secrets == {"default": "whsec_" + CANARY}
    assert directory.server_key_id == record.server_key_id()
    assert CANARY not in raw(record)
    assert record.server_key_uses() == {record.server_key_id(): 2}


def test_without_the_right_key_it_says_so(opened):
    """With another key the record is not read, and nothing is written with that key: the error names the one that is needed."""
    record = opened(OLD)
    record.put_source(SOURCE, 0)
    other = opened(NEW)
    for attempt in (other.directory, lambda: other.put_source(SOURCE, 0), lambda: other.callback_secret("default", "x")):
        with pytest.raises(SettingsError, match=record.server_key_id()):
            attempt()
    assert record.directory().sources == {("telegram", "bot"): SOURCE}


def test_the_key_is_changed(opened):
    """After a rotation the new key opens everything, the old one nothing; who has both goes on reading before and after."""
    old, both = opened(OLD), opened(f"{NEW},{OLD}")
    old.put_source(SOURCE, 0)
    old.callback_secret("default", "whsec_x")
    before = both.directory()
    version = both.directory_version()
    key_id = both.rotate_server_key()
    assert both.server_key_uses() == {key_id: 2}
    assert both.directory_version() != version
    for record in (both, opened(NEW)):
        assert record.directory() == attrs.evolve(before, server_key_id=key_id)
    with pytest.raises(SettingsError, match=key_id):
        old.directory()


def test_what_was_in_the_open_is_sealed(opened):
    """A record of an earlier version, which sealed nothing, is read as it is; sealing it leaves nothing in the open."""
    record = opened(OLD)
    record.put_source(SOURCE, 0)
    record._run("reseal_source", channel="telegram", name="bot", settings=json.dumps({"secret_token": CANARY}))
    assert record.directory().sources["telegram", "bot"].setting("secret_token") == CANARY
    assert record.seal_secrets() == 1
    assert record.seal_secrets() == 0
    assert CANARY not in raw(record)
    assert record.directory().sources["telegram", "bot"].setting("secret_token") == CANARY


def test_a_keyring_of_another_place_is_not_made(opened, tmp_path):
    """Who opens a sealed record without its key makes no key of its own beside it."""
    opened(OLD).put_source(SOURCE, 0)
    other = opened(None)
    other.keyring = Keyring((), tmp_path / "other.key")
    with pytest.raises(SettingsError):
        other.put_source(SOURCE, 0)
    assert not (tmp_path / "other.key").exists()
