"""What can go wrong with Redis, and that it always ends in Unavailable or Stale, in time, and in words that tell no secrets."""

import re
import select
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest

from sentinel.dispatch import Stale
from sentinel.dispatch.redis import load_script
from sentinel.errors import Unavailable
from tests.dispatch.conftest import PREFIX, hint, hints, users_command

TIMEOUT = 0.2


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def refused(call: Callable[[], object], words: str | None = None) -> str:
    """The detail of the Unavailable that the call raises."""
    with pytest.raises(Unavailable, match=words) as error:
        call()
    assert not isinstance(error.value, Stale)
    return error.value.detail


# Servers that die, hang and come back


def test_a_hang(new_server, connect):
    """While Redis hangs every call fails within its timeout; when it goes on, so does the same object."""
    server = new_server()
    dispatch = connect(server.url, TIMEOUT)
    dispatch.rebuild([hints("a1")])
    server.pause()
    for call in (dispatch.waiting, lambda: dispatch.take(1, 1), lambda: dispatch.enqueue(hints("a2"))):
        with within(TIMEOUT + 0.3):
            refused(call, "in time")
    assert "cannot be known" in dispatch.policy_warning()
    server.resume()
    assert dispatch.waiting() in (1, 2)


def test_a_hang_while_waiting(new_server, connect):
    """Who waits for the bell comes back half a second late at most, connected before or not."""
    server = new_server()
    dispatch = connect(server.url, TIMEOUT)
    assert not dispatch.wait(0.01)
    server.pause()
    for seconds in (0.3, 0.1):  # the second has to connect anew
        with within(seconds + 0.6):
            refused(lambda wanted=seconds: dispatch.wait(wanted), "in time")
    server.resume()
    assert not dispatch.wait(0.01)


def test_nobody_listens(new_server, connect):
    """A dispatch opens while Redis is down, says that it cannot be reached, and works once it is there."""
    server = new_server()
    server.kill()
    dispatch = connect(server.url, TIMEOUT)
    with within(1):
        refused(dispatch.waiting, "cannot be reached")
        refused(lambda: dispatch.wait(5), "cannot be reached")
        refused(lambda: dispatch.rebuild([]), "cannot be reached")
    server.start()
    assert dispatch.rebuild([hints("a1")])


def test_a_name_service_that_hangs(connect, monkeypatch):
    """A name that is not looked up in time is named, and no call takes longer for it than its timeout."""
    hang = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: hang.wait(20))
    dispatch = connect("redis://cache.test:6379/0", TIMEOUT)
    for call in (dispatch.waiting, lambda: dispatch.wait(0.1), lambda: dispatch.enqueue(hints("a1"))):
        with within(TIMEOUT + 0.3):
            refused(call, "cache.test was not looked up in time")
    hang.set()


def test_each_address_is_tried(server, connect, monkeypatch):
    """Of a name with several addresses the first that takes a connection is used."""
    truly = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **more):
        names = ["127.0.0.2", "127.0.0.1"] if host == "two.test" else [host]
        return [entry for name in names for entry in truly(name, *arguments, **more)]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    assert connect(server.url.replace("127.0.0.1", "two.test")).rebuild([])


def test_back_and_complete(new_server, connect):
    """A Redis that kept everything over a crash goes on where it was."""
    server = new_server(appendfsync="always")
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1 a2")])
    server.kill()
    refused(dispatch.waiting)
    server.start()
    assert dispatch.take(5, 15) == ["a1", "a2"]


def test_back_and_empty(new_server, connect):
    """A Redis that kept nothing is Stale until it is rebuilt."""
    server = new_server(appendonly="no")
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1 a2")])
    server.kill()
    server.start()
    refused(dispatch.waiting)
    with pytest.raises(Stale):
        dispatch.waiting()
    assert dispatch.rebuild([hints("a1 a2")])
    assert dispatch.take(5, 15) == ["a1", "a2"]


def test_back_with_an_older_dump(new_server, connect):
    """A Redis that was restored from before the last enqueue is Stale until it is rebuilt."""
    server = new_server(appendonly="no")
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1")])
    server.ask("SAVE")
    kept = shutil.copy(server.folder / "dump.rdb", server.folder / "kept.rdb")
    dispatch.enqueue(hints("a2"))
    server.ask("SAVE")
    server.kill()
    shutil.copy(kept, server.folder / "dump.rdb")
    server.start()
    refused(dispatch.waiting)
    for _ in range(2):
        with pytest.raises(Stale):
            dispatch.waiting()
    assert dispatch.rebuild([hints("a1 a2")])
    assert dispatch.waiting() == 2


def test_back_with_an_older_filling(new_server, connect):
    """If what was restored is an older filling, that is said once; enqueueing everything again then makes it complete."""
    server = new_server(appendonly="no")
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1")])
    server.ask("SAVE")
    dispatch.rebuild([hints("a1 a2")])
    server.kill()
    server.start()
    refused(dispatch.waiting)
    with pytest.raises(Stale):
        dispatch.waiting()
    assert dispatch.enqueue(hints("a1 a2")) == 1


# Servers that refuse


