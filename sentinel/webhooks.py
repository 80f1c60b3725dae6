"""A webhook, from its bytes to its acknowledgment: verify, parse, keep, answer. Knows no platform and no store by name.

Webhooks that came together take each step together, so that what the step needs of code stays in the processor's caches: it takes
two thirds of the time that they need when each goes its whole way alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from sentinel.admission import Admission, Admitted, Arrival, Passage
from sentinel.billing import Billing
from sentinel.channels import Channel, Received, find_channel, merge_seconds
from sentinel.directory import DirectoryFollower
from sentinel.edge.billing import KIND as BILLING
from sentinel.edge.screening import CLEAN, Action, Screening, action, screen
from sentinel.errors import MethodNotAllowed, NotFound, SentinelError, Unavailable, UnsupportedMedia
from sentinel.http import Request, Response, problem
from sentinel.intake import Intake
from sentinel.logs import lines_of, log
from sentinel.model import Event, Metering, NewJob, Source, State, job_id
from sentinel.notices import Notices

RAW_ROLE = "raw"  # the only message of a job that was not understood: the body, for a person to read


@attrs.define(eq=False)
class Webhook:
    """
    A webhook on its way, and what is known of it so far.

    Attributes:
        number: of the request, for lines that are not written in a task of its own; 0 in one.
        goes_on: whether there is more to do before its commit; if not, the answer or the fault is there, or it is a biller's.
        answer: what is sent, if it is kept or once it is.
        fault: what went wrong that is not the webhook's fault.
    """

    request: Request
    channel_name: str
    source_name: str
    now: float
    number: int = 0
    goes_on: bool = True
    answer: Response | None = None
    fault: Exception | None = None
    channel: Channel = attrs.field(init=False)
    source: Source = attrs.field(init=False)
    proof: str = attrs.field(init=False)
    received: Received = attrs.field(init=False)
    admitted: Admitted = attrs.field(init=False)
    jobs: list[NewJob] = attrs.field(init=False)
    notices: list[NewJob] = attrs.field(init=False)

    def end(self, answer: Response) -> None:
        """Nothing is to be kept."""
        self.goes_on, self.answer = False, answer


@attrs.frozen(eq=False)
class Webhooks:
    """The routes /webhooks/{channel}/{source}, with a secret behind the source where the channel takes one."""

    directory: DirectoryFollower
    intake: Intake
    admission: Admission
    billing: Billing
    text_characters_max: int
    notices: Notices = attrs.field(factory=Notices)

    async def receive(self, webhook: Webhook) -> Response:
        """The platform's acknowledgment once every item is kept, or the refusal in the platform's own shape."""
        self.take([webhook])
        if webhook.fault is not None:
            raise webhook.fault
        if not webhook.goes_on:
            return await self._bill(webhook) if webhook.answer is None else webhook.answer
        outcome: list[bool] | Exception = Unavailable("Nobody waits for the answer any more.")  # if this is cancelled
        try:
            outcome = await self.intake.accept([*webhook.jobs, *webhook.notices])
        except Exception as error:  # noqa: BLE001  `end` raises what it is not the answer to
            outcome = error
        finally:
            answer = self.end(webhook, outcome)
        return answer

    def keep(self, webhook: Webhook, told: Callable[[list[bool] | Exception], None]) -> None:
        """Have a webhook that was taken and goes on kept, for a caller without a task: `told` gets what `end` wants, once."""
        self.intake.keep([*webhook.jobs, *webhook.notices], told)

    def has_to_wait(self, channel_name: str, source_name: str) -> bool:
        """Whether webhooks of that source are answered by what `receive` waits for, and not by a commit: those of a biller."""
        source = self.directory.current.sources.get((channel_name, source_name))
        return source is not None and source.setting("kind") == BILLING

    def take(self, webhooks: Sequence[Webhook]) -> None:
        """Find out what is to be kept of each webhook, or its answer where nothing is. Raises nothing."""
        for step in (self._find, self._verify, self._read, self._admit, self._make_jobs):
            for webhook in webhooks:
                if webhook.goes_on:
                    try:
                        try:
                            step(webhook)
                        except SentinelError as error:
                            webhook.end(_refuse(webhook, error))
                    except Exception as error:  # noqa: BLE001  it belongs to one, and must not reach the others
                        webhook.goes_on, webhook.answer, webhook.fault = False, None, error

    # The steps

    def _find(self, webhook: Webhook) -> None:
        """Whose it is; and the answer, if it is not a POST."""
        request = webhook.request
        try:
            webhook.channel = channel = find_channel(webhook.channel_name)
        except NotFound as error:  # there is nobody to say it in a platform's own shape
            webhook.end(problem(error))
            return
        if request.path.count("/") > 3 and not channel.path_token:
            raise NotFound("There is nothing at this path.")
        webhook.source = self.directory.source(webhook.channel_name, webhook.source_name)
        if request.method == "GET":
            webhook.end(channel.handshake(request, webhook.source))
        elif request.method != "POST":
            raise MethodNotAllowed(("GET", "POST"))
        else:
            check_media(request, channel.content_types)

    def _verify(self, webhook: Webhook) -> None:
        webhook.proof = webhook.channel.verify(webhook.request, webhook.source, webhook.now)
        webhook.goes_on = webhook.source.setting("kind") != BILLING

    def _read(self, webhook: Webhook) -> None:
        webhook.received = received = webhook.channel.parse(webhook.request, webhook.source)
        webhook.answer = received.answer or webhook.channel.acknowledge(webhook.source)
        if received.ignored:
            with lines_of(webhook.number):
                log.info("webhook.ignored", channel=webhook.channel_name, source=webhook.source_name, items=received.ignored)
        webhook.goes_on = bool(received.events)

    def _admit(self, webhook: Webhook) -> None:
        source = webhook.source
        senders = [event.sender for event in webhook.received.events]
        arrival = Arrival(webhook.channel.caller, webhook.proof, source.tenant, f"{source.channel}/{source.name}", senders)
        webhook.admitted = self.admission.admit(arrival, webhook.now)

    def _make_jobs(self, webhook: Webhook) -> None:
        """The jobs of those who were let in, and the notices to those who were not."""
        decided = list(zip(webhook.received.events, webhook.admitted.passages, strict=True))
        try:
            webhook.jobs = [self._new_job(event, webhook, passage) for event, passage in decided if not passage.told]
            webhook.notices = [] if len(webhook.jobs) == len(decided) else self._tell(webhook, decided)
        except BaseException:
            self.admission.settle(webhook.admitted, ())  # none is kept
            raise
        webhook.goes_on = bool(webhook.jobs or webhook.notices)

    def _tell(self, webhook: Webhook, decided: Sequence[tuple[Event, Passage]]) -> list[NewJob]:
        """The notices to those who were not let in."""
        refused = [(event, passage.told) for event, passage in decided if passage.told]
        told = {"items": len(refused), "checks": sorted({check for _, check in refused})}
        with lines_of(webhook.number):
            log.info("webhook.told", channel=webhook.channel_name, source=webhook.source_name, **told)
        return self.notices.due(webhook.channel, webhook.source, refused, webhook.proof, webhook.now)

    def end(self, webhook: Webhook, outcome: list[bool] | Exception) -> Response:
        """
        The answer when it is known which of the jobs and notices are new, or why they are not kept; the admission learns it too.

        To be called once for each webhook that was taken and went on. Raises what is no fault of the webhook's.
        """
        jobs, answer = webhook.jobs, webhook.answer
        assert answer is not None
        created = outcome[: len(jobs)] if isinstance(outcome, list) else []
        self.admission.settle(webhook.admitted, created)
        if isinstance(outcome, Exception):
            self.notices.undo(webhook.notices)
            if isinstance(outcome, SentinelError):
                return _refuse(webhook, outcome)
            raise outcome
        for job in jobs:
            if found := job.options.get("screening"):
                with lines_of(webhook.number):
                    log.info("job.screened", job=job.id, state=job.state, **found)
        return _with_ids(answer, jobs, created) if jobs else answer

    async def _bill(self, webhook: Webhook) -> Response:
        try:
            return await self.billing.receive(webhook.request, webhook.source, webhook.now)
        except SentinelError as error:
            return _refuse(webhook, error)

    def _new_job(self, event: Event, webhook: Webhook, passage: Passage) -> NewJob:
        """The job of an event. What is suspicious, too long or not understood is kept like all others, and waits for a person."""
        source, request, now = webhook.source, webhook.request, webhook.now
        message = {"role": "user", "content": event.text}
        if event.problem:
            message = {"role": RAW_ROLE, "content": request.body.decode("utf-8", "replace").replace("\0", "\ufffd")}
        found = screen(event.text)
        state, reason = _first_state(event, found, source, self.text_characters_max)
        merge = merge_seconds(source.settings) if event.conversation and state is State.QUEUED else 0.0
        run_at = max(now + merge, passage.run_at or now) if state is State.QUEUED else now
        identity = event.identity or event.external_id or hashlib.sha256(request.body).hexdigest()
        return NewJob(
            id=job_id(source.tenant, source.channel, source.name, identity),
            tenant=source.tenant,
            channel=source.channel,
            source=source.name,
            external_id=event.external_id or identity,
            input=(message,),
            received_at=now,
            verified_by=webhook.proof,
            conversation=event.conversation or None,
            sender=event.sender,
            reply_to=event.reply_to,
            options=screening_option(found),
            state=State.SCHEDULED if run_at > now else state,
            last_error=reason,
            run_at=run_at if run_at > now else None,
            metering=Metering.NONE if event.problem or state is State.CANCELLED else webhook.admitted.metering,
        )


def _refuse(webhook: Webhook, error: SentinelError) -> Response:
    told = {"status": error.status, "reason": error.detail, "client": webhook.request.client}
    with lines_of(webhook.number):
        log.info("webhook.refused", channel=webhook.channel_name, source=webhook.source_name, **told)
    return webhook.channel.refuse(error)


def screening_option(found: Screening) -> dict[str, Any]:
    """The screening as it is kept among a job's options; nothing if nothing was found."""
    return {} if found is CLEAN else {"screening": {"score": found.score, "reasons": list(found.reasons)}}


