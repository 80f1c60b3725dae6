"""What the model is told and how its answer is shown: from a job to messages, from text to a result. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

from sentinel.channels import is_on
from sentinel.edge.notices import Notice
from sentinel.model import Job, Source
from sentinel.records.memory import Turn
from sentinel.settings import Settings
from worker.engine import Generation, Message, Prompt

APOLOGY_FOR = "apology_for"  # in the result of a job that failed: what was said instead of an answer was an apology

# "/forget", also with a bot's name behind it (Telegram, in groups) or a mention before it (Slack).
_FORGET = re.compile(r"\s*(?:<@\w+>\s*)?[/!]forget(?:@\w+)?\s*", re.ASCII | re.IGNORECASE)
# What is said before a document or a part of it, and before the answers to its parts; the second of each where there is another.
_DOCUMENT = (
    ("Below is {name}.", "Below is part {place} of {name}. Answer for this part alone; the answers are put together later."),
    (
        "Below is what was answered for the parts of {name}, in order. Put it together into one answer.",
        "Below is some of what was answered for the parts of {name}, in order. Put it together; the rest is added later.",
    ),
)
SUMMARISE = "Summarise this conversation in a few sentences. Keep names, numbers, wishes and promises.\n\n"


def remembers(job: Job, source: Source | None) -> bool:
    """Whether the job is to be a turn of its chat: on by default for chats, off for the job API, never a command or a refusal."""
    if job.chat is None or asks_to_forget(job) or Notice.of(job.options):
        return False
    return bool(job.options.get("memory")) if source is None else is_on(source.settings, "memory")


def asks_to_forget(job: Job) -> bool:
    """Whether the user asks for the chat to be forgotten, and says nothing else."""
    return len(job.input) == 1 and _FORGET.fullmatch(str(job.input[0]["content"])) is not None


def system_prompt(source: Source | None, settings: Settings, summary: str = "") -> str:
    """The source's own system prompt, or the general one; and what was said long ago."""
    said = (source.setting("system_prompt") if source else "") or settings.system_prompt
    return f"{said}\n\nEarlier in this conversation: {summary}" if summary else said


def with_system(messages: Sequence[Message], system: str, more: str = "") -> list[Message]:
    """The messages with the system prompt in front, unless the caller sent one; `more` is said behind either."""
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    return [{"role": "system", "content": f"{system}\n\n{more}" if more else system}, *messages]


def about_document(messages: Sequence[Message], title: str, text: str, level: int, place: str = "") -> list[Message]:
    """
    The messages with a document's text behind the last of them: all of it, or the part at `place` ("3 of 12").

    From level 1 on the text is what was answered for the document's parts.
    """
    name = f'the document "{title}"' if title else "the document"
    said = _DOCUMENT[level > 0][bool(place)].format(name=name, place=place)
    return [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n\n{said}\n\n{text}"}]


def turn_messages(turn: Turn) -> list[Message]:
    """A turn as the model sees it; where nobody answered, only what was said."""
    said: list[Message] = [message for message in turn.said if message["role"] != "system"]
    return [*said, {"role": "assistant", "content": turn.answered}] if turn.answered else said


def transcript(turns: Sequence[Turn]) -> str:
    """The turns as text to be summarised."""
    return "\n".join(f"{message['role']}: {message['content']}" for turn in turns for message in turn_messages(turn))


def tokens_max(job: Job, settings: Settings) -> int:
    """How long the answer may be."""
    return int(job.options.get("max_tokens", settings.tokens_max))


def prompt_for(job: Job, messages: Sequence[Message], settings: Settings) -> Prompt:
    """The prompt of a job; a retry has the same seed."""
    return Prompt(messages, tokens_max(job, settings), seed=seed_of(job))


def seed_of(job: Job) -> int:
    """The same for every attempt at the job."""
    return zlib.crc32(job.id.encode())


def apology_text(source: Source | None, settings: Settings) -> str:
    """What is said when an answer has failed for good; "" for nothing."""
    text = (source.setting("apology") if source else "") or settings.apology
    return "" if text.lower() == "off" else text


def build_result(text: str, finish_reason: str, *generations: Generation) -> dict[str, Any]:
    """The result as the job API shows it; the usage is that of all generations together."""
    prompt_tokens = sum(generation.prompt_tokens for generation in generations)
    completion_tokens = sum(generation.completion_tokens for generation in generations)
    used = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    usage = used | {"total_tokens": prompt_tokens + completion_tokens}
    return {"output_text": text, "finish_reason": finish_reason, "usage": usage}
