"""A small disk of our own (tmpfs), to be filled up and freed again. Needs root; says so where it is not allowed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

FILLER = "filler"
BLOCK_BYTES = 65_536


@attrs.frozen
class Disk:
    """A mounted folder."""

    folder: Path

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all the space that is left, but for `leave_bytes`."""
        with (self.folder / FILLER).open("ab", buffering=0) as file:
            for size in (BLOCK_BYTES, 4096):
                try:
                    while _free_bytes(self.folder) > leave_bytes:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Give the space back."""
        (self.folder / FILLER).unlink(missing_ok=True)


def why_no_disk() -> str | None:
    """Why no disk can be made here; None if one can."""
    if os.geteuid() != 0:
        return "only root may mount a small disk"
    return None if shutil.which("mount") else "there is no mount command"


@contextmanager
def open_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A disk of that size on `folder`, which keeps its owner, until the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder.stat()
    options = f"size={megabytes}m,uid={owner.st_uid},gid={owner.st_gid},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "sentinel-chaos", str(folder)], check=True, timeout=10)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=10)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
