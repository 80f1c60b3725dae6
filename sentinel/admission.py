"""Runs the table of edge checks against what is in memory, and counts who was let in. Webhooks and the job API ask here.

Must not wait for anything: what it needs follows the record by itself (`sentinel.usage`, `sentinel.shared_limits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from sentinel.edge.checks import CHECKS, Asking, Caller, Check, Treatment, first_no, quota
from sentinel.edge.limits import Bucket, Limiter, LimitKey
from sentinel.edge.plans import UNLIMITED, Terms
from sentinel.edge.quota import Account, Ledger, month_of
from sentinel.model import Metering
from sentinel.records.directory import Directory

DELAY_SECONDS_MAX = 3_600.0
REQUEST_CHECKS = tuple(check for check in CHECKS if not check.each_person)
PERSON_CHECKS = tuple(check for check in CHECKS if check.each_person)


@attrs.frozen
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


@attrs.frozen
class Admitted:
    """What became of each job that was asked for; how those that pass are counted; the limits that were looked at."""

    passages: Sequence[Passage]
    metering: Metering = Metering.TENANT
    headers: tuple[tuple[str, str], ...] = ()
    accounts: Sequence[Sequence[Account]] = ()


@attrs.define(eq=False)
class Admission:
    """Who may come in. `default` are the terms of a tenant without a subscription."""

    directory: Callable[[], Directory]
    default: Terms = UNLIMITED
    ledger: Ledger = attrs.field(factory=Ledger)
    limiter: Limiter = attrs.field(factory=Limiter)
    clock_ns: Callable[[], int] = time.monotonic_ns

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
        tenant = arrival.tenant
        subscription = self.directory().subscriptions.get(tenant)
        terms = self.default if subscription is None else subscription.terms
        if subscription is None and terms is UNLIMITED and arrival.proof:
            return Admitted((PASSES,) * len(arrival.senders))
        now_ns = self.clock_ns()
        self.ledger.turn_to(month_of(now))
        asking = Asking(arrival.proof, tenant, subscription, terms, self.ledger, self.limiter, now, now_ns, len(arrival.senders))
        asking.limits = self._limits(arrival, terms, now_ns)
        return self._let_in(asking, arrival)

    def settle(self, admitted: Admitted, created: Sequence[bool]) -> None:
        """Of the jobs that passed, these were created; the others were there before. To be said also of none: nothing was kept."""
        kept = iter(created)
        for accounts in admitted.accounts:
            new = int(next(kept, False))
            for account in accounts:
                self.ledger.settle(account, 1, new)

    def _limits(self, arrival: Arrival, terms: Terms, now_ns: int) -> list[Bucket]:
        kind, rate = ("key", terms.key_rate) if arrival.caller is Caller.API else ("source", terms.source_rate)
        tenant = arrival.tenant
        wanted = ((LimitKey(kind, tenant, arrival.way), rate), (LimitKey("tenant", tenant), terms.tenant_rate))
        return [self.limiter.bucket(limit, of, now_ns) for limit, of in wanted if of is not None]

    def _let_in(self, asking: Asking, arrival: Arrival) -> Admitted:
        limits, terms = asking.limits, asking.terms
        whole = self._passage(asking, REQUEST_CHECKS, arrival.caller)
        passages: list[Passage] = []
        accounts: list[tuple[Account, ...]] = []
        try:
            for sender in arrival.senders:
                end_user = f"{arrival.way}/{sender}" if sender else ""
                passage = whole if whole.told else self._person(asking, arrival.caller, end_user, whole)
                if accounts and not passage.told and self._is_used_up(asking):
                    passage = USED_UP
                if not passage.told:
                    accounts.append(self._count(asking.tenant, end_user, terms))
                passages.append(passage)
        except BaseException:
            self.settle(Admitted((), accounts=accounts), ())  # one of them refuses all: those before it are not kept either
            raise
        for bucket in limits if accounts else ():
            self.limiter.take(bucket, asking.now_ns, len(accounts))
        metering = Metering.USER if terms.counts_users else Metering.TENANT
        headers = self._headers(limits, asking.now_ns) if arrival.caller is Caller.API else ()
        return Admitted(passages, metering, headers, accounts)

    def _is_used_up(self, asking: Asking) -> bool:
        """Whether the tenant's quota has ended within a batch, with the jobs of it that were let in before."""
        asking.end_user = ""
        return quota(asking) is not None

    def _person(self, asking: Asking, caller: Caller, end_user: str, whole: Passage) -> Passage:
        """What the checks of one person say, where somebody is named."""
        rate = asking.terms.user_rate
        if not end_user or (rate is None and not asking.terms.counts_users):
            return whole
        asking.jobs, asking.end_user, asking.limits = 1, end_user, ()
        if rate is not None:
            asking.limits = (self.limiter.bucket(LimitKey("user", asking.tenant, end_user), rate, asking.now_ns),)
        passage = self._passage(asking, PERSON_CHECKS, caller)
        if not passage.told:
            for bucket in asking.limits:
                self.limiter.take(bucket, asking.now_ns)
        if passage is PASSES or whole is PASSES or passage.told:
            return whole if passage is PASSES else passage
        return max(passage, whole, key=lambda each: each.run_at or 0.0)

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
        if caller is Caller.API:
            no.error.headers = self._headers(asking.limits, asking.now_ns)
        raise no.error

    def _count(self, tenant: str, end_user: str, terms: Terms) -> tuple[Account, ...]:
        """Count a job that comes in, where a quota says that it matters; the accounts it is counted in."""
        if terms.jobs is None and terms.user_jobs is None:
            return ()
        accounts = (Account(tenant), Account(tenant, end_user)) if end_user and terms.user_jobs is not None else (Account(tenant),)
        for account in accounts:
            self.ledger.take(account, 1)
        return accounts

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
