"""Plans, subscriptions and usage in SQL. Usage is counted by triggers on the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentinel.edge.plans import Terms, overlaid, parse_terms, terms_text
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.records import rows
from sentinel.records.metering import GATEWAY_SILENT_SECONDS, NEWS_SECONDS, Look, Mark
from sentinel.records.statements import Statements


class SqlMetering(Statements):
    """The metering part of a record."""

    def put_plan(self, name: str, terms: Terms, now: float) -> None:
        with self._transaction():
            self._run("put_plan", name=name, terms=rows.encode(terms_text(terms)), now=now)

    def plans(self) -> Mapping[str, Terms]:
        return {row["name"]: parse_terms(rows.decode(row["terms"])) for row in self._all("plans")}

    def put_subscription(self, subscription: Subscription, now: float) -> bool:
        values: dict[str, Any] = {"tenant": subscription.tenant, "plan": subscription.plan, "status": subscription.status.value}
        values |= {"valid_until": subscription.valid_until, "event_at": subscription.event_at, "now": now}
        with self._transaction():
            return bool(self._run("put_subscription", terms=rows.encode(terms_text(subscription.special)), **values))

    def usage(self, month: str, since: Mark | None = None) -> Look:
        mark = self._one("usage_mark", month=month)["mark"]  # asked first: what changes meanwhile is found now or by the next look
        return Look(self._plain("usage", month=month, since=0 if since is None else since.at), Mark(mark))

    def add_up_usage(self, seconds: float = NEWS_SECONDS) -> None:
        """Nothing: what is counted is final."""

    def see_gateway(self, name: str) -> int:
        with self._transaction():
            self._run("forget_gateways", name="", silent_seconds=GATEWAY_SILENT_SECONDS)
            self._run("see_gateway", name=name)
            return int(self._one("gateways")["gateways"])

    def forget_gateway(self, name: str) -> None:
        with self._transaction():
            self._run("forget_gateways", name=name, silent_seconds=GATEWAY_SILENT_SECONDS)

    def _subscriptions(self) -> dict[str, Subscription]:
        """Every tenant's subscription, with the terms that are in force; inside the transaction that reads the directory."""
        plans = self.plans()
        return {row["tenant"]: _subscription(row, plans[row["plan"]]) for row in self._all("subscriptions")}


def _subscription(row: Any, plan: Terms) -> Subscription:
    special = parse_terms(rows.decode(row["terms"]))
    return Subscription(
        tenant=row["tenant"],
        plan=row["plan"],
        status=Status(row["status"]),
        valid_until=row["valid_until"],
        special=special,
        terms=overlaid(plan, special),
        event_at=row["event_at"],
    )
