"""The table of scenarios, and a few of them from end to end in the form that CI can afford."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from sentinel.chaos.plan import Shape
from sentinel.chaos.report import as_document, row
from sentinel.chaos.run import Options, run_scenario
from sentinel.chaos.scenarios import SCENARIOS, choose
from sentinel.errors import NotFound

ROOT = Path(__file__).parents[2]
SHORT = Options(seed=7, shape=Shape(webhooks=500, seconds=4.0))
END_TO_END = ("sqlite-gateway-killed", "both-down")  # the short form of scripts/faults runs more, after the tests


def test_the_page_lists_every_scenario() -> None:
    """docs/faults.md has a row for each scenario, with its numbers, and none that does not exist."""
    page = (ROOT / "docs/faults.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([\d, -]*?) ?\|", page, re.MULTILINE))
    assert rows == {name: ", ".join(map(str, scenario.numbers)) or "-" for name, scenario in SCENARIOS.items()}


def test_a_name_that_does_not_exist_is_said() -> None:
    with pytest.raises(NotFound, match="no scenario 'redis-dwon'"):
        choose(["redis-dwon"])


def test_the_short_form_has_something_of_each_kind() -> None:
    short = {scenario.name for scenario in choose([], short=True)}
    assert short < SCENARIOS.keys()
    for kind in ("sqlite", "gateway", "worker", "redis", "postgres", "both", "spool", "drain"):
        assert any(name.startswith(kind) for name in short)


@pytest.mark.slow
@pytest.mark.parametrize("name", END_TO_END)
async def test_a_scenario_from_end_to_end(name: str) -> None:
    """500 webhooks, the fault in the middle: every promise is kept, or the findings say which was not."""
    result = await run_scenario(SCENARIOS[name], SHORT)
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.findings, (row(result), result.schedule, [attrs.astuple(finding) for finding in result.findings[:10]])
    assert result.acknowledged == 500
    assert as_document([result])["totals"]["lost"] == 0
