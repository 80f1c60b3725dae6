"""A gateway whose stores are reached by TLS: webhooks are kept while the certificates are wrong, and people are told why."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trio

from sentinel.channels import channels
from sentinel.cli.status import examine
from sentinel.gateway import Gateway, open_gateway
from sentinel.records import open_record
from sentinel.settings import Settings
from tests.dispatch.conftest import users_command
from tests.gateway.conftest import source_of
from tests.secured import SecuredPostgres, SecuredRedis, secured_postgres, secured_redis

BUDGET = 1.0
DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'sentinel' AND pid <> pg_backend_pid()"


def settings_of(postgres: SecuredPostgres, redis: SecuredRedis, folder: Path) -> Settings:
    """Both stores by TLS with a private authority; Redis as a user of its own."""
    assert redis.server.ask(*users_command("sesame")).startswith("+OK")
    postgres.server.run("CREATE DATABASE sentinel")
    return Settings(
        record=postgres.url(database="sentinel"),
        redis=redis.url(user="sentinel:sesame@"),
        spool=str(folder),
        ack_budget=BUDGET,
        bind="127.0.0.1:0",
    )


async def send(gateway: Gateway, number: int) -> None:
    """A genuine webhook; it must be acknowledged within the budget."""
    channel = channels()["telegram"]
    began = time.monotonic()
    response = await gateway.handle(channel.sample(source_of(channel), "hello", number, time.time()))
    assert response.status == 200, response
    assert time.monotonic() - began < BUDGET


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while not holds():
            await trio.sleep(0.1)


@pytest.mark.slow
async def test_certificates_that_expire(tmp_path: Path) -> None:
    """While both certificates have expired webhooks are kept, `sentinel status` says why, and new ones mend it."""
    (tmp_path / "spool").mkdir()
    with ExitStack() as stack:
        postgres = stack.enter_context(secured_postgres(tmp_path / "authority-1"))
        redis = stack.enter_context(secured_redis(tmp_path / "authority-2"))
        settings = settings_of(postgres, redis, tmp_path / "spool")
        record = stack.enter_context(closing(open_record(settings.record)))
        record.put_source(source_of(channels()["telegram"]), 0)
        async with open_gateway(settings) as gateway:
            keeper, spooling = gateway.health.keeper, gateway.health.intake.spooling
            assert keeper is not None
            assert spooling is not None
            await send(gateway, 1)
            await until(lambda: keeper.words() == "ok" and not spooling.active)

            postgres.present(days=0)
            redis.present(days=0)
            await trio.sleep(0.3)  # for the signal
            postgres.server.run(DISCONNECT)
            redis.server.ask("CLIENT", "KILL", "TYPE", "normal")
            for number in range(2, 7):
                await send(gateway, number)
            assert spooling.active
            await until(lambda: "redis down" in keeper.words())
            said = {finding.what: finding for finding in await trio.to_thread.run_sync(lambda: list(examine(settings)))}
            assert said["record"].verdict == "wrong"
            assert "certificate verify failed: the server's has expired" in said["record"].detail
            assert "certificate is not trusted (certificate has expired)" in said["dispatch"].detail
            assert "5 spooled" in said["spool"].detail

            postgres.present()
            redis.present()
            await until(lambda: not spooling.active and keeper.words() == "ok", 40)
            assert record.counts() == {"queued": 6}
