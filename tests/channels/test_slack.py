"""Slack's own rules: the signed time, the two copies of a mention, forms, escaping and errors with status 200."""

import hashlib
import hmac
import json
from urllib.parse import urlencode

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import payload
from sentinel.channels.slack import channel
from sentinel.errors import BadInput, Forged
from sentinel.http import Request
from sentinel.model import Outcome, Source

NOW = 1_764_000_000.0
SOURCE = Source("default", "slack", "app", {"signing_secret": "s", "bot_token": "xoxb-1"})
FORM = "application/x-www-form-urlencoded"
RESPONSE_URL = "https://hooks.slack.com/commands/T1/1/x"

VECTOR_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
    b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
VECTOR_HEADERS = {
    "content-type": FORM,
    "x-slack-request-timestamp": "1531420618",
    "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
}
VECTOR_SOURCE = Source("default", "slack", "app", {"signing_secret": "8f742231b10e8888abcd99yyyzzz85a5"})

EVENT = {"type": "app_mention", "user": "U1", "text": "<@UBOT> why?", "channel": "C1", "ts": "1764000000.000100"}
COMMAND = {
    "token": "old",
    "team_id": "T1",
    "channel_id": "C1",
    "user_id": "U1",
    "command": "/ask",
    "text": "why &lt;so&gt;?",
    "response_url": RESPONSE_URL,
    "trigger_id": "13345224609.738474920.8088930838d88f008e0",
}
PRESS = {
    "type": "block_actions",
    "token": "old",
    "user": {"id": "U1"},
    "channel": {"id": "C1"},
    "container": {"message_ts": "1764000000.000100"},
    "trigger_id": "12321423423.333649436676.d8c1bb837935619ccad0f624c448ffb3",
    "response_url": "https://hooks.slack.com/actions/T1/1/x",
    "actions": [{"action_id": "a", "value": "approve", "text": {"type": "plain_text", "text": "OK"}}],
}


def parsed(body: bytes, content_type: str = "application/json"):
    headers = {"content-type": content_type, "x-slack-request-timestamp": str(int(NOW))}
    return channel.parse(Request("POST", "/", headers=headers, body=body), SOURCE)


def parsed_event(envelope=None, **event):
    outer = {
        "type": "event_callback",
        "team_id": "T1",
        "event_id": "Ev1",
        "authorizations": [{"team_id": "T1", "user_id": "UBOT", "is_bot": True}],
    }
    return parsed(payload.encode_json(outer | {"event": EVENT | event} | (envelope or {})))


def parsed_form(**fields):
    return parsed(urlencode(fields).encode(), FORM)


def parsed_press(**more):
    return parsed_form(payload=json.dumps(PRESS | more))


class TestVerify:
    def test_published_vector(self):
        """The example of Slack's own documentation is accepted at its time."""
        request = Request("POST", "/", headers=VECTOR_HEADERS, body=VECTOR_BODY)
        assert channel.verify(request, VECTOR_SOURCE, 1531420618.0) == "slack-v0"

    @pytest.mark.parametrize(("seconds", "genuine"), [(300, True), (-300, True), (301, False), (-301, False)])
    def test_old_and_future_requests_are_refused(self, seconds, genuine):
        """A signature is good for five minutes, both ways."""
        request = channel.sample(SOURCE, "hello", 1, NOW)
        if genuine:
            assert channel.verify(request, SOURCE, NOW + seconds)
        else:
            with pytest.raises(Forged):
                channel.verify(request, SOURCE, NOW + seconds)

    @pytest.mark.parametrize(
        "timestamp", ["", "1764000000.0", "-1", "+1764000000", " 1764000000", "²", "\u0661" * 10, "9" * 5000, "nan"]
    )
    def test_a_time_that_is_none_is_refused(self, timestamp):
        """A timestamp that is not plain digits is refused even when it is signed, and never an exception."""
        signed = b"v0:" + timestamp.encode() + b":{}"
        signature = "v0=" + hmac.new(b"s", signed, hashlib.sha256).hexdigest()
        headers = {"x-slack-request-timestamp": timestamp, "x-slack-signature": signature}
        with pytest.raises(Forged):
            channel.verify(Request("POST", "/", headers=headers, body=b"{}"), SOURCE, NOW)


