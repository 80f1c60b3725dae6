"""How things are, in plain words: the record, the workers, and where there are any, the dispatch and the spool."""

from __future__ import annotations

import attrs
import trio

from sentinel.dispatch.keeper import Keeper
from sentinel.errors import Unavailable
from sentinel.intake import Intake
from sentinel.records import Store
from sentinel.settings import Settings

WORKER_SEEN_SECONDS = 15.0
TROUBLE_SECONDS = 5.0  # a refused commit says so long that the record is not well, unless another has succeeded since


@attrs.frozen(eq=False)
class Health:
    """Asks everybody. "ok", or what is wrong; every check is bounded by the acknowledgment budget."""

    settings: Settings
    store: Store
    intake: Intake
    keeper: Keeper | None = None

    async def checks(self, now: float) -> dict[str, str]:
        """The state of each part by its name."""
        checks = {"record": "does not answer", "worker": "unknown"}
        with trio.move_on_after(self.settings.ack_budget):
            checks |= await self._ask_record(now)
        if self.keeper is not None:
            checks["dispatch"] = self.keeper.words()
        if self.intake.spooling is not None:
            checks["spool"] = self.intake.spooling.words()
        return checks

    def needed(self, only_keeping: bool) -> tuple[str, ...]:
        """Which checks must be ok: to make progress, or only to keep webhooks. A dispatch that is down is nobody's trouble."""
        if not only_keeping:
            return ("record", "worker")
        spooling = self.intake.spooling
        if spooling is None or not spooling.active:
            return ("record",)
        return ("spool",) if spooling.trouble and trio.current_time() - spooling.trouble_at < TROUBLE_SECONDS else ()

    async def _ask_record(self, now: float) -> dict[str, str]:
        try:
            workers = await self.store.read(self.store.record.workers)
        except Unavailable as error:
            return {"record": error.detail}
        if self.intake.trouble and now - self.intake.trouble_at < TROUBLE_SECONDS:  # what can be read cannot always be written
            return {"record": self.intake.trouble}
        alive = [worker.status for worker in workers if worker.last_seen > now - WORKER_SEEN_SECONDS]
        if "ready" in alive:
            return {"record": "ok", "worker": "ok"}
        return {"record": "ok", "worker": alive[0] if alive else "no worker is running"}
