"""Plans and subscriptions: what tenants may use, and what they have used. The billing webhook sets them by the same moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sentinel.administration import Administrator, check_name
from sentinel.administration.tenants import check_tenant
from sentinel.edge.plans import Terms, parse_terms, terms_text
from sentinel.edge.quota import Account, Used, month_of
from sentinel.edge.subscriptions import Status, Subscription, standing
from sentinel.errors import Conflict, NotFound
from sentinel.job_view import iso


def set_plan(admin: Administrator, name: str, terms: Mapping[str, str]) -> dict[str, Any]:
    """Add a plan, or replace its terms for all its subscriptions. Raises BadInput for a term that is none."""
    check_name("plan", name)
    kept = parse_terms(terms)
    with admin.record.transaction():
        admin.record.put_plan(name, kept, admin.now)
        admin.note("plan.put", f"plan {name}", None, terms=terms_text(kept))
    return _plan(name, kept)


def plans(admin: Administrator) -> list[dict[str, Any]]:
    """All plans, by name."""
    return [_plan(name, terms) for name, terms in admin.record.plans().items()]


def put(admin: Administrator, subscription: Subscription) -> bool:
    """
    Set a tenant's subscription; False if a newer one is there, which then stays.

    Raises NotFound for a tenant or a plan that is not there.
    """
    with admin.record.transaction():
        check_tenant(admin.record, subscription.tenant)
        if subscription.plan not in admin.record.plans():
            raise NotFound(f"There is no plan {subscription.plan[:64]!r}; add it with: sentinel plans set NAME TERM=VALUE")
        done = admin.record.put_subscription(subscription, admin.now)
        if done:
            said = {"plan": subscription.plan, "status": subscription.status.value, "valid_until": iso(subscription.valid_until)}
            tenant = subscription.tenant
            admin.note("subscription.put", f"tenant {tenant}", tenant, **said, terms=terms_text(subscription.special))
    return done


def give(admin: Administrator, tenant: str, plan: str, status: str, *, until: float | None, terms: Mapping[str, str]) -> Any:
    """Give the tenant the plan, from now on. The subscription as it then is."""
    given = Subscription(tenant, plan, Status(status), until, parse_terms(terms), event_at=admin.now)
    _insist(admin, given)
    return show(admin, tenant)


def end(admin: Administrator, tenant: str) -> dict[str, Any]:
    """End the tenant's subscription now."""
    _insist(admin, attrs.evolve(_found(admin, tenant), status=Status.ENDED, event_at=admin.now))
    return show(admin, tenant)


def show(admin: Administrator, tenant: str) -> dict[str, Any]:
    """The subscription, and what was used this month. Raises NotFound."""
    month = month_of(admin.now)
    used = admin.record.usage(month).used.get(Account(tenant), Used())
    usage = {"month": month, "jobs": used.jobs, "tokens": used.tokens}
    return document(_found(admin, tenant), admin.now) | {"used": usage}


def listing(admin: Administrator) -> list[dict[str, Any]]:
    """All subscriptions, by tenant."""
    found = admin.record.directory().subscriptions
    return [document(found[tenant], admin.now) for tenant in sorted(found)]


def document(subscription: Subscription, now: float) -> dict[str, Any]:
    """The subscription as JSON values."""
    return {
        "tenant": subscription.tenant,
        "plan": subscription.plan,
        "status": subscription.status.value,
        "standing": standing(subscription, now).value,
        "valid_until": iso(subscription.valid_until),
        "terms": terms_text(subscription.terms),
    }


def _plan(name: str, terms: Terms) -> dict[str, Any]:
    return {"name": name, "terms": terms_text(terms)}


def _found(admin: Administrator, tenant: str) -> Subscription:
    check_tenant(admin.record, tenant)
    subscription = admin.record.directory().subscriptions.get(tenant)
    if subscription is None:
        raise NotFound(f"{tenant} has no subscription: the default plan is in force (SENTINEL_DEFAULT_PLAN).")
    return subscription


def _insist(admin: Administrator, subscription: Subscription) -> None:
    if not put(admin, subscription):
        raise Conflict(f"The subscription of {subscription.tenant} was set meanwhile by somebody whose clock is ahead.")
