"""The table of all scenarios, in the order in which they run. One file per thing that breaks; no mechanics here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.chaos.scenarios import nemesis, postgres, processes, redis, spool, sqlite, tenants
from sentinel.chaos.stage import Scenario
from sentinel.errors import NotFound

_FAMILIES = (sqlite, processes, tenants, redis, postgres, spool, nemesis)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for family in _FAMILIES for scenario in family.SCENARIOS}

# What an operator would call it.
ALSO_CALLED = {
    "redis-down": "redis-killed",
    "postgres-down": "postgres-killed",
    "gateway-down": "gateway-killed",
    "worker-down": "worker-killed",
}

# The short form: one or two of each kind.
SHORT = (
    "sqlite-disk-full",
    "gateway-killed",
    "worker-killed-at-the-worst-moment",
    "job-kills-worker",
    "same-event-50-times",
    "redis-killed",
    "redis-paused",
    "redis-full",
    "redis-cut",
    "postgres-killed",
    "postgres-terminated",
    "postgres-paused",
    "postgres-cold-start",
    "both-down-gateway-killed",
    "spool-full",
    "drain-interrupted",
)


def choose(names: Sequence[str], *, short: bool = False) -> list[Scenario]:
    """The scenarios of these names; all of them, or those of the short form, if none is named. Raises NotFound."""
    names = [ALSO_CALLED.get(name, name) for name in names]
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise NotFound(f"There is no scenario {unknown[0]!r}; `sentinel chaos --list` shows them.")
    return [SCENARIOS[name] for name in names or (SHORT if short else SCENARIOS)]
