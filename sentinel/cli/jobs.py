"""`sentinel jobs list | show | cancel | retry | replay`: what an operator does with jobs, across tenants."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from sentinel.cli.output import print_json, print_table, visible
from sentinel.errors import Conflict, NotFound
from sentinel.job_view import full_document, iso
from sentinel.model import Job, NewJob, State, random_id
from sentinel.records import JobFilter, Record, configured_record
from sentinel.settings import Settings
from sentinel.webhooks import RAW_ROLE

ALL = -1  # to SQL, no limit
COLUMNS = ("id", "state", "channel", "source", "external_id", "attempt", "created_at", "last_error")


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    jobs = commands.add_parser("jobs", help="look at jobs, and help them along").add_subparsers(metavar="COMMAND", required=True)
    listing = jobs.add_parser("list", help="show jobs, newest first")
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
        ("replay", run_replay, "run a job again as a new one"),
    ):
        command = jobs.add_parser(name, help=text)
        command.add_argument("id")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)


def run_list(options: argparse.Namespace, settings: Settings) -> None:
    """Show jobs of all tenants, or of one."""
    states = [State(options.state)] if options.state else None
    wanted = JobFilter(
        options.tenant, states, options.channel, options.external_id, limit=options.limit or (ALL if options.json else 50)
    )
    rows = [_row(job) for job in configured_record(settings).list_jobs(wanted)]
    print_json(rows) if options.json else print_table(rows, COLUMNS, "There are no such jobs.")


def run_show(options: argparse.Namespace, settings: Settings) -> None:
    """Tell one job's story."""
    record = configured_record(settings)
    job = _find(record, options.id)
    document = full_document(job, record.story(job.id), record.find_callback(job.id))
    print_json(document) if options.json else _print_story(document)


def run_cancel(options: argparse.Namespace, settings: Settings) -> None:
    """Cancel; a running job stops within a second."""
    record = configured_record(settings)
    found = _find(record, options.id)
    job = record.cancel(found.id, found.tenant, time.time())
    _say(options, job or found)


def run_retry(options: argparse.Namespace, settings: Settings) -> None:
    """Put it back with its attempts counted anew; what was sent already is not sent again."""
    record = configured_record(settings)
    job = _find(record, options.id)
    if not record.retry(job.id, time.time()):
        raise Conflict(
            f"Job {job.id} is {job.state} and cannot be retried; a failed, cancelled or quarantined one can if it was understood."
        )
    _say(options, _find(record, job.id))


def run_replay(options: argparse.Namespace, settings: Settings) -> None:
    """Run the same input as a new job, with a new id and its own reply."""
    record = configured_record(settings)
    job = _find(record, options.id)
    if any(message.get("role") == RAW_ROLE for message in job.input):
        raise Conflict(f"Job {job.id} was never understood; there is nothing to run.")
    now, new_id = time.time(), random_id()
    record.accept([_replayed(job, new_id, now)], now)
    _say(options, _find(record, new_id))


def _replayed(job: Job, new_id: str, now: float) -> NewJob:
    return NewJob(
        id=new_id,
        tenant=job.tenant,
        channel=job.channel,
        source=job.source,
        external_id=job.external_id,
        input=job.input,
        received_at=now,
        verified_by="replay",
        conversation=job.conversation,
        sender=job.sender,
        reply_to=job.reply_to,
        options=job.options,
        fingerprint=job.fingerprint,
        priority=job.priority,
        replay_of=job.id,
    )


def _find(record: Record, given: str) -> Job:
    """The job of that id, or the newest one whose platform calls it so."""
    job = record.find_job(given) or next(iter(record.list_jobs(JobFilter(external_id=given, limit=1))), None)
    if job is None:
        raise NotFound(f"There is no job {given!r}.")
    return job


def _row(job: Job) -> dict[str, Any]:
    row = {
        name: getattr(job, name)
        for name in ("id", "tenant", "channel", "source", "external_id", "conversation", "attempt", "rescues")
    }
    times = {name: iso(getattr(job, name)) for name in ("created_at", "started_at", "finished_at")}
    return row | times | {"state": job.state.value, "last_error": job.last_error, "replay_of": job.replay_of}


def _say(options: argparse.Namespace, job: Job) -> None:
    print_json(_row(job)) if options.json else print(f"{job.id} is {job.state}.")


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
