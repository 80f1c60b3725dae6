"""API keys: made, shown once, rotated with two valid at a time, revoked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import attrs

from sentinel.administration import Administrator
from sentinel.administration.tenants import check_tenant
from sentinel.edge.keys import hint, new_key
from sentinel.errors import BadInput, Conflict, NotFound
from sentinel.job_view import iso
from sentinel.model import DEFAULT_SCOPES, SCOPES, Key
from sentinel.secret import Secret

OVERLAP_SECONDS = 86_400.0
KEY_NAME_MAX = 100
SECONDS_MAX = 10 * 366 * 86_400.0


def document(key: Key, now: float) -> dict[str, Any]:
    """The key as people see it: by its hint, never itself."""
    state = "revoked" if key.revoked_at is not None else "live" if key.is_live(now) else "expired"
    times = {name: iso(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "hint": key.hint,
        "scopes": list(key.scopes),
        "state": state,
        **times,
        "replaces": key.replaces,
    }


def find(admin: Administrator, key_id: str) -> Key:
    """The key of that id. Raises NotFound."""
    for key in admin.record.keys():  # noqa: SIM118  no mapping
        if key.id == key_id:
            return key
    raise NotFound(f"There is no key {key_id[:64]!r}.")


def listing(admin: Administrator, tenant: str | None = None) -> list[dict[str, Any]]:
    """All keys, oldest first, revoked and expired ones too."""
    keys = admin.record.keys()
    return [document(key, admin.now) for key in keys if tenant in (None, key.tenant)]


def create(
    admin: Administrator,
    tenant: str,
    *,
    name: str = "",
    scopes: Sequence[str] = DEFAULT_SCOPES,
    expires_in_seconds: float | None = None,
) -> tuple[Secret, dict[str, Any]]:
    """A new key, to be shown once, and its document. Raises NotFound for an unknown tenant and BadInput for the rest."""
    _check(name, scopes)
    _check_seconds("expires_in_seconds", expires_in_seconds)
    with admin.record.transaction():
        check_tenant(admin.record, tenant)
        expires_at = admin.now + expires_in_seconds if expires_in_seconds is not None else None
        text, key = _new(admin, tenant, name=name, scopes=tuple(scopes), expires_at=expires_at)
        admin.note("key.created", f"key {key.id}", tenant, scopes=list(key.scopes), expires_at=iso(expires_at))
    return text, document(key, admin.now)


def rotate(admin: Administrator, key_id: str, overlap_seconds: float = OVERLAP_SECONDS) -> tuple[Secret, dict[str, Any]]:
    """
    A new key that may do what the old one may, which ends after the overlap: until then both are valid.

    Raises Conflict for a key that is not live, or while the one that it replaced itself still is: two at a time is enough.
    """
    _check_seconds("overlap_seconds", overlap_seconds, least=0.0)
    with admin.record.transaction():
        old = find(admin, key_id)
        if not old.is_live(admin.now):
            raise Conflict(f"Key {old.id} is not live; make a new one.")
        for other in admin.record.keys():  # noqa: SIM118  no mapping
            if other.is_live(admin.now) and (other.id == old.replaces or other.replaces == old.id):
                raise Conflict(f"Key {old.id} is being rotated already: {other.id} is live beside it. Revoke one of them first.")
        text, key = _new(admin, old.tenant, name=old.name, scopes=old.scopes, expires_at=old.expires_at, replaces=old.id)
        admin.record.expire_key(old.id, admin.now + overlap_seconds)
        admin.note("key.rotated", f"key {old.id}", old.tenant, new_key=key.id, overlap_seconds=overlap_seconds)
    return text, document(key, admin.now)


def revoke(admin: Administrator, key_id: str) -> dict[str, Any]:
    """Refuse the key from now on: every gateway within 5 seconds. Raises NotFound, also for a key that was revoked before."""
    with admin.record.transaction():
        key = find(admin, key_id)
        if not admin.record.revoke_key(key.id, admin.now):
            raise NotFound(f"There is no live key {key.id}.")
        admin.note("key.revoked", f"key {key.id}", key.tenant)
    return document(attrs.evolve(key, revoked_at=admin.now), admin.now)


def _new(admin: Administrator, tenant: str, **values: Any) -> tuple[Secret, Key]:
    text = new_key()
    key = Key("key_" + secrets.token_hex(6), tenant, hint(text), admin.now, **values)
    admin.record.keep_key(key, Secret(text))
    return Secret(text), key


def _check(name: str, scopes: Sequence[str]) -> None:
    if len(name) > KEY_NAME_MAX or not name.isprintable():
        raise BadInput(f"The name of a key must be at most {KEY_NAME_MAX} printable characters.")
    if not scopes or (unknown := sorted(set(scopes) - set(SCOPES))):
        raise BadInput(
            f"The scopes of a key must be one or more of {', '.join(SCOPES)}{f', not {unknown[0][:40]!r}' if scopes else ''}."
        )


def _check_seconds(name: str, seconds: float | None, least: float = 1.0) -> None:
    if seconds is not None and not least <= seconds <= SECONDS_MAX:
        raise BadInput(f"{name} must be from {least:g} to {SECONDS_MAX:.0f}.")
