"""The loop of model and tools through the true worker: a scripted engine for every branch, the bundled model for the whole."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest

from sentinel.http import json_response
from sentinel.model import Source, State
from sentinel.stand_in import Delivery
from tests.conftest import Sentinel, ended
from tests.worker.conftest import ScriptedEngine, api_job
from tests.worker.needs import unless_installed
from tests.worker.test_memory import CHAT, change, message, talk
from worker.tool_words import bounded, secrets_of, without_secrets

CALCULATE: list[Any] = [{"tool": "calculator"}, {"expression": "6*7"}]
NO_TOOL: dict[str, Any] = {"tool": "none"}


async def test_a_call_and_its_result(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """The model chooses, fills in, sees the result and answers; the call is a step of the job's story, its tokens are counted."""
    engine.answers = [*CALCULATE, NO_TOOL, "It is 42."]
    job = api_job("what is 6*7?", tools=["calculator"])
    sentinel.record.accept([job], time.time())
    async with sentinel.working():
        found = await sentinel.wait_for(job.id, ended)
    assert found.result is not None
    assert found.result["output_text"] == "It is 42."
    assert found.result["usage"]["completion_tokens"] == 4
    assert "Result of calculator: 42" in str(engine.prompts[-1].messages)
    (effect,) = sentinel.record.effects(job.id)
    assert (effect.name, effect.request, effect.result) == ("calculator", {"expression": "6*7"}, "42")
    assert [step.step for step in sentinel.record.story(job.id)][-4:] == ["step_begun", "step_done", "generated", "succeeded"]
    assert [prompt.json_schema is not None for prompt in engine.prompts] == [True, True, True, False]


