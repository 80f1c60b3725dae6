"""Plans at the door of the true gateway: what each platform and the API get, what is kept, and what the person is told."""

from __future__ import annotations

import time

import attrs
import pytest
import trio

from sentinel.channels import channels
from sentinel.channels.salesforce import SOAP
from sentinel.edge.checks import Caller
from sentinel.edge.notices import TEXTS, Notice
from sentinel.edge.plans import UNLIMITED, Terms, parse_line
from sentinel.edge.quota import Account, month_of
from sentinel.edge.subscriptions import Status, Subscription
from sentinel.gateway import Gateway, open_gateway
from sentinel.http import Request
from sentinel.model import Job, Source, State
from sentinel.records import JobFilter, Record
from sentinel.settings import Settings
from tests.gateway.wire import Answer, Api, answer_of

every_channel = pytest.mark.parametrize("channel", list(channels()))
# What a platform gets for a webhook that is over a limit of its source: where it would not send again, the job is delayed.
OVER_THE_LIMIT = {"telegram": 429, "whatsapp": 429, "salesforce": 429, "slack": 200, "generic": 200}
ENDED = {"telegram": 200, "whatsapp": 200, "salesforce": 200, "slack": 200, "generic": 402}


async def subscribe(gateway: Gateway, record: Record, terms: Terms, status: Status = Status.ACTIVE) -> None:
    """The tenant `default` has a plan with these terms, and the gateway knows it."""
    record.put_plan("pro", terms, 0)
    assert record.put_subscription(Subscription("default", "pro", status, event_at=time.time()), 0)
    await gateway.directory.refresh()


def webhook(source: Source, number: int = 1) -> Request:
    return channels()[source.channel].sample(source, "hello", number, time.time())


async def post(gateway: Gateway, source: Source, number: int = 1) -> Answer:
    return answer_of(await gateway.handle(webhook(source, number)))


def jobs(record: Record) -> list[Job]:
    return record.list_jobs(JobFilter(limit=100))


def notices(record: Record) -> list[Job]:
    return [job for job in jobs(record) if Notice.of(job.options)]


class TestWebhooks:
    @every_channel
    async def test_an_ended_plan(self, gateway: Gateway, record: Record, sources: dict[str, Source], channel: str) -> None:
        """A chat gets its 2xx, no job, and one notice however many write; a sender gets 402 in its own shape."""
        source = attrs.evolve(sources[channel], settings={"api_base": "https://send.example", **sources[channel].settings})
        record.put_source(source, 0)
        await subscribe(gateway, record, UNLIMITED, Status.ENDED)
        answers = [await post(gateway, source) for _ in range(3)]
        assert [answer.status for answer in answers] == [ENDED[channel]] * 3
        assert all("sentinel-job-id" not in answer.headers for answer in answers)
        told = notices(record)
        assert len(told) == len(jobs(record)) == (0 if channel == "generic" else 1)
        for job in told:
            assert (job.options["notice"]["text"], job.priority) == (TEXTS["subscription"], 0)

    @every_channel
    async def test_over_the_limit_of_the_source(
        self, gateway: Gateway, record: Record, sources: dict[str, Source], channel: str
    ) -> None:
        """Who sends again is told when, in its own way; for who does not, the job is kept until the limit allows it."""
        await subscribe(gateway, record, parse_line("source_rate=1/60"))
        assert (await post(gateway, sources[channel], 1)).status == 200
        answer = await post(gateway, sources[channel], 2)
        assert answer.status == OVER_THE_LIMIT[channel]
        assert notices(record) == []
        if answer.status == 429:
            assert 0 < int(answer.headers["retry-after"]) <= 60
            assert len(jobs(record)) == 1
        else:
            late, _ = jobs(record)
            assert late.state is State.SCHEDULED
            assert 50 < late.run_at - time.time() <= 60

    async def test_salesforce_is_told_to_send_again(self, gateway: Gateway, record: Record, sources: dict[str, Source]) -> None:
        """Its own way of saying "not now" is an acknowledgment that is false."""
        await subscribe(gateway, record, parse_line("tenant_rate=1/60"))
        await post(gateway, sources["salesforce"], 1)
        answer = await post(gateway, sources["salesforce"], 2)
        assert SOAP.encode() in answer.body
        assert b"false" in answer.body

    @every_channel
    async def test_one_person_too_fast(self, gateway: Gateway, record: Record, sources: dict[str, Source], channel: str) -> None:
        """A chat tells the person and gets its 2xx; where nobody is named there is no such limit."""
        await subscribe(gateway, record, parse_line("user_rate=1/60 user_jobs=100"))
        source = sources[channel]
        first = webhook(source)
        assert (await gateway.handle(first)).status == 200
        assert (await gateway.handle(first)).status == 200
        named = bool(jobs(record)[-1].sender)
        assert [job.options["notice"]["text"] for job in notices(record)] == ([TEXTS["rate"]] if named else [])
        used = record.usage(month_of(time.time())).used
        assert used[Account("default")].jobs == 1
        assert len(used) == (2 if named else 1)

    async def test_a_source_chooses_its_words(self, gateway: Gateway, record: Record, sources: dict[str, Source]) -> None:
        """`refusal_message` is what a person is told; `off` is silence."""
        for words in ("Closed until Monday.", "off"):
            source = attrs.evolve(sources["telegram"], settings={**sources["telegram"].settings, "refusal_message": words})
            record.put_source(source, 0)
            await subscribe(gateway, record, UNLIMITED, Status.SUSPENDED)
            assert (await post(gateway, source, 1 if words == "off" else 2)).status == 200
        assert [job.options["notice"]["text"] for job in notices(record)] == ["Closed until Monday."]

    async def test_a_source_that_cannot_answer_says_nothing(
        self, gateway: Gateway, record: Record, sources: dict[str, Source]
    ) -> None:
        """Without a token to send with there is no notice."""
        settings = {name: value for name, value in sources["telegram"].settings.items() if name != "bot_token"}
        record.put_source(attrs.evolve(sources["telegram"], settings=settings), 0)
        await subscribe(gateway, record, UNLIMITED, Status.ENDED)
        assert (await post(gateway, sources["telegram"])).status == 200
        assert jobs(record) == []

    async def test_two_gateways_tell_once(
        self, settings: Settings, record: Record, gateway: Gateway, sources: dict[str, Source]
    ) -> None:
        """Whichever gateway a chat's webhooks go to, it is told once in the hour."""
        await subscribe(gateway, record, UNLIMITED, Status.ENDED)
        async with open_gateway(settings) as other:
            for each in (gateway, other, gateway):
                await post(each, sources["telegram"])
        assert len(notices(record)) == 1

    async def test_the_quota_of_a_month(self, gateway: Gateway, record: Record, sources: dict[str, Source]) -> None:
        """Of ten messages at once, a quota of three lets in three; duplicates of those cost nothing; the count is the record's."""
        await subscribe(gateway, record, parse_line("jobs=3"))
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(post, gateway, sources["telegram"], number)
        kept = [job for job in jobs(record) if not Notice.of(job.options)]
        assert len(kept) == 3
        assert record.usage(month_of(time.time())).used[Account("default")].jobs == 3


