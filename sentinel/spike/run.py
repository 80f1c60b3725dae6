"""One spike from the first webhook to the last reply: sends, looks on, and gathers what came of it. Judges in `verdict`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from sentinel.chaos.history import OK, Attempt, History
from sentinel.chaos.load import Patience, Sender
from sentinel.chaos.plan import Chain, Shape, make_plan
from sentinel.chaos.subject import in_thread
from sentinel.errors import Unavailable
from sentinel.spike.curve import Curve, bend
from sentinel.spike.histogram import Histogram
from sentinel.spike.target import Target, history_of
from sentinel.spike.timeline import Depth
from sentinel.spike.verdict import Spike, judge

LOOK_SECONDS, SETTLE_SECONDS, FOLLOW_SECONDS = 0.5, 0.5, 6.0
DESCRIPTORS_SPARE = 200


@attrs.frozen(kw_only=True)
class Options:
    """How to send. `late_seconds` is the promise for an acknowledgment; `fresh` gives each webhook a connection of its own."""

    curve: Curve = attrs.field(factory=Curve)
    shape: Shape = attrs.field(factory=Shape)
    seed: int = 1
    connections: int = 1_000
    fresh: bool = False
    late_seconds: float = 1.0
    drain_seconds: float = 300.0


@attrs.define(eq=False)
class Watch:
    """What is seen while the spike goes on."""

    target: Target
    attempts: list[Attempt]
    total: int
    start: float
    depths: list[Depth] = attrs.field(factory=list)
    _latencies: Histogram = attrs.field(factory=Histogram)
    _seen: int = 0

    async def look(self, say: Callable[[str], None]) -> None:
        """Note how deep the queue is, and say how far the spike is, for ever."""
        while True:
            with suppress(Unavailable):
                jobs = await in_thread(self.target.depth)
                self.depths.append(Depth(time.monotonic() - self.target.began, jobs))
            say(self.line())
            await trio.sleep(LOOK_SECONDS)

    def line(self) -> str:
        """How far it is, in one line."""
        for attempt in self.attempts[self._seen :]:
            self._seen += 1
            if attempt.outcome == OK:
                self._latencies.add(attempt.answered - attempt.planned)
        depth, seconds = (self.depths[-1].jobs if self.depths else 0), time.monotonic() - self.target.began - self.start
        return (
            f"{seconds:6.1f} s  acknowledged {self._latencies.count:,} of {self.total:,}  "
            f"p99 {self._latencies.percentile(99) * 1000:,.0f} ms  in the queue {depth:,}  "
            f"delivered {len(self.target.platform.arrivals):,}"
        )


async def run_spike(target: Target, options: Options, say: Callable[[str], None]) -> Spike:
    """Send the spike and wait until the last job has ended, or `drain_seconds` are over. Raises Unavailable, BadInput."""
    connections = _allow(options.connections)
    chains = await in_thread(_plan, target, options)
    patience = Patience(seconds=60.0)
    attempts: list[Attempt] = []
    sender = Sender(
        target.host,
        target.port,
        attempts.append,
        connections=connections,
        patience=patience,
        seed=options.seed,
        began=target.began,
        reuse=not options.fresh,
    )
    await trio.sleep(FOLLOW_SECONDS if target.follows else 0)
    start, used = sender.now(), time.process_time()
    watch = Watch(target, attempts, sum(len(chain.links) for chain in chains), start)
    async with trio.open_nursery() as watching:
        watching.start_soon(watch.look, say)
        await sender.run(chains)
        busy = (time.process_time() - used) / (sender.now() - start)
        sent = sender.now()
        drained = await _drained(target, options.drain_seconds)
        watching.cancel_scope.cancel()
    await trio.sleep(SETTLE_SECONDS)
    history = await in_thread(history_of, target, History(tuple(attempts), (), ()))
    return judge(
        history,
        watch.depths,
        options.curve,
        start=start,
        late_seconds=options.late_seconds,
        drained_seconds=sender.now() - sent if drained else None,
        lags=sender.lags,
        core_share=busy,
    )


def _plan(target: Target, options: Options) -> list[Chain]:
    """The plan, a second long, bent to the curve."""
    shape = attrs.evolve(options.shape, webhooks=options.curve.webhooks, seconds=1.0)
    return list(bend(make_plan(shape, target.sources, options.seed), options.curve))


async def _drained(target: Target, seconds: float) -> bool:
    """Wait until no job is left; False if that took too long."""
    with trio.move_on_after(seconds):
        while True:
            with suppress(Unavailable):
                if not await in_thread(target.depth):
                    return True
            await trio.sleep(LOOK_SECONDS / 2)
    return False


def _allow(connections: int) -> int:
    """Let this process have so many descriptors, as far as the system allows; how many connections that leaves."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + DESCRIPTORS_SPARE
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed, _soft), hard))
    return min(connections, max(allowed, _soft) - DESCRIPTORS_SPARE)
