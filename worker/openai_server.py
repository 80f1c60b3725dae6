"""The engine that asks a server with OpenAI's chat completions (llama-server, Ollama, vLLM). It must not trust what comes back.

The server batches; here a place among `slots` is all that is kept. What it says is bounded, and JSON by schema is checked again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from sentinel.errors import BadInput, GenerationFailed, ModelUnavailable, RefusedAddress, SendFailed, Unavailable
from sentinel.model import Outgoing
from sentinel.outbound import Outbound, open_outbound
from sentinel.payload import decode_json, encode_json
from sentinel.settings import without_password
from worker.engine import Engine, Generation, Message, Options, Progress, Prompt, checked, read_prompt
from worker.server_sent_events import ServerSentEvents
from worker.stop_strings import StopStrings

SLOTS_DEFAULT = 4
CONTEXT_TOKENS_DEFAULT = 4096
OPEN_SECONDS_MAX = 10.0
SILENCE_SECONDS_MAX = 120.0  # a server with a full queue is silent until it is our turn
ANSWER_CHARACTERS_PER_TOKEN_MAX = 64
# Tokens are counted as if each had this many bytes, fewer than they have in most languages; a turn has marks of its own.
BYTES_PER_TOKEN, TOKENS_PER_MESSAGE = 2.5, 6


@asynccontextmanager
async def open_server(url: str, options: Options) -> AsyncIterator[Engine]:
    """
    The engine for `http://HOST:PORT[/v1]#MODEL`; without `#MODEL`, the first that the server lists.

    Raises:
        ModelUnavailable: the server does not answer, wants another key, or does not have the model.
    """
    address, _, name = url.partition("#")
    base = address.rstrip("/") if address.rstrip("/").count("/") > 2 else f"{address.rstrip('/')}/v1"
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {options.key}"} if options.key else {})
    async with open_outbound(OPEN_SECONDS_MAX) as outbound:
        model = _find_model(await _list_models(outbound, base, headers), name, without_password(base))
        context = options.context_tokens or _context_tokens(model)
        slots = options.slots or SLOTS_DEFAULT
        description = f"{model['id']} at {without_password(base)}, {slots} at a time, {context} tokens of context"
        yield ServerEngine(slots, description, model["id"], context, base, headers, outbound, trio.CapacityLimiter(slots))


@attrs.define(eq=False)
class ServerEngine:
    """One model of one server."""

    slots: int
    description: str
    model: str
    context_tokens: int
    _base: str = attrs.field(repr=False)
    _headers: Mapping[str, str] = attrs.field(repr=False)
    _outbound: Outbound = attrs.field(repr=False)
    _places: trio.CapacityLimiter = attrs.field(repr=False)

    async def generate(self, prompt: Prompt, progress: Progress) -> Generation:
        """
        The model's answer; see `Engine`. Being cancelled closes the connection, at which servers end their work.

        Raises:
            GenerationFailed: as every engine, and when the server refuses the prompt.
            Unavailable: the server does not answer, or says that it cannot now.
        """
        node = read_prompt(prompt)
        tokens = await self.count_tokens(prompt.messages)
        if tokens + prompt.tokens_max > self.context_tokens:
            raise GenerationFailed(
                f"The prompt has about {tokens} tokens and the answer may have {prompt.tokens_max}; "
                f"together that is more than {self.context_tokens}."
            )
        outgoing = Outgoing(f"{self._base}/chat/completions", encode_json(_request(self.model, prompt)), self._headers)
        async with self._places:
            return checked(await self._follow(outgoing, _Answer(prompt, progress, tokens)), node)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """An estimate that is seldom too small: the interface has no way to ask for the count."""
        if not messages or any(not isinstance(message.get("content"), str) for message in messages):
            raise GenerationFailed("A prompt has at least one message, and its content is text.")
        return sum(
            int(len(message["content"].encode("utf-8", "replace")) / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE for message in messages
        )

    async def _follow(self, outgoing: Outgoing, answer: _Answer) -> Generation:
        events = ServerSentEvents()
        try:
            async with self._outbound.stream(outgoing, SILENCE_SECONDS_MAX) as (status, pieces):
                _check_status(status)
                async for piece in pieces:
                    for data in events.feed(piece):
                        if answer.take(data):
                            return answer.generation()
        except SendFailed as error:
            raise Unavailable(f"The model's server: {error.detail}") from None
        raise Unavailable("The model's server ended its answer too early.")


@attrs.define
class _Answer:
    """An answer as it comes, event by event."""

    prompt: Prompt
    progress: Progress
    prompt_tokens: int
    tokens: int = 0
    pieces: list[str] = attrs.field(factory=list)
    characters: int = 0
    finish_reason: str = ""
    stops: StopStrings = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stops = StopStrings(self.prompt.stop)

    def take(self, data: bytes) -> bool:
        """Whether this event ends the answer."""
        if data == b"[DONE]":
            self._show("", is_last=True)
            return True
        event = _decoded(data)
        self._take_usage(event.get("usage"))
        for choice in event.get("choices") or []:
            piece = (choice.get("delta") or {}).get("content") or ""
            if piece and self._show(str(piece).replace("\0", "\ufffd"), is_last=False):
                self.finish_reason = "stop"
                return True
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return False

    def generation(self) -> Generation:
        """The whole of it."""
        reason = "length" if self.finish_reason == "length" else "stop"
        return Generation("".join(self.pieces), self.prompt_tokens, self.tokens, reason)

    def _show(self, piece: str, *, is_last: bool) -> bool:
        self.tokens += bool(piece)
        text, stopped = self.stops.feed(piece, is_last=is_last)
        if text:
            self.pieces.append(text)
            self.characters += len(text)
            self.progress(self.tokens, text)
        if self.characters > self.prompt.tokens_max * ANSWER_CHARACTERS_PER_TOKEN_MAX:
            raise GenerationFailed("The model's server does not keep the bound on the answer's tokens.")
        return stopped

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.tokens, self.prompt_tokens = usage["completion_tokens"], int(usage.get("prompt_tokens") or self.prompt_tokens)


def _request(model: str, prompt: Prompt) -> dict[str, Any]:
    request = {
        "model": model,
        "messages": [{"role": message["role"], "content": message["content"]} for message in prompt.messages],
        "max_tokens": prompt.tokens_max,
        "temperature": prompt.temperature,
        "seed": prompt.seed % 2**31,
        "top_p": prompt.top_p,
        "min_p": prompt.min_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(prompt.json_schema)}
        return request | {"response_format": {"type": "json_schema", "json_schema": schema}}
    return request | {"repeat_penalty": prompt.repeat_penalty} | ({"stop": list(prompt.stop)} if prompt.stop else {})


def _check_status(status: int) -> None:
    if status in (400, 413, 422):
        raise GenerationFailed(f"The model's server refused the prompt ({status}).")
    if status != 200:
        raise Unavailable(f"The model's server answered {status}.")


async def _list_models(outbound: Outbound, base: str, headers: Mapping[str, str]) -> list[Any]:
    try:
        answer = await outbound.send(Outgoing(f"{base}/models", b"", headers, method="GET"))
    except (SendFailed, RefusedAddress) as error:
        raise ModelUnavailable(f"The model's server {without_password(base)} cannot be asked: {error.detail}") from None
    listed = _decoded(answer.body).get("data") if answer.status == 200 else None
    if not isinstance(listed, list):
        raise ModelUnavailable(f"The model's server {without_password(base)} answered {answer.status} with no list of models.")
    return [model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)]


def _find_model(models: list[Any], name: str, server: str) -> dict[str, Any]:
    found = next((model for model in models if name in ("", model["id"])), None)
    if found is None:
        raise ModelUnavailable(f"The model's server {server} does not have the model {name!r}.")
    return dict(found)


def _context_tokens(model: Mapping[str, Any]) -> int:
    """As vLLM says it; others say only what the model could take, which is not what they were started with."""
    value = model.get("max_model_len")
    return value if isinstance(value, int) and value > 0 else CONTEXT_TOKENS_DEFAULT


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        value = decode_json(data)
    except BadInput:
        value = None
    return value if isinstance(value, dict) else {}
