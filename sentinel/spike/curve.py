"""How many webhooks come at which moment: a calm, the spike, a calm again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import attrs

from sentinel.chaos.plan import Chain


@attrs.frozen
class Curve:
    """Rates are webhooks a second. The calm is there twice: before the spike and after it."""

    calm_rate: float = 50.0
    calm_seconds: float = 3.0
    peak_rate: float = 1_000.0
    peak_seconds: float = 5.0

    @property
    def webhooks(self) -> int:
        """How many there are in all."""
        return round(sum(rate * seconds for rate, seconds in self._pieces()))

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return sum(seconds for _rate, seconds in self._pieces())

    def at(self, share: float) -> float:
        """The second by which this share (0 to 1) of all webhooks has come. Never falls as the share rises."""
        left, began = share * sum(rate * seconds for rate, seconds in self._pieces()), 0.0
        for rate, seconds in self._pieces():
            if left <= rate * seconds and rate:
                return began + left / rate
            left, began = left - rate * seconds, began + seconds
        return self.seconds

    def rate(self, second: float) -> float:
        """What was planned for this moment."""
        ends = accumulate(seconds for _rate, seconds in self._pieces())
        return next((rate for (rate, _), end in zip(self._pieces(), ends, strict=True) if second < end), 0.0)

    def _pieces(self) -> tuple[tuple[float, float], ...]:
        calm = (self.calm_rate, self.calm_seconds)
        return calm, (self.peak_rate, self.peak_seconds), calm


def bend(chains: Sequence[Chain], curve: Curve) -> Iterator[Chain]:
    """The chains of a plan that is one second long, at the curve's times; their order stays."""
    for chain in chains:
        yield Chain(tuple(attrs.evolve(link, at=curve.at(min(link.at, 1.0))) for link in chain.links))
