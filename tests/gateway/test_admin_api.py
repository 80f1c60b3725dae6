"""The admin API: every route, every refusal, its line in the audit; and that it is nowhere but on its own listener."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from sentinel.admin_api import AdminApi, open_admin_api
from sentinel.admin_api.routes import ROUTES
from sentinel.edge.keys import is_well_formed, new_key
from sentinel.errors import BadInput, Unavailable
from sentinel.gateway import Gateway
from sentinel.http import Request
from sentinel.model import ADMIN, Key, NewJob, job_id
from sentinel.records import Record, Store
from sentinel.records.directory import AuditFilter
from sentinel.secret import Secret
from tests.gateway.wire import Answer, Api

CANARY = "canary-93ad"
TELEGRAM = "/admin/v1/sources/telegram/bot"


@pytest.fixture
async def admin_api(gateway: Gateway) -> AsyncIterator[AdminApi]:
    """The admin API beside the gateway."""

    def check_settings(values: Any) -> None:
        if "no-such-tool" in values.get("tools", ""):
            raise BadInput("There is no tool 'no-such-tool'.")

    async with open_admin_api(gateway.settings, gateway.directory, check_settings) as opened:
        yield opened


@pytest.fixture
async def admin(admin_api: AdminApi, record: Record) -> Api:
    """The admin API as an administrator calls it."""
    text = new_key()
    record.keep_key(Key("key_admin", "default", "", 0, scopes=(ADMIN,)), Secret(text))
    await admin_api.directory.refresh()
    return Api(admin_api, text)


def accept(record: Record, name: str, **changes: Any) -> str:
    """The id of a new job of the telegram source `bot`."""
    job = NewJob(job_id(name), "default", "telegram", "bot", name, ({"role": "user", "content": "hello"},), time.time())
    record.accept([attrs.evolve(job, **changes)], time.time())
    return job.id


def check_problem(answer: Answer, status: int, *words: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    for word in words:
        assert word in answer.json["detail"]


async def put_bot(admin: Api, **settings: str) -> None:
    answer = await admin.call("PUT", TELEGRAM, {"settings": {"secret_token": CANARY} | settings})
    assert answer.status == 200


class TestWho:
    async def test_only_with_the_scope(self, admin, admin_api, key, record):
        """Every route needs a key with the scope admin: none is 401, one without it 403, and nothing has happened."""
        before = record.directory_version()
        for route in ROUTES:
            path = "/admin/v1/" + route.path.format(name="x", channel="telegram", id="x")
            for given, status in ((key, 403), (new_key(), 401), ("", 401)):
                answer = await Api(admin_api, given).call(route.method, path, {} if route.fields else None)
                check_problem(answer, status)
        assert record.directory_version() == before
        assert record.audit(AuditFilter()) == []

    async def test_nowhere_else(self, admin, gateway):
        """The gateway knows nothing of it, with whatever key; and the admin API serves nothing but itself."""
        for path in ("/admin/v1/tenants", "/admin/v1/keys", "/admin"):
            check_problem(await Api(gateway, admin.key).call("GET", path), 404)
        for path in ("/v1/jobs", "/healthz", "/webhooks/telegram/bot"):
            check_problem(await admin.call("GET", path), 404)

    async def test_no_path_has_a_nul(self, admin, admin_api):
        """A NUL, which no text in PostgreSQL can have, is nobody's name: the record is not even asked."""
        nowhere = Api(attrs.evolve(admin_api, store=Store(None)), admin.key)
        for path in ("tenants/{}", "keys/{}", "jobs/{}", "sources/telegram/{}", "tenants/{}/subscription"):
            check_problem(await nowhere.call("GET", "/admin/v1/" + path.format("a\0b")), 404)

    async def test_an_admin_key_is_for_nothing_else(self, admin, gateway):
        """A key with the scope admin alone does nothing at the job API."""
        check_problem(await Api(gateway, admin.key).call("POST", "/v1/jobs", {"input": "x"}), 403, "jobs:write")


