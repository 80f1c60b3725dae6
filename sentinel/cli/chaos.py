"""`sentinel chaos [SCENARIO ...]`: breaks servers and processes of its own while webhooks arrive, and shows what was kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import attrs
import trio

from sentinel.cli.output import print_json, print_table
from sentinel.errors import BadInput
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    chaos = commands.add_parser("chaos", help="break servers and processes of its own under load, and check what was kept")
    chaos.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which ones; all, if none is named")
    chaos.add_argument("--list", action="store_true", help="show the scenarios")
    chaos.add_argument("--short", action="store_true", help="few webhooks, and only what is quick")
    chaos.add_argument("--webhooks", type=int, help="how many in each scenario (5000; with --short 500)")
    chaos.add_argument("--seconds", type=float, help="over how long (10; with --short 4)")
    chaos.add_argument("--seed", type=int, default=1, help="the same seed gives the same run")
    chaos.add_argument("--rounds", type=int, default=1, help="run everything so often, each time with the next seed")
    chaos.add_argument("--part", metavar="N/M", help="the N-th of M parts of what was chosen")
    chaos.add_argument("--report", metavar="FILE", type=Path, nargs="+", help="run nothing; show what earlier runs wrote by --json")
    chaos.add_argument("--page", metavar="FILE", type=Path, help="with --report: put the table into this page, in place of its own")
    chaos.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    chaos.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the logs and histories there")
    chaos.set_defaults(run=run)


def run(options: argparse.Namespace, _settings: Settings) -> int:
    """0 only if every promise was kept in every scenario."""
    from sentinel.chaos import report
    from sentinel.chaos.scenarios import SCENARIOS, choose

    if options.list:
        numbers = {name: ", ".join(map(str, each.numbers)) or None for name, each in SCENARIOS.items()}
        rows = [{"scenario": name, "numbers": numbers[name], "what": each.what} for name, each in SCENARIOS.items()]
        print_table(rows, ("scenario", "numbers", "what"), "none")
        return 0
    if options.report:
        results = [result for path in options.report for result in report.read_document(path)]
        if options.page:
            options.page.write_text(report.with_table(options.page.read_text(), results))
    else:
        scenarios = _part(choose(options.scenarios, short=options.short), options.part or "1/1")
        results = trio.run(_run_all, scenarios, options)
    print()
    print_table([report.row(result) for result in results], report.COLUMNS, "none")
    document = report.as_document(results)
    print_json(document["totals"])
    if options.json:
        from sentinel.payload import encode_json

        options.json.write_bytes(encode_json(document))
    return 0 if all(result.passed for result in results) else 1


def _part(scenarios: list[Any], part: str) -> list[Any]:
    """The N-th of M pieces, as even as can be, in order. Raises BadInput."""
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise BadInput("--part is N/M, as in 2/4.")
    total = len(scenarios)
    return scenarios[total * (int(number) - 1) // int(of) : total * int(number) // int(of)]


async def _run_all(scenarios: Any, options: argparse.Namespace) -> list[Any]:
    from sentinel.chaos.run import Options, run_scenario

    results = []
    for number in range(options.rounds):
        chosen = Options(options.seed + number, _shape(options), options.keep)
        for scenario in scenarios:
            print(f"{scenario.name} (seed {chosen.seed}): {scenario.what}", file=sys.stderr, flush=True)
            results.append(result := await run_scenario(scenario, chosen))
            _say(result)
    return results


def _shape(options: argparse.Namespace) -> Any:
    from sentinel.chaos.plan import Shape

    shape = Shape(webhooks=500, seconds=4.0) if options.short else Shape()
    given = {"webhooks": options.webhooks, "seconds": options.seconds}
    if any(value is not None and value <= 0 for value in given.values()):
        raise BadInput("--webhooks and --seconds must be more than 0.")
    return attrs.evolve(shape, **{name: value for name, value in given.items() if value is not None})


def _say(result: Any) -> None:
    """One scenario's schedule and what was broken, as soon as it is known."""
    from sentinel.chaos import report

    for at, what in result.schedule:
        print(f"  {at:6.2f} s  {what}", file=sys.stderr)
    line = ", ".join(f"{name} {value}" for name, value in report.row(result).items() if name != "scenario")
    print(f"  {line}", file=sys.stderr)
    for finding in result.findings[:10]:
        print(f"  {finding.rule}: {finding.event}: {finding.detail}", file=sys.stderr)
    if len(result.findings) > 10:
        print(f"  … and {len(result.findings) - 10} more", file=sys.stderr, flush=True)
