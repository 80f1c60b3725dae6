"""What tenants are charged for, when everything is killed and everything is sent again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from sentinel.edge.plans import parse_line
from sentinel.edge.quota import Account, month_of
from sentinel.edge.subscriptions import Subscription
from sentinel.records import JobFilter
from tests.processes.harness import running_sentinel


@pytest.mark.slow
async def test_usage_is_what_was_kept(tmp_path: Path) -> None:
    """Gateway and worker killed in the middle, every webhook sent until it is acknowledged and then again: each job counts once."""
    async with running_sentinel(tmp_path) as running:
        running.record.put_plan("pro", parse_line("user_jobs=1000000"), 0)
        running.record.put_subscription(Subscription("demo", "pro"), 0)
        await trio.sleep(2)

        async def send(number: int) -> None:
            message = running.request("telegram", number % 60, f"hello {number % 60}")
            await running.post(message)

        async with trio.open_nursery() as nursery:
            for number in range(120):
                nursery.start_soon(send, number)
                if number in (30, 90):
                    running.kill("serve", "worker")
                await trio.sleep(0.02)
        await running.wait_all_ended(list(running.all_jobs()), 30)
        used = running.record.usage(month_of(time.time())).used
        people = {account: each for account, each in used.items() if account.end_user}
        assert len(running.all_jobs()) == used[Account("demo")].jobs == sum(each.jobs for each in people.values()) == 60
        tokens = [
            job.result["usage"]["total_tokens"]
            for job in running.record.list_jobs(JobFilter(limit=1_000))
            if job.result is not None
        ]
        assert used[Account("demo")].tokens == sum(each.tokens for each in people.values()) == sum(tokens) > 0
