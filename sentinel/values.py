"""`made_often`: the decorator of a frozen value that every request makes; mypy holds it frozen, and nothing does while it runs.

A class that attrs freezes at run time sets each field through a call, which is three times as long for a value of many fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as made_often
else:
    from functools import partial

    import attrs

    made_often = partial(attrs.define, unsafe_hash=True)

__all__ = ["made_often"]
