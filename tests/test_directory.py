"""The directory in memory: it follows the record, stays in force when the record is silent, and tells nobody more than needed."""

from collections.abc import Callable

import attrs
import pytest
import trio

from sentinel.directory import FOLLOW_SECONDS, DirectoryFollower
from sentinel.edge.keys import hash_key, new_key
from sentinel.errors import Forged, NotFound, Unavailable
from sentinel.http import Request
from sentinel.model import Key, Source
from sentinel.records import Store
from sentinel.records.directory import Directory

SOURCE = Source("acme", "telegram", "bot", {"secret_token": "s"})
KEY_TEXT = new_key()
KEY = Key("key_1", "acme", "snt_ab…", 1.0)


@attrs.define(eq=False)
class Books:
    """A record's directory, without the record."""

    version: int = 1
    content: Directory = attrs.field(factory=Directory)
    down: bool = False
    reads: int = 0

    def directory_version(self) -> int:
        if self.down:
            raise Unavailable("locked")
        return self.version

    def directory(self) -> Directory:
        self.reads += 1
        return self.content

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


class TestAuthenticate:
    @pytest.fixture
    def follower(self, books) -> DirectoryFollower:
        return DirectoryFollower(Store(books), Directory(keys={hash_key(KEY_TEXT): KEY}))

    @pytest.mark.parametrize(
        "value", [f"Bearer {KEY_TEXT}", f"bearer {KEY_TEXT}", f"BEARER   {KEY_TEXT} "], ids=["plain", "small", "spaces"]
    )
    def test_a_live_key(self, follower, value):
        """A live key is recognised; the scheme's case does not matter (RFC 7235)."""
        assert follower.authenticate(request(value)) == KEY

    @pytest.mark.parametrize(
        "value",
        ["", "Bearer", "Bearer ", f"Basic {KEY_TEXT}", KEY_TEXT, f"Bearer\t{KEY_TEXT}"],
        ids=["empty", "no key", "a space", "another scheme", "no scheme", "a tab"],
    )
    def test_no_key(self, follower, value):
        """Who shows no key is told how to."""
        with pytest.raises(Forged, match="Authorization: Bearer"):
            follower.authenticate(request(value))

    @pytest.mark.parametrize(
        "key",
        [new_key(), KEY_TEXT[:-1], KEY_TEXT + "x", KEY_TEXT.swapcase(), "snt_", "é" * len(KEY_TEXT), "x" * 10_000, "\ud800"],
        ids=["another", "short", "long", "case", "prefix", "not ascii", "huge", "surrogate"],
    )
    def test_a_wrong_key(self, follower, key):
        """Whatever is wrong with a key, the answer is the same and repeats nothing of it."""
        with pytest.raises(Forged) as caught:
            follower.authenticate(request(f"Bearer {key}"))
        assert caught.value.detail == "The API key is not valid."


def request(authorization: str) -> Request:
    return Request("GET", "/v1/jobs", headers={"authorization": authorization})


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)
