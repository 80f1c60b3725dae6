"""The month, what is left of its quota, subscriptions and the terms of plans."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.gcra import Rate
from sentinel.edge.plans import NAMES, Terms, overlaid, parse_line, parse_terms, terms_text
from sentinel.edge.quota import Ledger, month_of, seconds_left
from sentinel.edge.subscriptions import Standing, Status, Subscription, standing
from sentinel.errors import BadInput

NOW = 1_700_000_000.0


class TestMonth:
    @given(st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1)))
    def test_it_is_the_calendars_in_utc(self, moment: datetime) -> None:
        """A moment's month is the one a calendar in UTC shows; when its time is over, it is the next."""
        now = moment.replace(tzinfo=UTC, microsecond=0).timestamp()
        assert month_of(now) == moment.strftime("%Y-%m")
        end = now + seconds_left(now)
        assert month_of(end - 1) == month_of(now) < month_of(end)
        assert datetime.fromtimestamp(end, UTC).day == 1

    def test_a_new_month_has_nothing_used(self) -> None:
        """At the turn of the month the whole quota is there again, and a late answer about the old month changes nothing."""
        ledger = Ledger()
        ledger.turn_to("2023-11")
        ledger.look()
        ledger.tally("acme").on_the_way += 1
        ledger.settle([ledger.tally("acme")], kept=True)
        ledger.learn("2023-11", [("acme", "", 10, 5)], 0)
        assert ledger.tally("acme").jobs_left(10, 1) == -1
        ledger.turn_to("2023-12")
        ledger.learn("2023-11", [("acme", "", 11, 5)], 1)
        assert ledger.tally("acme").jobs_left(10, 1) == 10
        assert ledger.looked_at_ns is None


class TestLedger:
    @given(st.data())
    def test_it_never_knows_less_than_was_kept(self, data: st.DataObject) -> None:
        """
        One process, looks that begin and end at any time, jobs that are kept or not: what is left is never more than the truth.

        When nothing is under way and a look has ended, it is the truth.
        """
        ledger, quota, kept, under_way, looking = Ledger(month="m"), 100, 0, 0, None
        for step in data.draw(st.lists(st.sampled_from(["take", "keep", "lose", "look", "read", "learn"]), max_size=80)):
            if step == "take" and ledger.tally("acme").jobs_left(quota, 1) > 0:
                ledger.tally("acme").on_the_way += 1
                under_way += 1
            elif step in ("keep", "lose") and under_way:
                kept, under_way = kept + (step == "keep"), under_way - 1
                ledger.settle([ledger.tally("acme")], kept=step == "keep")
            elif step == "look" and looking is None:
                ledger.look()
                looking = kept
            elif step == "read" and looking is not None:
                looking = kept  # the record is read some time after the look began
            elif step == "learn" and looking is not None:
                ledger.learn("m", [("acme", "", looking, 0)], 1)
                looking = None
            assert ledger.tally("acme").jobs_left(quota, 1) <= quota - kept - under_way
        ledger.look()
        ledger.learn("m", [("acme", "", kept, 0)], 1)
        assert ledger.tally("acme").jobs_left(quota, 1) == quota - kept - under_way

    @given(st.integers(1, 1000), st.integers(1, 8))
    def test_shares_of_what_is_left(self, quota: int, processes: int) -> None:
        """Between two looks, all processes together let in at most one too many for each other one, and look by look nearly all."""
        used = 0
        for _ in range(50):
            left = Ledger(month="m")
            left.learn("m", [("acme", "", used, 0)], 1)
            used += processes * max(0, left.tally("acme").jobs_left(quota, processes))
        assert quota <= used <= quota + processes - 1


class TestTerms:
    def test_as_text_and_back(self) -> None:
        """Terms survive being written down, also as one line."""
        terms = Terms(jobs=0, tokens=10**12, user_jobs=1, user_tokens=2, tenant_rate=Rate(60, 1), source_rate=Rate(1, 86_400))
        assert parse_terms(terms_text(terms)) == terms
        assert parse_line(" ".join(f"{name}={value}" for name, value in terms_text(terms).items())) == terms
        assert parse_line(" , ") == Terms()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "text", ["", "-1", "1.5", "many", "1" * 14, "\u0661", "0/1", "1/0", "1/", "60/86401", "1000001/1", "1/1/1"]
    )
    def test_what_they_may_not_be(self, name: str, text: str) -> None:
        """A value that is none is refused by the name of its term."""
        with pytest.raises(BadInput, match=name):
            parse_terms({name: text})

    def test_what_does_not_exist(self) -> None:
        """A name that is no term is refused, and the message says which there are."""
        with pytest.raises(BadInput, match="tenant_rate"):
            parse_line("job=7")

    def test_special_terms_stand_over_the_plans(self) -> None:
        """What a subscription says itself counts; for the rest the plan does."""
        assert overlaid(Terms(jobs=5, tokens=6), Terms(jobs=7)) == Terms(jobs=7, tokens=6)


@pytest.mark.parametrize(
    ("status", "valid_until", "expected"),
    [
        (Status.ACTIVE, None, Standing.GOOD),
        (Status.ACTIVE, NOW + 1, Standing.GOOD),
        (Status.ACTIVE, NOW, Standing.ENDED),
        (Status.TRIALING, None, Standing.GOOD),
        (Status.TRIALING, NOW - 1, Standing.ENDED),
        (Status.PAST_DUE, NOW + 1, Standing.GOOD),
        (Status.PAST_DUE, NOW, Standing.UNPAID),
        (Status.PAST_DUE, None, Standing.UNPAID),
        (Status.ENDED, NOW + 1, Standing.ENDED),
        (Status.SUSPENDED, NOW + 1, Standing.SUSPENDED),
    ],
)
def test_standing(status: Status, valid_until: float | None, expected: Standing) -> None:
    """Every status with and without an end that is past."""
    assert standing(Subscription("acme", "pro", status, valid_until), NOW) is expected


def test_nobody_needs_a_subscription() -> None:
    """Without one, the standing is good: the default plan is in force."""
    assert standing(None, NOW) is Standing.GOOD
