"""When keys were used: noted in memory by requests, written in batches beside them. A request never waits for it."""

from __future__ import annotations

import attrs
import trio

from sentinel.errors import Unavailable
from sentinel.logs import Outage
from sentinel.records import Store

COARSE_SECONDS = 60.0  # a use so soon after the last one that was noted is not worth a write
WRITE_SECONDS = 30.0


@attrs.define(eq=False)
class KeyUses:
    """What is still to be written: the last use by key id, and better hashes of keys that were found by an older one."""

    store: Store
    _noted: dict[str, float] = attrs.field(factory=dict)
    _uses: dict[str, float] = attrs.field(factory=dict)
    _hashes: dict[str, str] = attrs.field(factory=dict)

    def note(self, key_id: str, now: float, better_hash: str | None = None) -> None:
        """A key was used. `better_hash` is to replace the one that found it."""
        if better_hash is not None:
            self._hashes[key_id] = better_hash
        if now - self._noted.get(key_id, 0.0) >= COARSE_SECONDS:
            self._noted[key_id] = self._uses[key_id] = now

    async def write(self) -> None:
        """Write what there is. Raises Unavailable; it is then still to be written."""
        uses, self._uses = self._uses, {}
        hashes, self._hashes = self._hashes, {}
        if not uses and not hashes:
            return
        try:
            await self.store.call(self.store.record.note_key_uses, uses, hashes)
        except BaseException:
            self._uses, self._hashes = uses | self._uses, hashes | self._hashes
            raise

    async def run(self) -> None:
        """Write for ever, every WRITE_SECONDS. Belongs in the gateway's nursery."""
        outage = Outage("keys.uses_unwritten")
        while True:
            await trio.sleep(WRITE_SECONDS)
            try:
                await self.write()
            except Unavailable as error:
                outage.failed(error.detail)
            else:
                outage.over()
