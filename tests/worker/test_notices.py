"""What somebody is told who was refused: by the channel, once an hour, as durable as a reply, and without the model."""

from __future__ import annotations

import time

import attrs
import pytest

from sentinel.edge.notices import TEXTS, notice_job
from sentinel.model import Event, NewJob, State
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine

NOW = 472_222 * 3_600 - 60.0  # a minute before the hour, lately


def notice(sentinel: Sentinel, now: float, chat: str = "7") -> NewJob:
    """The notice of a chat at that time."""
    event = Event("update", "hello", chat, "ada", {"chat_id": 7})
    made = notice_job(event, sentinel.sources["telegram"], "quota", "secret token", now)
    assert made is not None
    return made


async def test_it_is_delivered_as_it_is(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """The text arrives in the chat, the job succeeds, and the model was not asked."""
    job = notice(sentinel, time.time())
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        done = await sentinel.wait_for(job.id, ended)
    assert (done.state, engine.prompts) == (State.SUCCEEDED, [])
    assert [each.text for each in sentinel.stand_in.deliveries] == [TEXTS["quota"]]


@pytest.mark.parametrize(("later", "sent"), [(120, 1), (3_540, 1), (3_660, 2)])
async def test_once_an_hour_across_the_turn(sentinel: Sentinel, engine: ScriptedEngine, later: float, sent: int) -> None:
    """Two hours of the clock are not two notices within the hour."""
    first, second = notice(sentinel, NOW), notice(sentinel, NOW + later)
    assert first.id != second.id
    assert attrs.evolve(notice(sentinel, NOW - 60), received_at=NOW).id == first.id
    sentinel.record.accept([first, second], time.time())
    async with sentinel.working():
        for job in (first, second):
            await sentinel.wait_for(job.id, ended)
    assert len(sentinel.stand_in.deliveries) == sent
