"""Named notes about the chat, kept in the record until the chat is forgotten. Never another chat's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from worker.tools import Repeat, Surroundings, Tool, ToolFailed, takes, text_parameter

NOTES_MAX = 50
NAME_MAX = 60
TEXT_MAX = 500


class Notes(Tool):
    """What the model wants to know again."""

    name = "notes"
    description = 'keeps notes about this chat: action "write" (name, text), "read" (all notes) or "remove" (name)'
    parameters = takes(
        {"action": {"enum": ["write", "read", "remove"]}},
        {"name": text_parameter("what the note is called", NAME_MAX), "text": text_parameter("what is noted", TEXT_MAX)},
    )
    repeat = Repeat.KEYED  # the same note written twice is written once
    needs_chat = True
    sample: ClassVar[Mapping[str, Any]] = {"action": "write", "name": "size", "text": "42"}

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """The notes, or what was done."""
        assert around.chat is not None
        record, name, text = around.store.record, arguments.get("name"), arguments.get("text")
        known = await around.store.call(record.notes, around.chat)
        if arguments["action"] == "read":
            return "\n".join(f"{name}: {text}" for name, text in known.items()) or "There are no notes."
        if name is None:
            raise ToolFailed("The note needs a name.")
        if arguments["action"] == "remove":
            await around.store.call(record.note, around.chat, name, None, around.now)
            return "The note is gone."
        if text is None:
            raise ToolFailed("The note needs a text.")
        if len(known) >= NOTES_MAX and name not in known:
            raise ToolFailed(f"There are {NOTES_MAX} notes already; remove one first.")
        await around.store.call(record.note, around.chat, name, text, around.now)
        return "Noted."


tool = Notes()
