"""Any service that posts JSON and can prove itself in one of three usual ways. Must not guess: what is read is configured.

The answer goes to `forward_url`, signed by Standard Webhooks; see sentinel.standard_webhooks for the specification.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sentinel import payload, standard_webhooks
from sentinel.channels import Channel, Received, Setting
from sentinel.channels.shared.reading import dig, fingerprint, first_text, short_id, text_at, unclear
from sentinel.channels.shared.sending import judge_status, post_json, split_text
from sentinel.channels.shared.signing import BY_PREVIOUS, check_signature, hmac_hex, known_secret, secrets_of
from sentinel.edge.billing import KIND as BILLING
from sentinel.edge.checks import Caller
from sentinel.errors import BadInput, Forged, SettingsError
from sentinel.http import Request
from sentinel.model import Event, Outgoing, Source, Verdict

STANDARD = "standard-webhooks"
JOBS = "jobs"
PART_MAX = 1_000_000
TEXT_FIELDS = ("text", "message", "input", "prompt")


class Generic(Channel):
    """One sender of JSON."""

    name = "generic"
    settings = (
        Setting("scheme", f"how the sender proves itself: {STANDARD} (default), hmac-sha256 or bearer", example=STANDARD),
        Setting(
            "kind", "what comes from here: jobs (default), or billing, which sets subscriptions and needs a signature", example=JOBS
        ),
        Setting("secret", "the shared secret; for standard-webhooks whsec_ and base64", required=True, secret=True, rotates=True),
        Setting("dedup_field", "dotted path of the item's id (default: id; else webhook-id, else the body's SHA-256)"),
        Setting("text_field", f"dotted path of the user's words (default: the first of {', '.join(TEXT_FIELDS)}; else all)"),
        Setting("conversation_field", "dotted path of the chat's id (default: none, every item stands alone)"),
        Setting("schema", "a JSON Schema that the answer must fit"),
        Setting(
            "forward_url",
            "where the answer is posted, signed with the secret (its base64 is the Standard Webhooks secret if the scheme is "
            "another); without it callers ask for the job",
            example="https://receiver.example/answers",
        ),
    )
    text_limit = "1,000,000 characters"
    caller = Caller.SENDER

    def check_settings(self, values: Mapping[str, str]) -> None:
        """The scheme must exist; a Standard Webhooks secret must be base64, or nobody could sign with it."""
        scheme = values.get("scheme") or STANDARD
        if scheme not in VERIFIERS:
            raise BadInput(f"scheme must be one of {', '.join(VERIFIERS)}.")
        if values.get("kind", JOBS) not in (JOBS, BILLING):
            raise BadInput(f"kind must be {JOBS} or {BILLING}.")
        if values.get("kind") == BILLING and scheme == "bearer":
            raise BadInput("A source of the kind billing has to sign: scheme standard-webhooks or hmac-sha256.")
        if scheme == STANDARD:
            try:
                standard_webhooks.sign(values["secret"], "check", 0, b"")
            except SettingsError:
                raise BadInput("secret must be whsec_ and base64; hmac-sha256 and bearer take any text.") from None

    def verify(self, request: Request, source: Source, now: float) -> str:
        """The proof that the source's scheme asks for, and no other."""
        scheme = source.setting("scheme") or STANDARD
        if scheme not in VERIFIERS:
            raise Forged("The source has a scheme that does not exist.")
        secrets_of(source, "secret")
        return scheme + VERIFIERS[scheme](request, source, now)

    def parse(self, request: Request, source: Source) -> Received:
        """One event for the whole body. Where no text is found the body itself, as compact JSON, is what was said."""
        value = payload.decode_json(request.body)
        identity = _identity(value, request, source)
        text = _text(value, source)
        if not text.strip():
            return Received((unclear(value, "The webhook says nothing.", identity),))
        path = _path(source, "conversation_field")
        conversation = short_id(_scalar(dig(value, *path))) if path else ""
        return Received((Event(identity, text, conversation, "", {"external_id": identity}, identity=identity),))

    def split(self, text: str) -> list[str]:
        """One part; the bound only keeps a runaway answer from becoming one request."""
        return split_text(text, PART_MAX)

    def send(self, source: Source, reply_to: Mapping[str, Any], part: str, job_id: str, now: float) -> Outgoing | None:
        """The part as a `job.completed` message that is the same message, by its webhook-id, in every attempt."""
        url = source.setting("forward_url")
        if not url:
            return None
        data = {"job_id": job_id, "external_id": text_at(reply_to, "external_id"), "output_text": part}
        time = datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
        message = post_json(url, {"type": "job.completed", "timestamp": time, "data": data})
        each = [standard_webhooks.signed_headers(secret, job_id, int(now), message.body) for secret in _signing_secrets(source)]
        signed = each[0] | {"webhook-signature": " ".join(one["webhook-signature"] for one in each)}  # receivers may know either
        return Outgoing(url, message.body, {**message.headers, **signed})

    def judge(self, status: int, headers: Mapping[str, str], body: bytes, reply_to: Mapping[str, Any]) -> Verdict:
        """Only a 2xx is a delivery; a redirect is a failure, because following it could lead anywhere."""
        return judge_status(status, headers, "gone" if status == 410 else "")

    def sample(self, source: Source, text: str, number: int, now: float) -> Request:
        """A body with the configured fields, proved by the configured scheme."""
        fields = {"dedup_field": f"sample-{number}", "text_field": text, "conversation_field": f"chat-{number}"}
        value: dict[str, Any] = {}
        for setting, content in fields.items():
            _place(value, _path(source, setting), content)
        body = payload.encode_json(value)
        proof = SIGNERS[source.setting("scheme") or STANDARD](source, f"sample-{number}", now, body)
        headers = {"content-type": "application/json", **proof}
        return Request("POST", f"/webhooks/{self.name}/{source.name}", headers=headers, body=body)


