"""Jobs with a document, through the true worker: a scripted engine for every branch, true ones for the whole."""

from __future__ import annotations

import time

import attrs
import pytest
import trio

from sentinel import retry
from sentinel.errors import Unavailable
from sentinel.model import Job, NewJob, State
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine, api_job
from tests.worker.needs import unless_installed
from tests.worker.test_memory import change, message, talk
from tests.worker.test_openai_server import event, response, serving
from worker.bundled import bundled_model
from worker.engine import Prompt, open_engine
from worker.openai_server import BYTES_PER_TOKEN

ASKED = "Which animals are there?"


def prose(sentences: int) -> str:
    """A text whose every sentence is another, of eight words."""
    return "".join(f"In garden number {number} there lives a fox.\n" for number in range(sentences))


def document_job(text: str, title: str = "Animals", **options: object) -> NewJob:
    return api_job(ASKED, document={"text": text, "title": title}, **options)


def asked(prompt: Prompt) -> str:
    """What the last message of a prompt says."""
    return str(prompt.messages[-1]["content"])


def part_of(prompt: Prompt) -> str:
    """The text behind the instruction and what is said about it."""
    return asked(prompt).split("\n\n", 2)[2]


def output(job: Job) -> str:
    assert job.result is not None, job.last_error
    return str(job.result["output_text"])


