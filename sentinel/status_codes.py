"""What every caller gets for every check, as one table: docs/status-codes.md is printed from it, and a test provokes each cell.

The cells are not written down: each is what the channel's own code answers to the check's error. `python -m sentinel.status_codes`
prints the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from sentinel.channels import Channel, channels
from sentinel.edge.checks import CHECKS, Treatment
from sentinel.errors import (
    BadInput,
    Conflict,
    Forbidden,
    Forged,
    HeadersTooLarge,
    KeyReused,
    MethodNotAllowed,
    NotFound,
    PaymentRequired,
    QuotaUsedUp,
    SentinelError,
    TooLarge,
    TooManyRequests,
    TooSlow,
    Unavailable,
    UnsupportedMedia,
)
from sentinel.http import Response, problem
from sentinel.model import Source

JOB_ROUTES = ("POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{id}", "GET /v1/jobs/{id}/events", "POST /v1/jobs/{id}/cancel")
CHAT_ROUTES = (
    "GET /v1/conversations",
    "POST /v1/conversations/{id}/release",
    "DELETE /v1/conversations/{id}",
    "DELETE /v1/users/{id}",
    "GET /v1/erasures/{id}",
)
ROUTES = JOB_ROUTES + CHAT_ROUTES
SUBMIT, LIST, SHOW, EVENTS, CANCEL = JOB_ROUTES
HELD, RELEASE, ERASE_CHAT, ERASE_USER, ERASURE = CHAT_ROUTES
PLACED = (RELEASE, ERASE_CHAT, ERASE_USER)  # of a conversation or a user, by id and perhaps channel and source

ANY_ONE = (SHOW, EVENTS, CANCEL, ERASURE)
WRITING = (SUBMIT, CANCEL, *PLACED)


@attrs.frozen
class Row:
    """
    One check, or one way of being taken.

    Attributes:
        name: how the tests call it.
        what: what has happened, for the page.
        error: what refuses; None where the webhook is taken.
        job: what there is of a job afterwards.
        webhooks: whether webhooks meet it; with False, only the API does.
        routes: the routes of the API that meet it.
        early: whether it is answered before it is known for which platform: as problem+json, to all alike.
        check: the row of the table of edge checks that decides what a chat gets, if it is one of those.
        each_person: whether that row asks about each person.
    """

    name: str
    what: str
    error: SentinelError | None = None
    job: str = "none"
    webhooks: bool = True
    routes: Sequence[str] = ()
    early: bool = False
    check: str = ""
    each_person: bool = False

    def webhook(self, channel: Channel) -> Response:
        """What the platform gets."""
        source = Source("", channel.name, "")
        if self.error is None:
            return channel.acknowledge(source)
        if self.early:
            return problem(self.error)
        treatment = self.treatment(channel)
        return channel.refuse(self.error) if treatment is Treatment.REFUSE else channel.acknowledge(source)

    def treatment(self, channel: Channel) -> Treatment:
        """What becomes of a webhook that this row refuses."""
        rows = [row for row in CHECKS if row.find.__name__ == self.check and row.each_person is self.each_person]
        return rows[0].treatment(channel.caller) if rows else Treatment.REFUSE

    def api(self, route: str) -> Response | None:
        """What a caller of the API gets; None where this does not happen."""
        return problem(self.error) if self.error is not None and route in self.routes else None


LIMITED = TooManyRequests(retry_after_seconds=1)
LATER = "none; or, later, one that waits"

# In the order in which it is looked at: the first that refuses answers.
TABLE: tuple[Row, ...] = (
    Row("kept", "kept, or kept before", job="one, queued; the same one for a duplicate"),
    Row("ignored", "genuine, and nothing to answer: a receipt, an echo, an edit, a picture without words", job="none"),
    Row("unclear", "genuine, and not understood", job="one, quarantined, with the raw body"),
    Row("held", "above the source's `screening_hold_above`", job="one, quarantined, until a person retries it"),
    Row("dropped", "above the source's `screening_drop_above`", job="one, cancelled, with the reason"),
    Row("too_long", "a message longer than `SENTINEL_TEXT_CHARACTERS_MAX`", job="one, quarantined"),
    Row("busy", "more requests at a time than `SENTINEL_REQUESTS_MAX`", Unavailable(), routes=ROUTES, early=True),
    Row("headers", "too many or too long headers", HeadersTooLarge(), routes=ROUTES, early=True),
    Row("large", "a body over `SENTINEL_BODY_BYTES_MAX`, declared or counted", TooLarge(), routes=ROUTES, early=True),
    Row("slow", "a body slower than `SENTINEL_BODY_SECONDS_MAX`", TooSlow(), routes=ROUTES, early=True),
    Row("unknown", "no such source, or one that is disabled", NotFound()),
    Row("method", "a method that is not taken", MethodNotAllowed(("GET", "POST")), routes=ROUTES),
    Row("key", "no key, or one that is unknown, expired or revoked", Forged(), webhooks=False, routes=ROUTES),
    Row("scope", "a good key without the scope", Forbidden(), webhooks=False, routes=ROUTES),
    Row("media", "another content type or charset", UnsupportedMedia(), routes=(SUBMIT,)),
    Row("compressed", "a compressed body", UnsupportedMedia(), routes=(SUBMIT,)),
    Row("proof", "no proof, or one that is forged or stale", Forged()),
    Row("malformed", "not JSON, form or XML as strict as `payload.py` takes it", BadInput(), routes=(SUBMIT,)),
    Row("field", "a field or a parameter that is wrong or unknown", BadInput(), webhooks=False, routes=(SUBMIT, LIST, *PLACED)),
    Row("nothing", "no job or erasure of that id, or another tenant's", NotFound(), webhooks=False, routes=ANY_ONE),
    Row("lists", "more lists of jobs at a time than a gateway or a tenant may have", Unavailable(), webhooks=False, routes=(LIST,)),
    Row("streams", "more streams of events than a gateway or a tenant may have", Unavailable(), webhooks=False, routes=(EVENTS,)),
    Row("erasures", "more erasures of a tenant than may be pending", LIMITED, webhooks=False, routes=(ERASE_CHAT, ERASE_USER)),
    Row("subscription", "a subscription that has ended", PaymentRequired(), routes=(SUBMIT,), check="subscription"),
    Row("rate", "over the rate of the tenant, source or key", LIMITED, LATER, routes=(SUBMIT,), check="rate"),
    Row("usage", "what was used is not known, and tokens are limited", Unavailable(), LATER, routes=(SUBMIT,), check="known"),
    Row("quota", "this month's quota is used up", QuotaUsedUp(retry_after_seconds=1), routes=(SUBMIT,), check="quota"),
    Row("user_rate", "over the rate of one person", LIMITED, LATER, check="rate", each_person=True),
    Row("user_quota", "one person's quota is used up", QuotaUsedUp(retry_after_seconds=1), check="quota", each_person=True),
    Row("reused", "an `Idempotency-Key` used with another body", KeyReused(), "the first", webhooks=False, routes=(SUBMIT,)),
    Row("store", "nothing durable can take it in time", Unavailable(), job="none, or one after the retry", routes=WRITING),
)  # fmt: skip


@attrs.frozen
class AdminRow:
    """One check of the admin API: how the tests call it, what has happened, what refuses, and which routes meet it."""

    name: str
    what: str
    error: SentinelError
    routes: str


EVERY, WITH_BODY, WITHOUT_BODY = "every route", "those that take a body", "those that take none"
ADMIN_TABLE: tuple[AdminRow, ...] = (
    AdminRow("connections", "more than 64 connections at a time", Unavailable(), EVERY),
    AdminRow("headers", "too many or too long headers", HeadersTooLarge(), EVERY),
    AdminRow("large", "a body over `SENTINEL_BODY_BYTES_MAX`, declared or counted", TooLarge(), EVERY),
    AdminRow("slow", "a body slower than `SENTINEL_BODY_SECONDS_MAX`", TooSlow(), EVERY),
    AdminRow("key", "no key, or one that is unknown, expired or revoked", Forged(), EVERY),
    AdminRow("scope", "a good key without the scope `admin`", Forbidden(), EVERY),
    AdminRow("path", "nothing at this path", NotFound(), "-"),
    AdminRow("method", "a method that is not taken", MethodNotAllowed(("GET",)), EVERY),
    AdminRow("media", "another content type or charset", UnsupportedMedia(), WITH_BODY),
    AdminRow("compressed", "a compressed body", UnsupportedMedia(), WITH_BODY),
    AdminRow("malformed", "not JSON as strict as `payload.py` takes it", BadInput(), WITH_BODY),
    AdminRow("field", "a field that is wrong or unknown", BadInput(), WITH_BODY),
    AdminRow("body", "a body where none is taken", BadInput(), WITHOUT_BODY),
    AdminRow("parameter", "a parameter that is unknown", BadInput(), EVERY),
    AdminRow("nothing", "no tenant, source, key, plan or job of that name", NotFound(), "those that name one that must be there"),
    AdminRow("conflict", "it is there, and in no state for that", Conflict(), "those that change or remove"),
    AdminRow("store", "the record does not answer in time", Unavailable(), EVERY),
)

HEAD = """\
# Status codes

