"""The engine that runs a GGUF file with llama.cpp, in one thread for its whole life. It must not load what it has not checked.

One thread, because two in a context crash the process, and because a second thread that computes can halve the speed of the
first. It lives in the nursery of `open_llama`: if it dies, so does everything that counts on it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from sentinel.errors import ModelUnavailable
from worker.engine import Engine, Generation, Message, Progress, Prompt, checked, read_prompt
from worker.gguf_file import check_model_file
from worker.grammar import write_grammar
from worker.llama_heads import HEADS_MAX
from worker.llama_jobs import Inbox, Job, News
from worker.llama_slots import Scheduler
from worker.llama_threads import Threads

if TYPE_CHECKING:
    from worker.chat_template import ChatTemplate
    from worker.llama_native import Context

SLOTS_MAX = 256 - HEADS_MAX  # llama.cpp's own bound on sequences is 256
TOKENS_PER_SLOT_MAX = 2048
# What all slots share. It costs 180 MiB with a model of 135 million parameters, several times that with larger ones.
TOKENS_OF_CONTEXT_MAX = 8192

_Delivery = Callable[[list[tuple[Job, News]]], None]


@asynccontextmanager
async def open_llama(path: Path, slots: int | None) -> AsyncIterator[Engine]:
    """
    The engine for the model in `path`. Leaving ends it within a moment; who still waits gets a trio.ClosedResourceError.

    Raises:
        ModelUnavailable: the file is missing, damaged, a base model or too large; or the library is not installed.
        ExceptionGroup: with a NativeError, if the model can no longer compute; the process is then to end.
    """
    check_model_file(path)
    _check_settings(slots, os.environ)
    inbox = Inbox()
    send_opened, opened = trio.open_memory_channel[LlamaEngine | ModelUnavailable](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_host, path, slots, inbox, send_opened.send_nowait)
        with closing(inbox):  # the thread cannot be cancelled, only asked to end, also while it opens the model
            engine = await opened.receive()
            if isinstance(engine, LlamaEngine):
                with closing(engine):
                    yield engine
    if isinstance(engine, ModelUnavailable):
        raise engine  # out here, where the nursery does not wrap it in a group


@attrs.define(eq=False)
class LlamaEngine:
    """The event loop's side of the engine thread."""

    slots: int
    description: str
    model: str
    context_tokens: int
    _template: ChatTemplate
    _inbox: Inbox
    _jobs: set[Job] = attrs.field(factory=set, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        """
        The model's answer; see `Engine`.

        Raises:
            GenerationFailed: the prompt does not fit, the model's template or grammar does not take it; see `Engine`.
            trio.ClosedResourceError: the engine was closed before the answer was complete.
        """
        node = read_prompt(prompt)
        grammar = None if node is None else write_grammar(node)
        job = Job(self._template.parts(prompt.messages), prompt, grammar)
        return checked(await self._run(job, progress), node)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens a prompt of these messages has; see `Engine`."""
        job = Job(self._template.parts(messages), Prompt(messages), is_count=True)
        return (await self._run(job, lambda *_: None)).prompt_tokens

    async def _run(self, job: Job, progress: Progress) -> Generation:
        if self._is_closed:
            raise trio.ClosedResourceError("The engine is closed.")
        self._jobs.add(job)
        self._inbox.put(job)
        try:
            return await _follow(job, progress)
        finally:
            self._withdraw(job)

    def _withdraw(self, job: Job) -> None:
        self._jobs.discard(job)
        job.abandon()
        # A step that reads prompts is long and worth stopping; any other ends as soon by itself.
        if job.is_prefilling:
            self._inbox.abort.stop()

    def close(self) -> None:
        """No answer comes from now on."""
        self._is_closed = True
        for job in self._jobs:
            job.abandon()


async def _follow(job: Job, progress: Progress) -> Generation:
    pieces = []
    async for news in job.news:
        if news.error:
            raise news.error
        if news.piece:
            pieces.append(news.piece)
            progress(news.tokens, news.piece)
        if news.finish_reason:
            return Generation("".join(pieces), news.prompt_tokens, news.tokens, news.finish_reason)
    raise trio.ClosedResourceError("The engine was closed before the answer was complete.")


async def _host(path: Path, slots: int | None, inbox: Inbox, opened: Callable[[LlamaEngine | ModelUnavailable], None]) -> None:
    """Lives as long as the engine thread, and fails as it fails once it is open."""
    event_loop = trio.lowlevel.current_trio_token()

    def announce(engine: LlamaEngine) -> None:
        event_loop.run_sync_soon(opened, engine)

    def deliver(news: list[tuple[Job, News]]) -> None:
        # Once a step and without waiting: waking the event loop costs more than all the news of a step.
        event_loop.run_sync_soon(_deliver, news)

    try:
        # A limiter of its own, so that the engine takes no place from the short work of others.
        await trio.to_thread.run_sync(_run, path, slots, inbox, announce, deliver, limiter=trio.CapacityLimiter(1))
    except ModelUnavailable as error:
        opened(error)


def _deliver(news: list[tuple[Job, News]]) -> None:
    for job, item in news:
        job.deliver(item)


def _run(path: Path, slots: int | None, inbox: Inbox, announce: Callable[[LlamaEngine], None], deliver: _Delivery) -> None:
    """The engine thread. What is opened last is closed first: to free a model before its context crashes the process."""
    _require_library(os.environ)
    from worker.chat_template import ChatTemplate
    from worker.llama_native import Context, Model, slots_advised

    slots = slots or slots_advised()
    with closing(Model(path)) as model:
        template = ChatTemplate.compile(model.chat_template, *model.bos_and_eos)
        cells = min(slots * min(model.context_trained, TOKENS_PER_SLOT_MAX), TOKENS_OF_CONTEXT_MAX)
        with closing(Context(model, slots, cells, inbox.abort)) as context, closing(Scheduler(model, context)) as scheduler:
            description = (
                f"{path.name}, {model.parameters / 1e6:.0f} M parameters, {slots} slots, {context.cells} tokens of context"
            )
            announce(LlamaEngine(slots, description, path.stem, scheduler.tokens_per_job_max, template, inbox))
            _work(scheduler, context, inbox, deliver)


def _work(scheduler: Scheduler, context: Context, inbox: Inbox, deliver: _Delivery) -> None:
    threads = Threads(os.cpu_count() or 1)
    while True:
        for job in inbox.take(wait=scheduler.is_idle):
            scheduler.submit(job)
        if inbox.is_closed:
            return
        context.use_threads(threads.count)
        began, used = time.monotonic(), _processor_seconds()
        scheduler.step()
        ended = time.monotonic()
        threads.observe(ended, ended - began, _processor_seconds() - used)
        if news := scheduler.take_news():
            deliver(news)


def _processor_seconds() -> float:
    """What all threads of this process have computed so far, those that have ended too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _check_settings(slots: int | None, environment: Mapping[str, str]) -> None:
    if slots is not None and not 1 <= slots <= SLOTS_MAX:
        raise ModelUnavailable(f"The engine runs from 1 to {SLOTS_MAX} slots, not {slots}.")
    if environment.get("OMP_WAIT_POLICY", "").lower() == "passive":
        raise ModelUnavailable("OMP_WAIT_POLICY=passive makes the model four times slower; unset it.")


def _require_library(environment: MutableMapping[str, str]) -> None:
    # When the library aborts it would start a debugger, if there is one, and the restart would wait for that.
    environment.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        import_module("worker.llama_native")
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"To run a GGUF file, {error.name} is needed: pip install 'sentinel-gateway[llama]'. Or set SENTINEL_MODEL=fake:50."
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelUnavailable(f"llama-cpp-python is installed but does not load: {error}") from error