class TestUnsigned:
    @pytest.mark.parametrize("body", [b"ssl_check=1", b"ssl_check=1&token=xyz"])
    def test_the_probe_is_answered_and_makes_no_event(self, body):
        """The certificate probe comes unsigned: it is answered with an empty 200, and nothing follows from it."""
        request = Request("POST", "/", headers={"content-type": FORM}, body=body)
        assert channel.verify(request, SOURCE, NOW) == "ssl_check"
        received = channel.parse(request, SOURCE)
        assert received.events == ()
        assert (received.answer.status, received.answer.body) == (200, b"")

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"ssl_check=1&command=%2Fask&text=hi&trigger_id=1&channel_id=C1", FORM),
            (b"ssl_check=1&payload=%7B%7D", FORM),
            (b"ssl_check=1&ssl_check=1", FORM),
            (b"ssl_check=0", FORM),
            (b"ssl_check=1" + b"&token=" + b"x" * 300, FORM),
            (b"ssl_check=1", "application/json"),
            (b'{"ssl_check":1}', "application/json"),
        ],
    )
    def test_nothing_else_comes_in_unsigned(self, body, content_type):
        """A probe that carries anything more must be signed."""
        with pytest.raises(Forged):
            channel.verify(Request("POST", "/", headers={"content-type": content_type}, body=body), SOURCE, NOW)

    def test_the_challenge_needs_a_signature(self):
        """The challenge is answered as plain text, but only once the request is verified."""
        body = b'{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}'
        with pytest.raises(Forged):
            channel.verify(Request("POST", "/", headers={"content-type": "application/json"}, body=body), SOURCE, NOW)
        answer = parsed(body).answer
        assert answer.body == b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"
        assert answer.headers[0][1].startswith("text/plain")


class TestEvents:
    def test_a_mention_and_its_message_are_one(self):
        """One post comes as app_mention and as message, with two event_ids; it is answered once."""
        mention = parsed_event().events[0]
        message = parsed_event({"event_id": "Ev2"}, type="message", channel_type="channel").events[0]
        assert mention.identity == message.identity == "T1:C1:1764000000.000100"
        assert (mention.external_id, message.external_id) == ("Ev1", "Ev2")

    def test_the_answer_goes_into_the_thread(self):
        """A post in a thread belongs to the thread; any other opens one."""
        opened = parsed_event().events[0]
        joined = parsed_event(ts="1764000009.000200", thread_ts="1764000000.000100").events[0]
        assert opened.conversation == joined.conversation == "C1:1764000000.000100"
        assert opened.reply_to == joined.reply_to == {"channel": "C1", "thread_ts": "1764000000.000100"}

    def test_a_direct_message_is_answered_beside_it(self):
        """In a direct chat all messages outside threads are one conversation."""
        event = parsed_event(type="message", channel="D1", channel_type="im").events[0]
        assert (event.conversation, event.reply_to) == ("D1", {"channel": "D1"})

    def test_text_is_decoded_once(self):
        """The three entities are decoded, and what they spell is not decoded again."""
        assert parsed_event(text="1 &lt; 2 &amp;&amp; &amp;lt;").events[0].text == "1 < 2 && &lt;"

    @pytest.mark.parametrize(
        "event",
        [
            {"bot_id": "B1"},
            {"user": "UBOT"},
            {"subtype": "message_changed", "message": {"text": "x"}},
            {"subtype": "message_deleted"},
            {"subtype": "bot_message"},
            {"subtype": "channel_join"},
            {"type": "reaction_added"},
            {"type": "message", "subtype": "file_share", "text": ""},
        ],
    )
    def test_what_is_ignored(self, event):
        """Bots, the bot itself, edits, deletions and other events never reach the model."""
        received = parsed_event(**event)
        assert (received.events, received.ignored) == ((), 1)

    @pytest.mark.parametrize("subtype", ["file_share", "thread_broadcast"])
    def test_what_people_say_with_a_subtype(self, subtype):
        """A comment to a file and a reply shown in the channel too are said by a person."""
        assert parsed_event(type="message", subtype=subtype).events[0].text == "<@UBOT> why?"

    @pytest.mark.parametrize("odd", [["x"], {"x": 1}, 5, True, None])
    @pytest.mark.parametrize("field", ["subtype", "thread_ts", "bot_id", "user", "text", "channel", "ts", "type"])
    def test_fields_of_odd_types_are_no_exception(self, field, odd):
        """A field of any other type gives an event, a problem or nothing, and never an exception."""
        received = parsed_event({"authorizations": [odd]}, **{field: odd})
        assert len(received.events) + received.ignored == 1

    def test_a_user_who_installed_the_app_is_no_bot(self):
        """An authorization of a person does not make that person's messages our own."""
        envelope = {"authorizations": [{"user_id": "U1", "is_bot": False}]}
        assert parsed_event(envelope).events

    def test_rate_limiting_is_acknowledged(self):
        """Slack's notice that it left events out is counted and no more."""
        assert parsed(b'{"type":"app_rate_limited","team_id":"T1","minute_rate_limited":1764000000}').ignored == 1

    @pytest.mark.parametrize(
        "body",
        [
            [],
            {},
            {"type": "new"},
            {"type": "url_verification"},
            {"type": "event_callback", "event": []},
            {"type": "event_callback", "event": {"type": "message"}},
            {"type": "event_callback", "token": "old", "event": EVENT | {"text": 5}},
            {"type": "event_callback", "event_id": "Ev1", "token": "old", "event": {}},
        ],
    )
    def test_what_is_not_understood_waits_for_a_person(self, body):
        """Genuine JSON of an unknown shape is an event with a problem, without Slack's old token."""
        (event,) = parsed(payload.encode_json(body)).events
        assert event.problem
        assert "old" not in json.dumps(dict(event.reply_to))


