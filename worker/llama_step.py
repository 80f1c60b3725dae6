"""What one call to the model takes and says, and how it is stopped.

No native code: the scheduler, which decides what goes into a call, is tested without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum

import attrs

# How much one decode computes: a token for every answer that grows, and of the waiting prompts what is left of this.
# With 512 tokens the others stall for 2.2 s on two cores, with 64 for 0.3 s, and the newcomer's own answer begins 7 % later.
# One less than 64, because from there on llama.cpp's attention rounds in another way on CPUs: a tenth faster, but an answer
# would depend on what is read beside it. (To some degree it does: when one leaves, its cells are reused out of order.)
TOKENS_PER_STEP = 63
# A GPU reads a prompt many tokens at a time or slowly, and its decode cannot be stopped: the unit of cancelling there.
TOKENS_PER_STEP_GPU = 512
# But so many of the prompts at least, however many answers grow.
PREFILL_TOKENS_MIN = 32


class Decoded(IntEnum):
    """How a decode went, in llama.cpp's numbers. Any other number means that the memory is damaged."""

    DONE = 0
    NO_ROOM = 1
    ABORTED = 2
    INVALID = -1


@attrs.frozen
class Share:
    """The tokens of one sequence in one decode, at positions from `position`; `is_answered` asks for what comes next."""

    slot: int
    position: int
    tokens: Sequence[int] = attrs.field(repr=False)
    is_answered: bool


class AbortFlag:
    """
    Stops a running decode within milliseconds, from any thread.

    GPU backends do not look at it: there the decode runs to its end, and a withdrawn job leaves after it.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)  # a C string: "" goes on, "x" stops

    @property
    def address(self) -> int:
        """Where the C string is. It is there as long as this object."""
        return ctypes.addressof(self._byte)

    def stop(self) -> None:
        """The decode that runs now, or else the next one, ends early."""
        self._byte[0] = b"x"

    def clear(self) -> None:
        """Decodes run to their end again."""
        self._byte[0] = b"\0"
