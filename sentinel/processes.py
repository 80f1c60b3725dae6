"""Names processes so that a dead one is told from another that got its number. Reads /proc; elsewhere every process seems alive."""

from __future__ import annotations

import os
from pathlib import Path

SIBLINGS = "SENTINEL_SIBLINGS"  # set for each of several gateway processes: FOLDER:NUMBER, what they share and which one it is
_STATE, _START_TIME = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted after the command's closing bracket (proc(5))


def process_name(pid: int | None = None) -> str:
    """`PID:START@NAMESPACE`, which no other process since this machine's boot has, anywhere; `PID:?` where /proc cannot tell."""
    number = os.getpid() if pid is None else pid
    try:
        return f"{number}:{_stat(number)[_START_TIME]}@{_namespace()}"
    except OSError:
        return f"{number}:?"


def is_gone(name: str) -> bool:
    """True if the process of that name has certainly ended. One of another machine or container cannot be seen: it never has."""
    number, _, rest = name.partition(":")
    started, _, namespace = rest.partition("@")
    try:
        if not namespace or namespace != _namespace():
            return False
        fields = _stat(int(number))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:  # such as too many open files, which says nothing about the other process
        return False
    return fields[_STATE] == "Z" or fields[_START_TIME] != started


def _namespace() -> str:
    """What the kernel calls the space of process numbers that this process lives in, and which boot of which machine that is."""
    return f"{Path('/proc/self/ns/pid').readlink()}/{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _stat(number: int) -> list[str]:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
