"""Counters, histograms and gauges in the text form of Prometheus. Pure: what happened comes in, text goes out.

A small writer of our own: of prometheus-client only this form would be used, and its way with several processes writes a file for
each count. https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import attrs

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@attrs.frozen
class Family:
    """One name: its kind and what it says. `labels` without `process`, which all have but those that are about the record."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


FAMILIES: Mapping[str, Family] = {
    "sentinel_requests_total": Family("counter", "answered requests", ("route", "status")),
    "sentinel_request_seconds": Family("histogram", "from a whole request to its answer", ("route",), SECONDS),
    "sentinel_requests_in_flight": Family("gauge", "requests being handled"),
    "sentinel_connections": Family("gauge", "open connections"),
    "sentinel_connections_total": Family("counter", "connections by what became of them: served, elsewhere, refused", ("outcome",)),
    "sentinel_commit_jobs": Family("histogram", "jobs of one commit", (), SIZES),
    "sentinel_commit_waiting": Family("gauge", "webhooks and jobs that wait for their commit"),
    "sentinel_spool_jobs": Family("gauge", "jobs in the spool, which the record does not have yet"),
    "sentinel_dispatch_up": Family("gauge", "1 while Redis is used, 0 while its breaker is open"),
    "sentinel_loop_lag_seconds": Family("histogram", "how late the event loop woke up, twenty times a second", (), SECONDS),
    "sentinel_loop_late_seconds": Family("gauge", "how late the event loop woke up, at worst in the last second"),
    "sentinel_certificate_end_seconds": Family("gauge", "when the certificate ends, in seconds since the epoch"),
    "sentinel_admin_certificate_end_seconds": Family("gauge", "the same of the admin API's certificate"),
    "sentinel_jobs": Family("gauge", "jobs in the record", ("state",)),
    "sentinel_workers": Family("gauge", "workers that were seen lately", ("status",)),
    "sentinel_record_up": Family("gauge", "1 while the record answers"),
    "process_resident_memory_bytes": Family("gauge", "memory in use"),
    "process_open_fds": Family("gauge", "open files"),
    "process_cpu_seconds_total": Family("counter", "CPU time used"),
    "process_start_time_seconds": Family("gauge", "when the process started, in seconds since the epoch"),
}

Sample = tuple[str, tuple[tuple[str, str], ...], float]  # the name with its suffix, the labels, the value


@attrs.define(eq=False)
class Histogram:
    """How often values up to each bound came. Counts are kept per bucket and summed when they are read."""

    bounds: Sequence[float]
    total: float = 0.0
    counts: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def samples(self, name: str, labels: tuple[tuple[str, str], ...]) -> Iterable[Sample]:
        """The histogram as Prometheus wants it: cumulative, and its sum and count."""
        below = 0
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            yield f"{name}_bucket", (*labels, ("le", bound)), below
        yield f"{name}_sum", labels, self.total
        yield f"{name}_count", labels, below


@attrs.define(eq=False)
class Metrics:
    """What one process has counted."""

    _counts: dict[tuple[str, tuple[str, ...]], int] = attrs.field(factory=dict)
    _histograms: dict[tuple[str, tuple[str, ...]], Histogram] = attrs.field(factory=dict)

    def count(self, name: str, *labels: str) -> None:
        """One more."""
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0) + 1

    def observe(self, name: str, value: float, *labels: str) -> None:
        """One more value of a histogram."""
        histogram = self._histograms.get((name, labels))
        if histogram is None:
            histogram = self._histograms[name, labels] = Histogram(FAMILIES[name].bounds)
        histogram.observe(value)

    def samples(self) -> list[Sample]:
        """All of it."""
        found: list[Sample] = [(name, _pairs(name, labels), float(count)) for (name, labels), count in self._counts.items()]
        for (name, labels), histogram in list(self._histograms.items()):
            found += histogram.samples(name, _pairs(name, labels))
        return found


def exposition(samples: Iterable[Sample]) -> str:
    """The text of a scrape: each family's lines together, under what the family is."""
    by_family: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
        by_family[_family(name)].append(f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}")
    lines = []
    for name, known in by_family.items():
        if known:
            lines += [f"# HELP {name} {FAMILIES[name].help}", f"# TYPE {name} {FAMILIES[name].kind}", *known]
    return "\n".join([*lines, ""])


def _family(name: str) -> str:
    return name if name in FAMILIES else name.rpartition("_")[0]


def _pairs(name: str, labels: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(FAMILIES[name].labels, labels, strict=True))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