async def test_what_fits_is_read_at_once(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A document for which there is room stands whole behind the instruction, and takes one generation."""
    engine.answers = ["foxes"]
    (found,) = await talk(sentinel, job := document_job(prose(100)))
    (prompt,) = engine.prompts
    assert asked(prompt) == f'{ASKED}\n\nBelow is the document "Animals".\n\n{prose(100)}'
    assert (output(found), sentinel.record.effects(job.id)) == ("foxes", [])


async def test_part_by_part(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Every part is read once, within its bound and in order; the answer is made of what was said of them, and all tokens count."""
    engine.answers = [f"note {number}" for number in range(20)]
    (found,) = await talk(sentinel, job := document_job(prose(600)), document_part_tokens_max=800, tokens_max=100)
    *parts, last = engine.prompts
    assert "".join(map(part_of, parts)) == prose(600)
    for number, prompt in enumerate(parts, 1):
        assert await engine.count_tokens(prompt.messages) + prompt.tokens_max <= 800
        assert f'part {number} of {len(parts)} of the document "Animals"' in asked(prompt)
        assert prompt.messages[0] == last.messages[0]
    assert part_of(last) == "\n\n".join(f"note {number}" for number in range(len(parts)))
    assert output(found) == f"note {len(parts)}"
    assert found.result is not None
    assert found.result["usage"] == {
        "prompt_tokens": 3 * len(engine.prompts),
        "completion_tokens": len(engine.prompts),
        "total_tokens": 4 * len(engine.prompts),
    }
    told = [(step.step, step.detail) for step in sentinel.record.story(job.id) if step.step.startswith("step_")]
    assert told[:4] == [
        ("step_begun", f"1: part 1 of {len(parts)}"),
        ("step_done", "1"),
        ("step_begun", f"2: part 2 of {len(parts)}"),
        ("step_done", "2"),
    ]


async def test_answers_are_joined_until_they_fit(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """What is said of the parts is put together in rounds, until there is room for an answer; nothing of it is left out."""
    engine.context_tokens = 400
    engine.answers = [" ".join([f"note{number}"] * 60) for number in range(30)]
    (found,) = await talk(sentinel, job := document_job(prose(800)), tokens_max=60)
    names = [effect.name.split()[0] for effect in sentinel.record.effects(job.id)]
    parts, joined = names.count("part"), names.count("join")
    assert names == ["part"] * parts + ["join"] * joined
    assert parts > joined > 1
    first_round = " ".join(part_of(prompt) for prompt in engine.prompts[parts:-1])
    assert all(f"note{number}" in first_round for number in range(parts))
    assert len(engine.prompts) == parts + joined + 1
    assert found.state is State.SUCCEEDED
    for prompt in engine.prompts:
        assert await engine.count_tokens(prompt.messages) + prompt.tokens_max <= 400


async def test_a_chatty_model_ends_too(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Even if the model says far more of each part than it may, the rounds become shorter and the job ends."""
    engine.context_tokens = 400
    engine.answers = [" ".join(["blah"] * 2000) for _ in range(60)]
    (found,) = await talk(sentinel, document_job(prose(400)), tokens_max=60)
    assert found.state is State.SUCCEEDED
    assert len(engine.prompts) < 60


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"document_parts_max": 3}, {}, "more than 3 parts"),
        ({}, {"max_tokens": 1990}, "leaves no room"),
        ({"system_prompt": "word " * 1900}, {}, "leaves no room"),
    ],
)
async def test_what_cannot_be_read(
    sentinel: Sentinel, engine: ScriptedEngine, changes: dict[str, object], options: dict[str, object], reason: str
) -> None:
    """Too many parts, or no room beside what is asked, fails at once with the reason; the model is asked nothing."""
    (found,) = await talk(sentinel, document_job(prose(1000), **options), **changes)
    assert (found.state, engine.prompts) == (State.FAILED, [])
    assert reason in (found.last_error or "")


async def test_a_plain_text_is_no_document(sentinel: Sentinel) -> None:
    """A message that is too long for the model is refused with the numbers, and not read in parts."""
    job = api_job("word " * 9000)
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        found = await sentinel.wait_for(job.id, ended)
    assert (found.state, sentinel.record.effects(job.id)) == (State.FAILED, [])
    assert "more than 8192" in (found.last_error or "")


async def test_a_source_may_have_long_texts_read(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Where a source says what is asked about a text that is too long, it is read in parts; one that fits is a message as ever."""
    change(sentinel, long_text="What is it about?", tools="clock")
    engine.answers = [{"tool": "none"}, "hi", *["note"] * 8, "foxes"]
    short, long = await talk(sentinel, message("hello"), message(prose(600)), document_part_tokens_max=800, tokens_max=100)
    parts = engine.prompts[2:-1]
    assert "".join(map(part_of, parts)) == prose(600)
    assert all(asked(prompt).startswith("What is it about?\n\nBelow is part") for prompt in parts)
    assert all("clock" not in str(prompt.messages[0]) for prompt in parts)
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["hi", "foxes"]
    assert short.state is long.state is State.SUCCEEDED


async def test_an_outage_costs_no_part(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """When the model's server is away in the middle, the next attempt goes on behind the last part, and all tokens count once."""
    engine.answers = ["note 0", "note 1", Unavailable("gone"), "note 2", "note 3", "foxes"]
    (found,) = await talk(sentinel, document_job(prose(300)), document_part_tokens_max=800, tokens_max=100)
    texts = [part_of(prompt) for prompt in engine.prompts]
    assert texts[2] == texts[3]
    assert "".join([*texts[:3], texts[4]]) == prose(300)
    assert output(found) == "foxes"
    assert found.result is not None
    assert found.result["usage"]["completion_tokens"] == 5


async def test_another_model_goes_on(sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a smaller context takes over behind the last finished part, with parts of its own size."""
    monkeypatch.setattr(retry, "BACKOFF_FIRST_SECONDS", 0.5)  # the first worker is to be gone before the second attempt
    engine.answers = ["note 0", Unavailable("gone")]
    job = document_job(prose(600))
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        await sentinel.wait_for(job.id, lambda found: "gone" in (found.last_error or ""))
    first, _ = engine.prompts
    engine.context_tokens = 1000
    async with sentinel.working():
        found = await sentinel.wait_for(job.id, ended)
    *parts, _last = engine.prompts[2:]
    assert part_of(first) + "".join(map(part_of, parts)) == prose(600)
    assert found.state is State.SUCCEEDED


async def test_a_part_has_a_deadline(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A part that takes longer than a generation may is another attempt's; the document as a whole may take longer."""
    engine.seconds = 0.05
    (found,) = await talk(
        sentinel, document_job(prose(300)), document_part_tokens_max=800, tokens_max=100, generation_seconds_max=0.12
    )
    assert (found.state, found.attempt) == (State.SUCCEEDED, 1)
    engine.seconds = 1
    engine.prompts.clear()
    (found,) = await talk(sentinel, document_job(prose(600)), generation_seconds_max=0.02)
    assert (found.state, len(engine.prompts)) == (State.FAILED, found.attempt)


async def test_cancelled_in_the_middle(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A job that is cancelled while a part is read ends, and no other part is begun."""
    engine.answers, engine.seconds = ["note 0"], 0.2
    job = document_job(prose(600))
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        await sentinel.wait_for(job.id, lambda _: len(engine.prompts) > 0)
        engine.seconds = 60
        await sentinel.wait_for(job.id, lambda _: len(engine.prompts) > 1)
        sentinel.record.cancel(job.id, "demo", time.time())
        found = await sentinel.wait_for(job.id, ended)
        assert (found.state, engine.running) == (State.CANCELLED, 0)
    assert len([step for step in sentinel.record.story(job.id) if step.step == "step_begun"]) == len(engine.prompts)


async def test_the_chat_keeps_the_question(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A document is no part of what its conversation remembers; what was asked and answered is."""
    engine.answers = ["foxes", "fine"]
    first = attrs.evolve(document_job(prose(10), memory=True), conversation="c")
    await talk(sentinel, first, attrs.evolve(api_job("thanks", memory=True), conversation="c"))
    said = [message["content"] for message in engine.prompts[-1].messages[1:]]
    assert said == [ASKED, "foxes", "thanks"]


async def test_progress_and_text_are_watched(sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches sees how many of all parts are done, never fewer than before, and of the text the answer alone."""
    monkeypatch.setattr("worker.presence.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("worker.presence.LOOK_SECONDS", 0.005)
    engine.seconds = 0.05
    engine.answers = ["note", "note", "note", "note", "foxes"]
    job = document_job(prose(300), stream=True)
    sentinel.record.accept([job], time.time())
    seen: list[tuple[float, str]] = []
    async with sentinel.working(document_part_tokens_max=800, tokens_max=100):
        with trio.fail_after(10):
            while True:
                (glimpse,) = sentinel.record.glimpses([job.id])
                seen.append((round(glimpse.progress, 3), glimpse.text))
                if glimpse.state.ended:
                    break
                await trio.sleep(0.005)
    progress = list(dict.fromkeys(progress for progress, _ in seen))
    parts = len(engine.prompts) - 1
    assert progress == sorted(progress)
    assert progress == [*(round(done / (parts + 1), 3) for done in range(parts + 1)), *progress[parts + 1 :]]
    assert {text for _, text in seen} <= {"", "foxes"}


async def test_the_fake_engine_reads_documents(sentinel: Sentinel) -> None:
    """The engine for load tests reads a document of three contexts and more, in parts."""
    job = document_job(prose(3500))
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        found = await sentinel.wait_for(job.id, ended)
    assert output(found).startswith(f"echo: {ASKED}")
    assert len(sentinel.record.effects(job.id)) > 10


async def test_a_server_reads_documents(sentinel: Sentinel) -> None:
    """Where tokens can only be estimated, parts are within the estimate, and the answer comes."""
    text = prose(800)
    job = document_job(text)
    sentinel.record.accept([job], time.time())
    async with serving(response(200, event("foxes") + b"data: [DONE]\n\n")) as url, sentinel.working(model=url):
        found = await sentinel.wait_for(job.id, ended)
    assert output(found) == "foxes"
    requests = [effect.request for effect in sentinel.record.effects(job.id)]
    assert len(requests) == 8
    assert "".join(text[request["start"] : request["end"]] for request in requests) == text
    assert max(request["end"] - request["start"] for request in requests) <= 2048 * BYTES_PER_TOKEN


@pytest.mark.slow
@pytest.mark.model
@unless_installed("llama_cpp", model=True)
async def test_the_bundled_model_reads_documents(sentinel: Sentinel) -> None:
    """The true model reads a document of more than three contexts: each part fits, each was answered, and an answer comes."""
    text, context = prose(130), 512
    job = document_job(text, max_tokens=32)
    sentinel.record.accept([job], time.time())
    async with open_engine(str(bundled_model()), 1) as engine:
        assert await engine.count_tokens([{"role": "user", "content": text}]) > 3 * context
    async with sentinel.working(model=None, slots=2, context_tokens=context, tokens_max=32):
        found = await sentinel.wait_for(job.id, ended, 240)
    effects = sentinel.record.effects(job.id)
    parts = [effect for effect in effects if effect.request["level"] == 0]
    assert "".join(text[effect.request["start"] : effect.request["end"]] for effect in parts) == text
    assert len(parts) > 3
    assert all(effect.is_done for effect in effects)
    assert output(found)
    assert found.result is not None
    assert found.result["usage"]["prompt_tokens"] > 3 * context
