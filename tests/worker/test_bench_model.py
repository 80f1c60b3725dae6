"""`sentinel bench-model`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.worker.needs import unless_installed
from worker.bench_model import SlotsMeasured, recommended_slots


@pytest.mark.parametrize(
    ("speeds", "slots"),
    [([100.0], 1), ([100.0, 105.0, 109.0], 1), ([100.0, 120.0, 125.0], 4), ([100.0, 105.0, 140.0], 16), ([100.0, 90.0, 80.0], 1)],
)
def test_more_slots_are_recommended_where_they_pay(speeds, slots):
    """Slots that add less than a tenth are not worth that each answer takes longer."""
    measured = [SlotsMeasured(count, speed) for count, speed in zip((1, 4, 16), speeds, strict=False)]
    assert recommended_slots(measured) == slots


@pytest.mark.slow
@pytest.mark.model
@unless_installed("llama_cpp", model=True)
def test_the_bundled_model_is_measured(tmp_path):
    """The command measures the true model and prints JSON with each figure and a recommended setting."""
    command = [sys.executable, "-m", "sentinel", "bench-model", "--slots", "1,2", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=200, check=True, cwd=tmp_path)
    figures = json.loads(done.stdout)
    assert [one["slots"] for one in figures["slots"]] == [1, 2]
    assert all(one["tokens_per_second"] > 0 for one in figures["slots"])
    assert figures["load_seconds"] > 0
    assert figures["prompt_tokens_per_second"] > 0
    assert figures["shared_head_gain"] > 1
    assert figures["recommended"]["SENTINEL_SLOTS"] in ("1", "2")
