"""Servers of the tests' own that speak TLS, with certificates that can be changed while they run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from sentinel.chaos.servers import PostgresServer, RedisServer, free_port, new_postgres, new_redis
from tests.certificates import Authority, new_authority


@attrs.frozen
class SecuredRedis:
    """A Redis that speaks TLS, and whoever signs its certificates."""

    server: RedisServer
    authority: Authority
    port: int

    def present(self, name: str = "localhost", days: int = 2) -> None:
        """From now on it shows this certificate."""
        self.authority.issue(self.server.folder, name, days)
        files = [str(self.server.folder / file) for file in ("server.crt", "server.key")]
        assert self.server.ask("CONFIG", "SET", "tls-cert-file", files[0], "tls-key-file", files[1]).startswith("+OK")

    def url(self, host: str = "localhost", user: str = "", **options: object) -> str:
        """How to reach it; `user` is as in `name:password@`."""
        given = {"ssl_ca_certs": self.authority.certificate} | options
        return f"rediss://{user}{host}:{self.port}/0?" + "&".join(f"{name}={value}" for name, value in given.items())


@attrs.frozen
class SecuredPostgres:
    """A PostgreSQL that speaks TLS, and whoever signs its certificates."""

    server: PostgresServer
    authority: Authority

    def present(self, name: str = "localhost", days: int = 2) -> None:
        """From now on it shows this certificate to whoever connects."""
        self.authority.issue(self.server.folder, name, days)
        if self.server.process:
            self.server.process.send_signal(signal.SIGHUP)

    def url(self, host: str = "localhost", database: str = "postgres", **options: object) -> str:
        """How to reach it."""
        given = {"sslmode": "verify-full", "sslrootcert": self.authority.certificate} | options
        return f"postgresql://sentinel@{host}:{self.server.port}/{database}?" + "&".join(f"{k}={v}" for k, v in given.items())


@contextmanager
def secured_redis(folder: Path) -> Iterator[SecuredRedis]:
    """One that runs until the block is left; what signs its certificates is in a folder that is made."""
    made = SecuredRedis(new_redis(), new_authority(folder), free_port())
    try:
        made.server.start()
        made.present()
        made.server.ask("CONFIG", "SET", "tls-auth-clients", "no")
        assert made.server.ask("CONFIG", "SET", "tls-port", str(made.port)).startswith("+OK")
        yield made
    finally:
        made.server.remove()


@contextmanager
def secured_postgres(folder: Path) -> Iterator[SecuredPostgres]:
    """The same with PostgreSQL."""
    server = new_postgres()
    files = {f"ssl_{kind}_file": str(server.folder / f"server.{end}") for kind, end in (("cert", "crt"), ("key", "key"))}
    server.options = {"ssl": "on"} | files
    made = SecuredPostgres(server, new_authority(folder))
    try:
        made.present()
        server.start()
        yield made
    finally:
        server.remove()
