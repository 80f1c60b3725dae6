"""A webhook, from its bytes to its acknowledgment: verify, parse, keep, answer. Knows no platform and no store by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs

from sentinel.admission import Admission, Admitted, Arrival, Passage
from sentinel.billing import Billing
from sentinel.channels import Channel, find_channel, merge_seconds
from sentinel.directory import DirectoryFollower
from sentinel.edge.billing import KIND as BILLING
from sentinel.edge.screening import CLEAN, Action, Screening, action, screen
from sentinel.errors import MethodNotAllowed, NotFound, SentinelError, Unavailable, UnsupportedMedia
from sentinel.http import Request, Response
from sentinel.intake import Intake
from sentinel.logs import log
from sentinel.model import Event, Metering, NewJob, Source, State, job_id
from sentinel.notices import Notices
from sentinel.values import made_often

RAW_ROLE = "raw"  # the only message of a job that was not understood: the body, for a person to read


@made_often
class Genuine:
    """A webhook whose sender has proved itself, and how."""

    channel: Channel
    source: Source
    request: Request
    proof: str
    now: float


@made_often
class Taken:
    """A genuine webhook of which something is to be kept: what that is, and the answer once it is."""

    genuine: Genuine
    admitted: Admitted
    jobs: list[NewJob]
    notices: list[NewJob]
    answer: Response


@attrs.frozen(eq=False)
class Webhooks:
    """The routes /webhooks/{channel}/{source}, with a secret behind the source where the channel takes one."""

    directory: DirectoryFollower
    intake: Intake
    admission: Admission
    billing: Billing
    text_characters_max: int
    notices: Notices = attrs.field(factory=Notices)

    async def receive(self, request: Request, channel_name: str, source_name: str, now: float) -> Response:
        """The platform's acknowledgment once every item is kept, or the refusal in the platform's own shape."""
        taken = self.take(request, channel_name, source_name, now)
        if isinstance(taken, Response):
            return taken
        if isinstance(taken, Genuine):
            return await self._bill(taken)
        outcome: list[bool] | Exception = Unavailable("Nobody waits for the answer any more.")  # if this is cancelled
        try:
            outcome = await self.intake.accept([*taken.jobs, *taken.notices])
        except Exception as error:  # noqa: BLE001  `end` raises what it is not the answer to
            outcome = error
        finally:
            answer = self.end(taken, outcome)
        return answer

    def begin(
        self,
        request: Request,
        channel_name: str,
        source_name: str,
        now: float,
        told: Callable[[Taken, list[bool] | Exception], None],
    ) -> Response | None:
        """
        As `receive`, for a caller without a task: the answer, if it is known at once; or `told` gets what `end` makes it of, once.

        Not for a source that `has_to_wait`.
        """
        taken = self.take(request, channel_name, source_name, now)
        if isinstance(taken, Response):
            return taken
        assert isinstance(taken, Taken)
        self.intake.keep([*taken.jobs, *taken.notices], partial(told, taken))
        return None

    def has_to_wait(self, channel_name: str, source_name: str) -> bool:
        """Whether webhooks of that source are answered by what `receive` waits for, and not by a commit: those of a biller."""
        source = self.directory.current.sources.get((channel_name, source_name))
        return source is not None and source.setting("kind") == BILLING

    def take(self, request: Request, channel_name: str, source_name: str, now: float) -> Response | Taken | Genuine:
        """What is to be kept of a webhook, or its answer where nothing is; Genuine if it is a biller's."""
        channel = find_channel(channel_name)
        try:
            if request.path.count("/") > 3 and not channel.path_token:
                raise NotFound("There is nothing at this path.")
            return self._take(channel, self.directory.source(channel_name, source_name), request, now)
        except SentinelError as error:
            return _refuse(channel, source_name, request, error)

    def _take(self, channel: Channel, source: Source, request: Request, now: float) -> Response | Taken | Genuine:
        if request.method == "GET":
            return channel.handshake(request, source)
        if request.method != "POST":
            raise MethodNotAllowed(("GET", "POST"))
        check_media(request, channel.content_types)
        genuine = Genuine(channel, source, request, channel.verify(request, source, now), now)
        if source.setting("kind") == BILLING:
            return genuine
        received = channel.parse(request, source)
        answer = received.answer or channel.acknowledge(source)
        if received.ignored:
            log.info("webhook.ignored", channel=source.channel, source=source.name, items=received.ignored)
        if not received.events:
            return answer
        senders = [event.sender for event in received.events]
        admitted = self.admission.admit(
            Arrival(channel.caller, genuine.proof, source.tenant, f"{source.channel}/{source.name}", senders), now
        )
        jobs, notices = self._sort(genuine, received.events, admitted)
        return Taken(genuine, admitted, jobs, notices, answer) if jobs or notices else answer

    def end(self, taken: Taken, outcome: list[bool] | Exception) -> Response:
        """
        The answer when it is known which of the jobs and notices are new, or why they are not kept; the admission learns it too.

        To be called once for each webhook that was taken. Raises what is no fault of the webhook's.
        """
        jobs = taken.jobs
        created = outcome[: len(jobs)] if isinstance(outcome, list) else []
        self.admission.settle(taken.admitted, created)
        if isinstance(outcome, Exception):
            self.notices.undo(taken.notices)
            if isinstance(outcome, SentinelError):
                return _refuse(taken.genuine.channel, taken.genuine.source.name, taken.genuine.request, outcome)
            raise outcome
        for job in jobs:
            if found := job.options.get("screening"):
                log.info("job.screened", job=job.id, state=job.state, **found)
        return _with_ids(taken.answer, jobs, created) if jobs else taken.answer

    async def _bill(self, genuine: Genuine) -> Response:
        try:
            return await self.billing.receive(genuine.request, genuine.source, genuine.now)
        except SentinelError as error:
            return _refuse(genuine.channel, genuine.source.name, genuine.request, error)

    def _sort(self, genuine: Genuine, events: Sequence[Event], admitted: Admitted) -> tuple[list[NewJob], list[NewJob]]:
        """The jobs of those who were let in, and the notices to those who were not."""
        decided = list(zip(events, admitted.passages, strict=True))
        jobs = [self._new_job(event, genuine, passage, admitted.metering) for event, passage in decided if not passage.told]
        if len(jobs) == len(events):
            return jobs, []
        refused = [(event, passage.told) for event, passage in decided if passage.told]
        source = genuine.source
        log.info(
            "webhook.told", channel=source.channel, source=source.name, items=len(refused), checks=sorted({c for _, c in refused})
        )
        return jobs, self.notices.due(genuine.channel, source, refused, genuine.proof, genuine.now)

    def _new_job(self, event: Event, genuine: Genuine, passage: Passage, metering: Metering) -> NewJob:
        """The job of an event. What is suspicious, too long or not understood is kept like all others, and waits for a person."""
        source, request, now = genuine.source, genuine.request, genuine.now
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
            verified_by=genuine.proof,
            conversation=event.conversation or None,
            sender=event.sender,
            reply_to=event.reply_to,
            options=screening_option(found),
            state=State.SCHEDULED if run_at > now else state,
            last_error=reason,
            run_at=run_at if run_at > now else None,
            metering=Metering.NONE if event.problem or state is State.CANCELLED else metering,
        )


def _refuse(channel: Channel, source_name: str, request: Request, error: SentinelError) -> Response:
    told = {"status": error.status, "reason": error.detail, "client": request.client}
    log.info("webhook.refused", channel=channel.name, source=source_name, **told)
    return channel.refuse(error)


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
