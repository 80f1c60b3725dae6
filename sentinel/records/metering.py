"""The part of a record that says what tenants may use and what they have used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import attrs

from sentinel.edge.plans import Terms
from sentinel.edge.quota import Account, Used
from sentinel.edge.subscriptions import Subscription

NEWS_SECONDS = 60.0  # so long after it could be seen, what is new is told to whoever knows what was before
GATEWAY_SILENT_SECONDS = 12.0  # a gateway that was not seen for so long has no share of the limits any more


class Mark(NamedTuple):
    """Where a look at the record has ended, in its own terms: only that record understands it."""

    at: float
    seen: Sequence[int] = ()


@attrs.frozen
class Look:
    """
    What was used, as a look at the record has found it; the next one may begin at `mark`.

    Each of `rows` is an account's tenant and end user, and how many jobs and tokens it has used: there may be many. Each of `more`
    is a tenant, several of its end users, and how many jobs and tokens each has used besides; who stands there twice, twice.
    """

    rows: Sequence[tuple[str, str, int, int]]
    mark: Mark
    more: Sequence[tuple[str, Sequence[str], int, int]] = ()

    @property
    def used(self) -> Mapping[Account, Used]:
        """What was used in full, by account."""
        return {Account(tenant, end_user): Used(jobs, tokens) for tenant, end_user, jobs, tokens in self.rows}


class MeteringRecord(Protocol):
    """The metering part of the contract. Each method is one transaction, but for what is counted with a job's own."""

    def put_plan(self, name: str, terms: Terms, now: float) -> None:
        """Add a plan or replace its terms; they are in force for all its subscriptions."""

    def plans(self) -> Mapping[str, Terms]:
        """The terms of every plan."""

    def put_subscription(self, subscription: Subscription, now: float) -> bool:
        """Set a tenant's subscription; False if there is no such tenant or plan, or a newer one by `event_at`."""

    def usage(self, month: str, since: Mark | None = None) -> Look:
        """
        What was used in that month: by everybody, or what has changed since the look that ended at `since`.

        That look must have begun less than NEWS_SECONDS ago; what it has found and what this one finds are then all.
        """

    def add_up_usage(self, seconds: float = NEWS_SECONDS) -> None:
        """Bring what could be seen `seconds` ago into its final form, where a store counts in two steps. Changes no sum."""

    def see_gateway(self, name: str) -> int:
        """This gateway process lives; how many do."""

    def forget_gateway(self, name: str) -> None:
        """This gateway process ends."""
