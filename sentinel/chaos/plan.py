"""What will be sent, and when: genuine webhooks of many tenants, made and signed before the run begins. No I/O.

The same seed gives the same plan, but for the secrets.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from sentinel import payload
from sentinel.channels import channels
from sentinel.channels.shared.signing import hmac_hex
from sentinel.demo import demo_source
from sentinel.http import Request
from sentinel.model import Source
from sentinel.stand_in import StandIn

CHANNELS = ("whatsapp", "telegram", "slack", "generic")
CHAT_MESSAGES_MAX = 5


@attrs.frozen
class Webhook:
    """One webhook: what it says in the log, and its bytes."""

    tenant: str
    channel: str
    source: str
    event: str
    text: str
    conversation: str
    place: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Planned:
    """A webhook and its time. `copy` is not 0 when the platform sends the same bytes once more."""

    at: float
    webhook: Webhook
    copy: int = 0


@attrs.frozen
class Chain:
    """Webhooks of which each is sent when the one before was answered."""

    links: tuple[Planned, ...]


@attrs.frozen
class Shape:
    """How much comes, how fast, from whom."""

    webhooks: int = 5_000
    seconds: float = 10.0
    tenants: int = 20
    chats: float = 0.2  # the share of webhooks that belong to conversations of several messages
    repeated: float = 0.02
    channels: tuple[str, ...] = CHANNELS


def make_sources(shape: Shape, platform_url: str) -> list[Source]:
    """
    One source per tenant and channel, whose replies go to the fake platform under the tenant's name.

    No chat is told how long it waits: that would be a reply to nothing in particular, and there are so many on a slow machine.
    """
    sources = []
    for number in range(shape.tenants):
        tenant = f"tenant-{number:02}"
        stand_in = StandIn(f"{platform_url}/{tenant}")
        made = (demo_source(channels()[name], stand_in, tenant) for name in shape.channels)
        sources += [attrs.evolve(source, tenant=tenant, settings={**source.settings, "waiting_notice": "off"}) for source in made]
    return sources


def make_plan(shape: Shape, sources: Sequence[Source], seed: int, first: int = 0) -> list[Chain]:
    """Every webhook with its time, in order of time. `first` is the first event's number: plans of one run must not overlap."""
    chance, now = random.Random(seed), time.time()
    chains: list[Chain] = []
    number = first
    while number < first + shape.webhooks:
        left = first + shape.webhooks - number
        size = min(left, chance.randint(2, CHAT_MESSAGES_MAX)) if chance.random() < shape.chats / 2 else 1
        source = chance.choice([source for source in sources if size == 1 or source.channel in _CHATS])
        chat = number if size > 1 else None
        webhooks = [make_webhook(source, number + place, now, None if chat is None else (chat, place)) for place in range(size)]
        times = sorted(chance.uniform(0, shape.seconds) for _ in webhooks)
        chains.append(Chain(tuple(Planned(at, webhook) for at, webhook in zip(times, webhooks, strict=True))))
        number += size
    again = chance.sample(chains, round(shape.webhooks * shape.repeated)) if chains else []
    chains += [_repetition(chain.links[0], chance.uniform(0, 1)) for chain in again]
    return sorted(chains, key=lambda chain: chain.links[0].at)


def make_webhook(source: Source, number: int, now: float, chat: tuple[int, int] | None = None) -> Webhook:
    """One webhook, signed; in this place of this chat, if they are given, else of a chat of its own."""
    text = f"{source.tenant}.{source.channel}.{number}"
    channel = channels()[source.channel]
    request = channel.sample(source, text, number, now)
    if chat is not None:
        request = _CHATS[source.channel](source, request, chat[0])
    (event,) = channel.parse(request, source).events
    conversation, place = (event.conversation, chat[1]) if chat is not None else ("", 0)
    return Webhook(source.tenant, source.channel, source.name, event.external_id, text, conversation, place, encode(request))


def encode(request: Request) -> bytes:
    """The request as bytes of HTTP/1.1."""
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = [f"{request.method} {target} HTTP/1.1", "host: sentinel.test", f"content-length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


def _repetition(link: Planned, later: float) -> Chain:
    return Chain((Planned(link.at + later, link.webhook, copy=1),))


def _telegram_chat(_source: Source, request: Request, chat: int) -> Request:
    """The same message from another user: Telegram signs nothing."""
    body = re.sub(rb'"id":\d+', b'"id":%d' % (7_770_000 + chat), request.body)
    return attrs.evolve(request, body=body)


def _whatsapp_chat(source: Source, request: Request, chat: int) -> Request:
    value = payload.decode_own_json(request.body)
    (message,) = value["entry"][0]["changes"][0]["value"]["messages"]
    message["from"] = value["entry"][0]["changes"][0]["value"]["contacts"][0]["wa_id"] = str(16_660_000_000 + chat)
    body = payload.encode_json(value)
    signature = "sha256=" + hmac_hex(source.setting("app_secret").encode(), body)
    return attrs.evolve(request, body=body, headers={**request.headers, "x-hub-signature-256": signature})


_CHATS: Mapping[str, Callable[[Source, Request, int], Request]] = {"telegram": _telegram_chat, "whatsapp": _whatsapp_chat}
