"""The engine that runs a GGUF file with llama.cpp, in one thread for its whole life. It must not load what it has not checked.

One thread, because two in a context crash the process, and because a second thread that computes can halve the speed of the
first. It lives in the nursery of `open_llama`: if it dies, so does everything that counts on it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from sentinel.errors import ModelUnavailable
from worker.engine import Engine, Generation, Message, Options, Progress, Prompt, checked, read_prompt
from worker.gguf_file import check_model_file
from worker.grammar import write_grammar
from worker.llama_heads import HEADS_MAX
from worker.llama_jobs import Inbox, Job, News
from worker.llama_thread import EngineThread, Opened
from worker.llama_watchdog import Pulse, watch_for_ever

if TYPE_CHECKING:
    from worker.chat_template import ChatTemplate

SLOTS_MAX = 256 - HEADS_MAX  # llama.cpp's own bound on sequences is 256


@asynccontextmanager
async def open_llama(path: Path, options: Options) -> AsyncIterator[Engine]:
    """
    The engine for the model in `path`. Leaving ends it within a moment; who still waits gets a trio.ClosedResourceError.

    Raises:
        ModelUnavailable: the file is missing, damaged, a base model or too large; or the library is not installed.
        ExceptionGroup: with a NativeError, if the model can no longer compute; the process is then to end.
    """
    check_model_file(path)  # here, so that a file that is missing is told at once, before a thread is started
    _check_options(options, os.environ)
    inbox = Inbox()
    send_opened, receive_opened = trio.open_memory_channel[Opened | ModelUnavailable](1)
    thread = _prepare(path, options, inbox, send_opened.send_nowait)
    watching = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, thread, watching)
        nursery.start_soon(_host, thread, send_opened.send_nowait, watching)
        with closing(inbox):  # the thread cannot be cancelled, only asked to end, also while it opens the model
            opened = await receive_opened.receive()
            if isinstance(opened, Opened):
                with closing(LlamaEngine.of(opened, inbox)) as engine:
                    yield engine
    if isinstance(opened, ModelUnavailable):
        raise opened  # out here, where the nursery does not wrap it in a group


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

    @classmethod
    def of(cls, opened: Opened, inbox: Inbox) -> LlamaEngine:
        """The engine on a model that is open; it is asked through `inbox`."""
        return cls(opened.slots, opened.description, opened.model, opened.context_tokens, opened.template, inbox)

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


async def _host(thread: EngineThread, opened: Callable[[Opened | ModelUnavailable], None], watching: trio.CancelScope) -> None:
    """Lives as long as the engine thread, and fails as it fails once it is open."""
    try:
        # A limiter of its own, so that the engine takes no place from the short work of others.
        await trio.to_thread.run_sync(thread.run, limiter=trio.CapacityLimiter(1))
    except ModelUnavailable as error:
        opened(error)
    finally:
        watching.cancel()


async def _watch(thread: EngineThread, watching: trio.CancelScope) -> None:
    with watching:
        await watch_for_ever(thread.pulse, thread.inbox.abort)


def _prepare(path: Path, options: Options, inbox: Inbox, opened: Callable[[Opened | ModelUnavailable], None]) -> EngineThread:
    event_loop = trio.lowlevel.current_trio_token()

    def announce(ready: Opened) -> None:
        event_loop.run_sync_soon(opened, ready)

    def deliver(news: list[tuple[Job, News]]) -> None:
        # Once a step and without waiting: waking the event loop costs more than all the news of a step.
        event_loop.run_sync_soon(_deliver, news)

    return EngineThread(path, options, inbox, Pulse(), announce, deliver)


def _deliver(news: list[tuple[Job, News]]) -> None:
    for job, item in news:
        job.deliver(item)


def _check_options(options: Options, environment: Mapping[str, str]) -> None:
    if options.slots is not None and not 1 <= options.slots <= SLOTS_MAX:
        raise ModelUnavailable(f"The engine runs from 1 to {SLOTS_MAX} slots, not {options.slots}.")
    if options.flash_attention == "off" and options.kv_type not in ("auto", "f16"):
        raise ModelUnavailable(f"A KV cache of the type {options.kv_type} needs flash attention, which is off.")
    if environment.get("OMP_WAIT_POLICY", "").lower() == "passive":
        raise ModelUnavailable("OMP_WAIT_POLICY=passive makes the model four times slower; unset it.")
