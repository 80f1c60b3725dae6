"""`sentinel doctor`: what works, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sentinel.certificate import Certificate, open_admin_certificate, open_certificate
from sentinel.cli.status import Finding, look_at_record, parts, print_findings, record_finding, workers_finding
from sentinel.errors import ModelUnavailable, SettingsError
from sentinel.listening import is_local
from sentinel.records import Record, is_served
from sentinel.settings import Settings, without_password

FREE_BYTES_MIN = 500_000_000
CONTEXT_TOKENS_USUAL = 8192
CERTIFICATE_DAYS_MIN = 14
MEMORY = Path("/proc/meminfo")
UNSECURED = "set SENTINEL_ADMIN_TLS_CERTIFICATE, or make sure that only what speaks TLS in front of it reaches it"


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser("doctor", help="say what works and what does not")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=run)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """1 if something is wrong, 0 if not."""
    return print_findings(list(examine(settings)), as_json=options.json)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order of the path that a webhook takes."""
    yield from _examine_certificates(settings)
    yield from look_at_record(settings, lambda record: _examine_record(record, settings))
    yield from _examine_disk(settings)
    yield from parts(settings)
    yield from _examine_model(settings)
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        yield Finding("threads", "wrong", "OMP_WAIT_POLICY=passive makes the model four times slower; unset it.")


def _examine_record(record: Record, settings: Settings) -> Iterator[Finding]:
    yield record_finding(record, settings)
    for words in record.weak_points(time.time()):
        yield Finding("record", "warning", words)
    if quarantined := record.counts().get("quarantined"):
        yield Finding("quarantine", "warning", f"{quarantined} job(s) wait for a person: sentinel jobs list --state quarantined")
    sources = record.directory().sources
    verdict = "ok" if sources else "warning"
    yield Finding("sources", verdict, f"{len(sources)} source(s)" if sources else "none yet; see: sentinel sources add --help")
    yield workers_finding(record)


def _examine_certificates(settings: Settings) -> Iterator[Finding]:
    """The gateway's certificate and key, and the admin API's, if they have any; an admin API that others reach should."""
    yield from _examine_certificate("certificate", open_certificate, settings)
    if settings.admin_bind != "off":
        yield from _examine_certificate("admin certificate", open_admin_certificate, settings)
        if settings.admin_tls_certificate is None and not is_local(settings.admin_bind):
            yield Finding("admin API", "warning", f"{settings.admin_bind} is not loopback and has no TLS; {UNSECURED}")


def _examine_certificate(what: str, opened: Callable[[Settings], Certificate | None], settings: Settings) -> Iterator[Finding]:
    try:
        certificate = opened(settings)
    except SettingsError as error:
        yield Finding(what, "wrong", error.detail)
        return
    if certificate is None:
        return
    days = (certificate.ends_at - time.time()) / 86_400
    verdict = "wrong" if days < 0 else "warning" if days < CERTIFICATE_DAYS_MIN else "ok"
    when = f"ended {-days:.1f} days ago: clients refuse it" if days < 0 else f"ends in {days:.0f} days"
    yield Finding(what, verdict, f"{certificate.certificate} {when}")


def _examine_disk(settings: Settings) -> Iterator[Finding]:
    """The disk that this machine keeps jobs on: the record's file, or else the spool, if there is one."""
    if is_served(settings.record) and settings.spool == "off":
        return
    place = Path(settings.spool if is_served(settings.record) else settings.record.partition(":")[2]).absolute()
    folder = next(path for path in (place, *place.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    yield Finding("disk", "ok" if free > FREE_BYTES_MIN else "warning", f"{free / 1e9:.1f} GB free in {folder}")


def _examine_model(settings: Settings) -> Iterator[Finding]:
    from worker.engine import is_url
    from worker.gguf_file import check_model_file
    from worker.main import choose_model

    try:
        model = choose_model(settings)
        facts = None if model.startswith("fake:") or is_url(model) else check_model_file(Path(model))
    except ModelUnavailable as error:
        yield Finding("model", "wrong", error.detail)
        return
    yield Finding("model", "ok", without_password(model))
    if facts is not None:
        yield _examine_memory(facts.file_bytes + facts.context_bytes(settings.context_tokens or CONTEXT_TOKENS_USUAL))


def _examine_memory(needed: int) -> Finding:
    """Whether the model with its context fits in what is free; where the system does not say, what it needs."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", MEMORY.read_text()) if MEMORY.exists() else None
    if found is None:
        return Finding("memory", "ok", f"the model needs about {needed / 1e9:.1f} GB")
    free = int(found[1]) * 1024
    text = f"{free / 1e9:.1f} GB free, and the model needs about {needed / 1e9:.1f} GB"
    return Finding("memory", "ok" if free > needed else "warning", text)
