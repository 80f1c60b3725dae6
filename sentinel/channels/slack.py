"""Slack: events, slash commands and buttons. Model text must not ping anybody, and the bot must not answer itself.

https://docs.slack.dev/authentication/verifying-requests-from-slack and https://docs.slack.dev/apis/events-api/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from sentinel import payload
from sentinel.channels import Channel, Received, Setting
from sentinel.channels.shared.reading import dig, first_text, list_at, received, short_id, text_at, unclear
from sentinel.channels.shared.sending import (
    base_of,
    bearer,
    failed,
    judge_status,
    may_send,
    post_json,
    read_answer,
    retry,
    split_text,
)
from sentinel.channels.shared.signing import check_signature, hmac_hex, secrets_of
from sentinel.edge.checks import Caller
from sentinel.errors import BadInput
from sentinel.http import Request, Response, json_response
from sentinel.model import SENT, Event, Outgoing, Source, Verdict
from sentinel.standard_webhooks import check_timestamp

FORM = "application/x-www-form-urlencoded"
TEXT_MAX = 4000
RESPONSE_URL_SECONDS = 30 * 60
SSL_CHECK_BYTES_MAX = 200

PUBLIC_BASE = "https://slack.com"
# Stricter than a URL parser: what two parsers could read as two hosts does not match.
RESPONSE_URL = re.compile(r"https://(?:[a-z0-9-]+\.)+slack\.com/[!-\[\]-~]*", re.IGNORECASE)

EVENT_TYPES = frozenset({"message", "app_mention"})
# Every other subtype is an edit, a deletion or news about the channel: nobody says anything to the bot in them.
SPOKEN_SUBTYPES = frozenset({"", "file_share", "thread_broadcast"})
RETRY_ERRORS = frozenset({"ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"})

# Where a pressed element keeps what it stands for, by what tells most.
ACTION_TEXTS = (("value",), ("selected_option", "value"), ("selected_option", "text", "text"), ("text", "text"))
ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


class Slack(Channel):
    """One Slack app."""

    name = "slack"
    settings = (
        Setting("signing_secret", "the app's signing secret", required=True, secret=True, rotates=True),
        Setting("bot_token", "the xoxb- token; without it only slash commands and buttons are answered", secret=True),
    )
    content_types = ("application/json", FORM)
    typing_seconds = 60.0
    is_watched = True
    text_limit = "4000 characters, after & < > are escaped"
    caller = Caller.HASTY_CHAT  # three more attempts within six minutes, then never

    def verify(self, request: Request, source: Source, now: float) -> str:
        """Version v0 of Slack's signature. The probe `ssl_check` comes unsigned, and `parse` makes nothing of it."""
        if _is_ssl_check(request):
            return "ssl_check"
        secrets = secrets_of(source, "signing_secret")
        timestamp = request.header("x-slack-request-timestamp")
        check_timestamp("X-Slack-Request-Timestamp", timestamp, now)
        expected = [_signature(secret, timestamp, request.body) for secret in secrets]
        return "slack-v0" + check_signature(expected, request.header("x-slack-signature"), "X-Slack-Signature")

    def parse(self, request: Request, source: Source) -> Received:
        """The events of any of the three kinds of webhook, told apart by content type and then by field, never by guessing."""
        if _is_ssl_check(request):
            return Received(ignored=1, answer=Response(200))
        if request.content_type() != FORM:
            return _json(payload.decode_json(request.body))
        form = payload.decode_form(request.body)
        expires_at = _signed_time(request) + RESPONSE_URL_SECONDS
        if "payload" in form:
            return received(_interaction(payload.decode_json(form["payload"]), expires_at))
        return _command(form, expires_at)

    def split(self, text: str) -> list[str]:
        """Slack truncates only at 40,000 characters, but its clients cut messages, and code in them, at about 4,000."""
        return split_text(text, TEXT_MAX, lambda part: len(_escape(part)))

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """By the response_url while Slack takes it, else by chat.postMessage; None where there is neither URL nor token."""
        text = _escape(part)
        url, channel_id = text_at(reply_to, "response_url"), text_at(reply_to, "channel")
        if _takes_response(source, url, dig(reply_to, "response_url_expires_at"), now):
            return post_json(url, {"response_type": "in_channel", "text": text, "replace_original": False})
        if not (may_send(source, "bot_token") and channel_id):
            return None
        message: dict[str, Any] = {"channel": channel_id, "text": text, "unfurl_links": False, "unfurl_media": False}
        if text_at(reply_to, "thread_ts"):
            message["thread_ts"] = reply_to["thread_ts"]
        base = base_of(source, PUBLIC_BASE)
        return post_json(f"{base}/api/chat.postMessage", message, bearer(source, "bot_token"))

    def typing(self, source: Source, reply_to: Mapping[str, Any], now: float) -> Outgoing | None:
        """
        A status in an assistant's thread, which is one in a direct message; other places have nothing of the kind.

        It goes when the app answers. https://docs.slack.dev/reference/methods/assistant.threads.setStatus
        """
        channel_id, thread = text_at(reply_to, "channel"), text_at(reply_to, "thread_ts")
        if not (may_send(source, "bot_token") and channel_id.startswith("D") and thread):
            return None
        status = {"channel_id": channel_id, "thread_ts": thread, "status": "is typing…"}
        return post_json(f"{base_of(source, PUBLIC_BASE)}/api/assistant.threads.setStatus", status, bearer(source, "bot_token"))

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """
        The API says no with status 200 and `"ok": false`; a response_url says "ok" in plain text.

        A response_url works five times; when it is used up, the next attempt goes by chat.postMessage.
        https://docs.slack.dev/interactivity/handling-user-interaction
        """
        answer = read_answer(body)
        said_no = dig(answer, "ok") is False
        error = text_at(answer, "error")
        if 200 <= status < 300 and not said_no:
            return SENT
        if error in RETRY_ERRORS:
            return retry(status, headers, error)
        if "response_url" in reply_to and status != 429 and status < 500:
            by_api = {key: value for key, value in reply_to.items() if not key.startswith("response_url")}
            return attrs.evolve(retry(status, headers, error, 0.0), reply_to=by_api)
        return failed(status, error) if said_no and status < 300 else judge_status(status, headers, error)

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A mention of the bot, each number a post of its own."""
        event = {
            "type": "app_mention",
            "user": "U061F7AUR",
            "text": _escape(text),
            "channel": "C0LAN2Q65",
            "ts": f"{1_764_000_000 + number}.000100",
        }
        envelope = {
            "type": "event_callback",
            "team_id": "T061EG9R6",
            "api_app_id": "A0MDYCDME",
            "event_id": f"Ev{number:08}",
            "event_time": int(now),
            "authorizations": [{"team_id": "T061EG9R6", "user_id": "U0LAN0Z89", "is_bot": True}],
            "event": event,
        }
        body = payload.encode_json(envelope)
        timestamp = str(int(now))
        headers = {
            "content-type": "application/json",
            "x-slack-request-timestamp": timestamp,
            "x-slack-signature": _signature(source.setting("signing_secret").encode(), timestamp, body),
        }
        return Request("POST", f"/webhooks/{self.name}/{source.name}", headers=headers, body=body)


def _signature(key: bytes, timestamp: str, body: bytes) -> str:
    return "v0=" + hmac_hex(key, b"v0:" + timestamp.encode() + b":" + body)


def _is_ssl_check(request: Request) -> bool:
    """Whether the request is Slack's probe of the certificate and nothing else: a form that could never be an event."""
    if request.content_type() != FORM or len(request.body) > SSL_CHECK_BYTES_MAX:
        return False
    try:
        form = payload.decode_form(request.body)
    except BadInput:
        return False
    return form.get("ssl_check") == "1" and form.keys() <= {"ssl_check", "token"}


