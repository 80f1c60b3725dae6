"""The directory in memory: it follows the record, stays in force when the record is silent, and tells nobody more than needed."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest
import trio

from sentinel.directory import FOLLOW_SECONDS, START_SECONDS_MAX, DirectoryFollower
from sentinel.directory_copy import DirectoryCopy
from sentinel.edge.keys import every_hash, hash_key, keyed_hash, new_key
from sentinel.errors import Forbidden, Forged, NotFound, Unavailable
from sentinel.http import Request
from sentinel.key_uses import COARSE_SECONDS, KeyUses
from sentinel.keyring import Keyring
from sentinel.model import ADMIN, JOBS_READ, JOBS_WRITE, Key, Source
from sentinel.records import Store
from sentinel.records.directory import Directory
from sentinel.sealing import ServerKey

SOURCE = Source("acme", "telegram", "bot", {"secret_token": "s"})
KEY_TEXT = new_key()
NOW = 1_700_000_000.0
KEY = Key("key_1", "acme", "snt_ab…", 1.0)


@attrs.define(eq=False)
class Books:
    """A record's directory, without the record."""

    version: int = 1
    content: Directory = attrs.field(factory=Directory)
    down: bool = False
    reads: int = 0
    uses: list[object] = attrs.field(factory=list)
    answers: threading.Event = attrs.field(factory=threading.Event)

    def migrate(self) -> list[str]:
        assert self.answers.wait(10)
        return []

    def directory_version(self) -> int:
        if self.down:
            raise Unavailable("locked")
        return self.version

    def directory(self) -> Directory:
        self.reads += 1
        return self.content

    def note_key_uses(self, uses: object, hashes: object) -> None:
        if self.down:
            raise Unavailable("locked")
        self.uses.append((uses, hashes))

    def change(self, **changes: object) -> None:
        self.version, self.content = self.version + 1, attrs.evolve(self.content, **changes)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def follower(books: Books) -> DirectoryFollower:
    return DirectoryFollower(Store(books))


class TestRefresh:
    async def test_read_when_it_changed(self, books, follower):
        """The directory is read at first and after each change, and not in between."""
        await follower.refresh()
        await follower.refresh()
        assert books.reads == 1
        books.change(sources={("telegram", "bot"): SOURCE})
        await follower.refresh()
        assert follower.source("telegram", "bot") == SOURCE
        assert books.reads == 2

    async def test_unavailable_is_told(self, books, follower):
        """A first read that fails is an error: without any directory nobody can be served."""
        books.down = True
        with pytest.raises(Unavailable):
            await follower.refresh()

    async def test_followed_for_ever(self, books, follower, nursery, monkeypatch):
        """Changes arrive by themselves; while the record is down the last directory stays in force, and after that it goes on."""
        monkeypatch.setattr("sentinel.directory.FOLLOW_SECONDS", 0.005)
        nursery.start_soon(follower.run)
        books.change(sources={("telegram", "bot"): SOURCE})
        await until(lambda: follower.current.sources)
        books.down = True
        books.change(sources={})
        await trio.sleep(0.03)
        assert follower.source("telegram", "bot") == SOURCE
        books.down = False
        await until(lambda: not follower.current.sources)

    def test_a_revoked_key_is_soon_refused(self):
        """The command line promises 5 seconds."""
        assert FOLLOW_SECONDS < 5


class TestSource:
    def test_unknown(self, follower):
        """A source that is not there is not found, and the answer repeats no name."""
        with pytest.raises(NotFound) as caught:
            follower.source("telegram", "<script>")
        assert "script" not in caught.value.detail

    @pytest.mark.parametrize(
        "content",
        [
            Directory(sources={("telegram", "bot"): attrs.evolve(SOURCE, disabled_at=1.0)}),
            Directory(sources={("telegram", "bot"): SOURCE}, disabled_tenants=frozenset({"acme"})),
        ],
        ids=["the source", "its tenant"],
    )
    def test_disabled(self, books, content):
        """What is disabled takes no webhooks, in the words for what is not there; what it took before can still be answered."""
        follower = DirectoryFollower(Store(books), content)
        with pytest.raises(NotFound, match="no source of that name"):
            follower.source("telegram", "bot")
        assert follower.known_source("telegram", "bot").name == "bot"
        with pytest.raises(NotFound):
            follower.known_source("telegram", "other")


