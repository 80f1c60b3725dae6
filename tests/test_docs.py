"""The pages that can be checked against the code are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import attrs

from sentinel.model import State
from sentinel.settings import Settings, environment_name
from worker.jobs import _EVENTS

ROOT = Path(__file__).parents[1]


def test_every_setting_is_in_the_table() -> None:
    """docs/settings.md has one row per setting, with its allowed values, default and meaning as the code has them."""
    rows = {
        cells[1].strip("` "): cells
        for line in (ROOT / "docs/settings.md").read_text().splitlines()
        if len(cells := line.split("|")) > 4
    }
    fields = {environment_name(field.name): field for field in attrs.fields(Settings)}
    assert fields.keys() == {name for name in rows if name.startswith("SENTINEL_")}
    for name, field in fields.items():
        _, _, allowed, default, meaning, _ = (cell.strip() for cell in rows[name])
        assert (allowed, meaning) == (field.metadata["allowed"], field.metadata["help"])
        shown = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        assert default == ("" if field.default is None else f"`{shown}`")


def test_the_links_lead_somewhere() -> None:
    """Every relative link in the README and in docs leads to a file."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "sql/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_schema_and_the_code_agree_on_states() -> None:
    """The states that the SQLite schema allows are those of the model."""
    schema = (ROOT / "sql/sqlite/0001_jobs.sql").read_text()
    allowed = re.search(r"state\s+TEXT NOT NULL CHECK \(state IN \(([^)]*)\)\)", schema)
    assert allowed
    assert set(re.findall(r"'(\w+)'", allowed[1])) == {state.value for state in State}


def test_the_readme_names_only_commands_that_exist() -> None:
    """Every `sentinel COMMAND` in the README and the runbook is one that the program has."""
    from sentinel.cli import _parser

    known = set(re.findall(r"^    ([\w-]+)\s", _parser().format_help(), re.MULTILINE))
    for page in ("README.md", "docs/runbook.md", "docs/failures.md"):
        for command in re.findall(r"(?:`|^    |\$\()sentinel ([a-z][a-z-]*)", (ROOT / page).read_text(), re.MULTILINE):
            assert command in known, f"{page} names sentinel {command}"


def logged_events() -> dict[str, set[str]]:
    """Every event that the program logs, by name, with the levels it has; the chaos and load tools' own are left out."""
    found: dict[str, set[str]] = {}
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    for path in [*(ROOT / "sentinel").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]:
        if path.name == "logs.py" or {"chaos", "spike"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "Outage":
                found.setdefault(ast.literal_eval(node.args[0]), set()).add("warning")
            elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log" and node.func.attr in levels:
                level = {"exception": "error"}.get(node.func.attr, node.func.attr)
                names = list(_EVENTS.values()) if ast.unparse(node.args[0]) == "event" else [ast.literal_eval(node.args[0])]
                for name in names:
                    found.setdefault(name, set()).add(level)
    return found


def test_every_event_of_the_log_is_in_the_table() -> None:
    """docs/logs.md has one row for each event that the code logs, with its level, and no others."""
    table = re.findall(r"^\| `([a-z_.]+)` \| (\w+) \|", (ROOT / "docs/logs.md").read_text(), re.MULTILINE)
    rows, events = dict(table), logged_events()
    assert len(rows) == len(table)
    assert rows.keys() == events.keys()
    assert list(rows) == sorted(rows)
    assert {name for name, level in rows.items() if level not in events[name]} == set()
