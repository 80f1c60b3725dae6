"""WhatsApp Business Cloud API. Receipts and echoes of our own messages must never reach the model, or it would talk to itself.

https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sentinel import payload
from sentinel.channels import Channel, Received, Setting
from sentinel.channels.shared.reading import dig, first_text, list_at, received, short_id, text_at, unclear
from sentinel.channels.shared.sending import (
    base_of,
    bearer,
    judge_status,
    may_send,
    post_json,
    read_answer,
    retry,
    split_text,
    utf16_length,
)
from sentinel.channels.shared.signing import check_signature, hmac_hex, known_secret, secrets_of
from sentinel.errors import Forged
from sentinel.http import Request, Response
from sentinel.model import SENT, Event, Outgoing, Source, Verdict

API_VERSION = "v23.0"
TEXT_MAX = 4096

# Where each type of message keeps what the user said. A type that is not here has no words, or none that are the user's.
TEXTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "text": (("text", "body"),),
    "button": (("button", "text"), ("button", "payload")),
    "interactive": (("interactive", "button_reply", "title"), ("interactive", "list_reply", "title")),
    "image": (("image", "caption"),),
    "video": (("video", "caption"),),
    "document": (("document", "caption"),),
}
CAPTIONED = frozenset({"image", "video", "document"})

# https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
# 4 app rate, 80007 account rate, 130429 throughput, 131056 one message per 6 s to the same user, 131000 and 131016 transient.
RETRY_CODES: Mapping[int, float | None] = {4: None, 80007: None, 130429: None, 131056: 6.0, 131000: None, 131016: None}


class WhatsApp(Channel):
    """One Meta app; it may serve several phone numbers, and a reply leaves from the number that was written to."""

    name = "whatsapp"
    settings = (
        Setting("app_secret", "the Meta app's secret, which signs every webhook", required=True, secret=True, rotates=True),
        Setting("verify_token", "the token typed beside the callback URL in the App Dashboard", secret=True, rotates=True),
        Setting("access_token", "the token that replies are sent with; without it nothing is sent", secret=True),
        Setting("phone_number_id", "the number that replies leave from when a webhook names none", example="106540352242922"),
    )
    typing_seconds = 20.0
    text_limit = "4096 characters, counted in UTF-16 code units"
    is_watched = True

    def handshake(self, request: Request, source: Source) -> Response:
        """The challenge as it came, for a subscription that knows the verify token. Raises Forged for any other GET."""
        asked = request.parameters()
        known = known_secret(source, "verify_token", asked.get("hub.verify_token", ""))
        if asked.get("hub.mode") != "subscribe" or known is None:
            raise Forged("This is not a subscription with the right hub.verify_token.")
        challenge = asked.get("hub.challenge", "").encode("utf-8", "replace")
        return Response(200, challenge, (("content-type", "text/plain; charset=utf-8"),))

    def verify(self, request: Request, source: Source, now: float) -> str:
        """Meta signs the raw body with the app secret. It signs no time: only de-duplication defends against replay."""
        expected = ["sha256=" + hmac_hex(secret, request.body) for secret in secrets_of(source, "app_secret")]
        return "hmac-sha256" + check_signature(expected, request.header("x-hub-signature-256"), "X-Hub-Signature-256")

    def parse(self, request: Request, source: Source) -> Received:
        """One event per message: a webhook batches entries, their changes, and the messages of a change."""
        return received(_items(payload.decode_json(request.body), source))

    def split(self, text: str) -> list[str]:
        """Meta does not say what a character is; UTF-16 code units are the reading that can never be too long."""
        return split_text(text, TEXT_MAX, utf16_length)

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """A text that quotes the message it answers; None without an access token or a number to send from."""
        number = text_at(reply_to, "phone_number_id") or source.setting("phone_number_id")
        address = _address(reply_to)
        if not (may_send(source, "access_token") and number and address):
            return None
        message = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            **address,
            "type": "text",
            "text": {"body": part, "preview_url": False},
            "biz_opaque_callback_data": job_id,  # comes back in the receipts
        }
        if text_at(reply_to, "message_id"):
            message["context"] = {"message_id": reply_to["message_id"]}
        return post_json(_messages_url(source, number), message, bearer(source, "access_token"))

    def typing(self, source: Source, reply_to: Mapping[str, Any], now: float) -> Outgoing | None:
        """
        Shown for 25 seconds; it also marks the message as read.

        https://developers.facebook.com/documentation/business-messaging/whatsapp/typing-indicators
        """
        number = text_at(reply_to, "phone_number_id") or source.setting("phone_number_id")
        message_id = text_at(reply_to, "message_id")
        if not (may_send(source, "access_token") and number and message_id):
            return None
        indicator = {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": message_id,
            "typing_indicator": {"type": "text"},
        }
        return post_json(_messages_url(source, number), indicator, bearer(source, "access_token"))

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """Meta's error code decides before the status: it sends temporary errors with 400 too."""
        if 200 <= status < 300:
            return SENT
        error = dig(read_answer(body), "error")
        code = dig(error, "code")
        reason = f"{code}: {text_at(error, 'message')}" if isinstance(code, int) else ""
        if isinstance(code, int) and code in RETRY_CODES:
            return retry(status, headers, reason, RETRY_CODES[code])
        return judge_status(status, headers, reason)

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A text message, each number from another user."""
        user = str(15_550_000_000 + number)
        message = {
            "from": user,
            "id": f"wamid.sample{number}",
            "timestamp": str(int(now)),
            "type": "text",
            "text": {"body": text},
        }
        value = {
            "messaging_product": "whatsapp",
            "metadata": {
                "display_phone_number": "15550100000",
                "phone_number_id": source.setting("phone_number_id") or "106540352242922",
            },
            "contacts": [{"profile": {"name": "Ada"}, "wa_id": user}],
            "messages": [message],
        }
        entry = {"id": "102290129340398", "changes": [{"field": "messages", "value": value}]}
        body = payload.encode_json({"object": "whatsapp_business_account", "entry": [entry]})
        signature = "sha256=" + hmac_hex(source.setting("app_secret").encode(), body)
        headers = {"content-type": "application/json", "x-hub-signature-256": signature}
        return Request("POST", f"/webhooks/{self.name}/{source.name}", headers=headers, body=body)


def _items(envelope: Any, source: Source) -> list[Event | None]:
    """Every item of a webhook: an event, or None for what is ignored."""
    entries = dig(envelope, "entry")
    if not isinstance(entries, list):
        return [unclear(envelope, "The webhook has no list of entries.")]
    found: list[Event | None] = []
    for entry in entries:
        changes = dig(entry, "changes")
        if not isinstance(changes, list):
            found.append(unclear(entry, "An entry has no list of changes."))
            continue
        for change in changes:
            found += _change(change, source)
    return found


def _change(change: Any, source: Source) -> list[Event | None]:
    field, value = dig(change, "field"), dig(change, "value")
    if isinstance(field, str) and field != "messages":
        return [None]  # `smb_message_echoes`, for one, is what the business itself wrote from its phone
    messages = dig(value, "messages")
    if field is None or not isinstance(value, dict) or not (messages is None or isinstance(messages, list)):
        return [unclear(change, "A change is not of the documented shape.")]
    receipts = len(list_at(value, "statuses")) + len(list_at(value, "errors"))
    if not messages:
        return [None] * max(receipts, 1)
    return [None] * receipts + [_message(message, value, source) for message in messages]


def _message(message: Any, value: Any, source: Source) -> Event | None:
    wamid, kind = text_at(message, "id"), text_at(message, "type")
    if not (wamid and kind):
        return unclear(message, "A message has no id or no type.", wamid)
    text = first_text(message, TEXTS.get(kind, ()))
    if not text:
        wordless = kind not in TEXTS or kind in CAPTIONED
        return None if wordless else unclear(message, f"A message of type {kind} has no text.", wamid)
    number = text_at(value, "metadata", "phone_number_id") or source.setting("phone_number_id")
    user = text_at(message, "from")
    scoped = _scoped_id(user, value)
    if not (number and (user or scoped)):
        return unclear(message, "A message does not say from whom or to which number.", wamid)
    address = {"phone_number_id": number, "message_id": wamid}
    if user:
        address["to"] = user
    if scoped:
        address["recipient"] = scoped
    name, person = short_id(wamid), user or scoped
    return Event(name, text, short_id(f"{number}:{person}"), short_id(person), address, identity=name)


def _scoped_id(user: str, value: Any) -> str:
    """The sender's business-scoped user id, which Meta sends beside the phone number or instead of it; or ""."""
    for contact in list_at(value, "contacts"):
        if not user or text_at(contact, "wa_id") == user:
            return text_at(contact, "user_id")
    return ""


def _messages_url(source: Source, number: str) -> str:
    return f"{base_of(source, 'https://graph.facebook.com')}/{API_VERSION}/{quote(number, safe='')}/messages"


def _address(reply_to: Mapping[str, Any]) -> dict[str, str]:
    """Whom to send to, as the API wants it said: `to` a phone number, or `recipient` a business-scoped user id."""
    return next(({key: reply_to[key]} for key in ("to", "recipient") if text_at(reply_to, key)), {})


channel = WhatsApp()
