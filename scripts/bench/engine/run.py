"""Measures the engine, part by part, and prints a Markdown list of figures; each with its goal."""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import bare
import trio

from worker.bundled import bundled_model
from worker.engine import Engine, Generation, Options, Prompt, open_engine

TOKENS = 48
ROUNDS = 3
STORY = "Tell me a very long story about the number {}."
SYSTEM = "You are the guide of an old town. You know each stone of it, and you answer in plain words. " * 17
TICKET = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "order", "question"]},
        "priority": {"type": "integer", "minimum": 1, "maximum": 5},
        "summary": {"type": "string", "minLength": 60, "maxLength": 120},
        "name": {"type": ["string", "null"], "maxLength": 20},
    },
    "required": ["intent", "priority", "summary", "name"],
}


def open_bundled(slots: int):
    return open_engine(str(bundled_model()), options=Options(slots=slots))


async def ask_all(engine: Engine, prompts: list[Prompt]) -> tuple[float, list[float], list[Generation]]:
    """Seconds until all are answered, seconds until the first piece of each, and the answers."""
    began, firsts, found = time.perf_counter(), [], []

    async def ask(prompt: Prompt) -> None:
        seen: list[float] = []
        found.append(await engine.generate(prompt, lambda *_: seen.append(time.perf_counter() - began)))
        firsts.append(seen[0])

    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(ask, prompt)
    return time.perf_counter() - began, firsts, found


async def speed(slots: int) -> float:
    async with open_bundled(slots) as engine:
        prompts = [Prompt([{"role": "user", "content": STORY.format(n)}], TOKENS, 0.0) for n in range(slots)]
        seconds, _, found = await ask_all(engine, prompts)
    return sum(answer.completion_tokens for answer in found) / seconds


def measure_slots() -> None:
    """Tokens per second, prompts included, of the engine and of a bare loop, in turn."""
    middle = {}
    print("| slots | engine tokens/s | bare loop tokens/s | engine ÷ bare (goal 0.95) |\n|--:|--:|--:|--:|")
    for slots in (1, 4, 8, 16):
        prompts = bare.tokenized([STORY.format(n) for n in range(slots)])
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(trio.run(speed, slots))
            theirs.append(bare.loop(slots, prompts, TOKENS))
        middle[slots] = statistics.median(ours)
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        print(f"| {slots} | {middle[slots]:.0f} | {statistics.median(theirs):.0f} | {ratio:.2f} |", flush=True)
    print(f"\n16 slots ÷ 1 slot: {middle[16] / middle[1]:.2f} (goal 1.35)")


async def start_of_eight(shared: bool) -> float:
    systems = [SYSTEM if shared else f"{number}. {SYSTEM}" for number in range(8)]
    prompts = [
        Prompt([{"role": "system", "content": system}, {"role": "user", "content": STORY.format(n)}], 2, 0.0)
        for n, system in enumerate(systems)
    ]
    async with open_bundled(8) as engine:
        tokens = await engine.count_tokens(prompts[0].messages)
        _, firsts, _ = await ask_all(engine, prompts)
    print(f"    {'shared' if shared else 'own'} heads, prompts of {tokens} tokens: all begun after {max(firsts):.2f} s")
    return max(firsts)


def measure_head() -> None:
    """How much sooner 8 jobs begin that have their first tokens in common."""
    gains = [trio.run(start_of_eight, False) / trio.run(start_of_eight, True) for _ in range(2)]
    print(f"Shared head: {statistics.median(gains):.1f} times sooner (goal 4)")


async def json_speed(schema: dict[str, object] | None) -> float:
    messages = [{"role": "user", "content": "Write a ticket for this as JSON: my parcel is broken and I want my money back."}]
    async with open_bundled(4) as engine:
        prompts = [Prompt(messages, 160 if schema else 55, 0.7, seed, json_schema=schema) for seed in range(4)]
        seconds, firsts, found = await ask_all(engine, prompts)
    return sum(answer.completion_tokens for answer in found) / (seconds - min(firsts))


def measure_json() -> None:
    """Tokens per second after the first, under a schema and without, in turn."""
    ratios = [trio.run(json_speed, TICKET) / trio.run(json_speed, None) for _ in range(5)]
    print(f"JSON by schema ÷ free text, 4 slots: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}; goal 0.8)")


def high_level(chats: list[list[dict[str, str]]]) -> float:
    from llama_cpp import Llama

    model = Llama(str(bundled_model()), n_ctx=2048, verbose=False)
    began = time.perf_counter()
    for messages in chats:
        model.create_chat_completion(messages, max_tokens=24, temperature=0.7)
    seconds = time.perf_counter() - began
    model.close()
    return seconds


async def ours(chats: list[list[dict[str, str]]]) -> float:
    async with open_bundled(16) as engine:
        return (await ask_all(engine, [Prompt(messages, 24, 0.7) for messages in chats]))[0]


def measure_queue() -> None:
    """50 queued chats with one system prompt: the library's class, one at a time, against the engine."""
    system = {"role": "system", "content": SYSTEM}
    chats = [[system, {"role": "user", "content": STORY.format(number)}] for number in range(50)]
    theirs, mine = high_level(chats), trio.run(ours, chats)
    print(f"50 chats: `Llama` {3000 / theirs:.0f} a minute, engine {3000 / mine:.0f}: {theirs / mine:.2f} times (goal 2)")


def resident_mebibytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def jobs_of_memory() -> None:
    async with open_bundled(8) as engine:
        sizes = {}
        for count in (100, 900):
            for first in range(0, count, 50):
                prompts = [
                    Prompt(
                        [{"role": "user", "content": f"{first + n}?"}],
                        3,
                        0.7,
                        json_schema={"type": "boolean"} if n % 5 == 0 else None,
                    )
                    for n in range(50)
                ]
                await ask_all(engine, prompts)
            sizes[count] = resident_mebibytes()
    print(f"RSS after 1,000 jobs − after 100: {sizes[900] - sizes[100]:+.1f} MiB (goal 5)")


PARTS = {
    "slots": measure_slots,
    "head": measure_head,
    "json": measure_json,
    "queue": measure_queue,
    "memory": partial(trio.run, jobs_of_memory),
}

for name in sys.argv[1:] or PARTS:
    print(f"\n## {name}", flush=True)
    PARTS[name]()
