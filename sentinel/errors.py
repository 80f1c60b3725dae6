"""Everything that Sentinel refuses or fails with, and the HTTP status that says so.

What `told` says of an error is shown to callers: it names what is wrong and never repeats what they sent.
"""

from __future__ import annotations


class SentinelError(Exception):
    """Something went wrong inside Sentinel."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int | None = None) -> None:
        self.headers: tuple[tuple[str, str], ...] = ()  # what the answer says besides, such as the limits that are in force
        self.detail = detail or self.__class__.__doc__ or self.title
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.detail)

    @property
    def told(self) -> str:
        """What a caller reads of it."""
        return self.detail


class BadInput(SentinelError):
    """The request cannot be understood."""

    status = 400
    code = "bad_input"
    title = "Bad request"


class Forged(SentinelError):
    """The request does not prove who sent it."""

    status = 401
    code = "unauthenticated"
    title = "Not authenticated"


class PaymentRequired(SentinelError):
    """The subscription has ended or is not paid."""

    status = 402
    code = "subscription_ended"
    title = "Payment required"


class Forbidden(SentinelError):
    """The caller is known but may not do this."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class Suspended(Forbidden):
    """The subscription is suspended; ask whoever runs this server."""

    code = "subscription_suspended"
    title = "Subscription suspended"


class NotFound(SentinelError):
    """There is nothing here under that name."""

    status = 404
    code = "not_found"
    title = "Not found"


class MethodNotAllowed(SentinelError):
    """This path does not take that method."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"This path takes {', '.join(allowed)}.")
        self.allowed = allowed


class TooSlow(SentinelError):
    """The request body did not arrive in time."""

    status = 408
    code = "request_timeout"
    title = "Request timeout"


class Conflict(SentinelError):
    """The job is in a state that does not allow this."""

    status = 409
    code = "conflict"
    title = "Conflict"


class TooLarge(SentinelError):
    """The request body is larger than this server takes."""

    status = 413
    code = "body_too_large"
    title = "Body too large"


class UnsupportedMedia(SentinelError):
    """The body has a content type or an encoding that is not taken here."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class KeyReused(SentinelError):
    """The Idempotency-Key was used before with a different body."""

    status = 422
    code = "idempotency_key_reused"
    title = "Idempotency-Key reused"


class TooManyRequests(SentinelError):
    """More was sent than the limit allows; try again later."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"


class QuotaUsedUp(TooManyRequests):
    """This month's quota is used up."""

    code = "quota_used_up"
    title = "Quota used up"


class HeadersTooLarge(SentinelError):
    """The request has more, or longer, headers than this server takes."""

    status = 431
    code = "headers_too_large"
    title = "Request header fields too large"


class Unavailable(SentinelError):
    """The request could not be kept safely just now; send it again."""

    status = 503
    code = "unavailable"
    title = "Try again"

    def __init__(self, detail: str | None = None, *, retry_after_seconds: int = 2) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)


class StoreFailed(Unavailable):
    """What keeps the jobs cannot be written or read just now."""

    @property
    def told(self) -> str:
        """Nothing of why: the store's own words name hosts, users and folders of the inside. The operator reads `detail`."""
        return "What keeps the jobs cannot be written or read just now."


class SettingsError(SentinelError):
    """A setting has a value that is not allowed."""


class ModelUnavailable(SentinelError):
    """The model cannot be loaded; jobs wait until it can."""


class GenerationFailed(SentinelError):
    """The model cannot answer this prompt, and trying again would not help."""


class SendFailed(SentinelError):
    """A request to the outside got no answer; another attempt may."""


class HostRests(SendFailed):
    """The receiver is left alone for a while; nothing was sent."""

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail)
        self.seconds = seconds


class RefusedAddress(SentinelError):
    """A URL leads where Sentinel does not go; another attempt would not help."""
