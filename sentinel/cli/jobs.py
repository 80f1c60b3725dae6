"""`sentinel jobs list | show | cancel | retry | quarantine | replay`: what an operator does with jobs, across tenants."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sentinel.administration import jobs
from sentinel.cli.acting import administrator
from sentinel.cli.output import print_json, print_table, visible
from sentinel.model import Job, State
from sentinel.records import JobFilter
from sentinel.settings import Settings

ALL = 1_000_000_000  # PostgreSQL takes no negative limit
COLUMNS = ("id", "state", "channel", "source", "external_id", "attempt", "created_at", "last_error")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    family = commands.add_parser("jobs", help="look at jobs, and help them along").add_subparsers(metavar="COMMAND", required=True)
    listing = family.add_parser("list", help="show jobs, newest first")
    listing.add_argument("--state", choices=[state.value for state in State])
    listing.add_argument("--channel")
    listing.add_argument("--external-id", help="the platform's own id of the message")
    listing.add_argument("--tenant")
    listing.add_argument("--limit", type=int, help="how many (50 in a table, all as JSON)")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    for name, run, text in (
        ("show", run_show, "tell a job's whole story; the id may also be the platform's own"),
        ("cancel", run_cancel, "stop a job, or keep it from starting"),
        ("retry", run_retry, "put a failed, cancelled or quarantined job back into the queue"),
        ("quarantine", run_quarantine, "set a waiting job aside, for a person to look at"),
        ("replay", run_replay, "run a job again as a new one"),
    ):
        command = family.add_parser(name, help=text)
        command.add_argument("id")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)
        if name == "quarantine":
            command.add_argument("--reason", default="set aside by hand")


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show jobs of all tenants, or of one."""
    states = [State(options.state)] if options.state else None
    limit = options.limit or (ALL if options.json else 50)
    wanted = JobFilter(options.tenant, states, options.channel, options.external_id, limit=limit)
    with administrator(settings) as admin:
        rows = [jobs.document(job) for job in jobs.listing(admin, wanted)]
    print_json(rows) if options.json else print_table(rows, COLUMNS, "There are no such jobs.")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Tell one job's story."""
    with administrator(settings) as admin:
        document = jobs.story(admin, options.id)
    print_json(document) if options.json else _print_story(document)


def run_cancel(options: argparse.Namespace, settings: Settings) -> None:
    """Cancel; a running job stops within a second."""
    with administrator(settings) as admin:
        _say(options, jobs.cancel(admin, options.id))


def run_retry(options: argparse.Namespace, settings: Settings) -> None:
    """Put it back."""
    with administrator(settings) as admin:
        _say(options, jobs.retry(admin, options.id))


def run_quarantine(options: argparse.Namespace, settings: Settings) -> None:
    """Set it aside."""
    with administrator(settings) as admin:
        _say(options, jobs.quarantine(admin, options.id, options.reason))


def run_replay(options: argparse.Namespace, settings: Settings) -> None:
    """Run it again as a new job."""
    with administrator(settings) as admin:
        _say(options, jobs.replay(admin, options.id))


def _say(options: argparse.Namespace, job: Job) -> None:
    print_json(jobs.document(job)) if options.json else print(f"{job.id} is {job.state}.")


def _print_story(document: dict[str, Any]) -> None:
    for name in ("id", "state", "tenant", "channel", "source", "external_id", "conversation", "attempt", "rescues", "last_error"):
        print(f"{name:<13} {visible(document[name])}")
    if document["screening"]:
        print(f"{'screening':<13} {document['screening']['score']:g}: {', '.join(document['screening']['reasons'])}")
    for message in document["input"]:
        print(f"{message['role']:<13} {visible(message['content'])[:500]}")
    if document["result"]:
        print(f"{'answer':<13} {visible(document['result']['output_text'])[:500]}", file=sys.stdout)
    print()
    print_table(document["events"], ("at", "step", "attempt", "detail"), "No steps.")
