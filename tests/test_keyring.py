"""Server keys at hand: made once, for their owner only, and missed in plain words."""

import threading
from pathlib import Path

import pytest

from sentinel.errors import SettingsError
from sentinel.keyring import Keyring, open_keyring
from sentinel.sealing import ServerKey
from sentinel.secret import Secret

GIVEN = tuple(map(ServerKey.of, ("n" * 32, "o" * 32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "secret.key"


def test_a_file_is_made_on_first_use(path):
    """Without a given key a file is made, for its owner only, when a key is needed; another process finds the same key."""
    keyring = Keyring((), path)
    assert not path.exists()
    key = keyring.newest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keyring((), path).newest() == Keyring((), path).find(key.id) == key
    assert [file.name for file in path.parent.iterdir()] == ["secret.key"]


def test_two_who_make_it_at_once_get_one_key(path):
    """Of two that make the file at once, both use what one of them wrote."""
    keys, gate = [], threading.Barrier(4)

    def make() -> None:
        gate.wait()
        keys.append(Keyring((), path).newest())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1


def test_a_given_key_wins_over_the_file(path):
    """Where the setting gives keys, the first is the newest, the second still opens, and no file is made."""
    keyring = Keyring(GIVEN, path)
    assert keyring.newest() == GIVEN[0]
    assert keyring.find(GIVEN[1].id) == GIVEN[1]
    assert not path.exists()
    with pytest.raises(SettingsError, match="SENTINEL_SECRET_KEY"):
        keyring.add()


@pytest.mark.parametrize("given", [GIVEN, ()])
def test_a_missing_key_is_told_plainly(path, given):
    """Who has not the key is told its id, where it was looked for and what to do."""
    with pytest.raises(SettingsError) as caught:
        Keyring(given, path).find("0123456789ab")
    for word in ("0123456789ab", "SENTINEL_SECRET_KEY", str(path)):
        assert word in caught.value.detail


def test_a_key_is_added_and_old_ones_are_forgotten(path):
    """A fresh key comes first; the old one opens until it is forgotten; a keyring that was open before finds the new one."""
    before = Keyring((), path)
    old = before.newest()
    keyring = Keyring((), path)
    new = keyring.add()
    assert [key.id for key in keyring.at_hand()] == [new.id, old.id]
    assert before.find(new.id) == new
    keyring.forget_all_but({new.id})
    assert keyring.at_hand() == (new,)


def test_a_file_that_cannot_be_had(tmp_path):
    """A place where no file can be made is an error that says how to do without."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="SENTINEL_SECRET_KEY"):
        Keyring((), tmp_path / "file" / "x" / "secret.key").newest()


def test_where_the_file_is(tmp_path, monkeypatch):
    """It lies beside an SQLite record; for a server's record, in the user's configuration folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert open_keyring("sqlite:/var/lib/x.db").path == Path("/var/lib/x.db.key")
    assert open_keyring("postgresql://db/x").path == tmp_path / "sentinel" / "secret.key"
    assert open_keyring("postgresql://db/x", Secret(f"{'n' * 32},{'o' * 32}")).given == GIVEN