class TestTenants:
    async def test_from_the_first_to_the_last(self, admin, record):
        """A tenant is added once, given a network, disabled, enabled, and removed when it is disabled without live jobs."""
        added = await admin.call("POST", "/admin/v1/tenants", {"name": "acme"})
        assert (added.status, added.json["added"]) == (200, True)
        assert not (await admin.call("POST", "/admin/v1/tenants", {"name": "acme"})).json["added"]
        allowed = await admin.call("POST", "/admin/v1/tenants/acme/networks", {"network": "10.0.0.0/8"})
        assert allowed.json["networks"] == ["10.0.0.0/8"]
        check_problem(await admin.call("DELETE", "/admin/v1/tenants/acme"), 409, "Disable")
        job = accept(record, "a", tenant="acme")
        disabled = await admin.call("POST", "/admin/v1/tenants/acme/disable")
        assert disabled.json["disabled_at"]
        assert disabled.json["live_jobs"] == 1
        check_problem(await admin.call("DELETE", "/admin/v1/tenants/acme"), 409, "1 job(s)")
        assert (await admin.call("POST", f"/admin/v1/jobs/{job}/cancel")).json["state"] == "cancelled"
        assert (await admin.call("POST", "/admin/v1/tenants/acme/enable")).json["disabled_at"] is None
        await admin.call("POST", "/admin/v1/tenants/acme/disable")
        assert (await admin.call("DELETE", "/admin/v1/tenants/acme")).json["removed"]
        check_problem(await admin.call("GET", "/admin/v1/tenants/acme"), 404)

    async def test_in_pages(self, admin, record):
        """A list goes on where its page ended, to the last item, each once."""
        for number in range(5):
            record.add_tenant(f"t{number}", 0)
        seen, after = [], ""
        while after is not None:
            page = (await admin.call("GET", f"/admin/v1/tenants?limit=2&after={after}")).json
            assert len(page["data"]) <= 2
            assert page["has_more"] == (page["next"] is not None)
            seen += [tenant["name"] for tenant in page["data"]]
            after = page["next"]
        assert seen == sorted(record.directory().tenants)


class TestSources:
    async def test_from_the_first_to_the_last(self, admin, record, gateway):
        """A source is put, rotated, closed and removed; the gateway beside it knows at once, and no answer has a value."""
        await put_bot(admin, bot_token="1:" + CANARY)
        assert gateway.directory.source("telegram", "bot").setting("secret_token") == CANARY
        answers = [
            await admin.call("POST", f"{TELEGRAM}/rotate", {"settings": {"secret_token": CANARY + "2"}}),
            await admin.call("GET", TELEGRAM),
            await admin.call("GET", "/admin/v1/sources?tenant=default"),
        ]
        assert answers[0].json["rotating"] == ["secret_token"]
        assert gateway.directory.source("telegram", "bot").secrets("secret_token") == (CANARY + "2", CANARY)
        check_problem(await admin.call("POST", f"{TELEGRAM}/rotate", {"settings": {"secret_token": "x"}}), 409, "rotated already")
        answers.append(await admin.call("POST", f"{TELEGRAM}/end_rotation"))
        assert answers[-1].json["rotating"] == []
        assert (await admin.call("POST", f"{TELEGRAM}/disable")).json["disabled_at"]
        assert (await admin.call("POST", f"{TELEGRAM}/enable")).json["disabled_at"] is None
        job = accept(record, "a")
        check_problem(await admin.call("DELETE", TELEGRAM), 409, "alive")
        record.cancel(job, "default", time.time())
        answers.append(await admin.call("DELETE", TELEGRAM))
        assert answers[-1].json["removed"]
        check_problem(await admin.call("GET", TELEGRAM), 404)
        assert not [answer for answer in answers if CANARY in answer.body.decode()]

    async def test_in_pages(self, admin, sources):
        """The cursor of a source has its channel in it."""
        first = (await admin.call("GET", "/admin/v1/sources?limit=1")).json
        rest = (await admin.call("GET", f"/admin/v1/sources?after={first['next']}")).json
        assert len(first["data"]) + len(rest["data"]) == len(sources)

    async def test_what_would_not_work(self, admin):
        """Settings that the channel or the worker would not understand are refused by name; no value is repeated."""
        refused = (
            ({"settings": {"secret_token": "x", "colour": CANARY}}, "colour"),
            ({"settings": {"bot_token": CANARY}}, "secret_token"),
            ({"settings": {"secret_token": CANARY, "tools": "no-such-tool"}}, "no-such-tool"),
            ({"settings": {"secret_token": 7}}, "settings"),
            ({"settings": [CANARY]}, "settings"),
            ({}, "settings"),
            ({"settings": {"secret_token": "x"}, "tenant": "nobody"}, "nobody"),
        )
        for body, word in refused:
            answer = await admin.call("PUT", TELEGRAM, body)
            check_problem(answer, 404 if word == "nobody" else 400, word)
            assert CANARY not in answer.body.decode()
        check_problem(await admin.call("PUT", "/admin/v1/sources/fax/bot", {"settings": {}}), 404, "channel")
        check_problem(await admin.call("GET", TELEGRAM), 404)


