"""A copy of the directory on the gateway's disk, so that a gateway can start, and keep webhooks, while its record is down.

Sealed as a whole, with the server key that seals the record's secrets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from sentinel import payload
from sentinel.edge.plans import parse_terms, terms_text
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.errors import BadInput, SettingsError
from sentinel.keyring import Keyring
from sentinel.logs import log
from sentinel.model import Key, Source
from sentinel.records.directory import Directory
from sentinel.sealing import seal, unseal

FILE = "directory.json"
OWNER = "copy of the directory"


@attrs.frozen
class DirectoryCopy:
    """The copy in `folder`: what it takes to know a genuine request and what its sender may use."""

    folder: Path
    keyring: Keyring

    def write(self, directory: Directory) -> None:
        """Replace the copy; one that cannot be written is only a pity."""
        content = {
            "tenants": sorted(directory.tenants),
            "sources": [attrs.asdict(source) for source in directory.sources.values()],
            "server_key_id": directory.server_key_id,
            "disabled_tenants": sorted(directory.disabled_tenants),
            "subscriptions": [_written(each) for each in directory.subscriptions.values()],
            "keys": {key_hash: attrs.asdict(key) for key_hash, key in directory.keys.items()},
        }
        fresh = self.folder / f".{FILE}.{os.getpid()}"
        try:
            fresh.touch(mode=0o600)
            key = self.keyring.find(directory.server_key_id) if directory.server_key_id else self.keyring.newest()
            fresh.write_text(seal(payload.encode_json(content).decode(), key, OWNER))
            fresh.replace(self.folder / FILE)
        except (OSError, SettingsError) as error:
            log.warning("directory.copy_failed", reason=str(error))

    def read(self) -> Directory | None:
        """The directory as it was copied last, or None."""
        try:
            content = payload.decode_own_json(unseal((self.folder / FILE).read_text(), self.keyring.find, OWNER))
            sources = [Source(**source) for source in content["sources"]]
            keys = {key_hash: Key(**key) for key_hash, key in content["keys"].items()}
            subscriptions = {each["tenant"]: _read(each) for each in content.get("subscriptions", ())}
        except (OSError, ValueError, TypeError, KeyError, BadInput, SettingsError) as error:
            log.warning("directory.no_copy", reason=error)
            return None
        return Directory(
            tenants=frozenset(content["tenants"]),
            sources={(source.channel, source.name): source for source in sources},
            keys=keys,
            server_key_id=content.get("server_key_id"),
            disabled_tenants=frozenset(content.get("disabled_tenants", ())),
            subscriptions=subscriptions,
        )


def _written(subscription: Subscription) -> dict[str, Any]:
    terms = {name: terms_text(getattr(subscription, name)) for name in ("special", "terms")}
    return attrs.asdict(subscription, recurse=False) | terms


def _read(given: dict[str, Any]) -> Subscription:
    terms = {name: parse_terms(given[name]) for name in ("special", "terms")}
    return Subscription(**given | terms | {"status": Status(given["status"])})
