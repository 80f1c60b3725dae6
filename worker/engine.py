"""What an engine is, and which one a setting names. An engine turns a prompt into text; it knows nothing of jobs or stores.

The model's library lives in `llama.py` alone, imported only when a GGUF file is to be run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from sentinel.errors import GenerationFailed, SentinelError
from worker.json_schema import Node, parse_answer, read_schema

Progress = Callable[[int, str], None]
Message = Mapping[str, Any]


class GenerationTimeout(SentinelError):
    """The generation took too long."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ends what is in the block after so long, with a GenerationTimeout."""
    with trio.move_on_after(seconds) as patience:
        yield
    if patience.cancelled_caught:
        raise GenerationTimeout


@attrs.frozen
class Prompt:
    """
    What to generate from: chat messages ({"role", "content"}), and how.

    `tokens_max` bounds the answer. `temperature` 0 takes the likeliest token each time; the other choices then mean nothing. Else
    a token is one of the likeliest that together have the probability `top_p`, each at least `min_p` times as likely as the
    first; `repeat_penalty` above 1 makes what was just said less likely. A `stop` string ends the answer and is not in it.

    With a `json_schema` the answer is JSON of that schema, which the model may not leave; see `worker.json_schema` for what is
    supported. The model does not see the schema: tell it in the messages. Stop strings and the penalty do not apply then.
    """

    messages: Sequence[Message]
    tokens_max: int = 256
    temperature: float = 0.7
    seed: int = 0
    top_p: float = attrs.field(default=0.95, kw_only=True)
    min_p: float = attrs.field(default=0.05, kw_only=True)
    repeat_penalty: float = attrs.field(default=1.1, kw_only=True)
    stop: Sequence[str] = attrs.field(default=(), kw_only=True)
    json_schema: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Generation:
    """
    A finished answer. `finish_reason` is "stop" (the model, or a stop string, ended it) or "length" (the bound did).

    `value` is the answer as JSON, checked, if there was a schema.
    """

    text: str = attrs.field(repr=False)
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    value: Any = attrs.field(default=None, repr=False)


class Engine(Protocol):
    """
    Runs up to `slots` generations at a time. Being cancelled frees the slot within one step.

    `model` is the model's name, `description` what an operator wants to know; a prompt and its answer together have at most
    `context_tokens`.
    """

    slots: int
    description: str
    model: str
    context_tokens: int

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        """
        The model's answer. `progress(tokens, piece)` is called in the event loop as text appears; pieces are whole characters.

        Raises:
            GenerationFailed: the prompt does not fit, asks for what is not supported, or the model cannot answer it, as when
                JSON is not complete within the bound on tokens; another attempt would not help.
        """
        ...

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """
        How many tokens of the context a prompt of these messages takes; more than there are, if they cannot fit.

        A server cannot be asked for it: there it is an estimate, rather too high than too low.

        Raises:
            GenerationFailed: these messages cannot be a prompt.
        """
        ...


# Each a number, or nothing would come of comparing it.
_RANGES = {"temperature": (0.0, 5.0), "top_p": (0.01, 1.0), "min_p": (0.0, 0.99), "repeat_penalty": (0.5, 2.0)}
STOPS_MAX, STOP_CHARACTERS_MAX = 16, 200


def read_prompt(prompt: Prompt) -> Node | None:
    """
    What the answer has to be, if `prompt` has a schema; None if it is free.

    Raises:
        GenerationFailed: a choice in it is out of its range, or the schema is not supported.
    """
    if prompt.tokens_max < 1:
        raise GenerationFailed("The bound on the answer's tokens is less than 1.")
    for name, (low, high) in _RANGES.items():
        if not low <= getattr(prompt, name) <= high:
            raise GenerationFailed(f"`{name}` must be from {low:g} to {high:g}.")
    if len(prompt.stop) > STOPS_MAX or any(not 0 < len(stop) <= STOP_CHARACTERS_MAX for stop in prompt.stop):
        raise GenerationFailed(f"There may be {STOPS_MAX} stop strings, of 1 to {STOP_CHARACTERS_MAX} characters each.")
    return None if prompt.json_schema is None else read_schema(prompt.json_schema)


def checked(generation: Generation, node: Node | None) -> Generation:
    """
    The generation, with its value if it had to be JSON of a schema: the word of an engine is not taken for that.

    Raises:
        GenerationFailed: the text is something else, or not complete.
    """
    if node is None:
        return generation
    if generation.finish_reason != "stop":
        raise GenerationFailed(f"The answer was not complete JSON after {generation.completion_tokens} tokens, which is its bound.")
    return attrs.evolve(generation, value=parse_answer(node, generation.text))


@attrs.frozen(kw_only=True)
class Options:
    """How to run a model, where its engine has a choice. None leaves it to the engine; see docs/settings.md for each."""

    slots: int | None = None
    threads: int | None = None
    context_tokens: int | None = None
    gpu_layers: int | None = None
    kv_type: str = "auto"
    flash_attention: str = "auto"
    key: str | None = attrs.field(default=None, repr=False)


@asynccontextmanager
async def open_engine(model: str, slots: int | None = None, options: Options | None = None) -> AsyncIterator[Engine]:
    """
    The engine that `model` names: `fake:MILLISECONDS`, `http://SERVER#MODEL`, or the path of a GGUF file. Closed on leaving.

    Raises:
        ModelUnavailable: the model is missing, damaged or does not fit; the message says which, for the operator.
    """
    async with _choose(model, options or Options(slots=slots)) as engine:
        yield engine


def is_url(model: str) -> bool:
    """Whether `model` is on a server."""
    return model.startswith(("http://", "https://"))


def _choose(model: str, options: Options) -> AbstractAsyncContextManager[Engine]:
    if model.startswith("fake:"):
        from worker.fake import open_fake

        return open_fake(model, options.slots)
    if is_url(model):
        from worker.openai_server import open_server

        return open_server(model, options)
    from worker.llama import open_llama

    return open_llama(Path(model), options)
