"""The table of scenarios, and a few of them from end to end in the form that CI can afford."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from sentinel.chaos.checker import Finding
from sentinel.chaos.plan import Shape
from sentinel.chaos.report import Result, as_document, read_document, row, with_table
from sentinel.chaos.run import Options, run_scenario
from sentinel.chaos.scenarios import SCENARIOS, choose
from sentinel.cli import main
from sentinel.cli.chaos import _part
from sentinel.errors import BadInput, NotFound
from sentinel.payload import encode_json

ROOT = Path(__file__).parents[2]
SHORT = Options(seed=7, shape=Shape(webhooks=500, seconds=4.0))
END_TO_END = ("sqlite-gateway-killed", "both-down")  # the short form of scripts/faults runs more, after the tests


def test_the_page_lists_every_scenario() -> None:
    """docs/faults.md has a row for each scenario, with its numbers, and none that does not exist."""
    page = (ROOT / "docs/faults.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([\d, -]*?) ?\|", page, re.MULTILINE))
    assert rows == {name: ", ".join(map(str, scenario.numbers)) or "-" for name, scenario in SCENARIOS.items()}


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """`sentinel chaos --list` has a line for each scenario, with its numbers as docs/faults.md has them."""
    with pytest.raises(SystemExit) as done:
        main(["chaos", "--list"])
    assert done.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(SCENARIOS)
    assert any(re.match(r"redis-killed +1 +kill -9", line) for line in lines)
    assert any(re.match(r"sqlite-calm +- +SQLite record", line) for line in lines)


def test_the_parts_are_the_whole() -> None:
    """Parts run one after the other run each scenario once; what is no part is said to be none."""
    everything = choose([])
    for of in (1, 3, 7):
        assert [each for number in range(1, of + 1) for each in _part(everything, f"{number}/{of}")] == everything
    for wrong in ("0/3", "4/3", "x", "1/", "1/0"):
        with pytest.raises(BadInput, match="--part"):
            _part(everything, wrong)


def test_the_page_s_table_is_made_from_what_runs_wrote(tmp_path: Path) -> None:
    """Results are read back as they were written, and their table takes the place of the page's, with all around it left alone."""
    finding = Finding("I1", "x", "lost")
    results = [
        Result(
            scenario="calm", numbers=(1, 2), seed=7, commit="c", acknowledged=10_000, drained_seconds=2.4, schedule=((1.0, "x"),)
        ),
        Result(scenario="broken", numbers=(), seed=7, commit="c", findings=(finding,)),
    ]
    (tmp_path / "run.json").write_bytes(encode_json(as_document(results)))
    assert read_document(tmp_path / "run.json") == results
    page = (ROOT / "docs/faults.md").read_text()
    written = with_table(page, results)
    assert "| calm | 10,000 | 0 | 0 | 0 | 0 | 0 | 0 | 2 | kept |\n| broken |" in written
    assert written.endswith(page[page.index("A worker that was killed as if") :])
    assert with_table(written, results) == written


def test_a_name_that_does_not_exist_is_said() -> None:
    """A scenario that there is not is refused by its name."""
    with pytest.raises(NotFound, match="no scenario 'redis-dwon'"):
        choose(["redis-dwon"])


def test_what_is_down_can_be_called_so() -> None:
    """`sentinel chaos redis-down` is the scenario in which Redis is killed."""
    assert [scenario.name for scenario in choose(["redis-down", "postgres-down"])] == ["redis-killed", "postgres-killed"]


def test_the_short_form_has_something_of_each_kind() -> None:
    """The short form runs some and not all scenarios, at least one for each thing that can break."""
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
