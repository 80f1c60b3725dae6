"""The part of a record that says who may do what: what the command line writes, and what gateways follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from sentinel.edge.subscriptions import Subscription
from sentinel.model import Key, Source
from sentinel.secret import SecretMapping


@attrs.frozen
class Directory:
    """
    Who may do what: sources by (channel, name), live keys by hash, networks, callback secrets and subscriptions by tenant.

    `server_key_id` names the server key that seals the record's secrets; None as long as it has none.
    """

    tenants: frozenset[str] = frozenset()
    sources: Mapping[tuple[str, str], Source] = attrs.field(factory=dict)
    keys: Mapping[str, Key] = attrs.field(factory=dict, repr=False)
    networks: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    callback_secrets: Mapping[str, str] = attrs.field(factory=SecretMapping, converter=SecretMapping)
    server_key_id: str | None = None
    subscriptions: Mapping[str, Subscription] = attrs.field(factory=dict)


class DirectoryRecord(Protocol):
    """The administering part of the contract. Each method is one transaction."""

    def directory_version(self) -> int:
        """A number that changes whenever the directory does."""

    def directory(self) -> Directory:
        """Tenants, sources, keys and networks. Raises SettingsError when the server key that sealed the secrets is not here."""

    def keys(self) -> list[Key]:
        """All keys, revoked ones too."""

    def add_tenant(self, name: str, now: float) -> bool:
        """True if the tenant is new."""

    def put_source(self, source: Source, now: float) -> bool:
        """Add a source or replace its settings; False if another tenant has that channel and name."""

    def remove_source(self, source: Source) -> bool:
        """True if it was there."""

    def add_key(self, key: Key, key_hash: str, now: float) -> None:
        """Keep a new key's hash."""

    def revoke_key(self, key_id: str, now: float) -> bool:
        """True if it was live."""

    def callback_secret(self, tenant: str, candidate: str) -> str:
        """The tenant's callback secret; `candidate` becomes it if there is none yet."""

    def allow_network(self, tenant: str, network: str) -> None:
        """Let the tenant's callbacks go to this network (CIDR), also by plain http."""

    def server_key_id(self) -> str | None:
        """The id of the server key in force; None as long as nothing was sealed."""

    def server_key_uses(self) -> Mapping[str, int]:
        """How many texts each server key seals, by its id; under "none", what is not sealed."""

    def seal_secrets(self) -> int:
        """Seal what an earlier version kept in the open; how many texts. Raises SettingsError if the server key cannot be had."""

    def rotate_server_key(self) -> str:
        """Seal everything with the newest server key at hand, which is then the one in force; its id."""
