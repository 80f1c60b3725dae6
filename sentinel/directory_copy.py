"""A copy of the directory on the gateway's disk, so that a gateway can start, and keep webhooks, while its record is down.

Holds secrets, as the record does: only its owner may read it.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from sentinel import payload
from sentinel.logs import log
from sentinel.model import Key, Source
from sentinel.records.directory import Directory

FILE = "directory.json"


@attrs.frozen
class DirectoryCopy:
    """The copy in `folder`: sources and keys, which is what it takes to know a genuine request."""

    folder: Path

    def write(self, directory: Directory) -> None:
        """Replace the copy; one that cannot be written is only a pity."""
        content = {
            "tenants": sorted(directory.tenants),
            "sources": [attrs.asdict(source) for source in directory.sources.values()],
            "keys": {key_hash: attrs.asdict(key) for key_hash, key in directory.keys.items()},
        }
        fresh = self.folder / f".{FILE}.{os.getpid()}"
        try:
            fresh.touch(mode=0o600)
            fresh.write_bytes(payload.encode_json(content))
            fresh.replace(self.folder / FILE)
        except OSError as error:
            log.warning("directory.copy_failed", reason=str(error))

    def read(self) -> Directory | None:
        """The directory as it was copied last, or None."""
        try:
            content = payload.decode_own_json((self.folder / FILE).read_text())
            sources = [Source(**source) for source in content["sources"]]
            keys = {key_hash: Key(**key) for key_hash, key in content["keys"].items()}
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("directory.no_copy", reason=repr(error)[:200])
            return None
        return Directory(frozenset(content["tenants"]), {(source.channel, source.name): source for source in sources}, keys)
