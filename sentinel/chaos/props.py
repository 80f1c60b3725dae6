"""The servers and disks of one run: started before Sentinel, removed after it, and never shared with anything else."""

from __future__ import annotations

import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs

from sentinel.chaos.disk import Disk, open_disk, why_no_disk
from sentinel.chaos.proxy import Proxy, open_proxy
from sentinel.chaos.servers import PostgresServer, RedisServer, has_program, new_postgres, new_redis
from sentinel.chaos.stage import Scenario
from sentinel.chaos.subject import in_thread


def why_not(scenario: Scenario) -> str | None:
    """Why it cannot run here; None if it can."""
    needed = {"postgres": scenario.record == "postgres", "redis-server": scenario.redis, "unshare": scenario.elsewhere}
    missing = [name for name, is_needed in needed.items() if is_needed and not has_program(name)]
    if missing:
        return f"{missing[0]} is not installed"
    if scenario.elsewhere and os.geteuid() != 0:
        return "only root may give a process a space of process numbers of its own"
    return why_no_disk() if scenario.disk else None


@attrs.define
class Props:
    """Servers and disks of one run, and the settings that lead Sentinel to them."""

    record_url: str = ""
    settings: dict[str, Any] = attrs.field(factory=dict)
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    proxy: Proxy | None = None
    disk: Disk | None = None


async def open_props(scenario: Scenario, stack: AsyncExitStack, folder: Path, seed: int) -> Props:
    """Start what the scenario runs on."""
    props = Props(settings={"record": f"sqlite:{folder / 'disk' / 'sentinel.db'}"})
    (folder / "disk").mkdir()
    props.settings["spool"] = str(folder / "spool")
    (folder / "spool").mkdir()
    if scenario.record == "postgres":
        props.postgres = new_postgres(**scenario.postgres_options)
        stack.callback(props.postgres.remove)
    if scenario.redis:
        props.redis = new_redis(**scenario.redis_options)
        stack.callback(props.redis.remove)
    if scenario.disk:
        props.disk = stack.enter_context(open_disk(_disk_folder(scenario, props, folder), scenario.disk_megabytes))
    await _start_servers(scenario, stack, props, seed)
    props.record_url = props.record_url or props.settings["record"]
    return props


def _disk_folder(scenario: Scenario, props: Props, folder: Path) -> Path:
    """Where the small disk is mounted."""
    if scenario.disk == "postgres" and props.postgres:
        small = props.postgres.folder / "small"
        small.mkdir()
        shutil.chown(small, props.postgres.folder.owner())
        return small
    if scenario.disk == "redis" and props.redis:
        return props.redis.folder
    return folder / {"record": "disk", "spool": "spool"}[scenario.disk]


async def _start_servers(scenario: Scenario, stack: AsyncExitStack, props: Props, seed: int) -> None:
    """Start what the scenario has, and set how Sentinel reaches it; the runner itself never goes through the proxy."""
    for server in (props.postgres, props.redis):
        if server:
            await in_thread(server.start)
    if props.postgres:
        props.record_url = props.settings["record"] = await in_thread(_make_database, props.postgres, scenario)
    if props.redis:
        props.settings["redis"] = props.redis.url
    if scenario.proxied:
        server = props.postgres if scenario.proxied == "postgres" else props.redis
        assert server is not None
        props.proxy = await stack.enter_async_context(open_proxy(server.port, seed))
        name = {"postgres": "record", "redis": "redis"}[scenario.proxied]
        props.settings[name] = props.settings[name].replace(f":{server.port}/", f":{props.proxy.port}/")


def _make_database(postgres: PostgresServer, scenario: Scenario) -> str:
    """A database of its own; on the small disk, if Postgres has one. Its write-ahead log stays where it is."""
    small = postgres.folder / "small"
    place = "TABLESPACE small" if scenario.disk == "postgres" else ""
    if place:
        postgres.run(f"CREATE TABLESPACE small LOCATION '{small}'")
    postgres.run(f"CREATE DATABASE sentinel {place}")
    return postgres.database("sentinel")