def _signed_time(request: Request) -> int:
    """When Slack signed the request, which `verify` has checked; 0 if it did not."""
    timestamp = request.header("x-slack-request-timestamp")
    return int(timestamp) if timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12 else 0


def _json(envelope: Any) -> Received:
    kind, challenge = text_at(envelope, "type"), text_at(envelope, "challenge")
    if kind == "url_verification" and challenge:
        return Received(answer=Response(200, challenge.encode(), (("content-type", "text/plain; charset=utf-8"),)))
    if kind == "event_callback":
        return received([_event(envelope)])
    if kind == "app_rate_limited":
        return Received(ignored=1)
    return received([unclear(_without_secrets(envelope), "The webhook has no type that is known.")])


def _event(envelope: Any) -> Event | None:
    event, event_id = dig(envelope, "event"), text_at(envelope, "event_id")
    kind = text_at(event, "type")
    if not kind:
        return unclear(_without_secrets(envelope), "The event has no type.", event_id)
    if kind not in EVENT_TYPES or not _is_spoken(event, envelope):
        return None
    user, place, ts = text_at(event, "user"), text_at(event, "channel"), text_at(event, "ts")
    text = _unescape(text_at(event, "text"))
    if not (user and place and ts and isinstance(event.get("text"), str)):
        return unclear(event, "The message has no user, channel, ts or text.", event_id)
    if not text.strip():
        return None  # a file without a word
    # A mention comes twice, as app_mention and as message, with two event_ids: they are one post.
    identity = short_id(f"{text_at(envelope, 'team_id')}:{place}:{ts}")
    conversation, reply_to = _place(place, ts, text_at(event, "thread_ts"))
    return Event(short_id(event_id) or identity, text, conversation, short_id(user), reply_to, identity=identity)


