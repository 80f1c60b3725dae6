"""The admin API's routes for plans and subscriptions."""

from __future__ import annotations

from typing import Any

import attrs

from sentinel.admin_api import Call, Route
from sentinel.admin_api.fields import settings, text
from sentinel.admin_api.pages import PAGING, slice_after
from sentinel.administration import subscriptions
from sentinel.edge.billing import read_time
from sentinel.edge.subscriptions import Status
from sentinel.errors import BadInput

TERMS = attrs.evolve(settings(), required=False, default={})


def _set_plan(call: Call) -> Any:
    return subscriptions.set_plan(call.admin, call.names["name"], call.values["terms"])


def _set_subscription(call: Call) -> Any:
    given = call.values
    if given["status"] not in list(Status):
        raise BadInput(f"status must be one of {', '.join(Status)}.")
    until = read_time("valid_until", given["valid_until"]) if given["valid_until"] else None
    return subscriptions.give(call.admin, call.names["name"], given["plan"], given["status"], until=until, terms=given["terms"])


PLANS = (
    Route(
        "GET", "plans", lambda call: slice_after(subscriptions.plans(call.admin), call.query, lambda one: one["name"]), query=PAGING
    ),
    Route("PUT", "plans/{name}", _set_plan, {"terms": TERMS}),
    Route(
        "GET",
        "subscriptions",
        lambda call: slice_after(subscriptions.listing(call.admin), call.query, lambda one: one["tenant"]),
        query=PAGING,
    ),
    Route("GET", "tenants/{name}/subscription", lambda call: subscriptions.show(call.admin, call.names["name"])),
    Route(
        "PUT",
        "tenants/{name}/subscription",
        _set_subscription,
        {
            "plan": text(),
            "status": text(required=False, default=Status.ACTIVE.value),
            "valid_until": text(required=False),
            "terms": TERMS,
        },
    ),
    Route("POST", "tenants/{name}/subscription/end", lambda call: subscriptions.end(call.admin, call.names["name"])),
)
