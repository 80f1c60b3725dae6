"""The agent: from a claimed job to its answer, with what its chat remembers. Stores and sends no reply; that is the caller's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from sentinel.directory import DirectoryFollower
from sentinel.model import Chat, Claim, Document, Source
from sentinel.outbound import Outbound
from sentinel.records import Store
from sentinel.records.memory import Memory
from sentinel.settings import Settings
from worker.engine import Engine, Generation, Message, Prompt, within
from worker.memory import ChatMemory
from worker.prompts import asks_to_forget, build_result, prompt_for, remembers, system_prompt, tokens_max, with_system
from worker.reading import Reading
from worker.tool_loop import ToolLoop, Worked
from worker.tool_words import ANSWER, ask, described
from worker.tools import Tool
from worker.tools_allowed import tools_for

Report = Callable[[float, str], None]  # how far the job is, from 0 to 1, and the next piece of the answer


@attrs.frozen
class Answer:
    """What a job comes to. A `silent` one is kept with the job and not sent: a person answers in that chat."""

    result: dict[str, Any] = attrs.field(repr=False)
    silent: bool = False

    @property
    def text(self) -> str:
        """What is to be said."""
        return str(self.result["output_text"])


@attrs.frozen(eq=False)
class Agent:
    """Answers jobs with one engine. `recall` tells what is known of a chat."""

    settings: Settings
    store: Store
    recall: Callable[[Chat], Awaitable[Memory]]
    engine: Engine
    outbound: Outbound
    directory: DirectoryFollower

    async def answer(self, claim: Claim, source: Source | None, report: Report) -> Answer:
        """
        The answer to the job.

        Raises:
            GenerationFailed: the model cannot answer it, and another attempt would not help.
            GenerationTimeout: it took longer than it may.
            LeaseLost, Unavailable: the job is somebody else's, or the record cannot tell.
        """
        with within(self.settings.generation_seconds_max):
            known = await self._known(claim)
            if source is not None and known.held:
                return Answer(build_result("", "held"), silent=True)
            if source is not None and asks_to_forget(claim.job):
                return await self._forget(claim)
            reading = await self._reading(claim, source, report)
            if reading is None:
                return await self._generate(claim, source, known, report)
        with within(self.settings.document_seconds_max):
            return await self._answer_about(reading)

    async def _known(self, claim: Claim) -> Memory:
        chat = claim.job.chat
        return Memory() if chat is None else await self.recall(chat)

    async def _forget(self, claim: Claim) -> Answer:
        """What the chat said is forgotten, without asking the model."""
        assert claim.job.chat is not None
        await self.store.call(self.store.record.forget, claim.job.chat)
        return Answer(build_result(self.settings.forgotten_text, "command"))

    async def _generate(self, claim: Claim, source: Source | None, known: Memory, report: Report) -> Answer:
        tools = tools_for(claim.job, source)
        worked = Worked(await self._messages(claim, source, known, tools))
        if tools:
            loop = ToolLoop(self.settings, self.store, self.engine, self.outbound, self.directory, claim, source, tools)
            worked = await loop.run(worked.messages)
        messages = ask(worked.messages, ANSWER) if worked.effects else worked.messages
        generation = await self._run(prompt_for(claim.job, messages, self.settings), report)
        return Answer(build_result(generation.text, generation.finish_reason, *worked.generations, generation))

    async def _reading(self, claim: Claim, source: Source | None, report: Report) -> Reading | None:
        """The job's document, to be read; or its text, where that is too long and the source says what is asked about such."""
        job, document = claim.job, claim.job.document
        messages = with_system(job.input, system_prompt(source, self.settings))
        if document is None and (asked := source.setting("long_text") if source else ""):
            needed = await self.engine.count_tokens(messages) + tokens_max(job, self.settings)
            if needed > self.engine.context_tokens:
                document = Document("\n\n".join(message["content"] for message in messages[1:]))
                messages = [messages[0], {"role": "user", "content": asked}]
        return Reading(self.settings, self.store, self.engine, claim, document, messages, report) if document else None

    async def _answer_about(self, reading: Reading) -> Answer:
        """The answer to what is asked about a document; without tools, and without the chat's past."""
        prompt = prompt_for(reading.claim.job, await reading.run(), self.settings)
        generation = await self._run(prompt, reading.answering)
        return Answer(build_result(generation.text, generation.finish_reason, *reading.generations, generation))

    async def _messages(self, claim: Claim, source: Source | None, known: Memory, tools: Mapping[str, Tool]) -> list[Message]:
        """The system prompt, what the chat remembers as far as there is room, and the new messages."""
        job, about_tools = claim.job, described(tools) if tools else ""
        if not remembers(job, source) or known == Memory():
            return with_system(job.input, system_prompt(source, self.settings), about_tools)
        memory = ChatMemory(self.store, self.engine, self.settings.memory_tokens_max)
        known = await memory.settle(claim, known)
        fresh = with_system(job.input, system_prompt(source, self.settings, known.summary), about_tools)
        room = self.engine.context_tokens - tokens_max(job, self.settings) - await self.engine.count_tokens(fresh)
        head, rest = fresh[:1], fresh[1:]
        return [*head, *await memory.recall(known, room), *rest]

    async def _run(self, prompt: Prompt, report: Report) -> Generation:
        def progress(tokens: int, piece: str) -> None:
            report(min(0.99, tokens / prompt.tokens_max), piece)

        return await self.engine.generate(prompt, progress)
