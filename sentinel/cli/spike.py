"""`sentinel spike`: a load test that sends what a busy hour sends in seconds, and shows what came of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import trio

from sentinel.errors import BadInput
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    spike = commands.add_parser("spike", help="send a spike of signed webhooks and show what was acknowledged, lost, doubled, late")
    where = spike.add_argument_group("where to (a Sentinel of its own, unless there is a --url)")
    where.add_argument("--url", help="a running gateway, http://HOST:PORT; its record is the one that the settings name")
    where.add_argument(
        "--store", choices=("sqlite", "postgres", "both"), default="sqlite", help="what its own runs on (both: Redis too)"
    )
    where.add_argument("--model", default="fake:20", help="its own engine (fake:20)")
    where.add_argument("--slots", type=int, default=64, help="of that engine (64)")
    where.add_argument("--processes", type=int, default=1, help="gateway processes (1)")
    what = spike.add_argument_group("what is sent")
    what.add_argument("--calm", type=float, default=50, metavar="RATE", help="webhooks a second before and after the spike (50)")
    what.add_argument("--calm-seconds", type=float, default=3, help="each (3)")
    what.add_argument("--peak", type=float, default=1_000, metavar="RATE", help="webhooks a second in the spike (1000)")
    what.add_argument("--peak-seconds", type=float, default=5, help="(5)")
    what.add_argument("--connections", type=int, default=1_000, help="at most, at a time (1000)")
    what.add_argument("--fresh", action="store_true", help="each webhook on a connection of its own")
    what.add_argument("--channels", default="whatsapp,telegram,slack,salesforce,generic", help="which (all)")
    what.add_argument("--tenants", type=int, default=20, help="(20)")
    what.add_argument("--repeated", type=float, default=0.02, metavar="SHARE", help="sent twice by the platform (0.02)")
    what.add_argument("--chats", type=float, default=0.2, metavar="SHARE", help="part of a conversation of several (0.2)")
    what.add_argument("--seed", type=int, default=1, help="the same seed sends the same at the same times")
    then = spike.add_argument_group("what is shown")
    then.add_argument("--late", type=float, default=1.0, metavar="SECONDS", help="an acknowledgment after this is late (1)")
    then.add_argument("--drain", type=float, default=300, metavar="SECONDS", help="how long to wait for the last job (300)")
    then.add_argument("--json", type=Path, metavar="FILE", help="the report")
    then.add_argument("--svg", type=Path, metavar="FILE", help="the plot: acknowledgments, queue and worker, second by second")
    then.add_argument("--hgrm", type=Path, metavar="FILE", help="the latencies, for HdrHistogram's plotter")
    spike.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """0 only if nothing was lost, doubled or late."""
    from sentinel.spike.verdict import words

    if min(options.peak, options.peak_seconds, options.connections, options.tenants) <= 0 or options.calm < 0:
        raise BadInput("--peak, --peak-seconds, --connections and --tenants must be more than 0.")
    spike = trio.run(_run, options, settings)
    print("\r\033[K" if sys.stderr.isatty() else "", end="", file=sys.stderr)
    print("\n".join(words(spike)))
    for finding in spike.findings[:10]:
        print(f"  {finding.rule}: {finding.event}: {finding.detail}")
    _write(spike, options)
    return 0 if spike.kept else 1


async def _run(options: argparse.Namespace, settings: Settings) -> Any:
    from sentinel.chaos.plan import Shape
    from sentinel.spike.curve import Curve
    from sentinel.spike.run import Options, run_spike
    from sentinel.spike.target import Own, open_own, open_running

    shape = Shape(
        tenants=options.tenants, chats=options.chats, repeated=options.repeated, channels=tuple(options.channels.split(","))
    )
    chosen = Options(
        curve=Curve(options.calm, options.calm_seconds, options.peak, options.peak_seconds),
        shape=shape,
        seed=options.seed,
        connections=options.connections,
        fresh=options.fresh,
        late_seconds=options.late,
        drain_seconds=options.drain,
    )
    own = Own(options.store, options.model, options.slots, options.processes)
    opened = open_running(options.url, settings, shape) if options.url else open_own(own, shape, options.seed)
    async with opened as target:
        print(f"{chosen.curve.webhooks:,} webhooks to {target.name} (seed {options.seed})", file=sys.stderr)
        return await run_spike(target, chosen, _say)


def _say(line: str) -> None:
    """The live line: over the one before on a terminal, else below it."""
    print(f"\r\033[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


def _write(spike: Any, options: argparse.Namespace) -> None:
    from sentinel.payload import encode_json
    from sentinel.spike.plot import plot
    from sentinel.spike.verdict import as_document

    if options.json:
        options.json.write_bytes(encode_json(as_document(spike)))
    if options.svg:
        title = f"{spike.webhooks:,} webhooks: {spike.lost} lost, {spike.doubled} doubled, {spike.late} late"
        options.svg.write_text(plot(spike.seconds, title))
    if options.hgrm:
        options.hgrm.write_text("\n".join(spike.latencies.lines()) + "\n")
