"""An engine for load tests: it waits as long as it is told and repeats what it was asked. It must never need a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from sentinel.errors import GenerationFailed, ModelUnavailable
from worker.engine import Engine, Generation, Message, Progress, Prompt, checked, read_prompt
from worker.json_schema import Node, parse_answer, write_json
from worker.stop_strings import StopStrings

SLOTS_DEFAULT = 64
MILLISECONDS_MAX = 600_000
STEPS_MAX = 10
CONTEXT_TOKENS = 8192


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
    """
    Answers "echo: " and the last user message, after `seconds`. A word is a token.

    With a schema it answers the last user message itself if that is JSON which the schema accepts, else the least that it accepts.
    """

    seconds: float
    slots: int
    description: str
    _places: trio.CapacityLimiter
    model: str = "fake"
    context_tokens: int = CONTEXT_TOKENS

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
        """The echo, in up to 10 pieces over the engine's time; see `Engine`."""
        node = read_prompt(prompt)
        words_of_prompt = await self.count_tokens(prompt.messages)
        if words_of_prompt + prompt.tokens_max > self.context_tokens:
            raise GenerationFailed(
                f"The prompt has {words_of_prompt} words and the answer may have {prompt.tokens_max}; "
                f"together that is more than {self.context_tokens}."
            )
        text, finish_reason = _bounded(_answer(prompt, node), prompt.tokens_max)
        async with self._places:
            await self._speak(text, progress)
        return checked(Generation(text, words_of_prompt, len(text.split()), finish_reason), node)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """The words in `messages`."""
        if not messages:
            raise GenerationFailed("A prompt has at least one message.")
        return sum(len(_content(message).split()) for message in messages)

    async def _speak(self, text: str, progress: Progress) -> None:
        pieces = _pieces(text)
        spoken = ""
        for piece in pieces:
            await trio.sleep(self.seconds / len(pieces))
            spoken += piece
            progress(len(spoken.split()), piece)


def _answer(prompt: Prompt, node: Node | None) -> str:
    question = _last_question(prompt.messages)
    if node is None:
        return StopStrings(prompt.stop).feed(f"echo: {question}", is_last=True)[0]
    try:
        parse_answer(node, question)
    except GenerationFailed:
        return write_json(node.smallest())
    return question


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
