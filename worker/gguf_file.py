"""Looks at a model file before the native library does, for messages that an operator can act on. It loads nothing."""

from __future__ import annotations

from pathlib import Path

from sentinel.errors import ModelUnavailable

MAGIC = b"GGUF"
# The magic, a version (4 bytes), a count of tensors and a count of metadata values (8 bytes each).
HEADER_BYTES = 24


def check_model_file(path: Path) -> None:
    """
    Returns if `path` is a readable file with the header of a GGUF model.

    Raises:
        ModelUnavailable: it is missing, a directory, unreadable, empty, cut short in its header, or another format.
    """
    header = _read_header(path)
    if not header:
        raise ModelUnavailable(f"The model file {path} is empty.")
    if not header.startswith(MAGIC[: len(header)]):
        raise ModelUnavailable(f"The model file {path} is not a GGUF file (starts with {header[:4]!r}, not {MAGIC!r}).")
    if len(header) < HEADER_BYTES:
        raise ModelUnavailable(f"The model file {path} is truncated: it ends after {len(header)} bytes, inside its header.")


def _read_header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise ModelUnavailable(f"The model file {path} does not exist.") from None
    except IsADirectoryError:
        raise ModelUnavailable(f"The model {path} is a directory; name the GGUF file in it.") from None
    except OSError as error:
        raise ModelUnavailable(f"The model file {path} cannot be read: {error.strerror}.") from error
