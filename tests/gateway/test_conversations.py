"""The routes of conversations, users and erasures through `Gateway.handle`, and the walls between tenants."""

from __future__ import annotations

import time

import attrs
import pytest

from sentinel.gateway import Gateway
from sentinel.model import API_CHANNEL, Chat, NewJob, State, job_id
from sentinel.records import Record, Store
from tests.gateway.test_admin_status_codes import Silent
from tests.gateway.wire import Api


def accept(record: Record, name: str, **changes: str) -> str:
    """A job of a chat, accepted; its id."""
    given = {"tenant": "default", "conversation": "a/b:1", "sender": "ada", **changes}
    job = NewJob(job_id(name), channel=API_CHANNEL, source=API_CHANNEL, external_id=name, input=(USER,), received_at=1.0, **given)
    record.accept([job], time.time())
    return job.id


USER = {"role": "user", "content": "secret"}


@pytest.mark.parametrize("target", ["/v1/conversations/a/b:1", "/v1/users/ada", "/v1/conversations/a/b:1?channel=api&source=api"])
async def test_erasing(api: Api, record: Record, target: str) -> None:
    """A DELETE is answered at once with where to look; when a worker has done it, nothing of the tenant's is left."""
    mine, theirs = accept(record, "mine"), accept(record, "theirs", tenant="other")
    asked = await api.call("DELETE", target)
    assert asked.status == 202
    assert asked.json["status"] == "pending"
    assert asked.headers["location"] == asked.json["status_url"]
    while record.erase(time.time()):
        pass
    shown = await api.call("GET", asked.json["status_url"])
    assert (shown.json["status"], shown.json["jobs"]) == ("done", 1)
    erased, kept = record.find_job(mine), record.find_job(theirs)
    assert erased is not None
    assert kept is not None
    assert erased.state is State.CANCELLED
    assert "secret" not in str(erased.input)
    assert kept.input == (USER,)


async def test_another_tenants_erasure_is_not_found(api: Api, gateway: Gateway, other_key: str) -> None:
    """An erasure is shown to who asked for it, and to nobody else."""
    asked = await api.call("DELETE", "/v1/users/ada")
    assert (await Api(gateway, other_key).call("GET", asked.json["status_url"])).status == 404
    assert (await api.call("GET", "/v1/erasures/none")).status == 404


async def test_held_and_released(api: Api, gateway: Gateway, other_key: str, record: Record) -> None:
    """The held chats of the tenant are listed until they are released; another tenant sees and changes nothing."""
    record.hold(Chat("default", "telegram", "shop", "a/b:1"), time.time())
    other = Api(gateway, other_key)
    assert [one["conversation"] for one in (await api.call("GET", "/v1/conversations")).json["data"]] == ["a/b:1"]
    assert (await other.call("GET", "/v1/conversations")).json["data"] == []
    assert (await other.call("POST", "/v1/conversations/a/b:1/release")).json["released"] == 0
    assert (await api.call("POST", "/v1/conversations/a/b:1/release?channel=slack")).json["released"] == 0
    assert (await api.call("POST", "/v1/conversations/a/b:1/release?channel=telegram")).json["released"] == 1
    assert (await api.call("GET", "/v1/conversations")).json["data"] == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("DELETE", "/v1/users/" + "x" * 256, 400),
        ("DELETE", "/v1/conversations/x?user=1", 400),
        ("GET", "/v1/conversations/x", 405),
        ("DELETE", "/v1/conversations", 405),
        ("GET", "/v1/users/x", 405),
        ("POST", "/v1/erasures/x", 405),
    ],
)
async def test_refusals(api: Api, method: str, target: str, status: int) -> None:
    """What cannot be meant is refused with the right status."""
    assert (await api.call(method, target)).status == status


@pytest.mark.parametrize(("method", "target"), [("DELETE", "/v1/users/x"), ("GET", "/v1/conversations"), ("GET", "/v1/erasures/x")])
async def test_no_key_no_answer(gateway: Gateway, method: str, target: str) -> None:
    """Without a key nothing is told or done."""
    assert (await Api(gateway, "snt_wrong").call(method, target)).status == 401


@pytest.mark.parametrize("name", ["a\u00a0b", "\u200bzero", "\U0001f600"])
async def test_any_id_can_be_erased(api: Api, record: Record, name: str) -> None:
    """What a sender may call a conversation or a user, its erasure may name: also what nobody can see."""
    jobs = [accept(record, "chat", conversation=name), accept(record, "user", sender=name)]
    assert (await api.call("DELETE", f"/v1/conversations/{name}")).status == 202
    assert (await api.call("DELETE", f"/v1/users/{name}")).status == 202
    while record.erase(time.time()):
        pass
    erased = [job for job in map(record.find_job, jobs) if job is not None]
    assert [(job.last_error, list(job.input)) for job in erased] == [("erased", [{"role": "raw", "content": "erased"}])] * 2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "erasures/{}"),
        ("DELETE", "users/{}"),
        ("DELETE", "conversations/{}"),
        ("GET", "jobs/{}"),
        ("POST", "jobs/{}/cancel"),
    ],
)
async def test_no_path_has_a_nul(gateway: Gateway, key: str, method: str, path: str) -> None:
    """A NUL, which no text in PostgreSQL can have, is nobody's id: the record is not even asked."""
    nowhere = Store(Silent())  # type: ignore[arg-type]
    jobs, conversations = attrs.evolve(gateway.jobs, store=nowhere), attrs.evolve(gateway.conversations, store=nowhere)
    api = Api(attrs.evolve(gateway, jobs=jobs, conversations=conversations), key)
    assert (await api.call(method, "/v1/" + path.format("a\0b"))).status == 404
