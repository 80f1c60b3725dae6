"""What is asked before a request costs anything, in this order; the first "no" answers, and the model never hears of it.

One table for webhooks and for the job API. Each check is a pure look at what is in memory. `sentinel.admission` runs the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, StrEnum, auto

import attrs

from sentinel.edge.gcra import SECOND_NS
from sentinel.edge.limits import Bucket, Limiter
from sentinel.edge.plans import Terms
from sentinel.edge.quota import Ledger, Tally, seconds_left
from sentinel.edge.subscriptions import Standing, Subscription, standing
from sentinel.errors import Forged, PaymentRequired, QuotaUsedUp, SentinelError, Suspended, TooManyRequests, Unavailable

USAGE_STALE_NS = 30 * SECOND_NS  # what was used is not known any more when the record has not been asked for so long
ASK_AGAIN_SECONDS = 60


class Caller(StrEnum):
    """Who is at the door, by what a "no" means to it."""

    API = "api"  # a program that reads status codes
    CHAT = "chat"  # a platform that sends again for hours, with a person behind it
    HASTY_CHAT = "hasty_chat"  # a platform that gives up within minutes, with a person behind it
    SENDER = "sender"  # a service that never sends again


class Treatment(Enum):
    """What becomes of a request that a check has refused."""

    REFUSE = auto()  # the error's status, in the caller's own shape, with Retry-After; no job
    TELL = auto()  # 2xx and no job; the person is told in the chat, at most once an hour
    DELAY = auto()  # 2xx and a job that waits until the limit allows it; REFUSE when that is too far away


REFUSE, TELL, DELAY = Treatment.REFUSE, Treatment.TELL, Treatment.DELAY


@attrs.define
class Asking:
    """
    A request at the door, and what is known of who sent it.

    Attributes:
        jobs: so many come in together.
        end_user: the one person who is asked for; "" for the request as a whole.
        limits, tally: of that person, or of the tenant and its way in.
    """

    proof: str
    subscription: Subscription | None
    terms: Terms
    limiter: Limiter
    ledger: Ledger
    now: float
    now_ns: int
    jobs: int
    end_user: str
    limits: Sequence[Bucket]
    tally: Tally


@attrs.frozen
class No:
    """A check's answer. `wait_seconds` is when the same would pass; None where waiting does not help."""

    error: SentinelError
    wait_seconds: float | None = None


def key(asking: Asking) -> No | None:
    """Is the key valid, or the webhook's proof? (`DirectoryFollower.authenticate` and the channel's `verify` have found it.)"""
    return None if asking.proof else No(Forged())


def subscription(asking: Asking) -> No | None:
    """Is the subscription active? 402 where paying would help, 403 where only the operator can."""
    match standing(asking.subscription, asking.now):
        case Standing.GOOD:
            return None
        case Standing.SUSPENDED:
            return No(Suspended())
        case Standing.UNPAID:
            return No(PaymentRequired("The subscription is not paid."))
        case _:
            return No(PaymentRequired("The subscription has ended."))


def rate(asking: Asking) -> No | None:
    """Has the tenant, the source or the key hit its limit; or, asked for one person, the end user theirs?"""
    processes, now_ns, jobs = asking.limiter.processes, asking.now_ns, asking.jobs
    waits = [(wait, bucket) for bucket in asking.limits if (wait := bucket.wait_ns(now_ns, processes, jobs))]
    if not waits:
        return None
    for _, bucket in waits:
        asking.limiter.refuse(bucket, now_ns)
    wait_ns, worst = max(waits, key=lambda each: each[0])
    seconds = wait_ns / SECOND_NS
    kind, allowed = KINDS[worst.key.kind], worst.rate
    detail = f"At most {allowed.count} jobs at once and in {allowed.seconds} s are taken {kind}."
    return No(TooManyRequests(detail, retry_after_seconds=max(1, -int(-seconds // 1))), seconds)


KINDS = {"tenant": "of this account", "source": "of this source", "key": "with this key", "user": "of one person"}


def known(asking: Asking) -> No | None:
    """Is it known what was used? A limit on cost is closed when it is not; one on jobs stays open."""
    terms = asking.terms
    if (terms.tokens is None and terms.user_tokens is None) or asking.ledger.is_known(asking.now_ns, USAGE_STALE_NS):
        return None
    error = Unavailable("It is not known just now what is left of the quota of tokens.", retry_after_seconds=5)
    return No(error, ASK_AGAIN_SECONDS)


def quota(asking: Asking) -> No | None:
    """Is something left of the month's quota; or, asked for one person, of the end user's?"""
    terms = asking.terms
    jobs, tokens = (terms.user_jobs, terms.user_tokens) if asking.end_user else (terms.jobs, terms.tokens)
    if jobs is None and tokens is None:
        return None
    if jobs is not None and asking.tally.jobs_left(jobs, asking.limiter.processes) < 1:
        asking.ledger.is_short |= asking.tally.jobs < jobs
        return _used_up(asking, f"{jobs} jobs")
    if tokens is not None and asking.tally.tokens >= tokens:
        return _used_up(asking, f"{tokens} tokens")
    return None


def _used_up(asking: Asking, what: str) -> No:
    whose = "of one person" if asking.end_user else "of this account"
    seconds = -int(-seconds_left(asking.now) // 1)
    return No(QuotaUsedUp(f"The {what} a month {whose} are used up.", retry_after_seconds=seconds))


@attrs.frozen
class Check:
    """A row: what is asked, about the whole request or about each person in it, and what a "no" means to each caller."""

    find: Callable[[Asking], No | None]
    each_person: bool
    api: Treatment
    chat: Treatment
    hasty_chat: Treatment
    sender: Treatment

    def treatment(self, caller: Caller) -> Treatment:
        """What this caller's request gets."""
        treatment: Treatment = getattr(self, caller.value)
        return treatment


# fmt: off
CHECKS: tuple[Check, ...] = (
    #     what is asked, and of each person?   job API  WhatsApp, Telegram, Salesforce  Slack   generic, never sends again
    Check(key,           each_person=False, api=REFUSE, chat=REFUSE,         hasty_chat=REFUSE, sender=REFUSE),  # 401
    Check(subscription,  each_person=False, api=REFUSE, chat=TELL,           hasty_chat=TELL,   sender=REFUSE),  # 402, 403
    Check(rate,          each_person=False, api=REFUSE, chat=REFUSE,         hasty_chat=DELAY,  sender=DELAY),   # 429
    Check(known,         each_person=False, api=REFUSE, chat=REFUSE,         hasty_chat=DELAY,  sender=DELAY),   # 503
    Check(quota,         each_person=False, api=REFUSE, chat=TELL,           hasty_chat=TELL,   sender=REFUSE),  # 429
    Check(rate,          each_person=True,  api=REFUSE, chat=TELL,           hasty_chat=TELL,   sender=DELAY),   # 429
    Check(quota,         each_person=True,  api=REFUSE, chat=TELL,           hasty_chat=TELL,   sender=REFUSE),  # 429
    # Then, of each message that is let in: is it too long, does it look malicious? It is marked, held for a person or dropped, as
    # its source chooses (sentinel/edge/screening.py), and acknowledged like all others.
)
# fmt: on


def first_no(asking: Asking, checks: Iterable[Check]) -> tuple[Check, No] | None:
    """The first check that refuses, and its answer."""
    for check in checks:
        no = check.find(asking)
        if no is not None:
            return check, no
    return None
