"""The directory in SQL: tenants, sources, keys and networks. What the command line writes, and what gateways follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs

from sentinel.edge.keys import keyed_hash, server_key_id_of
from sentinel.errors import NotFound
from sentinel.keyring import Keyring
from sentinel.model import Key, Source, Tenant
from sentinel.records import rows
from sentinel.records.directory import AuditEntry, AuditFilter, Directory
from sentinel.records.sql_metering import SqlMetering
from sentinel.sealing import ServerKey, key_id_of, seal, unseal
from sentinel.secret import Secret
from sentinel.standard_webhooks import rotated


class SqlDirectory(SqlMetering):
    """The administering part of a record. Secrets are sealed on the way in and unsealed on the way out, with keys of `keyring`."""

    keyring: Keyring

    def transaction(self) -> AbstractContextManager[None]:
        return self._transaction()

    def directory_version(self) -> int:
        return int(self._one("directory_version")["version"])

    def directory(self) -> Directory:
        with self._transaction(reading=True):
            server_key = self._first("server_key")
            tenants, networks, sources, keys = (self._all(name) for name in ("tenants", "networks", "sources", "keys"))
            subscriptions = self._subscriptions()
        if server_key:
            self.keyring.find(server_key["id"])  # whoever has not the right key is told so, and not that every secret is wrong
        opened = [self._source(row) for row in sources]
        return Directory(
            tenants=frozenset(row["name"] for row in tenants),
            sources={(source.channel, source.name): source for source in opened},
            keys={row["hash"]: rows.key(row) for row in keys if row["revoked_at"] is None},
            networks=_networks(networks),
            callback_secrets={row["name"]: self._callback_secret(row) for row in tenants if row["callback_secret"]},
            server_key_id=server_key["id"] if server_key else None,
            subscriptions=subscriptions,
            disabled_tenants=frozenset(row["name"] for row in tenants if row["disabled_at"] is not None),
        )

    def _source(self, row: Any) -> Source:
        settings = unseal(row["settings"], self.keyring.find, _source_owner(row["tenant"], row["channel"], row["name"]))
        return Source(row["tenant"], row["channel"], row["name"], rows.decode(settings), row["disabled_at"])

    def _callback_secret(self, row: Any) -> str:
        return unseal(row["callback_secret"], self.keyring.find, _callback_owner(row["name"]))

    def keys(self) -> list[Key]:
        return [rows.key(row) for row in self._all("keys")]

    def add_tenant(self, name: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("add_tenant", name=name, now=now))

    def tenants(self) -> list[Tenant]:
        return [Tenant(row["name"], row["created_at"], row["disabled_at"]) for row in self._all("tenants")]

    def disable_tenant(self, name: str, at: float | None) -> bool:
        with self._transaction():
            return bool(self._run("disable_tenant", name=name, at=at))

    def remove_tenant(self, name: str) -> bool:
        with self._transaction():
            for belongings in ("subscriptions", "sources", "keys", "networks"):
                self._run(f"remove_tenant_{belongings}", name=name)
            return bool(self._run("remove_tenant", name=name))

    def live_jobs(self, tenant: str, channel: str | None = None, source: str | None = None) -> int:
        return int(self._one("live_jobs", tenant=tenant, channel=channel, source=source)["jobs"])

    def put_source(self, source: Source, now: float) -> bool:
        with self._transaction():
            values = {"tenant": source.tenant, "settings": _sealed(source, self._key_in_force()), "now": now}
            return bool(self._run("put_source", channel=source.channel, name=source.name, **values))

    def disable_source(self, source: Source, at: float | None) -> bool:
        with self._transaction():
            return bool(self._run("disable_source", channel=source.channel, name=source.name, at=at))

    def remove_source(self, source: Source) -> bool:
        with self._transaction():
            return bool(self._run("remove_source", channel=source.channel, name=source.name, tenant=source.tenant))

    def add_key(self, key: Key, key_hash: str, now: float) -> None:
        with self._transaction():
            values = attrs.asdict(key, recurse=False) | {"scopes": " ".join(key.scopes), "hash": key_hash, "now": now}
            self._run("add_key", **values)

    def keep_key(self, key: Key, text: Secret) -> None:
        with self._transaction():
            self.add_key(key, keyed_hash(text.reveal(), self._key_in_force()), key.created_at)

    def revoke_key(self, key_id: str, now: float) -> bool:
        with self._transaction():
            return bool(self._run("revoke_key", id=key_id, now=now))

    def expire_key(self, key_id: str, at: float) -> bool:
        with self._transaction():
            return bool(self._run("expire_key", id=key_id, at=at))

    def note_key_uses(self, uses: Mapping[str, float], hashes: Mapping[str, str]) -> None:
        with self._transaction():
            for key_id, at in uses.items():
                self._run("use_key", id=key_id, at=at)
            for key_id, key_hash in hashes.items():
                self._run("rehash_key", id=key_id, hash=key_hash)

    def write_audit(self, entry: AuditEntry) -> None:
        with self._transaction():
            self._run("add_audit", **attrs.asdict(entry, recurse=False) | {"detail": rows.encode(entry.detail)})

    def audit(self, wanted: AuditFilter) -> list[AuditEntry]:
        found = self._all("audit", **attrs.asdict(wanted))
        return [AuditEntry(**dict(row) | {"detail": rows.decode(row["detail"])}) for row in found]

    def callback_secret(self, tenant: str, candidate: str) -> str:
        with self._transaction():
            sealed = seal(candidate, self._key_in_force(), _callback_owner(tenant))
            self._run("set_callback_secret", tenant=tenant, secret=sealed)
            found = {row["name"]: row for row in self._all("tenants")}
            if tenant not in found:
                raise NotFound("There is no tenant of that name.")
            return self._callback_secret(found[tenant]).split(" ")[0]

    def rotate_callback_secret(self, tenant: str, fresh: str, until: float) -> None:
        with self._transaction():
            key = self._key_in_force()
            (row,) = [row for row in self._all("tenants") if row["name"] == tenant]
            text = rotated(self._callback_secret(row), fresh, until) if row["callback_secret"] else fresh
            self._run("reseal_callback_secret", tenant=tenant, secret=seal(text, key, _callback_owner(tenant)))

    def allow_network(self, tenant: str, network: str) -> None:
        with self._transaction():
            self._run("allow_network", tenant=tenant, network=network)

    # Server keys

    def server_key_id(self) -> str | None:
        known = self._first("server_key")
        return known["id"] if known else None

    def server_key_uses(self) -> Mapping[str, int]:
        with self._transaction(reading=True):
            keys = [server_key_id_of(row["hash"]) for row in self._all("keys") if row["revoked_at"] is None]
            return Counter(key_id or "none" for key_id in [*map(key_id_of, self._secret_texts()), *keys])

    def seal_secrets(self) -> int:
        with self._transaction():
            plain = sum(not key_id_of(text) for text in self._secret_texts())
            if plain:
                self._reseal(self._key_in_force())
        return plain

    def rotate_server_key(self) -> str:
        with self._transaction():
            key = self.keyring.newest()
            self._run("add_server_key", id=key.id)
            self._run("change_server_key", id=key.id)  # first, so that whoever seals with the old one is waited for
            self._reseal(key)
        return key.id

    def _secret_texts(self) -> list[str]:
        secrets = [row["callback_secret"] for row in self._all("tenants") if row["callback_secret"]]
        return [row["settings"] for row in self._all("sources")] + secrets

    def _reseal(self, key: ServerKey) -> None:
        for row in self._all("sources"):
            sealed = _sealed(self._source(row), key)
            self._run("reseal_source", channel=row["channel"], name=row["name"], settings=sealed)
        for row in self._all("tenants"):
            if row["callback_secret"]:
                sealed = seal(self._callback_secret(row), key, _callback_owner(row["name"]))
                self._run("reseal_callback_secret", tenant=row["name"], secret=sealed)

    def _key_in_force(self) -> ServerKey:
        """The server key that the record's secrets are sealed with; whoever is first chooses it."""
        known = self._first("hold_server_key")
        if known is None:
            self._run("add_server_key", id=self.keyring.newest().id)
            known = self._one("hold_server_key")
        return self.keyring.find(known["id"])


def _networks(rows_found: Iterable[Any]) -> dict[str, list[str]]:
    """The networks of each tenant that has any."""
    networks: dict[str, list[str]] = {}
    for row in rows_found:
        networks.setdefault(row["tenant"], []).append(row["network"])
    return networks


def _sealed(source: Source, key: ServerKey) -> str:
    return seal(rows.encode(source.settings), key, _source_owner(source.tenant, source.channel, source.name))


def _source_owner(tenant: str, channel: str, name: str) -> str:
    return f"source {tenant}/{channel}/{name}"


def _callback_owner(tenant: str) -> str:
    return f"callbacks of {tenant}"
