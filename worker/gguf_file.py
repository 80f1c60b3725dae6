"""Looks at a model file before the native library does, for messages that an operator can act on. It loads nothing.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Whoever made the file is not trusted: every length in it is checked.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from sentinel.errors import ModelUnavailable

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER = struct.Struct("<4sIQQ")  # the magic, a version, a count of tensors, a count of facts
COUNT_MAX = 1_000_000
TEXT_BYTES_MAX = 16_000_000
# By the number that the format gives each type of value.
_SCALARS = dict(enumerate("BbHhIif?", 0)) | {10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9


@attrs.frozen
class ModelFacts:
    """What a model file says of itself."""

    file_bytes: int
    tensors: int
    values: dict[str, Any] = attrs.field(repr=False)

    @property
    def has_chat_template(self) -> bool:
        """Whether it was taught to chat; a base model was not."""
        return bool(self.values.get("tokenizer.chat_template"))

    @property
    def context_trained(self) -> int:
        """The longest text that it was taught with, in tokens; 0 if the file does not say."""
        return self._number("context_length")

    def context_bytes(self, tokens: int, bytes_per_value: float = 2) -> int:
        """What the attention of so many tokens takes in memory; 0 if the file does not say enough."""
        heads = self._number("attention.head_count")
        size = self._number("attention.key_length") or (self._number("embedding_length") // heads if heads else 0)
        shared = self._number("attention.head_count_kv") or heads
        return int(tokens * 2 * self._number("block_count") * shared * size * bytes_per_value)

    def _number(self, name: str) -> int:
        value = self.values.get(f"{self.values.get('general.architecture')}.{name}")
        return value if isinstance(value, int) else 0


def check_model_file(path: Path) -> ModelFacts:
    """
    What the GGUF model in `path` says of itself.

    Raises:
        ModelUnavailable: it is missing, a directory, unreadable, empty, another format, or its lists are damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except FileNotFoundError:
        raise ModelUnavailable(f"The model file {path} does not exist.") from None
    except IsADirectoryError:
        raise ModelUnavailable(f"The model {path} is a directory; name the GGUF file in it.") from None
    except OSError as error:
        raise ModelUnavailable(f"The model file {path} cannot be read: {error.strerror}.") from error


def check_sum(path: Path, sha256: str) -> None:
    """Returns if the file has this SHA-256 (hexadecimal). Raises ModelUnavailable if not: some of its weights are damaged."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelUnavailable(
            f"The model file {path} is damaged: its SHA-256 is {found[:16]}…, not {sha256[:16]}…; install it again."
        )


class _Reader:
    """Reads one file from its begin to where the weights start."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = path.stat().st_size

    def read(self) -> ModelFacts:
        tensors, facts = self._read_header()
        try:
            values = dict(self._read_fact() for _ in range(facts))
            end = max((self._read_tensor() for _ in range(tensors)), default=0)
        except (ValueError, TypeError, RecursionError) as error:
            raise ModelUnavailable(f"The model file {self._path} is damaged: {error}.") from None
        if self._file.tell() + end > self._size:
            raise ModelUnavailable(
                f"The model file {self._path} is truncated: it has {self._size} bytes, and weights at {self._file.tell() + end}."
            )
        return ModelFacts(self._size, tensors, values)

    def _read_header(self) -> tuple[int, int]:
        header = self._file.read(HEADER.size)
        if not header:
            raise ModelUnavailable(f"The model file {self._path} is empty.")
        if not header.startswith(MAGIC[: len(header)]):
            raise ModelUnavailable(f"The model file {self._path} is not a GGUF file (starts with {header[:4]!r}, not {MAGIC!r}).")
        if len(header) < HEADER.size:
            raise ModelUnavailable(
                f"The model file {self._path} is truncated: it ends after {len(header)} bytes, inside its header."
            )
        _, version, tensors, facts = HEADER.unpack(header)
        if version not in VERSIONS or max(tensors, facts) > COUNT_MAX:
            raise ModelUnavailable(f"The model file {self._path} is damaged, or of a version ({version}) that is not known.")
        return tensors, facts

    def _read_fact(self) -> tuple[str, Any]:
        return self._text(), self._value(self._number("I"))

    def _value(self, kind: int, depth: int = 0) -> Any:
        """A value; None for a list, of which there are long ones (the vocabulary)."""
        if kind == _TEXT:
            return self._text()
        if kind == _LIST and not depth:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SCALARS:
                return self._skip(count * struct.calcsize(_SCALARS[inner]))
            for _ in range(self._within(count)):
                self._value(inner, 1) if inner != _TEXT else self._skip(self._number("Q"))
            return None
        if kind not in _SCALARS:
            raise ValueError(f"it has a value of the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _read_tensor(self) -> int:
        """Where the weights of the next tensor begin, behind the lists."""
        self._text()
        self._skip(8 * self._within(self._number("I")) + 4)
        return int(self._number("Q"))

    def _text(self) -> str:
        size = self._number("Q")
        if size > TEXT_BYTES_MAX:
            raise ValueError(f"it has a text of {size} bytes")
        return self._bytes(size).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(form)))[0]

    def _within(self, count: int) -> int:
        if count > self._size:
            raise ValueError(f"it has a list of {count} values")
        return count

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"it ends after {self._size} bytes, inside its lists")
        return data

    def _skip(self, size: int) -> None:
        if self._file.tell() + size > self._size:
            raise ValueError(f"it ends after {self._size} bytes, inside its lists")
        self._file.seek(size, 1)
