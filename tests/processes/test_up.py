"""`sentinel up` from outside: spikes, kills, stops, and models that are not there."""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import trio

from sentinel.demo import wait_ready
from sentinel.model import Outgoing
from sentinel.payload import decode_json, encode_json
from sentinel.processes import process_name
from sentinel.records import JobFilter
from sentinel.settings import Settings
from tests.processes.harness import ROOT, Acknowledged, Running, environment, free_port, running_sentinel, start, stop

pytestmark = pytest.mark.slow

CHANNELS = ("whatsapp", "telegram", "slack", "salesforce", "generic")


async def send_all(running: Running, count: int, text: str = "hello", channels: tuple[str, ...] = CHANNELS) -> list[Acknowledged]:
    """`count` distinct webhooks at once, over the channels in turn."""
    acknowledged: list[Acknowledged] = []

    async def send(number: int) -> None:
        acknowledged.append(await running.post(running.request(channels[number % len(channels)], number, f"{text} {number}")))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(send, number)
    return acknowledged


def check_nothing_lost_or_doubled(running: Running, acknowledged: list[Acknowledged], texts: Counter[str]) -> None:
    """Every acknowledged webhook is exactly one succeeded job with its reply; there is no job that nobody sent."""
    states = running.all_jobs()
    assert {ack.job_id for ack in acknowledged} == set(states), "lost, or made up"
    assert set(states.values()) == {"succeeded"}
    delivered = Counter(delivery.text for delivery in running.stand_in.deliveries)
    assert set(delivered) == set(texts)


async def test_a_spike_is_kept_while_the_model_is_busy(tmp_path: Path) -> None:
    """500 webhooks at once while every slot is busy: all acknowledged, none lost, all become finished jobs with one reply each."""
    async with running_sentinel(tmp_path, model="fake:200", slots=64) as running:
        busy = [await running.post(running.request("telegram", 10_000 + number, f"busy {number}")) for number in range(100)]
        acknowledged = await send_all(running, 500)
        assert Counter(running.all_jobs().values())["succeeded"] < 600, "the model was busy meanwhile"
        everything = busy + acknowledged
        await running.wait_all_ended([ack.job_id for ack in everything], 60)
        texts = Counter([f"echo: busy {n}" for n in range(100)] + [f"echo: hello {n}" for n in range(500)])
        check_nothing_lost_or_doubled(running, everything, texts)
        assert Counter(delivery.text for delivery in running.stand_in.deliveries) == texts, "one reply each"

    latencies = sorted(ack.seconds * 1000 for ack in acknowledged)
    print(f"\n500 at once: p50 {statistics.median(latencies):.0f} ms, p99 {latencies[494]:.0f} ms, max {latencies[-1]:.0f} ms")


async def test_the_same_webhook_50_times_at_once(tmp_path: Path) -> None:
    """The same webhook sent 50 times at once gives one job and one reply, and every sender the same id."""
    async with running_sentinel(tmp_path) as running:
        acknowledged: list[Acknowledged] = []

        async def send(outgoing: Outgoing) -> None:
            acknowledged.append(await running.post(outgoing))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(send, running.request("whatsapp", 1, "once"))
        (job_id,) = {ack.job_id for ack in acknowledged}
        await running.wait_all_ended([job_id], 10)
        await trio.sleep(0.5)

        assert len(running.all_jobs()) == 1
        assert [delivery.text for delivery in running.stand_in.deliveries] == ["echo: once"]
        assert sum("sentinel-duplicate" not in ack.headers for ack in acknowledged) == 1


