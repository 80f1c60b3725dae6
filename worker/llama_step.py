"""What one call to the model takes and says. Plain values, so that the scheduler can be tested without the native library."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import attrs

# How much of the waiting prompts one decode reads. With 512 tokens the other answers stall for 2.2 s on two cores, with 64
# for 0.3 s, and the newcomer's own answer begins 7 % later.
PREFILL_TOKENS_PER_STEP = 64


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
