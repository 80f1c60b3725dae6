"""Tenants: added, disabled, removed once nothing of theirs is alive; and where the results of their jobs may go."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sentinel import standard_webhooks
from sentinel.administration import Administrator, check_name
from sentinel.errors import BadInput, Conflict, NotFound
from sentinel.job_view import iso
from sentinel.model import DEFAULT_TENANT, Tenant
from sentinel.records import Record
from sentinel.secret import Secret

GRACE_SECONDS_MAX = 30 * 86_400.0


def check_tenant(record: Record, name: str) -> Tenant:
    """The tenant. Raises NotFound unless it was added."""
    for tenant in record.tenants():
        if tenant.name == name:
            return tenant
    raise NotFound(f"There is no tenant {name[:64]!r}; add it with: sentinel tenants add {name[:64]}")


def listing(admin: Administrator) -> list[dict[str, Any]]:
    """All tenants, by name."""
    return _documents(admin, admin.record.tenants())


def show(admin: Administrator, name: str) -> dict[str, Any]:
    """The tenant, with what it has and how many of its jobs are alive. Raises NotFound."""
    (document,) = _documents(admin, [check_tenant(admin.record, name)])
    return document | {"live_jobs": admin.record.live_jobs(name)}


def add(admin: Administrator, name: str) -> bool:
    """True if the tenant is new; adding it again changes nothing."""
    check_name("tenant", name)
    with admin.record.transaction():
        added = admin.record.add_tenant(name, admin.now)
        if added:
            admin.note("tenant.added", f"tenant {name}", name)
    return added


def disable(admin: Administrator, name: str, *, disabled: bool = True) -> dict[str, Any]:
    """Refuse the tenant's keys and webhooks, or take them again; its live jobs end as they would. The tenant as it then is."""
    with admin.record.transaction():
        check_tenant(admin.record, name)
        if admin.record.disable_tenant(name, admin.now if disabled else None):
            admin.note(f"tenant.{'disabled' if disabled else 'enabled'}", f"tenant {name}", name)
    return show(admin, name)


def remove(admin: Administrator, name: str) -> None:
    """Remove a disabled tenant none of whose jobs is alive, with its sources and keys. Its ended jobs stay for the retention."""
    with admin.record.transaction():
        tenant = check_tenant(admin.record, name)
        if name == DEFAULT_TENANT:
            raise Conflict(f"The tenant {DEFAULT_TENANT} always exists.")
        if tenant.disabled_at is None:
            raise Conflict(f"Disable the tenant first, so that nothing new comes in: sentinel tenants disable {name}")
        if live := admin.record.live_jobs(name):
            raise Conflict(f"{live} job(s) of tenant {name} are alive; wait for their end, or cancel them.")
        admin.record.remove_tenant(name)
        admin.note("tenant.removed", f"tenant {name}", name)


def callback_secret(admin: Administrator, name: str) -> Secret:
    """The secret that signs the tenant's callbacks; it is made on first use. That it was shown is a line of the audit."""
    with admin.record.transaction():
        check_tenant(admin.record, name)
        secret = admin.record.callback_secret(name, standard_webhooks.new_secret())
        admin.note("callback_secret.shown", f"tenant {name}", name)
    return Secret(secret)


def rotate_callback_secret(admin: Administrator, name: str, grace_seconds: float) -> Secret:
    """A new secret for the tenant's callbacks; for `grace_seconds` they are signed with the one before it too."""
    fresh = standard_webhooks.new_secret()
    if grace_seconds > GRACE_SECONDS_MAX:
        raise BadInput("The grace is at most 30 days.")
    with admin.record.transaction():
        check_tenant(admin.record, name)
        admin.record.rotate_callback_secret(name, fresh, admin.now + grace_seconds)
        admin.note("callback_secret.rotated", f"tenant {name}", name, grace_seconds=grace_seconds)
    return Secret(fresh)


def allow_network(admin: Administrator, name: str, network: str) -> str:
    """Let the tenant's callbacks go to the network, also by plain http. The network as it is kept; raises BadInput."""
    try:
        kept = str(ipaddress.ip_network(network))
    except ValueError:
        raise BadInput(f"{network[:64]!r} is not a network such as 127.0.0.1/32.") from None
    with admin.record.transaction():
        check_tenant(admin.record, name)
        admin.record.allow_network(name, kept)
        admin.note("network.allowed", f"tenant {name}", name, network=kept)
    return kept


def _documents(admin: Administrator, found: Sequence[Tenant]) -> list[dict[str, Any]]:
    """The tenants with what each has; sources and keys are walked through once for all of them."""
    directory = admin.record.directory()
    sources = Counter(source.tenant for source in directory.sources.values())
    keys = Counter(key.tenant for key in directory.keys.values() if key.is_live(admin.now))
    return [
        {
            "name": tenant.name,
            "created_at": iso(tenant.created_at),
            "disabled_at": iso(tenant.disabled_at),
            "sources": sources[tenant.name],
            "keys": keys[tenant.name],
            "networks": list(directory.networks.get(tenant.name, ())),
        }
        for tenant in found
    ]
