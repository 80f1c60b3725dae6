"""Salesforce's own rules: SOAP both ways, batches, namespaces, and the organisation's two ids."""

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import payload
from sentinel.channels.salesforce import channel
from sentinel.errors import BadInput, Forged, Unavailable
from sentinel.http import Request
from sentinel.model import Outcome, Source

NOW = 1_764_000_000.0
ORGANIZATION = "00D000000000001EAA"
SOURCE = Source(
    "default",
    "salesforce",
    "org",
    {"organization_id": ORGANIZATION, "access_token": "t", "api_base": "https://x.my.salesforce.com"},
)
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
CASE = (
    "<sf:Id>500000000000001AAA</sf:Id><sf:Description>please help</sf:Description>"
    "<sf:SuppliedEmail>a@example.com</sf:SuppliedEmail>"
)


def notification(fields: str = CASE, name: str = "04l000000000001AAA", kind: str = "Case") -> str:
    record = f'<sObject xsi:type="sf:{kind}" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">{fields}</sObject>'
    return f"<Notification><Id>{name}</Id>{record}</Notification>"


def message(*notifications: str, organization: str = ORGANIZATION) -> bytes:
    return (
        f'{HEAD}<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
        '<notifications xmlns="http://soap.sforce.com/2005/09/outbound">'
        f"<OrganizationId>{organization}</OrganizationId><ActionId>04k000000000001AAA</ActionId>"
        f'<SessionId xsi:nil="true"/>{"".join(notifications)}</notifications></soapenv:Body></soapenv:Envelope>'
    ).encode()


def request_of(body: bytes, query: str = "") -> Request:
    return Request("POST", "/webhooks/salesforce/org", query, {"content-type": "text/xml; charset=UTF-8"}, body)


def parsed(*notifications: str, **more: str):
    source = attrs.evolve(SOURCE, settings=dict(SOURCE.settings) | more)
    return channel.parse(request_of(message(*notifications)), source)


class TestVerify:
    @pytest.mark.parametrize(("configured", "sent"), [(ORGANIZATION, ORGANIZATION[:15]), (ORGANIZATION[:15], ORGANIZATION)])
    def test_the_two_forms_of_an_id_are_one(self, configured, sent):
        """The organisation may be written with 15 or with 18 characters, on either side."""
        source = Source("default", "salesforce", "org", {"organization_id": configured})
        assert channel.verify(request_of(message(organization=sent)), source, NOW) == "organization-id"

    @pytest.mark.parametrize("sent", ["", "00D000000000002EAA", "00d000000000001EAA", "00D", "00D00000000000\u0661EAA"])
    def test_another_organisation_is_refused(self, sent):
        """Any other id is refused, also one that differs only in case."""
        with pytest.raises(Forged):
            channel.verify(request_of(message(organization=sent)), SOURCE, NOW)

    def test_the_token_of_the_url(self):
        """Where a path_token is set, it must be in the URL; it is checked before the XML is read."""
        source = attrs.evolve(SOURCE, settings=dict(SOURCE.settings) | {"path_token": "p&=ü"})
        assert channel.verify(request_of(message(), "token=p%26%3D%C3%BC"), source, NOW) == "organization-id+path-token"
        segment = attrs.evolve(request_of(message()), path="/webhooks/salesforce/demo/p&=ü")
        assert channel.verify(segment, source, NOW) == "organization-id+path-token"
        for query in ("", "token=", "token=p", "tok=p%26%3D%C3%BC"):
            with pytest.raises(Forged):
                channel.verify(request_of(b"no xml", query), source, NOW)

    @pytest.mark.parametrize("body", [b"", b"{}", b"<a>", message()[:-1], HEAD.encode(), b"\xff\xfe<\0a\0/\0>\0"])
    def test_malformed_xml_is_bad_input(self, body):
        """The id is inside the XML, so XML that cannot be read cannot be verified."""
        with pytest.raises(BadInput):
            channel.verify(request_of(body), SOURCE, NOW)

    def test_names_count_only_in_their_namespaces(self):
        """The elements are found by namespace, whatever the prefixes; in another namespace they are not there."""
        prefixed = message(notification()).replace(b"soapenv", b"S").replace(b"sf:", b"x:").replace(b":sf", b":x")
        assert channel.verify(request_of(prefixed), SOURCE, NOW)
        assert channel.parse(request_of(prefixed), SOURCE).events[0].text == "please help"
        foreign = message(notification()).replace(b"/2005/09/outbound", b"/2005/09/other")
        with pytest.raises(Forged):
            channel.verify(request_of(foreign), SOURCE, NOW)


