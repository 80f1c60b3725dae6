"""The walls between tenants: with what is another's, every route answers as if there were no such thing, and changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from sentinel.channels import channels, find_channel
from sentinel.edge.keys import new_key
from sentinel.gateway import Gateway
from sentinel.model import Chat, Source
from sentinel.records import JobFilter, Record
from sentinel.records.memory import Erasure
from tests.gateway.wire import Answer, Api, answer_of

MADE_UP = "6f1d8a3e-0000-4000-8000-000000000000"
CHAT = Chat("default", "telegram", "shop", "chat-1")
ERASURE = "erasure-1"

# Each route that names something of a tenant's: method, path with what it names, and how a stranger is answered.
NAMING = (
    ("GET", "/v1/jobs/{job}", 404),
    ("GET", "/v1/jobs?after={job}", 404),
    ("POST", "/v1/jobs/{job}/cancel", 404),
    ("GET", "/v1/jobs/{job}/events", 404),
    ("GET", "/v1/erasures/{erasure}", 404),
)
# Each route that lists or steers by a name that another tenant may have too: the stranger has nothing under it.
EMPTY = (
    ("GET", "/v1/jobs", {"data": [], "has_more": False}),
    ("GET", "/v1/jobs?external_id=order-7", {"data": [], "has_more": False}),
    ("GET", "/v1/jobs?channel=api&status=queued", {"data": [], "has_more": False}),
    ("GET", "/v1/conversations", {"data": []}),
    ("POST", "/v1/conversations/chat-1/release", {"released": 0}),
    ("POST", "/v1/conversations/chat-1/release?channel=telegram&source=shop", {"released": 0}),
)


@pytest.fixture
def stranger(gateway: Gateway, other_key: str) -> Api:
    """The gateway as another tenant calls it, which has nothing."""
    return Api(gateway, other_key)


@pytest.fixture
async def owned(api: Api, record: Record) -> Mapping[str, str]:
    """What the tenant `default` has: a job under an idempotency key, a chat that a person answers, and an erasure."""
    job = (await api.call("POST", "/v1/jobs", {"input": "mine", "conversation": "chat-1"}, idempotency_key="order-7")).json["id"]
    record.hold(CHAT, time.time())
    record.request_erasure(Erasure(ERASURE, "default", "other chat", None, None, None), time.time())
    return {"job": job, "erasure": ERASURE}


def everything(record: Record) -> Any:
    """All that the tenant `default` has, as it is in the record."""
    jobs = record.list_jobs(JobFilter("default", limit=1_000))
    return jobs, record.held("default"), record.find_erasure(ERASURE, "default"), [record.story(job.id) for job in jobs]


def without_ids(answer: Answer, *ids: str) -> tuple[int, str, Mapping[str, str]]:
    """The answer with each id masked, to compare what is said of one with what is said of another."""
    return answer.status, re.sub("|".join(map(re.escape, ids)), "ID", answer.body.decode()), answer.headers


async def test_foreign_ids_are_404(owned, stranger, record):
    """A stranger is told of another tenant's id what is told of an id that nobody has, word for word, and nothing changes."""
    before = everything(record)
    for method, path, status in NAMING:
        foreign = await stranger.call(method, path.format(**owned))
        nobodys = await stranger.call(method, path.format(job=MADE_UP, erasure=MADE_UP))
        assert foreign.status == status, path
        assert without_ids(foreign, *owned.values(), MADE_UP) == without_ids(nobodys, *owned.values(), MADE_UP)
    assert everything(record) == before


async def test_lists_and_shared_names_are_empty(owned, stranger, record):
    """A stranger's lists are empty, and what it steers by a name that both may have touches only its own."""
    before = everything(record)
    for method, path, has in EMPTY:
        answer = await stranger.call(method, path)
        assert (answer.status, answer.json | has) == (200, answer.json), path
        assert owned["job"] not in answer.body.decode()
    assert everything(record) == before


