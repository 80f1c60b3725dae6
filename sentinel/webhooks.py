"""A webhook, from its bytes to its acknowledgment: verify, parse, keep, answer. Knows no platform and no store by name."""

from __future__ import annotations

import hashlib

import attrs

from sentinel.channels import Channel, find_channel, merge_seconds
from sentinel.directory import DirectoryFollower
from sentinel.errors import MethodNotAllowed, NotFound, SentinelError, UnsupportedMedia
from sentinel.http import Request, Response
from sentinel.intake import Intake
from sentinel.logs import log
from sentinel.model import Event, NewJob, Source, State, job_id

RAW_ROLE = "raw"  # the only message of a job that was not understood: the body, for a person to read


@attrs.frozen(eq=False)
class Webhooks:
    """The routes /webhooks/{channel}/{source}, with a secret behind the source where the channel takes one."""

    directory: DirectoryFollower
    intake: Intake

    async def receive(self, request: Request, channel_name: str, source_name: str, now: float) -> Response:
        """The platform's acknowledgment once every item is kept, or the refusal in the platform's own shape."""
        channel = find_channel(channel_name)
        try:
            if request.path.count("/") > 3 and not channel.path_token:
                raise NotFound("There is nothing at this path.")
            source = self.directory.source(channel_name, source_name)
            return await self._take(channel, source, request, now)
        except SentinelError as error:
            log.info("webhook.refused", channel=channel_name, source=source_name, status=error.status, reason=error.detail)
            return channel.refuse(error)

    async def _take(self, channel: Channel, source: Source, request: Request, now: float) -> Response:
        if request.method == "GET":
            return channel.handshake(request, source)
        if request.method != "POST":
            raise MethodNotAllowed(("GET", "POST"))
        check_media(request, channel.content_types)
        proof = channel.verify(request, source, now)
        received = channel.parse(request, source)
        answer = received.answer or channel.acknowledge(source)
        if received.ignored:
            log.info("webhook.ignored", channel=source.channel, source=source.name, items=received.ignored)
        if not received.events:
            return answer
        jobs = [_new_job(event, source, proof, request, now) for event in received.events]
        created = await self.intake.accept(jobs)
        return _with_ids(answer, jobs, created)


def check_media(request: Request, content_types: tuple[str, ...]) -> None:
    """Raise UnsupportedMedia unless the body is plain, in UTF-8, and of one of these types."""
    if request.header("content-encoding").strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("Compressed bodies are not taken; send the body as it is.")
    if request.content_type() not in content_types:
        raise UnsupportedMedia(f"The content type must be {' or '.join(content_types)}.")
    charset = request.header("content-type").lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia("The charset must be UTF-8.")


def _new_job(event: Event, source: Source, proof: str, request: Request, now: float) -> NewJob:
    identity = event.identity or event.external_id or hashlib.sha256(request.body).hexdigest()
    message = {"role": "user", "content": event.text}
    merge = merge_seconds(source.settings) if event.conversation and not event.problem else 0.0
    if event.problem:
        message = {"role": RAW_ROLE, "content": request.body.decode("utf-8", "replace").replace("\0", "\ufffd")}
    return NewJob(
        id=job_id(source.tenant, source.channel, source.name, identity),
        tenant=source.tenant,
        channel=source.channel,
        source=source.name,
        external_id=event.external_id or identity,
        input=(message,),
        received_at=now,
        verified_by=proof,
        conversation=event.conversation or None,
        sender=event.sender,
        reply_to=event.reply_to,
        state=State.QUARANTINED if event.problem else State.SCHEDULED if merge else State.QUEUED,
        last_error=event.problem,
        run_at=now + merge if merge else None,
    )


def _with_ids(answer: Response, jobs: list[NewJob], created: list[bool]) -> Response:
    headers = [("sentinel-job-id", ",".join(job.id for job in jobs))]
    if not any(created):
        headers.append(("sentinel-duplicate", "true"))
    return answer.with_headers(*headers)
