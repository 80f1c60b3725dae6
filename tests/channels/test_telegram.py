"""Telegram's own rules: the empty acknowledgment, update kinds, topics, UTF-16 and what its errors ask for."""

import json

import pytest

from sentinel import payload
from sentinel.channels.telegram import channel
from sentinel.errors import Forged
from sentinel.http import Request
from sentinel.model import Outcome, Source

NOW = 1_764_000_000.0
SOURCE = Source("default", "telegram", "bot", {"secret_token": "s3cret_-", "bot_token": "1:AA"})
ADA = {"id": 5550001, "is_bot": False, "first_name": "Ada"}
GROUP = {"id": -1002000000001, "type": "supergroup", "title": "ops"}


def message_of(**more) -> dict:
    return {"message_id": 7, "date": 1764000000, "from": ADA, "chat": GROUP, "text": "why?"} | more


def parsed(update):
    return channel.parse(Request("POST", "/", body=payload.encode_json(update)), SOURCE)


def event_of(**more):
    (event,) = parsed({"update_id": 900000001, "message": message_of(**more)}).events
    return event


class TestReceiving:
    def test_the_secret_is_compared_whole(self):
        """A prefix, a longer token and another case are not the secret."""
        for given in ("s3cret_", "s3cret_-x", "S3CRET_-", "s3cret_-, s3cret_-"):
            request = Request("POST", "/", headers={"x-telegram-bot-api-secret-token": given})
            with pytest.raises(Forged):
                channel.verify(request, SOURCE, NOW)

    def test_the_acknowledgment_is_empty(self):
        """A body could be run as an API call, so there is none."""
        response = channel.acknowledge(SOURCE)
        assert (response.status, response.body) == (200, b"")

    def test_a_message_in_a_topic(self):
        """The update's id is the identity; a topic of a group is a conversation of its own and is answered there."""
        event = event_of(message_thread_id=42)
        assert (event.identity, event.external_id) == ("900000001", "900000001")
        assert (event.conversation, event.sender, event.text) == ("-1002000000001:42", "5550001", "why?")
        assert event.reply_to == {"chat_id": -1002000000001, "message_id": 7, "message_thread_id": 42}

    def test_a_chain_of_replies_is_no_topic(self):
        """In a group without topics the thread id numbers a chain of replies, which cannot be sent to."""
        assert event_of(message_thread_id=42, reply_to_message={"message_id": 3}).conversation == "-1002000000001"
        topic = event_of(message_thread_id=42, reply_to_message={"message_id": 3}, is_topic_message=True)
        assert topic.conversation == "-1002000000001:42"

    def test_captions_are_words(self):
        """The caption of a photo is what the user said."""
        photo = message_of(photo=[{}], caption="what is this?")
        del photo["text"]
        assert parsed({"update_id": 1, "message": photo}).events[0].text == "what is this?"

    def test_a_pressed_button(self):
        """A button says its data, in the chat of its message."""
        query = {"id": "1", "from": ADA, "data": "yes", "message": message_of(**{"from": {"id": 1, "is_bot": True}})}
        (event,) = parsed({"update_id": 5, "callback_query": query}).events
        assert (event.identity, event.text, event.sender) == ("5", "yes", "5550001")
        assert event.reply_to["chat_id"] == GROUP["id"]
        assert parsed({"update_id": 5, "callback_query": {"id": "1", "from": ADA, "data": "yes"}}).ignored == 1

    def test_a_business_chat(self):
        """A customer's message is answered through the business connection; the business's own messages are ignored."""
        chat = {"id": ADA["id"], "type": "private"}
        customers = message_of(chat=chat, business_connection_id="b1")
        (event,) = parsed({"update_id": 1, "business_message": customers}).events
        assert json.loads(channel.send(SOURCE, event.reply_to, "4", "j", NOW).body)["business_connection_id"] == "b1"
        assert parsed({"update_id": 2, "business_message": customers | {"from": {"id": 9, "is_bot": False}}}).ignored == 1
        assert parsed({"update_id": 3, "business_message": customers | {"sender_business_bot": {"id": 9}}}).ignored == 1

    @pytest.mark.parametrize(
        "update",
        [
            {"edited_message": message_of()},
            {"channel_post": message_of()},
            {"poll": {"id": "1"}},
            {"my_chat_member": {}},
            {"message": message_of(**{"from": {"id": 1, "is_bot": True}})},
            {"message": {key: value for key, value in message_of(new_chat_title="x").items() if key != "text"}},
            {"something_new": [1]},
            {},
        ],
    )
    def test_what_is_ignored(self, update):
        """Edits, bots, polls, service messages and kinds that do not exist yet are acknowledged and counted."""
        received = parsed({"update_id": 1} | update)
        assert (received.events, received.ignored) == ((), 1)

    @pytest.mark.parametrize(
        "update",
        [
            [],
            {"message": message_of()},
            {"update_id": "1", "message": message_of()},
            {"update_id": True, "message": message_of()},
            {"update_id": 1, "message": "hello"},
            {"update_id": 1, "message": message_of(text=["hello"])},
            {"update_id": 1, "message": message_of(chat={"id": "x"})},
            {"update_id": 1, "callback_query": []},
        ],
    )
    def test_a_broken_message_waits_for_a_person(self, update):
        """What looks like a message and is not understood is kept, because a refusal would block the chat for a day."""
        (event,) = parsed(update).events
        assert event.problem