def _check_standard(request: Request, source: Source, now: float) -> str:
    present, *previous = source.secrets("secret")
    try:
        standard_webhooks.verify([present], request.headers, request.body, now)
    except Forged:
        standard_webhooks.verify(previous, request.headers, request.body, now)
        return BY_PREVIOUS
    return ""


def _check_hmac(request: Request, source: Source, now: float) -> str:
    given = request.header("x-signature-256") or request.header("x-hub-signature-256")
    expected = ["sha256=" + hmac_hex(secret, request.body) for secret in secrets_of(source, "secret")]
    return check_signature(expected, given, "X-Signature-256")


def _check_bearer(request: Request, source: Source, now: float) -> str:
    scheme, _, token = request.header("authorization").partition(" ")
    which = known_secret(source, "secret", token.strip())
    if scheme.lower() != "bearer" or which is None:
        raise Forged("The header Authorization is missing or wrong.")
    return which


VERIFIERS: Mapping[str, Callable[[Request, Source, float], str]] = {
    STANDARD: _check_standard,
    "hmac-sha256": _check_hmac,
    "bearer": _check_bearer,
}
SIGNERS: Mapping[str, Callable[[Source, str, float, bytes], Mapping[str, str]]] = {
    STANDARD: lambda source, name, now, body: standard_webhooks.signed_headers(source.setting("secret"), name, int(now), body),
    "hmac-sha256": lambda source, _, __, body: {"x-signature-256": "sha256=" + hmac_hex(source.setting("secret").encode(), body)},
    "bearer": lambda source, *_: {"authorization": f"Bearer {source.setting('secret')}"},
}


def _identity(value: Any, request: Request, source: Source) -> str:
    """The item's id: its own field, else the signed webhook-id, else the fingerprint of the body, which a retry repeats."""
    signed_id = request.header("webhook-id") if (source.setting("scheme") or STANDARD) == STANDARD else ""
    header = signed_id if signed_id.isascii() and signed_id.isprintable() else ""
    return short_id(_scalar(dig(value, *_path(source, "dedup_field"))) or header) or fingerprint(request.body)


def _text(value: Any, source: Source) -> str:
    if isinstance(value, str):
        return value
    paths = [_path(source, "text_field")] if source.setting("text_field") else [(name,) for name in TEXT_FIELDS]
    return first_text(value, paths) or payload.encode_json(value).decode()


def _path(source: Source, setting: str) -> tuple[str, ...]:
    """The keys of a setting's dotted path; of one that is not set, its first default, or no keys at all."""
    path = source.setting(setting) or {"dedup_field": "id", "text_field": TEXT_FIELDS[0]}.get(setting)
    return tuple(path.split(".")) if path else ()


def _scalar(value: Any) -> str:
    """An id as text: a string or an integer; "" for anything else."""
    return str(value) if type(value) is int else value if isinstance(value, str) else ""


def _place(value: dict[str, Any], path: tuple[str, ...], content: str) -> None:
    """Set what `dig` would find at the path."""
    for key in path[:-1]:
        value = value.setdefault(key, {})
    for key in path[-1:]:
        value[key] = content


def _signing_secrets(source: Source) -> list[str]:
    """The secrets that sign answers. Only those of the scheme standard-webhooks are base64 already; others are plain text."""
    if (source.setting("scheme") or STANDARD) == STANDARD:
        return list(source.secrets("secret"))
    return [standard_webhooks.PREFIX + base64.b64encode(secret).decode() for secret in secrets_of(source, "secret")]


channel = Generic()
