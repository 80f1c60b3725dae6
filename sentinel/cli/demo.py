"""`sentinel demo`: runs the demo against the Sentinel that runs here, or against one that it starts for the purpose."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from sentinel.demo import run_demo, wait_ready
from sentinel.errors import BadInput, Unavailable
from sentinel.records import is_served
from sentinel.settings import Settings

LOOK_SECONDS = 1.0
START_SECONDS_MAX = 120.0


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser("demo", help="send one webhook per channel and one API job, and show the replies")
    demo.set_defaults(run=run)


def run(_options: argparse.Namespace, settings: Settings) -> int:
    """0 only if every reply arrived."""
    return trio.run(_run, settings)


async def _run(settings: Settings) -> int:
    if settings.tls_certificate is not None:
        raise BadInput("The demo speaks plain HTTP to the gateway; run it without SENTINEL_TLS_CERTIFICATE.")
    async with _running(settings):
        arrived = await run_demo(settings, say=_say)
    print("\nEvery reply arrived." if arrived else "\nNot every reply arrived; `sentinel jobs list` and `sentinel doctor` say why.")
    return 0 if arrived else 1


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[None]:
    """A Sentinel at the configured address: the one that is there, else one that ends with the block."""
    if await wait_ready(settings, LOOK_SECONDS) is None:
        print(f"Using the Sentinel that runs at http://{settings.bind}.")
        yield
        return
    log_path = log_beside(settings)
    print(f"Starting Sentinel (its log: {log_path}) …", flush=True)
    async with await trio.open_file(log_path, "ab") as log_file:
        command = [sys.executable, "-m", "sentinel", "up"]
        process = await trio.lowlevel.open_process(command, stderr=log_file.fileno(), stdin=subprocess.DEVNULL)
    try:
        await _wait_started(settings, process, log_path)
        yield
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


async def _wait_started(settings: Settings, process: trio.Process, log_path: Path) -> None:
    """Return once the Sentinel that we started is ready. Raises Unavailable if it ends, or is not ready in time."""
    checks: Mapping[str, str] | None = {}
    async with trio.open_nursery() as nursery:

        async def stop_if_it_ends() -> None:
            await process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_if_it_ends)
        checks = await wait_ready(settings, START_SECONDS_MAX)
        nursery.cancel_scope.cancel()
    if checks is not None:
        raise Unavailable(f"Sentinel did not get ready: {dict(checks) or 'nobody answers'}. See {log_path}.")


def log_beside(settings: Settings) -> Path:
    """Where a Sentinel that the demo starts writes its log: beside the record, if that is a file."""
    folder = Path() if is_served(settings.record) else Path(settings.record.partition(":")[2]).parent
    return folder.absolute() / "sentinel-demo.log"


def _say(line: str) -> None:
    print(line, flush=True)
