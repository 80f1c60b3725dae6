"""Chats that wait for long are told how long: once, in time, and at nobody's cost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from sentinel.channels import channels
from sentinel.demo import demo_source
from sentinel.http import json_response
from sentinel.model import NewJob, State
from sentinel.records.waiting import WaitingChat
from sentinel.stand_in import Delivery, StandIn
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine, api_job
from tests.worker.test_memory import change, message
from worker.waiting_line import Outlook, Pace, is_to_be_told, outlook, rounded, time_words, words

ADDRESSES = {
    "telegram": {"chat_id": 7},
    "whatsapp": {"to": "15550100001", "phone_number_id": "1"},
    "slack": {"channel": "D1"},
    "salesforce": {"parent_id": "500000000000001AAA"},
    "generic": {},
}
NOTICE = "You are number"


def waiting(**changes: object) -> WaitingChat:
    plain = WaitingChat("job", "demo", "telegram", "demo", {}, 0.0, turn=1, first_turn=1, jobs=1, running=False)
    return attrs.evolve(plain, **changes)


@pytest.mark.parametrize(
    ("chat", "lengths", "slots", "merges", "expected"),
    [
        (waiting(turn=1), [1], 1, False, (1, 20.0)),
        (waiting(turn=14), [14], 4, False, (14, 45.0)),
        (waiting(turn=14), [14, 5_000], 4, False, (28, 80.0)),  # another tenant's flood: its jobs take turns with ours
        (waiting(turn=14), [14, 3, 1], 4, False, (18, 55.0)),
        (waiting(turn=3), [], 1, False, (3, 40.0)),  # it came after the line was counted
        (waiting(turn=5, jobs=5), [5], 8, False, (5, 50.0)),  # one after the other, whatever the slots
        (waiting(turn=5, jobs=5, running=True), [5], 8, False, (5, 60.0)),
        (waiting(turn=5, first_turn=1, jobs=5, running=True), [5], 8, True, (1, 20.0)),
    ],
)
def test_the_outlook(chat: WaitingChat, lengths: list[int], slots: int, merges: bool, expected: tuple[int, float]) -> None:
    """With answers of 10 s: the number counts tenants in turns, the time knows slots, and that a chat is answered in order."""
    assert outlook(chat, lengths, slots, 10.0, merges=merges) == Outlook(*expected)


@pytest.mark.parametrize(
    ("waited", "left", "told"), [(0, 29, False), (0, 31, True), (20, 11, True), (500, 9, False), (0, 0, False), (500, 10, True)]
)
def test_who_is_told(waited: float, left: float, told: bool) -> None:
    """Whoever waits longer than 30 s in all, unless the answer is nearly there."""
    assert is_to_be_told(Outlook(1, left), waited, 30.0) is told


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1, "10 s"),
        (40, "40 s"),
        (41, "50 s"),
        (51, "1 min"),
        (61, "2 min"),
        (600, "10 min"),
        (601, "15 min"),
        (3_400, "1 h"),
        (9_000, "3 h"),
    ],
)
def test_times(seconds: float, said: str) -> None:
    """A time is rounded up, the more coarsely the longer it is."""
    assert time_words(seconds) == said


def test_words() -> None:
    """The number and the time stand where the template wants them; other braces are left alone."""
    assert words("{number}: {time} {x} {0}", Outlook(14, 40.0)) == "14: 40 s {x} {0}"
    assert [rounded(number) for number in (1, 99, 100, 137, 19_999)] == [1, 99, 100, 140, 20_000]


def test_the_pace_is_that_of_the_last_answers() -> None:
    """An answer takes what the last ones took; before there was one, nobody knows."""
    pace = Pace()
    assert pace.answer_seconds is None
    for seconds in [100.0] * 10 + [2.0] * 32:
        pace.note(seconds)
    assert pace.answer_seconds == 2.0


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come quickly, a third of a second is a long wait, and an answer waits no longer than a second for a notice."""
    monkeypatch.setattr("worker.waiting.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("worker.waiting.REST_FACTOR", 0)
    monkeypatch.setattr("worker.waiting.NOTICE_SECONDS", 1.0)
    monkeypatch.setattr("worker.delivery.NOTICE_SECONDS", 1.0)
    for place in ("worker.waiting.LEFT_SECONDS_MIN", "worker.waiting_line.LEFT_SECONDS_MIN"):
        monkeypatch.setattr(place, 0.1)


@asynccontextmanager
async def busy(sentinel: Sentinel, engine: ScriptedEngine, **changes: object) -> AsyncIterator[None]:
    """A worker that knows its pace (0.2 s), and whose slot is then taken by a job of the API until `engine.gate` is opened."""
    engine.slots, engine.seconds = 1, 0.2
    first, blocking = api_job("first"), api_job("blocking")
    sentinel.record.accept([first], time.time())
    async with sentinel.working(**{"waiting_notice": 0.3} | changes):
        await sentinel.wait_for(first.id, ended)
        engine.seconds, engine.gate = 0.0, trio.Event()
        sentinel.record.accept([blocking], time.time())
        await sentinel.wait_for(blocking.id, lambda job: job.state is State.RUNNING)
        yield
        engine.gate.set()


def texts(stand_in: StandIn) -> list[str]:
    return [delivery.text for delivery in stand_in.deliveries]


async def go_on(sentinel: Sentinel, engine: ScriptedEngine, *jobs: NewJob, after_told: bool = True) -> None:
    """Open the gate once the chats of the jobs were told; or else after some looks."""
    assert engine.gate is not None
    for job in jobs:
        if after_told:
            await sentinel.wait_for(job.id, lambda found: found.told_at is not None)
    await trio.sleep(0 if after_told else 0.3)
    engine.gate.set()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("channel", sorted(ADDRESSES))
async def test_it_is_told_while_every_slot_is_busy(sentinel: Sentinel, engine: ScriptedEngine, channel: str) -> None:
    """Where people watch, the chat is told its number once, before its answer; elsewhere only the answer comes."""
    job = message("hello", channel=channel, reply_to=ADDRESSES[channel])
    ahead = [api_job(), api_job()]
    watched = channels()[channel].is_watched
    async with busy(sentinel, engine):
        sentinel.record.accept([*ahead, job], time.time())
        await go_on(sentinel, engine, job, after_told=watched)
        done = await sentinel.wait_for(job.id, ended)
    said = [text for text in texts(sentinel.stand_in) if text]
    assert watched is (channel in ("telegram", "whatsapp", "slack"))
    assert said == (["You are number 3 in the queue. The answer will take about 10 s.", "fine"] if watched else ["fine"])
    assert done.state is State.SUCCEEDED
    assert [step.step for step in sentinel.record.story(job.id)].count("told_to_wait") == watched


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("how", ["off", "source", "long", "own words"])
async def test_a_source_decides(sentinel: Sentinel, engine: ScriptedEngine, how: str) -> None:
    """Off in general or for the source, or below the threshold, nothing is said; the words are the source's own."""
    changes: dict[str, object] = {}
    if how == "off":
        changes = {"waiting_notice": float("inf")}
    else:
        change(
            sentinel,
            **{"source": {"waiting_notice": "OFF"}, "long": {"waiting_notice": "60"}}.get(how, {"waiting_text": "#{number}"}),
        )
    job = message("hello")
    async with busy(sentinel, engine, **changes):
        sentinel.record.accept([job], time.time())
        await go_on(sentinel, engine, job, after_told=how == "own words")
        await sentinel.wait_for(job.id, ended)
    assert texts(sentinel.stand_in) == (["#1", "fine"] if how == "own words" else ["fine"])


@pytest.mark.usefixtures("hurried")
async def test_a_chat_is_told_once(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Of many messages of a chat one is told of, by two workers too; another chat is told for itself."""
    jobs = [message(str(number)) for number in range(4)]
    other = message("other", conversation="8")
    async with busy(sentinel, engine), sentinel.working(waiting_notice=0.3):
        sentinel.record.accept([api_job(), *jobs, other], time.time())
        await go_on(sentinel, engine, jobs[-1], other)
        for job in (*jobs, other):
            await sentinel.wait_for(job.id, ended, 20)
    assert len([text for text in texts(sentinel.stand_in) if text.startswith(NOTICE)]) == 2


@pytest.mark.usefixtures("hurried")
async def test_a_slow_notice_never_comes_behind_the_answer(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """The answer waits as long as the notice may be under way."""
    order: list[tuple[str, float]] = []

    def note(delivery: Delivery) -> None:
        order.append((delivery.text[:14], time.time()))

    sentinel.stand_in.misbehave = note
    job = message("hello")
    async with busy(sentinel, engine):
        sentinel.record.accept([job], time.time())
        await go_on(sentinel, engine, job)
        done = await sentinel.wait_for(job.id, ended)
    assert [text for text, _ in order] == [NOTICE, "fine"]
    assert done.told_at is not None
    assert order[1][1] >= done.told_at + 1.0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_notice_that_is_refused_is_let_be(sentinel: Sentinel, engine: ScriptedEngine, status: int) -> None:
    """A platform that does not take a notice is not asked again, and the answer comes all the same."""
    asked: list[str] = []

    def refuse(delivery: Delivery) -> object:
        asked.extend([] if delivery.is_indicator else [delivery.text])
        return json_response(status, {"ok": False}) if delivery.text.startswith(NOTICE) else None

    sentinel.stand_in.misbehave = refuse  # type: ignore[assignment]
    job = message("hello")
    async with busy(sentinel, engine):
        sentinel.record.accept([job], time.time())
        await go_on(sentinel, engine, job)
        done = await sentinel.wait_for(job.id, ended)
    assert done.state is State.SUCCEEDED
    assert [text[:14] for text in asked] == [NOTICE, "fine"]


@pytest.mark.usefixtures("hurried")
async def test_a_platform_that_hangs_delays_neither_claims_nor_other_chats(
    sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one tenant's notices hang, the work goes on and another's chat is told."""
    whatsapp = demo_source(channels()["whatsapp"], sentinel.stand_in)
    sentinel.record.add_tenant("other", time.time())
    sentinel.record.put_source(attrs.evolve(whatsapp, name="other", tenant="other"), time.time())
    send = sentinel.stand_in.__class__.__call__

    async def hang(self: StandIn, scope: dict[str, object], receive: object, answer: object) -> None:
        if "sendMessage" in str(scope.get("path")):
            await trio.sleep(2)
        await send(self, scope, receive, answer)  # type: ignore[arg-type]

    monkeypatch.setattr(StandIn, "__call__", hang)
    hanging = [message("hello", conversation=str(number)) for number in range(4)]
    fine = message("hello", channel="whatsapp", source="other", tenant="other", reply_to=ADDRESSES["whatsapp"])
    last = api_job("last")
    async with busy(sentinel, engine):
        sentinel.record.accept([*hanging, fine, last], time.time())
        await go_on(sentinel, engine, fine)
        await sentinel.wait_for(last.id, ended)
        await sentinel.wait_for(fine.id, ended)
    assert [delivery.text[:14] for delivery in sentinel.stand_in.of("whatsapp")] == [NOTICE, "fine"]


@pytest.mark.usefixtures("hurried")
async def test_a_fault_in_a_notice_is_that_notices(
    sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault costs its notice, and nobody an answer."""

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.waiting.words", broken)
    job = message("hello")
    async with busy(sentinel, engine):
        sentinel.record.accept([job], time.time())
        await go_on(sentinel, engine, job, after_told=False)
        assert (await sentinel.wait_for(job.id, ended)).state is State.SUCCEEDED
    assert texts(sentinel.stand_in) == ["fine"]
