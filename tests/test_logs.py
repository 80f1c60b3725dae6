"""What a line of the log may hold, whatever it is given; and a search for planted secrets in all that is said on every path."""

from __future__ import annotations

import io
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import attrs
import pytest
import trio
import trio.lowlevel

from sentinel.channels import channels
from sentinel.errors import BadInput, Unavailable
from sentinel.gateway import Gateway, open_gateway
from sentinel.http import Request, Response, json_response
from sentinel.logs import ITEMS_MAX, TEXT_MAX, begin_job, begin_request, configure_logs, describe, log
from sentinel.records import JobFilter
from sentinel.secret import Secret
from sentinel.stand_in import Delivery
from sentinel.visible import visible
from tests.conftest import Sentinel, ended
from tests.gateway.conftest import add_key

CANARY = "canary" + secrets.token_hex(8)


@attrs.define
class Said:
    """What was logged so far."""

    capture: pytest.CaptureFixture[str]
    text: str = ""

    def getvalue(self) -> str:
        self.text += self.capture.readouterr().err
        return self.text


@pytest.fixture(params=["json", "text"])
def said(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """What is logged at any level, in each of the two formats."""
    configure_logs(request.param, "debug")
    yield Said(capsys)
    configure_logs("json", "error")


@attrs.frozen
class Thing:
    """An object that prints what it holds."""

    body: str = CANARY


def test_only_small_things_are_shown(said: Said) -> None:
    """Bytes are counted, objects and mappings say what they are, secrets hide, long texts and lists are cut."""
    long = "x" * (TEXT_MAX + 50) + CANARY
    log.info(
        "a.b", a=CANARY.encode(), b=Thing(), c={"k": CANARY}, d=Secret(CANARY), e=long, f=["y"] * ITEMS_MAX + [CANARY], g=(1, None)
    )
    text = said.getvalue()
    assert CANARY not in text
    for shown in (f"<{len(CANARY)} bytes>", "<Thing>", "<1 values>", "***", "a.b"):
        assert shown in text


def test_characters_that_act_are_shown(said: Said) -> None:
    """Line breaks, escapes and characters that reverse or hide text are made visible: one event is one line."""
    log.info("a.b", text="one\ntwo\x1b[31m\u202e\u2028\x00 é 🙂")
    text = said.getvalue()
    assert text.count("\n") == 1
    assert not set(text) & set("\x1b\u202e\u2028\x00")
    for shown in ("u000a", "u001b", "u202e", "u2028", "u0000"):
        assert shown in text


def test_an_exception_says_its_place_and_not_its_message(said: Said) -> None:
    """Neither a message, nor that of its cause or of a group's members, nor a local is shown; type, file and function are."""

    def fail(body: str) -> None:
        try:
            raise KeyError(body)  # noqa: TRY301
        except KeyError as error:
            raise ExceptionGroup(body, [ValueError(body), Unavailable("in our own words")]) from error

    try:
        fail(CANARY)
    except ExceptionGroup as error:
        log.exception("a.b", error=error)
        logging.getLogger("library").exception("failed with %r", Thing("harmless"))
    text = said.getvalue()
    assert CANARY not in text
    for shown in ("ValueError", "in our own words", "test_logs.py", "fail"):
        assert shown in text


def test_what_an_error_says() -> None:
    """Our own errors speak for themselves, the system's by their code, others only by type and place."""
    assert describe(BadInput("no")) == "BadInput: no"
    assert describe(OSError(28, "No space left on device")) == "OSError: No space left on device"
    assert describe(ValueError(CANARY)) == "ValueError"


async def test_every_line_of_a_request_has_its_id(said: Said) -> None:
    """Lines of one request have one id, of another request another; lines of a job's task have the job's."""

    async def one(job: str) -> None:
        begin_job(job)
        await trio.lowlevel.checkpoint()
        log.info("a.b")

    begin_request()
    log.info("first.line")
    log.info("first.again")
    begin_request()
    log.info("second.line")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "job-1")
        nursery.start_soon(one, "job-2")
    if said.getvalue().startswith("{"):
        lines = [json.loads(line) for line in said.getvalue().splitlines()]
        assert lines[0]["request"] == lines[1]["request"] != lines[2]["request"]
        assert {line.get("job") for line in lines} == {None, "job-1", "job-2"}


def test_a_line_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody takes the lines any more, or just now, they are lost and nobody fails for it."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise BlockingIOError

    configure_logs("json", "info")
    monkeypatch.setattr("sys.stderr", Full())
    log.info("a.b")
    log.exception("a.b", error=ValueError("no"))


def test_plain_text_stays() -> None:
    """What a reader sees is not changed."""
    assert visible("Grüße, 🙂 مرحبا") == "Grüße, 🙂 مرحبا"
    assert visible("a\tb\u200d") == "a\\u0009b\\u200d"