class TestForms:
    def test_a_slash_command(self):
        """A command is one event, told apart by its trigger, with an answer to the response_url for half an hour."""
        (event,) = parsed_form(**COMMAND).events
        assert event.identity == event.external_id == COMMAND["trigger_id"]
        assert (event.text, event.sender, event.conversation) == ("why <so>?", "U1", "C1:U1")
        assert event.reply_to == {"channel": "C1", "response_url": RESPONSE_URL, "response_url_expires_at": NOW + 1800}
        assert channel.acknowledge(SOURCE).body == b""

    def test_a_command_about_payloads_is_a_command(self):
        """Only a field of that name makes an interaction, not the word in a text."""
        assert parsed_form(**COMMAND | {"text": "what is a payload={}?"}).events[0].text == "what is a payload={}?"

    def test_a_command_without_words_gets_a_hint(self):
        """The user alone sees that words are missing, and the model sees nothing."""
        received = parsed_form(**COMMAND | {"text": " "})
        assert (received.events, received.ignored) == ((), 1)
        assert json.loads(received.answer.body)["response_type"] == "ephemeral"

    def test_a_pressed_button(self):
        """A button says its value, in the thread of its message."""
        (event,) = parsed_press().events
        assert (event.identity, event.text, event.sender) == (PRESS["trigger_id"], "approve", "U1")
        assert event.conversation == "C1:1764000000.000100"
        assert event.reply_to["response_url"] == PRESS["response_url"]

    @pytest.mark.parametrize(
        ("action", "text"),
        [
            ({"text": {"type": "plain_text", "text": "OK &amp; go"}}, "OK & go"),
            ({"selected_option": {"value": "v", "text": {"text": "V"}}}, "v"),
            ({"type": "plain_text_input", "value": "typed"}, "typed"),
        ],
    )
    def test_what_an_element_says(self, action, text):
        """Buttons, menus and inputs say their value, or else what is written on them."""
        assert parsed_press(actions=[action]).events[0].text == text

    @pytest.mark.parametrize("kind", ["view_submission", "view_closed", "shortcut", "message_action"])
    def test_views_and_shortcuts_are_acknowledged(self, kind):
        """Views and shortcuts are acknowledged and make no event."""
        received = parsed_press(type=kind)
        assert (received.events, received.ignored, received.answer) == ((), 1, None)

    @pytest.mark.parametrize(
        "fields",
        [
            {"payload": "[]"},
            {"payload": '{"type":"block_actions"}'},
            {"payload": json.dumps(PRESS | {"actions": {}})},
            {"text": "hello", "token": "old", "response_url": RESPONSE_URL},
            COMMAND | {"trigger_id": ""},
        ],
    )
    def test_what_is_not_understood_waits_for_a_person(self, fields):
        """A signed form of an unknown shape is an event with a problem, without tokens and capability URLs."""
        (event,) = parsed_form(**fields).events
        assert event.problem
        assert "old" not in json.dumps(dict(event.reply_to))
        assert "hooks.slack.com" not in json.dumps(dict(event.reply_to))

    @pytest.mark.parametrize("body", [b"payload={", b"payload=", b"a=1&a=2", b"a=%ED%A0%80", b"a=%00", b"\xff"])
    def test_a_malformed_form_is_bad_input(self, body):
        """A form, or JSON in it, that cannot be decoded is refused."""
        with pytest.raises(BadInput):
            parsed(body, FORM)

    @settings(max_examples=60, deadline=None)
    @given(
        key=st.sampled_from(sorted(PRESS)), value=st.sampled_from([None, 1, "", "x", [], [1], [None], {}, {"id": 1}, {"id": "x"}])
    )
    def test_any_interaction_gives_events(self, key, value):
        """An interaction with any part replaced never raises."""
        for event in parsed_press(**{key: value}).events:
            assert bool(event.problem) != bool(event.text)


