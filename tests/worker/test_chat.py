"""What a chat sees beside its answers: that one is being made, and that there will be none."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
import trio

from sentinel import payload
from sentinel.channels import channels
from sentinel.demo import demo_source
from sentinel.errors import GenerationFailed
from sentinel.http import Response, json_response
from sentinel.model import Chat, State
from sentinel.stand_in import Delivery
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine, api_job
from tests.worker.test_memory import CHAT, change, message, talk

# Where the channels with an indicator want it to be shown.
REPLY_TO: dict[str, dict[str, Any]] = {
    "telegram": {"chat_id": 7, "message_id": 3},
    "whatsapp": {"to": "15550100001", "phone_number_id": "1", "message_id": "wamid.A"},
    "slack": {"channel": "D1", "thread_ts": "1.2"},
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indicators come at once and often."""
    monkeypatch.setattr("worker.typing.BEGIN_SECONDS", 0.0)
    for channel in channels().values():
        monkeypatch.setattr(type(channel), "typing_seconds", 0.02)


@pytest.mark.parametrize("channel", sorted(REPLY_TO))
async def test_it_types_until_the_answer_is_there(sentinel: Sentinel, engine: ScriptedEngine, soon: None, channel: str) -> None:
    """While the model works the chat is told so again and again, and not once more when the answer is there."""
    engine.seconds = 0.2
    (job,) = await talk(sentinel, message("hello", channel=channel, reply_to=REPLY_TO[channel]))
    assert job.state is State.SUCCEEDED
    shown = sentinel.stand_in.indicators
    assert len(shown) >= 2
    assert {delivery.label for delivery in shown} == {channel}
    assert [delivery.text for delivery in sentinel.stand_in.deliveries] == ["fine"]


@pytest.mark.parametrize("status", [400, 403, 429, 500])
async def test_a_refused_indicator_is_let_be(sentinel: Sentinel, engine: ScriptedEngine, soon: None, status: int) -> None:
    """A platform that does not take the indicator is not asked again, and the answer comes all the same."""
    engine.seconds = 0.15
    asked: list[Delivery] = []

    def refuse(delivery: Delivery) -> Response | None:
        if not delivery.is_indicator:
            return None
        asked.append(delivery)
        return json_response(status, {"ok": False})

    sentinel.stand_in.misbehave = refuse
    (job,) = await talk(sentinel, message("hello"))
    assert job.state is State.SUCCEEDED
    assert len(asked) == 1


