"""What a person is told in a chat who was refused: at most once an hour, durable, and without the model. Pure.

A notice is a job whose id says the chat and the hour, so that all gateways together make one. `worker` sends its text as it is, and
looks at the notice of the hour before, so that 10:59 and 11:00 are not two.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sentinel.model import Event, Metering, NewJob, Source, job_id

HOUR_SECONDS = 3_600
OFF = "off"
TEXTS: Mapping[str, str] = {
    "subscription": "Sorry, I cannot answer now: this service's plan has ended. Please ask whoever runs it.",
    "quota": "Sorry, I cannot answer now: this month's quota is used up. Please try again next month.",
    "rate": "Sorry, that were too many messages at a time. Please wait a little and try again.",
}


@attrs.frozen
class Notice:
    """What a notice's job carries in its options: the text, and the id of the notice of the hour before."""

    text: str
    before: str

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Notice | None:
        """The notice that a job is, or None: nobody but a gateway can put this option there."""
        found = options.get("notice")
        return cls(str(found["text"]), str(found["before"])) if isinstance(found, dict) else None


def notice_job(event: Event, source: Source, check: str, proof: str, now: float) -> NewJob | None:
    """The job that tells the event's sender what the check has refused; None where the source wants silence."""
    text = source.setting("refusal_message") or TEXTS.get(check, TEXTS["subscription"])
    if text.strip().lower() == OFF:
        return None
    hour, chat = int(now // HOUR_SECONDS), event.conversation or event.sender
    return NewJob(
        id=_id(source, chat, hour),
        tenant=source.tenant,
        channel=source.channel,
        source=source.name,
        external_id=f"notice:{event.external_id}",
        input=({"role": "user", "content": ""},),
        received_at=now,
        verified_by=proof,
        sender=event.sender,
        reply_to=event.reply_to,
        options={"notice": {"text": text, "before": _id(source, chat, hour - 1)}},
        priority=0,
        metering=Metering.NONE,
    )


def _id(source: Source, chat: str, hour: int) -> str:
    return job_id(source.tenant, source.channel, source.name, "notice", chat, str(hour))
