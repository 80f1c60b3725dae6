"""`sentinel keys create | list | revoke`."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from typing import Any

import attrs

from sentinel.cli.output import print_json, print_table
from sentinel.cli.tenants import check_tenant
from sentinel.edge.keys import hash_key, hint, new_key
from sentinel.job_view import iso
from sentinel.model import DEFAULT_TENANT, Key
from sentinel.records import configured_record
from sentinel.settings import Settings


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    keys = commands.add_parser("keys", help="keys for the job API").add_subparsers(metavar="COMMAND", required=True)
    create = keys.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--tenant", default=DEFAULT_TENANT)
    create.add_argument("--json", action="store_true")
    create.set_defaults(run=run_create)
    listing = keys.add_parser("list", help="show the keys, not what they are")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    revoke = keys.add_parser("revoke", help="refuse a key from now on, within 5 seconds")
    revoke.add_argument("id")
    revoke.set_defaults(run=run_revoke)


def run_create(options: argparse.Namespace, settings: Settings) -> None:
    """Make a key and show it; the record keeps only its hash."""
    record = configured_record(settings)
    check_tenant(record, options.tenant)
    key = new_key()
    kept = Key("key_" + secrets.token_hex(6), options.tenant, hint(key), time.time())
    record.add_key(kept, hash_key(key), time.time())
    if options.json:
        print_json({"key": key, "id": kept.id, "tenant": kept.tenant})
    else:
        print(key)
        print(f"This is key {kept.id} of tenant {kept.tenant}. It is not shown again.", file=sys.stderr)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show the keys by their hints."""
    kept = configured_record(settings).keys()
    rows = [attrs.asdict(key) | {"created_at": iso(key.created_at), "revoked_at": iso(key.revoked_at)} for key in kept]
    if options.json:
        print_json(rows)
    else:
        print_table(
            rows, ("id", "tenant", "hint", "created_at", "revoked_at"), "There are no keys; make one with: sentinel keys create"
        )


def run_revoke(options: argparse.Namespace, settings: Settings) -> int:
    """Revoke the key."""
    if configured_record(settings).revoke_key(options.id, time.time()):
        print(f"Revoked {options.id}.")
        return 0
    print(f"There is no live key {options.id}.", file=sys.stderr)
    return 1
