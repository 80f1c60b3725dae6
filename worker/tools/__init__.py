"""What a tool is: something the model may ask for. One file per tool, found by name; a suite tests each by its being here.

A tool says with a JSON Schema what it takes, and whether asking twice for the same is the same as asking once.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar

import attrs

from sentinel.errors import SentinelError
from sentinel.model import Chat
from sentinel.outbound import Outbound
from sentinel.records import Store


class ToolFailed(SentinelError):
    """The tool could not do it. The detail is a short plain sentence for the model, and holds no secret."""


class OutcomeUnknown(SentinelError):
    """Nobody knows whether the tool did it."""


class Repeat(StrEnum):
    """What may happen when it is not known whether a call was done, because its worker died."""

    READS = "reads"  # nothing changes by it: it is called again
    KEYED = "keyed"  # the same key does it once: it is called again with that key
    NEVER = "never"  # it is not called again, and the model is told so


@attrs.frozen(eq=False)
class Surroundings:
    """What a tool may use. `key` is the same whenever the same call is repeated; `chat` is None for a job without one."""

    key: str
    tenant: str
    chat: Chat | None
    store: Store
    outbound: Outbound
    networks: Sequence[str] = ()
    hosts: Sequence[str] = ()  # the only ones that may be fetched from; none means any
    now: float = attrs.field(factory=time.time)


class Tool:
    """The contract. A tool's file has one subclass, and `tool = ThatClass()`."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    repeat: Repeat = Repeat.READS
    needs_chat: ClassVar[bool] = False
    sample: ClassVar[Mapping[str, Any]] = {}  # arguments that are valid, for the conformance suite

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """What the model is told. `arguments` fit the schema; it may be cancelled. Raises ToolFailed or OutcomeUnknown."""
        raise NotImplementedError


@functools.cache
def tools() -> Mapping[str, Tool]:
    """Every tool by its name: one per file in this folder."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.tool.name: module.tool for module in modules}


def text_parameter(description: str, characters_max: int) -> dict[str, Any]:
    """The schema of a text that is not empty."""
    return {"type": "string", "description": description, "minLength": 1, "maxLength": characters_max}


def takes(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an object with these fields."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }
