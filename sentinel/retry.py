"""When to try again: tables and pure functions. Chance comes in as a number from 0 to 1: retries spread, and tests repeat."""

from __future__ import annotations

GENERATION_ATTEMPTS_MAX = 5
DELIVERY_ATTEMPTS_MAX = 12
BACKOFF_FIRST_SECONDS = 2.0
BACKOFF_SECONDS_MAX = 600.0

# The example schedule of the Standard Webhooks specification: seconds before each attempt, 75 hours in all.
CALLBACK_DELAYS_SECONDS = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)


def backoff_seconds(attempt: int, chance: float, wanted: float | None = None) -> float:
    """
    How long to wait after `attempt` (from 1) failed: doubling from 2 s up to 10 minutes, half of it by chance.

    `wanted` is what the other side asked for (Retry-After); it is honoured when it is longer, up to a day.
    """
    full = min(BACKOFF_SECONDS_MAX, BACKOFF_FIRST_SECONDS * 2.0 ** (min(attempt, 30) - 1))
    return max(full * (0.5 + chance / 2), min(wanted or 0.0, 86_400.0))


def callback_delay_seconds(attempts: int, chance: float, wanted: float | None = None) -> float | None:
    """How long to wait after that many attempts of a callback failed, up to a tenth more by chance; None if that was the last."""
    if attempts >= len(CALLBACK_DELAYS_SECONDS):
        return None
    return max(CALLBACK_DELAYS_SECONDS[attempts] * (1 + chance / 10), min(wanted or 0.0, 86_400.0))
