"""One way in to one tenant: what is the same for all who come by it, and a short look at whether all is well. Pure.

Nearly everybody passes. The look finds that in a few comparisons; where it does not, the table of `sentinel.edge.checks` is asked,
and decides. So the look never passes what the table would refuse, tell or delay.
"""

from __future__ import annotations

import attrs

from sentinel.edge.checks import USAGE_STALE_NS
from sentinel.edge.limits import Bucket, Limiter, LimitKey
from sentinel.edge.plans import UNLIMITED, Terms
from sentinel.edge.quota import Ledger, Tally
from sentinel.edge.subscriptions import Subscription, good_until
from sentinel.model import Metering


@attrs.frozen(eq=False)
class Entrance:
    """
    The source or key `way` of a tenant.

    Attributes:
        by_key: whether it is a key's.
        good_until: until when the subscription is in force.
        limits: the states of the rates of the way and of the tenant, where there are any.
        tally: the tenant's, of the month.
        asks_persons: whether the table asks about each person.
        counts_tokens: whether it must be known what was used.
        counts_users, metering: what is counted of a job that comes in here.
        is_free: whether whoever is genuine passes.
    """

    tenant: str
    way: str
    by_key: bool
    subscription: Subscription | None
    good_until: float
    terms: Terms
    limits: tuple[Bucket, ...]
    tally: Tally
    asks_persons: bool
    counts_tokens: bool
    counts_users: bool
    metering: Metering
    is_free: bool

    def end_user(self, sender: str) -> str:
        """The name of whoever the table is to be asked about; "" for nobody."""
        return f"{self.way}/{sender}" if sender and self.asks_persons else ""

    def look(
        self, limiter: Limiter, ledger: Ledger, end_user: str, now: float, now_ns: int
    ) -> tuple[tuple[Bucket, ...], tuple[Tally, ...]] | None:
        """For one job that is genuine: the limits and the tallies it counts in, if no check would refuse it. Counts nothing."""
        terms, processes = self.terms, limiter.processes
        if now >= self.good_until or (self.counts_tokens and not ledger.is_known(now_ns, USAGE_STALE_NS)):
            return None
        if self.tally.is_used_up(terms.jobs, terms.tokens, processes):
            return None
        limits, own = self.limits, None
        for bucket in limits:
            rate = bucket.rate
            if bucket.tat_ns + rate.interval_ns * processes > now_ns + rate.burst_ns:  # `Bucket.wait_ns` begins with the same
                return None
        if end_user:  # only now: whom the way refuses is to leave no state of their own
            own_rate = terms.user_rate
            if own_rate is not None:
                person = limiter.person(self.tenant, end_user, own_rate, now_ns)
                if person.tat_ns + own_rate.interval_ns * processes > now_ns + own_rate.burst_ns:
                    return None
                limits = (*limits, person)
            if self.counts_users:
                own = ledger.tally(self.tenant, end_user)
                if own.is_used_up(terms.user_jobs, terms.user_tokens, processes):
                    return None
        return limits, counted_in(terms, self.tally, own)


def open_entrance(
    tenant: str,
    way: str,
    *,
    by_key: bool,
    subscription: Subscription | None,
    terms: Terms,
    limiter: Limiter,
    ledger: Ledger,
    now_ns: int,
) -> Entrance:
    """The entrance for those who come by that source, or by that key, until the directory or the month is another."""
    kind, rate = ("key", terms.key_rate) if by_key else ("source", terms.source_rate)
    wanted = ((LimitKey(kind, tenant, way), rate), (LimitKey("tenant", tenant), terms.tenant_rate))
    return Entrance(
        tenant=tenant,
        way=way,
        by_key=by_key,
        subscription=subscription,
        good_until=good_until(subscription),
        terms=terms,
        limits=tuple(limiter.bucket(limit, of, now_ns) for limit, of in wanted if of is not None),
        tally=ledger.tally(tenant),
        asks_persons=terms.user_rate is not None or terms.counts_users,
        counts_tokens=terms.tokens is not None or terms.user_tokens is not None,
        counts_users=terms.counts_users,
        metering=Metering.USER if terms.counts_users else Metering.TENANT,
        is_free=subscription is None and terms == UNLIMITED,
    )


def counted_in(terms: Terms, tally: Tally, own: Tally | None) -> tuple[Tally, ...]:
    """Which of the tallies a job counts in when it comes in: only where a quota says that it matters."""
    if terms.jobs is None and terms.user_jobs is None:
        return ()
    return (tally,) if own is None or terms.user_jobs is None else (tally, own)
