"""Whether a tenant's subscription is in force at a moment. Pure."""

from __future__ import annotations

import math
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


def good_until(subscription: Subscription | None) -> float:
    """Until when whoever has it is served; minus infinity for not at all. Past due, `valid_until` is the end of the grace."""
    if subscription is None:
        return math.inf
    until = subscription.valid_until
    if subscription.status in (Status.ACTIVE, Status.TRIALING):
        return math.inf if until is None else until
    return until if subscription.status is Status.PAST_DUE and until is not None else -math.inf


def standing(subscription: Subscription | None, now: float) -> Standing:
    """The tenant's standing; good without any subscription."""
    if subscription is None or now < good_until(subscription):
        return Standing.GOOD
    match subscription.status:
        case Status.SUSPENDED:
            return Standing.SUSPENDED
        case Status.PAST_DUE:
            return Standing.UNPAID
        case _:
            return Standing.ENDED