class TestKeys:
    async def test_from_the_first_to_the_last(self, admin, gateway):
        """A key is made and shown once, works at once, is rotated with both valid, and is refused once revoked."""
        made = await admin.call("POST", "/admin/v1/keys", {"name": "ci", "scopes": ["jobs:read"], "expires_in_seconds": 3600})
        assert (made.status, made.headers["cache-control"]) == (201, "no-store")
        old = made.json
        assert is_well_formed(old["key"])
        new = (await admin.call("POST", f"/admin/v1/keys/{old['id']}/rotate", {"overlap_seconds": 60})).json
        assert (new["scopes"], new["replaces"]) == (["jobs:read"], old["id"])
        for text in (old["key"], new["key"]):
            assert (await Api(gateway, text).call("GET", "/v1/jobs")).status == 200
        assert (await admin.call("POST", f"/admin/v1/keys/{old['id']}/revoke")).json["state"] == "revoked"
        check_problem(await Api(gateway, old["key"]).call("GET", "/v1/jobs"), 401)
        assert (await Api(gateway, new["key"]).call("GET", "/v1/jobs")).status == 200
        listed = await admin.call("GET", "/admin/v1/keys?tenant=default")
        shown = await admin.call("GET", f"/admin/v1/keys/{new['id']}")
        assert shown.json["state"] == "live"
        assert not [text for text in (old["key"], new["key"]) if text in listed.body.decode() + shown.body.decode()]
        check_problem(await admin.call("POST", f"/admin/v1/keys/{old['id']}/revoke"), 404)

    @pytest.mark.parametrize(
        ("body", "word"),
        [
            ({"scopes": ["root"]}, "scopes"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["admin", "admin"]}, "scopes"),
            ({"scopes": "admin"}, "scopes"),
            ({"scopes": [{}]}, "scopes"),
            ({"expires_in_seconds": -1}, "expires_in_seconds"),
            ({"expires_in_seconds": True}, "expires_in_seconds"),
            ({"expires_in_seconds": "1d"}, "expires_in_seconds"),
            ({"expires_in_seconds": 1e300}, "expires_in_seconds"),
            ({"name": "x" * 101}, "name"),
            ({"name": 1}, "name"),
            ({"colour": 1}, "colour"),
            ([], "object"),
            (b"{", "JSON"),
            (b"", "empty"),
        ],
    )
    async def test_what_is_no_key(self, admin, record, body, word):
        """What is wrong with a body is named, and nothing is made."""
        before = len(record.keys())
        check_problem(await admin.call("POST", "/admin/v1/keys", body), 400, word)
        assert len(record.keys()) == before


class TestJobs:
    async def test_helped_along(self, admin, record):
        """A job is listed, told in full, set aside with a reason, put back, stopped and run again."""
        jobs = [accept(record, name) for name in ("one", "two", "three")]
        page = (await admin.call("GET", "/admin/v1/jobs?limit=2&state=queued&tenant=default&channel=telegram")).json
        assert [job["external_id"] for job in page["data"]] == ["three", "two"]
        rest = (await admin.call("GET", f"/admin/v1/jobs?after={page['next']}")).json
        assert ([job["external_id"] for job in rest["data"]], rest["has_more"]) == (["one"], False)
        path = f"/admin/v1/jobs/{jobs[0]}"
        assert (await admin.call("POST", f"{path}/quarantine", {"reason": "odd"})).json["last_error"] == "odd"
        check_problem(await admin.call("POST", f"{path}/quarantine", {"reason": "odd"}), 409, "quarantined")
        assert (await admin.call("POST", f"{path}/retry")).json["state"] == "queued"
        check_problem(await admin.call("POST", f"{path}/retry"), 409)
        assert (await admin.call("POST", f"{path}/cancel")).json["state"] == "cancelled"
        assert (await admin.call("POST", f"{path}/replay")).json["replay_of"] == jobs[0]
        story = (await admin.call("GET", "/admin/v1/jobs/one")).json
        assert story["external_id"] == "one"
        check_problem(await admin.call("GET", "/admin/v1/jobs/nothing"), 404)
        for query in ("state=done", "limit=0", "limit=x", "colour=1"):
            check_problem(await admin.call("GET", f"/admin/v1/jobs?{query}"), 400, query.partition("=")[0])


