"""The engine whose answers a test decides, and jobs for it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

import worker.main
from sentinel import retry
from sentinel.model import NewJob, random_id
from worker.engine import Generation, Message, Progress, Prompt, checked, read_prompt


@attrs.define(eq=False)
class ScriptedEngine:
    """An engine whose answers are a test's to decide; counts how many run at a time."""

    answers: list[object] = attrs.field(factory=list)
    slots: int = 2
    description: str = "scripted"
    model: str = "scripted"
    context_tokens: int = 2000
    prompts: list[Prompt] = attrs.field(factory=list)
    running: int = 0
    most: int = 0
    seconds: float = 0.0
    gate: trio.Event | None = None  # nothing is generated before it is set

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        self.prompts.append(prompt)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self.seconds)
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.running -= 1
        answer = self.answers.pop(0) if self.answers else "fine"
        if isinstance(answer, Exception):
            raise answer
        text = str(answer) if isinstance(answer, str) else json.dumps(answer)
        if prompt.json_schema is None:
            progress(1, text)
        return checked(Generation(text, 3, 1, "stop"), read_prompt(prompt))

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(str(message["content"]).split()) for message in messages)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """The engine that every worker of this test opens."""
    scripted = ScriptedEngine()

    @asynccontextmanager
    async def open_scripted(*_model: object, **_options: object) -> AsyncIterator[ScriptedEngine]:
        yield scripted

    monkeypatch.setattr(worker.main, "open_engine", open_scripted)
    monkeypatch.setattr(retry, "BACKOFF_FIRST_SECONDS", 0.02)
    return scripted


def api_job(text: str = "hello", **options: object) -> NewJob:
    return NewJob(
        id=random_id(),
        tenant="demo",
        channel="api",
        source="api",
        external_id="",
        input=({"role": "user", "content": text},),
        received_at=time.time(),
        options=options,
    )
