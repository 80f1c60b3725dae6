"""How many threads compute the next step: all cores while they are free, fewer while others need them. Pure; times are passed in.

The library's threads wait for each other hundreds of times a token, and they spin. When another program takes one core of two, two
threads are several times slower than one. So what is watched is the share of the time in which our threads really ran.
"""

from __future__ import annotations

import attrs

SHARE_MIN = 0.8  # below this, some of the threads wait for a core and the others for them
SMOOTHING = 0.3  # of a step in the mean of the last few
PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.5, 60.0
TRIAL_SHARE_MAX = 0.05  # a trial that fails costs a slow step: no more of the time than this goes to trials


@attrs.define
class Threads:
    """The count for the next step; it goes down when the cores are not ours, and is tried one higher after a growing pause."""

    most: int
    is_fixed: bool = False
    count: int = attrs.field(init=False)
    _share: float = attrs.field(default=1.0, init=False)
    _pause: float = attrs.field(default=PAUSE_SECONDS_FIRST, init=False)
    _changed: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.count = self.most

    def observe(self, now: float, wall_seconds: float, processor_seconds: float) -> None:
        """Tell how long a step took, and how long our threads ran in it, added up."""
        if self.is_fixed:
            return
        share = min(1.0, processor_seconds / (wall_seconds * self.count)) if wall_seconds > 0 else 1.0
        self._share += SMOOTHING * (share - self._share)
        if self._share < SHARE_MIN and self.count > 1:
            was_trial = now - self._changed < 2 * self._pause
            pause = 2 * self._pause if was_trial else PAUSE_SECONDS_FIRST
            self._pause = min(max(pause, wall_seconds / TRIAL_SHARE_MAX), PAUSE_SECONDS_MAX)
            self._change(now, self.count - 1)
        elif self.count < self.most and now - self._changed > self._pause:
            self._change(now, self.count + 1)

    def _change(self, now: float, count: int) -> None:
        self.count, self._changed, self._share = count, now, 1.0
