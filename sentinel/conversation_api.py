"""The routes /v1/conversations, /v1/users and /v1/erasures: who answers in a chat, and erasing what is kept of it or of a person.

A key's tenant reaches its own chats only. Erasing takes as long as it takes; a worker does it, and the answer says where to look.
"""

from __future__ import annotations

from typing import Any

import attrs

from sentinel.directory import DirectoryFollower
from sentinel.errors import BadInput, MethodNotAllowed, NotFound, TooManyRequests
from sentinel.http import Request, Response, json_response
from sentinel.job_view import iso
from sentinel.model import JOBS_READ, JOBS_WRITE, random_id
from sentinel.records import Store
from sentinel.records.memory import ERASURES_PENDING_MAX, Erasure, Held

ID_MAX = 255
FULL_SECONDS = 60  # to come again after, when too many erasures are pending


@attrs.frozen(eq=False)
class ConversationApi:
    """Chats and people, as far as a key's tenant has any."""

    directory: DirectoryFollower
    store: Store

    async def handle(self, request: Request, path: list[str], now: float) -> Response:
        """The answer of one route, by the path behind /v1. The id of a conversation or a user may have slashes in it."""
        match (request.method, *path):
            case ("GET", "conversations"):
                return await self.list_held(request)
            case ("POST", "conversations", *name, "release") if name:
                return await self.release(request, "/".join(name))
            case ("DELETE", "conversations", *name) if name:
                return await self._erase(request, now, conversation="/".join(name))
            case ("DELETE", "users", *name) if name:
                return await self._erase(request, now, sender="/".join(name))
            case ("GET", "erasures", erasure_id):
                return await self.show_erasure(request, erasure_id)
        raise MethodNotAllowed(_methods(path))

    async def show_erasure(self, request: Request, erasure_id: str) -> Response:
        """How far an erasure is."""
        tenant = self.directory.authenticate(request, JOBS_READ).tenant
        found = await self.store.read(self.store.record.find_erasure, erasure_id, tenant)
        if found is None:
            raise NotFound("There is no erasure of that id.")
        return json_response(200, _document(found))

    async def release(self, request: Request, conversation: str) -> Response:
        """The model answers again in the conversation; asking again changes nothing."""
        tenant = self.directory.authenticate(request, JOBS_WRITE).tenant
        channel, source = _place(request)
        record = self.store.record
        released = await self.store.call(record.release, tenant, _name(conversation), channel, source)
        return json_response(200, {"object": "conversation", "conversation": conversation, "held": False, "released": released})

    async def list_held(self, request: Request) -> Response:
        """The chats in which a person answers, the longest first."""
        tenant = self.directory.authenticate(request, JOBS_READ).tenant
        held = await self.store.read(self.store.record.held, tenant)
        return json_response(200, {"object": "list", "data": [_held_document(one) for one in held]})

    async def _erase(self, request: Request, now: float, conversation: str | None = None, sender: str | None = None) -> Response:
        """202: what is kept of the conversation or the sender will be erased; the query may name one channel and source."""
        tenant = self.directory.authenticate(request, JOBS_WRITE).tenant
        channel, source = _place(request)
        _name(conversation or sender or "")
        erasure = Erasure(random_id(), tenant, conversation, sender, channel, source)
        if not await self.store.call(self.store.record.request_erasure, erasure, now):
            detail = f"At most {ERASURES_PENDING_MAX} erasures of this account are pending at a time."
            raise TooManyRequests(detail, retry_after_seconds=FULL_SECONDS)
        return json_response(202, _document(erasure), ("location", f"/v1/erasures/{erasure.id}"))


def _methods(path: list[str]) -> tuple[str, ...]:
    """What a path takes."""
    if path[-1] == "release" and len(path) > 2:
        return ("POST",)
    return ("GET",) if path == ["conversations"] or path[0] == "erasures" else ("DELETE",)


def _held_document(held: Held) -> dict[str, Any]:
    chat = held.chat
    return {"channel": chat.channel, "source": chat.source, "conversation": chat.conversation, "held_at": iso(held.held_at)}


def _place(request: Request) -> tuple[str | None, str | None]:
    given = request.parameters()
    if unknown := sorted(given.keys() - {"channel", "source"}):
        raise BadInput(f"There is no parameter {unknown[0][:40]!r}; there are channel and source.")
    return given.get("channel") or None, given.get("source") or None


def _name(given: str) -> str:
    if not 1 <= len(given) <= ID_MAX:
        raise BadInput(f"The id must be 1 to {ID_MAX} characters.")
    return given


def _document(erasure: Erasure) -> dict[str, Any]:
    return {
        "id": erasure.id,
        "object": "erasure",
        "status": "pending" if erasure.done_at is None else "done",
        "conversation": erasure.conversation,
        "user": erasure.sender,
        "channel": erasure.channel,
        "source": erasure.source,
        "jobs": erasure.jobs,
        "done_at": iso(erasure.done_at),
        "status_url": f"/v1/erasures/{erasure.id}",
    }
