"""Leaves the chat to a person: its later messages are kept, and the model is silent until the chat is released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sentinel.logs import log
from worker.tools import Repeat, Surroundings, Tool, takes, text_parameter


class HandOver(Tool):
    """A person answers from now on."""

    name = "hand_over"
    description = "hands this chat over to a person of the team; use it if the user asks for one or cannot be helped otherwise"
    parameters = takes({"reason": text_parameter("why, in a few words", 200)})
    repeat = Repeat.KEYED  # a chat that is held is held
    needs_chat = True
    sample: ClassVar[Mapping[str, Any]] = {"reason": "the user asks for a person"}

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """What the user can be told."""
        assert around.chat is not None
        await around.store.call(around.store.record.hold, around.chat, around.now)
        log.warning("chat.handed_over", channel=around.chat.channel, source=around.chat.source)
        return "A person will answer in this chat from now on."


tool = HandOver()
