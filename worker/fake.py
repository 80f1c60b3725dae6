"""An engine for load tests: it waits as long as it is told and repeats what it was asked. It must never need a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from sentinel.errors import ModelUnavailable
from worker.engine import Engine, Generation, Message, Progress, Prompt

SLOTS_DEFAULT = 64
MILLISECONDS_MAX = 600_000
STEPS_MAX = 10


@asynccontextmanager
async def open_fake(model: str, slots: int | None) -> AsyncIterator[Engine]:
    """
    The engine that `fake:MILLISECONDS` names; `slots` is 64 if None.

    Raises:
        ModelUnavailable: what follows `fake:` is not a whole number from 0 to 600000.
    """
    yield FakeEngine.parse(model, SLOTS_DEFAULT if slots is None else slots)


@attrs.define
class FakeEngine:
    """Answers "echo: " and the last user message, after `seconds`."""

    seconds: float
    slots: int
    description: str
    _places: trio.CapacityLimiter

    @classmethod
    def parse(cls, model: str, slots: int) -> FakeEngine:
        """The engine that `model` names; raises ModelUnavailable if it names none."""
        number = model.removeprefix("fake:")
        if not (number.isascii() and number.isdecimal()) or len(number) > 6 or int(number) > MILLISECONDS_MAX:
            raise ModelUnavailable(
                f"The model {model[:40]!r} is not fake:MILLISECONDS, a whole number from 0 to {MILLISECONDS_MAX}; say fake:50."
            )
        return cls(
            int(number) / 1000, slots, f"fake engine, {int(number)} ms an answer, {slots} slots", trio.CapacityLimiter(slots)
        )

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        """The echo, in up to 10 pieces over the engine's time. A word counts as a token."""
        words_of_prompt = sum(len(_content(message).split()) for message in prompt.messages)
        text, finish_reason = _bounded(f"echo: {_last_question(prompt.messages)}", prompt.tokens_max)
        async with self._places:
            await self._speak(text, progress)
        return Generation(text, words_of_prompt, len(text.split()), finish_reason)

    async def _speak(self, text: str, progress: Progress) -> None:
        pieces = _pieces(text)
        spoken = ""
        for piece in pieces:
            await trio.sleep(self.seconds / len(pieces))
            spoken += piece
            progress(len(spoken.split()), piece)


def _content(message: Message) -> str:
    return str(message.get("content") or "")


def _last_question(messages: Sequence[Message]) -> str:
    return next((_content(message) for message in reversed(messages) if message.get("role") == "user"), "")


def _bounded(text: str, words_max: int) -> tuple[str, str]:
    words = text.split()
    if len(words) <= words_max:
        return text, "stop"
    return " ".join(words[:words_max]), "length"


def _pieces(text: str) -> list[str]:
    size = max(1, -(-len(text) // STEPS_MAX))
    return [text[start : start + size] for start in range(0, len(text), size)]
