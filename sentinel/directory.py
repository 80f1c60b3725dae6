"""Who may do what, in memory: sources, keys, networks. Follows the record; a request never waits for a store because of it."""

from __future__ import annotations

import attrs
import trio

from sentinel.directory_copy import DirectoryCopy
from sentinel.edge.keys import hash_key, is_well_formed
from sentinel.errors import Forged, NotFound, SettingsError, Unavailable
from sentinel.http import Request
from sentinel.logs import Outage, log
from sentinel.model import Key, Source
from sentinel.records import Store
from sentinel.records.directory import Directory

FOLLOW_SECONDS = 1.0


@attrs.define(eq=False)
class DirectoryFollower:
    """The newest directory that was read. When the record is down, the last one stays in force."""

    store: Store
    current: Directory = attrs.field(factory=Directory)
    copy: DirectoryCopy | None = None
    _version: int = 0

    async def start(self) -> None:
        """
        Read it for the first time; from the copy while the record does not answer.

        Raises Unavailable if there is none, and SettingsError if the record's secrets are sealed with a key that is not here.
        """
        try:
            await self.store.call(self.store.record.migrate)
            await self.refresh()
        except Unavailable as error:
            kept = self.copy.read() if self.copy else None
            if kept is None:
                raise
            self.current = kept
            log.warning("directory.from_copy", reason=error.detail)

    async def refresh(self) -> None:
        """Read the directory again if it changed. Raises as `start` does."""
        version = await self.store.call(self.store.record.directory_version)
        if version != self._version:
            self.current = await self.store.call(self.store.record.directory)
            self._version = version
            if self.copy is not None:
                self.copy.write(self.current)

    async def run(self) -> None:
        """Follow changes for ever, within FOLLOW_SECONDS. Belongs in the owner's nursery."""
        outage = Outage("directory.stale")
        while True:
            await trio.sleep(FOLLOW_SECONDS)
            try:
                await self.refresh()
            except (Unavailable, SettingsError) as error:  # a server key that is not here yet is no reason to end what runs
                outage.failed(error.detail)
            else:
                outage.over()

    def source(self, channel: str, name: str) -> Source:
        """The source. Raises NotFound."""
        try:
            return self.current.sources[channel, name]
        except KeyError:
            raise NotFound("There is no source of that name on this channel.") from None

    def authenticate(self, request: Request) -> Key:
        """The live key that the request bears (RFC 6750). Raises Forged, with the same words whatever is wrong with the key."""
        scheme, _, given = request.header("authorization").partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            raise Forged("Send an API key in the header: Authorization: Bearer snt_…")
        key = self.current.keys.get(hash_key(given)) if is_well_formed(given) else None
        if key is None:
            raise Forged("The API key is not valid.")
        return key
