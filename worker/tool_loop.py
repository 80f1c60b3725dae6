"""The loop of model and tools: choose, fill in, do, tell, until the model wants to answer or a limit is reached.

Each call is in the record before it is done and after it is done. A job that is taken up again goes on behind the last finished
call, and what may have been done already is repeated only where the tool says that this is harmless.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from sentinel.directory import DirectoryFollower
from sentinel.errors import GenerationFailed
from sentinel.logs import log
from sentinel.model import Claim, Source
from sentinel.outbound import Outbound
from sentinel.records import Store
from sentinel.records.effects import Effect
from sentinel.settings import Settings
from worker import tool_words
from worker.commits import LeaseLost, until_written
from worker.engine import Engine, Generation, Message, Prompt
from worker.json_schema import write_json
from worker.prompts import seed_of, tokens_max
from worker.tools import OutcomeUnknown, Repeat, Surroundings, Tool, ToolFailed

CHOICE_TOKENS_MAX = 40
ARGUMENTS_TOKENS_MAX = 400
RESULT_CHARACTERS_MIN = 100


@attrs.frozen
class Worked:
    """What the loop came to: the messages to answer from, and what the model has generated for it."""

    messages: list[Message] = attrs.field(repr=False)
    generations: list[Generation] = attrs.field(factory=list, repr=False)
    effects: list[Effect] = attrs.field(factory=list, repr=False)

    @property
    def tokens(self) -> int:
        """How many the model has generated to decide."""
        return sum(generation.completion_tokens for generation in self.generations)


@attrs.frozen(eq=False)
class ToolLoop:
    """Runs tools for one job."""

    settings: Settings
    store: Store
    engine: Engine
    outbound: Outbound
    directory: DirectoryFollower
    claim: Claim
    source: Source | None
    tools: Mapping[str, Tool]

    async def run(self, messages: list[Message]) -> Worked:
        """The messages with every call and what came of it. Raises LeaseLost, Unavailable."""
        worked = Worked(messages)
        steps = await self.store.call(self.store.record.effects, self.claim.job.id)
        for effect in steps:
            await self._tell(worked, effect, effect.result if effect.result is not None else await self._again(effect))
        for step in range(len(steps) + 1, self.settings.tool_steps_max + 1):
            if worked.tokens >= self.settings.tool_tokens_max or not await self._has_room(worked.messages):
                break
            name = await self._choose(worked)
            if name is None:
                break
            arguments = await self._fill_in(worked, name)
            if arguments is None:
                await self._tell(worked, Effect(step, name, {}), "failed: the arguments were not valid.")
                continue
            effect = Effect(step, name, arguments)
            await self._tell(worked, effect, tool_words.REPEATED if self._is_done(worked, effect) else await self._do(effect))
        return worked

    # What the model decides

    async def _choose(self, worked: Worked) -> str | None:
        """The tool that the model wants; None if it wants to answer."""
        asked = tool_words.ask(worked.messages, tool_words.choose(list(self.tools)))
        chosen = await self._generate(worked, asked, CHOICE_TOKENS_MAX, tool_words.choice_schema(list(self.tools)))
        name = None if chosen is None else str(chosen["tool"])
        return name if name in self.tools else None

    async def _fill_in(self, worked: Worked, name: str) -> Mapping[str, Any] | None:
        """The arguments; None if the model could not write any that fit."""
        parameters = self.tools[name].parameters
        if not parameters["properties"]:
            return {}
        asked = tool_words.ask(worked.messages, tool_words.fill_in(self.tools[name]))
        arguments = await self._generate(worked, asked, ARGUMENTS_TOKENS_MAX, parameters)
        return arguments if isinstance(arguments, dict) else None

    async def _generate(self, worked: Worked, messages: Sequence[Message], tokens: int, schema: Mapping[str, Any]) -> Any:
        """JSON of the schema; None if the model cannot."""
        prompt = Prompt(messages, tokens, temperature=0.0, seed=seed_of(self.claim.job), json_schema=schema)
        try:
            generation = await self.engine.generate(prompt, _ignore)
        except GenerationFailed as error:
            log.info("tool.not_decided", job=self.claim.job.id, reason=error.detail)
            return None
        worked.generations.append(generation)
        return generation.value

    # What is done

    def _is_done(self, worked: Worked, effect: Effect) -> bool:
        """Whether the very same was asked for in this job, of a tool that does it twice if asked twice."""
        same = any((done.name, done.request) == (effect.name, effect.request) for done in worked.effects)
        return same and self.tools[effect.name].repeat is Repeat.NEVER

    async def _do(self, effect: Effect) -> str:
        """Call the tool, with the intent before and the result after in the record."""
        if not await self.store.call(self.store.record.begin_effect, self.claim, effect, time.time()):
            raise LeaseLost
        return await self._finish(effect, await self._call(effect))

    async def _again(self, effect: Effect) -> str:
        """What a call comes to of which only the intent is known."""
        tool = self.tools.get(effect.name)
        if tool is None or tool.repeat is Repeat.NEVER:
            return await self._finish(effect, tool_words.UNKNOWN)
        return await self._finish(effect, await self._call(effect))

    async def _finish(self, effect: Effect, result: str) -> str:
        record = self.store.record
        if not await until_written(lambda: self.store.call(record.finish_effect, self.claim, effect.step, result, time.time())):
            raise LeaseLost
        return result

    async def _call(self, effect: Effect) -> str:
        """What the model is told: the tool's words within the limits, or a short sentence that it failed."""
        tool = self.tools[effect.name]
        result = tool_words.UNKNOWN if tool.repeat is Repeat.NEVER else "failed: it took too long."
        try:
            with trio.move_on_after(self.settings.tool_seconds_max):
                result = await tool.run(effect.request, self._surroundings(effect))
        except ToolFailed as error:
            result = f"failed: {error.detail}"
        except OutcomeUnknown as error:
            result = f"{error.detail} {tool_words.UNKNOWN}"
        plain = tool_words.without_secrets(result, tool_words.secrets_of(self.source, self.tools))
        log.info("tool.called", job=self.claim.job.id, tool=effect.name, step=effect.step, failed=result.startswith("failed: "))
        return tool_words.bounded(plain, self.settings.tool_output_max)

    def _surroundings(self, effect: Effect) -> Surroundings:
        job = self.claim.job
        hosts = self.source.setting("fetch_hosts") if self.source else ""
        return Surroundings(
            key=f"{job.id}:{effect.step}",
            tenant=job.tenant,
            chat=job.chat,
            store=self.store,
            outbound=self.outbound,
            networks=self.directory.current.networks.get(job.tenant, ()),
            hosts=[host.strip().lower() for host in hosts.split(",") if host.strip()],
        )

    # What there is room for

    async def _tell(self, worked: Worked, effect: Effect, result: str) -> None:
        """Add the call and its result to the messages; a result for which there is no room is cut."""
        call = write_json({"tool": effect.name, "arguments": dict(effect.request)})
        while True:
            told: list[Message] = [
                {"role": "assistant", "content": call},
                {"role": "user", "content": tool_words.told(effect.name, result)},
            ]
            if len(result) <= RESULT_CHARACTERS_MIN or await self._has_room([*worked.messages, *told]):
                break
            result = tool_words.bounded(result, len(result) // 2)
        worked.messages.extend(told)
        worked.effects.append(effect)

    async def _has_room(self, messages: Sequence[Message]) -> bool:
        """Whether the answer, and one more call, would fit behind these messages."""
        needed = max(tokens_max(self.claim.job, self.settings), ARGUMENTS_TOKENS_MAX)
        return await self.engine.count_tokens(messages) + needed <= self.engine.context_tokens


def _ignore(_tokens: int, _piece: str) -> None:
    """Nobody watches a decision being made."""
