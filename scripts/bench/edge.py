"""What the edge checks cost: `Webhooks.receive` and the group commit behind it, with no plan and with every limit a plan can have.

The two take turns in one process, on one record; signed WhatsApp webhooks, each from another person.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio

from sentinel.channels import channels
from sentinel.edge.plans import UNLIMITED, Terms, parse_line
from sentinel.edge.subscriptions import Subscription
from sentinel.gateway import Gateway, open_gateway
from sentinel.http import Request
from sentinel.model import Source
from sentinel.records import open_record
from sentinel.settings import Settings

EVERYTHING = parse_line(
    "jobs=1000000000 tokens=1000000000 user_jobs=1000000 user_tokens=1000000 "
    "tenant_rate=1000000/1 source_rate=1000000/1 key_rate=1000000/1 user_rate=1000000/1"
)
AT_ONCE = 256


async def take(gateway: Gateway, requests: list[Request]) -> float:
    """Seconds of CPU of this process for each webhook."""
    began = time.process_time()
    for start in range(0, len(requests), AT_ONCE):
        async with trio.open_nursery() as nursery:
            for request in requests[start : start + AT_ONCE]:
                nursery.start_soon(gateway.handle, request)
    return (time.process_time() - began) / len(requests)


async def main(count: int, rounds: int) -> None:
    """Print what a webhook costs without a plan and with everything limited."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(record=f"sqlite:{Path(folder) / 'edge.db'}", model="fake:0")
        record = open_record(settings.record)
        source = Source("default", "whatsapp", "bench", {"app_secret": "s3cret"})
        record.put_source(source, 0)
        record.put_plan("all", EVERYTHING, 0)
        numbers = iter(range(10_000_000))
        costs: dict[str, list[float]] = {"no plan": [], "every limit": []}
        async with open_gateway(settings) as gateway:
            current = gateway.directory.current
            for _ in range(rounds):
                for name, terms in (("no plan", UNLIMITED), ("every limit", EVERYTHING)):
                    gateway.directory.current = with_terms(current, terms)
                    made = [channels()["whatsapp"].sample(source, "hello", next(numbers), time.time()) for _ in range(count)]
                    costs[name].append(await take(gateway, made))
        record.close()
    for name, seconds in costs.items():
        print(f"{name:<12} {statistics.median(seconds) * 1e6:7.1f} us ({min(seconds) * 1e6:.1f} to {max(seconds) * 1e6:.1f})")
    ratios = [limited / free for free, limited in zip(*costs.values(), strict=True)]
    print(f"ratio        {statistics.median(ratios):7.3f}")


def with_terms(directory: object, terms: Terms) -> object:
    """The directory in which the tenant `default` has these terms; without limits, no subscription."""
    has = {} if terms == UNLIMITED else {"default": Subscription("default", "all", terms=terms)}
    return attrs.evolve(directory, subscriptions=has)  # type: ignore[misc]


trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
