"""The part of a record that says what tenants may use and what they have used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from sentinel.edge.plans import Terms
from sentinel.edge.quota import Account, Used
from sentinel.edge.subscriptions import Subscription

GATEWAY_SILENT_SECONDS = 12.0  # a gateway that was not seen for so long has no share of the limits any more


@attrs.frozen
class Look:
    """
    What was used, as a look at the record has found it; the next one may begin at `mark`, which only that record understands.

    Each row is an account's tenant and end user, and how many jobs and tokens it has used: there may be many.
    """

    rows: Sequence[tuple[str, str, int, int]]
    mark: float

    @property
    def used(self) -> Mapping[Account, Used]:
        """The same by account."""
        return {Account(tenant, end_user): Used(jobs, tokens) for tenant, end_user, jobs, tokens in self.rows}


class MeteringRecord(Protocol):
    """The metering part of the contract. Each method is one transaction, but for what is counted with a job's own."""

    def put_plan(self, name: str, terms: Terms, now: float) -> None:
        """Add a plan or replace its terms; they are in force for all its subscriptions."""

    def plans(self) -> Mapping[str, Terms]:
        """The terms of every plan."""

    def put_subscription(self, subscription: Subscription, now: float) -> bool:
        """Set a tenant's subscription; False if there is no such tenant or plan, or a newer one by `event_at`."""

    def usage(self, month: str, since: float = 0) -> Look:
        """What was used in that month, of all whose use has changed since the look with the mark `since`, and perhaps of others."""

    def add_up_usage(self) -> None:
        """Bring what is counted into its final form, where a store counts in two steps. Changes no sum."""

    def see_gateway(self, name: str) -> int:
        """This gateway process lives; how many do."""

    def forget_gateway(self, name: str) -> None:
        """This gateway process ends."""
