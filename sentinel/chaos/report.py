"""What a run comes to, in numbers and in lines: the table of `sentinel chaos` and its JSON. Computes; judges nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from sentinel.chaos.checker import Finding, percentile, repeats
from sentinel.chaos.history import INFO, OK, Attempt, History
from sentinel.payload import decode_own_json


@attrs.frozen(kw_only=True)
class Result:
    """One scenario's outcome. Times are in milliseconds where the name says so, else in seconds."""

    scenario: str
    numbers: tuple[int, ...]
    seed: int
    commit: str
    skipped: str = ""
    schedule: tuple[tuple[float, str], ...] = ()
    webhooks: int = 0
    acknowledged: int = 0
    duplicates: int = 0
    lost: int = 0
    doubled: int = 0
    repeated_replies: int = 0
    refused: int = 0
    unanswered: int = 0
    worst_ack_ms: float = 0.0
    p99_before_ms: float = 0.0
    p99_fault_ms: float = 0.0
    p99_fault_planned_ms: float = 0.0
    p99_after_ms: float = 0.0
    reply_p99_before_ms: float = 0.0  # from the acknowledgment to the reply
    reply_p99_after_ms: float = 0.0
    ready_seconds: float | None = None
    drained_seconds: float | None = None
    lag_p99_ms: float = 0.0
    sender_core_share: float = 0.0
    rss_mb: float = 0.0
    log_lines: int = 0  # warnings and errors of all processes
    not_ready_seconds: float = 0.0
    findings: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every promise was kept. What was skipped has kept none and broken none."""
        return not self.findings


def figures(history: History, findings: Sequence[Finding]) -> dict[str, Any]:
    """The numbers that come from the history."""
    acks = [attempt for attempt in history.attempts if attempt.outcome == OK]
    begin, end = (min(a for a, _ in history.faults), max(b for _, b in history.faults)) if history.faults else (1e9, 1e9)
    during = [ack for ack in acks if any(a <= ack.answered and ack.sent <= b for a, b in history.faults)]
    waits = list(_waits(acks, history))
    return {
        "webhooks": len({attempt.identity for attempt in history.attempts}),
        "acknowledged": len({ack.identity for ack in acks}),
        "duplicates": sum(ack.duplicate for ack in acks),
        "lost": len({finding.event for finding in findings if finding.rule in ("I1", "I8")}),
        "doubled": len({finding.event for finding in findings if finding.rule == "I2"}),
        "repeated_replies": len(repeats(history)),
        "refused": sum(attempt.status == 503 for attempt in history.attempts),
        "unanswered": sum(attempt.outcome == INFO for attempt in history.attempts),
        "worst_ack_ms": max((_service(ack) for ack in acks), default=0.0),
        "p99_before_ms": percentile(99, (_service(ack) for ack in acks if ack.answered < begin)),
        "p99_fault_ms": percentile(99, map(_service, during)),
        "p99_fault_planned_ms": percentile(99, ((ack.answered - ack.planned) * 1000 for ack in during)),
        "p99_after_ms": percentile(99, (_service(ack) for ack in acks if ack.sent > end)),
        "reply_p99_before_ms": percentile(99, (late for at, late in waits if at < begin)),
        "reply_p99_after_ms": percentile(99, (late for at, late in waits if at > end)),
        "rss_mb": max((sample.rss_bytes for sample in history.samples), default=0) / 1e6,
    }


def _waits(acks: Sequence[Attempt], history: History) -> Iterator[tuple[float, float]]:
    """When each event was acknowledged, and how many milliseconds later its reply came."""
    first: dict[str, float] = {}
    for ack in acks:
        first[ack.text] = min(ack.answered, first.get(ack.text, ack.answered))
    for arrival in history.arrivals:
        if (at := first.pop(arrival.text, None)) is not None:
            yield at, (arrival.at - at) * 1000


def commit(root: Path) -> str:
    """The short name of the commit that runs, with `+` if files differ from it; "unknown" outside a repository."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.decode().strip()


def row(result: Result) -> dict[str, object]:
    """The line of the table."""
    if result.skipped:
        return {"scenario": result.scenario, "verdict": f"skipped: {result.skipped}"}
    return {
        "scenario": result.scenario,
        "acked": result.acknowledged,
        "lost": result.lost,
        "doubled": result.doubled,
        "repeats": result.repeated_replies,
        "503": result.refused,
        "silent": result.unanswered,
        "worst ms": round(result.worst_ack_ms),
        "p99 ms": round(result.p99_before_ms),
        "in fault": round(result.p99_fault_ms),
        "planned": round(result.p99_fault_planned_ms),
        "reply ms": round(result.reply_p99_after_ms or result.reply_p99_before_ms),
        "drained s": None if result.drained_seconds is None else round(result.drained_seconds, 1),
        "verdict": "kept" if result.passed else f"{len(result.findings)} broken",
    }


COLUMNS = (
    "scenario",
    "acked",
    "lost",
    "doubled",
    "repeats",
    "503",
    "silent",
    "worst ms",
    "p99 ms",
    "in fault",
    "planned",
    "reply ms",
    "drained s",
    "verdict",
)


def totals(results: Sequence[Result]) -> dict[str, Any]:
    """All scenarios together."""
    ran = [result for result in results if not result.skipped]
    return {
        "scenarios": len(ran),
        "skipped": len(results) - len(ran),
        "broken": sum(not result.passed for result in ran),
        "acknowledged": sum(result.acknowledged for result in ran),
        "lost": sum(result.lost for result in ran),
        "doubled": sum(result.doubled for result in ran),
        "repeated_replies": sum(result.repeated_replies for result in ran),
    }


def as_document(results: Sequence[Result]) -> dict[str, Any]:
    """For JSON."""
    return {"totals": totals(results), "results": [attrs.asdict(result) | {"passed": result.passed} for result in results]}


def read_document(path: Path) -> list[Result]:
    """The results in a file that `as_document` made."""
    return [_result(values) for values in decode_own_json(path.read_bytes())["results"]]


def _result(values: dict[str, Any]) -> Result:
    known = {field.name: values[field.name] for field in attrs.fields(Result)}
    known["findings"] = tuple(Finding(**finding) for finding in known["findings"])
    known["schedule"] = tuple((at, what) for at, what in known["schedule"])
    return Result(**known | {"numbers": tuple(known["numbers"])})


PAGE_COLUMNS = {
    "scenario": "scenario",
    "acked": "acked",
    "lost": "lost",
    "doubled": "doubled",
    "repeats": "repeats",
    "503": "503",
    "worst ms": "worst ms",
    "in fault": "p99 in fault ms",
    "drained s": "drained s",
    "verdict": "verdict",
}


def page_table(results: Sequence[Result]) -> str:
    """The table of docs/faults.md."""
    lines = [PAGE_COLUMNS.values(), ["---", *["--:"] * (len(PAGE_COLUMNS) - 2), "---"]]
    lines += [[_cell(row(result).get(name)) for name in PAGE_COLUMNS] for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- |", "|---|").replace(" --: |", "--:|")


def with_table(page: str, results: Sequence[Result]) -> str:
    """The page with this table in the place of the one that it has. Raises ValueError if it has none."""
    begin = page.index(f"| {' | '.join(PAGE_COLUMNS.values())} |")
    return page[:begin] + page_table(results) + page[page.index("\n\n", begin) :]


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.0f}"
        case int():
            return f"{value:,}"
    return str(value)


def _service(attempt: Attempt) -> float:
    """From the last byte of the request to the answer, in milliseconds."""
    return (attempt.answered - attempt.sent) * 1000