async def test_a_platform_that_hangs_delays_nothing(
    sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An indicator that nobody answers keeps no job: it is given up with the answer's coming."""
    monkeypatch.setattr("worker.typing.BEGIN_SECONDS", 0.0)
    engine.seconds = 0.1

    async def hang(*_: object, **__: object) -> bool:
        await trio.sleep_forever()
        return False

    monkeypatch.setattr("worker.typing.Typing._send", hang)
    began = time.monotonic()
    (job,) = await talk(sentinel, message("hello"))
    assert job.state is State.SUCCEEDED
    assert time.monotonic() - began < 3


async def test_a_source_may_be_without(sentinel: Sentinel, engine: ScriptedEngine, soon: None) -> None:
    """With typing off nothing is shown; a job of the API has nowhere to show it."""
    engine.seconds = 0.1
    change(sentinel, typing="off")
    await talk(sentinel, message("hello"), api_job("hello"))
    assert sentinel.stand_in.indicators == []


@pytest.mark.parametrize("name", sorted(channels()))
def test_indicators_carry_no_text(name: str) -> None:
    """An indicator goes to the source's own API with its credentials, or there is none; without them there is none either."""
    channel = channels()[name]
    source = demo_source(channel, STAND_IN)
    outgoing = channel.typing(source, REPLY_TO.get(name, {}), 0.0)
    assert (outgoing is not None) == (name in REPLY_TO)
    if outgoing is not None:
        assert outgoing.url.startswith(STAND_IN.base(name))
        assert not outgoing.guarded
    for nowhere in ({}, {"chat_id": "x", "channel": 1, "message_id": None}):
        assert channel.typing(source, nowhere, 0.0) is None


class _Somewhere:
    def base(self, label: str) -> str:
        return f"http://127.0.0.1:9/{label}"


STAND_IN: Any = _Somewhere()


async def test_an_apology_after_the_last_attempt(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A job that fails for good says so in its chat by way of the outbox, stays failed with its reason, and is no turn."""
    engine.answers = [GenerationFailed("the prompt is too long")]
    job = message("hello")
    (found,) = await talk(sentinel, job)
    assert (found.state, found.last_error) == (State.FAILED, "the prompt is too long")
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == [sentinel.settings.apology]
    assert sentinel.record.memories([CHAT])[0].turns == ()


async def test_an_apology_that_breaks(sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in an apology is that job's, which stays failed with its own reason; the worker goes on with the next."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    engine.answers = [GenerationFailed("the prompt is too long"), "fine"]
    with monkeypatch.context() as patched:
        patched.setattr("worker.jobs.apology_text", broken)
        (failed, answered) = await talk(sentinel, message("1"), message("2"))
    assert (failed.state, failed.last_error) == (State.FAILED, "the prompt is too long")
    assert answered.state is State.SUCCEEDED
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["fine"]


async def test_none_while_there_is_hope(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """An attempt that is followed by another apologises for nothing."""
    engine.answers = [ZeroDivisionError("oops"), "recovered"]
    await talk(sentinel, message("hello"))
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["recovered"]


@pytest.mark.parametrize(("own", "said"), [("Pardon.", ["Pardon."]), ("off", [])])
async def test_in_the_sources_own_words(sentinel: Sentinel, engine: ScriptedEngine, own: str, said: list[str]) -> None:
    """A source has its own apology, or none."""
    change(sentinel, apology=own)
    engine.answers = [GenerationFailed("no")]
    (found,) = await talk(sentinel, message("hello"))
    assert found.state is State.FAILED
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == said


async def test_an_apology_that_is_postponed(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """An apology that the platform takes later ends the job as failed too, with the model's reason, and is said once."""
    engine.answers = [GenerationFailed("no")]
    answers = [json_response(503, {}), json_response(503, {})]
    sentinel.stand_in.misbehave = lambda _delivery: answers.pop() if answers else None
    (found,) = await talk(sentinel, message("hello"))
    assert (found.state, found.last_error) == (State.FAILED, "no")
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == [sentinel.settings.apology]
    assert len(engine.prompts) == 1


async def test_a_retry_by_hand_answers(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """After an apology a retry by hand asks the model again and sends its answer, not the apology."""
    engine.answers = [GenerationFailed("no"), "yes"]
    job = message("hello")
    await talk(sentinel, job)
    assert sentinel.record.retry(job.id, time.time())
    async with sentinel.working():
        found = await sentinel.wait_for(job.id, ended)
    assert found.state is State.SUCCEEDED
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == [sentinel.settings.apology, "yes"]


async def test_the_api_gets_its_error(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A job without a chat fails without an apology, and without a result."""
    engine.answers = [GenerationFailed("no")]
    (found,) = await talk(sentinel, api_job("hello"))
    assert (found.state, found.last_error, found.result) == (State.FAILED, "no", None)


HOSTILE = (
    '{"method": "sendMessage", "chat_id": 1, "text": "pwned"}',
    "<!channel> <!here> <!everyone> <@U061F7AUR> <https://evil.example|click> @everyone",
    "*_`[x](https://evil.example)~||<b>&amp;</b>\\\r\n\u202eabc",
    '"}, "chat_id": 99, "x": {"',
    "</CommentBody>]]>&evil;",
)


@pytest.mark.parametrize("name", sorted(channels()))
@pytest.mark.parametrize("text", HOSTILE)
def test_model_text_is_data(name: str, text: str) -> None:
    """Whatever the model says arrives as text in one field: nothing in it is parsed, run or pinged."""
    channel = channels()[name]
    source = demo_source(channel, STAND_IN)
    reply_to = {"telegram": {"chat_id": 7}, "salesforce": {"record_id": "500000000000001AAA"}}.get(name, REPLY_TO.get(name, {}))
    requests = [channel.send(source, reply_to, part, "job", 0.0) for part in channel.split(text)]
    plain = [channel.send(source, reply_to, part, "job", 0.0) for part in channel.split("plain")]
    for sent, other in zip(requests, plain, strict=False):
        if sent is None or other is None:
            assert sent is other is None
            continue
        body, harmless = payload.decode_json(sent.body), payload.decode_json(other.body)
        assert sent.url == other.url
        assert shape(body) == shape(harmless)
        assert "parse_mode" not in body
        if name == "slack":
            assert not {"<", ">"} & set(body["text"])
            assert body.get("link_names") is None


def shape(value: Any) -> Any:
    """The value with every text in it the same: what is left is its structure."""
    if isinstance(value, dict):
        return {key: shape(content) for key, content in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else "" if isinstance(value, str) else value


async def test_the_text_so_far_can_be_watched(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a job that asked for it runs, the beginning of its answer is in the record; of other jobs nothing is."""
    monkeypatch.setattr("worker.presence.PROGRESS_SECONDS", 0.02)
    monkeypatch.setattr("worker.presence.LOOK_SECONDS", 0.01)
    watched, other = api_job("one two three four five", stream=True), api_job("one two three four five")
    sentinel.record.accept([watched, other], time.time())
    seen: set[str] = set()
    async with sentinel.working(model="fake:400"):
        with trio.fail_after(10):
            while not (job := sentinel.record.find_job(watched.id)) or not job.state.ended:
                seen |= {glimpse.text for glimpse in sentinel.record.glimpses([watched.id])}
                await trio.sleep(0.02)
        await sentinel.wait_for(other.id, ended)
    assert len(seen) > 2
    assert all("echo: one two three four five".startswith(text) for text in seen)
    assert [glimpse.text for glimpse in sentinel.record.glimpses([other.id])] == [""]


@pytest.mark.slow
async def test_fifty_chats_over_three_workers(sentinel: Sentinel) -> None:
    """Twenty quick messages in each of fifty chats: answered in order, one at a time in a chat, and remembered in order."""
    jobs = [message(f"{chat}-{number}", conversation=str(chat)) for number in range(20) for chat in range(50)]
    sentinel.record.accept(jobs, time.time())
    async with AsyncExitStack() as workers_of:
        for _ in range(3):
            await workers_of.enter_async_context(sentinel.working(model="fake:2", slots=8))
        for job in jobs:
            await sentinel.wait_for(job.id, ended, 120)
    answers = [delivery.text.removeprefix("echo: ") for delivery in sentinel.stand_in.of("telegram")]
    assert len(answers) == len(jobs)
    workers = set()
    for chat in range(50):
        texts = [f"{chat}-{number}" for number in range(20)]
        assert [text for text in answers if text.startswith(f"{chat}-")] == texts
        turns = sentinel.record.memories([Chat("demo", "telegram", "demo", str(chat))])[0].turns
        assert [turn.said[0]["content"] for turn in turns] == texts
        ours = [sentinel.record.find_job(job.id) for job in jobs if job.conversation == str(chat)]
        spans = [(job.started_at, job.finished_at) for job in ours if job]
        # A time is taken before its transaction, which may then wait for the store; the unique index allows one at a time.
        assert all(one[1] <= other[0] + 1 for one, other in pairwise(spans))
        workers |= {step.detail for job in ours if job for step in sentinel.record.story(job.id) if step.step == "claimed"}
    assert len(workers) == 3
