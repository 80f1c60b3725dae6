"""What an operator may have set, or dropped, on which a promise rests, in words for a person. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLOCK_SECONDS_MAX = 5.0  # the clocks of two machines may differ by so much
_NEEDED = {
    "fsync": ("on", "a crash of the server can lose what was acknowledged, or all"),
    "synchronous_commit": ("", "a crash of the server loses what was acknowledged a moment before"),
    "default_transaction_isolation": ("read committed", "statements fail, or do not see what they should; set it for this role"),
}


def weak_points(found: Mapping[str, Any], now: float) -> list[str]:
    """What is wrong with the server's settings, its tables and its clock; `now` is what ours says."""
    words = [f"{name} is {found[name]}: {why}" for name, (good, why) in _NEEDED.items() if _is_bad(found[name], good)]
    words += [f"index {name} is missing: create it again, as sql/postgres says" for name in found["missing"]]
    ahead = now - found["now"]
    if abs(ahead) > CLOCK_SECONDS_MAX:
        which = "ahead of" if ahead > 0 else "behind"
        words.append(f"this machine's clock is {abs(ahead):.0f} s {which} PostgreSQL's: put it right")
    return words


def _is_bad(value: str, good: str) -> bool:
    """Whether a setting is not the one that is needed; where several are good, only `off` is not."""
    return value != good if good else value == "off"
