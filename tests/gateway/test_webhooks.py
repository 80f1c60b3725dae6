"""Webhooks through `Gateway.handle`: what is kept, what is refused, and what the platform is told, for every channel."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from urllib.parse import urlencode
from xml.etree import ElementTree

import attrs
import pytest
import trio

from sentinel import standard_webhooks
from sentinel.channels import Channel, channels
from sentinel.channels.salesforce import OUTBOUND, SOAP
from sentinel.channels.shared.signing import hmac_hex
from sentinel.gateway import Gateway
from sentinel.http import Request
from sentinel.model import Source, State, job_id
from sentinel.records import JobFilter, Record
from sentinel.settings import Settings
from tests.gateway.wire import Answer, Api, answer_of

Sources = Mapping[str, Source]
CountJobs = Callable[[], int]

every_channel = pytest.mark.parametrize("channel", channels().values(), ids=list(channels()))

# Where each platform puts its proof: a header, or a field of the query.
PROOFS = {
    "whatsapp": "x-hub-signature-256",
    "telegram": "x-telegram-bot-api-secret-token",
    "slack": "x-slack-signature",
    "generic": "webhook-signature",
    "salesforce": "?token",
}
WRONG_PROOFS = (None, "", "wrong", "é", "sha256=", "v1,", "v1,é", "v0=é", "ⅷ", "x" * 100_000)
WRONG_MEDIA = (
    ("content-type", ""),
    ("content-type", "text/plain"),
    ("content-type", "application/json; charset=iso-8859-1"),
    ("content-type", "text/xml; charset=utf-16"),
    ("content-encoding", "gzip"),
    ("content-encoding", "identity, br"),
)
UTF_8_MEDIA = (
    "application/json",
    "application/json;charset=UTF-8",
    'Application/JSON; Charset="utf-8"',
    "application/json; charset=utf-8; version=1",
    "application/json; version=1",
)
NOT_UNDERSTOOD = {
    "whatsapp": (b'{"object": "page"}', "entries"),
    "telegram": (b'{"news": true}', "update_id"),
    "slack": (b'{"type": "novel"}', "type"),
    "generic": (b'"  "', "nothing"),
}
HOSTILE_JSON = {
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "depth": b"[" * 10_000 + b"]" * 10_000,
    "lone surrogate": rb'{"a": "\ud800"}',
    "CESU surrogate": b'{"a": "\xed\xa0\x80"}',
    "duplicate keys": b'{"a": 1, "a": 2}',
    "NUL": rb'{"a": "\u0000"}',
    "NUL key": rb'{"\u0000": 1}',
    "huge integer": b'{"a": 1' + b"0" * 400 + b"}",
    "huge number": b'{"a": 1e400}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"a": 1}',
    "rubbish behind": b'{"a": 1} {}',
    "cut": b'{"a": ',
    "empty": b"",
}
HOSTILE_PROLOGS = (
    b"<!DOCTYPE e>",
    b'<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
    b'<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
    b'<!DOCTYPE e SYSTEM "http://127.0.0.1/e.dtd">',
    b'<?xml version="1.0" encoding="utf-16"?>',
)
BROKEN_XML = (b"", b"<", b"\xff\xfe<\0e\0/\0>\0", b"<a>" * 10_000, b"<a>&x;</a>", b"\0", b"<a/>rubbish")


async def post(gateway: Gateway, request: Request) -> Answer:
    """The answer of the gateway."""
    return answer_of(await gateway.handle(request))


def sample(source: Source, number: int = 1, text: str = "hello", age_seconds: float = 0) -> Request:
    """A genuine webhook of the source's platform."""
    return channels()[source.channel].sample(source, text, number, time.time() - age_seconds)


def signed(source: Source, body: bytes) -> Request:
    """Any body, with the proof that its platform would give it."""
    now = time.time()
    match source.channel:
        case "whatsapp":
            proof = {"x-hub-signature-256": "sha256=" + hmac_hex(source.setting("app_secret").encode(), body)}
        case "slack":
            stamp = str(int(now))
            signature = hmac_hex(source.setting("signing_secret").encode(), b"v0:" + stamp.encode() + b":" + body)
            proof = {"x-slack-request-timestamp": stamp, "x-slack-signature": "v0=" + signature}
        case "generic":
            proof = standard_webhooks.signed_headers(source.setting("secret"), "msg-1", int(now), body)
        case _:
            proof = {}
    genuine = sample(source)
    return attrs.evolve(genuine, headers={**genuine.headers, **proof}, body=body)


