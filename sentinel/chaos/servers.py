"""PostgreSQL and Redis servers of our own: each in its own folder, on its own port, to be killed, paused, filled and wiped.

For tests, benchmarks and `sentinel chaos`. Synchronous; whoever runs on trio calls from a thread.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from sentinel.errors import SettingsError

START_SECONDS_MAX = 30.0
# PostgreSQL refuses to run as root; this user comes with Debian's package, the other exists everywhere.
_UNPRIVILEGED = ("postgres", "nobody")


@attrs.define(eq=False)
class Server:
    """A server process and what can be done to it. `start` may be called again after `kill` or `stop`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How clients reach it."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves now."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and return once it answers. Raises SettingsError if it does not within START_SECONDS_MAX."""
        with (self.folder / "server.log").open("ab") as log:
            user = _unprivileged() if os.geteuid() == 0 else None
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=user, cwd=self.folder, start_new_session=True
            )
        _wait_until(self.answers, f"{self.command()[0]} did not start; its log is {self.folder}/server.log")

    def kill(self) -> None:
        """SIGKILL to it and all its processes: nothing is written any more."""
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """SIGSTOP: hung, not dead. The kernel still takes connections and bytes for it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """An orderly end, fast; killed if that takes longer than ten seconds."""
        if self.process and self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._wait()

    def remove(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            for pid in _family(self.process.pid):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    def _wait(self) -> None:
        if self.process:
            self.process.wait()
            self.process = None


@attrs.define(eq=False)
class RedisServer(Server):
    """A redis-server, or another `program` of its kind. `options` are command-line options such as {"appendonly": "yes"}."""

    options: Mapping[str, str] = attrs.field(factory=dict)
    program: str = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        options = {"bind": "127.0.0.1", "save": "", "appendonly": "yes"} | dict(self.options)
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [_program(self.program), "--port", str(self.port), "--dir", str(self.folder), *flags]

    def answers(self) -> bool:
        return self.ask("PING").startswith("+PONG")

    def ask(self, *words: str) -> str:
        """The first line (at most 4 kB) of the answer to one command, or "" if it does not answer within a second."""
        packed = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w.encode()), w.encode()) for w in words)
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(packed)
                return connection.recv(4096).decode("utf-8", "replace")
        except OSError:
            return ""


@attrs.define(eq=False)
class PostgresServer(Server):
    """A postmaster on a fresh cluster. `options` are configuration parameters such as {"max_connections": "20"}."""

    options: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def url(self) -> str:
        return self.database("postgres")

    def database(self, name: str) -> str:
        """The URL of a database of that name."""
        return f"postgresql://sentinel@127.0.0.1:{self.port}/{name}"

    def command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder)} | dict(self.options)
        flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *flags]

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            user = _unprivileged() if os.geteuid() == 0 else None
            # The disk is not waited for: no server here outlives the machine, and what it commits it waits for itself.
            flags = ["-U", "sentinel", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
            command = [_program("initdb"), "-D", str(data), *flags]
            subprocess.run(command, check=True, capture_output=True, user=user, cwd=self.folder)
        (data / "postmaster.pid").unlink(missing_ok=True)  # left by a kill; its number may be another process's by now
        super().start()

    def answers(self) -> bool:
        command = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=10).returncode == 0

    def run(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for the statement, unaligned and without headings. Raises CalledProcessError if it fails."""
        command = [_program("psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", self.database(database), "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode()


@attrs.define(eq=False)
class PoolerServer(Server):
    """A PgBouncer in transaction mode in front of a PostgreSQL; every statement may go to another connection of the server."""

    postgres: PostgresServer = attrs.field(kw_only=True)

    @property
    def url(self) -> str:
        return self.database("postgres")

    def database(self, name: str) -> str:
        """The URL of a database of that name, by way of the pooler."""
        return f"postgresql://sentinel@127.0.0.1:{self.port}/{name}"

    def command(self) -> list[str]:
        return [_program("pgbouncer"), str(self.folder / "pgbouncer.ini")]

    def start(self) -> None:
        (self.folder / "users").write_text('"sentinel" ""\n')
        (self.folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {self.folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nserver_idle_timeout = 2\n"
        )
        super().start()

    def answers(self) -> bool:
        command = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-d", "postgres", "-U", "sentinel"]
        return subprocess.run(command, check=False, timeout=10).returncode == 0


def new_redis(program: str = "redis-server", **options: str) -> RedisServer:
    """A Redis that is not started yet; `_` in a name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return RedisServer(_new_folder("redis"), free_port(), options=named, program=program)


def new_postgres(**options: str) -> PostgresServer:
    """A PostgreSQL that is not started yet."""
    return PostgresServer(_new_folder("postgres"), free_port(), options=options)


def new_pooler(postgres: PostgresServer) -> PoolerServer:
    """A pooler in front of that server, not started yet."""
    return PoolerServer(_new_folder("pooler"), free_port(), postgres=postgres)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def has_program(name: str) -> bool:
    """Whether a server program is installed."""
    try:
        return bool(_program(name))
    except SettingsError:
        return False


def _new_folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"sentinel-{name}-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _unprivileged())
    return folder


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _UNPRIVILEGED if name in known)


def _program(name: str) -> str:
    """The path of a server program. Debian keeps PostgreSQL's out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        raise SettingsError(f"{name} is not installed (Debian: apt install postgresql redis-server pgbouncer).")
    return found


def _family(pid: int) -> list[int]:
    """The process and all below it, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline:
            raise SettingsError(otherwise)
        time.sleep(0.02)
