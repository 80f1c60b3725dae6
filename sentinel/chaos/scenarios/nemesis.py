"""Everything at once: a random sequence of the other scenarios' faults, decided by the seed, under one long load."""

from __future__ import annotations

import attrs

from sentinel.chaos.checker import Rules
from sentinel.chaos.scenarios import postgres, processes, redis, spool
from sentinel.chaos.stage import Act, Scenario, Stage

PIECE_SECONDS = 4.0  # a fault lasts half of it
_FAMILIES = (redis, postgres, spool, processes)
# What needs a stage of its own kind, or takes longer than a piece.
_NOT_HERE = frozenset({"postgres-idle-disconnects", "worker-zombie", "worker-lost-elsewhere", "job-kills-worker"})


async def _nemesis(stage: Stage) -> None:
    piece = attrs.evolve(stage, shape=attrs.evolve(stage.shape, seconds=PIECE_SECONDS))
    end = stage.now() + stage.shape.seconds - PIECE_SECONDS
    while stage.now() < end:
        name, act = stage.chance.choice(FAULTS)
        stage.note(f"next: {name}")
        await act(piece)


def _fits(scenario: Scenario) -> bool:
    """Whether its fault can come over a plain `sentinel up` on PostgreSQL and Redis."""
    special = scenario.disk or scenario.proxied or scenario.before or scenario.settings.get("processes")
    return scenario.record == "postgres" and scenario.commands == ("up",) and not special and scenario.name not in _NOT_HERE


FAULTS: tuple[tuple[str, Act], ...] = tuple(
    (scenario.name, scenario.act) for family in _FAMILIES for scenario in family.SCENARIOS if _fits(scenario)
)
SCENARIOS = (
    Scenario(
        name="nemesis",
        numbers=(52,),
        what="a random sequence of the other faults, by the seed, for a minute",
        act=_nemesis,
        redis_options=redis.DEBUG_ALLOWED,
        shape={"seconds": 60.0, "webhooks": 15_000},
        rules=Rules(silence_allowed=True, repeats_allowed=20 * processes.IN_FLIGHT_MAX),
        recover_seconds=120.0,
    ),
)
