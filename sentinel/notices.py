"""Which of those who were refused in a chat are to be told, without asking the record: each at most once an hour and process.

What the record then keeps is one notice for each chat and hour, whichever gateway was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from sentinel.channels import Channel
from sentinel.edge.notices import notice_job
from sentinel.model import Event, NewJob, Source

REMEMBERED = 10_000


@attrs.define(eq=False)
class Notices:
    """Remembers the last REMEMBERED notices."""

    _told: dict[str, None] = attrs.field(factory=dict)

    def due(self, channel: Channel, source: Source, refused: Iterable[tuple[Event, str]], proof: str, now: float) -> list[NewJob]:
        """The notices to keep, for events and the checks that refused them. `undo` them if they could not be kept."""
        notices = []
        for event, check in refused:
            notice = notice_job(event, source, check, proof, now)
            if notice is None or notice.id in self._told or channel.send(source, event.reply_to, "…", notice.id, now) is None:
                continue
            self._told[notice.id] = None
            notices.append(notice)
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return notices

    def undo(self, notices: Sequence[NewJob]) -> None:
        """These were not kept."""
        for notice in notices:
            self._told.pop(notice.id, None)
