"""
Measures the engine, part by part, and prints a Markdown list of figures; each with its goal.

`run.py PYTHON [PART…]`; PYTHON is that of the environment with the peer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import attrs
import bare
import requantize
import trio

from worker.bundled import bundled_model
from worker.engine import Engine, Generation, Message, Options, Prompt, open_engine

PEER = sys.argv[1]
BUNDLED = bundled_model()
CORES = os.cpu_count() or 1
THREADS = int(os.environ["THREADS"]) if "THREADS" in os.environ else None  # without, the engine gives way to others
ROUNDS = int(os.environ.get("ROUNDS", "3"))
TOKENS = 48
SLOTS = (1, 4, 8, 16)
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


# Tokens, seconds until the last of them, and seconds of the processor meanwhile.
Turn = tuple[int, float, float]


def open_model(slots: int, path: Path = BUNDLED):
    return open_engine(str(path), options=Options(slots=slots, threads=THREADS))


async def ask_all(engine: Engine, prompts: list[Prompt]) -> tuple[float, list[float], list[Generation]]:
    """Seconds until all are answered, seconds until the first piece of each, and the answers."""
    began, firsts, found = time.perf_counter(), [], []

    async def ask(prompt: Prompt) -> None:
        seen: list[float] = []
        found.append(await engine.generate(prompt, lambda *_: seen.append(time.perf_counter() - began)))
        firsts.extend(seen[:1])

    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(ask, prompt)
    return time.perf_counter() - began, firsts, found


async def engine_turn(path: Path, slots: int) -> Turn:
    async with open_model(slots, path) as engine:
        prompts = [Prompt(chat(n), TOKENS, 0.0) for n in range(slots)]
        used = time.process_time()
        seconds, _, found = await ask_all(engine, prompts)
        used = time.process_time() - used
    return sum(answer.completion_tokens for answer in found), seconds, used


def bare_turn(path: Path, slots: int) -> Turn:
    return bare.loop(path, THREADS or CORES, tokenized(path, slots), TOKENS)


def peer_turn(path: Path, slots: int) -> Turn:
    command = [PEER, str(Path(__file__).with_name("peer_xllamacpp.py")), str(path), str(TOKENS), str(THREADS or CORES)]
    prompts = json.dumps(tokenized(path, slots)).encode()
    done = subprocess.run(command, input=prompts, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    count, seconds, used = done.stdout.split()[-3:]
    return int(count), float(seconds), float(used)


def tokenized(path: Path, slots: int) -> list[list[int]]:
    return bare.tokenized(path, [chat(n) for n in range(slots)])


def chat(number: int) -> list[Message]:
    """Its system prompt is its own, and too short to be kept: no side has less to read than another."""
    return [{"role": "system", "content": f"Be {number}."}, {"role": "user", "content": STORY.format(number)}]


SIDES: dict[str, Callable[[Path, int], Turn]] = {
    "engine": partial(trio.run, engine_turn),
    "bare loop": bare_turn,
    "xllamacpp": peer_turn,
}


def measure_beside(*names: str) -> None:
    """The sides in turn: tokens per second, prompts included; and the engine's part of each, by the clock and by the processor."""
    beside = names[1:]
    print(
        f"{ROUNDS} rounds, {THREADS or CORES} threads, answers of {TOKENS} tokens; medians, a ratio being one of the same round\n"
    )
    heads = [*(f"{name} tokens/s" for name in names), *(f"engine ÷ {name} (goal 0.95) | by processor" for name in beside)]
    print(f"| slots | {' | '.join(heads)} |\n|{'--:|' * (1 + len(names) + 2 * len(beside))}")
    for slots in SLOTS:
        turns: dict[str, list[Turn]] = defaultdict(list)
        for _ in range(ROUNDS):
            for name in names:
                turns[name].append(SIDES[name](BUNDLED, slots))
        cells = [f"{median(by_clock(turns[name])):.0f}" for name in names]
        for name in beside:
            cells += [f"{ratio(by(turns['engine']), by(turns[name])):.2f}" for by in (by_clock, by_processor)]
        print(f"| {slots} | {' | '.join(cells)} |", flush=True)


def by_clock(turns: list[Turn]) -> list[float]:
    return [tokens / seconds for tokens, seconds, _ in turns]


def by_processor(turns: list[Turn]) -> list[float]:
    return [tokens / used for tokens, _, used in turns]


def ratio(ours: list[float], theirs: list[float]) -> float:
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def files() -> dict[str, Path]:
    """The bundled model, and the same in a quantisation that has kernels for many rows."""
    return {"Q4_1": BUNDLED, "Q4_0": requantize.q4_0(BUNDLED)}


