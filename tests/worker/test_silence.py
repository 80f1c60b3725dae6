"""Silence: whoever's heartbeats do not change for a lease's length, whatever any clock says."""

import pytest

from sentinel.records import LEASE_SECONDS, Worker
from worker.silence import AWAY_SECONDS, Silence

STEP = 2.0


def seen(at: float, worker: int = 1) -> Worker:
    return Worker(worker, "here:1", 4, "ready", at)


def listened(silence: Silence, worker: Worker, since: float, until: float) -> dict[int, float]:
    """What is found at the end of a time in which that worker's last word stays the same."""
    found: dict[int, float] = {}
    now = since
    while now <= until:
        found = silence.listen([worker], now)
        now += STEP
    return found


@pytest.mark.parametrize("at", [0.0, 1e9, -1e9])
def test_who_says_nothing_is_silent(at: float) -> None:
    """After a lease's length without another word, and not before, whatever the worker's clock said."""
    silence = Silence()
    assert listened(silence, seen(at), 100, 100 + LEASE_SECONDS) == {}
    assert silence.listen([seen(at)], 100 + LEASE_SECONDS + 1) == {1: at}


def test_any_other_word_counts() -> None:
    """A heartbeat is heard also when the worker's clock was put back."""
    silence = Silence()
    listened(silence, seen(500), 100, 100 + LEASE_SECONDS)
    assert listened(silence, seen(200), 102 + LEASE_SECONDS, 100 + 2 * LEASE_SECONDS) == {}


def test_whoever_was_away_begins_anew() -> None:
    """After a pause of the listener, in which nobody may have been able to speak, everybody has the whole time again."""
    silence = Silence()
    listened(silence, seen(500), 100, 100 + LEASE_SECONDS - STEP)
    back = 100 + LEASE_SECONDS + AWAY_SECONDS
    assert silence.listen([seen(500)], back) == {}
    assert listened(silence, seen(500), back + STEP, back + LEASE_SECONDS) == {}
    assert silence.listen([seen(500)], back + LEASE_SECONDS + 1) == {1: 500}


def test_each_worker_by_itself() -> None:
    """One is silent while another is not, and one that is gone is forgotten."""
    silence = Silence()
    now = 100.0
    while now <= 100 + LEASE_SECONDS + STEP:
        found = silence.listen([seen(1, 1), seen(now, 2)], now)
        now += STEP
    assert found == {1: 1}
    assert silence.listen([seen(now, 2)], now) == {}
