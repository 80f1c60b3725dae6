"""Names processes so that a dead one is told from another that got its number. Reads /proc; elsewhere every process seems alive."""

from __future__ import annotations

import os
from pathlib import Path

_START_TIME = 19  # field 22 of /proc/PID/stat, counted after the command's closing bracket (proc(5))


def process_name(pid: int | None = None) -> str:
    """`PID:START`, which no other process of this machine since boot has; `PID:?` where /proc cannot tell."""
    number = os.getpid() if pid is None else pid
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{number}:?"
    return f"{number}:{fields[_START_TIME]}"


def is_gone(name: str) -> bool:
    """True if the process of that name has certainly ended."""
    pid, _, started = name.partition(":")
    if started == "?" or not Path("/proc/self/stat").exists():
        return False
    return process_name(int(pid)) != name or _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