This page is printed from the table in `sentinel/status_codes.py` (`python -m sentinel.status_codes > docs/status-codes.md`), whose
cells are what the code answers; a test provokes every one. The order is the order of the checks: the first that refuses answers,
and the model never hears of what was refused.
"""
TAIL = """
A 2xx carries `Sentinel-Job-Id` (one id per kept item, separated by commas) and, when all of them were kept before,
`Sentinel-Duplicate: true`. A set-up handshake gets its challenge with 200, or 401. "Told" means: the platform gets its 2xx, so that
it does not send again, and the person is told in the chat, at most once an hour. "Later" means: 2xx, and a job that waits until the
limit allows it, or a refusal where that is more than an hour away. A suspended subscription is 403 where an ended one is 402.

What a 503 means to the sender: Telegram sends again for 24 hours and honours `Retry-After`, WhatsApp for up to 7 days, Salesforce
for 24 hours, Slack three times within six minutes. Our own trouble is never a 4xx: some platforms take that as final.

The job API answers 202 to what it keeps, with `Location`; 200 if `Prefer: wait` saw it end; `Sentinel-Duplicate: true` for the same
`Idempotency-Key` and body. Cancelling is 200 for a job that has ended, 202 for one that runs and stops within a second. A
`callback_url` that leads where callbacks may not go is taken: addresses are checked at each attempt, and the callback is `failed`.

