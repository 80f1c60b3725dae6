"""The demo: one genuine webhook per channel and one API job through a running Sentinel, and the replies as they arrive by HTTP.

Everything it makes belongs to the tenant `demo`, and its key is revoked at the end. No platform is contacted.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import attrs
import trio

from sentinel import payload, standard_webhooks
from sentinel.channels import Channel, channels
from sentinel.edge.keys import hash_key, hint, new_key
from sentinel.errors import SendFailed, Unavailable
from sentinel.model import Key, Outgoing, Source
from sentinel.outbound import Answer, Outbound, open_outbound
from sentinel.records import Store, configured_record
from sentinel.settings import Settings
from sentinel.stand_in import StandIn, open_stand_in

TENANT = "demo"
REPLY_SECONDS_MAX = 300.0
FOLLOW_SECONDS_MAX = 6.0
QUESTIONS = {
    "whatsapp": "Does it come in another color?",
    "telegram": "What is the capital of Portugal?",
    "slack": "Suggest a name for a small cafe.",
    "salesforce": "My order has not arrived yet. What can I do?",
    "generic": "Say hello in three languages.",
    "api": "What is the sun made of?",
}

Say = Callable[[str], None]


@attrs.define
class Sent:
    """One thing that the demo sent, and the job that it became."""

    label: str
    job_id: str
    ack_milliseconds: float


async def run_demo(settings: Settings, say: Say = print) -> bool:
    """Send, watch, and show what came back; True only if every reply arrived."""
    store = Store(configured_record(settings))
    key = new_key()
    kept = Key("key_" + secrets.token_hex(6), TENANT, hint(key), time.time())
    async with open_outbound(10.0) as outbound, open_stand_in() as stand_in:
        try:
            sources = await store.call(_prepare, store, stand_in, kept, key)
            say(f"The stand-in of the platforms' send APIs listens at {stand_in.url}.\n")
            sent = [await _send(outbound, label, outgoing, say) for label, outgoing in _requests(settings, stand_in, sources, key)]
            arrived = await _watch(store, stand_in, sent, say)
        finally:
            with trio.CancelScope(shield=True):
                await store.call(store.record.revoke_key, kept.id, time.time())
                await store.call(store.record.close)
    say("\nThe replies, as they were delivered by HTTP:\n")
    for item in sent:
        say(
            f"  {item.label:<11} {stand_in.of(item.label)[0].text.strip()!r}"
            if stand_in.of(item.label)
            else f"  {item.label:<11} none"
        )
    return arrived


def _prepare(store: Store, stand_in: StandIn, kept: Key, key: str) -> list[Source]:
    """A source per channel with fresh secrets, whose replies go to the stand-in."""
    record, now = store.record, time.time()
    record.add_tenant(TENANT, now)
    record.allow_network(TENANT, "127.0.0.1/32")
    record.add_key(kept, hash_key(key), now)
    sources = [demo_source(channel, stand_in) for channel in channels().values()]
    for source in sources:
        record.put_source(source, now)
    return sources


def demo_source(channel: Channel, stand_in: StandIn, name: str = "demo") -> Source:
    """A source of this channel with every setting filled in, that delivers to the stand-in under the channel's name."""
    values = {setting.key: setting.example or "" for setting in channel.settings if setting.key != "forward_url"}
    values |= {setting.key: secrets.token_hex(16) for setting in channel.settings if setting.secret}
    if channel.name == "generic":
        values |= {"secret": standard_webhooks.new_secret(), "forward_url": stand_in.base(channel.name)}
    return Source(
        TENANT,
        channel.name,
        name,
        {key: value for key, value in values.items() if value} | {"api_base": stand_in.base(channel.name)},
    )


def _requests(settings: Settings, stand_in: StandIn, sources: list[Source], key: str) -> Iterator[tuple[str, Outgoing]]:
    """What the demo sends, with the label under which each reply will arrive."""
    base = f"http://{settings.bind}"
    for source in sources:
        text = QUESTIONS.get(source.channel, "Hello?")
        request = channels()[source.channel].sample(source, text, secrets.randbits(40), time.time())
        url = f"{base}{request.path}" + (f"?{request.query}" if request.query else "")
        yield source.channel, Outgoing(url, request.body, request.headers)
    body = payload.encode_json({"input": QUESTIONS["api"], "callback_url": stand_in.base("api"), "max_tokens": 80})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "idempotency-key": secrets.token_hex(8)}
    yield "api", Outgoing(f"{base}/v1/jobs", body, headers)


async def _send(outbound: Outbound, label: str, outgoing: Outgoing, say: Say) -> Sent:
    answer, milliseconds = await _post(outbound, outgoing)
    job_id = answer.headers.get("sentinel-job-id", "")
    if not 200 <= answer.status < 300 or not job_id:
        raise Unavailable(f"The gateway answered {answer.status} to the {label} webhook: {answer.body[:200]!r}")
    say(f"  {label:<11} {answer.status} in {milliseconds:5.1f} ms   job {job_id}")
    return Sent(label, job_id, milliseconds)


async def _post(outbound: Outbound, outgoing: Outgoing) -> tuple[Answer, float]:
    """The answer and how long it took; sources and keys that were just made are known to a running gateway within seconds."""
    with trio.move_on_after(FOLLOW_SECONDS_MAX) as patience:
        while True:
            started = time.perf_counter()
            answer = await outbound.send(outgoing)
            if answer.status not in (401, 404):
                return answer, (time.perf_counter() - started) * 1000
            await trio.sleep(0.25)
    assert patience.cancelled_caught
    return answer, 0.0


async def _watch(store: Store, stand_in: StandIn, sent: list[Sent], say: Say) -> bool:
    """Show the jobs moving until every reply is there; False if one of them failed or the time is up."""
    say("")
    last, asked = "", time.monotonic()
    with trio.move_on_after(REPLY_SECONDS_MAX):
        while True:
            jobs = [await store.call(store.record.find_job, item.job_id) for item in sent]
            line = "  ".join(f"{item.label} {_stage(stand_in, item, job)}" for item, job in zip(sent, jobs, strict=True))
            if line != last and (
                sys.stdout.isatty() or time.monotonic() - asked > 1 or all(stand_in.of(item.label) for item in sent)
            ):
                say(f"  {line}")
                last, asked = line, time.monotonic()
            if all(stand_in.of(item.label) for item in sent):
                return True
            if any(job is not None and job.state in ("failed", "quarantined") for job in jobs):
                return False
            await trio.sleep(0.2)
    return False


def _stage(stand_in: StandIn, item: Sent, job: object) -> str:
    if stand_in.of(item.label):
        return "delivered"
    state, progress = str(getattr(job, "state", "?")), getattr(job, "progress", 0.0)
    return f"{progress:.0%}" if state == "running" else state


async def wait_ready(settings: Settings, seconds: float) -> Mapping[str, str] | None:
    """None once the Sentinel at the configured address can make progress; else its checks, or {} if nobody answers there."""
    checks: Mapping[str, str] = {}
    async with open_outbound(2.0) as outbound:
        with trio.move_on_after(seconds):
            while True:
                try:
                    answer = await outbound.send(Outgoing(f"http://{settings.bind}/readyz", b"", method="GET"))
                    if answer.status == 200:
                        return None
                    checks = payload.decode_json(answer.body)["checks"]
                except SendFailed:
                    checks = {}
                await trio.sleep(0.2)
    return checks
