"""Reads a document that is longer than the model's context: part by part, then what came of the parts, until it is short enough.

Each finished part is in the record before the next is begun, so a job that is taken up again goes on behind the last one. The
answer itself is the caller's to make.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import attrs

from sentinel import payload
from sentinel.errors import GenerationFailed
from sentinel.logs import log
from sentinel.model import Claim, Document
from sentinel.records import Store
from sentinel.records.effects import Effect
from sentinel.settings import Settings
from worker.commits import LeaseLost, until_written
from worker.document import Cost, Span, cut, joins, split
from worker.engine import Engine, Generation, Message, Prompt, within
from worker.prompts import about_document, seed_of, tokens_max

ROUNDS_MAX = 12  # of putting answers together; each makes fewer of them, two of one at the least
NOTE_SHARE, ROOM_SHARE = 4, 4  # of a part's tokens: what is said of it gets at most a fourth, its text at least one
SLACK_TOKENS = 16  # a count of the whole may differ from the sum of its pieces
Shorten = Callable[[str], Awaitable[str]]
_NO_ROOM = "What is asked about the document, with the answer, leaves no room for it in the model's context of {} tokens."


@attrs.define(eq=False)
class Reading:
    """One job's document, being read. `messages` are what is asked about it."""

    settings: Settings
    store: Store
    engine: Engine
    claim: Claim
    document: Document
    messages: Sequence[Message]
    report: Callable[[float, str], None]
    _finished: dict[tuple[int, int], tuple[int, Generation]] = attrs.field(factory=dict, init=False)
    _begun: dict[tuple[int, Span], int] = attrs.field(factory=dict, init=False)
    _steps: int = attrs.field(default=0, init=False)

    @property
    def generations(self) -> list[Generation]:
        """What the model has said of parts, in this attempt and in those before."""
        return [generation for _, generation in self._finished.values()]

    async def run(self) -> list[Message]:
        """
        The messages to answer from: with the whole document if there is room for it, else with what was said of its parts.

        Raises:
            GenerationFailed: it has too many parts, or what is asked leaves no room for it.
            GenerationTimeout: a part took longer than a generation may.
            LeaseLost, Unavailable: the job is somebody else's, or the record cannot tell.
        """
        await self._recall()
        text, parts_max = self.document.text, self.settings.document_parts_max
        for level in range(ROUNDS_MAX):
            messages = about_document(self.messages, self.document.title, text, level)
            if await self._room_to_answer(messages) >= 0:
                return messages
            notes = await self._notes(text, level, parts_max)
            text, parts_max = "\n\n".join(notes), max(1, len(notes) - 1)
        raise GenerationFailed("What the model says of the parts of the document is too long to be put together.")

    def answering(self, fraction: float, piece: str) -> None:
        """Report how far the answer is, which is the last piece of work."""
        self._tell((len(self._finished) + fraction) / (len(self._finished) + 1), piece)

    async def _recall(self) -> None:
        """What an earlier attempt has finished, and what it has begun."""
        for effect in await self.store.call(self.store.record.effects, self.claim.job.id):
            self._steps = effect.step
            if "level" not in effect.request:
                continue  # a tool's, of an attempt by an engine for which nothing was too long
            level, span = effect.request["level"], Span(effect.request["start"], effect.request["end"])
            if effect.result is None:
                self._begun[level, span] = effect.step
            else:
                said = payload.decode_own_json(effect.result)
                generation = Generation(said["text"], said["prompt_tokens"], said["completion_tokens"], "stop")
                self._finished[level, span.start] = span.end, generation

    async def _notes(self, text: str, level: int, parts_max: int) -> list[str]:
        """What the model says of each part of the text, in order."""
        room, cost = await self._room(level)
        note_room, shorten = await self._room_for_notes(level + 1)
        ends = {start: end for (other, start), (end, _) in self._finished.items() if other == level}
        spans = await split(text, room, cost, parts_max, ends)
        ahead = joins(len(spans), max(2, room // self._note_tokens), note_room // self._note_tokens) + 1
        for number, span in enumerate(spans, 1):
            if (level, span.start) not in self._finished:
                await self._read(text, level, span, f"{number} of {len(spans)}", shorten)
            done = len(self._finished)
            self._tell(done / (done + sum((level, left.start) not in self._finished for left in spans) + ahead), "")
        return [self._finished[level, span.start][1].text for span in spans]

    async def _read(self, text: str, level: int, span: Span, place: str, shorten: Shorten) -> None:
        """Have one part read, with the intent before and what was said after in the record."""
        step = self._begun.get((level, span))
        if step is None:
            step = self._steps = self._steps + 1
        request = {"level": level, "start": span.start, "end": span.end}
        effect = Effect(step, f"{'join' if level else 'part'} {place}", request)
        if not await self.store.call(self.store.record.begin_effect, self.claim, effect, time.time()):
            raise LeaseLost
        messages = about_document(self.messages, self.document.title, text[span.start : span.end], level, place)
        with within(self.settings.generation_seconds_max):
            generation = await self.engine.generate(Prompt(messages, self._note_tokens, seed=seed_of(self.claim.job)), _ignore)
        generation = attrs.evolve(generation, text=await shorten(generation.text.strip()))
        await self._finish(step, generation)
        self._finished[level, span.start] = span.end, generation
        log.info("document.part_read", job=self.claim.job.id, step=step, part=place, level=level)

    async def _finish(self, step: int, generation: Generation) -> None:
        said = attrs.asdict(generation, filter=attrs.filters.include("text", "prompt_tokens", "completion_tokens"))
        result, record = payload.encode_json(said).decode(), self.store.record
        if not await until_written(lambda: self.store.call(record.finish_effect, self.claim, step, result, time.time())):
            raise LeaseLost

    def _tell(self, progress: float, piece: str) -> None:
        self.report(min(0.99, progress), piece)

    # What there is room for

    @property
    def _part_tokens(self) -> int:
        return min(self.settings.document_part_tokens_max, self.engine.context_tokens)

    @property
    def _note_tokens(self) -> int:
        return max(1, min(self.settings.tokens_max, self._part_tokens // NOTE_SHARE))

    async def _room_to_answer(self, messages: Sequence[Message]) -> int:
        """How many tokens are left when these messages are answered; less than 0 if they cannot be."""
        used = await self.engine.count_tokens(messages) + tokens_max(self.claim.job, self.settings)
        return self.engine.context_tokens - used

    async def _room(self, level: int) -> tuple[int, Cost]:
        """How many tokens a part may have, and what counts them."""
        place = f"{self.settings.document_parts_max} of {self.settings.document_parts_max}"

        async def count(text: str) -> int:
            return await self.engine.count_tokens(about_document(self.messages, self.document.title, text, level, place))

        frame = await count("")
        room = self._part_tokens - self._note_tokens - frame - SLACK_TOKENS
        if room < self._part_tokens // ROOM_SHARE:
            raise GenerationFailed(_NO_ROOM.format(self._part_tokens))

        async def cost(text: str) -> int:
            return await count(text) - frame

        return room, cost

    async def _room_for_notes(self, level: int) -> tuple[int, Shorten]:
        """
        How many tokens of notes the answer may be made of.

        And what cuts one that is so long that three would not make one part, or one alone leaves no room for an answer.
        """
        room, cost = await self._room(level)
        last = await self._room_to_answer(about_document(self.messages, self.document.title, "", level)) - SLACK_TOKENS
        room = min(room // 3, last)
        if room < 1:
            raise GenerationFailed(_NO_ROOM.format(self.engine.context_tokens))

        async def shorten(note: str) -> str:
            span, _ = await cut(note, 0, room, cost)
            return note[: span.end]

        return last, shorten


def _ignore(_tokens: int, _piece: str) -> None:
    """Nobody watches a part being read."""