@pytest.fixture
def keyring(tmp_path) -> Keyring:
    return Keyring((ServerKey.of("n" * 32), ServerKey.of("o" * 32)), tmp_path / "unused")


class TestAuthenticate:
    @pytest.fixture
    def follower(self, books, keyring) -> DirectoryFollower:
        directory = Directory(keys={keyed_hash(KEY_TEXT, keyring.keys[0]): KEY}, server_key_id=keyring.keys[0].id)
        return DirectoryFollower(Store(books), directory, keyring=keyring, uses=KeyUses(Store(books)), clock=lambda: NOW)

    @pytest.mark.parametrize(
        "value", [f"Bearer {KEY_TEXT}", f"bearer {KEY_TEXT}", f"BEARER   {KEY_TEXT} "], ids=["plain", "small", "spaces"]
    )
    def test_a_live_key(self, follower, value):
        """A live key is recognised; the scheme's case does not matter (RFC 7235)."""
        assert follower.authenticate(request(value), JOBS_READ) == KEY

    @pytest.mark.parametrize(
        "value",
        ["", "Bearer", "Bearer ", f"Basic {KEY_TEXT}", KEY_TEXT, f"Bearer\t{KEY_TEXT}"],
        ids=["empty", "no key", "a space", "another scheme", "no scheme", "a tab"],
    )
    def test_no_key(self, follower, value):
        """Who shows no key is told how to."""
        with pytest.raises(Forged, match="Authorization: Bearer"):
            follower.authenticate(request(value), JOBS_READ)

    @pytest.mark.parametrize(
        "key",
        [new_key(), KEY_TEXT[:-1], KEY_TEXT + "x", KEY_TEXT.swapcase(), "snt_", "é" * len(KEY_TEXT), "x" * 10_000, "\ud800"],
        ids=["another", "short", "long", "case", "prefix", "not ascii", "huge", "surrogate"],
    )
    def test_a_wrong_key(self, follower, key):
        """Whatever is wrong with a key, the answer is the same and repeats nothing of it."""
        with pytest.raises(Forged) as caught:
            follower.authenticate(request(f"Bearer {key}"), JOBS_READ)
        assert caught.value.detail == "The API key is not valid."

    @pytest.mark.parametrize(
        ("changes", "disabled"),
        [({"revoked_at": 1.0}, ()), ({"expires_at": NOW}, ()), ({}, ("acme",))],
        ids=["revoked", "expired", "tenant disabled"],
    )
    def test_no_longer_valid(self, follower, changes, disabled):
        """A key that is no longer valid is refused in the words for one that never was."""
        (key_hash,) = follower.current.keys
        follower.current = Directory(keys={key_hash: attrs.evolve(KEY, **changes)}, disabled_tenants=frozenset(disabled))
        with pytest.raises(Forged, match=r"^The API key is not valid\.$"):
            follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_READ)

    def test_until_it_expires(self, follower):
        """A key with an end is valid until then."""
        (key_hash,) = follower.current.keys
        follower.current = Directory(keys={key_hash: attrs.evolve(KEY, expires_at=NOW + 0.001)})
        assert follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_READ)

    def test_only_what_its_scopes_say(self, follower):
        """A good key without the scope is told which one it lacks."""
        with pytest.raises(Forbidden, match="scope admin"):
            follower.authenticate(request(f"Bearer {KEY_TEXT}"), ADMIN)
        assert follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_WRITE) == KEY

    @pytest.mark.parametrize(
        "kept_as", [lambda ring: hash_key(KEY_TEXT), lambda ring: keyed_hash(KEY_TEXT, ring.keys[1])], ids=["sha", "old"]
    )
    def test_a_hash_of_before(self, follower, keyring, books, kept_as):
        """A key that was hashed without a server key, or with the one before, is valid; its use asks for a better hash."""
        follower.current = attrs.evolve(follower.current, keys={kept_as(keyring): KEY})
        assert follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_READ) == KEY
        assert follower.uses._hashes == {"key_1": keyed_hash(KEY_TEXT, keyring.keys[0])}

    def test_a_key_that_is_kept_well_is_left_so(self, follower):
        """A key that was found by the hash of now asks for no other."""
        follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_READ)
        assert follower.uses._hashes == {}

    def test_every_wrong_key_costs_the_same(self, follower, monkeypatch):
        """An unknown key, a revoked one and a live one are hashed and looked up equally often."""
        counts = []
        (key_hash,) = follower.current.keys
        for keys in ({key_hash: KEY}, {key_hash: attrs.evolve(KEY, revoked_at=1.0)}, {}):
            follower.current = Directory(keys=keys)
            calls = []
            monkeypatch.setattr("sentinel.directory.every_hash", lambda *given, calls=calls: calls.append(1) or every_hash(*given))
            with suppress(Forged):
                follower.authenticate(request(f"Bearer {KEY_TEXT}"), JOBS_READ)
            counts.append(len(calls))
        assert counts == [1, 1, 1]


