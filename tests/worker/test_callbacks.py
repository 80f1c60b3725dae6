"""Callbacks by the true worker: what receivers get, when they get it again, and whom a dead one holds up."""

from __future__ import annotations

import socket
import time

import attrs
import pytest
import trio

from sentinel import standard_webhooks
from sentinel.http import json_response
from sentinel.keyring import open_keyring
from sentinel.model import NewJob, Outcome, Verdict, random_id
from sentinel.outbound import Answer
from sentinel.records import open_record
from sentinel.records.callbacks import Attempt, Callback
from sentinel.retry import CALLBACK_DELAYS_SECONDS
from sentinel.secret import Secret
from sentinel.stand_in import Delivery
from tests.conftest import Sentinel, ended
from worker.callbacks import AT_A_TIME_PER_HOST, judge, settled

CALLBACK = Callback("job", "demo", "https://a.example/", "a.example", 1, "token")


def api_job(**options: object) -> NewJob:
    """A job of the API."""
    message = {"role": "user", "content": "hello"}
    given = {"id": random_id(), "tenant": "demo", "channel": "api", "source": "api", "external_id": "", "input": (message,)}
    return NewJob(**given, received_at=time.time(), options=options)  # type: ignore[arg-type]


async def wait_for_log(sentinel: Sentinel, job_id: str, attempts: int) -> list[tuple[int | None, str]]:
    """The log of the job's callback, once it has so many lines."""
    with trio.fail_after(5):
        while len(sentinel.record.attempts(job_id)) < attempts:
            await trio.sleep(0.01)
    return [(line.status, line.outcome) for line in sentinel.record.attempts(job_id)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published schedule, a thousand times as fast."""
    monkeypatch.setattr("sentinel.retry.CALLBACK_DELAYS_SECONDS", tuple(each / 100_000 for each in CALLBACK_DELAYS_SECONDS))


@pytest.mark.usefixtures("quick")
async def test_every_attempt_has_one_id_and_its_own_signature(sentinel: Sentinel) -> None:
    """The webhook-id and the body stay the same; time and signature are those of the attempt; the log has a line for each."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    secret = sentinel.record.callback_secret("demo", standard_webhooks.new_secret())
    seen: list[Delivery] = []

    def misbehave(delivery: Delivery) -> object:
        seen.append(delivery)
        return json_response(503, {}) if len(seen) < 3 else None

    sentinel.stand_in.misbehave = misbehave  # type: ignore[assignment]
    sentinel.record.accept([job := api_job(callback_url=sentinel.stand_in.base("caller"))], time.time())
    async with sentinel.working():
        log = await wait_for_log(sentinel, job.id, 3)
    assert log == [(503, "pending"), (503, "pending"), (200, "delivered")]
    assert {delivery.headers["webhook-id"] for delivery in seen} == {job.id}
    assert len({delivery.body for delivery in seen}) == 1
    for delivery in seen:
        assert standard_webhooks.verify([secret], delivery.headers, delivery.body, time.time()) == job.id


async def test_both_secrets_sign_after_a_rotation(sentinel: Sentinel) -> None:
    """In the time after a rotation receivers with the old secret and with the new one both find their signature."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    old, new = sentinel.record.callback_secret("demo", standard_webhooks.new_secret()), standard_webhooks.new_secret()
    sentinel.record.rotate_callback_secret("demo", new, time.time() + 60)
    sentinel.record.accept([job := api_job(callback_url=sentinel.stand_in.base("caller"))], time.time())
    async with sentinel.working():
        await wait_for_log(sentinel, job.id, 1)
    (delivery,) = sentinel.stand_in.of("caller")
    for secret in (old, new):
        assert standard_webhooks.verify([secret], delivery.headers, delivery.body, time.time()) == job.id


async def test_410_disables_the_receiver_until_a_person_says_otherwise(sentinel: Sentinel) -> None:
    """After 410 nothing more is sent to that URL; retrying a delivery by hand sends it, and the receiver is heard again."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    sentinel.stand_in.misbehave = lambda _delivery: json_response(410, {})
    url = sentinel.stand_in.base("caller")
    sentinel.record.accept([first := api_job(callback_url=url)], time.time())
    async with sentinel.working():
        assert await wait_for_log(sentinel, first.id, 1) == [(410, "failed")]
        sentinel.stand_in.misbehave = None
        sentinel.record.accept([second := api_job(callback_url=url)], time.time())
        await sentinel.wait_for(second.id, ended)
        with trio.fail_after(5):
            while "disabled" not in str(sentinel.record.find_callback(second.id)):
                await trio.sleep(0.01)
        assert sentinel.record.attempts(second.id) == []
        assert sentinel.stand_in.deliveries == []
        for job in (first, second):
            assert sentinel.record.retry_callback(job.id, time.time())
        assert (await wait_for_log(sentinel, first.id, 2))[-1] == (200, "delivered")
        assert (await wait_for_log(sentinel, second.id, 1))[-1] == (200, "delivered")


async def test_a_silent_receiver_holds_up_itself_only(sentinel: Sentinel) -> None:
    """While one receiver of a tenant never answers, the tenant's other receiver is called at once."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=200)
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    stuck = [api_job(callback_url=url) for _ in range(3 * AT_A_TIME_PER_HOST)]
    sentinel.record.accept(stuck, time.time())
    async with sentinel.working(slots=32, send_seconds_max=5.0):
        for job in stuck:
            await sentinel.wait_for(job.id, ended)
        sentinel.record.accept([lucky := api_job(callback_url=sentinel.stand_in.base("caller"))], time.time())
        with trio.fail_after(2):
            assert await wait_for_log(sentinel, lucky.id, 1) == [(200, "delivered")]
    silent.close()


async def test_a_removed_tenants_callback_has_failed(sentinel: Sentinel) -> None:
    """A callback that waits for another attempt while its tenant is removed has failed for good, and the worker goes on."""
    sentinel.record.add_tenant("leaving", 0)
    sentinel.record.accept([job := api_job(callback_url="https://a.example/")], time.time())
    sentinel.record.accept([left := attrs.evolve(job, id=random_id(), tenant="leaving")], time.time())
    sentinel.record.cancel(left.id, "leaving", time.time())
    assert sentinel.record.find_callback(left.id)
    assert sentinel.record.remove_tenant("leaving")
    async with sentinel.working():
        with trio.fail_after(5):
            while (state := sentinel.record.find_callback(left.id)) is None or state.status == "pending":
                await trio.sleep(0.01)
    assert (state.status, state.last_error) == ("failed", "the tenant is gone")
    assert sentinel.record.attempts(left.id) == []


async def test_a_server_key_that_is_not_here_does_not_end_the_worker(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback waits while the server key in force is not on the worker's machine, and is sent when it has come there."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    monkeypatch.setattr("worker.callbacks.KEY_AGAIN_SECONDS", 0.02)
    url = sentinel.settings.record
    keys = open_keyring(url).path
    here, elsewhere = keys.read_text(), "n" * 32
    async with sentinel.working():
        sentinel.record.accept([first := api_job()], time.time())
        await sentinel.wait_for(first.id, ended)
        other = open_record(url, keyring=open_keyring(url, Secret(f"{elsewhere},{here.strip()}")))
        other.rotate_server_key()
        other.close()
        sentinel.record.accept([job := api_job(callback_url=sentinel.stand_in.base("caller"))], time.time())
        with trio.fail_after(5):
            while (state := sentinel.record.find_callback(job.id)) is None or state.last_error is None:
                await trio.sleep(0.01)
        assert (state.status, state.last_error) == ("pending", "the secret that signs it cannot be read now")
        keys.write_text(f"{elsewhere}\n{here}")
        assert await wait_for_log(sentinel, job.id, 1) == [(200, "delivered")]


@pytest.mark.parametrize("attempts", range(1, len(CALLBACK_DELAYS_SECONDS) + 1))
def test_the_published_schedule(attempts: int) -> None:
    """A failure that may pass is tried again at the time of the schedule, up to a tenth later; after the last one it has failed."""
    now = time.time()
    came = settled(attrs.evolve(CALLBACK, attempts=attempts), Verdict(Outcome.RETRY, "HTTP 500"), 500, 0.1, 1.0)
    if attempts == len(CALLBACK_DELAYS_SECONDS):
        assert (came.state, came.next_at, came.gone) == ("failed", None, False)
    else:
        assert came.state == "pending"
        assert came.next_at == pytest.approx(now + CALLBACK_DELAYS_SECONDS[attempts] * 1.1, abs=1)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    """What the receiver asks for is waited, if it is longer than the schedule, up to a day; a shorter wish changes nothing."""
    now, said_at = time.time(), "Wed, 21 Oct 2015 07:28:00 GMT"
    in_an_hour, yesterday = "Wed, 21 Oct 2015 08:28:00 GMT", "Tue, 20 Oct 2015 07:28:00 GMT"
    wishes = (("3600", 3600), ("1", 5), ("9999999", 86_400), (in_an_hour, 3600), (yesterday, 5), ("soon", 5))
    for wish, seconds in wishes:
        verdict = judge(Answer(status, {"retry-after": wish, "date": said_at}, b""))
        came = settled(CALLBACK, verdict, status, 0.1, 0.0)
        assert came.next_at == pytest.approx(now + seconds, abs=1)


@pytest.mark.parametrize(
    ("status", "state", "gone"),
    [(200, "delivered", False), (204, "delivered", False), (302, "pending", False), (404, "pending", False), (410, "failed", True)],
)
def test_what_an_answer_means(status: int, state: str, gone: bool) -> None:
    """Only 2xx is delivered, only 410 ends it."""
    came = settled(CALLBACK, judge(Answer(status, {}, b"")), status, 0.1, 0.0)
    assert (came.state, came.gone, came.status) == (state, gone, status)
    assert isinstance(came, Attempt)
