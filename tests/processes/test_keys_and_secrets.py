"""Keys and secrets in true processes: how soon a revoked key is refused, rotation under load, and where no secret may be found."""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from sentinel.channels import channels, find_channel
from sentinel.chaos.servers import PostgresServer, free_port, new_postgres
from sentinel.errors import SendFailed
from sentinel.model import PREVIOUS, Outgoing, Source
from sentinel.outbound import Answer, Outbound, open_outbound
from sentinel.records import configured_record
from sentinel.sealing import new_key_text
from sentinel.secret import Secret
from sentinel.settings import ADMIN_BIND, Settings
from tests.processes.harness import ROOT, environment, start, stop

pytestmark = pytest.mark.slow

REFUSED_SECONDS_MAX = 5.0


@attrs.frozen(eq=False)
class Site:
    """A record, gateways on it as processes, and the commands beside them."""

    settings: Settings
    bases: tuple[str, ...]
    outbound: Outbound
    log: Path

    def command(self, *arguments: str, status: int = 0) -> str:
        """What a `sentinel` command prints; its standard error goes into the log too."""
        command = [sys.executable, "-m", "sentinel", *arguments]
        done = subprocess.run(
            command, env=environment(self.settings), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )
        with self.log.open("a") as log:
            log.write(done.stderr)
        assert done.returncode == status, done.stderr
        return done.stdout

    async def run(self, *arguments: str) -> Any:
        """A command in a thread, with its JSON."""
        return json.loads(await trio.to_thread.run_sync(lambda: self.command(*arguments, "--json")))

    async def get_jobs(self, base: str, key: str) -> int:
        """The status of a request that any key with jobs:read may make."""
        return (
            await self.outbound.send(Outgoing(f"{base}/v1/jobs?limit=1", b"", {"authorization": f"Bearer {key}"}, "GET"))
        ).status

    async def until_status(self, status: int, key: str) -> float:
        """How long it took until every gateway answered so."""
        began = trio.current_time()
        for base in self.bases:
            while await self.get_jobs(base, key) != status:
                assert trio.current_time() - began < 3 * REFUSED_SECONDS_MAX
                await trio.sleep(0.01)
        return trio.current_time() - began


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this file's own."""
    server = new_postgres()
    server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh record."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'sentinel.db'}"
    server, name = request.getfixturevalue("postgres"), f"keys_{secrets.token_hex(4)}"
    server.run(f"CREATE DATABASE {name}")
    return str(server.database(name))


@asynccontextmanager
async def open_site(folder: Path, url: str, gateways: int = 2, **changes: Any) -> AsyncIterator[Site]:
    """Gateways, each its own `sentinel serve`, until the block is left."""
    base = Settings(record=url, spool=str(folder / "spool"), admin_bind="off", model="fake:0")
    each = [attrs.evolve(base, bind=f"127.0.0.1:{free_port()}", **changes) for _ in range(gateways)]
    log = folder / "gateways.log"
    configured_record(each[0]).close()
    async with open_outbound(10.0) as outbound:
        processes = [await start(settings, log, "serve") for settings in each]
        site = Site(each[0], tuple(f"http://{settings.bind}" for settings in each), outbound, log)
        try:
            for one in site.bases:
                await wait_listening(outbound, one)
            yield site
        finally:
            with trio.CancelScope(shield=True):
                for process in processes:
                    await stop(process)


async def wait_listening(outbound: Outbound, base: str) -> None:
    with trio.fail_after(30):
        while True:
            try:
                await outbound.send(Outgoing(f"{base}/healthz", b"", method="GET"))
            except SendFailed:
                await trio.sleep(0.1)
            else:
                return


