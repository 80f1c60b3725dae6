"""The billing webhook: what it sets, what it refuses, and that order and repetition do not matter."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest

from sentinel import standard_webhooks
from sentinel.channels import channels
from sentinel.edge.billing import parse_billing
from sentinel.edge.plans import parse_line
from sentinel.edge.subscriptions import Status
from sentinel.errors import BadInput
from sentinel.gateway import Gateway
from sentinel.http import Request
from sentinel.model import Source
from sentinel.records import JobFilter, Record
from sentinel.records.directory import AuditFilter
from tests.gateway.wire import Answer, answer_of

SECRET = standard_webhooks.encode_secret(b"what only the biller knows, and we.")
NOW = 1_700_000_000.0
BODY = {"tenant": "default", "plan": "pro", "status": "active", "event_time": "2026-01-01T00:00:00Z"}
_numbers = itertools.count(1)


@pytest.fixture
async def biller(gateway: Gateway, record: Record) -> Source:
    """A billing source of the operator, and a plan."""
    source = Source("default", "generic", "bills", {"kind": "billing", "secret": SECRET})
    record.put_source(source, 0)
    record.put_plan("pro", parse_line("jobs=5"), 0)
    await gateway.directory.refresh()
    return source


async def tell(gateway: Gateway, body: Any, secret: str = SECRET, name: str = "bills") -> Answer:
    """Post the body, signed."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    signed = standard_webhooks.signed_headers(secret, f"msg-{next(_numbers)}", int(time.time()), raw)
    headers = {"content-type": "application/json", **signed}
    return answer_of(await gateway.handle(Request("POST", f"/webhooks/generic/{name}", headers=headers, body=raw)))


async def test_it_sets_a_subscription(gateway: Gateway, record: Record, biller: Source) -> None:
    """A signed event sets the plan, the status, the end and special terms; it is in the audit, and no job exists."""
    answer = await tell(gateway, BODY | {"valid_until": "2999-01-01", "terms": {"jobs": "7"}})
    assert (answer.status, answer.json["applied"]) == (200, True)
    kept = record.directory().subscriptions["default"]
    assert (kept.plan, kept.status, kept.terms) == ("pro", Status.ACTIVE, parse_line("jobs=7"))
    (line,) = record.audit(AuditFilter(action="subscription.put"))
    assert (line.actor, line.tenant, line.detail["plan"]) == ("billing:bills", "default", "pro")
    assert record.list_jobs(JobFilter()) == []


async def test_every_order_ends_in_the_same(gateway: Gateway, record: Record, biller: Source) -> None:
    """Events in any order, each twice, leave what the latest of them says."""
    events = [
        BODY | {"status": status, "event_time": 1_000 + place} for place, status in enumerate(("trialing", "active", "ended"))
    ]
    for round_, order in enumerate(itertools.permutations(events), start=1):
        for event in (*order, *order):
            assert (await tell(gateway, event | {"event_time": event["event_time"] + 10 * round_})).status == 200
        assert record.directory().subscriptions["default"].status is Status.ENDED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tenant": "nobody"}, (404, "tenant")),
        ({"plan": "none"}, (404, "plan")),
        ({"plan": None}, (400, "plan")),
        ({"tenant": 7}, (400, "tenant")),
        ({"tenant": "x" * 65}, (400, "tenant")),
        ({"status": "happy"}, (400, "status")),
        ({"status": ["active"]}, (400, "status")),
        ({"valid_until": "soon"}, (400, "valid_until")),
        ({"valid_until": True}, (400, "valid_until")),
        ({"valid_until": 10**18}, (400, "valid_until")),
        ({"event_time": None}, (400, "event_time")),
        ({"event_time": "9999-12-31"}, (400, "event_time")),
        ({"event_time": 32_000_000_000}, (400, "future")),
        ({"terms": {"jobs": 7}}, (400, "terms")),
        ({"terms": {"job": "7"}}, (400, "job")),
        ({"price": 7}, (400, "price")),
    ],
)
async def test_what_is_wrong_is_named(
    gateway: Gateway, record: Record, biller: Source, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    """A field that cannot be is named, and nothing is set."""
    answer = await tell(gateway, BODY | change)
    assert answer.status == expected[0]
    assert expected[1] in answer.json["detail"]
    assert record.directory().subscriptions == {}


async def test_who_may_not(gateway: Gateway, record: Record, biller: Source) -> None:
    """A forger, and a source of another tenant, set nothing."""
    assert (await tell(gateway, BODY, standard_webhooks.encode_secret(b"what somebody else knows, but not we"))).status == 401
    record.put_source(Source("other", "generic", "theirs", {"kind": "billing", "secret": SECRET}), 0)
    await gateway.directory.refresh()
    assert (await tell(gateway, BODY, name="theirs")).status == 403
    assert (await tell(gateway, b"[]")).status == 400
    assert (await tell(gateway, b"{")).status == 400
    assert record.directory().subscriptions == {}


def test_a_billing_source_has_to_sign() -> None:
    """A bearer secret proves nothing about a body, so it cannot set a subscription; nor is there a third kind."""
    check = channels()["generic"].check_settings
    with pytest.raises(BadInput, match="sign"):
        check({"kind": "billing", "scheme": "bearer", "secret": "x"})
    with pytest.raises(BadInput, match="kind"):
        check({"kind": "other", "secret": SECRET})


def test_times_are_read_alike() -> None:
    """A time is the same in RFC 3339, with another offset, without one, and in seconds."""
    given = ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20", NOW, int(NOW))
    assert {parse_billing(BODY | {"event_time": each}, NOW).event_at for each in given} == {NOW}
