"""The engine for load tests."""

from __future__ import annotations

import pytest
import trio

from sentinel.errors import ModelUnavailable
from worker.engine import Generation, Prompt, open_engine


def ignore(_tokens: int, _piece: str) -> None:
    """Progress that nobody looks at."""


async def test_it_repeats_the_last_question(autojump_clock):
    """The answer is "echo: " and the last user message; words are counted as tokens."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "echo: first"},
        {"role": "user", "content": "second one"},
    ]
    async with open_engine("fake:50", None) as engine:
        answer = await engine.generate(Prompt(messages), ignore)
    assert answer == Generation("echo: second one", 7, 3, "stop")


async def test_it_waits_as_long_as_it_is_told(autojump_clock):
    """An answer takes the engine's milliseconds, whatever its length."""
    async with open_engine("fake:250", None) as engine:
        for text in ("a", "a long text of many words" * 20):
            began = trio.current_time()
            await engine.generate(Prompt([{"role": "user", "content": text}]), ignore)
            assert trio.current_time() - began == pytest.approx(0.25)


async def test_the_pieces_make_up_the_text(autojump_clock):
    """Progress is told at most 10 pieces, which are the text, and a count of tokens that ends at the answer's."""
    heard: list[tuple[int, str]] = []
    async with open_engine("fake:10", None) as engine:
        prompt = Prompt([{"role": "user", "content": "Größe 🦀 and a few more words"}])
        answer = await engine.generate(prompt, lambda tokens, piece: heard.append((tokens, piece)))
    assert "".join(piece for _, piece in heard) == answer.text
    assert len(heard) <= 10
    assert heard[-1][0] == answer.completion_tokens


async def test_it_keeps_the_bound_on_tokens(autojump_clock):
    """An answer that would have more words than allowed is cut and says so."""
    async with open_engine("fake:0", None) as engine:
        answer = await engine.generate(Prompt([{"role": "user", "content": "one two three"}], tokens_max=3), ignore)
    assert (answer.text, answer.completion_tokens, answer.finish_reason) == ("echo: one two", 3, "length")


async def test_more_than_its_slots_take_turns(autojump_clock):
    """Three answers over two slots take the time of two answers."""
    async with open_engine("fake:100", 2) as engine:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(engine.generate, Prompt([{"role": "user", "content": "a"}]), ignore)
        assert trio.current_time() - began == pytest.approx(0.2)


async def test_a_cancelled_answer_frees_its_slot(autojump_clock):
    """What is cancelled does not keep the next one waiting."""
    async with open_engine("fake:1000", 1) as engine:
        with trio.move_on_after(0.3):
            await engine.generate(Prompt([{"role": "user", "content": "a"}]), ignore)
        with trio.fail_after(1.1):
            await engine.generate(Prompt([{"role": "user", "content": "b"}]), ignore)


@pytest.mark.parametrize("model", ["fake:", "fake:soon", "fake:-1", "fake:1.5", "fake:٣", "fake:600001", "fake:" + "9" * 5000])
async def test_a_bad_number_is_refused(model):
    """What is not a whole number of milliseconds is refused, and the message says what is allowed."""
    with pytest.raises(ModelUnavailable, match="fake:MILLISECONDS, a whole number from 0 to 600000"):
        async with open_engine(model, None):
            pass


async def test_slots_default_to_64():
    """A load test that says nothing of slots gets 64."""
    async with open_engine("fake:0", None) as engine:
        assert engine.slots == 64