async def test_a_revoked_key_is_refused_within_five_seconds(tmp_path: Path, url: str, record_property: Any) -> None:
    """From the end of `keys revoke` it takes each of two gateways at most 5 s to refuse the key; a new one is taken as soon."""
    async with open_site(tmp_path, url) as site:
        took: dict[str, list[float]] = {"taken": [], "refused": []}
        for _ in range(3):
            made = await site.run("keys", "create")
            took["taken"].append(await site.until_status(200, made["key"]))
            await site.run("keys", "revoke", made["id"])
            took["refused"].append(await site.until_status(401, made["key"]))
        record_property("seconds", took)
        print({name: [round(seconds, 3) for seconds in each] for name, each in took.items()})
        assert max(took["refused"]) <= REFUSED_SECONDS_MAX
        assert max(took["taken"]) <= REFUSED_SECONDS_MAX


async def test_rotation_under_load_refuses_nobody(tmp_path: Path, url: str) -> None:
    """While a key, a source's secret and the server key are rotated under load, nobody who does it in order is refused once."""
    async with open_site(tmp_path, url) as site:
        await site.run("sources", "add", "bot", "--channel", "telegram", "--set", "secret_token=first")
        key = await site.run("keys", "create")
        await site.until_status(200, key["key"])
        load = Load(site, {"key": key["key"], "secret": "first"})
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(load.run, number)
            await trio.sleep(1.0)
            successor = await site.run("keys", "rotate", key["id"], "--overlap", "1h")
            await site.run("sources", "rotate", "bot", "--channel", "telegram", "--set", "secret_token=second")
            await site.run("secrets", "rotate")
            await trio.sleep(REFUSED_SECONDS_MAX)
            load.known |= {"key": successor["key"], "secret": "second"}  # the callers and the platform change over
            await trio.sleep(1.0)
            await site.run("keys", "revoke", key["id"])
            await site.run("sources", "rotate", "bot", "--channel", "telegram", "--end")
            await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
        print(load.statuses)
        assert set(load.statuses) == {("api", 202), ("webhook", 200)}
        assert min(load.statuses.values()) > 100
        assert await site.until_status(401, key["key"]) <= REFUSED_SECONDS_MAX
        old = find_channel("telegram").sample(Source("default", "telegram", "bot", {"secret_token": "first"}), "x", 1, time.time())
        answer = await site.outbound.send(Outgoing(site.bases[0] + old.path, old.body, old.headers))
        assert answer.status == 401


@attrs.define(eq=False)
class Load:
    """API jobs and webhooks by what the callers know, without a pause; the statuses of the answers."""

    site: Site
    known: dict[str, str]
    statuses: Counter[tuple[str, int]] = attrs.field(factory=Counter)

    async def run(self, number: int) -> None:
        count = number * 1_000_000
        while True:
            count += 1
            for kind, outgoing in (("api", self._job(count)), ("webhook", self._webhook(count))):
                self.statuses[kind, (await self.site.outbound.send(outgoing)).status] += 1

    def _job(self, count: int) -> Outgoing:
        headers = {"authorization": f"Bearer {self.known['key']}", "content-type": "application/json"}
        return Outgoing(f"{self._base(count)}/v1/jobs", b'{"input": "hello"}', headers)

    def _webhook(self, count: int) -> Outgoing:
        source = Source("default", "telegram", "bot", {"secret_token": self.known["secret"]})
        request = find_channel("telegram").sample(source, "hello", count, time.time())
        return Outgoing(self._base(count) + request.path, request.body, request.headers)

    def _base(self, count: int) -> str:
        return self.site.bases[count % len(self.site.bases)]


