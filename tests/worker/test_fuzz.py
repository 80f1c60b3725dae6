"""Hostile inputs for the real engine: a few of them each time, 10,000 with scripts/fuzz_engine."""

from __future__ import annotations

import sys

import pytest

from tests.worker import fuzz_engine
from tests.worker.fuzz_engine import child_of, hunt
from tests.worker.needs import unless_installed

DEADLY = """
import os, sys, time
numbers = [int(word) for word in sys.stdin.read().split()]
for some in (numbers[:4], numbers[4:]):
    for number in some:
        print("begin", number, "-", flush=True)
    if 2 in some:
        os.kill(os.getpid(), 11)
    if 6 in some:
        time.sleep(60)
    for number in some:
        print("end", number, "fine", flush=True)
"""


async def test_what_kills_or_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among ten inputs the one that kills its process is found, and the one after which nothing is heard; the others are run."""
    monkeypatch.setattr(fuzz_engine, "SILENCE_SECONDS_MAX", 1.0)
    found = await hunt([sys.executable, "-c", DEADLY], range(10))
    assert found.wrong == [(2, "the process ended with -11"), (6, "the process ended with -9")]
    assert found.outcomes["fine"] == 8


@pytest.mark.model
@unless_installed("llama_cpp", model=True)
async def test_hostile_inputs_do_no_harm() -> None:
    """Of 80 hostile prompts, JSON Schemas and chat templates none ends the engine's process, hangs, or stalls it for a second."""
    found = await hunt(child_of(4), range(80))
    assert not found.wrong
    assert found.stall_seconds_max < 1
    assert sum(found.outcomes.values()) == 80
    assert all(found.outcomes[outcome] for outcome in ("text answered", "schema cut", "schema refused", "template refused"))
