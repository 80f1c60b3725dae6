"""The body of a billing webhook: which tenant has which plan, in which state, since when it is so. Pure.

    {"tenant": "acme", "plan": "pro", "status": "active", "valid_until": "2026-12-31T00:00:00Z",
     "event_time": "2026-11-25T10:00:00Z"}

`valid_until` may be missing or null; `terms`, where they differ from the plan's, is an object of texts. Times are RFC 3339 or
seconds since the epoch. `event_time` is when it became true at the biller: so the order of arrival, and a repetition, are harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sentinel.edge.plans import UNLIMITED, Terms, parse_terms
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.errors import BadInput

KIND = "billing"  # the setting `kind` of a source that sends these
FIELDS = ("tenant", "plan", "status", "valid_until", "event_time", "terms")
AHEAD_SECONDS_MAX = 300.0  # an event from the future would shut out all that come after it
NAME_MAX = 64
_TIME_MAX = 32_503_680_000.0  # the year 3000


def parse_billing(given: Any, now: float) -> Subscription:
    """The subscription that the decoded body sets. Raises BadInput naming the field that is wrong and what it may be."""
    if not isinstance(given, dict):
        raise BadInput("A billing webhook is a JSON object.")
    if unknown := sorted(given.keys() - set(FIELDS)):
        raise BadInput(f"There is no field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}.")
    event_at = read_time("event_time", given.get("event_time"))
    if event_at > now + AHEAD_SECONDS_MAX:
        raise BadInput("event_time is in the future.")
    until = given.get("valid_until")
    return Subscription(
        tenant=_name("tenant", given.get("tenant")),
        plan=_name("plan", given.get("plan")),
        status=_status(given.get("status")),
        valid_until=None if until is None else read_time("valid_until", until),
        special=_terms(given.get("terms")),
        event_at=event_at,
    )


def read_time(field: str, given: Any) -> float:
    """Seconds since the epoch from a number, or from RFC 3339; UTC if it does not say. Raises BadInput."""
    seconds = -1.0
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            pass
        else:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    elif type(given) in (int, float):
        seconds = float(min(max(given, -1), _TIME_MAX + 1))
    if not 0 <= seconds <= _TIME_MAX:
        raise BadInput(f"{field} must be a time such as 2026-12-31T12:00:00Z, or seconds since 1970.")
    return seconds


def _name(field: str, given: Any) -> str:
    if not isinstance(given, str) or not 1 <= len(given) <= NAME_MAX:
        raise BadInput(f"{field} must be a text of 1 to {NAME_MAX} characters.")
    return given


def _status(given: Any) -> Status:
    if given not in list(Status):
        raise BadInput(f"status must be one of {', '.join(Status)}.")
    return Status(given)


def _terms(given: Any) -> Terms:
    if given is None:
        return UNLIMITED
    if not isinstance(given, Mapping) or not all(isinstance(value, str) for value in given.values()):
        raise BadInput('terms must be an object of texts such as {"jobs": "1000", "tenant_rate": "60/60"}.')
    return parse_terms(given)
