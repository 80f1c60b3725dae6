"""A worker dies between any two steps of an agent, on every store: the job goes on behind the last one, and doubles nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import pytest
import trio

from sentinel.directory import DirectoryFollower
from sentinel.model import Chat, Claim, State
from sentinel.records import Ending, Reply, Store
from sentinel.records.memory import Memory
from sentinel.settings import Settings
from tests.records.conftest import NOW, Bench, new_job
from worker import agent
from worker.agent import Agent
from worker.engine import Generation, Message, Progress, Prompt, checked, read_prompt
from worker.tools import Repeat, Surroundings, Tool, takes


class Crash(BaseException):
    """The worker is gone, as with kill -9: nothing of ours runs any more."""


@attrs.define(eq=False)
class Fate:
    """Dies at one of the boundaries, which it counts."""

    at: int = -1
    passed: int = 0

    def boundary(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.at:
            raise Crash


@attrs.frozen(eq=False)
class MortalStore:
    """A store that may die before and after each call."""

    inner: Store
    fate: Fate

    @property
    def record(self) -> Any:
        return self.inner.record

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        self.fate.boundary()
        result = await self.inner.call(method, *args)
        self.fate.boundary()
        return result

    async def recall(self, chat: Chat) -> Memory:
        """What is known of the chat."""
        (known,) = await self.call(self.record.memories, [chat])
        return known  # type: ignore[no-any-return]


@attrs.frozen(eq=False)
class Planner:
    """An engine that wants the tools in a row, then answers; it decides by what it is shown, as a model does."""

    fate: Fate
    wanted: Sequence[str]
    slots: int = 1
    description: str = "planner"
    model: str = "planner"
    context_tokens: int = 4000

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        self.fate.boundary()
        results = sum(str(message["content"]).startswith("Result of") for message in prompt.messages)
        name = self.wanted[results] if results < len(self.wanted) else "none"
        if prompt.json_schema is None:
            text = f"answer after {results}"
        elif "tool" in prompt.json_schema["properties"]:
            text = json.dumps({"tool": name})
        else:
            text = json.dumps({"number": results})
        self.fate.boundary()
        return checked(Generation(text, 1, 1, "stop"), read_prompt(prompt))

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(messages)


@attrs.frozen(eq=False)
class Counted(Tool):
    """Notes every time that it does something, with the key it was given."""

    name: str
    repeat: Repeat
    fate: Fate
    done: list[tuple[str, str]]
    description = "does something"
    parameters: ClassVar[Mapping[str, Any]] = takes({"number": {"type": "integer"}})

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        self.fate.boundary()
        self.done.append((self.name, around.key))
        self.fate.boundary()
        return f"done {arguments['number']}"


NO_OUTBOUND: Any = None  # none of these tools goes out
PLAN = (("reads", Repeat.READS), ("keyed", Repeat.KEYED), ("never", Repeat.NEVER))


def run_once(bench: Bench, claim: Claim, fate: Fate, done: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> bool:
    """One worker's attempt at the job; False if it died."""
    tools = {name: Counted(name, repeat, fate, done) for name, repeat in PLAN}
    monkeypatch.setattr(agent, "tools_for", lambda _job, _source: tools)
    store = MortalStore(Store(bench.record), fate)

    async def attempt() -> None:
        ours = Agent(Settings(), store, store.recall, Planner(fate, list(tools)), NO_OUTBOUND, DirectoryFollower(store.inner))  # type: ignore[arg-type]
        answer = await ours.answer(claim, None, lambda _progress, _piece: None)
        assert bench.record.save_replies([Reply(claim.job.id, claim.lease_token, answer.result)], time.time()) == [True]
        assert bench.record.end([Ending(claim.job.id, claim.lease_token, State.SUCCEEDED)], time.time()) == [True]

    survived = True
    try:
        trio.run(attempt)
    except* Crash:
        survived = False
    return survived


BOUNDARIES = 36  # before and after each call of the store, each decision and each tool


@pytest.mark.slow
def test_a_crash_at_every_boundary(bench: Bench, dead_process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was done when the worker died is not done again, unless the tool allows it, and then with the same key."""
    for at in range(BOUNDARIES + 1):
        done: list[tuple[str, str]] = []
        (job_id,) = bench.accept(new_job())
        (claim,) = bench.record.claim(bench.record.register("doomed", dead_process, 1, "ready", NOW), 1, NOW)
        survived = run_once(bench, claim, Fate(at), done, monkeypatch)
        assert survived == (at == BOUNDARIES)
        if not survived:
            assert bench.record.reap(NOW) == 1
            (again,) = bench.claim()
            assert run_once(bench, again, Fate(), done, monkeypatch)
        check(bench, job_id, done, at)


def check(bench: Bench, job_id: str, done: list[tuple[str, str]], at: int) -> None:
    """The job has its one answer, each step is done, and nothing was doubled that must not be."""
    job = bench.job(job_id)
    assert (job.state, job.result and job.result["output_text"]) == (State.SUCCEEDED, "answer after 3"), at
    effects = bench.record.effects(job_id)
    assert [(effect.step, effect.name) for effect in effects] == [(1, "reads"), (2, "keyed"), (3, "never")], at
    assert all(effect.is_done for effect in effects), at
    times = {name: [key for other, key in done if other == name] for name, _ in PLAN}
    assert len(times["never"]) <= 1, at
    assert set(times["keyed"]) == {f"{job_id}:2"}, at
    assert len(done) <= len(PLAN) + 1, at
    assert times["never"] or "not known" in str(effects[2].result), at
