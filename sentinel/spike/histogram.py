"""A histogram of latencies with a bounded relative error, after Gil Tene's HdrHistogram (https://hdrhistogram.github.io/HdrHistogram/).

Each power of two is cut into equal buckets, so that 1 ms and 10 s are told with the same precision and a run of any length
takes the same memory. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import attrs

SUB_BUCKETS = 128  # in each power of two: values are exact to 1/128, under 1 %
PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0)


@attrs.define
class Histogram:
    """Counts whole microseconds."""

    count: int = 0
    greatest: int = 0
    _buckets: Counter[int] = attrs.field(factory=Counter)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Histogram:
        """One of all these values."""
        histogram = cls()
        for value in seconds:
            histogram.add(value)
        return histogram

    def add(self, seconds: float) -> None:
        """Count one value; what is below 0 counts as 0."""
        microseconds = max(0, round(seconds * 1e6))
        self.count += 1
        self.greatest = max(self.greatest, microseconds)
        self._buckets[_bucket(microseconds)] += 1

    def percentile(self, percent: float) -> float:
        """The seconds that so many percent of the values do not exceed, at most one bucket too much; 0 of none."""
        wanted, seen = self.count * percent / 100, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(_top(bucket), self.greatest) / 1e6
        return self.greatest / 1e6

    def lines(self) -> Iterator[str]:
        """The percentile distribution in the text form (.hgrm) that HdrHistogram's plotter reads, in milliseconds."""
        yield "       Value     Percentile TotalCount 1/(1-Percentile)\n"
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            share = seen / self.count
            beyond = f"{1 / (1 - share):14.2f}" if share < 1 else "           inf"
            yield f"{min(_top(bucket), self.greatest) / 1000:12.3f} {share:14.12f} {seen:10d} {beyond}"
        yield f"#[Max     = {self.greatest / 1000:12.3f}, Total count    = {self.count:12d}]"


def _bucket(microseconds: int) -> int:
    """Below SUB_BUCKETS each number is its own bucket; above, each power of two has SUB_BUCKETS of them."""
    power = max(0, microseconds.bit_length() - SUB_BUCKETS.bit_length())
    return power * SUB_BUCKETS + (microseconds >> power)


def _top(bucket: int) -> int:
    """The greatest number in a bucket."""
    power = max(0, bucket // SUB_BUCKETS - 1)
    return ((bucket - power * SUB_BUCKETS + 1) << power) - 1
