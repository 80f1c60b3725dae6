"""The engine thread: opens the model, and works for its whole life. Every call of the native library is made in it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, MutableMapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from sentinel.errors import ModelUnavailable
from worker.bundled import SHA256, bundled_model
from worker.engine import Options
from worker.gguf_file import check_sum
from worker.llama_jobs import Inbox, Job, News
from worker.llama_slots import Scheduler
from worker.llama_threads import Threads
from worker.llama_watchdog import Pulse

if TYPE_CHECKING:
    from worker.chat_template import ChatTemplate
    from worker.llama_native import Context

TOKENS_PER_SLOT_DEFAULT = 2048
# What all slots share, if nothing is said. It costs 180 MiB with a model of 135 million parameters, several times that with larger.
CONTEXT_TOKENS_DEFAULT = 8192


@attrs.frozen
class Opened:
    """What the event loop has to know of a model that is ready."""

    slots: int
    description: str
    model: str
    context_tokens: int
    template: ChatTemplate


def check_weights(path: Path) -> None:
    """Raises ModelUnavailable if the file is the bundled one, whose sum is known, with other weights than it was made with."""
    if path == bundled_model():
        check_sum(path, SHA256)


@attrs.frozen(eq=False)
class EngineThread:
    """What the thread is given; `run` is the thread. `announce` and `deliver` are its only words to the event loop."""

    path: Path
    options: Options
    inbox: Inbox
    pulse: Pulse
    announce: Callable[[Opened], None]
    deliver: Callable[[list[tuple[Job, News]]], None]

    def run(self) -> None:
        """
        Opens the model, announces it, and answers what comes into the inbox until that is closed.

        What is opened last is closed first: to free a model before its context crashes the process.

        Raises:
            ModelUnavailable: it cannot be opened.
            NativeError: it can no longer compute.
        """
        check_weights(self.path)
        require_library(os.environ)
        from worker.chat_template import ChatTemplate
        from worker.llama_native import Context, Model, slots_advised

        slots = self.options.slots or slots_advised()
        with closing(Model(self.path, self.options.gpu_layers)) as model:
            template = ChatTemplate.compile(model.chat_template, *model.bos_and_eos)
            cells = self.options.context_tokens or default_cells(slots, model.context_trained)
            opened = Context(model, slots, cells, self.inbox.abort, self.options)
            with closing(opened) as context, closing(Scheduler(model, context)) as scheduler:
                size = f"{model.parameters / 1e6:.0f} M parameters, {slots} slots, {context.cells} tokens of context"
                description = f"{self.path.name}, {size}"
                self.announce(Opened(slots, description, self.path.stem, scheduler.tokens_per_job_max, template))
                self._work(scheduler, context)

    def _work(self, scheduler: Scheduler, context: Context) -> None:
        threads = Threads(self.options.threads or cores(), is_fixed=self.options.threads is not None)
        while True:
            for job in self.inbox.take(wait=scheduler.is_idle):
                scheduler.submit(job)
            if self.inbox.is_closed:
                return
            context.use_threads(threads.count)
            began, used = time.monotonic(), _processor_seconds()
            self.pulse.began = began
            scheduler.step()
            self.pulse.began, ended = None, time.monotonic()
            threads.observe(ended, ended - began, _processor_seconds() - used)
            if news := scheduler.take_news():
                self.deliver(news)


def default_cells(slots: int, context_trained: int) -> int:
    """The room for all sequences together if nothing is said."""
    return min(slots * min(context_trained or TOKENS_PER_SLOT_DEFAULT, TOKENS_PER_SLOT_DEFAULT), CONTEXT_TOKENS_DEFAULT)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_seconds() -> float:
    """What all threads of this process have computed so far, those that have ended too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def require_library(environment: MutableMapping[str, str]) -> None:
    """Raises ModelUnavailable, with what to do, if llama-cpp-python is not there or does not load."""
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