async def test_no_canary_is_found(sentinel: Sentinel, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Secrets and bodies with canaries in them go every way there is, and nothing that is said holds one.

    Good, forged, malformed, refused and crashing requests; deliveries that fail, are refused or crash; a callback that cannot be
    sent. Looked at are the log, every answer of the gateway, and every error that the record keeps.
    """
    key = add_key(sentinel.record, "demo")
    sentinel.record.allow_network("demo", "127.0.0.1/32")
    for name, source in sentinel.sources.items():
        planted = {s.key: f"{CANARY}-{s.key}" for s in channels()[name].settings if s.secret and s.key != "secret"}
        sentinel.record.put_source(attrs.evolve(source, settings={**source.settings, **planted}), time.time())
    sources = sentinel.record.directory().sources

    # A platform that repeats our own secrets in what it says of an error.
    def complain(delivery: Delivery) -> Response:
        given = sources[delivery.label, "demo"].settings if delivery.label in sentinel.sources else {}
        words = " ".join(value for value in given.values() if len(value) >= 8)
        error = words if delivery.label == "slack" else {"code": 1, "message": words}
        return json_response(400, {"ok": False, "error": error, "description": words})

    sentinel.stand_in.misbehave = complain
    answers: list[bytes] = []

    async def ask(gateway: Gateway, request: Request) -> None:
        response = await gateway.handle(request)
        answers.append(response.body + repr(response.headers).encode())

    async with open_gateway(sentinel.settings) as gateway, sentinel.working():
        for source in sources.values():
            genuine = channels()[source.channel].sample(source, f"hello {CANARY}", 1, time.time())
            await ask(gateway, genuine)
            forged = {name: f"{value}{CANARY}" for name, value in genuine.headers.items() if name != "content-type"}
            await ask(gateway, attrs.evolve(genuine, headers={**genuine.headers, **forged}, query=f"token={CANARY}"))
            for body in (b'{"' + CANARY.encode(), b"<a>" + CANARY.encode(), CANARY.encode() + b"\xff"):
                await ask(gateway, attrs.evolve(genuine, body=body))
            await ask(gateway, attrs.evolve(genuine, headers={**genuine.headers, "content-type": f"text/{CANARY}"}))
        bearer = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        for body in (
            {"input": CANARY, "callback_url": f"http://127.0.0.1:1/{CANARY}"},
            {"input": CANARY, "callback_url": f"{sentinel.stand_in.base('caller')}/{CANARY}"},
            {"input": "x", "callback_url": f"ftp://{CANARY}"},
            {"input": [{"role": CANARY, "content": CANARY}]},
        ):
            await ask(gateway, Request("POST", "/v1/jobs", "", bearer, json.dumps(body).encode()))
        await ask(gateway, Request("POST", "/v1/jobs", "", {**bearer, "authorization": f"Bearer {CANARY}"}, b"{}"))
        await ask(gateway, Request("GET", f"/v1/jobs/{CANARY}", f"x={CANARY}", bearer))

        def crash(*_: object) -> None:
            raise RuntimeError(CANARY)

        monkeypatch.setattr("sentinel.webhooks.check_media", crash)
        await ask(gateway, channels()["telegram"].sample(sources["telegram", "demo"], CANARY, 2, time.time()))
        for job in sentinel.record.list_jobs(JobFilter()):
            await sentinel.wait_for(job.id, ended)
        await trio.sleep(0.3)
    spoken = said.getvalue()
    assert "request.crashed" in spoken
    assert "webhook.refused" in spoken
    assert "callback.settled" in spoken
    assert CANARY not in spoken, spoken[max(0, spoken.find(CANARY) - 300) :][:600]
    for answer in answers:
        assert CANARY.encode() not in answer, answer
    with closing(sqlite3.connect(sentinel.settings.record.partition(":")[2])) as shell:
        (kept,) = shell.execute("SELECT group_concat(detail) FROM job_steps").fetchone()
    told = [str(job.last_error) for job in sentinel.record.list_jobs(JobFilter())]
    assert any("delivery refused" in each for each in told)
    assert CANARY not in kept + " ".join(told)


CLIENTS = {"webhook.refused": "203.0.113.7", "request.refused": "203.0.113.8", "request.crashed": "2001:db8::7"}


async def test_whose_request_was_refused(
    sentinel: Sentinel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line about a request that was refused or met a fault of ours names the client, as the proxies that are believed do."""
    configure_logs("json", "info")
    telegram = channels()["telegram"]
    genuine = attrs.evolve(telegram.sample(sentinel.sources["telegram"], "hello", 1, time.time()), client="203.0.113.7")

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    async with open_gateway(sentinel.settings) as gateway:
        assert (await gateway.handle(attrs.evolve(genuine, headers={}))).status == 415
        assert (await gateway.handle(Request("GET", "/v1/jobs", client="203.0.113.8"))).status == 401
        monkeypatch.setattr("sentinel.webhooks.check_media", crash)
        assert (await gateway.handle(attrs.evolve(genuine, client="2001:db8::7"))).status == 500
    configure_logs("json", "error")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    said = {line["event"]: line["client"] for line in lines if line["event"] in CLIENTS}
    assert said == CLIENTS
