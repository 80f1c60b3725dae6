"""Telegram Bot API. The acknowledgment must stay empty: a JSON body with a `method` would be run as an API call.

https://core.telegram.org/bots/api
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from sentinel import payload
from sentinel.channels import Channel, Received, Setting
from sentinel.channels.shared.reading import dig, first_text, received, short_id, text_at, unclear
from sentinel.channels.shared.sending import base_of, failed, judge_status, post_json, read_answer, retry, split_text, utf16_length
from sentinel.channels.shared.signing import known_secret
from sentinel.errors import Forged
from sentinel.http import Request
from sentinel.model import SENT, Event, Outgoing, Source, Verdict

PUBLIC_BASE = "https://api.telegram.org"
TEXT_MAX = 4096
SECRET_HEADER = "x-telegram-bot-api-secret-token"  # noqa: S105 - a header's name
MESSAGES = ("message", "business_message")
TEXTS = (("text",), ("caption",))


class Telegram(Channel):
    """One bot."""

    name = "telegram"
    settings = (
        Setting("secret_token", "the secret_token given to setWebhook (A-Z a-z 0-9 _ -)", required=True, secret=True, rotates=True),
        Setting("bot_token", "the token from BotFather; without it nothing is sent", secret=True, example="110201543:AAHdqTcv"),
    )
    text_limit = "4096 UTF-16 code units"
    is_watched = True

    def verify(self, request: Request, source: Source, now: float) -> str:
        """Telegram shows a fixed secret and signs nothing, so the secret proves the sender, not the body."""
        which = known_secret(source, "secret_token", request.header(SECRET_HEADER))
        if which is None:
            raise Forged("The header X-Telegram-Bot-Api-Secret-Token is missing or wrong.")
        return "secret-token" + which

    def parse(self, request: Request, source: Source) -> Received:
        """The one update of a webhook: an event for a message or a pressed button; edits, polls and the rest are ignored."""
        return received([_update(payload.decode_json(request.body))])

    def split(self, text: str) -> list[str]:
        """The API counts UTF-16 code units, of which most emoji take two."""
        return split_text(text, TEXT_MAX, utf16_length)

    def typing(self, source: Source, reply_to: Mapping[str, Any], now: float) -> Outgoing | None:
        """Shown for 5 seconds or less. https://core.telegram.org/bots/api#sendchataction"""
        token = source.setting("bot_token")
        if not token or not _is_int(dig(reply_to, "chat_id")):
            return None
        places = ("chat_id", "message_thread_id", "business_connection_id")
        action = {key: reply_to[key] for key in places if key in reply_to} | {"action": "typing"}
        return post_json(f"{base_of(source, PUBLIC_BASE)}/bot{quote(token, safe=':')}/sendChatAction", action)

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """A plain message: model text is not MarkdownV2, and a parse error would lose it. None without a bot token."""
        token = source.setting("bot_token")
        if not token or not _is_int(dig(reply_to, "chat_id")):
            return None
        message = {
            "chat_id": reply_to["chat_id"],
            "text": part,
            "link_preview_options": {"is_disabled": True},
            **{key: reply_to[key] for key in ("message_thread_id", "business_connection_id") if key in reply_to},
        }
        if "message_id" in reply_to:
            message["reply_parameters"] = {"message_id": reply_to["message_id"], "allow_sending_without_reply": True}
        return post_json(f"{base_of(source, PUBLIC_BASE)}/bot{quote(token, safe=':')}/sendMessage", message)

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """
        The status decides, but for two parameters that the API adds to an error.

        `retry_after` is the seconds to wait; `migrate_to_chat_id` is the id that a group has as a supergroup, where the ids of
        its messages and topics mean nothing. https://core.telegram.org/bots/api#responseparameters
        """
        answer = read_answer(body)
        said_no = dig(answer, "ok") is False
        reason = text_at(answer, "description")
        if 200 <= status < 300:
            return failed(status, reason) if said_no else SENT
        new_chat = dig(answer, "parameters", "migrate_to_chat_id")
        if _is_int(new_chat):
            return attrs.evolve(retry(status, headers, reason, 0.0), reply_to={"chat_id": new_chat})
        wait = dig(answer, "parameters", "retry_after")
        if status == 429 and _is_int(wait):
            return retry(status, headers, reason, float(wait))
        return judge_status(status, headers, reason)

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A message in a private chat, each number from another user."""
        user = 5_550_000 + number
        message = {
            "message_id": 7,
            "date": int(now),
            "from": {"id": user, "is_bot": False, "first_name": "Ada", "language_code": "en"},
            "chat": {"id": user, "type": "private", "first_name": "Ada"},
            "text": text,
        }
        return Request(
            "POST",
            f"/webhooks/{self.name}/{source.name}",
            headers={"content-type": "application/json", SECRET_HEADER: source.setting("secret_token")},
            body=payload.encode_json({"update_id": 900_000_000 + number, "message": message}),
        )


def _update(update: Any) -> Event | None:
    number = dig(update, "update_id")
    if not _is_int(number):
        return unclear(update, "The update has no update_id.")
    for kind in MESSAGES:
        if kind in update:
            return _message(update[kind], str(number), kind)
    if "callback_query" in update:
        return _button(update["callback_query"], str(number))
    return None


def _message(message: Any, number: str, kind: str) -> Event | None:
    if not isinstance(message, dict):
        return unclear(message, "The message is not an object.", number)
    if dig(message, "from", "is_bot") is True or (kind == "business_message" and _by_owner(message)):
        return None
    if not any(key in message for (key,) in TEXTS):
        return None  # a photo without a caption, somebody who joined
    text = first_text(message, TEXTS)
    if not text:
        return unclear(message, "The message's text is not one.", number)
    return _event(message, number, text, dig(message, "from"))


def _button(query: Any, number: str) -> Event | None:
    """A pressed button says what its data says; pressed under a message that the bot cannot see, it cannot be answered."""
    data, message = text_at(query, "data"), dig(query, "message")
    if not isinstance(query, dict):
        return unclear(query, "The callback query is not an object.", number)
    return _event(message, number, data, dig(query, "from")) if data.strip() and message is not None else None


def _event(message: Any, number: str, text: str, sender: Any) -> Event:
    chat, user = dig(message, "chat", "id"), dig(sender, "id")
    if not _is_int(chat):
        return unclear(message, "The message has no chat.", number)
    ids = {"chat_id": chat, "message_id": dig(message, "message_id"), "message_thread_id": _topic(message)}
    reply_to: dict[str, Any] = {key: known for key, known in ids.items() if _is_int(known)}
    if text_at(message, "business_connection_id"):
        reply_to["business_connection_id"] = message["business_connection_id"]
    conversation = f"{chat}:{reply_to['message_thread_id']}" if "message_thread_id" in reply_to else str(chat)
    sender_id = str(user if _is_int(user) else chat)
    return Event(number, text, short_id(conversation), sender_id, reply_to, identity=number)


def _topic(message: Any) -> Any:
    """
    The forum topic that the message is in, if any.

    In a group without topics the same field numbers a chain of replies, and sending to it is refused ("message thread not
    found"); such a message has `reply_to_message` and no `is_topic_message`.
    """
    chain = "reply_to_message" in message and message.get("is_topic_message") is not True
    return None if chain else message.get("message_thread_id")


def _by_owner(message: Any) -> bool:
    """Whether a message of a business chat is the business's own: the chat has its customer's id. Answering would be a loop."""
    return "sender_business_bot" in message or dig(message, "from", "id") != dig(message, "chat", "id")


def _is_int(value: Any) -> bool:
    return type(value) is int


channel = Telegram()
