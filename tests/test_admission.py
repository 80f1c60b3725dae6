"""The table of edge checks, row by row and caller by caller: who is refused, who is told, who is delayed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from sentinel.admission import DELAY_SECONDS_MAX, PASSES, Admission, Arrival
from sentinel.edge.checks import CHECKS, USAGE_STALE_NS, Caller, Treatment
from sentinel.edge.gcra import SECOND_NS, Rate
from sentinel.edge.limits import LimitKey
from sentinel.edge.plans import UNLIMITED, Terms
from sentinel.edge.quota import Account, Used, month_of
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.errors import Forged, PaymentRequired, QuotaUsedUp, SentinelError, Suspended, TooManyRequests, Unavailable
from sentinel.model import Metering
from sentinel.records.directory import Directory

NOW = 1_700_000_000.0
WAY = "telegram/bot"


@attrs.define
class Clock:
    """A clock that a test moves."""

    now_ns: int = 100 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns


def admission(terms: Terms = UNLIMITED, status: Status = Status.ACTIVE, used: dict[Account, Used] | None = None) -> Admission:
    """The tenant `acme` has these terms and has used that much."""
    directory = Directory(subscriptions={"acme": Subscription("acme", "pro", status, terms=terms)})
    made = Admission(lambda: directory, clock_ns=Clock())
    made.ledger.turn_to(month_of(NOW))
    rows = [(*account, each.jobs, each.tokens) for account, each in (used or {}).items()]
    made.ledger.learn(month_of(NOW), rows, 100 * SECOND_NS)
    return made


def arrival(caller: Caller, *senders: str, proof: str = "signature", way: str = WAY) -> Arrival:
    return Arrival(caller, proof, "acme", way, senders or ("bob",))


def fill(made: Admission, kind: str, rate: Rate) -> None:
    """The limit is used up."""
    now_ns, limiter = 100 * SECOND_NS, made.limiter
    if kind == "user":
        bucket = limiter.person("acme", f"{WAY}/bob", rate, now_ns)
    else:
        bucket = limiter.bucket(LimitKey(kind, "acme", "" if kind == "tenant" else WAY), rate, now_ns)
    made.limiter.take([bucket], 100 * SECOND_NS, rate.count)


def limited(kind: str) -> Callable[[], Admission]:
    """An admission in which that rate is used up."""

    def make() -> Admission:
        made = admission(Terms(**{f"{kind}_rate": Rate(3, 60)}))
        fill(made, kind, Rate(3, 60))
        return made

    return make


def stale() -> Admission:
    made = admission(Terms(tokens=10))
    made.ledger.looked_at_ns = 100 * SECOND_NS - USAGE_STALE_NS
    return made


ALL = Account("acme")
BOB = Account("acme", f"{WAY}/bob")
# The cause, an admission that has it, the error, and what becomes of it for the API, a chat, a hasty chat, a sender.
REFUSED, TOLD, DELAYED, PASSED = "refused", "told", "delayed", "passed"
MATRIX: dict[str, tuple[Callable[[], Admission], type[SentinelError], tuple[str, str, str, str]]] = {
    "ended": (lambda: admission(status=Status.ENDED), PaymentRequired, (REFUSED, TOLD, TOLD, REFUSED)),
    "past due": (lambda: admission(status=Status.PAST_DUE), PaymentRequired, (REFUSED, TOLD, TOLD, REFUSED)),
    "suspended": (lambda: admission(status=Status.SUSPENDED), Suspended, (REFUSED, TOLD, TOLD, REFUSED)),
    "tenant's rate": (limited("tenant"), TooManyRequests, (REFUSED, REFUSED, DELAYED, DELAYED)),
    "source's rate": (limited("source"), TooManyRequests, (PASSED, REFUSED, DELAYED, DELAYED)),
    "key's rate": (limited("key"), TooManyRequests, (REFUSED, PASSED, PASSED, PASSED)),
    "usage unknown": (stale, Unavailable, (REFUSED, REFUSED, DELAYED, DELAYED)),
    "jobs": (lambda: admission(Terms(jobs=5), used={ALL: Used(5)}), QuotaUsedUp, (REFUSED, TOLD, TOLD, REFUSED)),
    "no jobs": (lambda: admission(Terms(jobs=0)), QuotaUsedUp, (REFUSED, TOLD, TOLD, REFUSED)),
    "tokens": (lambda: admission(Terms(tokens=5), used={ALL: Used(1, 5)}), QuotaUsedUp, (REFUSED, TOLD, TOLD, REFUSED)),
    "person's rate": (limited("user"), TooManyRequests, (PASSED, TOLD, TOLD, DELAYED)),
    "person's jobs": (lambda: admission(Terms(user_jobs=5), used={BOB: Used(5)}), QuotaUsedUp, (PASSED, TOLD, TOLD, REFUSED)),
    "person's tokens": (
        lambda: admission(Terms(user_tokens=5), used={BOB: Used(1, 5)}),
        QuotaUsedUp,
        (PASSED, TOLD, TOLD, REFUSED),
    ),
    "nothing": (admission, SentinelError, (PASSED, PASSED, PASSED, PASSED)),
}


def outcome(made: Admission, asked: Arrival) -> tuple[str, SentinelError | None]:
    """What becomes of one job."""
    try:
        (passage,) = made.admit(asked, NOW).passages
    except SentinelError as error:
        return REFUSED, error
    return (TOLD if passage.told else DELAYED if passage.run_at else PASSED), None


@pytest.mark.parametrize("caller", list(Caller))
@pytest.mark.parametrize("cause", MATRIX)
def test_every_cause_and_every_caller(cause: str, caller: Caller) -> None:
    """What the table says happens, with the error it names; the API, which names no person, gets no person's limits."""
    make, error, outcomes = MATRIX[cause]
    asked = arrival(caller, "" if caller is Caller.API else "bob")
    found, raised = outcome(make(), asked)
    assert found == outcomes[list(Caller).index(caller)]
    assert raised is None or type(raised) is error
    if raised is not None and error in (TooManyRequests, QuotaUsedUp, Unavailable):
        assert raised.retry_after_seconds is not None
        assert raised.retry_after_seconds > 0


