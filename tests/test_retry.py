"""When to try again: growing, bounded, spread by chance, and never sooner than the other side wants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.retry import CALLBACK_DELAYS_SECONDS, backoff_seconds, callback_delay_seconds

DAY = 86_400.0
chances = st.floats(0, 1)


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [(1, 1, 2), (2, 2, 4), (3, 4, 8), (9, 256, 512), (10, 300, 600), (1000, 300, 600), (10**9, 300, 600)],
)
def test_doubling_to_ten_minutes(attempt, least, most):
    """The wait doubles from 2 seconds up to 10 minutes; chance takes away up to half of it."""
    assert (backoff_seconds(attempt, 0), backoff_seconds(attempt, 1)) == (least, most)


@given(attempt=st.integers(0, 100), chance=chances)
def test_never_less_than_before(attempt, chance):
    """With the same chance a later attempt waits at least as long."""
    assert 0 < backoff_seconds(attempt, chance) <= backoff_seconds(attempt + 1, chance) <= 600


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [(None, 2), (0.5, 2), (0, 2), (-5, 2), (30, 30), (10 * DAY, DAY), (float("inf"), DAY), (float("nan"), 2)],
)
def test_what_the_other_side_wants(wanted, seconds):
    """A longer pause that was asked for is kept, up to a day; nonsense is not."""
    assert backoff_seconds(1, 1, wanted) == seconds


def test_callbacks_follow_the_published_schedule():
    """A callback is tried ten times over about 75 hours, and then no more."""
    delays = [callback_delay_seconds(attempts, 0) for attempts in range(11)]
    assert delays == [*CALLBACK_DELAYS_SECONDS, None]
    assert 75 <= sum(CALLBACK_DELAYS_SECONDS) / 3600 < 76
    assert callback_delay_seconds(11, 0) is None


@given(attempts=st.integers(0, 9), chance=chances)
def test_chance_adds_a_tenth_at_most(attempts, chance):
    """Chance spreads callbacks and never makes one early."""
    delay = callback_delay_seconds(attempts, chance)
    assert CALLBACK_DELAYS_SECONDS[attempts] <= delay <= CALLBACK_DELAYS_SECONDS[attempts] * 1.1 + 1e-9


@pytest.mark.parametrize(("wanted", "seconds"), [(None, 5), (1, 5), (60, 60), (10 * DAY, DAY), (float("nan"), 5)])
def test_what_the_receiver_wants(wanted, seconds):
    """A receiver's Retry-After is kept when it is longer, up to a day."""
    assert callback_delay_seconds(1, 0, wanted) == seconds
