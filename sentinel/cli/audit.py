"""`sentinel audit list`: what administrators did."""

from __future__ import annotations

import argparse
from typing import Any

from sentinel.administration import audit
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_json, print_table
from sentinel.records.directory import AuditFilter
from sentinel.settings import Settings

COLUMNS = ("at", "actor", "action", "subject", "detail")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("audit", help="what administrators did").add_subparsers(metavar="COMMAND", required=True)
    listing = family.add_parser("list", help="show who did what, newest first")
    listing.add_argument("--tenant")
    listing.add_argument("--action", help="such as key.created")
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show the newest entries."""
    wanted = AuditFilter(options.tenant, options.action, limit=max(1, options.limit))
    with administrator(settings) as admin:
        rows = [audit.document(entry) for entry in admin.record.audit(wanted)]
    if options.json:
        print_json(rows)
        return
    shown = [row | {"detail": ", ".join(f"{name}={value}" for name, value in row["detail"].items())} for row in rows]
    print_table(shown, COLUMNS, "Nobody has done anything yet.")
