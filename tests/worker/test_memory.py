"""What the model is shown of a chat's past, through the true worker with a scripted engine."""

from __future__ import annotations

import time

import attrs
import pytest
import trio

from sentinel.errors import GenerationFailed
from sentinel.model import Chat, Job, NewJob, State, random_id
from sentinel.records import Store
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine
from worker.commits import open_commits
from worker.memory import fitting
from worker.prompts import asks_to_forget

CHAT = Chat("demo", "telegram", "demo", "7")


def message(text: str, conversation: str = "7", sender: str = "ada", **changes: object) -> NewJob:
    """A chat's message as the gateway would have accepted it."""
    plain = NewJob(
        id=random_id(),
        tenant="demo",
        channel="telegram",
        source="demo",
        external_id=random_id(),
        input=({"role": "user", "content": text},),
        received_at=time.time(),
        conversation=conversation,
        sender=sender,
        reply_to={"chat_id": int(conversation)},
    )
    return attrs.evolve(plain, **changes)


async def talk(sentinel: Sentinel, *jobs: NewJob, **changes: object) -> list[Job]:
    """The jobs after a worker has run them."""
    sentinel.record.accept(jobs, time.time())
    async with sentinel.working(**changes):
        return [await sentinel.wait_for(job.id, ended) for job in jobs]


def shown(engine: ScriptedEngine, place: int = -1) -> list[str]:
    """What a prompt held behind its system prompt."""
    return [str(message["content"]) for message in engine.prompts[place].messages[1:]]


def change(sentinel: Sentinel, **settings: str) -> None:
    """Set something in the Telegram source."""
    source = sentinel.sources["telegram"]
    sentinel.sources["telegram"] = attrs.evolve(source, settings={**source.settings, **settings})
    assert sentinel.record.put_source(sentinel.sources["telegram"], time.time())


