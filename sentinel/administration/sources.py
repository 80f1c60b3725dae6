"""Sources: added, changed, rotated with two secrets valid at a time, disabled, removed once no job of theirs is alive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sentinel.administration import Administrator, check_name
from sentinel.administration.tenants import check_tenant
from sentinel.channels import SHARED_SETTINGS, Channel, Setting, check_shared, find_channel
from sentinel.errors import BadInput, Conflict, NotFound
from sentinel.job_view import iso
from sentinel.model import PREVIOUS, Source


def document(source: Source) -> dict[str, Any]:
    """The source as people see it: the names of what is set, never a value."""
    return {
        "channel": source.channel,
        "name": source.name,
        "tenant": source.tenant,
        "path": f"/webhooks/{source.channel}/{source.name}",
        "set": sorted(source.settings),
        "rotating": sorted(key.removesuffix(PREVIOUS) for key in source.settings if key.endswith(PREVIOUS)),
        "disabled_at": iso(source.disabled_at),
    }


def listing(admin: Administrator, tenant: str | None = None) -> list[dict[str, Any]]:
    """All sources, by channel and name."""
    return [document(source) for source in admin.record.directory().sources.values() if tenant in (None, source.tenant)]


def find(admin: Administrator, channel: str, name: str) -> Source:
    """The source. Raises NotFound."""
    try:
        return admin.record.directory().sources[channel, name]
    except KeyError:
        raise NotFound(f"There is no {channel[:64]} source {name[:64]}.") from None


def show(admin: Administrator, channel: str, name: str) -> dict[str, Any]:
    """The source, with how many of its jobs are alive. Raises NotFound."""
    source = find(admin, channel, name)
    return document(source) | {"live_jobs": admin.record.live_jobs(source.tenant, channel, name)}


def put(admin: Administrator, tenant: str, channel: str, name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Add a source, or replace all its settings. Raises BadInput for settings that the channel would not work with."""
    check_name("source", name)
    check_values(find_channel(channel), values)
    admin.check_settings(values)
    with admin.record.transaction():
        check_tenant(admin.record, tenant)
        _put(admin, Source(tenant, channel, name, values), "source.put", set=sorted(values))
    return document(find(admin, channel, name))


def rotate(admin: Administrator, channel: str, name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """
    Change these settings and keep the others. The secrets among them that prove a sender go on being accepted as they were.

    So the new one is made known here first, then at the platform; `end_rotation` forgets the old ones. Raises Conflict for a secret
    that is being rotated already, and BadInput as `put` does.
    """
    if not values:
        raise BadInput("Name the settings to change; for secrets: KEY=NEW VALUE.")
    with admin.record.transaction():
        old = find(admin, channel, name)
        given = sorted(_rotating_keys(find_channel(channel)) & values.keys())
        rotated = [key for key in given if old.setting(key) not in ("", values[key])]
        if twice := [key for key in sorted(rotated) if old.setting(key + PREVIOUS)]:
            raise Conflict(f"{twice[0]} is being rotated already; forget the one before it first (--end).")
        settings = {**old.settings, **values, **{key + PREVIOUS: old.setting(key) for key in rotated}}
        check_values(find_channel(channel), settings)
        admin.check_settings(settings)
        _put(admin, attrs.evolve(old, settings=settings), "source.rotated", set=sorted(values), two_valid=sorted(rotated))
    return document(find(admin, channel, name))


def end_rotation(admin: Administrator, channel: str, name: str) -> dict[str, Any]:
    """Accept only the present secrets from now on. Raises Conflict if nothing is being rotated."""
    with admin.record.transaction():
        old = find(admin, channel, name)
        forgotten = [key for key in old.settings if key.endswith(PREVIOUS)]
        if not forgotten:
            raise Conflict(f"No secret of {channel}/{name} is being rotated.")
        settings = {key: value for key, value in old.settings.items() if key not in forgotten}
        _put(admin, attrs.evolve(old, settings=settings), "source.rotation_ended", forgotten=sorted(forgotten))
    return document(find(admin, channel, name))


def disable(admin: Administrator, channel: str, name: str, *, disabled: bool = True) -> dict[str, Any]:
    """Take no webhooks of the source, or take them again; its live jobs end as they would, and their replies are delivered."""
    with admin.record.transaction():
        source = find(admin, channel, name)
        if admin.record.disable_source(source, admin.now if disabled else None):
            admin.note(f"source.{'disabled' if disabled else 'enabled'}", _subject(source), source.tenant)
    return show(admin, channel, name)


def remove(admin: Administrator, channel: str, name: str) -> None:
    """Remove a source none of whose jobs is alive: their replies could not be delivered. Its ended jobs stay."""
    with admin.record.transaction():
        source = find(admin, channel, name)
        if live := admin.record.live_jobs(source.tenant, channel, name):
            advice = "wait for their end, or cancel them" if source.disabled_at is not None else _DISABLE_FIRST
            raise Conflict(f"{live} job(s) of {channel}/{name} are alive and could not be answered without it; {advice}.")
        admin.record.remove_source(source)
        admin.note("source.removed", _subject(source), source.tenant)


def check_values(channel: Channel, values: Mapping[str, str]) -> None:
    """Raise BadInput for a key that the channel does not have, or one that it needs."""
    known = {setting.key: setting for setting in (*channel.settings, *SHARED_SETTINGS)}
    previous = {key + PREVIOUS for key in _rotating_keys(channel)}
    for key in values:
        if key not in known and key not in previous:
            raise BadInput(f"{channel.name} has no setting {key[:64]!r}; it has {', '.join(sorted(known))}.")
    for key, setting in known.items():
        if setting.required and not values.get(key):
            raise BadInput(f"{channel.name} needs --set {key}=… ({setting.help}).")
    check_shared(values)
    channel.check_settings(values)


_DISABLE_FIRST = "disable it first, then remove it when they have ended"


def _put(admin: Administrator, source: Source, action: str, **detail: Any) -> None:
    if not admin.record.put_source(source, admin.now):
        raise Conflict(f"Another tenant has a {source.channel} source of the name {source.name}.")
    admin.note(action, _subject(source), source.tenant, **detail)


def _rotating_keys(channel: Channel) -> set[str]:
    settings: tuple[Setting, ...] = channel.settings
    return {setting.key for setting in settings if setting.rotates}


def _subject(source: Source) -> str:
    return f"source {source.channel}/{source.name}"
