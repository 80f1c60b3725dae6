"""`sentinel doctor`: what works, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from sentinel.cli.output import print_json, print_table
from sentinel.errors import ModelUnavailable, SentinelError
from sentinel.records import Record, open_record
from sentinel.settings import Settings

WORKER_SEEN_SECONDS = 15.0
FREE_BYTES_MIN = 500_000_000


@attrs.frozen
class Finding:
    """One thing that was looked at. `verdict` is ok, warning or wrong."""

    what: str
    verdict: str
    detail: str


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser("doctor", help="say what works and what does not")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """1 if something is wrong, 0 if not."""
    findings = list(examine(settings))
    if options.json:
        print_json([attrs.asdict(finding) for finding in findings])
    else:
        print_table([attrs.asdict(finding) for finding in findings], ("what", "verdict", "detail"), "")
    return 1 if any(finding.verdict == "wrong" for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order of the path that a webhook takes."""
    try:
        record = open_record(settings.record, busy_seconds=3.0)
    except SentinelError as error:
        yield Finding("record", "wrong", error.detail)
    else:
        yield from _examine_record(record, settings)
        record.close()
    yield _examine_model(settings)
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        yield Finding("threads", "wrong", "OMP_WAIT_POLICY=passive makes the model four times slower; unset it.")


def _examine_record(record: Record, settings: Settings) -> Iterator[Finding]:
    counts = record.counts()
    waiting = ", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing waits"
    yield Finding("record", "ok", f"{settings.record}: {waiting}")
    yield _examine_disk(settings)
    if quarantined := counts.get("quarantined"):
        yield Finding("quarantine", "warning", f"{quarantined} job(s) wait for a person: sentinel jobs list --state quarantined")
    sources = record.directory().sources
    verdict = "ok" if sources else "warning"
    yield Finding("sources", verdict, f"{len(sources)} source(s)" if sources else "none yet; see: sentinel sources add --help")
    yield _examine_workers(record)


def _examine_disk(settings: Settings) -> Finding:
    folder = Path(settings.record.partition(":")[2]).absolute().parent
    free = shutil.disk_usage(folder).free
    return Finding("disk", "ok" if free > FREE_BYTES_MIN else "warning", f"{free / 1e9:.1f} GB free in {folder}")


def _examine_workers(record: Record) -> Finding:
    alive = [worker for worker in record.workers() if worker.last_seen > time.time() - WORKER_SEEN_SECONDS]
    if not alive:
        return Finding("worker", "warning", "no worker is running; jobs are kept and wait (sentinel up, or sentinel worker)")
    if idle := [worker.status for worker in alive if worker.status != "ready"]:
        return Finding("worker", "wrong", idle[0])
    return Finding("worker", "ok", f"{len(alive)} running, {sum(worker.slots for worker in alive)} slot(s)")


def _examine_model(settings: Settings) -> Finding:
    from worker.gguf_file import check_model_file
    from worker.main import choose_model

    try:
        model = choose_model(settings)
        if not model.startswith("fake:"):
            check_model_file(Path(model))
    except ModelUnavailable as error:
        return Finding("model", "wrong", error.detail)
    return Finding("model", "ok", model)
