"""From a job to a prompt, and from the model's text to the job's result. Pure."""

from __future__ import annotations

import zlib
from typing import Any

from sentinel.model import Job, Source
from sentinel.settings import Settings
from worker.engine import Generation, Prompt


def build_prompt(job: Job, source: Source | None, settings: Settings) -> Prompt:
    """The job's messages, with a system prompt in front unless the caller sent one; a retry has the same seed."""
    messages = list(job.input)
    if messages[0]["role"] != "system":
        system = (source.setting("system_prompt") if source else "") or settings.system_prompt
        messages.insert(0, {"role": "system", "content": system})
    tokens_max = int(job.options.get("max_tokens", settings.tokens_max))
    return Prompt(messages, tokens_max, seed=zlib.crc32(job.id.encode()))


def build_result(generation: Generation) -> dict[str, Any]:
    """The result as the job API shows it."""
    used = {"prompt_tokens": generation.prompt_tokens, "completion_tokens": generation.completion_tokens}
    usage = used | {"total_tokens": generation.prompt_tokens + generation.completion_tokens}
    return {"output_text": generation.text, "finish_reason": generation.finish_reason, "usage": usage}
