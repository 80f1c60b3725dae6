"""Tells a process when to stop: on SIGTERM or SIGINT, or when the supervisor that started it is gone."""

from __future__ import annotations

import os
import signal

import trio

SUPERVISED = "SENTINEL_SUPERVISED"  # set by `sentinel up`: standard input is a pipe that closes with the supervisor


async def stop_requested() -> None:
    """Return once this process should stop."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_signalled, nursery.cancel_scope)
        if os.environ.get(SUPERVISED):
            nursery.start_soon(_orphaned, nursery.cancel_scope)


async def _signalled(done: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            done.cancel()


async def _orphaned(done: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as standard_input:
        await standard_input.receive_some(1)
    done.cancel()
