"""WhatsApp's own rules: batches, what is ignored, and which of Meta's errors deserve another attempt."""

import json

import pytest

from sentinel import payload
from sentinel.channels.whatsapp import channel
from sentinel.errors import BadInput, Forged
from sentinel.http import Request
from sentinel.model import Outcome, Source

NOW = 1_764_000_000.0
SOURCE = Source("default", "whatsapp", "shop", {"app_secret": "s", "verify_token": "v", "access_token": "t"})


def said(words: str, wamid: str = "wamid.AAA=", /, **more) -> dict:
    return {"from": "15550100001", "id": wamid, "timestamp": "1764000000", "type": "text", "text": {"body": words}} | more


def value_of(*messages: dict, **more) -> dict:
    contact = {"profile": {"name": "Ada"}, "wa_id": "15550100001", "user_id": "US.100000000000"}
    return {"metadata": {"phone_number_id": "PHONE_ID"}, "contacts": [contact], "messages": list(messages)} | more


def parsed(*values: dict, field: str = "messages", **envelope):
    changes = [{"field": field, "value": value} for value in values]
    body = {"object": "whatsapp_business_account", "entry": [{"id": "WABA_ID", "changes": changes}]} | envelope
    return channel.parse(Request("POST", "/webhooks/whatsapp/shop", body=payload.encode_json(body)), SOURCE)


class TestVerify:
    def test_published_vector(self):
        """The construction is GitHub's, whose published vector is accepted; Meta publishes none."""
        source = Source("default", "whatsapp", "shop", {"app_secret": "It's a Secret to Everybody"})
        signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        request = Request("POST", "/", headers={"x-hub-signature-256": signature}, body=b"Hello, World!")
        assert channel.verify(request, source, NOW) == "hmac-sha256"

    def test_the_raw_bytes_are_signed(self):
        """JSON that means the same in other bytes is not what was signed."""
        request = channel.sample(SOURCE, "me@example.com", 1, NOW)
        spaced = json.dumps(json.loads(request.body)).encode()
        with pytest.raises(Forged):
            channel.verify(Request("POST", "/", headers=request.headers, body=spaced), SOURCE, NOW)


class TestHandshake:
    def test_the_challenge_comes_back_bare(self):
        """The right token gets the challenge as plain text."""
        query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=v"
        response = channel.handshake(Request("GET", "/", query), SOURCE)
        assert (response.status, response.body) == (200, b"1158201444")
        assert response.headers[0][1].startswith("text/plain")

    @pytest.mark.parametrize(
        ("query", "token"),
        [
            ("hub.mode=subscribe&hub.challenge=1&hub.verify_token=w", "v"),
            ("hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=v", "v"),
            ("hub.mode=subscribe&hub.challenge=1&hub.verify_token=", ""),
            ("hub.mode=subscribe&hub.challenge=1&hub.verify_token=%ED%A0%80", "v"),
            ("hub.mode=subscribe&hub.challenge=1", "v"),
        ],
    )
    def test_any_other_get_is_refused(self, query, token):
        """A wrong mode, a wrong token and a token that was never configured are refused."""
        with pytest.raises(Forged):
            channel.handshake(Request("GET", "/", query), Source("default", "whatsapp", "shop", {"verify_token": token}))

    def test_a_token_with_a_nul_is_no_token(self):
        """A query with U+0000 is bad before anything in it is looked at."""
        with pytest.raises(BadInput):
            channel.handshake(Request("GET", "/", "hub.mode=subscribe&hub.challenge=1&hub.verify_token=v%00"), SOURCE)