class TestParse:
    def test_a_case(self):
        """The Notification's id is the identity; the case is the conversation and is where comments go."""
        (event,) = parsed(notification()).events
        assert event.identity == event.external_id == "04l000000000001AAA"
        assert (event.text, event.sender, event.conversation) == ("please help", "a@example.com", "500000000000001AAA")
        assert event.reply_to == {"parent_id": "500000000000001AAA"}

    def test_a_batch(self):
        """Up to a hundred notifications are as many events; more is not what Salesforce sends."""
        batch = [notification(name=f"04l{number:012}AAA") for number in range(101)]
        assert len({event.identity for event in parsed(*batch[:100]).events}) == 100
        with pytest.raises(BadInput):
            parsed(*batch)

    @pytest.mark.parametrize(("kind", "field"), [("CaseComment", "CommentBody"), ("EmailMessage", "TextBody")])
    def test_records_of_a_case(self, kind, field):
        """A comment and an e-mail belong to the case that they name."""
        fields = f"<sf:Id>00a1</sf:Id><sf:ParentId>5001</sf:ParentId><sf:{field}>1 &lt; 2</sf:{field}>"
        (event,) = parsed(notification(fields, kind=kind)).events
        assert (event.text, event.conversation) == ("1 < 2", "5001")

    def test_the_text_field_can_be_chosen(self):
        """A configured field is the only one that is read."""
        custom = notification(CASE + "<sf:Question__c>why?</sf:Question__c>")
        assert parsed(custom, text_field="Question__c").events[0].text == "why?"
        assert parsed(notification(), text_field="Question__c").ignored == 1

    def test_our_own_comments_are_ignored(self):
        """A record that our own user wrote does not start another answer."""
        ours = notification(CASE + "<sf:LastModifiedById>005000000000001AAA</sf:LastModifiedById>")
        assert parsed(ours, own_user_id="005000000000001").ignored == 1
        assert parsed(ours, own_user_id="005000000000002").events

    @pytest.mark.parametrize(
        "empty",
        [
            notification(""),
            "<Notification><Id>04l1</Id></Notification>",
            "<Notification><Id>04l1</Id><sObject/></Notification>",
            notification("<sf:Id>5001</sf:Id>"),
        ],
    )
    def test_nothing_to_answer(self, empty):
        """A record that was deleted in the meantime, or says nothing, is acknowledged and counted."""
        received = parsed(empty)
        assert (received.events, received.ignored) == ((), 1)

    @pytest.mark.parametrize(
        ("broken", "external_id"),
        [
            (notification(name=""), None),
            (notification().replace("<Id>04l000000000001AAA</Id>", ""), None),
            (notification("<sf:Description>help</sf:Description>"), "04l000000000001AAA"),
            ("", None),
        ],
    )
    def test_what_is_not_understood_waits_for_a_person(self, broken, external_id):
        """A notification without ids is an event with a problem, the same for every re-send."""
        (event,) = parsed(broken).events
        assert event.problem
        assert event.identity == parsed(broken).events[0].identity
        assert event.external_id == (external_id or event.identity)

    @settings(max_examples=100, deadline=None)
    @given(at=st.integers(0, len(message(notification()))), rubbish=st.binary(max_size=4), cut=st.integers(0, 6))
    def test_damaged_xml_gives_events_or_bad_input(self, at, rubbish, cut):
        """A message with any bytes replaced is parsed or refused, with no other exception."""
        body = message(notification())
        damaged = request_of(body[:at] + rubbish + body[at + cut :])
        for check in (channel.verify, channel.parse):
            try:
                check(damaged, SOURCE, *[NOW] * (check == channel.verify))
            except (BadInput, Forged):
                continue


class TestAnswering:
    def test_the_acknowledgment_is_soap(self):
        """The answer is XML from its first byte, with Ack true in Salesforce's namespace."""
        response = channel.acknowledge(SOURCE)
        assert response.body[:1] == b"<"
        assert response.headers == (("content-type", "text/xml; charset=utf-8"),)
        ack = payload.decode_xml(response.body).find(".//{http://soap.sforce.com/2005/09/outbound}Ack")
        assert ack.text == "true"

    def test_busy_says_ack_false(self):
        """What can work later is Ack false with the error's status, so that Salesforce sends it again."""
        response = channel.refuse(Unavailable())
        assert response.status == 503
        assert b"<Ack>false</Ack>" in response.body
        assert ("retry-after", "2") in response.headers

    def test_a_refusal_is_a_fault(self):
        """What is wrong in itself is a SOAP fault, with the words escaped."""
        response = channel.refuse(BadInput("a < b"))
        fault = payload.decode_xml(response.body).find(".//{http://schemas.xmlsoap.org/soap/envelope/}Fault")
        assert response.status == 400
        assert fault.findtext("faultstring") == "a < b"


class TestReply:
    def test_the_request(self):
        """The answer is a published comment on the case."""
        outgoing = channel.send(SOURCE, {"parent_id": "5001"}, "4", "job-1", NOW)
        assert outgoing.url == "https://x.my.salesforce.com/services/data/v60.0/sobjects/CaseComment"
        assert outgoing.headers["authorization"] == "Bearer t"
        assert json.loads(outgoing.body) == {"ParentId": "5001", "CommentBody": "4", "IsPublished": True}

    @pytest.mark.parametrize("text", ["é" * 2001, "🙂" * 5000, "a" * 4001, "wörter " * 3000])
    def test_parts_fit_in_bytes(self, text):
        """A comment has at most 4000 bytes, and no character is cut."""
        assert max(len(part.encode()) for part in channel.split(text)) <= 4000

    @pytest.mark.parametrize(
        ("status", "code", "outcome", "seconds"),
        [
            (401, "INVALID_SESSION_ID", Outcome.FAILED, None),
            (403, "REQUEST_LIMIT_EXCEEDED", Outcome.RETRY, 3600),
            (400, "UNABLE_TO_LOCK_ROW", Outcome.RETRY, None),
            (503, "SERVER_UNAVAILABLE", Outcome.RETRY, None),
            (500, "UNKNOWN_EXCEPTION", Outcome.RETRY, None),
            (400, "INVALID_FIELD", Outcome.FAILED, None),
            (404, "NOT_FOUND", Outcome.FAILED, None),
        ],
    )
    def test_the_verdict(self, status, code, outcome, seconds):
        """The error's code decides; the daily limit is waited for, an expired token is not."""
        body = payload.encode_json([{"message": "no", "errorCode": code}])
        verdict = channel.judge(status, {}, body, {})
        assert (verdict.outcome, verdict.retry_after_seconds) == (outcome, seconds)

    def test_a_created_comment_is_sent(self):
        """201 with an id is a success."""
        assert channel.judge(201, {}, b'{"id":"00a1","errors":[],"success":true}', {}).outcome is Outcome.SENT