def _is_spoken(event: Any, envelope: Any) -> bool:
    """Whether a person says something in the event: neither a bot, nor this one, nor an edit."""
    own = {text_at(each, "user_id") for each in list_at(envelope, "authorizations") if dig(each, "is_bot") is not False}
    by_bot = bool(event.get("bot_id")) or text_at(event, "user") in own - {""}
    return not by_bot and text_at(event, "subtype") in SPOKEN_SUBTYPES


def _place(place: str, ts: str, thread_ts: str) -> tuple[str, dict[str, Any]]:
    """
    The conversation, and where its answers go: the message's thread, which the answer opens if there is none.

    A direct message outside a thread is answered beside it, or every line of the chat would be a conversation of its own.
    """
    direct = place.startswith("D")
    thread = thread_ts or ("" if direct else ts)
    reply_to = {"channel": place, "thread_ts": thread} if thread else {"channel": place}
    return short_id(f"{place}:{thread}" if thread else place), reply_to


def _command(form: Mapping[str, str], expires_at: int) -> Received:
    """A slash command: one event, whose answer everybody in the channel sees."""
    trigger, place, text = form.get("trigger_id", ""), form.get("channel_id", ""), form.get("text", "")
    if not (trigger and place and form.get("command")):
        return received([unclear(_without_secrets(form), "The form is neither a command nor an interaction.", trigger)])
    if not text.strip():
        hint = {"response_type": "ephemeral", "text": "Write your question behind the command."}
        return Received(ignored=1, answer=json_response(200, hint))
    user = form.get("user_id", "")
    reply_to = {"channel": place, **_response(form, expires_at)}
    name = short_id(trigger)
    return Received((Event(name, _unescape(text), short_id(f"{place}:{user}"), short_id(user), reply_to, identity=name),))


def _interaction(interaction: Any, expires_at: int) -> Iterator[Event | None]:
    """Pressed elements of a message: one event. Views and shortcuts are acknowledged, and nothing more."""
    kind, trigger = text_at(interaction, "type"), text_at(interaction, "trigger_id")
    if not kind:
        yield unclear(_without_secrets(interaction), "The interaction has no type.", trigger)
        return
    if kind != "block_actions":
        yield None
        return
    user = text_at(interaction, "user", "id")
    # In the app's home there is no channel; a message to the user's id arrives in their chat with the bot.
    place = first_text(interaction, (("channel", "id"), ("container", "channel_id"))) or user
    actions = dig(interaction, "actions")
    if not (trigger and place and isinstance(actions, list)):
        yield unclear(_without_secrets(interaction), "The interaction has no trigger, place or actions.", trigger)
        return
    texts = [_unescape(first_text(action, ACTION_TEXTS)) for action in actions]
    text = "\n".join(filter(None, texts))
    if not text:
        yield None  # a button that is only a link
        return
    thread = first_text(interaction, (("container", "thread_ts"), ("message", "thread_ts")))
    conversation, reply_to = _place(place, text_at(interaction, "container", "message_ts"), thread)
    reply_to |= _response(interaction, expires_at)
    yield Event(short_id(trigger), text, conversation, short_id(user), reply_to, identity=short_id(trigger))


def _response(source: Any, expires_at: int) -> dict[str, Any]:
    url = text_at(source, "response_url")
    return {"response_url": url, "response_url_expires_at": expires_at} if url else {}


def _takes_response(source: Source, url: str, expires_at: Any, now: float) -> bool:
    """Whether the response_url is one of Slack's (or of the source's `api_base`) and younger than 30 minutes."""
    base = source.setting("api_base").rstrip("/")
    known = bool(RESPONSE_URL.fullmatch(url)) or (bool(base) and url.startswith(base + "/"))
    return known and isinstance(expires_at, int | float) and now < expires_at


def _without_secrets(value: Any) -> Any:
    """`value` without Slack's old verification token and without the URL that anybody could post to."""
    if not isinstance(value, Mapping):
        return value
    return {key: content for key, content in value.items() if key not in ("token", "response_url")}


def _escape(text: str) -> str:
    """Text that Slack shows as it is: no mention, no link. https://docs.slack.dev/messaging/formatting-message-text"""
    for plain, escaped in ESCAPES:
        text = text.replace(plain, escaped)
    return text


def _unescape(text: str) -> str:
    for plain, escaped in reversed(ESCAPES):  # the ampersand last, or "&amp;lt;" would lose two levels
        text = text.replace(escaped, plain)
    return text


channel = Slack()
