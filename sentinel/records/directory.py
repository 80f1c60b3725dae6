"""The part of a record that says who may do what: what the command line writes, and what gateways follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import attrs

from sentinel.edge.subscriptions import Subscription
from sentinel.model import Key, Source, Tenant
from sentinel.secret import Secret, SecretMapping


@attrs.frozen
class Directory:
    """
    Who may do what: sources by (channel, name), live keys by hash, networks, callback secrets and subscriptions by tenant.

    Callback secrets are to be read by `standard_webhooks.in_force`.
    `server_key_id` names the server key that seals the record's secrets; None as long as it has none.
    """

    tenants: frozenset[str] = frozenset()
    sources: Mapping[tuple[str, str], Source] = attrs.field(factory=dict)
    keys: Mapping[str, Key] = attrs.field(factory=dict, repr=False)
    networks: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    callback_secrets: Mapping[str, str] = attrs.field(factory=SecretMapping, converter=SecretMapping)
    server_key_id: str | None = None
    subscriptions: Mapping[str, Subscription] = attrs.field(factory=dict)
    disabled_tenants: frozenset[str] = frozenset()


@attrs.frozen
class AuditEntry:
    """What an administrator did: who, what, when, to what. `detail` names what was changed and never holds a secret."""

    at: float
    actor: str
    action: str
    subject: str
    tenant: str | None = None
    detail: Mapping[str, Any] = attrs.field(factory=dict)
    sequence: int = 0


@attrs.frozen
class AuditFilter:
    """Which entries to list, newest first. None means any; `before` is the sequence to go on from."""

    tenant: str | None = None
    action: str | None = None
    before: int | None = None
    limit: int = 50


class DirectoryRecord(Protocol):
    """The administering part of the contract. Each method is one transaction, or part of the one around it."""

    def transaction(self) -> AbstractContextManager[None]:
        """All that is called in the block, or nothing."""

    def directory_version(self) -> int:
        """A number that changes whenever the directory does."""

    def directory(self) -> Directory:
        """Tenants, sources, keys and networks. Raises SettingsError when the server key that sealed the secrets is not here."""

    def keys(self) -> list[Key]:
        """All keys, revoked ones too."""

    def add_tenant(self, name: str, now: float) -> bool:
        """True if the tenant is new."""

    def tenants(self) -> list[Tenant]:
        """All tenants, by name."""

    def disable_tenant(self, name: str, at: float | None) -> bool:
        """Disable the tenant, or with None enable it; True if that changed anything."""

    def remove_tenant(self, name: str) -> bool:
        """Remove a tenant with its sources, keys and networks; its jobs stay. True if it was there."""

    def live_jobs(self, tenant: str, channel: str | None = None, source: str | None = None) -> int:
        """How many jobs of the tenant, or of one of its sources, will still do something by themselves."""

    def put_source(self, source: Source, now: float) -> bool:
        """Add a source or replace its settings; False if another tenant has that channel and name."""

    def disable_source(self, source: Source, at: float | None) -> bool:
        """Disable the source, or with None enable it; True if that changed anything."""

    def remove_source(self, source: Source) -> bool:
        """True if it was there."""

    def add_key(self, key: Key, key_hash: str, now: float) -> None:
        """Keep a new key by a hash that is made already."""

    def keep_key(self, key: Key, text: Secret) -> None:
        """Keep a new key by its hash under the server key in force."""

    def revoke_key(self, key_id: str, now: float) -> bool:
        """True if it was live."""

    def expire_key(self, key_id: str, at: float) -> bool:
        """Let a live key end at that time, if it would not end sooner; True if that changed anything."""

    def note_key_uses(self, uses: Mapping[str, float], hashes: Mapping[str, str]) -> None:
        """When keys were last used, by their ids, and new hashes of some of them."""

    def write_audit(self, entry: AuditEntry) -> None:
        """Append to the audit; what is there is never changed or removed."""

    def audit(self, wanted: AuditFilter) -> list[AuditEntry]:
        """The entries that match, newest first."""

    def callback_secret(self, tenant: str, candidate: str) -> str:
        """The tenant's callback secret; `candidate` becomes it if there is none yet. Raises NotFound if the tenant was removed."""

    def rotate_callback_secret(self, tenant: str, fresh: str, until: float) -> None:
        """Make `fresh` the tenant's callback secret; the one before it signs too until that time."""

    def allow_network(self, tenant: str, network: str) -> None:
        """Let the tenant's callbacks go to this network (CIDR), also by plain http."""

    def server_key_id(self) -> str | None:
        """The id of the server key in force; None as long as nothing was sealed."""

    def server_key_uses(self) -> Mapping[str, int]:
        """How many texts and API keys each server key is needed for, by its id; under "none", those without one."""

    def seal_secrets(self) -> int:
        """Seal what an earlier version kept in the open; how many texts. Raises SettingsError if the server key cannot be had."""

    def rotate_server_key(self) -> str:
        """Seal everything with the newest server key at hand, which is then the one in force; its id."""
