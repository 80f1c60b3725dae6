"""The directory in SQL: tenants, sources, keys and networks. What the command line writes, and what gateways follow."""

from __future__ import annotations

import attrs

from sentinel.model import Key, Source
from sentinel.records import rows
from sentinel.records.directory import Directory
from sentinel.records.statements import Statements


class SqlDirectory(Statements):
    """The administering part of a record."""

    def directory_version(self) -> int:
        return int(self._one("directory_version")["version"])

    def directory(self) -> Directory:
        with self._transaction(reading=True):
            tenants, networks = self._all("tenants"), self._all("networks")
            sources = [
                Source(row["tenant"], row["channel"], row["name"], rows.decode(row["settings"])) for row in self._all("sources")
            ]
            keys = {row["hash"]: rows.key(row) for row in self._all("keys") if row["revoked_at"] is None}
        return Directory(
            tenants=frozenset(row["name"] for row in tenants),
            sources={(source.channel, source.name): source for source in sources},
            keys=keys,
            networks={
                name: [row["network"] for row in networks if row["tenant"] == name] for name in {n["tenant"] for n in networks}
            },
            callback_secrets={row["name"]: row["callback_secret"] for row in tenants if row["callback_secret"]},
        )

    def keys(self) -> list[Key]:
        return [rows.key(row) for row in self._all("keys")]

    def add_tenant(self, name: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("add_tenant", name=name, now=now))

    def put_source(self, source: Source, now: float) -> bool:
        with self._transaction():
            values = attrs.asdict(source, recurse=False) | {"settings": rows.encode(source.settings), "now": now}
            return bool(self._run("put_source", **values))

    def remove_source(self, source: Source) -> bool:
        with self._transaction():
            return bool(self._run("remove_source", channel=source.channel, name=source.name, tenant=source.tenant))

    def add_key(self, key: Key, key_hash: str, now: float) -> None:
        with self._transaction():
            self._run("add_key", id=key.id, tenant=key.tenant, hash=key_hash, hint=key.hint, now=now)

    def revoke_key(self, key_id: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("revoke_key", id=key_id, now=now))

    def callback_secret(self, tenant: str, candidate: str) -> str:
        with self._transaction():
            self._run("set_callback_secret", tenant=tenant, secret=candidate)
            secrets = {row["name"]: row["callback_secret"] for row in self._all("tenants")}
            return str(secrets[tenant])

    def allow_network(self, tenant: str, network: str) -> None:
        with self._transaction():
            self._run("allow_network", tenant=tenant, network=network)