async def test_chats_that_begin_together_are_asked_for_together(sentinel: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hundred chats remember is a question or few to the record, not a hundred: a server may be far away."""
    record, asked = sentinel.record, list[int]()
    read = type(record).memories
    monkeypatch.setattr(type(record), "memories", lambda self, chats: asked.append(len(chats)) or read(self, chats))
    async with open_commits(Store(record)) as commits, trio.open_nursery() as nursery:
        for chat in range(100):
            nursery.start_soon(commits.memories.submit, attrs.evolve(CHAT, conversation=str(chat)))
    assert sum(asked) == 100
    assert len(asked) <= 5


async def test_the_model_sees_what_was_said_before(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A message comes behind the turns of its chat, in order, and is itself the next turn."""
    engine.answers = ["Hi Ada", "Ada", "bye"]
    await talk(sentinel, message("I am Ada"), message("Who am I?"), message("bye"))
    assert shown(engine, 0) == ["I am Ada"]
    assert shown(engine, 2) == ["I am Ada", "Hi Ada", "Who am I?", "Ada", "bye"]
    roles = [message["role"] for message in engine.prompts[2].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


async def test_no_other_chat_is_seen(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Turns of another conversation, source, channel or tenant never reach the prompt."""
    other_source = attrs.evolve(sentinel.sources["telegram"], name="second")
    sentinel.record.put_source(other_source, time.time())
    sentinel.record.add_tenant("other", time.time())
    others = [
        message("secret", conversation="8"),
        message("secret", source="second"),
        message("secret", channel="slack", reply_to={"channel": "C1"}),
        message("secret", tenant="other"),
    ]
    await talk(sentinel, *others)
    await talk(sentinel, message("what do you know?"))
    assert shown(engine) == ["what do you know?"]


@pytest.mark.parametrize("memory", ["off", "on"])
async def test_a_source_may_turn_it_off(sentinel: Sentinel, engine: ScriptedEngine, memory: str) -> None:
    """With memory off nothing is remembered and nothing is shown; on is the default."""
    change(sentinel, memory=memory)
    await talk(sentinel, message("one"), message("two"))
    assert shown(engine) == (["two"] if memory == "off" else ["one", "fine", "two"])
    assert len(sentinel.record.memories([CHAT])[0].turns) == (0 if memory == "off" else 2)


async def test_an_api_job_asks_for_it(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A job of the API is remembered, and sees what was said, only if its body says so."""
    plain = {"channel": "api", "source": "api", "reply_to": {}}
    await talk(sentinel, message("one", **plain, options={"memory": True}), message("two", **plain))
    assert shown(engine) == ["two"]
    await talk(sentinel, message("three", **plain, options={"memory": True}))
    assert shown(engine) == ["one", "fine", "three"]


async def test_a_failure_is_no_turn(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """What the model could not answer is not remembered, and the retry of a crash is remembered once."""
    engine.answers = [GenerationFailed("no"), ZeroDivisionError("oops"), "yes"]
    failed, fine = await talk(sentinel, message("one"), message("two"))
    assert (failed.state, fine.state, fine.attempt) == (State.FAILED, State.SUCCEEDED, 2)
    assert [turn.job_id for turn in sentinel.record.memories([CHAT])[0].turns] == [fine.id]


async def test_the_summary_is_rolled_on(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A summary is made from the one before and the turns that no longer fit; turns within half of the budget stay."""
    await talk(sentinel, *[message(f"word{number} " * 9) for number in range(4)])
    engine.prompts.clear()
    engine.answers = ["FIRST", "four"]
    await talk(sentinel, message("next"), memory_tokens_max=30)
    assert "word0" in str(engine.prompts[0].messages)
    assert "word3" not in str(engine.prompts[0].messages)
    assert str(engine.prompts[1].messages[0]["content"]).endswith("Earlier in this conversation: FIRST")
    assert shown(engine, 1) == ["word3 " * 9, "fine", "next"]
    assert sentinel.record.memories([CHAT])[0].summary == "FIRST"

    engine.prompts.clear()
    engine.answers = ["SECOND", "five"]
    await talk(sentinel, message("word5 " * 20), memory_tokens_max=10)
    assert "Before: FIRST" in str(engine.prompts[0].messages)
    assert "word3" in str(engine.prompts[0].messages)
    assert sentinel.record.memories([CHAT])[0].summary == "SECOND"


async def test_a_summary_that_fails_costs_no_answer(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """If the model cannot summarise, the old turns go and the message is answered all the same."""
    await talk(sentinel, *[message(f"word{number} " * 9) for number in range(4)])
    engine.answers = [GenerationFailed("no"), "answer"]
    (job,) = await talk(sentinel, message("next"), memory_tokens_max=20)
    assert job.state is State.SUCCEEDED
    assert job.result is not None
    assert job.result["output_text"] == "answer"


async def test_a_large_message_leaves_less_room(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Turns give way to a message that needs the context, for this once, and are not summarised for it."""
    engine.context_tokens = 200
    await talk(sentinel, *[message(f"word{number} " * 9) for number in range(3)], tokens_max=20)
    await talk(sentinel, message("big " * 150), tokens_max=20)
    assert shown(engine) == ["word2 " * 9, "fine", "big " * 150]
    assert len(sentinel.record.memories([CHAT])[0].turns) == 4


async def test_forget(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """`/forget` is answered in the chat, in its turn and without the model, and nothing said before is seen again."""
    jobs = await talk(sentinel, message("I am Ada"), message("/forget"), message("Who am I?"))
    assert [job.state for job in jobs] == [State.SUCCEEDED] * 3
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == [
        "fine",
        sentinel.settings.forgotten_text,
        "fine",
    ]
    assert len(engine.prompts) == 2
    assert shown(engine) == ["Who am I?"]


@pytest.mark.parametrize(
    ("text", "is_command"),
    [
        ("/forget", True),
        (" /Forget\n", True),
        ("/forget@SentinelBot", True),
        ("<@U0LAN0Z89> !forget", True),
        ("/forgetful", False),
        ("please /forget", False),
        ("", False),
    ],
)
def test_what_is_a_command(text: str, is_command: bool) -> None:
    """Only the command by itself is one, also with a bot's name or a mention."""
    assert asks_to_forget(as_job(message(text))) is is_command


def as_job(new: NewJob) -> Job:
    given = {field.name: getattr(new, field.name, None) for field in attrs.fields(Job)}
    return Job(**given)


async def test_a_held_chat_is_left_to_a_person(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """While a person answers, messages are kept and remembered but not answered; after the release the model knows them."""
    sentinel.record.hold(CHAT, time.time())
    (held,) = await talk(sentinel, message("are you there?"))
    assert (held.state, engine.prompts, sentinel.stand_in.deliveries) == (State.SUCCEEDED, [], [])
    assert held.result is not None
    assert held.result["finish_reason"] == "held"
    sentinel.record.release("demo", "7")
    await talk(sentinel, message("and now?"))
    assert shown(engine) == ["are you there?", "and now?"]


def test_fitting() -> None:
    """The last costs that fit are counted, none that is beyond one that does not fit."""
    assert fitting([1, 50, 2, 3], 6) == 2
    assert fitting([1, 2, 3], 6) == 3
    assert fitting([7], 6) == fitting([], 6) == fitting([1], -5) == 0
