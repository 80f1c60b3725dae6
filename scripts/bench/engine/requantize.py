"""The same model in another quantisation, made once and kept. One that is made from the original would answer better."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp as native


@native.llama_log_callback
def _ignore(_level: int, _text: bytes, _data: object) -> None:
    """It says a line for each tensor."""


def q4_0(path: Path) -> Path:
    """The file in Q4_0, for which llama.cpp has kernels that compute many rows at once on a CPU."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sentinel"
    made = folder / f"{path.stem.removesuffix('.Q4_1')}.Q4_0.gguf"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parameters = native.llama_model_quantize_default_params()
        parameters.ftype = native.LLAMA_FTYPE_MOSTLY_Q4_0
        parameters.allow_requantize = True
        native.llama_log_set(_ignore, None)
        part = made.with_suffix(".part")
        if native.llama_model_quantize(os.fsencode(path), os.fsencode(part), ctypes.byref(parameters)):
            raise SystemExit(f"{path} could not be requantized")
        part.rename(made)
    return made