@pytest.mark.parametrize("victims", [("worker",), ("serve",), ("serve", "worker")], ids=" and ".join)
async def test_kill_9_loses_and_doubles_nothing(tmp_path: Path, victims: tuple[str, ...]) -> None:
    """Whoever is killed in the middle of 200 jobs: every acknowledged webhook ends as exactly one finished job."""
    async with running_sentinel(tmp_path, model="fake:100", slots=8) as running:
        acknowledged: list[Acknowledged] = []

        async def send() -> None:
            acknowledged.extend(await send_all(running, 200))

        async def kill() -> None:
            with trio.fail_after(20):
                while Counter(running.all_jobs().values())["succeeded"] < 10:
                    await trio.sleep(0.02)
            running.kill(*victims)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(kill)
        await running.wait_all_ended([ack.job_id for ack in acknowledged], 60)

        texts = Counter(f"echo: hello {number}" for number in range(200))
        check_nothing_lost_or_doubled(running, acknowledged, texts)
        doubled = len(running.stand_in.deliveries) - 200
        assert doubled <= (20 if "worker" in victims else 0), "a reply may repeat only if it was on its way when its worker died"
        print(f"\nkilled {victims}: {doubled} replies sent twice")


async def test_the_gateway_listens_again_soon(tmp_path: Path) -> None:
    """After kill -9 the gateway answers again within 2 seconds."""
    async with running_sentinel(tmp_path) as running:
        running.kill("serve")
        started = time.monotonic()
        await running.post(running.request("telegram", 1, "hello"))
        assert time.monotonic() - started < 2


async def test_several_gateways_share_the_address(tmp_path: Path) -> None:
    """With SENTINEL_PROCESSES=2 two gateways take webhooks on one port, and the death of one is no outage."""
    async with running_sentinel(tmp_path, processes=2) as running:
        acknowledged = await send_all(running, 50)
        serving = [
            int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and is_child_gateway(folder, running)
        ]
        assert len(serving) == 2
        os.kill(serving[0], signal.SIGKILL)
        acknowledged += [
            await running.post(running.request("telegram", 100 + number, f"hello {100 + number}")) for number in range(20)
        ]
        await running.wait_all_ended([ack.job_id for ack in acknowledged], 20)
        assert set(running.all_jobs().values()) == {"succeeded"}


def is_child_gateway(folder: Path, running: Running) -> bool:
    """Whether the process is one of the gateways below this `sentinel up`."""
    try:
        command = (folder / "cmdline").read_bytes()
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return b"--one" in command and parent == running.children()["serve"]


async def test_sigterm_stops_in_time_and_a_restart_goes_on(tmp_path: Path) -> None:
    """SIGTERM ends everything within its cap, burns no attempt, and the next start finishes what was left."""
    async with running_sentinel(tmp_path, model="fake:3000", slots=4, grace_seconds=0.5) as running:
        acknowledged = await send_all(running, 8)
        with trio.fail_after(10):
            while Counter(running.all_jobs().values())["running"] < 4:
                await trio.sleep(0.02)
        started = time.monotonic()
        assert await stop(running.process) == 0
        assert time.monotonic() - started < 6
        jobs = [running.record.find_job(ack.job_id) for ack in acknowledged]
        assert {(str(job.state), job.attempt, job.rescues) for job in jobs if job} == {("queued", 0, 0)}

        running.process = await start(running.settings, running.log, "up")
        await running.wait_all_ended([ack.job_id for ack in acknowledged], 30)
        check_nothing_lost_or_doubled(running, acknowledged, Counter(f"echo: hello {number}" for number in range(8)))


async def test_a_busy_address_is_said_and_ends_it(tmp_path: Path) -> None:
    """A second `sentinel up` on the same address says so and ends with 2, instead of trying for ever."""
    async with running_sentinel(tmp_path) as running:
        second = await start(running.settings, tmp_path / "second.log", "up")
        with trio.fail_after(20):
            assert await second.wait() == 2
        assert f"cannot listen on {running.settings.bind}" in (tmp_path / "second.log").read_text()
        await running.post(running.request("telegram", 1, "the first lives on"))


async def test_a_worker_declared_dead_is_replaced(tmp_path: Path) -> None:
    """A worker that the record has given up ends, another takes its place, and the gateway never stops."""
    async with running_sentinel(tmp_path) as running:
        (first,) = running.record.workers()
        gateway = running.children()["serve"]
        running.record.bury(first.id, time.time())
        with trio.fail_after(20):
            while not [worker for worker in running.record.workers() if worker.status == "ready"]:
                await trio.sleep(0.1)
        ack = await running.post(running.request("telegram", 1, "hello"))
        await running.wait_all_ended([ack.job_id], 10)
        assert running.children()["serve"] == gateway


