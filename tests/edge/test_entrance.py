"""The short look at the door beside the table of checks: it never says what the table would not say."""

from __future__ import annotations

from unittest import mock

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.admission import Admission, Arrival
from sentinel.edge.checks import USAGE_STALE_NS, Caller
from sentinel.edge.entrance import Entrance
from sentinel.edge.gcra import SECOND_NS, Rate
from sentinel.edge.plans import Terms
from sentinel.edge.quota import month_of
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.errors import SentinelError
from sentinel.records.directory import Directory

NOW = 1_700_000_000.0
few = st.none() | st.integers(0, 6)
rates = st.none() | st.builds(Rate, st.integers(1, 5), st.integers(1, 20))
subscriptions = st.none() | st.builds(
    Subscription,
    tenant=st.just("acme"),
    plan=st.just("pro"),
    status=st.sampled_from(Status),
    valid_until=st.none() | st.sampled_from([NOW - 1, NOW + 5, NOW + 60]),
    terms=st.builds(
        Terms,
        **dict.fromkeys(("jobs", "tokens", "user_jobs", "user_tokens"), few),
        **dict.fromkeys(("tenant_rate", "source_rate", "key_rate", "user_rate"), rates),
    ),
)
arrivals = st.builds(
    Arrival,
    caller=st.sampled_from(Caller),
    proof=st.sampled_from(["signature"] * 9 + [""]),
    tenant=st.just("acme"),
    way=st.sampled_from(["telegram/bot", "telegram/other"]),
    senders=st.lists(st.sampled_from(["", "ada", "bob"]), min_size=1, max_size=2),
)
# The seconds that pass, who arrives, how many of them are kept, and what a look at the record finds, if there is one.
steps = st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 7, 40]), arrivals, st.booleans(), few), max_size=25)


@attrs.define
class Door:
    """An admission with a clock, and what it has said."""

    subscription: Subscription | None
    processes: int
    now_ns: int = 100 * SECOND_NS
    admission: Admission = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        directory = Directory(subscriptions={} if self.subscription is None else {"acme": self.subscription})
        self.admission = Admission(lambda: directory, clock_ns=lambda: self.now_ns)
        self.admission.limiter.processes = self.processes
        self.admission.limiter.shared = True

    def step(self, seconds: int, arrival: Arrival, kept: bool, used: int | None) -> object:
        """What one arrival is told; for a refusal its error in full."""
        self.now_ns += seconds * SECOND_NS
        now, ledger = NOW + self.now_ns / SECOND_NS - 100, self.admission.ledger
        if used is not None:
            ledger.turn_to(month_of(now))
            ledger.look()
            ledger.learn(month_of(now), [("acme", "", used, used), ("acme", "telegram/bot/bob", used, used)], self.now_ns)
        try:
            admitted = self.admission.admit(arrival, now)
        except SentinelError as error:
            return type(error), error.detail, error.retry_after_seconds, tuple(error.headers)
        self.admission.settle(admitted, [kept] * len(arrival.senders))
        return list(admitted.passages), admitted.metering, admitted.headers, [len(each) for each in admitted.tallies]

    def remembers(self) -> object:
        """All that the next answer depends on, and not who was asked for twice."""
        buckets = {bucket.key: attrs.astuple(bucket, recurse=False)[2:-1] for bucket in self.admission.limiter.news()}
        ledger = self.admission.ledger
        return buckets, {who: attrs.astuple(ledger.tally("acme", who)) for who in ("", "telegram/bot/ada", "telegram/bot/bob")}


@settings(max_examples=300)
@given(subscriptions, st.integers(1, 3), steps)
def test_the_look_says_what_the_table_says(subscription: Subscription | None, processes: int, told: list) -> None:
    """With the look and without it, everybody gets the same answer, and the same is remembered."""
    short, table = Door(subscription, processes), Door(subscription, processes)
    for step in told:
        answer = short.step(*step)
        with mock.patch.object(Entrance, "look", return_value=None):
            assert table.step(*step) == answer
        assert table.remembers() == short.remembers()


def test_a_person_whom_the_way_refuses_leaves_nothing() -> None:
    """Who comes by a way that is over its limit gets no state of their own: a flood of names makes nobody's limit forgotten."""
    door = Door(Subscription("acme", "pro", terms=Terms(source_rate=Rate(1, 60), user_rate=Rate(1, 60))), 1)
    for name in ("ada", "bob", "eve"):
        door.step(0, Arrival(Caller.CHAT, "signature", "acme", "telegram/bot", [name]), True, None)
    assert [key.name for key in door.admission.limiter._buckets] == ["telegram/bot/ada"]


def test_it_is_the_look_that_lets_them_in() -> None:
    """Where all is well the table is not asked; it is asked when the usage is not known any more."""
    terms = Terms(jobs=9, tokens=9, user_jobs=9, tenant_rate=Rate(9, 9), source_rate=Rate(9, 9), user_rate=Rate(9, 9))
    door = Door(Subscription("acme", "pro", terms=terms), 1)
    ada = Arrival(Caller.CHAT, "signature", "acme", "telegram/bot", ["ada"])
    with mock.patch("sentinel.admission.first_no", return_value=None) as asked:
        door.step(0, ada, True, 1)
        assert asked.call_count == 0
        door.step(USAGE_STALE_NS // SECOND_NS, ada, True, None)
        assert asked.call_count > 0
