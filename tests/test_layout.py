"""The plan of the rooms, as a test: which file may import which, and where each technology lives."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("sentinel", "worker") for path in (ROOT / room).rglob("*.py"))

# From the bottom up; a module may import its own row and the rows above it in this list, never one below.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "sentinel",
        "sentinel.errors",
        "sentinel.model",
        "sentinel.logs",
        "sentinel.processes",
        "sentinel.name_lookup",
        "sentinel.retry",
        "sentinel.secret",
        "sentinel.stop",
        "sentinel.values",
        "sentinel.visible",
    ),
    ("sentinel.sealing",),
    (
        "sentinel.keyring",
        "sentinel.payload",
        "sentinel.settings",
        "sentinel.standard_webhooks",
        "sentinel.edge",
        "sentinel.group_commit",
        "sentinel.metrics",
    ),
    ("sentinel.http",),
    ("sentinel.http1",),
    ("sentinel.channels", "sentinel.records", "sentinel.outbound", "sentinel.bulkhead", "sentinel.tenant_lookup"),
    ("sentinel.dispatch",),
    ("sentinel.directory_copy", "sentinel.key_uses", "sentinel.spooling"),
    ("sentinel.directory", "sentinel.intake", "sentinel.watch", "sentinel.job_request", "sentinel.job_view", "sentinel.job_events"),
    ("sentinel.admission", "sentinel.job_lists"),
    ("sentinel.usage", "sentinel.notices", "sentinel.shared_limits"),
    ("sentinel.administration", "sentinel.billing", "sentinel.webhooks", "sentinel.health", "sentinel.status_codes"),
    ("sentinel.job_api", "sentinel.conversation_api"),
    ("sentinel.monitor", "sentinel.openapi"),
    ("sentinel.admin_api", "sentinel.gateway"),
    ("sentinel.tls", "sentinel.certificate"),
    ("sentinel.hypercorn_guard",),
    ("sentinel.asgi", "sentinel.connection", "sentinel.lane", "sentinel.listening", "sentinel.turns"),
    ("sentinel.serve", "sentinel.stand_in", "sentinel.supervisor", "worker"),
    ("sentinel.demo", "sentinel.chaos"),
    ("sentinel.spike",),
    ("sentinel.cli", "sentinel.__main__", "worker.__main__"),
)
# What may be imported where, besides the standard library, trio and attrs.
HOMES = {
    "hypercorn": {"sentinel.serve", "sentinel.hypercorn_guard", "sentinel.stand_in"},
    "cryptography": {"sentinel.sealing", "sentinel.certificate"},
    "httptools": {"sentinel.http1"},
    "httpx2": {"sentinel.outbound"},
    "httpcore2": {"sentinel.outbound"},
    "msgspec": {"sentinel.payload"},
    "structlog": {"sentinel.logs"},
    "sqlite3": {"sentinel.records.sqlite_file"},
    "psycopg": {"sentinel.records.postgres", "sentinel.records.postgres_bell", "sentinel.records.postgres_connection"},
    "redis": {"sentinel.dispatch.redis_link"},
    "llama_cpp": {"worker.llama_native", "worker.llama_sampling"},
    "numpy": {"worker.llama_sampling"},
    "jinja2": {"worker.chat_template"},
}
PURE = (
    "sentinel.metrics",
    "sentinel.openapi",
    "sentinel.channels",
    "sentinel.edge",
    "sentinel.payload",
    "sentinel.model",
    "sentinel.retry",
    "sentinel.secret",
    "sentinel.visible",
    "sentinel.job_view",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, in full; `from package import module` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {
                name
                for name in names
                if (ROOT / (name.replace(".", "/") + ".py")).exists() or (ROOT / name.replace(".", "/")).is_dir()
            }
            found |= modules or {node.module}
    return found


def layer(module: str) -> int:
    """The row of the most specific entry that names the module or a package around it."""
    matches = [(len(entry), row) for row, entries in enumerate(LAYERS) for entry in entries if f"{module}.".startswith(f"{entry}.")]
    specific = [(length, row) for length, row in matches if module == "sentinel" or (length, row) != (len("sentinel"), 0)]
    assert specific, f"{module} has no place in the plan"
    return max(specific)[1]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_arrows_go_one_way(path: Path) -> None:
    """No module imports from a room above its own, and nothing but the command line's wiring imports the worker."""
    module = module_name(path)
    for target in imports(path):
        if target.split(".")[0] in ("sentinel", "worker"):
            assert layer(target) <= layer(module), f"{module} must not import {target}"
            if target.startswith("worker") and module.startswith("sentinel"):
                assert module.startswith("sentinel.cli")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_technology_has_one_home(path: Path) -> None:
    """A dependency is imported where the plan says, and asyncio nowhere."""
    module = module_name(path)
    for target in {name.split(".")[0] for name in imports(path)}:
        assert target != "asyncio"
        assert module in HOMES.get(target, {module}), f"{target} belongs in {HOMES[target]}"


@pytest.mark.parametrize("path", [path for path in FILES if module_name(path).startswith(PURE)], ids=module_name)
def test_the_middle_is_pure(path: Path) -> None:
    """Channels, edge rules and values do no I/O and read no clock."""
    assert not {name.split(".")[0] for name in imports(path)} & {
        "trio",
        "socket",
        "time",
        "os",
        "random",
        "subprocess",
        "threading",
    }


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_begin_with_what_they_are_for(path: Path) -> None:
    """Each file starts with a docstring, and is short enough to be one idea."""
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 450


def test_every_dependency_has_its_reason() -> None:
    """docs/dependencies.md names everything that setup.cfg requires."""
    section = (ROOT / "setup.cfg").read_text().partition("install_requires")[2].partition("[options.packages.find]")[0]
    reasons = (ROOT / "docs/dependencies.md").read_text()
    for package in re.findall(r"^    ([a-z0-9-]+)", section, re.MULTILINE):
        assert f"| {package}" in reasons, f"docs/dependencies.md says nothing of {package}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_configured_record_has_the_configured_keys(path: Path) -> None:
    """Whoever opens the record that the settings name does so with the server keys that they give."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "open_record" and "settings.record" in map(ast.unparse, call.args):
            assert "keyring" in {keyword.arg for keyword in call.keywords}, "use configured_record(settings)"


def test_what_is_optional_need_not_be_installed() -> None:
    """The gateway, the command line and the worker's loop are imported without the packages of any extra."""
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in ("redis", "psycopg", "llama_cpp", "numpy", "jinja2"))
    code = f"import sys; {hidden}; import sentinel.cli, sentinel.asgi, sentinel.serve, worker.main"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
