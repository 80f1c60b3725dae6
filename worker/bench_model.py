"""Measures a model on this machine through its engine: what loads, reads, writes, and shares how fast. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import attrs
import trio

from worker.engine import Engine, Options, Prompt, open_engine

TOKENS = 48
GAIN_WORTH = 1.1  # more slots than before must give at least this, since each answer gets slower
SHARED_JOBS = 8
_WORDS = "You are the guide of an old town. You know each stone of it, and you answer in plain words. "
_HEAD_REPEATED = 17  # nearly 400 tokens in English


@attrs.frozen
class SlotsMeasured:
    """Tokens per second, all answers together, prompts included."""

    slots: int
    tokens_per_second: float


@attrs.frozen
class ModelMeasured:
    """Seconds and tokens per second; `shared_head_gain` is how many times sooner jobs begin that share their system prompt."""

    description: str
    load_seconds: float
    prompt_tokens_per_second: float
    slots: Sequence[SlotsMeasured]
    shared_head_gain: float
    recommended: dict[str, str]


async def measure(model: str, options: Options, slot_counts: Sequence[int]) -> ModelMeasured:
    """
    All of it; some minutes on a CPU.

    Raises:
        ModelUnavailable: the model cannot be opened.
    """
    began = time.perf_counter()
    async with open_engine(model, options=attrs.evolve(options, slots=1)) as engine:
        load_seconds = time.perf_counter() - began
        reading = await _prompt_speed(engine)
        description = engine.description
    slots = [SlotsMeasured(count, await _speed(model, attrs.evolve(options, slots=count))) for count in slot_counts]
    gain = await _first_pieces(model, options, shared=False) / await _first_pieces(model, options, shared=True)
    return ModelMeasured(description, load_seconds, reading, slots, gain, {"SENTINEL_SLOTS": str(recommended_slots(slots))})


def recommended_slots(measured: Sequence[SlotsMeasured]) -> int:
    """The fewest slots from which on more of them give little."""
    best = measured[0]
    for more in measured[1:]:
        if more.tokens_per_second >= GAIN_WORTH * best.tokens_per_second:
            best = more
    return best.slots


async def _prompt_speed(engine: Engine) -> float:
    prompt = _prompt(0, _WORDS * _HEAD_REPEATED, 1)
    began = time.perf_counter()
    return (await engine.generate(prompt, _ignore)).prompt_tokens / (time.perf_counter() - began)


async def _speed(model: str, options: Options) -> float:
    async with open_engine(model, options=options) as engine:
        began, tokens = time.perf_counter(), []

        async def ask(number: int) -> None:
            tokens.append((await engine.generate(_prompt(number, "Tell long stories.", TOKENS), _ignore)).completion_tokens)

        async with trio.open_nursery() as nursery:
            for number in range(engine.slots):
                nursery.start_soon(ask, number)
        return sum(tokens) / (time.perf_counter() - began)


async def _first_pieces(model: str, options: Options, *, shared: bool) -> float:
    """Seconds until each of some jobs has its first token."""
    async with open_engine(model, options=attrs.evolve(options, slots=SHARED_JOBS)) as engine:
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(SHARED_JOBS):
                head = _WORDS * _HEAD_REPEATED if shared else f"{number}. {_WORDS * _HEAD_REPEATED}"
                nursery.start_soon(engine.generate, _prompt(number, head, 1), _ignore)
        return time.perf_counter() - began


def _prompt(number: int, system: str, tokens_max: int) -> Prompt:
    question = {"role": "user", "content": f"Tell me a very long story about the number {number}."}
    return Prompt([{"role": "system", "content": system}, question], tokens_max, 0.0)


def _ignore(*_: Any) -> None:
    """Pieces that nobody reads."""
