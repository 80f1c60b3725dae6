"""When to leave something alone that has failed, and when to try it again. Pure: no clock, no chance and no I/O of its own."""

from __future__ import annotations

import attrs

PAUSE_FIRST_SECONDS = 1.0
PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 10.0  # closed for so long, it counts as well again, and the next pause is short
TRIAL_SECONDS_MAX = 10.0  # a trial that nobody reported on is given up after that


@attrs.define
class Breaker:
    """
    Opens at `patience` failures in a row and lets nobody through; after a pause one trial at a time, until one succeeds.

    The pause doubles with every failure, from 1 s to `pause_seconds_max`, half of it by chance; also from one opening to the next,
    unless it was closed for STEADY_SECONDS in between. `now` is in seconds, by a clock that does not go back.

    Attributes:
        open_since: when it opened; None while it is closed. A failed trial does not change it.
        reason: why it opened, or why the last trial failed; "" while it is closed.
    """

    open_since: float | None = None
    reason: str = ""
    patience: int = 1
    pause_seconds_max: float = PAUSE_SECONDS_MAX
    _failures: int = 0
    _pause: float = 0.0
    _closed_at: float | None = None
    _next_trial_at: float = 0.0
    _trying: bool = False

    def allows(self, now: float) -> bool:
        """Whether to try now. If it is open and says yes, that is the trial: report what came of it."""
        if self.open_since is None:
            return True
        if now < self._next_trial_at:
            return False
        self._trying, self._next_trial_at = True, now + TRIAL_SECONDS_MAX  # for the others, until this one has reported
        return True

    @property
    def is_well(self) -> bool:
        """Whether it is closed and the last try worked."""
        return self.open_since is None and not self._failures

    def seconds_left(self, now: float) -> float:
        """How long it will let nobody through; 0 when somebody may try."""
        return 0.0 if self.open_since is None else max(0.0, self._next_trial_at - now)

    def succeeded(self, now: float) -> None:
        """It worked. While it is open only the trial counts: others may have begun before it broke."""
        self._failures = 0
        if self._trying:
            self.open_since, self.reason, self._closed_at, self._trying = None, "", now, False

    def failed(self, now: float, reason: str, chance: float = 1.0) -> None:
        """It did not work. `chance`, from 0 to 1, spreads those who failed together."""
        self._failures += 1
        if self.open_since is None:
            if self._failures < self.patience:
                return
            steady = self._closed_at is None or now - self._closed_at >= STEADY_SECONDS
            self._open(now, 0.0 if steady else self._pause, reason, chance)
            self.open_since = now
        elif self._trying:
            self._open(now, self._pause, reason, chance)

    def _open(self, now: float, last_pause: float, reason: str, chance: float) -> None:
        self._pause = min(max(last_pause * 2, PAUSE_FIRST_SECONDS), self.pause_seconds_max)
        self._next_trial_at = now + self._pause * (0.5 + chance / 2)
        self.reason, self._trying = reason, False
