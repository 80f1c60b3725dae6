"""The command behind scripts/fuzz_http."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time

import trio

from sentinel.logs import configure_logs
from sentinel.settings import Settings
from tests.gateway.fuzz import fuzz, make_input


def main() -> int:
    """0 if nothing was wrong."""
    options = argparse.ArgumentParser()
    options.add_argument("--inputs", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", type=int, help="this input alone, and its bytes")
    given = options.parse_args()
    numbers = range(given.inputs)
    if given.only is not None:
        numbers = range(given.only, given.only + 1)
        print(make_input(given.seed, given.only))
    configure_logs("text", "critical")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(record=f"sqlite:{folder}/sentinel.db", bind="127.0.0.1:0", model="fake:0")
        found = trio.run(fuzz, settings, given.seed, numbers, show)
    print(f"\r{len(numbers):,} inputs of seed {given.seed} in {time.monotonic() - started:.0f} s")
    print("answers:", ", ".join(f"{count:,} x {status}" for status, count in sorted(found.statuses.items())))
    for number, what in found.wrong:
        print(f"WRONG  input {number}: {what}")
    return 1 if found.wrong else 0


def show(number: int) -> None:
    """How far it is."""
    print(f"\r{number:,}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