def with_proof(request: Request, value: str | None) -> Request:
    """The request with this proof, or with none."""
    place = PROOFS[request.path.split("/")[2]]
    if place.startswith("?"):
        return attrs.evolve(request, query="" if value is None else urlencode({place[1:]: value}))
    headers = {name: kept for name, kept in request.headers.items() if name != place}
    return attrs.evolve(request, headers=headers if value is None else headers | {place: value})


def soap(source: Source, inside: str) -> bytes:
    """An outbound message of the source's organisation."""
    return (
        f'<e:Envelope xmlns:e="{SOAP}"><e:Body><notifications xmlns="{OUTBOUND}">'
        f"<OrganizationId>{source.setting('organization_id')}</OrganizationId>{inside}</notifications></e:Body></e:Envelope>"
    ).encode()


def notification(number: int, fields: str) -> str:
    return f'<Notification><Id>04l{number:012}AAA</Id><sObject xmlns:sf="urn:sf">{fields}</sObject></Notification>'


def is_fault(body: bytes) -> bool:
    """Whether the body is a SOAP fault."""
    return ElementTree.fromstring(body).find(f"{{{SOAP}}}Body/{{{SOAP}}}Fault") is not None


@every_channel
class TestKept:
    async def test_a_genuine_webhook_becomes_a_job(self, channel: Channel, gateway: Gateway, sources: Sources, record: Record):
        """A sample gets the channel's acknowledgment and the id of a job that says who sent what and how that was proved."""
        source = sources[channel.name]
        answer = await post(gateway, sample(source, text="Is it <open> & free?"))
        acknowledgment = channel.acknowledge(source)
        assert (answer.status, answer.body) == (acknowledgment.status, acknowledgment.body)
        assert answer.headers.items() >= dict(acknowledgment.headers).items()
        assert "sentinel-duplicate" not in answer.headers
        job = record.find_job(answer.headers["sentinel-job-id"], "default")
        assert job
        assert (job.state, job.channel, job.source) == (State.QUEUED, channel.name, "shop")
        assert "Is it <open> & free?" in job.input[0]["content"]
        assert [step.step for step in record.story(job.id)] == ["received", "verified", "accepted"]

    async def test_fifty_copies_at_once_are_one_job(
        self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs, nursery: trio.Nursery
    ):
        """However often a webhook comes, there is one job, one id, and every copy but one is marked as a duplicate."""
        request, answers = sample(sources[channel.name]), []

        async def send() -> None:
            answers.append(await post(gateway, request))

        async with trio.open_nursery() as senders:
            for _ in range(50):
                senders.start_soon(send)
        assert len({answer.headers["sentinel-job-id"] for answer in answers}) == 1
        assert {answer.status for answer in answers} == {channel.acknowledge(sources[channel.name]).status}
        assert Counter(answer.headers.get("sentinel-duplicate") for answer in answers) == {"true": 49, None: 1}
        assert count_jobs() == 1

    async def test_a_later_retry_is_a_duplicate(self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A webhook that is sent again, signed anew, gets the same id and the mark of a duplicate."""
        first = await post(gateway, sample(sources[channel.name], age_seconds=60))
        again = await post(gateway, sample(sources[channel.name]))
        assert again.headers["sentinel-job-id"] == first.headers["sentinel-job-id"]
        assert again.headers["sentinel-duplicate"] == "true"
        assert count_jobs() == 1


class TestItems:
    async def test_a_whatsapp_batch(self, gateway: Gateway, sources: Sources, record: Record):
        """Every message of a batch gets a job, in order, and the receipts between them get none."""
        whatsapp = sources["whatsapp"]
        values = [json.loads(sample(whatsapp, number).body)["entry"][0]["changes"][0] for number in (1, 2, 3)]
        receipt = {"field": "messages", "value": {"metadata": {}, "statuses": [{"id": "wamid.1", "status": "read"}]}}
        entries = [{"id": "1", "changes": [values[0], receipt, values[1]]}, {"id": "2", "changes": [values[2]]}]
        body = json.dumps({"object": "whatsapp_business_account", "entry": entries}).encode()
        answer = await post(gateway, signed(whatsapp, body))
        ids = answer.headers["sentinel-job-id"].split(",")
        assert [job.external_id for each in ids if (job := record.find_job(each))] == [f"wamid.sample{n}" for n in (1, 2, 3)]
        assert [job.id for job in reversed(record.list_jobs(JobFilter()))] == ids

    async def test_a_salesforce_batch_that_is_half_known(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A batch with one new item is no duplicate; sent once more, it is."""
        salesforce = sources["salesforce"]
        one, two = (notification(n, f"<sf:Id>500{n}</sf:Id><sf:Description>hi</sf:Description>") for n in (1, 2))
        await post(gateway, signed(salesforce, soap(salesforce, one)))
        both = signed(salesforce, soap(salesforce, one + two))
        first, again = await post(gateway, both), await post(gateway, both)
        assert first.headers["sentinel-job-id"].count(",") == 1
        assert "sentinel-duplicate" not in first.headers
        assert again.headers["sentinel-duplicate"] == "true"
        assert count_jobs() == 2

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("whatsapp", {"entry": [{"changes": [{"field": "messages", "value": {"statuses": [{"status": "sent"}]}}]}]}),
            ("telegram", {"update_id": 1, "edited_message": {"text": "x"}}),
            ("slack", {"type": "event_callback", "event_id": "E", "event": {"type": "message", "bot_id": "B", "text": "x"}}),
        ],
    )
    async def test_ignored_items(
        self, gateway: Gateway, sources: Sources, count_jobs: CountJobs, name: str, value: dict[str, object]
    ):
        """What needs no answer is acknowledged and becomes no job."""
        answer = await post(gateway, signed(sources[name], json.dumps(value).encode()))
        acknowledgment = channels()[name].acknowledge(sources[name])
        assert (answer.status, answer.body) == (acknowledgment.status, acknowledgment.body)
        assert "sentinel-job-id" not in answer.headers
        assert count_jobs() == 0

    async def test_an_ignored_notification(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A Salesforce record without words is acknowledged, or it would be sent again for a day."""
        salesforce = sources["salesforce"]
        answer = await post(gateway, signed(salesforce, soap(salesforce, notification(1, "<sf:Id>500</sf:Id>"))))
        assert answer.status == 200
        assert b"<Ack>true</Ack>" in answer.body
        assert count_jobs() == 0

    async def test_handshakes(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """WhatsApp's GET and Slack's POST get their challenge back as it is, and neither becomes a job."""
        query = urlencode(
            {"hub.mode": "subscribe", "hub.verify_token": sources["whatsapp"].setting("verify_token"), "hub.challenge": "1234"}
        )
        whatsapp = await post(gateway, Request("GET", "/webhooks/whatsapp/shop", query))
        slack = await post(gateway, signed(sources["slack"], b'{"type": "url_verification", "challenge": "abc"}'))
        assert [(answer.status, answer.body) for answer in (whatsapp, slack)] == [(200, b"1234"), (200, b"abc")]
        assert (await post(gateway, Request("GET", "/webhooks/whatsapp/shop", query + "x&hub.verify_token=no"))).status == 401
        assert count_jobs() == 0

    async def test_not_understood(self, gateway: Gateway, sources: Sources, record: Record):
        """A genuine webhook that is not understood is acknowledged and kept, as it came, for a person."""
        for name, (body, reason) in NOT_UNDERSTOOD.items():
            answer = await post(gateway, signed(sources[name], body))
            assert 200 <= answer.status < 300
            job = record.find_job(answer.headers["sentinel-job-id"])
            assert job
            assert (job.state, job.input) == (State.QUARANTINED, ({"role": "raw", "content": body.decode()},))
            assert reason in str(job.last_error)

    async def test_not_understood_soap(self, gateway: Gateway, sources: Sources, record: Record):
        """An outbound message without notifications is acknowledged and kept, as it came, for a person."""
        body = soap(sources["salesforce"], "")
        answer = await post(gateway, signed(sources["salesforce"], body))
        assert b"<Ack>true</Ack>" in answer.body
        job = record.find_job(answer.headers["sentinel-job-id"])
        assert job
        assert (job.state, job.input[0]["content"]) == (State.QUARANTINED, body.decode())


class TestRoutes:
    @pytest.mark.parametrize("path", ["/webhooks/fax/shop", "/webhooks/telegram/", "/webhooks/telegram", "/webhooks//shop", "/"])
    async def test_unknown_channel(self, gateway: Gateway, path: str):
        """A channel that does not exist, or no source at all, is 404 with a problem document."""
        answer = await post(gateway, Request("POST", path, headers={"content-type": "application/json"}, body=b"{}"))
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")

    @every_channel
    async def test_unknown_source(self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A genuine webhook of another source's name is 404, in the platform's own shape."""
        request = attrs.evolve(sample(sources[channel.name]), path=f"/webhooks/{channel.name}/stall")
        answer = await post(gateway, request)
        assert answer.status == 404
        assert channel.name != "salesforce" or is_fault(answer.body)
        assert count_jobs() == 0

    @every_channel
    async def test_wrong_method(self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """Any method but GET and POST is 405, and the answer says which are taken."""
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "post", ""):
            answer = await post(gateway, attrs.evolve(sample(sources[channel.name]), method=method))
            assert (answer.status, answer.headers["allow"]) == (405, "GET, POST"), method
        assert count_jobs() == 0

    @every_channel
    async def test_wrong_media(self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """Another content type, another charset or a compressed body is 415 before anything is parsed."""
        genuine = sample(sources[channel.name])
        for name, value in WRONG_MEDIA:
            answer = await post(gateway, attrs.evolve(genuine, headers={**genuine.headers, name: value}))
            assert answer.status == 415, value
        assert count_jobs() == 0

    async def test_parameters_of_the_media_type(self, gateway: Gateway, sources: Sources):
        """UTF-8 is taken however the content type says it, and other parameters do not matter."""
        genuine = sample(sources["telegram"])
        for kind in UTF_8_MEDIA:
            answer = await post(gateway, attrs.evolve(genuine, headers={**genuine.headers, "content-type": kind}))
            assert answer.status == 200, kind


class TestNotGenuine:
    @every_channel
    async def test_no_proof(self, channel: Channel, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A missing, wrong, foreign or huge proof is 401 without a word of the secret or of what was sent, and nothing is kept."""
        for proof in WRONG_PROOFS:
            answer = await post(gateway, with_proof(sample(sources[channel.name]), proof))
            assert answer.status == 401, proof
            assert channel.name != "salesforce" or is_fault(answer.body)
            assert b"known-" not in answer.body
            assert len(answer.body) < 1000
        assert count_jobs() == 0

    @pytest.mark.parametrize("name", ["whatsapp", "slack", "generic"])
    async def test_the_proof_of_another_body(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs, name: str):
        """A body that somebody changed is refused wherever the platform signs the body."""
        genuine, other = sample(sources[name], 1), sample(sources[name], 2)
        assert (await post(gateway, attrs.evolve(genuine, body=other.body))).status == 401
        assert (await post(gateway, attrs.evolve(genuine, body=genuine.body + b" "))).status == 401
        assert count_jobs() == 0

    @pytest.mark.parametrize("name", ["slack", "generic"])
    async def test_an_old_signature(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs, name: str):
        """A signature of ten minutes ago, or of ten minutes hence, is refused wherever the platform signs the time."""
        for age in (600, -600):
            assert (await post(gateway, sample(sources[name], age_seconds=age))).status == 401
        assert count_jobs() == 0

    async def test_another_organisation(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """An outbound message of another organisation is 401 with a SOAP fault, though it knows the token."""
        genuine = sample(sources["salesforce"])
        answer = await post(gateway, attrs.evolve(genuine, body=genuine.body.replace(b"00D000000000001", b"00D000000000002")))
        assert answer.status == 401
        assert is_fault(answer.body)
        assert count_jobs() == 0


class TestHostile:
    @pytest.mark.parametrize("name", ["whatsapp", "telegram", "slack", "generic"])
    async def test_json(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs, name: str):
        """JSON that two readers could understand differently is 400 with a problem document, even when it is signed."""
        for what, body in HOSTILE_JSON.items():
            answer = await post(gateway, signed(sources[name], body))
            assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json"), what
        assert count_jobs() == 0

    async def test_xml(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """XML with a DOCTYPE, an entity or another encoding is 400 with a SOAP fault, from the right organisation too."""
        salesforce = sources["salesforce"]
        message = soap(salesforce, notification(1, "<sf:Id>1</sf:Id>"))
        for body in (*(prolog + message for prolog in HOSTILE_PROLOGS), *BROKEN_XML):
            answer = await post(gateway, signed(salesforce, body))
            assert answer.status == 400, body[:80]
            assert is_fault(answer.body)
        assert count_jobs() == 0

    async def test_a_form_is_read_as_strictly(self, gateway: Gateway, sources: Sources, count_jobs: CountJobs):
        """A signed Slack form with bad UTF-8, a field twice or U+0000 is 400."""
        for body in (b"text=%ff", b"a=1&a=2", b"text=%00", b"\xff=1", b"&".join(b"a%d=1" % n for n in range(300))):
            request = signed(sources["slack"], body)
            form = {**request.headers, "content-type": "application/x-www-form-urlencoded"}
            assert (await post(gateway, attrs.evolve(request, headers=form))).status == 400
        assert count_jobs() == 0


class TestRecordLocked:
    async def test_every_platform_is_told_in_time(
        self, gateway: Gateway, settings: Settings, sources: Sources, count_jobs: CountJobs
    ):
        """While the record is locked, every channel gets 503 with Retry-After inside the budget and nothing is kept."""
        requests = {name: sample(source) for name, source in sources.items()}
        answers: dict[str, Answer] = {}

        async def send(name: str) -> None:
            answers[name] = await post(gateway, requests[name])

        lock = sqlite3.connect(settings.record.partition(":")[2], isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        started = trio.current_time()
        async with trio.open_nursery() as senders:
            for name in requests:
                senders.start_soon(send, name)
        assert trio.current_time() - started < settings.ack_budget
        lock.execute("ROLLBACK")
        lock.close()
        assert {answer.status for answer in answers.values()} == {503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers.values())
        assert b"<Ack>false</Ack>" in answers["salesforce"].body
        assert count_jobs() == 0
        for request in requests.values():
            assert "sentinel-duplicate" not in (await post(gateway, request)).headers
        assert count_jobs() == len(requests)

    async def test_a_late_commit_is_safe(self, gateway: Gateway, settings: Settings, sources: Sources, api: Api, record: Record):
        """What is committed after its sender was sent away is found again by the retry, or withdrawn if no retry could find it."""
        lock = sqlite3.connect(settings.record.partition(":")[2], isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        answers: dict[str, Answer] = {}

        async def send_first() -> None:
            answers["first"] = await post(gateway, sample(sources["slack"], 1))

        async def send_webhook() -> None:
            answers["webhook"] = await post(gateway, sample(sources["slack"], 2))

        async def send_api() -> None:
            answers["api"] = await api.call("POST", "/v1/jobs", {"input": "hello"})

        async with trio.open_nursery() as senders:
            senders.start_soon(send_first)
            await trio.sleep(settings.ack_budget * 0.4)  # the first batch holds the writer; these two go with the second
            senders.start_soon(send_webhook)
            senders.start_soon(send_api)
        lock.execute("ROLLBACK")
        lock.close()
        assert {answer.status for answer in answers.values()} == {503}
        again = await post(gateway, sample(sources["slack"], 2))
        assert again.status == 200
        assert [job.id for job in record.list_jobs(JobFilter())] == [again.headers["sentinel-job-id"]]
        assert (await api.call("POST", "/v1/jobs", {"input": "hello"})).status == 202
        assert len(record.list_jobs(JobFilter())) == 2


async def test_only_a_path_token_may_follow_the_source(gateway):
    """A segment behind the source's name is the secret of a channel that takes one there, and nothing elsewhere."""
    assert (await post(gateway, Request("POST", "/webhooks/telegram/shop/more"))).status == 404
    assert (await post(gateway, Request("POST", "/webhooks/salesforce/shop/token/more"))).status == 404
    assert (await post(gateway, Request("POST", "/webhooks/salesforce/shop/token"))).status == 415


def test_an_identity_has_the_same_id_as_ever():
    """An id is the hash of the identity's parts, each behind its length in bytes: a record knows what an older version has kept."""
    assert job_id("default", "whatsapp", "shop", "wamid.1") == "6aad8693-7cb4-397b-94bc-5f9e40993c2c"
    hashed = hashlib.sha256(b"1:t8:telegram5:b\xc3\xbcro2:\xc3\xa9").hexdigest()[:32]
    assert [job_id("t", "telegram", "b\u00fcro", "\u00e9").replace("-", "") for _ in range(2)] == [hashed] * 2