class TestReply:
    def test_the_request(self):
        """The request is the documented one, in the topic, quoting a message that may be gone by then."""
        outgoing = channel.send(SOURCE, event_of(message_thread_id=42).reply_to, "4 <b>", "job-1", NOW)
        assert outgoing.url == "https://api.telegram.org/bot1:AA/sendMessage"
        assert json.loads(outgoing.body) == {
            "chat_id": -1002000000001,
            "text": "4 <b>",
            "message_thread_id": 42,
            "reply_parameters": {"message_id": 7, "allow_sending_without_reply": True},
            "link_preview_options": {"is_disabled": True},
        }

    @pytest.mark.parametrize("text", ["🙂" * 5000, "a" + "🙂" * 5000, "a" * 4097, "line\n" * 2000])
    def test_parts_fit_in_utf16(self, text):
        """No part has more than 4096 code units, and no surrogate pair is cut."""
        parts = channel.split(text)
        assert max(len(part.encode("utf-16-le")) // 2 for part in parts) <= 4096
        assert "".join("".join(parts).split()) == "".join(text.split())

    @pytest.mark.parametrize(
        ("status", "body", "outcome", "seconds"),
        [
            (200, {"ok": True, "result": {}}, Outcome.SENT, None),
            (429, {"ok": False, "error_code": 429, "parameters": {"retry_after": 35}}, Outcome.RETRY, 35),
            (429, {"ok": False}, Outcome.RETRY, 3),
            (429, {"ok": False, "parameters": {"retry_after": -5}}, Outcome.RETRY, 0),
            (502, {"ok": False}, Outcome.RETRY, 3),
            (400, {"ok": False, "description": "Bad Request: chat not found"}, Outcome.FAILED, None),
            (401, {"ok": False, "description": "Unauthorized"}, Outcome.FAILED, None),
            (403, {"ok": False, "description": "Forbidden: bot was blocked by the user"}, Outcome.FAILED, None),
            (200, {"ok": False}, Outcome.FAILED, None),
        ],
    )
    def test_the_verdict(self, status, body, outcome, seconds):
        """Limits and server errors are waited for as long as they say; a blocked bot is not."""
        verdict = channel.judge(status, {"retry-after": "3"}, payload.encode_json(body), {})
        assert (verdict.outcome, verdict.retry_after_seconds) == (outcome, seconds)

    def test_a_group_that_moved_is_followed(self):
        """The next attempt goes to the supergroup, without the ids that it does not know."""
        body = b'{"ok":false,"error_code":400,"parameters":{"migrate_to_chat_id":-100123}}'
        verdict = channel.judge(400, {}, body, {"chat_id": -5, "message_id": 7})
        assert verdict.outcome is Outcome.RETRY
        assert verdict.reply_to == {"chat_id": -100123}
