"""The generic channel's own rules: three proofs, configured fields, and signed answers."""

import hashlib
import hmac
import json

import attrs
import pytest

from sentinel import payload, standard_webhooks
from sentinel.channels.generic import channel
from sentinel.errors import Forged
from sentinel.http import Request
from sentinel.model import Outcome, Source

NOW = 1_764_000_000.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SCHEMES = ("standard-webhooks", "hmac-sha256", "bearer")


def source_of(**more: str) -> Source:
    return Source("default", "generic", "crm", {"secret": SECRET} | more)


def parsed(value, headers=None, **more):
    (event,) = channel.parse(Request("POST", "/", headers=headers or {}, body=payload.encode_json(value)), source_of(**more)).events
    return event


class TestVerify:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("other", SCHEMES)
    def test_only_the_configured_scheme_counts(self, scheme, other):
        """A proof of another scheme is none, so that the weakest is not open to everybody."""
        request = channel.sample(source_of(scheme=other), "hello", 1, NOW)
        if scheme == other:
            assert channel.verify(request, source_of(scheme=scheme), NOW) == scheme
        else:
            with pytest.raises(Forged):
                channel.verify(request, source_of(scheme=scheme), NOW)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("altered", [None, "", "x", "é\ud800", "=" * 100_000])
    def test_every_header_counts(self, scheme, altered):
        """Whatever the scheme, an altered or missing proof is refused."""
        source = source_of(scheme=scheme)
        request = channel.sample(source, "hello", 1, NOW)
        for name in request.headers.keys() - {"content-type"}:
            headers = {key: value for key, value in request.headers.items() if key != name}
            headers |= {} if altered is None else {name: altered}
            with pytest.raises(Forged):
                channel.verify(attrs.evolve(request, headers=headers), source, NOW)

    @pytest.mark.parametrize("header", ["x-signature-256", "x-hub-signature-256"])
    def test_published_hmac_vector(self, header):
        """GitHub's published vector is accepted under both header names, and not with a byte changed."""
        source = source_of(scheme="hmac-sha256", secret="It's a Secret to Everybody")
        headers = {header: "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
        assert channel.verify(Request("POST", "/", headers=headers, body=b"Hello, World!"), source, NOW)
        with pytest.raises(Forged):
            channel.verify(Request("POST", "/", headers=headers, body=b"Hello, World?"), source, NOW)

    def test_bearer_is_written_in_any_case(self):
        """The scheme's name has no case (RFC 9110, 11.1); the token has."""
        source = source_of(scheme="bearer", secret="Abc")
        assert channel.verify(Request("POST", "/", headers={"authorization": "bearer Abc"}), source, NOW)
        for value in ("Bearer abc", "Basic Abc", "Abc", "Bearer"):
            with pytest.raises(Forged):
                channel.verify(Request("POST", "/", headers={"authorization": value}), source, NOW)

    @pytest.mark.parametrize(
        "more", [{"scheme": "none"}, {"scheme": "bearer", "secret": ""}, {"secret": "whsec_"}, {"secret": "no base64!"}]
    )
    def test_a_source_that_is_set_up_wrong_takes_nothing(self, more):
        """An unknown scheme, and a secret that is empty or not a key, refuse what anybody sends."""
        request = channel.sample(source_of(), "hello", 1, NOW)
        headers = dict(request.headers) | {"authorization": "Bearer "}
        with pytest.raises(Forged):
            channel.verify(attrs.evolve(request, headers=headers), source_of(**more), NOW)


class TestParse:
    @pytest.mark.parametrize(
        ("value", "more", "identity"),
        [
            ({"id": "a", "text": "x"}, {}, "a"),
            ({"id": 5, "text": "x"}, {}, "5"),
            ({"data": {"key": "k"}, "id": "a", "text": "x"}, {"dedup_field": "data.key"}, "k"),
            ({"text": "x"}, {}, "msg_1"),
            ({"id": {"a": 1}, "text": "x"}, {}, "msg_1"),
            ({"id": True, "text": "x"}, {"dedup_field": "id.deeper"}, "msg_1"),
        ],
    )
    def test_the_identity(self, value, more, identity):
        """The configured field is the identity; where it is absent, the signed webhook-id."""
        event = parsed(value, {"webhook-id": "msg_1"}, **more)
        assert (event.identity, event.external_id) == (identity, identity)

    def test_the_body_is_its_own_identity(self):
        """Without any id the body's SHA-256 is one; a webhook-id that is not signed is none."""
        value = {"text": "x"}
        digest = hashlib.sha256(payload.encode_json(value)).hexdigest()
        assert parsed(value).identity == digest
        assert parsed(value, {"webhook-id": "msg_1"}, scheme="bearer").identity == digest

    @pytest.mark.parametrize(
        ("value", "more", "text"),
        [
            ({"prompt": "p", "message": "m"}, {}, "m"),
            ({"text": " ", "input": "i"}, {}, "i"),
            ({"data": {"q": "why?"}, "text": "t"}, {"text_field": "data.q"}, "why?"),
            ({"text": "t"}, {"text_field": "data.q"}, '{"text":"t"}'),
            ({"a": [1, "é"]}, {}, '{"a":[1,"é"]}'),
            ([1, 2], {}, "[1,2]"),
            ("hello", {}, "hello"),
            (None, {}, "null"),
        ],
    )
    def test_the_text(self, value, more, text):
        """The configured field, or the first usual one, is the text; else the whole body is."""
        assert parsed(value, **more).text == text

    def test_the_conversation_is_optional(self):
        """Items belong together only where a field says so."""
        value = {"id": "a", "text": "x", "chat": {"id": 7}}
        assert parsed(value).conversation == ""
        assert parsed(value, conversation_field="chat.id").conversation == "7"

    def test_silence_waits_for_a_person(self):
        """A body that says nothing at all has a problem."""
        assert parsed("  ").problem

    def test_samples_follow_the_fields(self):
        """A sample has its id, text and chat where the source looks for them."""
        source = source_of(dedup_field="event.id", text_field="event.data.text", conversation_field="chat")
        (event,) = channel.parse(channel.sample(source, "hello", 3, NOW), source).events
        assert (event.identity, event.text, event.conversation) == ("sample-3", "hello", "chat-3")


class TestReply:
    @pytest.mark.parametrize(
        ("scheme", "secret", "key"),
        [
            ("standard-webhooks", SECRET, SECRET),
            ("hmac-sha256", "plain text", "whsec_cGxhaW4gdGV4dA=="),
            ("bearer", "plain text", "whsec_cGxhaW4gdGV4dA=="),
        ],
    )
    def test_answers_are_signed(self, scheme, secret, key):
        """The answer is one Standard Webhooks message per job, by the source's secret, or by its base64 where it is plain."""
        source = source_of(scheme=scheme, secret=secret, forward_url="https://receiver.example/x")
        outgoing = channel.send(source, {"external_id": "a"}, "4", "job-1", NOW + 0.9)
        assert outgoing.url == "https://receiver.example/x"
        assert json.loads(outgoing.body) == {
            "type": "job.completed",
            "timestamp": "2025-11-24T16:00:00Z",
            "data": {"job_id": "job-1", "external_id": "a", "output_text": "4"},
        }
        assert standard_webhooks.verify([key], outgoing.headers, outgoing.body, NOW) == "job-1"

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            (204, Outcome.SENT),
            (302, Outcome.FAILED),
            (410, Outcome.FAILED),
            (404, Outcome.FAILED),
            (429, Outcome.RETRY),
            (502, Outcome.RETRY),
        ],
    )
    def test_the_verdict(self, status, outcome):
        """Only 2xx is a delivery; limits and server errors are tried again, redirects and a closed endpoint are not."""
        assert channel.judge(status, {"retry-after": "5"}, b"", {}).outcome is outcome

    def test_a_long_answer_stays_whole(self):
        """An answer of ordinary length is one part."""
        assert channel.split("word " * 50_000) == [("word " * 50_000).strip()]

    def test_hmac_is_over_the_raw_body(self):
        """The sample's own signature is what any HMAC library computes."""
        request = channel.sample(source_of(scheme="hmac-sha256", secret="k"), "hello", 1, NOW)
        assert request.headers["x-signature-256"] == "sha256=" + hmac.new(b"k", request.body, hashlib.sha256).hexdigest()
