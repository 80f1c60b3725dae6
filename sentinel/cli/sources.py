"""`sentinel sources add | list | show | rotate | disable | enable | remove`: where webhooks come from."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentinel.administration import sources
from sentinel.channels import SHARED_SETTINGS, Setting, channels
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_document, print_json, print_table
from sentinel.errors import BadInput, NotFound
from sentinel.model import DEFAULT_TENANT
from sentinel.settings import Settings

FROM_FILES = ("http_tools", "schema")  # `--set KEY=@FILE` reads the value from a file

COLUMNS = ("channel", "name", "tenant", "set", "rotating", "disabled_at")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("sources", help="where webhooks come from").add_subparsers(metavar="COMMAND", required=True)
    described = {"epilog": _settings_help(), "formatter_class": argparse.RawDescriptionHelpFormatter}
    add = family.add_parser("add", help="add a source, or replace its settings", **described)
    add.add_argument("--tenant", default=DEFAULT_TENANT)
    add.set_defaults(run=run_add)
    listing = family.add_parser("list", help="show the sources, without their secrets")
    listing.add_argument("--tenant")
    listing.set_defaults(run=run_list)
    rotate = family.add_parser("rotate", help="change settings; of a secret, the old one is accepted until --end", **described)
    rotate.add_argument("--end", action="store_true", help="accept only the present secrets from now on")
    rotate.set_defaults(run=run_rotate)
    others = []
    for name, run, text in (
        ("show", run_show, "show a source, without its secrets, and how many of its jobs are alive"),
        ("disable", run_disable, "take no webhooks of it; its live jobs are still answered"),
        ("enable", run_enable, "take them again"),
        ("remove", run_remove, "remove a source none of whose jobs is alive"),
    ):
        command = family.add_parser(name, help=text)
        command.set_defaults(run=run)
        others.append(command)
    for command in (add, rotate, *others):
        command.add_argument("name", help="the last part of its URL: /webhooks/CHANNEL/NAME")
        command.add_argument("--channel", required=True, choices=sorted(channels()))
    for command in (add, rotate):
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="env:NAME as the value reads it from there"
        )
    for command in (add, listing, rotate, *others):
        command.add_argument("--json", action="store_true")


def run_add(options: argparse.Namespace, settings: Settings) -> None:
    """Check the settings against the channel's table, then keep them."""
    values = read_values(options.set, os.environ)
    with administrator(settings) as admin:
        document = sources.put(admin, options.tenant, options.channel, options.name, values)
    print_json(document) if options.json else print(f"Webhooks for it go to {document['path']}")


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show each source with the names of what is set."""
    with administrator(settings) as admin:
        rows = sources.listing(admin, options.tenant)
    if options.json:
        print_json(rows)
        return
    shown = [row | {"set": ", ".join(row["set"]), "rotating": ", ".join(row["rotating"])} for row in rows]
    print_table(shown, COLUMNS, "There are no sources; see: sentinel sources add --help")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Show one source."""
    with administrator(settings) as admin:
        document = sources.show(admin, options.channel, options.name)
    print_json(document) if options.json else print_document(document)


def run_rotate(options: argparse.Namespace, settings: Settings) -> None:
    """Begin or end the rotation of secrets."""
    with administrator(settings) as admin:
        if options.end and options.set:
            raise BadInput("Either --set begins a rotation, or --end ends one.")
        if options.end:
            document = sources.end_rotation(admin, options.channel, options.name)
        else:
            document = sources.rotate(admin, options.channel, options.name, read_values(options.set, os.environ))
        if options.json:
            print_json(document)
        elif document["rotating"]:
            print(f"Two are accepted of: {', '.join(document['rotating'])}.")
            print("In 5 seconds, change it at the platform; when nothing comes by the old one any more, rotate with --end.")
        else:
            print(f"Only what is set now is accepted for {options.channel}/{options.name}.")


def run_disable(options: argparse.Namespace, settings: Settings) -> None:
    """Disable it, and say what is still alive."""
    _disable(options, settings, disabled=True)


def run_enable(options: argparse.Namespace, settings: Settings) -> None:
    """Enable it again."""
    _disable(options, settings, disabled=False)


def _disable(options: argparse.Namespace, settings: Settings, *, disabled: bool) -> None:
    with administrator(settings) as admin:
        document = sources.disable(admin, options.channel, options.name, disabled=disabled)
    if options.json:
        print_json(document)
    elif disabled:
        print(f"{document['path']} takes no more webhooks. {document['live_jobs']} job(s) of it are alive and will end.")
    else:
        print(f"{options.channel}/{options.name} takes webhooks.")


def run_remove(options: argparse.Namespace, settings: Settings) -> int:
    """Remove the source; 1 if there is none."""
    try:
        with administrator(settings) as admin:
            sources.remove(admin, options.channel, options.name)
    except NotFound as error:
        print(f"sentinel: {error.detail}", file=sys.stderr)
        return 1
    if options.json:
        print_json({"channel": options.channel, "name": options.name, "removed": True})
    else:
        print(f"Removed {options.channel}/{options.name}.")
    return 0


def read_values(pairs: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that KEY=VALUE pairs name; `env:NAME` is read from `environ`. Raises BadInput."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadInput("--set takes KEY=VALUE, and there is one without a `=`.")
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


def _settings_help() -> str:
    lines = ["settings by channel (* needed, + two are accepted while it is rotated):"]
    for name, channel in sorted(channels().items()):
        lines.append(f"  {name}")
        lines += [_line(setting) for setting in channel.settings]
    lines.append("  every channel")
    lines += [_line(setting) for setting in SHARED_SETTINGS]
    return "\n".join(lines).replace("%", "%%")


def _line(setting: Setting) -> str:
    return f"   {'*' if setting.required else ' '}{'+' if setting.rotates else ' '} {setting.key:<20} {setting.help}"
