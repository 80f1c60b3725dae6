"""`sentinel sources add | list | remove`: where webhooks come from."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentinel.administration import check_name
from sentinel.administration.tenants import check_tenant
from sentinel.channels import SHARED_SETTINGS, Channel, channels, check_shared, find_channel
from sentinel.cli.output import print_json, print_table
from sentinel.errors import BadInput, Conflict
from sentinel.model import DEFAULT_TENANT, Source
from sentinel.records import configured_record
from sentinel.settings import Settings
from worker.tools_allowed import check_tools

FROM_FILES = ("http_tools", "schema")  # `--set KEY=@FILE` reads the value from a file


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    sources = commands.add_parser("sources", help="where webhooks come from").add_subparsers(metavar="COMMAND", required=True)
    add = sources.add_parser(
        "add",
        help="add a source, or replace its settings",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("name", help="the last part of its URL: /webhooks/CHANNEL/NAME")
    add.add_argument("--channel", required=True, choices=sorted(channels()))
    add.add_argument("--tenant", default=DEFAULT_TENANT)
    add.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="env:NAME as the value reads it from there")
    add.set_defaults(run=run_add)
    listing = sources.add_parser("list", help="show the sources, without their secrets")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    remove = sources.add_parser("remove", help="remove a source")
    remove.add_argument("name")
    remove.add_argument("--channel", required=True, choices=sorted(channels()))
    remove.set_defaults(run=run_remove)


def run_add(options: argparse.Namespace, settings: Settings) -> None:
    """Check the settings against the channel's table, then keep them."""
    check_name("source", options.name)
    values = read_values(options.set, os.environ)
    check_values(find_channel(options.channel), values)
    record = configured_record(settings)
    check_tenant(record, options.tenant)
    if not record.put_source(Source(options.tenant, options.channel, options.name, values), time.time()):
        raise Conflict(f"Another tenant has a {options.channel} source of the name {options.name}.")
    print(f"Webhooks for it go to /webhooks/{options.channel}/{options.name}")


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show each source with the names of what is set."""
    rows = [
        {"channel": source.channel, "name": source.name, "tenant": source.tenant, "set": ", ".join(sorted(source.settings))}
        for source in configured_record(settings).directory().sources.values()
    ]
    if options.json:
        print_json(rows)
    else:
        print_table(rows, ("channel", "name", "tenant", "set"), "There are no sources; see: sentinel sources add --help")


def run_remove(options: argparse.Namespace, settings: Settings) -> int:
    """Remove the source; its jobs stay."""
    record = configured_record(settings)
    source = record.directory().sources.get((options.channel, options.name))
    if source is None or not record.remove_source(source):
        print(f"There is no {options.channel} source {options.name}.", file=sys.stderr)
        return 1
    print(f"Removed {options.channel}/{options.name}.")
    return 0


def read_values(pairs: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that KEY=VALUE pairs name; `env:NAME` is read from `environ`. Raises BadInput."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"--set takes KEY=VALUE, not {key!r}.")
        if value.startswith("env:"):
            name = value.removeprefix("env:")
            if name not in environ:
                raise BadInput(f"--set {key}={value}: there is no environment variable {name}.")
            value = environ[name]
        if key in FROM_FILES and value.startswith("@"):
            value = _read_file(key, value.removeprefix("@"))
        values[key] = value
    return values


def _read_file(key: str, name: str) -> str:
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--set {key}=@{name}: the file cannot be read ({error}).") from None


def check_values(channel: Channel, values: Mapping[str, str]) -> None:
    """Raise BadInput for a key that the channel does not have, or one that it needs."""
    known = {setting.key: setting for setting in (*channel.settings, *SHARED_SETTINGS)}
    for key in values:
        if key not in known:
            raise BadInput(f"{channel.name} has no setting {key!r}; it has {', '.join(sorted(known))}.")
    for key, setting in known.items():
        if setting.required and not values.get(key):
            raise BadInput(f"{channel.name} needs --set {key}=… ({setting.help}).")
    check_shared(values)
    check_tools(values)
    channel.check_settings(values)


def _settings_help() -> str:
    lines = ["settings by channel (* needed):"]
    for name, channel in sorted(channels().items()):
        lines.append(f"  {name}")
        lines += [f"    {'*' if setting.required else ' '} {setting.key:<20} {setting.help}" for setting in channel.settings]
    lines.append("  every channel")
    lines += [f"      {setting.key:<20} {setting.help}" for setting in SHARED_SETTINGS]
    return "\n".join(lines).replace("%", "%%")
