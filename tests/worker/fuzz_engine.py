"""
The command behind scripts/fuzz_engine: hostile inputs on the real engine, in a child process that may die of them.

The child says which input it begins and ends. If it dies, or says nothing for long, each input that it was at is tried alone, which
names the culprit; another child goes on with the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from sentinel.errors import GenerationFailed, ModelUnavailable
from tests.worker.fuzz import Input, make_input
from worker.bundled import bundled_model
from worker.chat_template import ChatTemplate
from worker.engine import Engine, Options, open_engine
from worker.llama_slots import Scheduler

ROOT = Path(__file__).parents[2]
SLOTS = 16
SECONDS_MAX = 240.0  # of one input, which shares the model with fifteen others, whose prompts it waits for
SILENCE_SECONDS_MAX = 300.0


@attrs.define(eq=False)
class Found:
    """What came of the inputs, the longest stall by a grammar or the tokenizer, and the inputs after which something was wrong."""

    outcomes: Counter[str] = attrs.field(factory=Counter)
    wrong: list[tuple[int, str]] = attrs.field(factory=list)
    stall_seconds_max: float = 0.0


def child_of(seed: int) -> list[str]:
    """The command of a child that works on inputs of a seed."""
    return [sys.executable, "-m", "tests.worker.fuzz_engine", "--seed", str(seed), "--child"]


async def hunt(child: Sequence[str], numbers: Sequence[int], progress: Callable[[Found], None] = lambda _: None) -> Found:
    """Gives these inputs to children, one after the other, until each was answered, refused, or found to do harm."""
    found = Found()
    left = list(numbers)
    while left:
        begun, ended, end = await _run(child, left, found, progress)
        left = [number for number in left if number not in begun]
        suspects = sorted(begun - ended)
        if end and not begun:
            found.wrong.append((left.pop(0), f"{end} before its first input"))
        elif end and len(suspects) > 1:
            alone = [(number, (await _run(child, [number], found, progress))[2]) for number in suspects]
            found.wrong += [one for one in alone if one[1]] or [(suspects[0], f"{end}, but only beside {suspects[1:]}")]
        elif end:
            found.wrong.append((suspects[0] if suspects else max(ended), end))
    return found


async def _run(
    child: Sequence[str], numbers: Sequence[int], found: Found, progress: Callable[[Found], None]
) -> tuple[set[int], set[int], str]:
    """The inputs that a child began, those that it ended, and what was wrong with its own end."""
    begun: set[int] = set()
    ended: set[int] = set()
    process = await trio.lowlevel.open_process(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell, process.stdin, " ".join(map(str, numbers)).encode())
        try:
            async for word, number, rest in _lines(process.stdout):
                if word == "begin":
                    begun.add(number)
                elif word == "end":
                    ended.add(number)
                    found.outcomes[rest] += 1
                    progress(found)
                elif word == "hang":
                    found.wrong.append((number, "did not end"))
                    ended.add(number)
                elif word == "stall":
                    found.stall_seconds_max = max(found.stall_seconds_max, float(rest))
        except trio.TooSlowError:
            process.kill()
    return begun, ended, f"the process ended with {code}" if (code := await process.wait()) else ""


async def _tell(stdin: trio.abc.SendStream, numbers: bytes) -> None:
    try:
        async with stdin:
            await stdin.send_all(numbers)
    except trio.BrokenResourceError:
        pass  # it has died, which is seen elsewhere


async def _lines(stdout: trio.abc.ReceiveStream):
    """What the child says: a word, a number, and more. Raises TooSlowError if it says nothing for long."""
    rest = b""
    while True:
        with trio.fail_after(SILENCE_SECONDS_MAX):
            data = await stdout.receive_some()
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            word, number, more = line.decode().split(" ", 2)
            yield word, int(number), more


# --- the child


async def work(seed: int, numbers: Sequence[int]) -> None:
    """Gives the inputs to one engine, as many at a time as it has slots, and says so on stdout."""
    waiting = iter(numbers)
    async with open_engine(str(bundled_model()), options=Options(slots=SLOTS)) as engine, trio.open_nursery() as nursery:
        for _ in range(SLOTS):
            nursery.start_soon(_work, engine, seed, waiting)


async def _work(engine: Engine, seed: int, waiting: Iterator[int]) -> None:
    for number in waiting:
        _say("begin", number)
        with trio.move_on_after(SECONDS_MAX) as patience:
            outcome = await _try(engine, make_input(seed, number))
            _say("end", number, outcome)
        if patience.cancelled_caught:
            _say("hang", number)


def _say(word: str, number: int, more: str = "-") -> None:
    """One line to the parent in one piece: two threads say something."""
    os.write(1, f"{word} {number} {more}\n".encode())


async def _try(engine: Engine, given: Input) -> str:
    """How it went. Any other error than the two that an engine may raise ends the child."""
    try:
        if given.template is not None:
            engine = attrs.evolve(engine, template=ChatTemplate.compile(given.template, "<s>", "</s>"))  # type: ignore[misc]
        await engine.generate(given.prompt, lambda *_: None)
    except (GenerationFailed, ModelUnavailable) as error:
        return f"{given.kind} {'cut' if 'not complete JSON' in error.detail else 'refused'}"
    return f"{given.kind} answered"


def _time_choices() -> None:
    """All others wait while the engine thread tokenizes a prompt, opens a grammar or asks it: by the thread's own clock."""
    from worker.llama_sampling import Sampler

    longest = [0.0]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.thread_time()
            result = method(*arguments)
            if (seconds := time.thread_time() - began) > longest[0]:
                longest[0] = seconds
                _say("stall", 0, f"{seconds:.3f}")
            return result

        return call

    Scheduler.submit, Sampler.choose = timed(Scheduler.submit), timed(Sampler.choose)  # type: ignore[method-assign]


def main() -> int:
    """0 if nothing was wrong."""
    options = argparse.ArgumentParser()
    options.add_argument("--inputs", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="the number of the first")
    options.add_argument("--only", type=int, help="this input alone, and what it is")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        _time_choices()
        trio.run(work, given.seed, [int(word) for word in sys.stdin.read().split()])
        return 0
    numbers = range(given.first, given.first + given.inputs)
    if given.only is not None:
        numbers = range(given.only, given.only + 1)
        one = make_input(given.seed, given.only)
        print(f"{one}\n{one.prompt.messages!a}\n{one.prompt.json_schema!r}\n{one.template!r}")
    began = time.monotonic()
    found = trio.run(hunt, child_of(given.seed), numbers, _show)
    print(f"\r{len(numbers):,} inputs of seed {given.seed} in {time.monotonic() - began:.0f} s")
    print(f"longest wait for a grammar or the tokenizer: {found.stall_seconds_max:.2f} s")
    print("\n".join(f"{count:6,} x {outcome}" for outcome, count in sorted(found.outcomes.items())))
    for number, what in found.wrong:
        print(f"WRONG  input {number}: {what}")
    return 1 if found.wrong else 0


def _show(found: Found) -> None:
    print(f"\r{found.outcomes.total():,}, {len(found.wrong)} wrong", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
