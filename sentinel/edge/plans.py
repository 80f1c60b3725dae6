"""What a plan allows: quotas of a month and rates, each by a name that the commands, the billing webhook and the settings share.

Pure. A term that is not there is no limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from sentinel.edge.gcra import Rate
from sentinel.errors import BadInput

COUNT_MAX = 10**12
RATE_COUNT_MAX, RATE_SECONDS_MAX = 1_000_000, 86_400
_RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,4})", re.ASCII)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 13 or int(text) > COUNT_MAX:
        raise ValueError
    return int(text)


def _rate(text: str) -> Rate:
    found = _RATE.fullmatch(text)
    if found is None or int(found[1]) > RATE_COUNT_MAX or int(found[2]) > RATE_SECONDS_MAX:
        raise ValueError
    return Rate(int(found[1]), int(found[2]))


def _term(convert: Callable[[str], Any], allowed: str, help_text: str) -> Any:
    return attrs.field(default=None, metadata={"convert": convert, "allowed": allowed, "help": help_text})


_COUNT = "a whole number, at most 10^12"
_PER_TIME = "COUNT/SECONDS, such as 60/60"


@attrs.frozen(kw_only=True)
class Terms:
    """What somebody may use. A month is one of the calendar in UTC; a rate COUNT/SECONDS is so many at once, and in SECONDS."""

    jobs: int | None = _term(_count, _COUNT, "jobs a month")
    tokens: int | None = _term(_count, _COUNT, "tokens a month, of prompts and answers together")
    user_jobs: int | None = _term(_count, _COUNT, "jobs a month of one end user")
    user_tokens: int | None = _term(_count, _COUNT, "tokens a month of one end user")
    tenant_rate: Rate | None = _term(_rate, _PER_TIME, "jobs of the tenant, by all its ways in")  # noqa: RUF009
    source_rate: Rate | None = _term(_rate, _PER_TIME, "jobs of one webhook source")  # noqa: RUF009
    key_rate: Rate | None = _term(_rate, _PER_TIME, "jobs of one API key")  # noqa: RUF009
    user_rate: Rate | None = _term(_rate, _PER_TIME, "jobs of one end user")  # noqa: RUF009

    @property
    def counts_users(self) -> bool:
        """Whether what each end user uses has to be counted."""
        return self.user_jobs is not None or self.user_tokens is not None


UNLIMITED = Terms()
NAMES = tuple(field.name for field in attrs.fields(Terms))


def parse_terms(given: Mapping[str, str]) -> Terms:
    """The terms that were given as text. Raises BadInput naming the one that is wrong and what it may be."""
    values = {}
    for name, text in given.items():
        if name not in NAMES:
            raise BadInput(f"A plan has no term {name[:40]!r}; it has {', '.join(NAMES)}.")
        metadata = getattr(attrs.fields(Terms), name).metadata
        try:
            values[name] = metadata["convert"](text)
        except ValueError:
            raise BadInput(f"{name} must be {metadata['allowed']}.") from None
    return Terms(**values)


def terms_text(terms: Terms) -> dict[str, str]:
    """The terms as `parse_terms` reads them."""
    return {name: str(value) for name in NAMES if (value := getattr(terms, name)) is not None}


def overlaid(terms: Terms, special: Terms) -> Terms:
    """The terms, with the special ones in their place."""
    return attrs.evolve(terms, **{name: value for name in NAMES if (value := getattr(special, name)) is not None})


def parse_line(line: str) -> Terms:
    """The terms of one line, NAME=VALUE and white space or commas between. Raises BadInput."""
    pairs = [word.partition("=") for word in line.replace(",", " ").split()]
    return parse_terms({name: value for name, _, value in pairs})