class TestReply:
    def test_model_text_cannot_ping(self):
        """Everything that Slack would read as a mention or a link is escaped."""
        outgoing = channel.send(SOURCE, {"channel": "C1", "thread_ts": "1.2"}, "<!channel> & <@U1>", "job-1", NOW)
        assert outgoing.url == "https://slack.com/api/chat.postMessage"
        assert outgoing.headers["authorization"] == "Bearer xoxb-1"
        assert json.loads(outgoing.body) == {
            "channel": "C1",
            "thread_ts": "1.2",
            "text": "&lt;!channel&gt; &amp; &lt;@U1&gt;",
            "unfurl_links": False,
            "unfurl_media": False,
        }

    @pytest.mark.parametrize("text", ["&" * 4001, "<b> " * 2000, "a" * 3999 + "&", "🙂" * 9000])
    def test_parts_fit_after_escaping(self, text):
        """The limit holds for what is sent, where one character can be five, and no entity is cut."""
        for part in channel.split(text):
            sent = json.loads(channel.send(SOURCE, {"channel": "C1"}, part, "job-1", NOW).body)["text"]
            assert len(sent) <= 4000
            assert not sent.endswith(("&", "&a", "&am", "&amp", "&l", "&lt", "&g", "&gt"))

    @pytest.mark.parametrize(
        ("url", "age", "by_url"),
        [
            (RESPONSE_URL, 0, True),
            (RESPONSE_URL, 1799, True),
            (RESPONSE_URL, 1801, False),
            ("http://hooks.slack.com/x", 0, False),
            ("https://slack.com.evil.example/x", 0, False),
            ("https://evil.example/.slack.com/x", 0, False),
            ("https://evilslack.com/x", 0, False),
            ("https://hooks.slack.com@evil.example/", 0, False),
            ("https://evil.example\\.slack.com/", 0, False),
            ("https://hooks.slack.com/a\\b", 0, False),
            ("https://hooks.slack.com:8080/x", 0, False),
            ("https://[/x", 0, False),
            ("", 0, False),
        ],
    )
    def test_the_response_url_is_slacks_and_fresh(self, url, age, by_url):
        """Only Slack's own hosts are posted to without a token, and only for half an hour; else the API is used."""
        reply_to = {"channel": "C1", "response_url": url, "response_url_expires_at": NOW + 1800}
        outgoing = channel.send(SOURCE, reply_to, "4", "job-1", NOW + age)
        assert (outgoing.url == url) is by_url
        assert ("authorization" in outgoing.headers) is not by_url

    def test_the_response_url_of_a_stand_in(self):
        """A response_url below the source's api_base is used too, but not one that only begins like it."""
        source = attrs.evolve(SOURCE, settings=dict(SOURCE.settings) | {"api_base": "http://127.0.0.1:900"})
        for url, by_url in (("http://127.0.0.1:900/r", True), ("http://127.0.0.1:9000/r", False)):
            reply_to = {"channel": "C1", "response_url": url, "response_url_expires_at": NOW + 1800}
            assert (channel.send(source, reply_to, "4", "job-1", NOW).url == url) is by_url

    @pytest.mark.parametrize(
        ("status", "body", "outcome"),
        [
            (200, b'{"ok":true,"ts":"1.2"}', Outcome.SENT),
            (200, b"ok", Outcome.SENT),
            (200, b'{"ok":false,"error":"ratelimited"}', Outcome.RETRY),
            (200, b'{"ok":false,"error":"internal_error"}', Outcome.RETRY),
            (200, b'{"ok":false,"error":"fatal_error"}', Outcome.RETRY),
            (200, b'{"ok":false,"error":"service_unavailable"}', Outcome.RETRY),
            (200, b'{"ok":false,"error":"request_timeout"}', Outcome.RETRY),
            (200, b'{"ok":false,"error":"channel_not_found"}', Outcome.FAILED),
            (200, b'{"ok":false,"error":["x"]}', Outcome.FAILED),
            (429, b'{"ok":false,"error":"ratelimited"}', Outcome.RETRY),
            (404, b"", Outcome.FAILED),
        ],
    )
    def test_the_verdict(self, status, body, outcome):
        """Slack says no with status 200; only its temporary errors deserve another attempt."""
        verdict = channel.judge(status, {"retry-after": "30"}, body, {"channel": "C1"})
        assert verdict.outcome is outcome
        assert verdict.retry_after_seconds == (30 if outcome is Outcome.RETRY else None)

    @pytest.mark.parametrize(
        ("status", "body"), [(404, b'{"ok":false,"error":"used_url"}'), (200, b'{"ok":false,"error":"expired_url"}')]
    )
    def test_a_used_up_response_url_is_replaced(self, status, body):
        """After five uses the answer goes on by the API."""
        reply_to = {"channel": "C1", "response_url": RESPONSE_URL, "response_url_expires_at": NOW}
        verdict = channel.judge(status, {}, body, reply_to)
        assert (verdict.outcome, verdict.reply_to) == (Outcome.RETRY, {"channel": "C1"})