async def test_the_last_question_is_not_lost(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Roles alternate in every prompt, and the user's words stay in it."""
    engine.answers = [*CALCULATE, NO_TOOL, "42"]
    change(sentinel, tools="calculator")
    await talk(sentinel, message("what is 6*7?"))
    assert len(engine.prompts) == 4
    for prompt in engine.prompts:
        roles = [message["role"] for message in prompt.messages]
        assert all(one != other for one, other in pairwise(roles))
        assert "what is 6*7?" in str(prompt.messages)


async def test_only_what_is_allowed(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """The model may choose among the source's tools, and without tools it is asked nothing but the answer."""
    change(sentinel, tools="clock, notes")
    engine.answers = [NO_TOOL, "hi"]
    await talk(sentinel, message("hello"))
    schema = engine.prompts[0].json_schema
    assert schema is not None
    assert schema["properties"]["tool"]["enum"] == ["none", "clock", "notes"]
    assert "clock" in str(engine.prompts[1].messages[0])
    engine.prompts.clear()
    await talk(sentinel, api := api_job("hello"))
    assert (len(engine.prompts), engine.prompts[0].json_schema) == (1, None)
    assert api.options == {}


async def test_it_ends(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A model that never stops asking gets so many tools and has to answer then."""
    engine.answers = [*CALCULATE, *CALCULATE, "enough"]
    job = api_job("?", tools=["calculator"])
    (found,) = await talk(sentinel, job, tool_steps_max=2)
    assert found.result is not None
    assert found.result["output_text"] == "enough"
    assert len(sentinel.record.effects(job.id)) == 2


async def test_a_bound_on_tokens(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """What a job may spend on choosing is bounded too."""
    engine.answers = [*CALCULATE, "enough"]
    (found,) = await talk(sentinel, api_job("?", tools=["calculator"]), tool_tokens_max=2)
    assert found.result is not None
    assert found.result["output_text"] == "enough"


@pytest.mark.parametrize(
    ("expression", "told"), [("1/0", "failed: This divides by zero."), ("os.system('x')", "failed: Only numbers")]
)
async def test_a_failure_is_told(sentinel: Sentinel, engine: ScriptedEngine, expression: str, told: str) -> None:
    """A tool that cannot do it is no failure of the job: the model reads a plain sentence."""
    engine.answers = [{"tool": "calculator"}, {"expression": expression}, NO_TOOL, "sorry"]
    (found,) = await talk(sentinel, api_job("?", tools=["calculator"]))
    assert found.state is State.SUCCEEDED
    assert told in str(engine.prompts[-1].messages)


async def test_arguments_that_do_not_fit(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Arguments that are no JSON of the schema call nothing, and the model is told so."""
    engine.answers = [{"tool": "calculator"}, "nonsense", NO_TOOL, "sorry"]
    job = api_job("?", tools=["calculator"])
    (found,) = await talk(sentinel, job)
    assert found.state is State.SUCCEEDED
    assert "arguments were not valid" in str(engine.prompts[-1].messages)
    assert sentinel.record.effects(job.id) == []


async def test_a_choice_that_is_none(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A model that cannot choose answers without a tool."""
    engine.answers = ["nonsense", "plain"]
    (found,) = await talk(sentinel, api_job("?", tools=["calculator"]))
    assert found.result is not None
    assert found.result["output_text"] == "plain"


async def test_a_large_result_is_cut(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A result is cut to the bound, and further if there is no room for it."""
    change(sentinel, tools="notes")
    sentinel.record.note(CHAT, "long", "x" * 10_000, time.time())
    engine.answers = [{"tool": "notes"}, {"action": "read"}, NO_TOOL, "ok"]
    await talk(sentinel, message("?"), tool_output_max=200)
    assert "(cut)" in str(engine.prompts[-1].messages)
    assert "x" * 201 not in str(engine.prompts[-1].messages)


async def test_handing_over(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """After the tool hand_over the user is told, and the next message is kept without an answer."""
    change(sentinel, tools="hand_over")
    engine.answers = [{"tool": "hand_over"}, {"reason": "asked"}, NO_TOOL, "A person will come."]
    first, second = await talk(sentinel, message("a person please"), message("hello?"))
    assert [delivery.text for delivery in sentinel.stand_in.of("telegram")] == ["A person will come."]
    assert second.result is not None
    assert second.result["finish_reason"] == "held"
    assert first.state is second.state is State.SUCCEEDED


def order_tool(sentinel: Sentinel, **changes: str) -> str:
    """A declared tool that orders at the stand-in."""
    tool = {
        "name": "order",
        "description": "orders something",
        "url": sentinel.stand_in.base("shop"),
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "headers": {"authorization": "Bearer hush-hush"},
    }
    return json.dumps([tool | changes])


async def test_a_declared_tool(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A declared tool is called once for the same wish, with its credentials and a key; no prompt ever holds a secret."""
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    change(sentinel, http_tools=order_tool(sentinel))
    asked = [{"tool": "order"}, {"text": "tea"}]

    def repeat_what_was_sent(delivery: Delivery) -> Any:
        if delivery.label != "shop":
            return None
        echoed.append(delivery)
        return json_response(201, {"you sent": delivery.headers})

    echoed: list[Delivery] = []
    sentinel.stand_in.misbehave = repeat_what_was_sent
    engine.answers = [*asked, *asked, NO_TOOL, "ordered"]
    job = message("tea please")
    await talk(sentinel, job)
    (delivery,) = echoed
    assert (delivery.text, delivery.headers["authorization"]) == ("tea", "Bearer hush-hush")
    assert delivery.headers["idempotency-key"] == f"{job.id}:1"
    assert "hush-hush" not in str([prompt.messages for prompt in engine.prompts])
    assert "asked for already" in str(engine.prompts[-1].messages)


async def test_the_inside_is_not_reached(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """Neither a declared tool nor fetch reaches an inside network that the tenant was not given."""
    change(sentinel, http_tools=order_tool(sentinel), tools="fetch")
    engine.answers = [{"tool": "order"}, {"text": "tea"}, {"tool": "fetch"}, {"url": sentinel.stand_in.base("x")}, NO_TOOL, "no"]
    await talk(sentinel, message("tea please"))
    assert sentinel.stand_in.of("shop") == sentinel.stand_in.of("x") == []
    assert str(engine.prompts[-1].messages).count("not public") == 2


async def test_a_slow_tool_has_a_deadline(sentinel: Sentinel, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that takes too long is given up, and the model is told."""
    import trio

    async def for_ever(*_: object) -> str:
        await trio.sleep_forever()
        return ""

    monkeypatch.setattr("worker.tools.calculator.Calculator.run", for_ever)
    engine.answers = [*CALCULATE, NO_TOOL, "sorry"]
    (found,) = await talk(sentinel, api_job("?", tools=["calculator"]), tool_seconds_max=0.05)
    assert found.state is State.SUCCEEDED
    assert "took too long" in str(engine.prompts[-1].messages)


async def test_tools_that_are_not_there(sentinel: Sentinel, engine: ScriptedEngine) -> None:
    """A source whose tools cannot be read fails its jobs with the reason, and calls nothing."""
    change(sentinel, tools="clock,laser")
    (found,) = await talk(sentinel, message("?"))
    assert (found.state, engine.prompts) == (State.FAILED, [])
    assert "laser" in str(found.last_error)


def test_words() -> None:
    """Texts are cut to their bound, and secrets of some length are made unreadable."""
    assert bounded("abc", 3) == "abc"
    assert len(bounded("x" * 100, 20)) == 20
    assert without_secrets("a hush-hush b on", ["hush-hush", "on", ""]) == "a ••• b on"
    rotating = Source("default", "telegram", "bot", {"bot_token": "the new one", "bot_token_previous": "the old one"})
    assert secrets_of(rotating, {}) == ["the new one", "the old one"]


@unless_installed("llama_cpp", model=True)
@pytest.mark.slow
async def test_the_bundled_model_uses_a_tool(sentinel: Sentinel) -> None:
    """With the real model under its grammar a job with tools ends, and what it called fitted the tool's schema."""
    options = {"tools": ["calculator", "clock"], "max_tokens": 20}
    jobs = [api_job(f"Use the calculator: what is {number} * 7?", **options) for number in range(4)]
    sentinel.record.accept(jobs, time.time())
    async with sentinel.working(model=None, tool_steps_max=2):
        found = [await sentinel.wait_for(job.id, ended, 120) for job in jobs]
    assert [job.state for job in found] == [State.SUCCEEDED] * 4
    called = [effect for job in jobs for effect in sentinel.record.effects(job.id)]
    assert called
    assert all(effect.is_done for effect in called)
    assert all(set(effect.request) <= {"expression"} for effect in called)