def _first_state(event: Event, found: Screening, source: Source, characters_max: int) -> tuple[State, str | None]:
    """The state in which the job of an event begins, and why it is not simply queued."""
    if event.problem:
        return State.QUARANTINED, event.problem
    if len(event.text) > characters_max:
        return State.QUARANTINED, f"The message has {len(event.text)} characters; at most {characters_max} are given to the model."
    wanted = action(found, source.settings)
    if wanted is Action.TAKE:
        return State.QUEUED, None
    told = f"by screening: score {found.score:g} ({', '.join(found.reasons)})"
    return (State.QUARANTINED, f"held {told}") if wanted is Action.HOLD else (State.CANCELLED, f"dropped {told}")


def check_media(request: Request, content_types: tuple[str, ...]) -> None:
    """Raise UnsupportedMedia unless the body is plain, in UTF-8, and of one of these types."""
    encoding, given = request.header("content-encoding"), request.header("content-type")
    if not encoding and given in content_types:
        return  # as nearly always
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("Compressed bodies are not taken; send the body as it is.")
    if request.content_type() not in content_types:
        raise UnsupportedMedia(f"The content type must be {' or '.join(content_types)}.")
    charset = given.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia("The charset must be UTF-8.")


def _with_ids(answer: Response, jobs: list[NewJob], created: list[bool]) -> Response:
    headers = [("sentinel-job-id", ",".join([job.id for job in jobs]))]
    if not any(created):
        headers.append(("sentinel-duplicate", "true"))
    return answer.with_headers(*headers)
