"""What the edge checks cost: `Gateway.handle` and the group commit behind it, with no plan and with the plans of PLANS.

They take turns in one process, on one record; signed WhatsApp webhooks, each from another person, or from one of PEOPLE. What is
measured is CPU: on a busy machine too, what is compared within a turn means something.

    scripts/bench/edge.py WEBHOOKS_A_TURN TURNS                      SQLite, no Redis
    scripts/bench/edge.py WEBHOOKS_A_TURN TURNS served [PEOPLE]      a private PostgreSQL and Redis, whose CPU is told too
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from sentinel.channels import channels
from sentinel.channels.shared.signing import hmac_hex
from sentinel.chaos.servers import new_postgres, new_redis
from sentinel.edge.plans import UNLIMITED, Terms, parse_line
from sentinel.edge.subscriptions import Subscription
from sentinel.gateway import Gateway, open_gateway
from sentinel.http import Request
from sentinel.model import Source
from sentinel.records import open_record
from sentinel.records.directory import Directory
from sentinel.settings import Settings

TENANT = "jobs=100000000 tokens=1000000000 tenant_rate=1000000/1 source_rate=1000000/1"
PLANS = {
    "no plan": UNLIMITED,
    "tenant": parse_line(TENANT),
    "every limit": parse_line(f"{TENANT} user_jobs=100000 user_rate=10000/1"),
    "small limits": parse_line(f"{TENANT} user_jobs=1000 user_rate=100/60"),
    "tiny limits": parse_line(f"{TENANT} user_jobs=300 user_rate=6/60"),
}
AT_ONCE = 256
PERSON_FIRST = 15_550_000_000  # as in the channel's samples


def cpu_us(pid: int) -> float:
    """Microseconds of CPU of the process, its threads and its children, all that are alive."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    own = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e3
    return own + sum(cpu_us(int(child)) for task in tasks for child in (task / "children").read_text().split())


async def take(gateway: Gateway, requests: list[Request], servers: list[int]) -> list[float]:
    """Microseconds of CPU a webhook, of this process and of each server."""
    before = [time.process_time() * 1e6, *map(cpu_us, servers)]
    for start in range(0, len(requests), AT_ONCE):
        async with trio.open_nursery() as nursery:
            for request in requests[start : start + AT_ONCE]:
                nursery.start_soon(gateway.handle, request)
    after = [time.process_time() * 1e6, *map(cpu_us, servers)]
    return [(end - began) / len(requests) for began, end in zip(before, after, strict=True)]


def webhook(source: Source, number: int, people: int | None) -> Request:
    """A message from a new person, or from one of so many."""
    made = channels()["whatsapp"].sample(source, "hello", number, time.time())
    if people is None:
        return made
    body = made.body.replace(str(PERSON_FIRST + number).encode(), str(PERSON_FIRST + random.randrange(people)).encode())
    signature = "sha256=" + hmac_hex(source.setting("app_secret").encode(), body)
    return attrs.evolve(made, body=body, headers=made.headers | {"x-hub-signature-256": signature})


async def main(count: int, turns: int, *, served: bool, people: int | None) -> None:
    """Print what a webhook costs without a plan, and how much more with each plan: the median of the turns' differences."""
    numbers = iter(range(10_000_000))
    costs: dict[str, list[list[float]]] = {name: [] for name in PLANS}
    with stores(served=served) as (settings, servers):
        record = open_record(settings.record)
        source = Source("default", "whatsapp", "bench", {"app_secret": "s3cret"})
        record.put_source(source, 0)
        async with open_gateway(settings) as gateway:
            directories = {name: with_terms(gateway.directory.current, terms) for name, terms in PLANS.items()}
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)  # as `sentinel serve` does
            for turn in range(turns + 1):
                for name in sorted(PLANS, reverse=bool(turn % 2)):
                    made = [webhook(source, next(numbers), people) for _ in range(count)]
                    gateway.directory.current = directories[name]
                    costs[name].append(await take(gateway, made, servers))
        record.close()
    print(f"{'':<14}", *(f"{side:>12}" for side in ("gateway", "PostgreSQL", "Redis")[: 1 + len(servers)]))
    for name, found in costs.items():
        pairs = list(zip(found[1:], costs["no plan"][1:], strict=True))  # the first turn warms up
        columns = [
            statistics.median(one[k] - (0 if one is none else none[k]) for one, none in pairs) for k in range(1 + len(servers))
        ]
        print(f"{name:<14}", *(f"{column:>+12.1f}" for column in columns))


@contextmanager
def stores(*, served: bool) -> Iterator[tuple[Settings, list[int]]]:
    """Where the webhooks are kept, and the processes of the servers."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(record=f"sqlite:{Path(folder) / 'edge.db'}", model="fake:0", spool="off", log_level="error")
        if not served:
            yield settings, []
            return
        servers = postgres, redis = new_postgres(shared_buffers="512MB", max_wal_size="4GB"), new_redis()
        try:
            for server in servers:
                server.start()
            yield attrs.evolve(settings, record=postgres.url, redis=redis.url), [server.process.pid for server in servers]
        finally:
            for server in servers:
                server.remove()


def with_terms(directory: Directory, terms: Terms) -> Directory:
    """The directory in which the tenant `default` has these terms; without limits, no subscription."""
    has = {} if terms == UNLIMITED else {"default": Subscription("default", "all", terms=terms)}
    return attrs.evolve(directory, subscriptions=has)


PEOPLE_GIVEN = int(sys.argv[4]) if sys.argv[4:] else None
trio.run(lambda: main(int(sys.argv[1]), int(sys.argv[2]), served="served" in sys.argv[3:], people=PEOPLE_GIVEN))
