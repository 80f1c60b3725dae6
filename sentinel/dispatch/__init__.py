"""What a dispatch is: it says which job to look at next, and nothing else. Holds ids, never bodies; must not be believed.

The record is the authority: whoever takes a hint claims the job there. So a hint that is lost, stale or doubled does no harm, and a
dispatch may be wiped at any time and is filled again from the record. Knows no record itself; `keeper.py` brings the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from sentinel.edge.limits import News, Told
from sentinel.errors import SettingsError, Unavailable
from sentinel.model import Hint

PRIORITY_MAX = 1_023  # a hint's priority counts as within 0 and this; its id has no white space


class Stale(Unavailable):
    """Redis is empty, or older than what was known."""


class Dispatch(Protocol):
    """
    The contract. Synchronous, one connection, one thread at a time; `wait` and `take_next` have another, and so has `offer`.

    Every method raises Unavailable within a bounded time when the dispatch cannot do it now; whether it did it is then unknown,
    which is harmless: everything can be repeated. Every method but `wait` and `rebuild` raises Stale

    - when the dispatch is empty, is being refilled, or has become older than what this object has seen of it (an older copy was
      put back, or a crash took the last writes): each call, until somebody has rebuilt it;
    - once, when it was refilled since by somebody else, or an older filling came back: this object then goes on with that one. That
      is right because all that can be wrong is that some hints are missing or doubled. The doubled are harmless; for the missing,
      the caller sweeps: it enqueues again whatever the record says is ready.
    """

    def enqueue(self, hints: Sequence[Hint]) -> int:
        """
        How many were new; wakes those who wait. A hint that waits already stays as it is. The jobs may be claimed now.

        One that is leased waits again: whoever has it may have asked the record before the job could be claimed.
        """

    def offer(self, hints: Sequence[Hint]) -> None:
        """
        As `enqueue`, in a thread and on a connection of its own, for jobs that are new.

        Where others of a hint's chat are known, it waits behind them until it is its turn: see `ended`.
        """

    def take(self, count: int, lease_seconds: float) -> list[str]:
        """
        Up to `count` job ids, in turns between tenants; of one tenant's, by priority and age.

        Each is leased: it is waiting again after `lease_seconds` unless `done`.
        """

    def done(self, claimed: Sequence[str], missed: Sequence[str] = ()) -> None:
        """
        Forget these hints if they are still leased: the jobs were claimed, or were not to be had. What was offered again stays.

        In a chat one that was claimed keeps the others waiting until `ended`. Where one was missed, nothing is as it seemed: all
        hints of its chat are forgotten. Who is next there has to be asked of the record, and enqueued.
        """

    def ended(self, ids: Sequence[str]) -> list[str]:
        """
        These jobs are over: the next of each chat waits to be taken.

        The ids of those of whose chats nobody else is known here; the record may know somebody.
        """

    def wait(self, seconds: float) -> bool:
        """
        Whether there was something to take; False after `seconds`. It may be gone by the time that the caller takes.

        Blocks its thread, at most half a second longer than `seconds`, even when the dispatch hangs. Holds up no other method.
        """

    def take_next(self, count: int, lease_seconds: float) -> list[str]:
        """As `take`, in the thread and on the connection of `wait`: for when that has said True."""

    def waiting(self) -> int:
        """How many hints wait, behind others of their chats too."""

    def lead(self, seconds: float) -> bool:
        """
        Whether this object is the one that sweeps, for so long from now. The one that asks again in time stays it.

        Writes whatever the answer is: a dispatch that only reads cannot be used.
        """

    def rebuild(self, pages: Iterable[Sequence[Hint]]) -> bool:
        """
        Remove everything, enqueue what the pages hold, and only then let others in again. They get Stale until then.

        False if somebody else is at it, or was faster: there is a filling that this object did not know yet (a new object knows
        none). Whatever the pages raise comes out here; the dispatch then stays closed until the next rebuild.
        """

    def policy_warning(self) -> str | None:
        """
        A sentence for the operator if the dispatch may drop keys when memory is short, or if that cannot be known.

        Raises nothing.
        """

    def close(self) -> None:
        """Give the connections back. What waits in another thread is woken with Unavailable."""


class SharedCount(Protocol):
    """How much of each rate limit all gateways together have used. Synchronous, one thread at a time."""

    def tell(self, news: Sequence[News]) -> list[Told]:
        """
        Add what was let in here to each limit, and one more where that is wanted; what all together have let in.

        Raises Unavailable within a bounded time; whether it was added is then unknown.
        """

    def close(self) -> None:
        """Give the connection back."""


def open_dispatch(url: str, timeout_seconds: float = 0.5) -> Dispatch:
    """The dispatch at that URL (`redis://` or `rediss://`). Connects when it is first used, so it opens while Redis is down too."""
    if url.partition("://")[0] in ("redis", "rediss"):
        from sentinel.dispatch.redis import RedisDispatch

        return RedisDispatch(url, timeout_seconds)
    raise SettingsError("The dispatch's URL must begin with redis:// or rediss://.")


def open_shared_count(url: str) -> SharedCount:
    """The count in the Redis at that URL. Connects when it is first used."""
    from sentinel.dispatch.limits import RedisLimits

    return RedisLimits(url)
