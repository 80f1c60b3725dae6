"""`sentinel keys create | list | show | rotate | revoke`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sentinel.administration import Administrator, keys
from sentinel.cli.acting import administrator, read_duration
from sentinel.cli.output import print_document, print_json, print_table
from sentinel.errors import NotFound
from sentinel.model import DEFAULT_SCOPES, DEFAULT_TENANT, SCOPES
from sentinel.secret import Secret
from sentinel.settings import Settings

COLUMNS = ("id", "tenant", "name", "hint", "scopes", "state", "created_at", "expires_at", "last_used_at")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("keys", help="keys for the job API and the admin API")
    add = family.add_subparsers(metavar="COMMAND", required=True).add_parser
    create = add("create", aliases=["add"], help="make a key; it is shown once")
    create.add_argument("--tenant", default=DEFAULT_TENANT)
    create.add_argument("--name", default="", help="what it is for, for people")
    create.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        metavar="SCOPE",
        help=f"{', '.join(SCOPES)} (default: {' and '.join(DEFAULT_SCOPES)})",
    )
    create.add_argument("--expires-in", metavar="TIME", help="such as 90d or 12h; never, if not given")
    create.set_defaults(run=run_create)
    listing = add("list", help="show the keys, not what they are")
    listing.add_argument("--tenant")
    listing.set_defaults(run=run_list)
    show = add("show", help="show one key, not what it is")
    show.set_defaults(run=run_show)
    rotate = add("rotate", help="make a key that replaces another; both are valid for a while")
    rotate.add_argument("--overlap", metavar="TIME", default="24h", help="how long the old one is still valid (default 24h)")
    rotate.set_defaults(run=run_rotate)
    revoke = add("revoke", aliases=["remove", "disable"], help="refuse a key from now on, within 5 seconds")
    revoke.set_defaults(run=run_revoke)
    for command in (show, rotate, revoke):
        command.add_argument("id")
    for command in (create, listing, show, rotate, revoke):
        command.add_argument("--json", action="store_true")


def run_create(options: argparse.Namespace, settings: Settings) -> None:
    """Make a key and show it; the record keeps only its hash."""
    lasts = read_duration(options.expires_in) if options.expires_in else None
    scopes = tuple(dict.fromkeys(options.scope or DEFAULT_SCOPES))
    with administrator(settings) as admin:
        made = keys.create(admin, options.tenant, name=options.name, scopes=scopes, expires_in_seconds=lasts)
        _show_once(options, *made)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show the keys by their hints."""
    with administrator(settings) as admin:
        rows = keys.listing(admin, options.tenant)
    if options.json:
        print_json(rows)
        return
    shown = [row | {"scopes": " ".join(row["scopes"])} for row in rows]
    print_table(shown, COLUMNS, "There are no keys; make one with: sentinel keys create")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Show one key."""
    with administrator(settings) as admin:
        document = keys.document(keys.find(admin, options.id), admin.now)
        print_json(document) if options.json else print_document(document)


def run_rotate(options: argparse.Namespace, settings: Settings) -> None:
    """Make the successor and show it; say how long the old one lives."""
    seconds = read_duration(options.overlap)
    with administrator(settings) as admin:
        text, document = keys.rotate(admin, options.id, seconds)
        _show_once(options, text, document)
        if not options.json:
            print(f"Key {options.id} is valid until {_end_of(admin, options.id)}, then refused.", file=sys.stderr)


def run_revoke(options: argparse.Namespace, settings: Settings) -> int:
    """Revoke the key; 1 if there is none to revoke."""
    try:
        with administrator(settings) as admin:
            document = keys.revoke(admin, options.id)
    except NotFound as error:
        print(f"sentinel: {error.detail}", file=sys.stderr)
        return 1
    print_json(document) if options.json else print(f"Revoked {options.id}.")
    return 0


def _end_of(admin: Administrator, key_id: str) -> Any:
    return keys.document(keys.find(admin, key_id), admin.now)["expires_at"]


def _show_once(options: argparse.Namespace, text: Secret, document: dict[str, Any]) -> None:
    if options.json:
        print_json({"key": text.reveal()} | document)
        return
    print(text.reveal())
    print(f"This is key {document['id']} of tenant {document['tenant']}. It is not shown again.", file=sys.stderr)
