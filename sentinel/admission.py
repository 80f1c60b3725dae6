"""Runs the table of edge checks against what is in memory, and counts who was let in. Webhooks and the job API ask here.

Must not wait for anything: what it needs follows the record by itself (`sentinel.usage`, `sentinel.shared_limits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from sentinel.edge.checks import CHECKS, Asking, Caller, Check, Treatment, first_no, quota
from sentinel.edge.entrance import Entrance, counted_in, open_entrance
from sentinel.edge.limits import Bucket, Limiter
from sentinel.edge.plans import UNLIMITED, Terms
from sentinel.edge.quota import Ledger, Tally, month_of
from sentinel.model import Metering
from sentinel.records.directory import Directory

API = Caller.API  # a member of an enumeration is not found as quickly
DELAY_SECONDS_MAX = 3_600.0
REQUEST_CHECKS = tuple(check for check in CHECKS if not check.each_person)
PERSON_CHECKS = tuple(check for check in CHECKS if check.each_person)


@attrs.define(eq=False)
class Arrival:
    """
    Jobs at the door, that came together by the source or key `way`.

    Attributes:
        proof: what showed that the request is genuine.
        senders: for each job the end user who sent it, or "" for nobody in particular.
    """

    caller: Caller
    proof: str
    tenant: str
    way: str
    senders: Sequence[str] = ("",)


@attrs.frozen
class Passage:
    """What becomes of one job: it passes, at `run_at` if that is set; or it was refused, and its sender is told why (`told`)."""

    run_at: float | None = None
    told: str = ""


PASSES = Passage()
USED_UP = Passage(told=quota.__name__)  # only platforms of chats send several messages together


@attrs.define(eq=False)
class Admitted:
    """What became of each job that was asked for; how those that pass are counted; what tells of the limits; where each counts."""

    passages: Sequence[Passage]
    metering: Metering = Metering.TENANT
    headers: tuple[tuple[str, str], ...] = ()
    tallies: Sequence[Sequence[Tally]] = ()


@attrs.define(eq=False)
class Admission:
    """Who may come in. `default` are the terms of a tenant without a subscription."""

    directory: Callable[[], Directory]
    default: Terms = UNLIMITED
    ledger: Ledger = attrs.field(factory=Ledger)
    limiter: Limiter = attrs.field(factory=Limiter)
    clock_ns: Callable[[], int] = time.monotonic_ns
    _hour: int = -1  # none yet: 1970 began with hour 0
    _known: tuple[Directory | None, str] = (None, "")  # what the entrances were found with: the directory, and the month
    _entrances: dict[tuple[str, str, bool], Entrance] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.default == UNLIMITED:
            self.default = UNLIMITED  # itself, so that the hot path need not compare

    @property
    def is_limited(self) -> bool:
        """Whether anybody is limited at all."""
        return self.default is not UNLIMITED or bool(self.directory().subscriptions)

    def admit(self, arrival: Arrival, now: float) -> Admitted:
        """
        What becomes of these jobs.

        Raises the error of the check that refuses the request as a whole; for the API with headers that tell of the limits. Whoever
        passes is counted: call `settle` when it is known which jobs are kept.
        """
        if now // 3600 != self._hour:  # no month begins within one
            self._hour = int(now // 3600)
            self.ledger.turn_to(month_of(now))
        now_ns = self.clock_ns()
        entrance = self._entrance(arrival, now_ns)
        if entrance.is_free and arrival.proof:
            return Admitted((PASSES,) * len(arrival.senders))
        if len(arrival.senders) == 1 and arrival.proof:
            end_user = entrance.end_user(arrival.senders[0])
            found = entrance.look(self.limiter, self.ledger, end_user, now, now_ns)
            if found is not None:
                return self._pass(entrance, *found, now_ns)
        jobs, subscription, terms = len(arrival.senders), entrance.subscription, entrance.terms
        state = (self.limiter, self.ledger, now, now_ns, jobs, "", entrance.limits, entrance.tally)
        asking = Asking(arrival.proof, subscription, terms, *state)
        return self._let_in(asking, arrival, entrance)

    def settle(self, admitted: Admitted, created: Sequence[bool]) -> None:
        """Of the jobs that passed, these were created; the others were there before. To be said also of none: nothing was kept."""
        kept = iter(created)
        for tallies in admitted.tallies:
            self.ledger.settle(tallies, next(kept, False))

    def _entrance(self, arrival: Arrival, now_ns: int) -> Entrance:
        """Where the jobs come in; found out once for each way, until the directory or the month is another."""
        directory, month = self.directory(), self.ledger.month
        if directory is not self._known[0] or month is not self._known[1]:
            self._known, self._entrances = (directory, month), {}
            self.limiter.begin_anew(now_ns)
        by_key = arrival.caller is API
        found = self._entrances.get((arrival.tenant, arrival.way, by_key))
        if found is None:
            subscription = directory.subscriptions.get(arrival.tenant)
            found = self._entrances[arrival.tenant, arrival.way, by_key] = open_entrance(
                arrival.tenant,
                arrival.way,
                by_key=by_key,
                subscription=subscription,
                terms=self.default if subscription is None else subscription.terms,
                limiter=self.limiter,
                ledger=self.ledger,
                now_ns=now_ns,
            )
        return found

    def _pass(self, entrance: Entrance, limits: Sequence[Bucket], tallies: tuple[Tally, ...], now_ns: int) -> Admitted:
        """The one job passes, and is counted."""
        self.limiter.take(limits, now_ns)
        for tally in tallies:
            tally.on_the_way += 1
        headers = self._headers(limits[: len(entrance.limits)], now_ns) if entrance.by_key else ()
        return Admitted([PASSES], entrance.metering, headers, (tallies,))

    def _let_in(self, asking: Asking, arrival: Arrival, entrance: Entrance) -> Admitted:
        """What the table says of each job; whoever passes is counted."""
        limits, tally, terms = asking.limits, asking.tally, asking.terms
        whole = self._passage(asking, REQUEST_CHECKS, arrival.caller)
        passages: list[Passage] = []
        tallies: list[tuple[Tally, ...]] = []
        try:
            for sender in arrival.senders:
                end_user = "" if whole.told else entrance.end_user(sender)
                passage, own = self._person(asking, arrival, end_user, whole) if end_user else (whole, None)
                if tallies and not passage.told and self._is_used_up(asking, tally):
                    passage = USED_UP
                if not passage.told:
                    tallies.append(counted_in(terms, tally, own))
                    for each in tallies[-1]:
                        each.on_the_way += 1
                passages.append(passage)
        except BaseException:
            self.settle(Admitted((), tallies=tallies), ())  # one of them refuses all: those before it are not kept either
            raise
        if tallies:
            self.limiter.take(limits, asking.now_ns, len(tallies))
        headers = self._headers(limits, asking.now_ns) if entrance.by_key else ()
        return Admitted(passages, entrance.metering, headers, tallies)

    def _is_used_up(self, asking: Asking, tally: Tally) -> bool:
        """Whether the tenant's quota has ended within a batch, with the jobs of it that were let in before."""
        asking.end_user, asking.tally = "", tally
        return quota(asking) is not None

    def _person(self, asking: Asking, arrival: Arrival, end_user: str, whole: Passage) -> tuple[Passage, Tally | None]:
        """What the checks of one person say, and the person's tally where there is one."""
        terms, tenant = asking.terms, arrival.tenant
        asking.jobs, asking.end_user, asking.limits = 1, end_user, ()
        tally = None
        if terms.counts_users:
            asking.tally = tally = self.ledger.tally(tenant, end_user)
        if terms.user_rate is not None:
            asking.limits = (self.limiter.person(tenant, end_user, terms.user_rate, asking.now_ns),)
        passage = self._passage(asking, PERSON_CHECKS, arrival.caller)
        if passage.told:
            return passage, tally
        self.limiter.take(asking.limits, asking.now_ns)
        return (whole if passage is PASSES else passage if whole is PASSES else _later(passage, whole)), tally

    def _passage(self, asking: Asking, checks: Sequence[Check], caller: Caller) -> Passage:
        refused = first_no(asking, checks)
        if refused is None:
            return PASSES
        check, no = refused
        treatment = check.treatment(caller)
        if treatment is Treatment.TELL:
            return Passage(told=check.find.__name__)
        if treatment is Treatment.DELAY and no.wait_seconds is not None and no.wait_seconds <= DELAY_SECONDS_MAX:
            return Passage(run_at=asking.now + no.wait_seconds)
        if caller is API:
            no.error.headers = self._headers(asking.limits, asking.now_ns)
        raise no.error

    def _headers(self, limits: Sequence[Bucket], now_ns: int) -> tuple[tuple[str, str], ...]:
        """What the limits are and what is left of them (draft-ietf-httpapi-ratelimit-headers-11, and the older X-RateLimit-*)."""
        if not limits:
            return ()
        states = [(bucket, bucket.left(now_ns, self.limiter.processes), bucket.reset_seconds(now_ns)) for bucket in limits]
        policy = ", ".join(f'"{bucket.key.kind}";q={bucket.rate.count};w={bucket.rate.seconds}' for bucket, _, _ in states)
        state = ", ".join(f'"{bucket.key.kind}";r={left};t={reset}' for bucket, left, reset in states)
        tightest, left, reset = min(states, key=lambda each: each[1])
        return (
            ("ratelimit-policy", policy),
            ("ratelimit", state),
            ("x-ratelimit-limit", str(tightest.rate.count)),
            ("x-ratelimit-remaining", str(left)),
            ("x-ratelimit-reset", str(reset)),
        )


def _later(one: Passage, other: Passage) -> Passage:
    return max(one, other, key=lambda each: each.run_at or 0.0)
