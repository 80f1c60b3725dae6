"""Whether a tenant's subscription is in force at a moment. Pure."""

from __future__ import annotations

from enum import StrEnum

import attrs

from sentinel.edge.plans import UNLIMITED, Terms


class Status(StrEnum):
    """How a subscription is. The first two are served until `valid_until`, for ever without one."""

    ACTIVE = "active"
    TRIALING = "trialing"
    PAST_DUE = "past_due"
    ENDED = "ended"
    SUSPENDED = "suspended"


@attrs.frozen
class Subscription:
    """
    What a tenant has agreed to.

    Attributes:
        special: terms that differ from the plan's.
        terms: the plan's terms with the special ones in their place; what is in force.
        event_at: when this was true, by the clock of whoever said it; older news does not replace it.
    """

    tenant: str
    plan: str
    status: Status = Status.ACTIVE
    valid_until: float | None = None
    special: Terms = UNLIMITED
    terms: Terms = UNLIMITED
    event_at: float = 0.0


class Standing(StrEnum):
    """What a subscription is good for at a moment."""

    GOOD = "good"
    ENDED = "ended"
    UNPAID = "unpaid"
    SUSPENDED = "suspended"


def standing(subscription: Subscription | None, now: float) -> Standing:
    """
    The tenant's standing; good without any subscription.

    Past due is served until `valid_until`, which then is the end of the grace, and not at all without one.
    """
    if subscription is None:
        return Standing.GOOD
    status, until = subscription.status, subscription.valid_until
    if status is Status.SUSPENDED:
        return Standing.SUSPENDED
    if status is Status.PAST_DUE:
        return Standing.GOOD if until is not None and now < until else Standing.UNPAID
    if status is Status.ENDED or (until is not None and now >= until):
        return Standing.ENDED
    return Standing.GOOD
