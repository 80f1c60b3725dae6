"""What a channel is: one platform's rules as pure functions. One file per platform, found by name; no I/O in any of them.

A channel turns a webhook into events and the exact acknowledgment that the platform needs, and a reply into the requests that
deliver it. The clock comes in as `now` (seconds since the epoch). `tests/channels/test_conformance.py` tests every file by its
being here.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from sentinel.edge.checks import Caller
from sentinel.edge.screening import threshold
from sentinel.errors import BadInput, NotFound, SentinelError
from sentinel.http import Request, Response, problem
from sentinel.model import Event, Outgoing, Source, Verdict
from sentinel.values import made_often


@attrs.frozen
class Setting:
    """
    One key of `sentinel sources add --set KEY=VALUE`; `example` is a value that would be valid, where not any text is.

    A secret that `rotates` proves the platform to us, so two are accepted while it is rotated (`Source.secrets`).
    """

    key: str
    help: str
    required: bool = False
    secret: bool = False
    example: str = ""
    rotates: bool = False


SHARED_SETTINGS = (
    Setting("api_base", "base URL of the platform's send API, when it is not the public one"),
    Setting("system_prompt", "what the model is told before every conversation"),
    Setting("refusal_message", "what somebody is told who is refused, at most once an hour (default: a sentence); off for nothing"),
    Setting("merge_window", "seconds within which quick messages of one chat become one prompt", example="2.5"),
    Setting("memory", "whether the model sees what was said before in the chat: on (default) or off", example="on"),
    Setting("typing", "whether the chat shows that an answer is being made: on (default) or off", example="on"),
    Setting("apology", "what is said after the last failed attempt; off for nothing (default: SENTINEL_APOLOGY)"),
    Setting(
        "waiting_notice",
        "seconds above which a chat is told how long it waits, or off (default: SENTINEL_WAITING_NOTICE)",
        example="60",
    ),
    Setting("waiting_text", "what it is told, with {number} and {time} (default: SENTINEL_WAITING_TEXT)"),
    Setting("inside_hosts", "hosts of inside networks that answers may link to, separated by commas (default: none)"),
    Setting("screening_hold_above", "a message that scores higher, from 0 to 1, waits for a person (default: none)", example="0.8"),
    Setting(
        "screening_drop_above", "a message that scores higher is acknowledged and never answered (default: none)", example="0.95"
    ),
    Setting(
        "long_text",
        "what is asked about a message that is too long for the model, to have it read in parts (default: it is refused)",
        example="What does this message say?",
    ),
    Setting("tools", "what the model may use, with commas between", example="clock,calculator"),
    Setting("http_tools", "more tools: a JSON list of HTTP requests, or @FILE; see docs/agent.md", secret=True, example="[]"),
    Setting("fetch_hosts", "the only hosts that the tool fetch may read, with commas between (default: any public one)"),
)


MERGE_SECONDS_MAX = 60.0
WAITING_SECONDS_MAX = 86_400.0


def merge_seconds(values: Mapping[str, str]) -> float:
    """How long a message waits for others of its chat, from a source's settings; 0 for not at all. Raises BadInput."""
    try:
        seconds = float(values.get("merge_window") or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MERGE_SECONDS_MAX:
        raise BadInput(f"merge_window must be a number of seconds from 0 to {MERGE_SECONDS_MAX:.0f}.")
    return seconds


def waiting_seconds(values: Mapping[str, str], default: float) -> float:
    """How long an answer may take before its chat is told of it, from a source's settings; infinity for never. Raises BadInput."""
    given = values.get("waiting_notice", "").lower()
    try:
        seconds = math.inf if given == "off" else float(given or default)
    except ValueError:
        seconds = -1.0
    if not (seconds > 0 and (given in ("", "off") or seconds <= WAITING_SECONDS_MAX)):
        raise BadInput(f"waiting_notice must be a number of seconds up to {WAITING_SECONDS_MAX:.0f}, or off.")
    return seconds


def is_on(values: Mapping[str, str], key: str) -> bool:
    """Whether a setting that is on by default is on. Raises BadInput for another word than on or off."""
    value = (values.get(key) or "on").lower()
    if value not in ("on", "off"):
        raise BadInput(f"{key} must be on or off.")
    return value == "on"


def check_shared(values: Mapping[str, str]) -> None:
    """Raise BadInput for a value of a shared setting with which nothing could be done."""
    merge_seconds(values)
    is_on(values, "memory")
    is_on(values, "typing")
    waiting_seconds(values, math.inf)
    for key in ("screening_hold_above", "screening_drop_above"):
        threshold(values, key)


@made_often
class Received:
    """
    What a genuine webhook contained.

    `ignored` counts items that are acknowledged and never reach the model (receipts, echoes, edits, own messages);
    `answer`, if set, is sent instead of the acknowledgment (a challenge).
    """

    events: tuple[Event, ...] = ()
    ignored: int = 0
    answer: Response | None = None


class Channel:
    """The contract. A channel file has one subclass, and `channel = ThatClass()`."""

    name: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]]
    content_types: ClassVar[tuple[str, ...]] = ("application/json",)
    text_limit: ClassVar[str]
    caller: ClassVar[Caller] = Caller.CHAT  # what a refusal means to it: see the table in sentinel/edge/checks.py
    typing_seconds: ClassVar[float] = 4.0  # how often a typing indicator has to be sent to stay
    is_watched: ClassVar[bool] = False  # whether people sit in front of it, who want to know how long they wait
    path_token: ClassVar[bool] = False  # whether a secret may follow the source's name in the URL

    def check_settings(self, values: Mapping[str, str]) -> None:
        """Raise BadInput for a value with which nothing could be verified or sent; each key is known, each needed one there."""

    def handshake(self, request: Request, source: Source) -> Response:
        """The answer to a GET, which platforms send when the URL is set up. Raises Forged, or NotFound where there is none."""
        raise NotFound("This channel has no GET handshake; send webhooks by POST.")

    def verify(self, request: Request, source: Source, now: float) -> str:
        """The name of the proof that `request` is genuine, checked on the raw bytes in constant time. Raises Forged."""
        raise NotImplementedError

    def parse(self, request: Request, source: Source) -> Received:
        """
        The events of a verified webhook. Raises BadInput if the body is not what its content type says.

        A body that is well-formed but not understood gives an event with a `problem`, so that nothing genuine is lost.
        """
        raise NotImplementedError

    def acknowledge(self, source: Source) -> Response:
        """The 2xx that makes the platform stop sending this webhook."""
        return Response(200)

    def refuse(self, error: SentinelError) -> Response:
        """The answer for a webhook that was not taken, in the platform's own shape where it has one."""
        return problem(error)

    def split(self, text: str) -> list[str]:
        """The reply cut into parts that each fit the platform's limit, in order; at least one, none empty."""
        raise NotImplementedError

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """The request that delivers one part; None if this source has nowhere to deliver to (the caller polls the job)."""
        raise NotImplementedError

    def typing(self, source: Source, reply_to: Mapping[str, Any], now: float) -> Outgoing | None:
        """The request that shows that an answer is being made; None where the platform has nothing of the kind."""
        return None

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """What the platform's answer to `send` means: sent, worth another attempt, or refused for good."""
        raise NotImplementedError

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A genuine webhook as the platform would send it, distinct for each `number`: for the demo, load tests and checks."""
        raise NotImplementedError


@functools.cache
def channels() -> Mapping[str, Channel]:
    """Every channel by its name: one per file in this folder."""
    files = [found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in files]
    return {module.channel.name: module.channel for module in modules}


def find_channel(name: str) -> Channel:
    """The channel of that name. Raises NotFound."""
    try:
        return channels()[name]
    except KeyError:
        raise NotFound("There is no channel of that name.") from None
