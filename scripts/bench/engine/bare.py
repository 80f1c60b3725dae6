"""What the engine is measured against: the least that can be done with the library by hand."""

from __future__ import annotations

import time
from contextlib import closing

import llama_cpp as native

from worker.bundled import bundled_model
from worker.llama_native import Context, Model
from worker.llama_step import AbortFlag, Share


def loop(slots: int, prompts: list[list[int]], tokens: int) -> float:
    """Tokens per second of a loop that feeds `slots` sequences, prompts first, by one greedy sampler; no jobs, text or ends."""
    with closing(Model(bundled_model())) as model, closing(Context(model, slots, 8192, AbortFlag())) as context:
        sampler = native.llama_sampler_init_greedy()
        began = time.perf_counter()
        last = []
        for slot, prompt in enumerate(prompts):  # one after the other, as a chunk each: the fastest way on a CPU
            _, rows = context.decode([Share(slot, 0, prompt, True)])
            last.append(native.llama_sampler_sample(sampler, context._handle, rows[0]))  # noqa: SLF001
        for step in range(tokens - 1):
            _, rows = context.decode([Share(slot, len(prompts[slot]) + step, [last[slot]], True) for slot in range(slots)])
            last = [native.llama_sampler_sample(sampler, context._handle, row) for row in rows]  # noqa: SLF001
        seconds = time.perf_counter() - began
        native.llama_sampler_free(sampler)
        return slots * tokens / seconds


def tokenized(texts: list[str]) -> list[list[int]]:
    """The prompts of these questions, as the engine makes them."""
    from worker.chat_template import ChatTemplate

    with closing(Model(bundled_model())) as model:
        template = ChatTemplate.compile(model.chat_template, *model.bos_and_eos)
        return [model.tokenize(template.parts([{"role": "user", "content": text}])) for text in texts]
