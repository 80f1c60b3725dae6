"""What the engine is measured against: the least that can be done with the library by hand."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import llama_cpp as native

from worker.engine import Message
from worker.llama_native import Context, Model
from worker.llama_step import AbortFlag, Share


def loop(path: Path, threads: int, prompts: list[list[int]], tokens: int) -> tuple[int, float, float]:
    """
    Tokens, seconds, and seconds of the processor, of a loop with a sequence for each prompt and one greedy sampler.

    It reads the prompts first, and knows no jobs, text or ends.
    """
    slots = len(prompts)
    with closing(Model(path)) as model, closing(Context(model, slots, 8192, AbortFlag())) as context:
        context.use_threads(threads)
        sampler = native.llama_sampler_init_greedy()
        began, used = time.perf_counter(), time.process_time()
        last = []
        for slot, prompt in enumerate(prompts):  # one after the other, as a chunk each: the fastest way on a CPU
            _, rows = context.decode([Share(slot, 0, prompt, True)])
            last.append(native.llama_sampler_sample(sampler, context._handle, rows[0]))  # noqa: SLF001
        for step in range(tokens - 1):
            _, rows = context.decode([Share(slot, len(prompts[slot]) + step, [last[slot]], True) for slot in range(slots)])
            last = [native.llama_sampler_sample(sampler, context._handle, row) for row in rows]  # noqa: SLF001
        seconds, used = time.perf_counter() - began, time.process_time() - used
        native.llama_sampler_free(sampler)
        return slots * tokens, seconds, used


def tokenized(path: Path, chats: list[list[Message]]) -> list[list[int]]:
    """The prompts of these chats, as the engine makes them."""
    from worker.chat_template import ChatTemplate

    with closing(Model(path)) as model:
        template = ChatTemplate.compile(model.chat_template, *model.bos_and_eos)
        return [model.tokenize(template.parts(messages)) for messages in chats]
