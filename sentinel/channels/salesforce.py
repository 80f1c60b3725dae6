"""Salesforce outbound messages (SOAP). The acknowledgment is XML to the first byte, or Salesforce sends again for a day.

https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_om_outboundmessaging_understanding.htm
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, tostring
from xml.sax.saxutils import escape

from sentinel import payload
from sentinel.channels import Channel, Received, Setting
from sentinel.channels.shared.reading import received, short_id, text_at, unclear
from sentinel.channels.shared.sending import (
    base_of,
    bearer,
    failed,
    judge_status,
    post_json,
    read_answer,
    retry,
    split_text,
    utf8_length,
)
from sentinel.channels.shared.signing import known_secret, same_secret
from sentinel.errors import BadInput, Forged, SentinelError
from sentinel.http import Request, Response, error_headers
from sentinel.model import SENT, Event, Outgoing, Source, Verdict

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
OUTBOUND = "http://soap.sforce.com/2005/09/outbound"
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
NOTIFICATIONS = f"{{{SOAP}}}Body/{{{OUTBOUND}}}notifications"

API_VERSION = "v60.0"
NOTIFICATIONS_MAX = 100  # maxOccurs in the WSDL that Salesforce generates
COMMENT_BYTES_MAX = 4000
SIGNIFICANT = 15  # characters of an id; the other three of the long form only repeat their case

TEXT_FIELDS = ("Description", "CommentBody", "TextBody")
SENDER_FIELDS = ("SuppliedEmail", "FromAddress", "ContactId", "CreatedById")
# Records that belong to a case, and the field that names it. A Case has a ParentId too: the case above it.
PARENT_FIELDS = {"CaseComment": "ParentId", "EmailMessage": "ParentId"}

# https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm - the limit is one of 24 hours.
RETRY_CODES: Mapping[str, float | None] = {
    "REQUEST_LIMIT_EXCEEDED": 3600.0,
    "UNABLE_TO_LOCK_ROW": None,
    "SERVER_UNAVAILABLE": None,
}


class Salesforce(Channel):
    """One Salesforce organisation."""

    name = "salesforce"
    settings = (
        Setting("organization_id", "the organisation's id (00D...)", required=True, example="00D000000000001EAA"),
        Setting(
            "path_token",
            "a secret that the endpoint URL ends with: /TOKEN or ?token=TOKEN (recommended)",
            secret=True,
            rotates=True,
        ),
        Setting("access_token", "the token that comments are posted with", secret=True),
        Setting("text_field", f"the field with the user's words (default: the first of {', '.join(TEXT_FIELDS)})"),
        Setting("sender_field", f"the field that says who (default: the first of {', '.join(SENDER_FIELDS)})"),
        Setting("own_user_id", "the user that comments are posted as; records it changed last are ignored, against loops"),
    )
    content_types = ("text/xml", "application/xml")
    text_limit = "4000 bytes"
    path_token = True

    def verify(self, request: Request, source: Source, now: float) -> str:
        """
        Salesforce signs nothing: the organisation's id must be right, and the token in the URL if one is set.

        Raises BadInput for malformed XML, because the id is inside. An id is no secret; a path_token is one.
        """
        token = source.setting("path_token")
        which = known_secret(source, "path_token", _url_token(request)) if token else ""
        if which is None:
            raise Forged("The token in the URL is missing or wrong.")
        given = _child_text(_notifications(request.body), "OrganizationId")
        expected = source.setting("organization_id")
        if not same_secret(expected[:SIGNIFICANT], given[:SIGNIFICANT]):
            raise Forged("The OrganizationId is missing or wrong.")
        return f"organization-id+path-token{which}" if token else "organization-id"

    def parse(self, request: Request, source: Source) -> Received:
        """One event per Notification, of which there are at most 100. Raises BadInput for more."""
        found = _notifications(request.body)
        each = [] if found is None else found.findall(f"{{{OUTBOUND}}}Notification")
        if len(each) > NOTIFICATIONS_MAX:
            raise BadInput(f"The message has more than {NOTIFICATIONS_MAX} notifications.")
        if not each:
            return received([unclear(request.body.decode(), "The message has no notification.")])
        return received(_event(notification, source) for notification in each)

    def acknowledge(self, source: Source) -> Response:
        """One Ack for all notifications of the message."""
        return Response(200, _ack("true"), XML)

    def refuse(self, error: SentinelError) -> Response:
        """Ack false for what may work later, which makes Salesforce send it again; a SOAP fault for what is wrong in itself."""
        if error.status >= 500 or error.status == 429:
            return Response(error.status, _ack("false"), XML + error_headers(error))
        fault = f"<faultcode>soapenv:Client</faultcode><faultstring>{escape(error.told)}</faultstring>"
        return Response(error.status, _soap(f"<soapenv:Fault>{fault}</soapenv:Fault>"), XML + error_headers(error))

    def split(self, text: str) -> list[str]:
        """A CommentBody takes 4000 bytes, not characters."""
        return split_text(text, COMMENT_BYTES_MAX, utf8_length)

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """
        A comment on the case. None without an api_base.

        The URLs in the message are not used: they are not signed, and the token must not go where a forger likes.
        """
        parent, base = text_at(reply_to, "parent_id"), base_of(source, "")
        if not (parent and base):
            return None
        comment = {"ParentId": parent, "CommentBody": part, "IsPublished": True}
        url = f"{base}/services/data/{API_VERSION}/sobjects/CaseComment"
        return post_json(url, comment, bearer(source, "access_token"))

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """The code of the first error decides, then the status. Errors are a list; a success is an object."""
        if 200 <= status < 300:
            return SENT
        answer = read_answer(body)
        error = answer[0] if isinstance(answer, list) and answer else None
        code = text_at(error, "errorCode")
        if status == 401:
            return failed(status, "token expired")
        if code in RETRY_CODES:
            return retry(status, headers, code, RETRY_CODES[code])
        return judge_status(status, headers, f"{code}: {text_at(error, 'message')}" if code else "")

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """One Case, each number another one."""
        field = source.setting("text_field") or TEXT_FIELDS[0]
        token = source.setting("path_token")
        return Request(
            "POST",
            f"/webhooks/{self.name}/{source.name}",
            query=urlencode({"token": token}) if token else "",
            headers={"content-type": "text/xml; charset=UTF-8", "soapaction": '""'},
            body=_soap(
                f'<notifications xmlns="{OUTBOUND}">'
                f"<OrganizationId>{escape(source.setting('organization_id'))}</OrganizationId>"
                "<ActionId>04k000000000001AAA</ActionId>"
                '<SessionId xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/>'
                f"<Notification><Id>04l{number:012}AAA</Id>"
                '<sObject xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="sf:Case" '
                'xmlns:sf="urn:sobject.enterprise.soap.sforce.com">'
                f"<sf:Id>500{number:012}AAA</sf:Id><sf:{field}>{_escape_text(text)}</sf:{field}></sObject></Notification>"
                "</notifications>"
            ),
        )


XML = (("content-type", "text/xml; charset=utf-8"),)


def _soap(body: str) -> bytes:
    """A SOAP 1.1 envelope. Nothing may stand before the prolog: "Content is not allowed in prolog" is how re-sends begin."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<soapenv:Envelope xmlns:soapenv="{SOAP}">'
        f"<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    ).encode()


