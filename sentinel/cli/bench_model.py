"""`sentinel bench-model`: how fast the model is on this machine, and which settings suit it."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import attrs
import trio

from sentinel.settings import Settings

SLOTS = "1,2,4,8,16"


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    bench = commands.add_parser("bench-model", help="measure the model on this machine; takes some minutes")
    bench.add_argument("--slots", default=SLOTS, type=_counts, help=f"how many sequences at a time to try (default {SLOTS})")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure, and print the figures."""
    from worker.bench_model import measure
    from worker.main import choose_model, choose_options

    measured = trio.run(partial(measure, choose_model(settings), choose_options(settings), options.slots))
    if options.json:
        print(json.dumps(attrs.asdict(measured)))
        return 0
    print(measured.description)
    print(f"  load       {measured.load_seconds:8.2f} s")
    print(f"  prompt     {measured.prompt_tokens_per_second:8.0f} tokens/s")
    for one in measured.slots:
        print(f"  {one.slots:3d} slots  {one.tokens_per_second:8.0f} tokens/s in all, {one.tokens_per_second / one.slots:.0f} each")
    print(f"  a shared system prompt of some 400 tokens: 8 jobs begin {measured.shared_head_gain:.1f} times sooner")
    print("For this machine: " + " ".join(f"{name}={value}" for name, value in measured.recommended.items()))
    return 0


def _counts(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})