class TestCopy:
    """The copy on the gateway's disk."""

    CONTENT = Directory(
        tenants=frozenset({"acme", "shut"}),
        sources={("telegram", "bot"): attrs.evolve(SOURCE, settings={"secret_token": "canary"}, disabled_at=2.0)},
        keys={"hash": attrs.evolve(KEY, scopes=("admin",), expires_at=9.0)},
        disabled_tenants=frozenset({"shut"}),
    )

    def test_sealed(self, tmp_path, keyring):
        """The copy comes back as it was, and nothing of it can be read without the server key."""
        content = attrs.evolve(self.CONTENT, server_key_id=keyring.newest().id)
        copy = DirectoryCopy(tmp_path, keyring)
        copy.write(content)
        assert copy.read() == content
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert not [word for word in (b"canary", b"acme", b"hash") if word in file.read_bytes()]
        assert DirectoryCopy(tmp_path, Keyring((ServerKey.of("x" * 32),), tmp_path)).read() is None

    def test_of_the_version_before(self, tmp_path, keyring):
        """A copy that an earlier version left in the open is read."""
        plain = {"tenants": ["acme"], "sources": [], "keys": {"h": {"id": "k", "tenant": "acme", "hint": "", "created_at": 1.0}}}
        (tmp_path / "directory.json").write_text(json.dumps(plain))
        assert DirectoryCopy(tmp_path, keyring).read() == Directory(frozenset({"acme"}), {}, {"h": Key("k", "acme", "", 1.0)})

    async def test_a_record_that_hangs_at_the_start(self, tmp_path, keyring, books):
        """A gateway with a copy does not wait for a record that hangs, and follows it when it answers; without one it waits."""
        copy = DirectoryCopy(tmp_path, keyring)
        copy.write(self.CONTENT)
        follower = DirectoryFollower(Store(books), copy=copy)
        with trio.fail_after(START_SECONDS_MAX + 1):
            assert await follower.start() is False
        assert follower.current == copy.read()
        books.answers.set()
        await follower.refresh()
        assert follower.current == books.content

        books.answers.clear()
        slow = DirectoryFollower(Store(books), copy=DirectoryCopy(tmp_path / "empty", keyring))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.start)
            await trio.sleep(START_SECONDS_MAX + 0.3)
            books.answers.set()
        assert slow.current == books.content


class TestKeyUses:
    async def test_written_in_batches_and_coarsely(self, books):
        """Uses are kept in memory until they are written; one soon after another is not worth writing."""
        uses = KeyUses(Store(books))
        uses.note("key_1", NOW)
        uses.note("key_1", NOW + 1)
        uses.note("key_2", NOW)
        assert books.uses == []
        await uses.write()
        await uses.write()
        uses.note("key_1", NOW + 2)
        await uses.write()
        uses.note("key_1", NOW + COARSE_SECONDS, "better")
        await uses.write()
        assert books.uses == [({"key_1": NOW, "key_2": NOW}, {}), ({"key_1": NOW + COARSE_SECONDS}, {"key_1": "better"})]

    async def test_kept_while_the_record_is_down(self, books):
        """What cannot be written now is written later, with what came meanwhile."""
        uses = KeyUses(Store(books))
        uses.note("key_1", NOW, "better")
        books.down = True
        with pytest.raises(Unavailable):
            await uses.write()
        uses.note("key_2", NOW)
        books.down = False
        await uses.write()
        assert books.uses == [({"key_1": NOW, "key_2": NOW}, {"key_1": "better"})]


def request(authorization: str) -> Request:
    return Request("GET", "/v1/jobs", headers={"authorization": authorization})


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)
