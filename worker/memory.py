"""What of a chat's past goes before a new message: the last turns within a budget of tokens, and a summary of what came before.

Never another chat's turns: what is read is one chat's, and what is written shows the lease of a job of that chat.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs

from sentinel.errors import GenerationFailed
from sentinel.logs import log
from sentinel.model import Claim
from sentinel.records import Store
from sentinel.records.memory import Memory, Turn
from worker.commits import LeaseLost
from worker.engine import Engine, Message, Prompt
from worker.prompts import SUMMARISE, transcript, turn_messages

SUMMARY_TOKENS_MAX = 200


@attrs.frozen(eq=False)
class ChatMemory:
    """Reads chats and keeps them short: more than `budget_tokens` of turns become a summary, but for the last half of it."""

    store: Store
    engine: Engine
    budget_tokens: int

    async def settle(self, claim: Claim, known: Memory) -> Memory:
        """
        The chat as it is to be remembered from now on: `known`, summarised if it is over the budget.

        Raises:
            LeaseLost: the job belongs to somebody else by now.
        """
        costs = [await self._cost(turn) for turn in known.turns]
        if sum(costs) <= self.budget_tokens:
            return known
        kept = fitting(costs, self.budget_tokens // 2)
        old, new = known.turns[: len(costs) - kept], known.turns[len(costs) - kept :]
        summary = await self._summarise(known.summary, old)
        if not await self.store.call(self.store.record.save_summary, claim, summary, old[-1].place, time.time()):
            raise LeaseLost
        log.info("memory.summarised", job=claim.job.id, turns=len(old))
        return Memory(summary, new, known.held)

    async def recall(self, known: Memory, room_tokens: int) -> list[Message]:
        """The last turns that fit into the room that is left, in order, as messages."""
        costs = [await self._cost(turn) for turn in known.turns]
        kept = known.turns[len(costs) - fitting(costs, min(room_tokens, self.budget_tokens)) :]
        return [message for turn in kept for message in turn_messages(turn)]

    async def _cost(self, turn: Turn) -> int:
        """The turn's tokens; one that cannot be shown to this model costs more than there is."""
        try:
            return await self.engine.count_tokens(turn_messages(turn))
        except GenerationFailed:
            return self.budget_tokens + 1

    async def _summarise(self, summary: str, turns: Sequence[Turn]) -> str:
        """The summary of an older summary and these turns; the older one alone if the model cannot do it."""
        text = (f"Before: {summary}\n" if summary else "") + transcript(turns)
        try:
            messages = await self._shortened(text)
            generation = await self.engine.generate(Prompt(messages, SUMMARY_TOKENS_MAX, temperature=0.0), _ignore)
        except GenerationFailed as error:
            log.warning("memory.not_summarised", reason=error.detail)
            return summary
        return generation.text.strip()

    async def _shortened(self, text: str) -> list[Message]:
        """The question for a summary; of a text that is too long, the end."""
        while True:
            messages: list[Message] = [{"role": "user", "content": SUMMARISE + text}]
            if len(text) < 100 or await self.engine.count_tokens(messages) + SUMMARY_TOKENS_MAX <= self.engine.context_tokens:
                return messages
            text = text[len(text) // 4 :]


def _ignore(_tokens: int, _piece: str) -> None:
    """Nobody watches a summary being written."""


def fitting(costs: Sequence[int], budget: int) -> int:
    """How many of the last costs are together within the budget."""
    count = 0
    for cost in reversed(costs):
        budget -= cost
        if budget < 0:
            break
        count += 1
    return count
