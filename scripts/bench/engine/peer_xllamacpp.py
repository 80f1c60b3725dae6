"""
One turn of xllamacpp, llama.cpp's C++ server engine: as many answers at once as there are slots. Knows nothing of Sentinel.

`peer_xllamacpp.py MODEL TOKENS THREADS` with the prompts, as lists of tokens, on stdin; prints how many tokens it made, in how many
seconds, and in how many of the processor.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import xllamacpp

CONTEXT_TOKENS = 8192


def opened(model: str, slots: int, threads: int) -> xllamacpp.Server:
    """The engine as it comes, but with the context, the slots and the threads of ours, and no answer kept for the next."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx, parameters.n_parallel = CONTEXT_TOKENS, slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.kv_unified = True
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


def answer(server: xllamacpp.Server, prompt: list[int], tokens: int, counts: list[int]) -> None:
    found: list[object] = []
    wanted = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "cache_prompt": False, "stream": False}
    server.handle_completions(json.dumps(wanted), found.append)
    reply = found[-1] if isinstance(found[-1], dict) else json.loads(str(found[-1]))
    counts.append(reply["usage"]["completion_tokens"])


def main() -> None:
    model, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    prompts = json.load(sys.stdin)
    server = opened(model, len(prompts), threads)
    counts: list[int] = []
    asking = [threading.Thread(target=answer, args=(server, prompt, tokens, counts)) for prompt in prompts]
    began, used = time.perf_counter(), time.process_time()
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    seconds, used = time.perf_counter() - began, time.process_time() - used
    assert len(counts) == len(prompts)
    print(sum(counts), seconds, used)


main()
