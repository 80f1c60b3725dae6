"""The breaker, for any story of successes and failures."""

from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.edge.breaker import PAUSE_SECONDS_MAX, STEADY_SECONDS, TRIAL_SECONDS_MAX, Breaker

# A story: seconds that pass, then what comes of a try if the breaker allows one, and the chance that spreads the pause.
WHAT = ["works", "fails", "no report", "stray success", "stray failure"]
STORIES = st.lists(
    st.tuples(
        st.floats(0, 40), st.sampled_from(["works", "fails", "no report", "stray success", "stray failure"]), st.floats(0, 1)
    ),
    max_size=60,
)


def opened(pause_doublings: int = 0) -> tuple[Breaker, float]:
    """A breaker that has just opened after so many failed trials, and the time."""
    breaker, now = Breaker(), 100.0
    breaker.failed(now, "down")
    for _ in range(pause_doublings):
        now += 40
        assert breaker.allows(now)
        breaker.failed(now, "still down")
    return breaker, now


def test_closed_lets_everybody_through():
    """A breaker that was never told of a failure is not in the way."""
    breaker = Breaker()
    assert all(breaker.allows(now) for now in range(5))
    assert breaker.open_since is None
    assert not breaker.reason


def test_opens_at_once():
    """One failure is enough, and it says since when and why."""
    breaker, now = opened()
    assert not breaker.allows(now)
    assert (breaker.open_since, breaker.reason) == (now, "down")


def test_one_trial():
    """When the pause is over one may try; the others are refused until that one has reported."""
    breaker, now = opened()
    assert not breaker.allows(now + 0.99)
    assert [breaker.allows(now + 1) for _ in range(3)] == [True, False, False]
    breaker.succeeded(now + 1.2)
    assert breaker.open_since is None
    assert breaker.allows(now + 1.2)


def test_a_trial_that_nobody_reports_on():
    """If whoever tried never says what came of it, another may try later."""
    breaker, now = opened()
    assert breaker.allows(now + 1)
    assert not breaker.allows(now + TRIAL_SECONDS_MAX)
    assert breaker.allows(now + 1 + TRIAL_SECONDS_MAX)


def test_a_success_from_before_does_not_close_it():
    """A call that began before the failure and ends well says nothing of now."""
    breaker, now = opened()
    breaker.succeeded(now + 0.5)
    assert breaker.open_since == now


def test_a_failure_from_before_does_not_prolong_it():
    """Calls that fail together with the first make the pause no longer."""
    breaker, now = opened()
    for _ in range(5):
        breaker.failed(now + 0.5, "me too")
    assert breaker.allows(now + 1)


def test_it_does_not_flap():
    """If it breaks again soon after closing, the next pause is longer than the last; after a steady time it is short again."""
    breaker, now = opened(pause_doublings=3)  # its pause is 8 s
    assert breaker.allows(now + 8)
    breaker.succeeded(now + 8)
    breaker.failed(now + 9, "again")
    assert not breaker.allows(now + 9 + 15.9)
    assert breaker.allows(now + 9 + 16)
    breaker.succeeded(now + 25)
    breaker.failed(now + 25 + STEADY_SECONDS, "once more")
    assert breaker.allows(now + 25 + STEADY_SECONDS + 1)


def test_chance_spreads():
    """Half of the pause is by chance."""
    quick, slow = Breaker(), Breaker()
    quick.failed(0, "down", 0.0)
    slow.failed(0, "down", 1.0)
    assert quick.allows(0.5)
    assert not slow.allows(0.99)
    assert slow.allows(1)


@given(STORIES)
@example([(40, "fails", 1)] * 6 + [(30, "no report", 1), (1, "works", 1), (1, "stray failure", 1), (29.5, "works", 1)])
def test_any_story(story):
    """It is open from a failure to the success of a trial, and after a failure refuses for no longer than the longest pause."""
    breaker, now, trying, refused_since = Breaker(), 0.0, False, None
    for seconds, what, chance in story:
        now += seconds
        was_open = breaker.open_since is not None
        if what == "stray success":
            breaker.succeeded(now)
            assert (breaker.open_since is not None) == (was_open and not trying)
            trying = trying and was_open and breaker.open_since is not None
        elif what == "stray failure":
            breaker.failed(now, "down", chance)
            assert breaker.open_since is not None
            refused_since = None if trying or not was_open else refused_since  # the pause begins here
            trying = False
        elif breaker.allows(now):
            refused_since, trying = None, was_open
            if what == "works":
                breaker.succeeded(now)
                assert breaker.open_since is None
            elif what == "fails":
                breaker.failed(now, "down", chance)
                assert breaker.open_since is not None
                assert not breaker.allows(now + 0.49)
            trying = trying and what == "no report"
        else:
            assert was_open
            refused_since = now if refused_since is None else refused_since
            assert now - refused_since <= PAUSE_SECONDS_MAX
        assert (breaker.reason == "") == (breaker.open_since is None)


@given(st.integers(0, 12), st.floats(0, 1))
def test_pauses_double_and_are_bounded(failures, chance):
    """The pause after n failures is 2^n seconds but at most 30, and at least half of that."""
    breaker, now = opened(failures)
    full = min(2.0**failures, PAUSE_SECONDS_MAX)
    assert not breaker.allows(now + full * 0.49)
    breaker, now = opened(failures)
    assert breaker.allows(now + full)
    breaker.failed(now + full, "down", chance)
    assert breaker.allows(now + full + min(2 * full, PAUSE_SECONDS_MAX))