def test_every_row_is_tried() -> None:
    """Each check of the table refuses somebody above, or in the test of the key."""
    assert [check.find.__name__ for check in CHECKS] == ["key", "subscription", "rate", "known", "quota", "rate", "quota"]


@pytest.mark.parametrize("caller", list(Caller))
@pytest.mark.parametrize("limited", [True, False])
def test_without_proof_nobody_comes_in(caller: Caller, limited: bool) -> None:
    """Whatever the plan is, a request without proof is refused first."""
    made = admission(Terms(jobs=1)) if limited else Admission(Directory, clock_ns=Clock())
    with pytest.raises(Forged):
        made.admit(arrival(caller, proof=""), NOW)


def test_without_a_subscription_the_default_plan_is_in_force() -> None:
    """A tenant without a subscription has the default terms; by default no limits, and nothing is remembered of it."""
    made = Admission(Directory, Terms(tenant_rate=Rate(1, 60)), clock_ns=Clock())
    assert outcome(made, arrival(Caller.API))[0] == PASSED
    assert outcome(made, arrival(Caller.API))[0] == REFUSED
    free = Admission(Directory, clock_ns=Clock())
    assert free.admit(arrival(Caller.CHAT, "bob", "eve"), NOW).passages == (PASSES, PASSES)
    assert len(free.limiter) == 0


class TestQuota:
    def test_who_is_refused_a_share_wants_the_next_look_soon(self) -> None:
        """Whoever is refused for a part that others may not use up has the next look come sooner; for good, nobody has."""
        made = admission(Terms(jobs=4))
        made.limiter.processes = 2
        ada = arrival(Caller.CHAT)
        made.settle(made.admit(ada, NOW), [True])
        made.settle(made.admit(ada, NOW), [True])
        assert not made.ledger.is_short
        assert made.admit(ada, NOW).passages[0].told
        assert made.ledger.is_short
        made.ledger.look()
        made.ledger.learn(month_of(NOW), [("acme", "", 4, 0)], 100 * SECOND_NS)
        assert made.admit(ada, NOW).passages[0].told
        assert not made.ledger.is_short

    def test_what_was_let_in_counts_at_once(self) -> None:
        """A quota of three lets three in, kept yet or not; one that was not kept, or was kept before, is given back."""
        made = admission(Terms(jobs=3))
        first = made.admit(arrival(Caller.API), NOW)
        second = made.admit(arrival(Caller.API), NOW)
        third = made.admit(arrival(Caller.API), NOW)
        assert outcome(made, arrival(Caller.API))[0] == REFUSED
        made.settle(first, [True])
        made.settle(second, [False])
        made.settle(third, [])
        assert [outcome(made, arrival(Caller.API))[0] for _ in range(3)] == [PASSED, PASSED, REFUSED]

    def test_each_person_has_their_own(self) -> None:
        """In one webhook, who has used theirs up is told, and the others pass; jobs say that their end user is counted."""
        made = admission(Terms(user_jobs=1))
        admitted = made.admit(arrival(Caller.CHAT, "bob", "eve", "bob"), NOW)
        assert [passage.told for passage in admitted.passages] == ["", "", "quota"]
        assert admitted.metering is Metering.USER
        made.settle(admitted, [True, False])
        assert [outcome(made, arrival(Caller.CHAT, who))[0] for who in ("bob", "eve", "ann")] == [TOLD, PASSED, PASSED]

    def test_the_month_turns(self) -> None:
        """What was used up on the last day of the month is there again on the first of the next; the answer says when."""
        made = admission(Terms(jobs=1), used={ALL: Used(1)})
        _, error = outcome(made, arrival(Caller.API))
        assert error is not None
        assert error.retry_after_seconds is not None
        assert made.admit(arrival(Caller.API), NOW + error.retry_after_seconds).passages == [PASSES]


