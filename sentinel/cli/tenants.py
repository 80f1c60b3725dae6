"""`sentinel tenants add | list | show | disable | enable | remove`, `sentinel callbacks secret | rotate | allow`."""

from __future__ import annotations

import argparse
from typing import Any

from sentinel.administration import tenants
from sentinel.cli.acting import administrator, read_duration
from sentinel.cli.output import print_document, print_json, print_table
from sentinel.model import DEFAULT_TENANT
from sentinel.settings import Settings

COLUMNS = ("name", "created_at", "disabled_at", "sources", "keys", "networks")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("tenants", help="who shares this Sentinel").add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        ("add", run_add, "add a tenant"),
        ("show", run_show, "show a tenant, with what it has and how many of its jobs are alive"),
        ("disable", run_disable, "refuse a tenant's keys and webhooks; its live jobs end as they would"),
        ("enable", run_enable, "take them again"),
        ("remove", run_remove, "remove a disabled tenant that has no live jobs, with its sources and keys"),
    ):
        command = family.add_parser(name, help=text)
        command.add_argument("name")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)
    listing = family.add_parser("list", help="show the tenants")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)

    callbacks = commands.add_parser("callbacks", help="how results reach callers").add_subparsers(metavar="COMMAND", required=True)
    secret = callbacks.add_parser("secret", help="show the secret that signs a tenant's callbacks")
    secret.set_defaults(run=run_secret)
    rotate = callbacks.add_parser("rotate", help="make a new secret; the old one signs beside it for a while")
    rotate.add_argument("--grace", default="24h", metavar="DURATION", help="how long: 90s, 15m, 24h (default), 30d")
    rotate.set_defaults(run=run_rotate)
    allow = callbacks.add_parser("allow", help="let a tenant's callbacks go to an inside network, also by plain http")
    allow.add_argument("network", help="such as 127.0.0.1/32")
    allow.set_defaults(run=run_allow)
    for command in (secret, rotate, allow):
        command.add_argument("--tenant", default=DEFAULT_TENANT)
        command.add_argument("--json", action="store_true")


def run_add(options: argparse.Namespace, settings: Settings) -> None:
    """Add the tenant; adding it again changes nothing."""
    with administrator(settings) as admin:
        added = tenants.add(admin, options.name)
        if options.json:
            print_json(tenants.show(admin, options.name) | {"added": added})
        else:
            print(f"{'Added' if added else 'There is already a'} tenant {options.name}.")


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show the tenants."""
    with administrator(settings) as admin:
        rows = tenants.listing(admin)
    if options.json:
        print_json(rows)
        return
    print_table([row | {"networks": " ".join(row["networks"])} for row in rows], COLUMNS, "There are no tenants.")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Show one tenant."""
    with administrator(settings) as admin:
        document = tenants.show(admin, options.name)
    print_json(document) if options.json else print_document(document)


def run_disable(options: argparse.Namespace, settings: Settings) -> None:
    """Disable it, and say what is still alive."""
    _disable(options, settings, disabled=True)


def run_enable(options: argparse.Namespace, settings: Settings) -> None:
    """Enable it again."""
    _disable(options, settings, disabled=False)


def _disable(options: argparse.Namespace, settings: Settings, *, disabled: bool) -> None:
    with administrator(settings) as admin:
        document = tenants.disable(admin, options.name, disabled=disabled)
    if options.json:
        print_json(document)
    elif disabled:
        alive = f"{document['live_jobs']} job(s) of it are alive and will end"
        print(f"Tenant {options.name} is disabled: refused within 5 seconds. {alive}.")
    else:
        print(f"Tenant {options.name} is enabled.")


def run_remove(options: argparse.Namespace, settings: Settings) -> None:
    """Remove it."""
    with administrator(settings) as admin:
        tenants.remove(admin, options.name)
    if options.json:
        print_json({"name": options.name, "removed": True})
    else:
        print(
            f"Removed tenant {options.name}, its sources and keys. Its ended jobs stay until SENTINEL_RETENTION_DAYS have passed."
        )


def run_secret(options: argparse.Namespace, settings: Settings) -> None:
    """Show the secret; it is made on first use."""
    with administrator(settings) as admin:
        secret = tenants.callback_secret(admin, options.tenant).reveal()
    print_json({"secret": secret, "tenant": options.tenant}) if options.json else print(secret)


def run_rotate(options: argparse.Namespace, settings: Settings) -> None:
    """Make a new secret, and show it."""
    with administrator(settings) as admin:
        secret = tenants.rotate_callback_secret(admin, options.tenant, read_duration(options.grace)).reveal()
    print_json({"secret": secret, "tenant": options.tenant}) if options.json else print(secret)


def run_allow(options: argparse.Namespace, settings: Settings) -> None:
    """Allow the network."""
    with administrator(settings) as admin:
        network = tenants.allow_network(admin, options.tenant, options.network)
    if options.json:
        print_json({"network": network, "tenant": options.tenant})
    else:
        print(f"Callbacks of {options.tenant} may go to {network}, also by plain http.")