def test_out_of_memory(new_server, connect):
    """Without memory it takes nothing more, gives back all it has when there is some again, and has lost nothing."""
    server = new_server()
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1 a2")])
    server.ask("CONFIG", "SET", "maxmemory", "1")
    refused(lambda: dispatch.enqueue(hints("a3")), "out of memory")
    for _ in range(2):
        try:
            dispatch.take(1, 0.01)
        except Unavailable as error:
            assert "out of memory" in error.detail  # noqa: PT017  both are right
    server.ask("CONFIG", "SET", "maxmemory", "0")
    time.sleep(0.02)
    assert dispatch.enqueue(hints("a3")) == 1
    assert dispatch.take(9, 15) == ["a1", "a2", "a3"]


def test_a_replica(new_server, connect):
    """A Redis that was made a replica says so, and is used again when it is none."""
    server = new_server()
    dispatch = connect(server.url)
    dispatch.rebuild([hints("a1")])
    server.ask("REPLICAOF", "127.0.0.1", "1")
    refused(lambda: dispatch.enqueue(hints("a2")), "replica")
    refused(lambda: dispatch.take(1, 15), "replica")
    server.ask("REPLICAOF", "NO", "ONE")
    assert dispatch.take(1, 15) == ["a1"]


def test_a_disk_that_is_full(new_server, connect):
    """A Redis that refuses writes because it cannot save says so."""
    server = new_server(appendonly="no")
    server.ask("CONFIG", "SET", "save", "3600 100000")
    dispatch = connect(server.url)
    dispatch.rebuild([])
    shutil.rmtree(server.folder)
    server.ask("BGSAVE")
    with pytest.raises(Unavailable, match="write to its disk"):
        for _ in range(100):
            dispatch.enqueue([hint()])
            time.sleep(0.02)


def test_scripts_flushed(dispatch, server):
    """When Redis forgets the scripts, nobody notices."""
    dispatch.enqueue(hints("a1"))
    server.ask("SCRIPT", "FLUSH")
    assert dispatch.take(1, 15) == ["a1"]
    assert ":1" in server.ask("SCRIPT", "EXISTS", load_script("take")[1])  # and is asked for by its hash from now on


def test_many_at_once_take_few_commands(dispatch, server):
    """A thousand new hints take as many commands as two of the same tenants."""

    def commands(count: int) -> int:
        server.ask("CONFIG", "RESETSTAT")
        assert dispatch.enqueue([hint(tenant="ab"[number % 2]) for number in range(count)]) == count
        return sum(map(int, re.findall(r"calls=(\d+)", server.ask("INFO", "commandstats"))))

    dispatch.enqueue([hint(tenant="ab"[number % 2]) for number in range(16)])  # the bell rings no more
    assert commands(1_000) == commands(2) < 25


def test_a_user_without_scripts(server, connect):
    """A user who may not run scripts is told so, and the connection is not the reason."""
    server.ask("ACL", "SETUSER", "weak", "on", ">sesame", "~*", "+@all", "-@scripting")
    dispatch = connect(server.url.replace("//", "//weak:sesame@"))
    refused(dispatch.waiting, "permit")
    server.ask("ACL", "SETUSER", "weak", "+@scripting")
    assert dispatch.rebuild([])


def test_the_user_of_the_manual(server, connect):
    """The user that sql/redis/README.md tells to make may do all that is needed, and no more than that."""
    server.ask("ACL", "DELUSER", "sentinel")
    assert server.ask(*users_command("sesame")).startswith("+OK")
    dispatch = connect(server.url.replace("//", "//sentinel:sesame@"))
    assert dispatch.rebuild([hints("a1 a2")])
    dispatch.enqueue(hints("a3"))
    assert dispatch.wait(1)
    dispatch.done(dispatch.take(2, 0.01))
    time.sleep(0.02)
    assert dispatch.lead(1)
    assert dispatch.waiting() == 1
    assert dispatch.policy_warning() is None
    dispatch._link.connect()
    refused(lambda: dispatch._link.ask("FLUSHALL"), "permit")
    refused(lambda: dispatch._link.ask("GET", "theirs"), "permit")


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_wrong_password(new_server, connect, user):
    """A wrong password is named as the reason and never repeated, not even in a traceback."""
    server = new_server()
    server.ask("CONFIG", "SET", "requirepass", "right")
    dispatch = connect(server.url.replace("//", f"//{user}:open%20sesame@"))
    refused(lambda: dispatch.wait(0.1), "user or the password")
    try:
        dispatch.waiting()
    except Unavailable as error:
        text = "".join(traceback.format_exception(error))
        assert "user or the password" in text
        assert "sesame" not in text
    refused(connect(server.url).waiting, "wants a user")
    assert connect(server.url.replace("//", "//:right@")).rebuild([])


def test_the_databases_number(server, connect):
    """A URL's path names the database."""
    assert connect(server.url.replace("/0", "/3")).rebuild([])
    with pytest.raises(Stale):
        connect(server.url).waiting()


