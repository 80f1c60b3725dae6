"""`sentinel tenants add`, `sentinel callbacks secret | allow`."""

from __future__ import annotations

import argparse
import ipaddress
import time
from typing import Any

from sentinel import standard_webhooks
from sentinel.cli.output import print_json
from sentinel.errors import BadInput, NotFound
from sentinel.model import DEFAULT_TENANT
from sentinel.records import Record, configured_record
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    tenants = commands.add_parser("tenants", help="who shares this Sentinel").add_subparsers(metavar="COMMAND", required=True)
    add = tenants.add_parser("add", help="add a tenant")
    add.add_argument("name")
    add.set_defaults(run=run_add)

    callbacks = commands.add_parser("callbacks", help="how results reach callers").add_subparsers(metavar="COMMAND", required=True)
    secret = callbacks.add_parser("secret", help="show the secret that signs a tenant's callbacks")
    secret.add_argument("--tenant", default=DEFAULT_TENANT)
    secret.add_argument("--json", action="store_true")
    secret.set_defaults(run=run_secret)
    allow = callbacks.add_parser("allow", help="let a tenant's callbacks go to an inside network, also by plain http")
    allow.add_argument("network", help="such as 127.0.0.1/32")
    allow.add_argument("--tenant", default=DEFAULT_TENANT)
    allow.set_defaults(run=run_allow)


def check_tenant(record: Record, name: str) -> None:
    """Raise NotFound unless the tenant was added."""
    if name not in record.directory().tenants:
        raise NotFound(f"There is no tenant {name!r}; add it with: sentinel tenants add {name}")


def check_name(kind: str, name: str) -> None:
    """Raise BadInput unless the name can stand in a URL and in a log line as it is."""
    if not (name.isascii() and 1 <= len(name) <= 64 and name.replace("-", "").replace("_", "").replace(".", "").isalnum()):
        raise BadInput(f"The {kind} name must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")


def run_add(options: argparse.Namespace, settings: Settings) -> None:
    """Add the tenant; adding it again changes nothing."""
    check_name("tenant", options.name)
    added = configured_record(settings).add_tenant(options.name, time.time())
    print(f"{'Added' if added else 'There is already a'} tenant {options.name}.")


def run_secret(options: argparse.Namespace, settings: Settings) -> None:
    """Show the secret; it is made on first use."""
    record = configured_record(settings)
    check_tenant(record, options.tenant)
    secret = record.callback_secret(options.tenant, standard_webhooks.new_secret())
    print_json({"secret": secret, "tenant": options.tenant}) if options.json else print(secret)


def run_allow(options: argparse.Namespace, settings: Settings) -> None:
    """Allow the network."""
    try:
        network = str(ipaddress.ip_network(options.network))
    except ValueError:
        raise BadInput(f"{options.network!r} is not a network such as 127.0.0.1/32.") from None
    record = configured_record(settings)
    check_tenant(record, options.tenant)
    record.allow_network(options.tenant, network)
    print(f"Callbacks of {options.tenant} may go to {network}, also by plain http.")
