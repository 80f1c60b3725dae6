"""The true worker on the true record, with a fake engine and a stand-in of the platforms."""

from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

import worker.main
from sentinel import retry, standard_webhooks
from sentinel.channels import channels
from sentinel.demo import demo_source
from sentinel.errors import GenerationFailed
from sentinel.gateway import open_gateway
from sentinel.http import json_response
from sentinel.model import State
from sentinel.records import Ending
from sentinel.stand_in import Delivery
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine, api_job


@pytest.mark.parametrize("channel", sorted(channels()))
async def test_a_webhook_becomes_a_delivered_reply(sentinel: Sentinel, channel: str) -> None:
    """A genuine webhook of every channel ends as one reply at the platform's send API and a succeeded job."""
    job_id = await sentinel.send(channel, "good morning")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.SUCCEEDED
    assert job.result is not None
    assert job.result["usage"]["total_tokens"] > 0
    assert [delivery.text for delivery in sentinel.stand_in.of(channel)] == ["echo: good morning"]
    steps = [step.step for step in sentinel.record.story(job_id)]
    assert steps == ["received", "verified", "accepted", "claimed", "generated", "delivered", "succeeded"]


async def test_a_long_reply_arrives_in_order(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A reply beyond the platform's limit is delivered in parts, in order, and nothing of it is lost."""
    words = [f"word{number}" for number in range(2000)]
    engine.answers = [" ".join(words)]
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        await sentinel.wait_for(job_id, ended)

    parts = [delivery.text for delivery in sentinel.stand_in.of("telegram")]
    assert len(parts) > 1
    assert " ".join(parts).split() == words


async def test_a_sent_part_is_not_sent_again(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """When a later part fails, the retry sends what is missing, and the model does not run again."""
    engine.answers = ["a" * 4096 + "b" * 100]
    failures = [json_response(503, {}), json_response(503, {})]

    def misbehave(delivery: Delivery) -> object:
        return failures.pop() if delivery.text.startswith("b") and failures else None

    sentinel.stand_in.misbehave = misbehave  # type: ignore[assignment]
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.SUCCEEDED
    assert [delivery.text[0] for delivery in sentinel.stand_in.of("telegram")] == ["a", "b"]
    assert len(engine.prompts) == 1
    assert job.attempt == 1, "waiting for a platform is no failed attempt"


async def test_a_receiver_that_is_left_alone_costs_no_attempt(
    sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the circuit to a platform is open its jobs go back to the queue with their replies, and no attempt is counted."""
    monkeypatch.setattr("sentinel.bulkhead.FAILURES_IN_A_ROW", 1)
    source = sentinel.sources["telegram"]
    nowhere = attrs.evolve(source, settings=dict(source.settings) | {"api_base": "http://127.0.0.1:1"})
    sentinel.record.put_source(nowhere, time.time())
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        with trio.fail_after(5):
            while not any("left alone" in str(step.detail) for step in sentinel.record.story(job_id)):
                await trio.sleep(0.01)

    assert [part.attempts for part in sentinel.record.pending_parts(job_id)] == [1]
    assert len(engine.prompts) == 1


async def test_a_short_retry_after_is_waited_for(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A platform that asks for a moment gets it, within the same claim."""
    answers = [json_response(429, {"ok": False, "error_code": 429, "parameters": {"retry_after": 1}})]
    sentinel.stand_in.misbehave = lambda _delivery: answers.pop() if answers else None
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.SUCCEEDED
    assert [step.step for step in sentinel.record.story(job_id)].count("claimed") == 1


async def test_a_refusal_ends_the_job_for_a_person(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A platform's refusal for good fails the job with its reason, once, and a retry by hand sends the stored reply."""
    sentinel.stand_in.misbehave = lambda _delivery: json_response(403, {"ok": False, "description": "bot was blocked by the user"})
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)
        assert job.state is State.FAILED
        assert "blocked" in (job.last_error or "")
        sentinel.stand_in.misbehave = None
        assert sentinel.record.retry(job_id, time.time())
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.SUCCEEDED
    assert len(sentinel.stand_in.of("telegram")) == 1
    assert len(engine.prompts) == 1


async def test_no_more_runs_than_there_are_slots(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A worker claims what its engine can carry, and no more."""
    engine.seconds = 0.01
    jobs = [api_job(str(number)) for number in range(20)]
    sentinel.record.accept(jobs, time.time())
    async with sentinel.working():
        for job in jobs:
            await sentinel.wait_for(job.id, ended)

    assert engine.most == engine.slots


async def test_a_chat_is_answered_in_order(sentinel: Sentinel) -> None:
    """Messages of one chat are answered one at a time and in order, however many slots are free."""
    job_ids = [await sentinel.send("whatsapp", f"message {number}", number) for number in range(8)]
    first = sentinel.record.find_job(job_ids[0])
    assert first is not None
    async with sentinel.working(model="fake:5"):
        for job_id in job_ids:
            await sentinel.wait_for(job_id, ended)

    ours = [sentinel.record.find_job(job_id) for job_id in job_ids]
    chats: dict[str, list[str]] = {}
    for number, job in enumerate(ours):
        assert job is not None
        chats.setdefault(str(job.conversation), []).append(f"echo: message {number}")
    arrived = [delivery.text for delivery in sentinel.stand_in.of("whatsapp")]
    for texts in chats.values():
        assert [text for text in arrived if text in texts] == texts


async def test_cancelling_stops_a_generation(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A running generation that is cancelled stops within a second, frees its slot, and nothing is delivered."""
    engine.seconds = 60
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        await sentinel.wait_for(job_id, lambda job: job.state is State.RUNNING)
        await trio.testing.wait_all_tasks_blocked()
        asked = time.monotonic()
        sentinel.record.cancel(job_id, "demo", time.time())
        job = await sentinel.wait_for(job_id, ended)
        assert time.monotonic() - asked < 1
        assert engine.running == 0

    assert job.state is State.CANCELLED
    assert sentinel.stand_in.of("telegram") == []


async def test_a_lost_lease_stops_the_work(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """When somebody else owns the job, this worker stops, writes nothing and sends nothing."""
    engine.seconds = 60
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        await sentinel.wait_for(job_id, lambda job: job.state is State.RUNNING)
        lease = next(lease for lease in sentinel.record.leases(1) if lease.job_id == job_id)
        stolen = Ending(job_id, lease.lease_token, State.QUEUED, run_at=time.time() + 3600)
        assert sentinel.record.end([stolen], time.time()) == [True]
        with trio.fail_after(2):
            while engine.running:
                await trio.sleep(0.01)

    job = sentinel.record.find_job(job_id)
    assert job is not None
    assert job.state is State.SCHEDULED
    assert sentinel.stand_in.of("telegram") == []


async def test_stopping_gives_the_job_back(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A job that outlives the grace at a stop is queued again, without a burnt attempt."""
    engine.seconds = 60
    job_id = await sentinel.send("telegram")
    started = time.monotonic()
    async with sentinel.working(grace_seconds=0.2) as stopping:
        await sentinel.wait_for(job_id, lambda job: job.state is State.RUNNING)
        stopping.set()

    job = sentinel.record.find_job(job_id)
    assert job is not None
    assert (job.state, job.attempt, job.rescues) == (State.QUEUED, 0, 0)
    assert time.monotonic() - started < 3
    assert sentinel.record.workers() == []


async def test_what_runs_may_end_within_the_grace(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A stop waits for what is nearly done, and claims nothing more."""
    engine.seconds, engine.slots = 0.3, 1
    first = await sentinel.send("telegram", number=1)
    async with sentinel.working() as stopping:
        await sentinel.wait_for(first, lambda job: job.state is State.RUNNING)
        stopping.set()
        second = await sentinel.send("whatsapp", number=2)

    assert sentinel.record.find_job(first).state is State.SUCCEEDED  # type: ignore[union-attr]
    assert sentinel.record.find_job(second).state is State.QUEUED  # type: ignore[union-attr]


async def test_a_crash_in_one_job_is_tried_again(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """An unexpected error costs the job an attempt, not the worker its life."""
    engine.answers = [ZeroDivisionError("oops"), "recovered"]
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["recovered"]


async def test_enough_crashes_end_the_job(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """After the last attempt the job has failed, with the reason, and is kept."""
    engine.answers = [ZeroDivisionError("oops")] * retry.GENERATION_ATTEMPTS_MAX
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert (job.state, job.attempt) == (State.FAILED, retry.GENERATION_ATTEMPTS_MAX)
    assert "ZeroDivisionError in generate" in (job.last_error or "")


async def test_what_the_model_cannot_answer_fails_at_once(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A prompt that does not fit is not tried again."""
    engine.answers = [GenerationFailed("the prompt is too long")]
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert (job.state, job.attempt, job.last_error) == (State.FAILED, 1, "the prompt is too long")


async def test_a_generation_has_a_deadline(sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation that takes too long is stopped and, after its attempts, failed."""
    monkeypatch.setattr("worker.jobs.GENERATION_ATTEMPTS_MAX", 1)
    engine.seconds = 60
    job_id = await sentinel.send("telegram")
    async with sentinel.working(generation_seconds_max=0.05):
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.FAILED
    assert engine.running == 0


async def test_the_system_prompt_is_the_sources_own(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """The model is told the source's system prompt first, and else the general one."""
    source = sentinel.sources["telegram"]
    own = attrs.evolve(source, settings=dict(source.settings) | {"system_prompt": "You are a pirate."})
    sentinel.record.put_source(own, time.time())
    job_id = await sentinel.send("telegram", "ahoy")
    sentinel.record.accept([other := api_job("hi")], time.time())
    async with sentinel.working():
        await sentinel.wait_for(job_id, ended)
        await sentinel.wait_for(other.id, ended)

    firsts = {prompt.messages[1]["content"]: prompt.messages[0]["content"] for prompt in engine.prompts}
    assert firsts == {"ahoy": "You are a pirate.", "hi": sentinel.settings.system_prompt}


async def test_quick_messages_become_one_prompt(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Where the source says so, messages that follow each other within its window are answered once, together."""
    source = sentinel.sources["telegram"]
    merging = attrs.evolve(source, settings=dict(source.settings) | {"merge_window": "0.4"})
    sentinel.record.put_source(merging, time.time())
    first = channels()["telegram"].sample(merging, "and", 1, time.time())
    async with open_gateway(sentinel.settings) as gateway, sentinel.working():
        ids = []
        for number, text in enumerate(("one", "two", "three")):
            body = first.body.replace(b'"and"', f'"{text}"'.encode()).replace(b"900000001", str(900_000_001 + number).encode())
            response = await gateway.handle(attrs.evolve(first, body=body))
            ids.append(dict(response.headers)["sentinel-job-id"])
        jobs = [await sentinel.wait_for(job_id, ended) for job_id in ids]

    assert [message["content"] for message in engine.prompts[0].messages[1:]] == ["one", "two", "three"]
    assert len(engine.prompts) == len(sentinel.stand_in.deliveries) == 1
    assert [job.state for job in jobs] == [State.SUCCEEDED] * 3
    assert jobs[0].result["output_text"] == "fine"
    assert [job.result for job in jobs[1:]] == [{"merged_into": ids[0]}] * 2


async def test_jobs_wait_for_a_model(sentinel: Sentinel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its model a worker claims nothing and says why; it starts when the model is there."""
    monkeypatch.setattr(worker.main, "MODEL_RETRY_SECONDS", 0.05)
    models = [str(tmp_path / "missing.gguf"), str(tmp_path / "missing.gguf"), "fake:0"]
    monkeypatch.setattr(worker.main, "choose_model", lambda _settings: models.pop(0) if len(models) > 1 else models[0])
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        with trio.fail_after(5):
            while not any("does not exist" in worker.status for worker in sentinel.record.workers()):
                await trio.sleep(0.01)
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.SUCCEEDED


async def test_a_callback_is_signed_and_delivered(sentinel: Sentinel) -> None:
    """The result of an API job arrives at its callback URL, signed per Standard Webhooks with the tenant's secret."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    secret = sentinel.record.callback_secret("demo", standard_webhooks.new_secret())
    job = api_job(callback_url=sentinel.stand_in.base("caller"), metadata={"order": 7})
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        await wait_for_callback(sentinel, job.id, "delivered")

    (delivery,) = sentinel.stand_in.of("caller")
    assert standard_webhooks.verify([secret], delivery.headers, delivery.body, time.time()) == job.id
    assert job.id.encode() in delivery.body
    assert delivery.text == "echo: hello"


async def test_a_callback_inside_is_refused(sentinel: Sentinel) -> None:
    """A callback to an address that is not public is never connected to, and the job is completed all the same."""
    job = api_job(callback_url=sentinel.stand_in.base("caller"))
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        ended_job = await sentinel.wait_for(job.id, ended)
        await wait_for_callback(sentinel, job.id, "failed")

    assert ended_job.state is State.SUCCEEDED
    assert sentinel.stand_in.deliveries == []


@pytest.mark.parametrize(("status", "outcome"), [(500, "pending"), (302, "pending"), (410, "failed")])
async def test_a_callback_that_fails_does_not_undo_the_job(sentinel: Sentinel, status: int, outcome: str) -> None:
    """An error or a redirect is tried again later, 410 never, and the job stays completed."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    elsewhere = ("location", sentinel.stand_in.base("elsewhere"))
    sentinel.stand_in.misbehave = lambda delivery: json_response(status, {}, elsewhere) if delivery.label == "caller" else None
    job = api_job(callback_url=sentinel.stand_in.base("caller"))
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        assert (await sentinel.wait_for(job.id, ended)).state is State.SUCCEEDED
        state = await wait_for_callback(sentinel, job.id, outcome)

    assert str(status) in str(state)
    assert sentinel.stand_in.deliveries == []


async def wait_for_callback(sentinel: Sentinel, job_id: str, status: str) -> object:
    with trio.fail_after(5):
        while True:
            state = sentinel.record.find_callback(job_id)
            if state is not None and state.status == status and (state.attempts and (status != "pending" or state.last_error)):
                return state
            await trio.sleep(0.01)


async def test_a_worker_that_was_declared_dead_ends(sentinel: Sentinel) -> None:
    """A worker whose record entry was buried stops at once, loudly, instead of working on."""
    with pytest.raises(BaseExceptionGroup):
        async with sentinel.working():
            with trio.fail_after(5):
                while not sentinel.record.workers():
                    await trio.sleep(0.01)
            sentinel.record.bury(1, time.time())
            await trio.sleep(8)


async def test_what_was_sent_is_noted_when_the_record_can_be_written_again(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A record that is locked after the platform took a part makes the note late, not the part sent twice."""
    locker = sqlite3.connect(sentinel.settings.record.partition(":")[2], isolation_level=None)

    def lock(_delivery: Delivery) -> None:
        locker.execute("BEGIN IMMEDIATE")

    sentinel.stand_in.misbehave = lock
    job_id = await sentinel.send("telegram")
    async with sentinel.working():
        with trio.fail_after(5):
            while not sentinel.stand_in.deliveries:
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        sentinel.stand_in.misbehave = None
        locker.execute("ROLLBACK")
        job = await sentinel.wait_for(job_id, ended)
    locker.close()

    assert job.state is State.SUCCEEDED
    assert len(sentinel.stand_in.deliveries) == 1


async def test_a_dead_receiver_holds_up_its_own_tenant_only(sentinel: Sentinel) -> None:
    """While one tenant's receiver never answers many callbacks, another tenant's callback arrives at once."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=200)
    sentinel.record.add_tenant("unlucky", time.time())
    for tenant in ("unlucky", "demo"):
        sentinel.record.allow_network(tenant, "127.0.0.1/32")
    stuck = [api_job(callback_url=f"http://127.0.0.1:{silent.getsockname()[1]}/") for _ in range(60)]
    sentinel.record.accept([attrs.evolve(job, tenant="unlucky") for job in stuck], time.time())
    async with sentinel.working(model="fake:0", slots=64, send_seconds_max=5.0):
        for job in stuck:
            await sentinel.wait_for(job.id, ended)
        await trio.sleep(0.5)
        lucky = api_job(callback_url=sentinel.stand_in.base("caller"))
        sentinel.record.accept([lucky], time.time())
        with trio.fail_after(2):
            await wait_for_callback(sentinel, lucky.id, "delivered")
    silent.close()


async def test_a_source_that_the_worker_has_not_heard_of_is_looked_up(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of a source that was added a moment ago is delivered: the gateway may hear of it before the worker does."""
    monkeypatch.setattr("sentinel.directory.FOLLOW_SECONDS", 60)
    async with sentinel.working():
        await trio.sleep(0.1)
        source = demo_source(channels()["telegram"], sentinel.stand_in, "new")
        sentinel.record.put_source(source, time.time())
        sentinel.sources["telegram"] = source
        job = await sentinel.wait_for(await sentinel.send("telegram", "fresh"), ended)

    assert job.state is State.SUCCEEDED
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["echo: fresh"]


async def test_a_removed_source_is_no_success(sentinel: Sentinel) -> None:
    """A job whose source was removed before it ran has failed, and says so; nothing is called done that was not delivered."""
    job_id = await sentinel.send("telegram")
    sentinel.record.remove_source(sentinel.sources["telegram"])
    async with sentinel.working():
        job = await sentinel.wait_for(job_id, ended)

    assert job.state is State.FAILED
    assert "source was removed" in (job.last_error or "")


async def test_a_network_that_the_worker_has_not_heard_of_is_looked_up(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback into a network that was allowed a moment ago is delivered, not refused for good."""
    monkeypatch.setattr("sentinel.directory.FOLLOW_SECONDS", 60)
    async with sentinel.working():
        await trio.sleep(0.1)
        sentinel.record.allow_network("demo", "127.0.0.1/32")
        job = api_job(callback_url=sentinel.stand_in.base("caller"))
        sentinel.record.accept([job], time.time())
        await wait_for_callback(sentinel, job.id, "delivered")
