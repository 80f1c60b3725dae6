"""Processes by name: a dead one is known for dead, and a living one never taken for it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel import processes
from sentinel.processes import is_gone, process_name

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_our_own():
    """This process has a name, always the same, and is not gone."""
    assert process_name() == process_name(os.getpid())
    assert process_name().startswith(f"{os.getpid()}:")
    assert not is_gone(process_name())


def test_killed_but_not_waited_for(child):
    """A process that was killed is gone at once, even while its parent has not taken notice."""
    name = process_name(child.pid)
    assert not is_gone(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name)
    child.wait()
    assert is_gone(name)


def test_a_number_that_was_given_again(child):
    """Another process with the same number is another process."""
    number, _, rest = process_name(child.pid).partition(":")
    started, _, namespace = rest.partition("@")
    assert is_gone(f"{number}:{int(started) - 1}@{namespace}")


def test_a_command_with_odd_characters(tmp_path):
    """A command whose name has spaces and brackets is named as well as any."""
    command = tmp_path / "a) R 1 (b"
    command.symlink_to(sys.executable)
    with subprocess.Popen([command, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = process_name(process.pid)
        assert not is_gone(name)
        process.kill()
    assert is_gone(name)


def test_another_container():
    """A process that lives in another space of numbers cannot be seen, so it is not gone."""
    number, _, rest = process_name().partition(":")
    assert not is_gone("999999999:1@pid:[1]")
    assert not is_gone(f"{number}:1@pid:[1]")
    assert not is_gone(f"{number}:?")
    assert not is_gone("999999999:?")
    assert is_gone(f"999999999:{rest}")


def test_when_proc_cannot_be_read(child, monkeypatch):
    """Trouble of our own, such as too many open files, tells nothing about another process."""
    name = process_name(child.pid)

    def no_more_files(number: int) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(processes, "_stat", no_more_files)
    assert not is_gone(name)
    assert process_name() == f"{os.getpid()}:?"
