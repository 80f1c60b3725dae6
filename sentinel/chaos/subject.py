"""The Sentinel under test: real processes with settings of their own, to be killed and paused by name, and watched by size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import trio

from sentinel.chaos.history import Sample
from sentinel.secret import Secret
from sentinel.settings import Settings, environment_name

STOP_SECONDS_MAX = 25.0
SAMPLE_SECONDS = 0.5
_PAGE = os.sysconf("SC_PAGE_SIZE")


@attrs.define(eq=False)
class Subject:
    """`sentinel up` and what else was started, and the processes below them."""

    settings: Settings
    folder: Path
    began: float
    processes: list[trio.Process] = attrs.field(factory=list)
    samples: list[Sample] = attrs.field(factory=list)

    @property
    def log(self) -> Path:
        """Where all of them write."""
        return self.folder / "sentinel.log"

    async def start(self, *command: str, before: tuple[str, ...] = (), **changes: str) -> trio.Process:
        """One more `sentinel` command with the settings, some of them changed; `before` is the program that runs it, if any."""
        environment = dict(os.environ) | environment_of(self.settings) | {environment_name(name): changes[name] for name in changes}
        with self.log.open("ab") as file:
            process = await trio.lowlevel.open_process(
                [*before, sys.executable, "-m", "sentinel", *command],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self.processes.append(process)
        return process

    def signal(self, name: str, number: int) -> int:
        """Send a signal to every process of this command (`serve`, `worker`); how many there were."""
        pids = [pid for pid, command in self.family().items() if command.split()[0] == name]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(pids)

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            self.signal(name, signal.SIGKILL)

    def family(self) -> dict[int, str]:
        """Every living process of ours: pid and command (`serve --one`)."""
        own = {process.pid for process in self.processes if process.returncode is None}
        found: dict[int, str] = {}
        for pid, parent, command in sorted(_sentinels()):
            if pid in own or parent in own or parent in found:
                found[pid] = command
        return found

    async def sample(self) -> None:
        """Note for ever what each process uses."""
        while True:
            for pid, command in self.family().items():
                with suppress(OSError):
                    self.samples.append(Sample(command, time.monotonic() - self.began, *_size(pid)))
            await trio.sleep(SAMPLE_SECONDS)

    async def stop(self) -> None:
        """SIGTERM to all that was started, and SIGKILL to whoever stays."""
        family = list(self.family())
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        with trio.move_on_after(STOP_SECONDS_MAX):
            for process in self.processes:
                await process.wait()
        for pid in {*family, *self.family()}:
            if pid in dict.fromkeys(number for number, _parent, _command in _sentinels()):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            await process.wait()


@asynccontextmanager
async def open_subject(settings: Settings, folder: Path, began: float) -> AsyncIterator[Subject]:
    """A subject in which nothing runs yet; all that was started in it ends with the block."""
    subject = Subject(settings, folder, began)
    try:
        yield subject
    finally:
        with trio.CancelScope(shield=True):
            await subject.stop()


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that gives another process these settings; what is not set here is not inherited either."""
    return {environment_name(name): _text(value) for name, value in attrs.asdict(settings).items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.reveal() if isinstance(value, Secret) else str(value)


def _sentinels() -> list[tuple[int, int, str]]:
    """Every process that runs a `sentinel` command: pid, parent, command with its options."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            command = b" ".join(words[words.index(b"sentinel") + 1 :]).decode().strip()
            found.append((int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1]), command))
    return found


def _size(pid: int) -> tuple[int, int]:
    """Resident bytes and open descriptors."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=False)