async def test_no_secret_is_found_anywhere(tmp_path: Path, url: str) -> None:
    """Canaries in every setting of every source, in keys and in the server key are in no file, log, error, answer or listing."""
    canaries = Canaries()
    server_key = Secret(canaries.new() + new_key_text())
    async with open_site(tmp_path, url, gateways=1, secret_key=server_key, log_level="debug") as site:
        sources = [_planted(name, canaries) for name in channels()]
        record = configured_record(site.settings)
        for source in sources:
            assert record.put_source(source, time.time())
        keys = [await site.run("keys", "create", "--name", "planted") for _ in range(2)]
        canaries.words += [key["key"] for key in keys]
        canaries.words.append((await site.run("callbacks", "secret"))["secret"])
        await site.run("keys", "revoke", keys[1]["id"])
        await trio.sleep(2.0)
        said = [answer async for answer in _talk(site, sources, [key["key"] for key in keys])]
        said += [site.command(*words) for words in LISTINGS]
        said += [site.command("sources", "show", source.name, "--channel", source.channel) for source in sources]
        site.command("sources", "add", "x", "--channel", "telegram", "--set", f"colour={canaries.new()}", status=2)
        site.command("sources", "add", "x", "--channel", "telegram", "--set", canaries.new(), status=2)
        record.close()
        rows = _every_row(site.settings)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [name for name, content in files.items() if (found := canaries.found(content)) and print(name, found) is None] == []
    assert canaries.found(rows.encode()) == []
    assert canaries.found("\n".join(said).encode()) == []
    assert len(rows) > 1000, "there was something to search"
    assert b"webhook.refused" in files[site.log], "the log was read"


LISTINGS = (
    ("sources", "list", "--json"),
    ("keys", "list", "--json"),
    ("tenants", "show", "default", "--json"),
    ("secrets", "show"),
    ("audit", "list", "--json"),
    ("jobs", "list", "--json"),
    ("status",),
)


@attrs.define(eq=False)
class Canaries:
    """Words that nobody else says."""

    words: list[str] = attrs.field(factory=list)

    def new(self) -> str:
        self.words.append("canary" + secrets.token_hex(12))
        return self.words[-1]

    def found(self, content: bytes) -> list[str]:
        """Those that are in there, as text or as hex."""
        return [word for word in self.words if word.encode() in content or word.encode().hex().encode() in content]


def _planted(channel_name: str, canaries: Canaries) -> Source:
    """A source of that channel with a canary in every setting that takes any text, and in every previous secret."""
    channel = channels()[channel_name]
    values = {setting.key: setting.example or canaries.new() for setting in channel.settings if setting.secret or setting.required}
    values |= {setting.key + PREVIOUS: canaries.new() for setting in channel.settings if setting.rotates}
    values |= {"system_prompt": canaries.new()}
    if channel_name == "generic":
        values |= {"scheme": "bearer", "secret": canaries.new(), "forward_url": f"https://user:{canaries.new()}@receiver.invalid/"}
    return Source("default", channel_name, "planted", values)


async def _talk(site: Site, sources: list[Source], keys: list[str]) -> AsyncIterator[str]:
    """Good and bad requests of all kinds; what was answered to each, headers too."""
    for source in sources:
        good = find_channel(source.channel).sample(source, "hello", 1, time.time())
        for path, body, headers in (
            (good.path, good.body, good.headers),
            (good.path, b"{", good.headers),
            (good.path, good.body, {"content-type": good.headers["content-type"]}),
            (good.path, good.body, {name: value + "x" for name, value in good.headers.items() if name != "content-type"}),
        ):
            query = f"?{good.query}" if good.query else ""
            yield _shown(await site.outbound.send(Outgoing(f"{site.bases[0]}{path}{query}", body, headers)))
    for key in (*keys, keys[0][:-1]):
        for body in (b'{"input": "hello"}', b"{", b'{"colour": 1}'):
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            yield _shown(await site.outbound.send(Outgoing(f"{site.bases[0]}/v1/jobs", body, headers)))
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/dashboard", "/admin/v1/keys"):
        yield _shown(await site.outbound.send(Outgoing(site.bases[0] + path, b"", {"authorization": f"Bearer {keys[0]}"}, "GET")))


def _shown(answer: Answer) -> str:
    return f"{answer.status} {dict(answer.headers)} {answer.body.decode('utf-8', 'replace')}"


