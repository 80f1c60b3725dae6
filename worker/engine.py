"""What an engine is, and which one a setting names. An engine turns a prompt into text; it knows nothing of jobs or stores.

The model's library lives in `llama.py` alone, imported only when a GGUF file is to be run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs

Progress = Callable[[int, str], None]
Message = Mapping[str, Any]


@attrs.frozen
class Prompt:
    """What to generate from: chat messages ({"role", "content"}), a bound on the answer's tokens, a temperature (0: greedy)."""

    messages: Sequence[Message]
    tokens_max: int = 256
    temperature: float = 0.7
    seed: int = 0


@attrs.frozen
class Generation:
    """A finished answer. `finish_reason` is "stop" (the model ended it) or "length" (the bound did)."""

    text: str = attrs.field(repr=False)
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class Engine(Protocol):
    """Runs up to `slots` generations at a time. Being cancelled frees the slot within one step."""

    slots: int
    description: str

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        """
        The model's answer. `progress(tokens, piece)` is called in the event loop as text appears; pieces are whole characters.

        Raises:
            GenerationFailed: the prompt does not fit, or the model cannot answer it; another attempt would not help.
        """
        ...


@asynccontextmanager
async def open_engine(model: str, slots: int | None) -> AsyncIterator[Engine]:
    """
    The engine that `model` names: `fake:MILLISECONDS`, or the path of a GGUF file. Closed, with its thread, on leaving.

    Raises:
        ModelUnavailable: the model is missing, damaged or does not fit; the message says which, for the operator.
    """
    async with _choose(model, slots) as engine:
        yield engine


def _choose(model: str, slots: int | None) -> AbstractAsyncContextManager[Engine]:
    if model.startswith("fake:"):
        from worker.fake import open_fake

        return open_fake(model, slots)
    from worker.llama import open_llama

    return open_llama(Path(model), slots)