async def test_an_erasure_reaches_only_its_own(owned, stranger, record):
    """A stranger may have erased what it calls by the same names; of another tenant's nothing is erased."""
    before = everything(record)
    for path in ("/v1/conversations/chat-1", "/v1/conversations/chat-1?channel=telegram&source=shop", "/v1/users/anybody"):
        assert (await stranger.call("DELETE", path)).status == 202
    for _ in range(50):
        if not record.erase(time.time()):
            break
    jobs, held, _, stories = everything(record)
    assert (jobs, held, stories) == (before[0], before[1], before[3])


async def test_idempotency_keys_are_a_tenants_own(owned, api, stranger, record):
    """The same Idempotency-Key of two tenants is two jobs; neither tenant is told of the other's."""
    answer = await stranger.call("POST", "/v1/jobs", {"input": "theirs"}, idempotency_key="order-7")
    assert answer.status == 202
    assert answer.json["id"] != owned["job"]
    assert "sentinel-duplicate" not in answer.headers
    again = await api.call("POST", "/v1/jobs", {"input": "mine", "conversation": "chat-1"}, idempotency_key="order-7")
    assert (again.json["id"], again.headers["sentinel-duplicate"]) == (owned["job"], "true")
    assert [job.tenant for job in record.list_jobs(JobFilter(external_id="order-7"))] == ["other", "default"]


async def test_waiting_for_a_foreign_job_ends_at_once(owned, stranger):
    """`Prefer: wait` on another tenant's job does not wait: how long it takes tells nothing."""
    began = time.monotonic()
    assert (await stranger.call("GET", f"/v1/jobs/{owned['job']}", prefer="wait=30")).status == 404
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("channel_name", list(channels()))
async def test_a_source_takes_no_other_tenants_webhook(channel_name, gateway, sources, record, count_jobs):
    """What is signed for one tenant's source proves nothing at another's of the same channel, and makes no job."""
    mine = sources[channel_name]
    settings = {key: value + "x" if key in _secrets(channel_name) else value for key, value in mine.settings.items()}
    theirs = Source("other", channel_name, "theirs", settings)
    if channel_name == "generic":
        theirs = attrs.evolve(theirs, settings=settings | {"secret": "whsec_" + "b" * 32})
    if channel_name == "salesforce":
        theirs = attrs.evolve(theirs, settings=settings | {"organization_id": "00D000000000009EAA"})
    assert record.put_source(theirs, 0)
    await gateway.directory.refresh()
    sample = find_channel(channel_name).sample(mine, "hello", 1, time.time())
    crossed = attrs.evolve(sample, path=sample.path.replace("/shop", "/theirs"))
    assert 400 <= answer_of(await gateway.handle(crossed)).status < 500
    assert count_jobs() == 0
    own = find_channel(channel_name).sample(theirs, "hello", 1, time.time())
    assert 200 <= answer_of(await gateway.handle(own)).status < 300
    assert {job.tenant for job in record.list_jobs(JobFilter())} == {"other"}


async def test_disabled_is_as_if_it_were_not_there(api, gateway, sources, record, count_jobs):
    """A disabled tenant's key is refused as one that never was, its sources as ones that are not there, until it is enabled."""
    sample = find_channel("telegram").sample(sources["telegram"], "hello", 1, time.time())
    nobodys = attrs.evolve(sample, path="/webhooks/telegram/nobody")
    record.disable_tenant("default", time.time())
    await gateway.directory.refresh()
    refused = await api.call("GET", "/v1/jobs")
    made_up = await Api(gateway, new_key()).call("GET", "/v1/jobs")
    assert (refused.status, refused.body) == (made_up.status, made_up.body) == (401, made_up.body)
    assert answer_of(await gateway.handle(sample)) == answer_of(await gateway.handle(nobodys))
    assert count_jobs() == 0
    record.disable_tenant("default", None)
    await gateway.directory.refresh()
    assert (await api.call("GET", "/v1/jobs")).status == 200
    assert answer_of(await gateway.handle(sample)).status == 200


def _secrets(channel_name: str) -> set[str]:
    return {setting.key for setting in find_channel(channel_name).settings if setting.secret}
