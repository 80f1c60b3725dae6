"""The table of the admin API's routes. A family of routes is one tuple; a new family is one more line in ROUTES."""

from __future__ import annotations

from typing import Any

from sentinel.admin_api import Call, Route
from sentinel.admin_api.fields import seconds, settings, text, texts
from sentinel.admin_api.pages import PAGING, page, read_limit, slice_after
from sentinel.admin_api.plans import PLANS
from sentinel.administration import audit, jobs, keys, sources, tenants
from sentinel.errors import BadInput
from sentinel.model import DEFAULT_SCOPES, DEFAULT_TENANT, SCOPES, State
from sentinel.records import JobFilter
from sentinel.records.directory import AuditFilter

REASON_MAX = 200
SOURCE = "sources/{channel}/{name}"


def _add_tenant(call: Call) -> Any:
    added = tenants.add(call.admin, call.values["name"])
    return tenants.show(call.admin, call.values["name"]) | {"added": added}


def _remove_tenant(call: Call) -> Any:
    tenants.remove(call.admin, call.names["name"])
    return {"name": call.names["name"], "removed": True}


def _allow_network(call: Call) -> Any:
    tenants.allow_network(call.admin, call.names["name"], call.values["network"])
    return tenants.show(call.admin, call.names["name"])


TENANTS = (
    Route(
        "GET", "tenants", lambda call: slice_after(tenants.listing(call.admin), call.query, lambda one: one["name"]), query=PAGING
    ),
    Route("POST", "tenants", _add_tenant, {"name": text()}),
    Route("GET", "tenants/{name}", lambda call: tenants.show(call.admin, **call.names)),
    Route("DELETE", "tenants/{name}", _remove_tenant),
    Route("POST", "tenants/{name}/disable", lambda call: tenants.disable(call.admin, call.names["name"])),
    Route("POST", "tenants/{name}/enable", lambda call: tenants.disable(call.admin, call.names["name"], disabled=False)),
    Route("POST", "tenants/{name}/networks", _allow_network, {"network": text()}),
)


def _source(call: Call) -> tuple[str, str]:
    return call.names["channel"], call.names["name"]


def _list_sources(call: Call) -> Any:
    found = sources.listing(call.admin, call.query.get("tenant"))
    return slice_after(found, call.query, lambda one: f"{one['channel']}/{one['name']}")


def _put_source(call: Call) -> Any:
    return sources.put(call.admin, call.values["tenant"], **call.names, values=call.values["settings"])


def _remove_source(call: Call) -> Any:
    sources.remove(call.admin, **call.names)
    return dict(call.names) | {"removed": True}


SOURCES = (
    Route("GET", "sources", _list_sources, query=("tenant", *PAGING)),
    Route("GET", SOURCE, lambda call: sources.show(call.admin, **call.names)),
    Route("PUT", SOURCE, _put_source, {"tenant": text(required=False, default=DEFAULT_TENANT), "settings": settings()}),
    Route("DELETE", SOURCE, _remove_source),
    Route(
        "POST",
        f"{SOURCE}/rotate",
        lambda call: sources.rotate(call.admin, **call.names, values=call.values["settings"]),
        {"settings": settings()},
    ),
    Route("POST", f"{SOURCE}/end_rotation", lambda call: sources.end_rotation(call.admin, **call.names)),
    Route("POST", f"{SOURCE}/disable", lambda call: sources.disable(call.admin, *_source(call))),
    Route("POST", f"{SOURCE}/enable", lambda call: sources.disable(call.admin, *_source(call), disabled=False)),
)


def _list_keys(call: Call) -> Any:
    return slice_after(keys.listing(call.admin, call.query.get("tenant")), call.query, lambda one: str(one["id"]))


def _create_key(call: Call) -> Any:
    made, document = keys.create(call.admin, **call.values)
    return {"key": made.reveal()} | document


def _rotate_key(call: Call) -> Any:
    made, document = keys.rotate(call.admin, call.names["id"], call.values["overlap_seconds"])
    return {"key": made.reveal()} | document


KEYS = (
    Route("GET", "keys", _list_keys, query=("tenant", *PAGING)),
    Route(
        "POST",
        "keys",
        _create_key,
        {
            "tenant": text(required=False, default=DEFAULT_TENANT),
            "name": text(characters_max=keys.KEY_NAME_MAX, required=False),
            "scopes": texts(SCOPES, DEFAULT_SCOPES),
            "expires_in_seconds": seconds(None),
        },
        status=201,
    ),
    Route("GET", "keys/{id}", lambda call: keys.document(keys.find(call.admin, call.names["id"]), call.admin.now)),
    Route("POST", "keys/{id}/rotate", _rotate_key, {"overlap_seconds": seconds(keys.OVERLAP_SECONDS)}, status=201),
    Route("POST", "keys/{id}/revoke", lambda call: keys.revoke(call.admin, call.names["id"])),
)


def _list_jobs(call: Call) -> Any:
    query, limit = call.query, read_limit(call.query)
    state = query.get("state")
    if state is not None and state not in list(State):
        raise BadInput(f"state must be one of {', '.join(State)}.")
    before = jobs.find(call.admin, query["after"]).sequence if "after" in query else None
    states = [State(state)] if state else None
    wanted = JobFilter(query.get("tenant"), states, query.get("channel"), query.get("external_id"), before, limit + 1)
    return page([jobs.document(job) for job in jobs.listing(call.admin, wanted)], limit, lambda one: str(one["id"]))


JOBS = (
    Route("GET", "jobs", _list_jobs, query=("tenant", "state", "channel", "external_id", *PAGING)),
    Route("GET", "jobs/{id}", lambda call: jobs.story(call.admin, call.names["id"])),
    Route("POST", "jobs/{id}/cancel", lambda call: jobs.document(jobs.cancel(call.admin, call.names["id"]))),
    Route("POST", "jobs/{id}/retry", lambda call: jobs.document(jobs.retry(call.admin, call.names["id"]))),
    Route("POST", "jobs/{id}/replay", lambda call: jobs.document(jobs.replay(call.admin, call.names["id"])), status=201),
    Route(
        "POST",
        "jobs/{id}/quarantine",
        lambda call: jobs.document(jobs.quarantine(call.admin, call.names["id"], call.values["reason"])),
        {"reason": text(characters_max=REASON_MAX)},
    ),
)


def _list_audit(call: Call) -> Any:
    query, limit = call.query, read_limit(call.query)
    after = query.get("after", "")
    if after and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise BadInput("after is not the `next` of a page of this list.")
    wanted = AuditFilter(query.get("tenant"), query.get("action"), int(after) if after else None, limit + 1)
    return page([audit.document(entry) for entry in call.admin.record.audit(wanted)], limit, lambda one: str(one["id"]))


AUDIT = (Route("GET", "audit", _list_audit, query=("tenant", "action", *PAGING)),)

ROUTES: tuple[Route, ...] = (
    *TENANTS,
    *SOURCES,
    *KEYS,
    *PLANS,
    *JOBS,
    *AUDIT,
)
