"""Starts the processes of `sentinel up`, starts again those that die, and stops all together. Knows nothing of what they do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence, Set
from functools import partial

import attrs
import trio

from sentinel.logs import log
from sentinel.stop import SUPERVISED, stop_requested

RESTART_FIRST_SECONDS = 0.1
RESTART_SECONDS_MAX = 10.0
MISCONFIGURED = 2  # the exit code of a command whose settings are wrong
STEADY_SECONDS = 10.0  # who lives this long has started well, and its settings with it
USEFUL_SECONDS = 2.0  # who lives this long did some work and is started again at once; pauses are for who cannot even start


@attrs.frozen
class Child:
    """
    One process to keep alive; it inherits these open files, and has this in its environment beside ours.

    If it `reloads`, a SIGHUP to us is passed on to it.
    """

    name: str
    command: Sequence[str]
    files: tuple[int, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    reloads: bool = False


async def supervise(children: Sequence[Child], stop_seconds: float) -> int:
    """
    Keep the children alive until told to stop; then SIGTERM them, and SIGKILL after `stop_seconds` whoever is left.

    0, or MISCONFIGURED when a child said at its first start that its settings are wrong: starting it again would not help.
    """
    stopping = trio.Event()
    codes: list[int] = []
    reloading: set[trio.Process] = set()
    async with trio.open_nursery() as nursery, trio.open_nursery() as waiting:
        waiting.start_soon(_stop_when_told, stopping)
        if any(child.reloads for child in children):
            waiting.start_soon(_pass_on_hangups, reloading)
        for child in children:
            nursery.start_soon(_keep_alive, child, stopping, stop_seconds, codes, reloading)
        await stopping.wait()
        waiting.cancel_scope.cancel()
        log.info("supervisor.stopping")
    return max(codes, default=0)


async def _stop_when_told(stopping: trio.Event) -> None:
    await stop_requested()
    stopping.set()


async def _pass_on_hangups(processes: Set[trio.Process]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as hangups:
        async for _ in hangups:
            for process in processes:
                process.send_signal(signal.SIGHUP)


async def _keep_alive(
    child: Child, stopping: trio.Event, stop_seconds: float, codes: list[int], reloading: set[trio.Process]
) -> None:
    pause, first = RESTART_FIRST_SECONDS, True
    while not stopping.is_set():
        started = trio.current_time()
        code = await _run(child, stopping, stop_seconds, reloading)
        lived = trio.current_time() - started
        if first and lived < STEADY_SECONDS and code == MISCONFIGURED:
            codes.append(code)
            stopping.set()
        if stopping.is_set():
            return
        first = False
        pause = RESTART_FIRST_SECONDS if lived > USEFUL_SECONDS else min(pause * 2, RESTART_SECONDS_MAX)
        log.error("process.died", process=child.name, code=code, restart_seconds=pause)
        with trio.move_on_after(pause):
            await stopping.wait()


async def _run(child: Child, stopping: trio.Event, stop_seconds: float, reloading: set[trio.Process]) -> int:
    """Run the process once; its exit code. Its standard input stays open as long as we live: that is how it knows."""
    environment = os.environ | {SUPERVISED: "1", **child.environment}
    open_process = partial(trio.lowlevel.open_process, stdin=subprocess.PIPE, env=environment, pass_fds=child.files)
    process = await open_process(list(child.command))
    log.info("process.started", process=child.name, pid=process.pid)
    if child.reloads:
        reloading.add(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop, process, stopping, stop_seconds)
        code = await process.wait()
        reloading.discard(process)
        nursery.cancel_scope.cancel()
    return code


async def _stop(process: trio.Process, stopping: trio.Event, stop_seconds: float) -> None:
    await stopping.wait()
    process.send_signal(signal.SIGTERM)
    await trio.sleep(stop_seconds)
    log.error("process.killed", pid=process.pid, reason="it did not stop in time")
    process.kill()