def measure_q4_0() -> None:
    """What 16 slots give over one, with both files."""
    turns: dict[tuple[str, int], list[Turn]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, path in files().items():
            for slots in (1, 16):
                turns[name, slots].append(trio.run(engine_turn, path, slots))
    for name, goal in ("Q4_1", 1.35), ("Q4_0", 1.8):
        one, many = turns[name, 1], turns[name, 16]
        gain, by_time = ratio(by_clock(many), by_clock(one)), ratio(by_processor(many), by_processor(one))
        speeds = f"{median(by_clock(one)):.0f} tokens/s in 1 slot, {median(by_clock(many)):.0f} in 16"
        print(f"{name}: {speeds}: {gain:.2f} times (goal {goal}); by the processor {by_time:.2f}")


async def start_of_eight(shared: bool) -> float:
    systems = [SYSTEM if shared else f"{number}. {SYSTEM}" for number in range(8)]
    prompts = [
        Prompt([{"role": "system", "content": system}, {"role": "user", "content": STORY.format(n)}], 2, 0.0)
        for n, system in enumerate(systems)
    ]
    async with open_model(8) as engine:
        tokens = await engine.count_tokens(prompts[0].messages)
        _, firsts, _ = await ask_all(engine, prompts)
    print(f"    {'shared' if shared else 'own'} heads, prompts of {tokens} tokens: all begun after {max(firsts):.2f} s")
    return max(firsts)


def measure_head() -> None:
    """How much sooner 8 jobs begin that have their first tokens in common."""
    gains = [trio.run(start_of_eight, False) / trio.run(start_of_eight, True) for _ in range(2)]
    print(f"Shared head: {median(gains):.1f} times sooner (goal 4)")


async def json_turn(schema: dict[str, object] | None) -> Turn:
    """From the first piece on."""
    messages = [{"role": "user", "content": "Write a ticket for this as JSON: my parcel is broken and I want my money back."}]
    clocks: list[tuple[float, float]] = []
    found: list[Generation] = []

    async def ask(engine: Engine, prompt: Prompt) -> None:
        found.append(await engine.generate(prompt, lambda *_: clocks.append((time.perf_counter(), time.process_time()))))

    async with open_model(4) as engine, trio.open_nursery() as nursery:
        for seed in range(4):
            nursery.start_soon(ask, engine, Prompt(messages, 256 if schema else 55, 0.7, seed, json_schema=schema))
    (began, began_used), *_, (ended, ended_used) = clocks
    return sum(answer.completion_tokens for answer in found), ended - began, ended_used - began_used


def measure_json() -> None:
    """Tokens per second after the first, under a schema and without, in turn."""
    pairs = [(trio.run(json_turn, TICKET), trio.run(json_turn, None)) for _ in range(max(ROUNDS, 5))]
    bound, free = (list(turns) for turns in zip(*pairs, strict=True))
    share, by_time = ratio(by_clock(bound), by_clock(free)), ratio(by_processor(bound), by_processor(free))
    print(f"JSON by schema ÷ free text, 4 slots: {share:.2f} (goal 0.8); by the processor {by_time:.2f}")


def high_level(path: Path, chats: list[list[Message]]) -> float:
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=2048, verbose=False)
    began = time.perf_counter()
    for messages in chats:
        model.create_chat_completion(messages, max_tokens=24, temperature=0.7)
    seconds = time.perf_counter() - began
    model.close()
    return seconds


async def ours(path: Path, chats: list[list[Message]]) -> float:
    async with open_model(16, path) as engine:
        return (await ask_all(engine, [Prompt(messages, 24, 0.7) for messages in chats]))[0]


def measure_queue() -> None:
    """50 queued chats with one system prompt: the library's class, one at a time, against the engine, in turn, with both files."""
    system: Message = {"role": "system", "content": SYSTEM}
    chats: list[list[Message]] = [[system, {"role": "user", "content": STORY.format(number)}] for number in range(50)]
    for name, path in files().items():
        pairs = [(high_level(path, chats), trio.run(ours, path, chats)) for _ in range(ROUNDS)]
        gain, theirs, mine = median(one / other for one, other in pairs), *map(median, zip(*pairs, strict=True))
        print(f"{name}: 50 chats, `Llama` {3000 / theirs:.0f} a minute, engine {3000 / mine:.0f}: {gain:.2f} times (goal 2)")


def resident_mebibytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def jobs_of_memory() -> None:
    async with open_model(8) as engine:
        sizes = {}
        for count in (100, 900):
            for first in range(0, count, 50):
                # Every fifth is a boolean, which letter by letter takes six tokens, and its end.
                prompts = [Prompt([{"role": "user", "content": f"{first + n}?"}], 3) for n in range(40)]
                prompts += [attrs.evolve(prompt, tokens_max=8, json_schema={"type": "boolean"}) for prompt in prompts[::4]]
                await ask_all(engine, prompts)
            sizes[count] = resident_mebibytes()
    print(f"RSS after 1,000 jobs − after 100: {sizes[900] - sizes[100]:+.1f} MiB (goal 5)")


async def cancels() -> tuple[list[float], int]:
    """Seconds from the cancelling of a prompt, somewhere in its reading, until the next one's answer has begun; its tokens."""
    waits = []
    long = Prompt([{"role": "user", "content": "All work and no play makes Jack a dull boy. " * 150}], 16, 0.0)
    async with open_model(1) as engine:
        tokens = await engine.count_tokens(long.messages)
        for number in range(20):
            with trio.move_on_after(0.2 + 0.05 * number):
                await engine.generate(long, lambda *_: None)
            began = time.perf_counter()
            await engine.count_tokens([{"role": "user", "content": "?"}])  # answered between two steps, without one of its own
            waits.append(time.perf_counter() - began)
    return sorted(waits), tokens


def measure_cancel() -> None:
    """How soon the engine is free again when a long prompt is cancelled while it is read."""
    waits, tokens = trio.run(cancels)
    print(f"20 prompts of {tokens} tokens, cancelled while they were read: free after", end=" ")
    print(f"{1e3 * waits[10]:.0f} ms (median), {1e3 * waits[-1]:.0f} ms (longest; goal 50)")


PARTS = {
    "slots": partial(measure_beside, "engine", "bare loop"),
    "peers": partial(measure_beside, "engine", "bare loop", "xllamacpp"),
    "q4_0": measure_q4_0,
    "head": measure_head,
    "json": measure_json,
    "queue": measure_queue,
    "cancel": measure_cancel,
    "memory": partial(trio.run, jobs_of_memory),
}

for name in sys.argv[2:] or [part for part in PARTS if part != "slots"]:
    print(f"\n## {name}", flush=True)
    PARTS[name]()