def _every_row(settings: Settings) -> str:
    """Every row of the tables where secrets or words about them are, as text."""
    record = configured_record(settings)
    tables = ("tenants", "sources", "keys", "key_uses", "audit", "server_key", "jobs", "job_steps")
    try:
        if settings.record.startswith("sqlite:"):
            run = record._file.connection.execute  # type: ignore[attr-defined]
            return "\n".join(str(tuple(row)) for table in tables for row in run(f"SELECT * FROM {table}"))  # noqa: S608  no input
        return "\n".join(str(row) for table in tables for row in record._query(f"SELECT * FROM {table}"))  # type: ignore[attr-defined]  # noqa: S608
    finally:
        record.close()


async def test_the_admin_api_has_its_own_listener(tmp_path: Path) -> None:
    """`sentinel serve` offers the admin API where it is told to and nowhere else; a change is in force at once."""
    bind = f"127.0.0.1:{free_port()}"
    async with open_site(tmp_path, f"sqlite:{tmp_path / 'sentinel.db'}", gateways=1, admin_bind=bind) as site:
        admin = await site.run("keys", "create", "--scope", "admin")
        headers = {"authorization": f"Bearer {admin['key']}", "content-type": "application/json"}
        await site.until_status(403, admin["key"])
        for base, status in ((f"http://{bind}", 201), (site.bases[0], 404)):
            answer = await site.outbound.send(Outgoing(f"{base}/admin/v1/keys", b"{}", headers))
            assert answer.status == status
            if status == 201:
                assert await site.get_jobs(site.bases[0], json.loads(answer.body)["key"]) == 200


@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "by default"])
async def test_an_admin_address_that_is_taken(tmp_path: Path, chosen: bool) -> None:
    """An address that was chosen must be had; the one by default may be another Sentinel's, and the gateway serves without."""
    with socket.socket() as taken:
        if chosen:
            taken.bind(("127.0.0.1", 0))
        else:
            with suppress(OSError):  # whoever else has it does as well
                taken.bind(("127.0.0.1", 8081))
        taken.listen()
        admin_bind = f"127.0.0.1:{taken.getsockname()[1]}" if chosen else ADMIN_BIND
        settings = Settings(record=f"sqlite:{tmp_path / 'x.db'}", bind=f"127.0.0.1:{free_port()}", admin_bind=admin_bind)
        process = await start(settings, tmp_path / "log", "serve")
        if chosen:
            with trio.fail_after(30):
                assert await process.wait() == 2
            assert "SENTINEL_ADMIN_BIND" in (tmp_path / "log").read_text()
            return
        async with open_outbound(10.0) as outbound:
            await wait_listening(outbound, f"http://{settings.bind}")
        await stop(process)
        assert "admin.not_listening" in (tmp_path / "log").read_text()


async def test_without_the_right_server_key_nothing_starts(tmp_path: Path, url: str) -> None:
    """A gateway or a worker that has another server key says which one is missing, and does not answer 401 to everybody instead."""
    settings = Settings(record=url, spool="off", admin_bind="off", model="fake:0", secret_key=Secret("r" * 40))
    record = configured_record(settings)
    record.put_source(Source("default", "telegram", "bot", {"secret_token": "s"}), 0)
    missing = record.server_key_id()
    record.close()
    wrong = attrs.evolve(settings, secret_key=Secret("w" * 40), bind=f"127.0.0.1:{free_port()}")
    for command in ("serve", "worker"):
        process = await start(wrong, tmp_path / command, command)
        with trio.fail_after(30):
            assert await process.wait() == 2
        said = (tmp_path / command).read_text()
        assert f"sealed with server key {missing}" in said
        assert "SENTINEL_SECRET_KEY" in said
        assert "r" * 40 not in said
        assert "w" * 40 not in said


def test_canaries_would_be_found() -> None:
    """The search finds a word as text and as hex."""
    canaries = Canaries()
    word = canaries.new()
    assert re.fullmatch("canary[0-9a-f]{24}", word)
    assert canaries.found(f"x{word}y".encode()) == canaries.found(word.encode().hex().encode()) == [word]
    assert canaries.found(b"nothing") == []