class TestParse:
    def test_every_array_is_walked(self):
        """Entries, changes and messages are all lists, and every message in them is an event."""
        change = {"field": "messages", "value": value_of(said("a", "1"), said("b", "2"))}
        other = {"field": "messages", "value": value_of(said("c", "3"))}
        received = parsed(entry=[{"changes": [change, other]}, {"changes": [other | {"value": value_of(said("d", "4"))}]}])
        assert [(event.identity, event.text) for event in received.events] == [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")]

    def test_the_conversation_is_number_and_user(self):
        """The same user at another of the business's numbers is another conversation; the reply knows where to go."""
        (event,) = parsed(value_of(said("hello"))).events
        assert event.conversation == "PHONE_ID:15550100001"
        assert event.sender == "15550100001"
        assert event.reply_to == {
            "to": "15550100001",
            "recipient": "US.100000000000",
            "phone_number_id": "PHONE_ID",
            "message_id": "wamid.AAA=",
        }

    def test_an_endless_id_is_shortened(self):
        """An id that no index could hold is replaced by its fingerprint, which is as distinct."""
        long, other = (parsed(value_of(said("hello", "x" * 9000 + end))).events[0].identity for end in "ab")
        assert len(long) == len(other) == 64
        assert long != other

    def test_a_user_without_a_number_is_answered_by_user_id(self):
        """Where Meta sends only a business-scoped user id, it is the sender and the recipient."""
        message = said("hello")
        del message["from"]
        (event,) = parsed(value_of(message)).events
        assert event.sender == "US.100000000000"
        sent = json.loads(channel.send(SOURCE, event.reply_to, "hi", "job-1", NOW).body)
        assert sent["recipient"] == "US.100000000000"
        assert "to" not in sent

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ({"type": "interactive", "interactive": {"type": "button_reply", "button_reply": {"id": "1", "title": "Yes"}}}, "Yes"),
            ({"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"id": "1", "title": "Red"}}}, "Red"),
            ({"type": "button", "button": {"text": "Stop", "payload": "STOP"}}, "Stop"),
            ({"type": "button", "button": {"payload": "STOP"}}, "STOP"),
            ({"type": "image", "image": {"id": "1", "caption": "What is this?"}}, "What is this?"),
            ({"type": "document", "document": {"id": "1", "caption": "Read this"}}, "Read this"),
        ],
    )
    def test_what_the_user_said(self, message, text):
        """Replies by button or list and captions are what the user said."""
        assert [event.text for event in parsed(value_of(said("", **message))).events] == [text]

    @pytest.mark.parametrize("kind", ["image", "audio", "sticker", "location", "reaction", "unsupported", "a new one"])
    def test_what_has_no_words_is_ignored(self, kind):
        """A message without words is acknowledged and counted."""
        received = parsed(value_of(said("x", type=kind, **{kind: {"id": "1"}})))
        assert (received.events, received.ignored) == ((), 1)

    def test_receipts_errors_and_echoes_are_ignored(self):
        """Receipts, out-of-band errors, other fields and what the business wrote itself never become events."""
        status = {"id": "wamid.OUT=", "status": "delivered", "timestamp": "1764000005", "recipient_id": "15550100001"}
        assert parsed({"statuses": [status, status | {"status": "read"}]}).ignored == 2
        assert parsed({"errors": [{"code": 131000}]}).ignored == 1
        assert parsed({"message_echoes": [said("ours")]}, field="smb_message_echoes").ignored == 1
        assert not parsed({"message_echoes": [said("ours")]}, field="smb_message_echoes").events
        both = parsed(value_of(said("hello"), statuses=[status]))
        assert (len(both.events), both.ignored) == (1, 1)

    @pytest.mark.parametrize(
        "body",
        [
            [],
            "hello",
            {"entry": {}},
            {"entry": [7]},
            {"entry": [{"changes": {}}]},
            {"entry": [{"changes": [{"field": "messages"}]}]},
            {"entry": [{"changes": [{"value": {}}]}]},
            {"entry": [{"changes": [{"field": "messages", "value": {"messages": "x"}}]}]},
            {"entry": [{"changes": [{"field": "messages", "value": {"messages": [{"type": "text"}]}}]}]},
            {"entry": [{"changes": [{"field": "messages", "value": {"messages": [said("", text=5)]}}]}]},
        ],
    )
    def test_what_is_not_understood_waits_for_a_person(self, body):
        """Genuine JSON of an unknown shape is one event with a problem, the same for every re-send."""
        request = Request("POST", "/", body=payload.encode_json(body))
        (event,) = channel.parse(request, SOURCE).events
        assert event.problem
        assert event.text == ""
        assert event == channel.parse(request, SOURCE).events[0]

    def test_a_broken_message_does_not_hide_its_neighbours(self):
        """In a batch, only the broken message waits for a person, under its own id."""
        received = parsed(value_of(said("a", "1"), said("", "2", text=None), said("c", "3")))
        assert [(event.identity, bool(event.problem)) for event in received.events] == [("1", False), ("2", True), ("3", False)]


class TestReply:
    def test_the_request(self):
        """The request is the documented one: to the number that was written to, quoting the message, with our job's id."""
        (event,) = parsed(value_of(said("hello"))).events
        outgoing = channel.send(SOURCE, event.reply_to, "hi", "job-123", NOW)
        assert outgoing.url == "https://graph.facebook.com/v23.0/PHONE_ID/messages"
        assert outgoing.headers["authorization"] == "Bearer t"
        assert json.loads(outgoing.body) == {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "15550100001",
            "type": "text",
            "text": {"body": "hi", "preview_url": False},
            "context": {"message_id": "wamid.AAA="},
            "biz_opaque_callback_data": "job-123",
        }

    @pytest.mark.parametrize("text", ["a" * 4097, "🙂" * 2049, "word " * 3000])
    def test_parts_fit(self, text):
        """No part is longer than 4096, in characters or in UTF-16 code units."""
        parts = channel.split(text)
        assert len(parts) > 1
        assert max(len(part.encode("utf-16-le")) // 2 for part in parts) <= 4096

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [
            *((code, Outcome.RETRY) for code in (4, 80007, 130429, 131056, 131000, 131016)),
            *((code, Outcome.FAILED) for code in (131047, 131026, 131051, 190, 131030, True, "4", None, [4])),
        ],
    )
    def test_the_code_decides(self, code, outcome):
        """Meta's temporary errors deserve another attempt whatever their status; the others do not."""
        body = payload.encode_json({"error": {"message": "(#4) no", "code": code}})
        assert channel.judge(400, {}, body, {}).outcome is outcome

    def test_the_pair_rate_is_waited_for(self):
        """One message per six seconds goes to the same user."""
        assert channel.judge(400, {}, b'{"error":{"code":131056}}', {}).retry_after_seconds == 6
