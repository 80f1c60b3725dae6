"""`sentinel deliveries list | retry`: results on their way to the URLs that callers gave."""

from __future__ import annotations

import argparse
from typing import Any

from sentinel.administration import deliveries
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_json, print_table
from sentinel.settings import Settings

COLUMNS = ("job_id", "tenant", "host", "state", "attempts", "next_at", "settled_at", "last_error")
ATTEMPT_COLUMNS = ("at", "webhook_id", "attempt", "seconds", "status", "outcome", "error")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    parser = commands.add_parser("deliveries", help="results on their way to callers")
    family = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = family.add_parser("list", help="show callbacks, newest first; of one job, every attempt")
    listing.add_argument("job_id", nargs="?")
    listing.add_argument("--tenant")
    listing.add_argument("--state", choices=("pending", "delivered", "failed"))
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    retry = family.add_parser("retry", help="send a job's result again, whatever came of it before")
    retry.add_argument("job_id")
    retry.add_argument("--json", action="store_true")
    retry.set_defaults(run=run_retry)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show callbacks, or the attempts of one."""
    with administrator(settings) as admin:
        if options.job_id:
            rows = deliveries.attempts(admin, options.job_id)
        else:
            rows = deliveries.listing(admin, options.tenant, options.state, options.limit)
        columns = ATTEMPT_COLUMNS if options.job_id else COLUMNS
        print_json(rows) if options.json else print_table(rows, columns, "There are no such deliveries.")


def run_retry(options: argparse.Namespace, settings: Settings) -> None:
    """Send it again."""
    with administrator(settings) as admin:
        deliveries.retry(admin, options.job_id)
    if options.json:
        print_json({"job_id": options.job_id, "state": "pending"})
    else:
        print(f"The result of job {options.job_id} is sent again.")