class TestRate:
    def test_the_limit_is_kept_and_comes_back(self) -> None:
        """Three at once, then one every twenty seconds; a refusal costs nothing."""
        made = admission(Terms(key_rate=Rate(3, 60)))
        assert [outcome(made, arrival(Caller.API))[0] for _ in range(5)] == [PASSED] * 3 + [REFUSED] * 2
        made.clock_ns.now_ns += 20 * SECOND_NS
        assert [outcome(made, arrival(Caller.API))[0] for _ in range(2)] == [PASSED, REFUSED]

    def test_what_is_delayed_is_spread(self) -> None:
        """What is never sent again is kept: each runs when the limit allows it, up to an hour ahead, then it is refused."""
        made = admission(Terms(source_rate=Rate(1, 600)))
        waits = []
        for _ in range(8):
            try:
                (passage,) = made.admit(arrival(Caller.SENDER), NOW).passages
            except TooManyRequests as error:
                waits.append(error.retry_after_seconds)
            else:
                waits.append(round((passage.run_at or NOW) - NOW))
        assert waits == [0, 600, 1200, 1800, 2400, 3000, 3600, 4200]
        assert DELAY_SECONDS_MAX == 3600

    @pytest.mark.parametrize("left", [1, 3, 9, 10, 11])
    def test_a_quota_that_ends_within_a_batch(self, left: int) -> None:
        """Of ten messages in one webhook as many are let in as are left, and the senders of the others are told."""
        made = admission(Terms(jobs=100), used={Account("acme"): Used(100 - left, 0)})
        passages = made.admit(arrival(Caller.CHAT, *map(str, range(10))), NOW).passages
        assert [passage.told for passage in passages] == [""] * min(left, 10) + ["quota"] * (10 - min(left, 10))

    def test_one_webhook_with_more_than_the_limit(self) -> None:
        """A batch larger than the limit passes when nothing is owed, and is paid off afterwards: else it could never pass."""
        made = admission(Terms(tenant_rate=Rate(10, 10)))
        assert len(made.admit(arrival(Caller.CHAT, *"abcdefghijklmnopqrst"), NOW).passages) == 20
        made.clock_ns.now_ns += 10 * SECOND_NS
        assert outcome(made, arrival(Caller.CHAT))[0] == REFUSED
        made.clock_ns.now_ns += SECOND_NS
        assert outcome(made, arrival(Caller.CHAT))[0] == PASSED

    def test_one_person_too_fast_is_nobody_elses_trouble(self) -> None:
        """Who is too fast is told so; others of the same source pass, and what was refused does not count for the source."""
        made = admission(Terms(user_rate=Rate(1, 60), source_rate=Rate(3, 60)))
        told = [passage.told for passage in made.admit(arrival(Caller.CHAT, "bob", "bob", "eve"), NOW).passages]
        assert told == ["", "rate", ""]
        assert outcome(made, arrival(Caller.CHAT, "ann"))[0] == PASSED
        assert outcome(made, arrival(Caller.CHAT, "joe"))[0] == REFUSED


def test_the_api_is_told_the_limits() -> None:
    """Answers have RateLimit, RateLimit-Policy and X-RateLimit-*, whether the job was taken or not; chats have none."""
    made = admission(Terms(key_rate=Rate(2, 10), tenant_rate=Rate(100, 60)))
    headers = dict(made.admit(arrival(Caller.API), NOW).headers)
    assert headers == {
        "ratelimit-policy": '"key";q=2;w=10, "tenant";q=100;w=60',
        "ratelimit": '"key";r=1;t=5, "tenant";r=99;t=1',
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "5",
    }
    made.admit(arrival(Caller.API), NOW)
    _, error = outcome(made, arrival(Caller.API))
    assert error is not None
    assert dict(error.headers)["ratelimit"].startswith('"key";r=0;t=10')
    assert error.retry_after_seconds == 5


def test_the_table_is_whole() -> None:
    """Every row says for every caller what a refusal means."""
    assert all(isinstance(check.treatment(caller), Treatment) for check in CHECKS for caller in Caller)


def test_a_batch_that_is_refused_in_the_middle_counts_nothing() -> None:
    """Where one person's refusal is the whole request's, those before in the same request are not counted as let in."""
    made = admission(Terms(jobs=2, user_jobs=5), used={BOB: Used(5)})
    for _ in range(3):
        with pytest.raises(QuotaUsedUp):
            made.admit(arrival(Caller.SENDER, "ada", "bob"), NOW)
    assert made.admit(arrival(Caller.SENDER, "ada", "eve"), NOW).passages == [PASSES, PASSES]


def test_a_clock_in_the_first_hour_has_a_month() -> None:
    """Whoever starts with a clock that was never set counts in the month that it shows."""
    made = Admission(Directory)
    made.admit(arrival(Caller.CHAT), 60.0)
    assert made.ledger.month == "1970-01"