class TestApi:
    @pytest.mark.parametrize(
        ("line", "status", "expected"),
        [
            ("", Status.ENDED, (402, "urn:sentinel:subscription_ended")),
            ("", Status.PAST_DUE, (402, "urn:sentinel:subscription_ended")),
            ("", Status.SUSPENDED, (403, "urn:sentinel:subscription_suspended")),
            ("jobs=0", Status.ACTIVE, (429, "urn:sentinel:quota_used_up")),
            ("tokens=0", Status.ACTIVE, (429, "urn:sentinel:quota_used_up")),
        ],
    )
    async def test_refused(self, api: Api, record: Record, line: str, status: Status, expected: tuple[int, str]) -> None:
        """The status and the problem say why; there is no job; the tenant's other routes still answer."""
        await subscribe(api.gateway, record, parse_line(line), status)
        answer = await api.call("POST", "/v1/jobs", {"input": "hello"})
        assert (answer.status, answer.json["type"]) == expected
        assert ("retry-after" in answer.headers) == (answer.status == 429)
        assert jobs(record) == []
        assert (await api.call("GET", "/v1/jobs")).status == 200

    async def test_too_fast(self, gateway: Gateway, record: Record, api: Api, other_key: str) -> None:
        """The limit is told with every answer; over it, 429 with the time to wait; another tenant is not concerned."""
        await subscribe(gateway, record, parse_line("key_rate=2/60"))
        answers = [await api.call("POST", "/v1/jobs", {"input": "hello"}) for _ in range(3)]
        assert [answer.status for answer in answers] == [202, 202, 429]
        assert [answer.headers["ratelimit"].partition(";t")[0] for answer in answers] == ['"key";r=1', '"key";r=0', '"key";r=0']
        assert all(answer.headers["ratelimit-policy"] == '"key";q=2;w=60' for answer in answers)
        assert (answers[2].json["type"], answers[2].headers["retry-after"]) == ("urn:sentinel:rate_limited", "30")
        assert (await Api(gateway, other_key).call("POST", "/v1/jobs", {"input": "hello"})).status == 202
        assert len(jobs(record)) == 3

    async def test_who_asks_again_for_the_last_job_gets_it(self, gateway: Gateway, record: Record, api: Api) -> None:
        """When the quota is used up, an Idempotency-Key that was let in is answered as before, and a new one is refused."""
        await subscribe(gateway, record, parse_line("jobs=1"))
        first, again, new = [
            await api.call("POST", "/v1/jobs", {"input": "hello"}, idempotency_key=key) for key in ("one", "one", "two")
        ]
        assert [answer.status for answer in (first, again, new)] == [202, 202, 429]
        assert again.json["id"] == first.json["id"]
        assert again.headers["sentinel-duplicate"] == "true"

    async def test_the_default_plan(self, settings: Settings, record: Record, key: str) -> None:
        """A tenant without a subscription has the plan of the settings."""
        async with open_gateway(attrs.evolve(settings, default_plan="tenant_rate=1/60")) as gateway:
            api = Api(gateway, key)
            assert [(await api.call("POST", "/v1/jobs", {"input": "hello"})).status for _ in range(2)] == [202, 429]

    async def test_what_is_not_understood_is_free(self, gateway: Gateway, record: Record, sources: dict[str, Source]) -> None:
        """What waits for a person and never reaches the model is nobody's use."""
        await gateway.handle(attrs.evolve(webhook(sources["telegram"]), body=b'{"news": true}'))
        assert len(jobs(record)) == 1
        assert record.usage(month_of(time.time())).used == {}


def test_every_channel_says_what_a_refusal_means_to_it() -> None:
    """Platforms that send again for hours, one that gives up in minutes, and a sender that never asks again."""
    callers = {name: channel.caller for name, channel in channels().items()}
    assert callers == {
        "whatsapp": Caller.CHAT,
        "telegram": Caller.CHAT,
        "salesforce": Caller.CHAT,
        "slack": Caller.HASTY_CHAT,
        "generic": Caller.SENDER,
    }