async def test_a_record_that_is_locked_at_the_start_delays_it_only(tmp_path: Path) -> None:
    """A record that another program locks while Sentinel starts is waited for."""
    async with running_sentinel(tmp_path, ready=False) as running:
        await stop(running.process)
        locker = sqlite3.connect(running.settings.record.partition(":")[2], isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        running.process = await start(running.settings, running.log, "up")
        await trio.sleep(12)
        locker.execute("ROLLBACK")
        locker.close()
        assert await wait_ready(running.settings, 30) is None


async def test_children_end_with_their_supervisor(tmp_path: Path) -> None:
    """When the supervisor is killed, gateway and worker stop by themselves."""
    async with running_sentinel(tmp_path) as running:
        children = {pid: process_name(pid) for pid in running.children().values()}
        assert len(children) == 2
        os.kill(running.process.pid, signal.SIGKILL)
        await running.process.wait()
        with trio.fail_after(15):
            while any(process_name(pid) == name for pid, name in children.items()):
                await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"GGUF\x03\x00", "truncated"), (b"<html>not a model</html>" * 10, "not a GGUF file")],
)
async def test_a_bad_model_stops_no_webhook(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """Without a usable model the gateway acknowledges, jobs wait, and /readyz, the doctor and the log say why."""
    model = tmp_path / "model.gguf"
    if content is not None:
        model.write_bytes(content)
    async with running_sentinel(tmp_path, ready=False, model=str(model)) as running:
        ack = await running.post(running.request("whatsapp", 1, "hello"))
        with trio.fail_after(15):
            while reason not in running.log.read_text():
                await trio.sleep(0.05)
        assert running.all_jobs() == {ack.job_id: "queued"}
        checks = await wait_ready(running.settings, 1)
        assert checks is not None
        assert reason in checks["worker"]
        doctor = await sentinel_command(running, "doctor")
        assert doctor.returncode == 1
        assert reason in doctor.stdout.decode()


async def test_the_record_can_be_read_by_hand(tmp_path: Path) -> None:
    """`job_overview` and `jobs show` tell a job's story, found by the platform's own id."""
    async with running_sentinel(tmp_path) as running:
        ack = await running.post(running.request("whatsapp", 1, "hello"))
        await running.wait_all_ended([ack.job_id], 10)
        with sqlite3.connect(running.settings.record.partition(":")[2]) as connection:
            columns = "id, state, tenant, channel, source, external_id, attempt, created_at, started_at, finished_at, last_error"
            (row,) = connection.execute(f"SELECT {columns} FROM job_overview").fetchall()  # noqa: S608
        connection.close()
        assert row[:5] == (ack.job_id, "succeeded", "demo", "whatsapp", "demo")
        shown = await sentinel_command(running, "jobs", "show", row[5], "--json")
        document = decode_json(shown.stdout)
        assert document["id"] == ack.job_id
        assert [event["step"] for event in document["events"]][-2:] == ["delivered", "succeeded"]


async def test_plain_hypercorn_serves_every_route(tmp_path: Path) -> None:
    """`hypercorn --worker-class trio sentinel.asgi:app` takes webhooks and API jobs like `sentinel serve`."""
    async with running_sentinel(tmp_path) as running:
        os.kill(running.children()["serve"], signal.SIGSTOP)  # so that nobody else can answer
        port = free_port()
        command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio", "-b", f"127.0.0.1:{port}", "sentinel.asgi:app"]
        hypercorn = await trio.lowlevel.open_process(
            command, env=environment(running.settings), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        try:
            original = running.request("slack", 1, "through hypercorn")
            moved = Outgoing(original.url.replace(running.base, f"http://127.0.0.1:{port}"), original.body, original.headers)
            ack = await running.post(moved)
            await running.wait_all_ended([ack.job_id], 10)
            assert [delivery.text for delivery in running.stand_in.of("slack")] == ["echo: through hypercorn"]
        finally:
            os.kill(running.children()["serve"], signal.SIGCONT)
            await stop(hypercorn)


@pytest.mark.model
async def test_the_demo_brings_every_reply(tmp_path: Path) -> None:
    """`sentinel demo` with the bundled model ends 0 and prints a reply for each channel and the API."""
    settings = environment(Settings(record=f"sqlite:{tmp_path / 'demo.db'}", bind=f"127.0.0.1:{free_port()}"))
    demo = await trio.run_process(
        [sys.executable, "-m", "sentinel", "demo"], env=settings, cwd=ROOT, capture_stdout=True, check=False
    )
    output = demo.stdout.decode()
    assert demo.returncode == 0, output
    replies = output.partition("as they were delivered by HTTP:")[2]
    assert [line.split()[0] for line in replies.splitlines() if line.startswith("  ")] == [*sorted(CHANNELS), "api"]
    assert " none" not in replies


@pytest.mark.model
async def test_cancelling_the_real_model_frees_it_within_a_second(tmp_path: Path) -> None:
    """A generation of the bundled model that is cancelled by the API has stopped within a second."""
    async with running_sentinel(tmp_path, model=None, slots=2) as running:
        key = decode_json((await sentinel_command(running, "keys", "create", "--json")).stdout)["key"]
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        body = encode_json({"input": "Write a very long story about a sailor and the sea.", "max_tokens": 1500})
        with trio.fail_after(10):
            while (answer := await running.outbound.send(Outgoing(f"{running.base}/v1/jobs", body, headers))).status == 401:
                await trio.sleep(0.1)
        job_id = decode_json(answer.body)["id"]
        with trio.fail_after(20):
            while not (job := running.record.find_job(job_id)) or job.progress == 0:
                await trio.sleep(0.02)
        asked = time.monotonic()
        await running.outbound.send(Outgoing(f"{running.base}/v1/jobs/{job_id}/cancel", b"", headers))
        await running.wait_all_ended([job_id], 5)
        assert time.monotonic() - asked < 1
        assert running.all_jobs() == {job_id: "cancelled"}


@pytest.mark.model
@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL], ids=lambda death: death.name)
async def test_a_crash_of_the_library_ends_the_worker_alone(tmp_path: Path, death: signal.Signals) -> None:
    """
    The worker dies in the middle of 16 generations, eight more waiting: the gateway answers on, and every job ends once.

    How soon there is another worker, and its first token in the record, is printed; the goal is 2 s, on a quiet machine.
    """
    async with running_sentinel(tmp_path, model=None, slots=16, tokens_max=24) as running:
        acknowledged = await send_all(running, 24, channels=("telegram",))
        with trio.fail_after(60):
            while sum(value > 0 for value in progress(running).values()) < 16:
                await trio.sleep(0.02)
        before, heard = running.children(), progress(running)
        os.kill(before["worker"], death)
        died = time.monotonic()
        with trio.fail_after(60):
            while running.children().get("worker", before["worker"]) == before["worker"]:
                await trio.sleep(0.01)
            restarted = time.monotonic()
            while all(value in (0, heard[job]) for job, value in progress(running).items()):
                await trio.sleep(0.01)
            token = time.monotonic()
        print(f"\n{death.name}: another worker after {restarted - died:.2f} s, its first token after {token - died:.2f} s")
        acknowledged += await send_all(running, 20, text="meanwhile", channels=("slack",))
        await running.wait_all_ended([ack.job_id for ack in acknowledged], 150)
        after = running.children()
        assert Counter(running.all_jobs().values()) == {"succeeded": 44}
        ends = [sum(step.step == "succeeded" for step in running.record.story(ack.job_id)) for ack in acknowledged]
        assert ends == [1] * 44
    assert after["serve"] == before["serve"]
    assert after["worker"] != before["worker"]
    assert max(ack.seconds for ack in acknowledged) < 2
    assert token - died < 20


def progress(running: Running) -> dict[str, float]:
    """How far each job is, as the record has heard."""
    return {job.id: job.progress for job in running.record.list_jobs(JobFilter(limit=100))}


async def sentinel_command(running: Running, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """One `sentinel` command with the settings of the running one."""
    command = [sys.executable, "-m", "sentinel", *arguments]
    return await trio.run_process(command, env=environment(running.settings), cwd=ROOT, capture_stdout=True, check=False)
