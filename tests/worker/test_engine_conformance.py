"""What every engine has to do, whatever is behind it: one suite for all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from sentinel.errors import GenerationFailed
from tests.worker.needs import unless_installed
from worker.bundled import bundled_model
from worker.engine import Engine, Generation, Prompt, open_engine


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A process of its own with the model behind OpenAI's interface; its address."""
    program = Path(__file__).with_name("model_server.py")
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}#smollm2"
        process.kill()


TICKET = {
    "type": "object",
    "properties": {"intent": {"enum": ["refund", "order"]}, "priority": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["intent", "priority"],
}


REAL = [pytest.mark.model, pytest.mark.slow, unless_installed("llama_cpp", model=True)]


@pytest.fixture(params=["fake", pytest.param("server", marks=REAL), pytest.param("llama", marks=REAL)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    names = {"fake": lambda: "fake:20", "llama": lambda: str(bundled_model()), "server": lambda: request.getfixturevalue("server")}
    async with open_engine(names[request.param](), 2) as opened:
        yield opened


def ignore(_tokens: int, _piece: str) -> None:
    """Progress that nobody looks at."""


def ask(text: str = "Name three colours.", tokens_max: int = 12, **choices: object) -> Prompt:
    return Prompt([{"role": "user", "content": text}], tokens_max, 0.0, **choices)  # type: ignore[arg-type]


async def test_it_says_what_it_is(engine: Engine):
    """An engine has a name, a description, slots, and a bound on a prompt with its answer."""
    assert engine.model
    assert engine.description
    assert engine.slots == 2
    assert engine.context_tokens >= 1024


async def test_the_pieces_are_the_answer(engine: Engine):
    """What progress is told is the text, and its last count is the answer's."""
    heard: list[tuple[int, str]] = []
    answer = await engine.generate(ask(), lambda tokens, piece: heard.append((tokens, piece)))
    assert "".join(piece for _, piece in heard) == answer.text
    assert heard[-1][0] <= answer.completion_tokens <= 12
    assert answer.finish_reason in ("stop", "length")
    assert answer.value is None


async def test_tokens_are_counted(engine: Engine):
    """A prompt has as many tokens as the engine counts for it, and more when more is said."""
    short, long = ask("Hi there."), ask("Hi there. " * 20)
    counts = [await engine.count_tokens(prompt.messages) for prompt in (short, long)]
    assert 0 < counts[0] < counts[1] <= engine.context_tokens
    assert (await engine.generate(short, ignore)).prompt_tokens == counts[0]
    assert await engine.count_tokens(ask("word " * 200_000).messages) > engine.context_tokens


async def test_what_does_not_fit_is_refused(engine: Engine):
    """A prompt and its answer that are together longer than the context fail with the numbers; the engine goes on."""
    with pytest.raises(GenerationFailed, match=f"more than (the )?{engine.context_tokens}"):
        await engine.generate(ask(tokens_max=engine.context_tokens), ignore)
    assert (await engine.generate(ask(), ignore)).text


@pytest.mark.parametrize(
    "choices",
    [
        {"tokens_max": 0},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"repeat_penalty": float("nan")},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"json_schema": {}},
        {"json_schema": {"type": "string", "pattern": "a"}},
    ],
    ids=str,
)
async def test_choices_out_of_range_are_refused(engine: Engine, choices):
    """A choice that no engine can keep fails with its name, before anything is computed."""
    with pytest.raises(GenerationFailed):
        await engine.generate(ask(**choices), ignore)


async def test_a_stop_string_ends_the_answer(engine: Engine):
    """The answer ends before its stop string, of which nothing is shown."""
    free = await engine.generate(ask(), ignore)
    stop = free.text[len(free.text) // 2 :][:3]
    heard: list[str] = []
    stopped = await engine.generate(ask(stop=[stop]), lambda _, piece: heard.append(piece))
    assert stop not in stopped.text
    assert stopped.text == "".join(heard)
    if engine.model != "smollm2":  # that server keeps what it has read, and then rounds in another way
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.finish_reason == "stop"


async def test_a_schema_is_kept(engine: Engine):
    """With a schema the answer is JSON of that schema, parsed and checked."""
    prompt = ask("My parcel is broken; I want a refund. Answer in JSON.", 60, json_schema=TICKET)
    answer = await engine.generate(prompt, ignore)
    assert answer.value["intent"] in ("refund", "order")
    assert answer.value["priority"] in (1, 2, 3)
    assert answer.value.keys() == {"intent", "priority"}


async def test_incomplete_json_is_a_failure(engine: Engine):
    """JSON that the bound on tokens cuts is not passed on."""
    schema = {"type": "array", "items": {"enum": ["one two three"]}, "minItems": 20}
    with pytest.raises(GenerationFailed, match="not complete JSON after"):
        await engine.generate(ask(tokens_max=8, json_schema=schema), ignore)


async def test_more_than_its_slots_are_all_answered(engine: Engine):
    """Five answers over two slots all come, each its own."""
    found: dict[int, Generation] = {}

    async def run(number: int) -> None:
        found[number] = await engine.generate(ask(f"Say the number {number}."), ignore)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(run, number)
    assert set(found) == set(range(5))


async def test_what_is_cancelled_frees_its_slot(engine: Engine):
    """With every slot cancelled in the middle of its answer, the next question is answered."""
    with trio.move_on_after(0.01) as scope:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(engine.generate, ask("Write a story.", 500), ignore)
    assert scope.cancelled_caught
    with trio.fail_after(30):
        assert (await engine.generate(ask(), ignore)).text
