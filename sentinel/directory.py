"""Who may do what, in memory: sources, keys, networks. Follows the record; a request never waits for a store because of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import trio

from sentinel.directory_copy import DirectoryCopy
from sentinel.edge.keys import every_hash, is_well_formed, keyed_hash, server_key_id_of
from sentinel.errors import Forbidden, Forged, NotFound, SettingsError, Unavailable
from sentinel.http import Request
from sentinel.key_uses import KeyUses
from sentinel.keyring import Keyring
from sentinel.logs import Outage, log
from sentinel.model import Key, Source
from sentinel.records import Bell, Store
from sentinel.records.directory import Directory

FOLLOW_SECONDS = 1.0
START_SECONDS_MAX = 1.0  # so long a record is waited for where there may be a copy: senders wait for us
BELL_SECONDS = 0.25


@attrs.define(eq=False)
class DirectoryFollower:
    """The newest directory that was read. When the record is down, the last one stays in force."""

    store: Store
    current: Directory = attrs.field(factory=Directory)
    copy: DirectoryCopy | None = None
    bell: Bell | None = None
    keyring: Keyring | None = None
    uses: KeyUses | None = None
    clock: Callable[[], float] = time.time
    _version: int = 0
    _ringing: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def start(self) -> bool:
        """
        Read it for the first time: True; or, while the record does not answer at once, from the copy: False.

        Raises Unavailable if there is neither, and SettingsError if the record's secrets are sealed with a key that is not here.
        """
        if self.copy is not None:
            reason = "The record did not answer at once."
            try:
                with trio.move_on_after(START_SECONDS_MAX):
                    await self._read_first()
                    return True
            except Unavailable as error:
                reason = error.detail
            if (kept := self.copy.read()) is not None:
                self.current = kept
                log.warning("directory.from_copy", reason=reason)
                return False
        await self._read_first()
        return True

    async def _read_first(self) -> None:
        await self.store.read(self.store.record.migrate)
        await self.refresh()

    async def refresh(self) -> None:
        """Read the directory again if it changed. Raises as `start` does."""
        version = await self.store.call(self.store.record.directory_version)
        if version != self._version:
            self.current = await self.store.call(self.store.record.directory)
            self._version = version
            if self.copy is not None:
                self.copy.write(self.current)

    async def run(self) -> None:
        """Follow changes for ever: at once where a bell rings, else within FOLLOW_SECONDS. Belongs in the owner's nursery."""
        outage = Outage("directory.stale")
        while True:
            await self._wait()
            try:
                await self.refresh()
            except (Unavailable, SettingsError) as error:  # a server key that is not here yet is no reason to end what runs
                outage.failed(error.detail)
            else:
                outage.over()

    async def _wait(self) -> None:
        """Until the bell rings, or for FOLLOW_SECONDS: a bell may be deaf, and there may be none."""
        until = trio.current_time() + FOLLOW_SECONDS
        try:
            while self.bell is not None and trio.current_time() < until:
                if await trio.to_thread.run_sync(self.bell.wait, BELL_SECONDS, limiter=self._ringing):
                    return
        except Unavailable as error:
            log.debug("directory.bell_unavailable", reason=error.detail)  # the look at the record, which follows, tells
        await trio.sleep_until(until)

    def source(self, channel: str, name: str) -> Source:
        """The source, if it takes webhooks. Raises NotFound, in the same words for one that is disabled."""
        source = self.current.sources.get((channel, name))
        if source is None or source.disabled_at is not None or source.tenant in self.current.disabled_tenants:
            raise NotFound("There is no source of that name on this channel.")
        return source

    def known_source(self, channel: str, name: str) -> Source:
        """The source, even if it takes no more webhooks: what it took before is still answered. Raises NotFound."""
        try:
            return self.current.sources[channel, name]
        except KeyError:
            raise NotFound("There is no source of that name on this channel.") from None

    def authenticate(self, request: Request, scope: str) -> Key:
        """
        The live key that the request bears (RFC 6750), if it may do what `scope` names. Costs no look into the record.

        Raises Forged, with the same words whatever is wrong with the key, and Forbidden for a good key without the scope.
        """
        scheme, _, given = request.header("authorization").partition(" ")
        given = given.strip()
        if scheme.lower() != "bearer" or not given:
            raise Forged("Send an API key in the header: Authorization: Bearer snt_…")
        key = self._find_key(given) if is_well_formed(given) else None
        if key is None:
            raise Forged("The API key is not valid.")
        if scope not in key.scopes:
            raise Forbidden(f"The API key has not the scope {scope}.")
        return key

    def still_allows(self, request: Request, scope: str) -> bool:
        """Whether the request would still be let in: for what goes on for long after it was."""
        try:
            self.authenticate(request, scope)
        except (Forged, Forbidden):
            return False
        return True

    def _find_key(self, given: str) -> Key | None:
        """The live key of that text. What is looked up is a hash that the caller cannot steer, so the time tells nothing of it."""
        now = self.clock()
        hashes = every_hash(given, self.keyring.keys if self.keyring else ())
        key_hash, key = next(((found, self.current.keys[found]) for found in hashes if found in self.current.keys), ("", None))
        if key is None or not key.is_live(now) or key.tenant in self.current.disabled_tenants:
            return None
        if self.uses is not None:
            self.uses.note(key.id, now, self._better_hash(given, key_hash))
        return key

    def _better_hash(self, given: str, found_by: str) -> str | None:
        """The hash under the server key in force, for a key that was found by another; None if there is none better."""
        in_force = self.current.server_key_id
        if in_force is None or self.keyring is None or server_key_id_of(found_by) == in_force:
            return None
        return keyed_hash(given, self.keyring.find(in_force))
