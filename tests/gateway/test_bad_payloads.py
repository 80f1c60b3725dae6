"""Thousands of payloads that nobody should send: no fault of ours, no row that poisons a queue, no genuine job lost beside them.

Generated from a seed, by damage to genuine webhooks that are signed again, and from lists written by hand. And the other way round:
every string of a wide set of Unicode arrives as it was sent.
"""

from __future__ import annotations

import json
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from sentinel.channels import channels
from sentinel.gateway import open_gateway
from sentinel.http import Request
from sentinel.model import Source, State
from sentinel.records import JobFilter
from tests.conftest import Sentinel, ended
from tests.corpus import escaped
from tests.gateway.conftest import add_key
from tests.gateway.test_webhooks import BROKEN_XML, HOSTILE_JSON, HOSTILE_PROLOGS, signed

SEED = 20_261_125
DAMAGED = 850  # for each channel, and for the job API
GENUINE_EVERY = 25

STRINGS = escaped("odd_strings")
# Values that a program may not expect where another one stood.
NUMBERS = (0, -1, 2**53, 2**63 - 1, -(2**63), 1e308, 5e-324, 0.1)
SHAPES = ([], {}, [[]], [{}], {"": ""}, {"a": {"a": {"a": None}}}, ["x"] * 50)
ODD: tuple[Any, ...] = (None, True, False, *NUMBERS, *SHAPES, "", " ", "x" * 5_000, "\u00e9" * 300, *STRINGS)
# What JSON parsers are known to disagree on; the body is sent as it is, with a good signature.
LONG_JSON = (
    b"[" * 70 + b"]" * 70,
    b'{"a":' * 2_000,
    b"[" * 200_000,
    b"1" * 5_000,
    b"[" + b"0," * 30_000 + b"0]",
    b'{"a":"' + b"\\" * 999,
)
RAW_JSON = tuple(text.encode("latin-1") for text in escaped("broken_json")) + LONG_JSON


PIECES = (b"\x00", b"\xff", b'"', b"{", b"]", b"\\u0000", b"\\ud800", b"<!DOCTYPE x>", b"&x;", b"<a>", b"]]>")
QUERIES = ("", "limit=0", "limit=\uff11", "status=x", "after=%ED%A0%80", "after=\xff", "a=%ff", "&" * 300, "limit=1_0")
PATHS = ("x", "%00", "..", "é", "5b0ee9f4-0000-4000-8000-00000000000z", "x" * 3_000, "\ufffd", "' OR 1=1")


def damage(value: Any, chance: random.Random) -> Any:
    """The JSON value with one part replaced, removed, wrapped or doubled."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, changed = chance.choice(keys), value.copy()
        match chance.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[key] = [value[key]]
            case 2 if isinstance(value, list):
                changed.extend(value)
            case 3 if isinstance(value, dict):
                changed[chance.choice(("x", "type", "id", "text", "", "message"))] = value[key]
            case _:
                changed[key] = damage(value[key], chance)
        return changed
    return chance.choice(ODD)


def damaged_bytes(body: bytes, chance: random.Random) -> bytes:
    """The body with bytes changed, cut out, doubled or put in."""
    changed = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + chance.randrange(1, 40)]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(1, 40)]
            case _:
                changed[at:at] = chance.choice(PIECES)
    return bytes(changed)


def bad_webhooks(source: Source, chance: random.Random) -> Iterator[Request]:
    """Damaged webhooks of the source's platform, with the proof that it would give them."""
    sample = channels()[source.channel].sample
    genuine = sample(source, "hello <b>& 🙂", 7, time.time())
    listed = (*HOSTILE_PROLOGS, *BROKEN_XML) if source.channel == "salesforce" else (*HOSTILE_JSON.values(), *RAW_JSON)
    for body in listed:
        yield signed(source, body)
    for _ in range(DAMAGED - len(listed)):
        if source.channel == "salesforce" or chance.random() < 0.3:
            yield signed(source, damaged_bytes(genuine.body, chance))
        else:
            yield signed(source, json.dumps(damage(json.loads(genuine.body), chance)).encode())