def test_policy(new_server, connect):
    """Any policy that drops keys is warned of."""
    server = new_server()
    dispatch = connect(server.url)
    assert dispatch.policy_warning() is None
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "allkeys-lru" in dispatch.policy_warning()
    server.ask("ACL", "SETUSER", "weak", "on", ">sesame", "~*", "+@all", "-info")
    assert "permit" in connect(server.url.replace("//", "//weak:sesame@")).policy_warning()


# Answers that are no answers


@attrs.define(eq=False)
class Peer:
    """Listens in place of Redis and does to each connection what `serve` does, until closed."""

    serve: Callable[[socket.socket], None]
    listener: socket.socket = attrs.field(factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        return f"redis://:open-sesame@127.0.0.1:{self.listener.getsockname()[1]}/0"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self.serve(connection)
                except OSError:
                    continue

    @contextmanager
    def running(self) -> Iterator[str]:
        thread = threading.Thread(target=self.run)
        thread.start()
        yield self.url
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        thread.join(5)
        assert not thread.is_alive()


ERRORS = {
    "-LOADING Redis is loading the dataset in memory": "loading",
    "-ERR max number of clients reached": "too many clients",
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "busy with a script",
    "-NOREPLICAS Not enough good replicas to write.": "too few replicas",
    "-CLUSTERDOWN Hash slot not served": "cluster that is down",
    "-MOVED 3999 127.0.0.1:6381": "another node",
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": "write to its disk",
    "-MASTERDOWN Link with MASTER is down": "lost its master",
    "-ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed.": "out of memory",
    "-ERR unknown command `AUTH`, with args beginning with: `open-sesame`": "not expected",
    "-EPOCH": "",
    "-MOVED": "",
    "HTTP/1.1 400 Bad Request": "not expected",
    "$x": "not expected",
    "*1\r\n:": "not expected",
    "*3": "in time",
    "$3\r\n\xff\xff": "in time",
    "$2\r\n\xff\xff": "not expected",
    "": "hung up",
    "+OK": "not expected",
    "*0": "not expected",
    ":1": "not expected",
    "*-1": "not expected",
}


@pytest.mark.parametrize("line", ERRORS)
def test_every_error_is_unavailable(connect, line):
    """Whatever comes instead of an answer, to the password or after it, is Unavailable with a plain reason that repeats nothing."""
    for greeting in (line, "+OK"):

        def serve(connection: socket.socket, first: str = greeting) -> None:
            answer = first
            while connection.recv(65536):
                connection.sendall(f"{answer}\r\n".encode("latin-1"))
                answer = line

        with Peer(serve).running() as url:
            dispatch = connect(url, TIMEOUT)
            with pytest.raises(Unavailable) as error, within(1):
                dispatch.waiting()
            if greeting == "+OK":
                assert ERRORS[line] in error.value.detail
            assert "sesame" not in error.value.detail
            dispatch.close()


@contextmanager
def cutting(port: int, keep: int) -> Iterator[str]:
    """A way to the Redis at that port that hangs up after `keep` bytes of answers; only the first connection suffers it."""
    budgets = iter([keep])

    def serve(connection: socket.socket) -> None:
        budget = next(budgets, 1 << 30)
        with socket.create_connection(("127.0.0.1", port)) as redis:
            while budget > 0:
                ready, _, _ = select.select([connection, redis], [], [], 5)
                data = ready[0].recv(65536) if ready else b""
                if not data:
                    return
                if ready[0] is connection:
                    redis.sendall(data)
                else:
                    connection.sendall(data[:budget])
                    budget -= len(data)

    with Peer(serve).running() as url:
        yield url.replace(":open-sesame@", "")


@pytest.mark.parametrize("keep", range(41))
def test_a_reply_cut_in_the_middle(dispatch, server, connect, keep):
    """Wherever an answer breaks off, the call fails, the next gets its own answer, and no hint is lost."""
    dispatch.enqueue(hints("a1 a2 a3"))
    dispatch.take(0, 1)
    dispatch.done(dispatch.take(1, 15))  # Redis has all scripts now
    with cutting(server.port, keep) as url:
        cut = connect(url)
        refused(lambda: cut.take(9, 0.01))
        assert cut.enqueue(hints("a4 a5")) == 2
        time.sleep(0.02)
        assert sorted(cut.take(9, 15)) == ["a2", "a3", "a4", "a5"]
        cut.close()


def test_an_enqueue_whose_answer_is_lost(dispatch, server, connect):
    """If it is unknown whether it was enqueued, enqueueing again is harmless."""
    dispatch.enqueue(hints("a1"))
    with cutting(server.port, 3) as url:
        cut = connect(url)
        refused(lambda: cut.enqueue(hints("a2")))
        assert cut.enqueue(hints("a2")) == 0
        cut.close()
    assert dispatch.take(9, 15) == ["a1", "a2"]


def test_it_leaves_no_connections(dispatch, server, connect):
    """After a close Redis knows nothing of the connection."""
    for _ in range(20):
        other = connect(server.url)
        other.waiting()
        other._bell.connect()
        other.close()
    time.sleep(0.05)
    listed = server.ask("CLIENT", "LIST").count("addr=") // 2
    assert listed < 10
    assert server.ask("GET", f"{PREFIX}epoch").startswith("$")