class TestAudit:
    async def test_every_change_is_a_line(self, admin, record):
        """Who did what is told by the key's id, newest first, in pages; what was refused or only looked at is no line."""
        await put_bot(admin)
        await admin.call("POST", "/admin/v1/tenants", {"name": "acme"})
        made = (await admin.call("POST", "/admin/v1/keys", {"tenant": "acme"})).json
        await admin.call("POST", "/admin/v1/keys", {"tenant": "nobody"})
        await admin.call("GET", "/admin/v1/keys")
        first = (await admin.call("GET", "/admin/v1/audit?limit=2")).json
        rest = (await admin.call("GET", f"/admin/v1/audit?after={first['next']}")).json
        entries = first["data"] + rest["data"]
        assert [entry["action"] for entry in entries] == ["key.created", "tenant.added", "source.put"]
        assert {entry["actor"] for entry in entries} == {"key:key_admin"}
        assert entries[0]["subject"] == f"key {made['id']}"
        assert not [word for word in (CANARY, made["key"]) if word in json.dumps(entries)]
        (only,) = (await admin.call("GET", "/admin/v1/audit?tenant=acme&action=tenant.added")).json["data"]
        assert only["subject"] == "tenant acme"
        for after in ("x", "-1", "9" * 30, "\u0661"):
            check_problem(await admin.call("GET", f"/admin/v1/audit?after={after}"), 400, "after")


class TestTrouble:
    async def test_paths_and_methods(self, admin):
        """An unknown path is 404, a wrong method 405 with those that there are, a body where none belongs 400."""
        for path in ("/admin/v1/", "/admin/v1/nothing", "/admin/v1/tenants/", "/admin/v1/tenants/a/b/c"):
            check_problem(await admin.call("GET", path), 404)
        answer = await admin.call("DELETE", "/admin/v1/tenants")
        check_problem(answer, 405)
        assert answer.headers["allow"] == "GET, POST"
        check_problem(await admin.call("POST", "/admin/v1/tenants/default/enable", {"x": 1}), 400, "no body")
        check_problem(await admin.call("POST", "/admin/v1/tenants", {"name": "x"}, content_type="text/plain"), 415)

    async def test_the_record_is_down(self, admin, admin_api, monkeypatch):
        """While the record does not answer, a move is 503 with Retry-After, and the key is known all the same."""

        def down(*_: Any) -> None:
            raise Unavailable("locked")

        monkeypatch.setattr(admin_api.store.record, "tenants", down)
        answer = await admin.call("GET", "/admin/v1/tenants")
        check_problem(answer, 503, "locked")
        assert answer.headers["retry-after"]

    async def test_a_fault_of_ours(self, admin, admin_api, monkeypatch):
        """What nobody foresaw is 500, tells nothing of itself, and the next request is answered."""

        def broken(*_: Any) -> None:
            raise RuntimeError(CANARY)

        with monkeypatch.context() as patch:
            patch.setattr(admin_api.store.record, "tenants", broken)
            answer = await admin.call("GET", "/admin/v1/tenants")
        check_problem(answer, 500)
        assert CANARY not in answer.body.decode()
        assert (
            await admin_api.handle(Request("GET", "/admin/v1/tenants", "", {"authorization": f"Bearer {admin.key}"}))
        ).status == 200


class TestPlans:
    async def test_a_plan_and_a_subscription(self, admin, record):
        """A plan is set, a tenant has it with its own terms, is shown what it used, and its end; each is a line of the audit."""
        plan = await admin.call("PUT", "/admin/v1/plans/pro", {"terms": {"jobs": "5"}})
        assert (plan.status, plan.json) == (200, {"name": "pro", "terms": {"jobs": "5"}})
        path = "/admin/v1/tenants/default/subscription"
        check_problem(await admin.call("GET", path), 404, "default plan")
        given = await admin.call("PUT", path, {"plan": "pro", "valid_until": "2999-01-01", "terms": {"tokens": "7"}})
        assert (given.json["standing"], given.json["terms"], given.json["used"]["jobs"]) == (
            "good",
            {"jobs": "5", "tokens": "7"},
            0,
        )
        check_problem(await admin.call("PUT", path, {"plan": "pro", "status": "happy"}), 400, "status")
        check_problem(await admin.call("PUT", path, {"plan": "none"}), 404, "no plan")
        check_problem(await admin.call("PUT", "/admin/v1/plans/pro", {"terms": {"job": "5"}}), 400, "job")
        assert (await admin.call("POST", f"{path}/end")).json["standing"] == "ended"
        assert [one["tenant"] for one in (await admin.call("GET", "/admin/v1/subscriptions")).json["data"]] == ["default"]
        assert [one["name"] for one in (await admin.call("GET", "/admin/v1/plans")).json["data"]] == ["pro"]
        lines = (await admin.call("GET", "/admin/v1/audit")).json["data"]
        assert [line["action"] for line in lines] == ["subscription.put", "subscription.put", "plan.put"]