def bad_requests(key: str, chance: random.Random) -> Iterator[Request]:
    """Damaged requests to the job API, with a good key."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    good = {"input": [{"role": "user", "content": "hello"}], "conversation": "c", "metadata": {"a": 1}, "max_tokens": 9}
    for body in (*HOSTILE_JSON.values(), *RAW_JSON):
        yield Request("POST", "/v1/jobs", "", headers, body)
    for _ in range(DAMAGED):
        query = chance.choice(QUERIES)
        match chance.randrange(6):
            case 0:
                yield Request("GET", "/v1/jobs", query, headers)
            case 1:
                path = f"/v1/jobs/{chance.choice(PATHS)}{chance.choice(('', '/cancel', '/x'))}"
                yield Request(chance.choice(("GET", "POST", "PUT")), path, query, headers)
            case 2:
                yield Request("POST", "/v1/jobs", query, headers, damaged_bytes(json.dumps(good).encode(), chance))
            case _:
                again = {"idempotency-key": chance.choice(("", "k", "é", "x" * 300, "\x01"))} if chance.random() < 0.2 else {}
                yield Request("POST", "/v1/jobs", query, headers | again, json.dumps(damage(good, chance)).encode())


@pytest.mark.slow
async def test_thousands_of_bad_payloads(sentinel: Sentinel) -> None:
    """More than 5,000 bad payloads: none gets a 5xx, every job of one ends, and every genuine one beside them is answered."""
    chance = random.Random(SEED)
    key = add_key(sentinel.record, "demo")
    answers: Counter[int] = Counter()
    genuine: list[str] = []
    settings = attrs.evolve(sentinel.settings, ack_budget=20.0)
    async with open_gateway(settings) as gateway:
        streams = [bad_webhooks(source, chance) for source in sentinel.sources.values()] + [bad_requests(key, chance)]
        for number, request in enumerate(request for stream in streams for request in stream):
            answer = await gateway.handle(request)
            assert answer.status < 500, (number, request, request.body[:500], answer)
            answers[answer.status] += 1
            if number % GENUINE_EVERY == 0:
                source = list(sentinel.sources.values())[number // GENUINE_EVERY % len(sentinel.sources)]
                sample = channels()[source.channel].sample(source, f"genuine {number}", 10_000 + number, time.time())
                kept = await gateway.handle(sample)
                assert kept.status == 200
                genuine.append(dict(kept.headers)["sentinel-job-id"])
    print(f"seed {SEED}: {answers.total()} bad payloads, {dict(answers)}, {len(genuine)} genuine beside them")
    assert answers.total() > 5_000
    jobs = sentinel.record.list_jobs(JobFilter(limit=100_000))  # every row can be read
    async with sentinel.working(slots=16):
        for job in jobs:
            await sentinel.wait_for(job.id, ended, 120)
    states = Counter(job.state for job in sentinel.record.list_jobs(JobFilter(limit=100_000)))
    print(f"{len(jobs)} jobs: {dict(states)}")
    for job_id in genuine:
        job = sentinel.record.find_job(job_id)
        assert job is not None
        assert job.state is State.SUCCEEDED, job


def wide_strings() -> list[str]:
    """Strings from all of Unicode: each kind of character, each plane, and what is known to break programs."""
    chance = random.Random(SEED)
    blocks = [chr(code) for code in range(0x20, 0x11_0000, 97) if not 0xD800 <= code <= 0xDFFF and code not in range(0x7F, 0xA0)]
    spoken = [c for c in blocks if unicodedata.category(c) not in ("Zs", "Zl", "Zp", "Cc") and c not in "\ufffe\uffff"]
    made = ["".join(chance.sample(spoken, 40)) for _ in range(60)]
    known = [text for text in STRINGS if text.strip() == text and not set(text) & set("\x01\x08")]
    return [*made, *known, "a  b\tc\nd\n\n  e", "&amp; &lt; &#65; %41 \\u0041 \\n"]


@pytest.mark.slow
@pytest.mark.parametrize("channel", sorted(channels()))
async def test_every_string_survives(sentinel: Sentinel, channel: str) -> None:
    """What is sent to an echo by a channel's webhook comes back by its send API, and is kept, byte for byte."""
    texts = [text for text in wide_strings() if channel != "salesforce" or "\ufffe" not in text]  # which is no character of XML
    assert len(texts) >= 80
    source = sentinel.sources[channel]
    jobs: dict[str, str] = {}
    async with open_gateway(sentinel.settings) as gateway, sentinel.working(slots=16):
        for number, text in enumerate(texts):
            answer = await gateway.handle(channels()[channel].sample(source, text, number, time.time()))
            assert answer.status == 200, (text, answer)
            jobs[dict(answer.headers)["sentinel-job-id"]] = text
        for job_id in jobs:
            await sentinel.wait_for(job_id, ended, 60)
    for job_id, text in jobs.items():
        job = sentinel.record.find_job(job_id)
        assert job is not None
        assert job.input[0]["content"].encode() == text.encode()
        assert job.result is not None
        assert job.result["output_text"].encode() == f"echo: {text}".encode()
    escaped = channel == "slack"
    said = [delivery.text for delivery in sentinel.stand_in.of(channel)]
    if escaped:
        said = [text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for text in said]
    assert Counter(said) == Counter(f"echo: {text}".strip() for text in texts)