`/healthz`: 200 while the process serves. `/readyz`: 200 if the record answers and a worker with a model is alive, else 503 with
the reason; `/readyz?only=record` is 200 while webhooks are kept, in the record or in the spool, and 503 once
neither takes one: what a load balancer should ask.
"""


def page() -> str:
    """docs/status-codes.md."""
    platforms = list(channels().values())
    webhooks = [[row.what, *[_cell(row, channel) for channel in platforms], row.job] for row in TABLE if row.webhooks]
    api = [_api_table(JOB_ROUTES), "\n### Conversations, people and their erasure\n\n", _api_table(CHAT_ROUTES)]
    admin = [[row.what, _told(problem(row.error)), row.routes] for row in ADMIN_TABLE]
    return "".join(
        [
            f"{HEAD}\n## Webhooks\n\n",
            _table(["what", *[channel.name for channel in platforms], "job"], webhooks),
            "\n## Job API\n\nErrors are `application/problem+json`.\n\n",
            *api,
            "\n## Admin API\n\n",
            _table(["what", "answer", "routes"], admin),
            TAIL,
        ]
    )


def _api_table(routes: Sequence[str]) -> str:
    met = [row for row in TABLE if set(row.routes) & set(routes)]
    rows = [[row.what, *[_told(row.api(route)) for route in routes], row.job] for row in met]
    return _table(["what", *[f"`{route}`" for route in routes], "job"], rows)


def _cell(row: Row, channel: Channel) -> str:
    told = _told(row.webhook(channel))
    names = {Treatment.TELL: "told", Treatment.DELAY: "later"}
    treatment = row.treatment(channel)
    return f"{told}, {names[treatment]}" if row.check and treatment in names else told


def _told(response: Response | None) -> str:
    """An answer in a few words."""
    if response is None:
        return "-"
    headers = {"retry-after": "`Retry-After`", "allow": "`Allow`", "www-authenticate": "`WWW-Authenticate`"}
    shown = [headers[name] for name, _ in response.headers if name in headers]
    bodies = {b"<Ack>true": "Ack true", b"<Ack>false": "Ack false", b":Fault>": "SOAP fault"}
    shown += [words for part, words in bodies.items() if part in response.body]
    return " + ".join([str(response.status), *shown])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |\n"  # noqa: E731
    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


if __name__ == "__main__":
    print(page(), end="")