def _ack(value: str) -> bytes:
    return _soap(f'<notificationsResponse xmlns="{OUTBOUND}"><Ack>{value}</Ack></notificationsResponse>')


def _escape_text(text: str) -> str:
    """Text for XML that reads back as it is: a bare carriage return would come back as a line feed."""
    return escape(text, {"\r": "&#13;"})


def _notifications(body: bytes) -> Element | None:
    """The one element that an outbound message is; None if the XML is something else. Raises BadInput if it is no XML."""
    root = payload.decode_xml(body)
    return root.find(NOTIFICATIONS) if root.tag == f"{{{SOAP}}}Envelope" else None


def _child_text(element: Element | None, name: str) -> str:
    return (element.findtext(f"{{{OUTBOUND}}}{name}") or "").strip() if element is not None else ""


def _event(notification: Element, source: Source) -> Event | None:
    name = _child_text(notification, "Id")
    record = notification.find(f"{{{OUTBOUND}}}sObject")
    # A field that is null is left out, and a record that was deleted in the meantime has no fields at all.
    fields = {} if record is None else {child.tag.rpartition("}")[2]: child.text or "" for child in record}
    if not name:
        return unclear(tostring(notification, encoding="unicode"), "The notification has no Id.")
    text = _first(fields, source.setting("text_field"), TEXT_FIELDS)
    if not text or _is_own(fields, source):
        return None
    kind = "" if record is None else record.get(XSI_TYPE, "").rpartition(":")[2]
    parent = fields.get(PARENT_FIELDS.get(kind, "Id"), "").strip()
    if not parent:
        return unclear(tostring(notification, encoding="unicode"), "The record does not say which case it belongs to.", name)
    sender = short_id(_first(fields, source.setting("sender_field"), SENDER_FIELDS))
    return Event(short_id(name), text, short_id(parent), sender, {"parent_id": parent}, identity=short_id(name))


def _first(fields: Mapping[str, str], configured: str, usual: tuple[str, ...]) -> str:
    """The configured field's text, or of the usual fields the first that is not blank."""
    names = (configured,) if configured else usual
    return next((fields[name] for name in names if fields.get(name, "").strip()), "")


def _is_own(fields: Mapping[str, str], source: Source) -> bool:
    """Whether our own user wrote the record: a comment that we post can start the same flow again."""
    own = source.setting("own_user_id")[:SIGNIFICANT]
    writer = fields.get("LastModifiedById") or fields.get("CreatedById") or ""
    return bool(own) and writer[:SIGNIFICANT] == own


channel = Salesforce()


def _url_token(request: Request) -> str:
    """The token that the endpoint URL ends with: a last path segment behind the source's name, or the field `token`."""
    _, _, behind = request.path.partition(f"/{Salesforce.name}/")
    return request.parameters().get("token") or behind.partition("/")[2]
