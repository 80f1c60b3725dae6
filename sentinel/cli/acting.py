"""Who acts from the command line, and how it is said what was done."""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sentinel.administration import Administrator
from sentinel.errors import BadInput
from sentinel.records import Record, configured_record
from sentinel.settings import Settings
from worker.tools_allowed import check_tools

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)


@contextmanager
def administrator(settings: Settings) -> Iterator[Administrator]:
    """The user of this command, at the record that the settings name, which is closed behind them."""
    with closing(configured_record(settings)) as record:
        yield administrator_of(record)


def administrator_of(record: Record) -> Administrator:
    """The user of this command, at a record that is open."""
    return Administrator(record, f"cli:{_user()}", time.time(), check_tools)


def read_duration(text: str) -> float:
    """The seconds of a number with a unit: 90s, 15m, 24h, 30d. Raises BadInput."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadInput(f"{text[:40]!r} is no duration such as 90s, 15m, 24h or 30d.")
    return int(found[1]) * _UNITS[found[2]]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"
