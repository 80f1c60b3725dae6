"""The engine that asks a server, where the server misbehaves; what works is in test_engine_conformance.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import GenerationFailed, ModelUnavailable, Unavailable
from worker.engine import Engine, Prompt, open_engine
from worker.server_sent_events import ServerSentEvents

MODELS = json.dumps({"data": [{"id": "one"}, {"id": "two", "max_model_len": 2048}]}).encode()
PROMPT = Prompt([{"role": "user", "content": "hi"}], 8)


def ignore(_tokens: int, _piece: str) -> None:
    """Progress that nobody looks at."""


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


async def answer(models: bytes, chat: bytes, stream: trio.SocketStream) -> None:
    """One connection: what the server says about its models, or to a chat."""
    async with stream:
        request = await stream.receive_some(65_536)
        await stream.send_all(models if request.startswith(b"GET") else chat)


@asynccontextmanager
async def serving(chat: bytes, models: bytes = response(200, MODELS), name: str = "two") -> AsyncIterator[str]:
    """The setting for a model of a server that says the same to every chat."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, partial(answer, models, chat), 0)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}#{name}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(chat: bytes, models: bytes = response(200, MODELS), name: str = "two") -> AsyncIterator[Engine]:
    async with serving(chat, models, name) as url, open_engine(url) as engine:
        yield engine


def event(content: str, finish_reason: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": content}, "finish_reason": finish_reason}]}).encode() + b"\n\n"


async def test_an_answer_is_put_together():
    """Pieces, the reason of the end and the server's own count of tokens make up the answer."""
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}\n\n'
    async with asking(response(200, event("Good ") + event("day", "length") + usage + b"data: [DONE]\n\n")) as engine:
        assert (engine.model, engine.context_tokens) == ("two", 2048)
        found = await engine.generate(PROMPT, ignore)
    assert (found.text, found.prompt_tokens, found.completion_tokens, found.finish_reason) == ("Good day", 11, 7, "length")


@pytest.mark.parametrize(
    ("chat", "error"),
    [
        (response(400, b"{}"), GenerationFailed),
        (response(429, b"{}"), Unavailable),
        (response(503, b"{}"), Unavailable),
        (response(200, event("half an answer")), Unavailable),
        (response(200, b"<html>"), Unavailable),
        (response(200, event("x" * 2000) + b"data: [DONE]\n\n"), GenerationFailed),
        (b"", Unavailable),
        (b"HTTP/1.1 200 X\r\ncontent-length: 900\r\n\r\n" + event("broken"), Unavailable),
        (b"nonsense\r\n\r\n", Unavailable),
    ],
    ids=["refused", "limited", "down", "ends early", "no events", "endless", "hangs up", "breaks", "no http"],
)
async def test_a_server_that_fails(chat: bytes, error: type[Exception]):
    """A prompt that is refused fails for good; whatever else goes wrong is worth another attempt."""
    with pytest.RaisesGroup(error):
        async with asking(chat) as engine:
            await engine.generate(PROMPT, ignore)


async def test_json_is_checked_again():
    """What a server returns under a schema is not believed."""
    prompt = Prompt(PROMPT.messages, 8, json_schema={"type": "integer", "minimum": 1})
    with pytest.RaisesGroup(GenerationFailed):
        async with asking(response(200, event("0") + b"data: [DONE]\n\n")) as engine:
            await engine.generate(prompt, ignore)


@pytest.mark.parametrize(
    ("models", "message"),
    [(response(401, b"{}"), "answered 401"), (response(200, b"[]"), "no list of models"), (response(200, MODELS), "does not have")],
)
async def test_a_server_without_the_model(models, message):
    """A server that wants another key, is no such server, or lacks the model is told apart at the start."""
    with pytest.RaisesGroup(pytest.RaisesExc(ModelUnavailable, match=message)):
        async with asking(b"", models, "three"):
            pass


async def test_no_server_is_unavailable():
    """Where nothing listens there is no model."""
    with pytest.raises(ModelUnavailable, match="cannot be asked: The connection was refused"):
        async with open_engine("http://127.0.0.1:1#model"):
            pass


@given(values=st.lists(st.text("ab: ", max_size=4)), cuts=st.lists(st.integers(0, 60)))
def test_events_may_come_in_any_pieces(values, cuts):
    """However the bytes of a stream are cut, the same data comes out; other lines are left out."""
    stream = b": comment\n" + b"".join(f"event: x\r\ndata: {value}\r\n\r\n".encode() for value in values)
    events, found = ServerSentEvents(), []
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(places):
        found += events.feed(stream[start:end])
    assert found == [value.encode().strip() for value in values]
