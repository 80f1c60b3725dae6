"""The job API as an OpenAPI 3.1 document, made from the limits and names that the code checks by. Pure.

Covers what an application calls: jobs, conversations, erasures and health. Webhooks are the platforms' to define.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sentinel import __version__
from sentinel.job_api import IDEMPOTENCY_KEY_MAX, LIST_LIMIT_MAX
from sentinel.job_request import API_TOOLS, CONVERSATION_MAX, MESSAGES_MAX, ROLES, TITLE_MAX, TOKENS_MAX
from sentinel.job_view import API_STATUS
from sentinel.payload import encode_json

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
CLOSED: Schema = {"additionalProperties": False}
WHEN: Schema = {"type": ["string", "null"], "format": "date-time"}
_PROBLEMS = {
    "400": "The request is not understood; `detail` names what is wrong.",
    "401": "The API key is missing, unknown or revoked.",
    "402": "The subscription has ended, or is not paid.",
    "403": "The key may not do this, or the tenant is suspended.",
    "404": "There is nothing of that id for this key's tenant.",
    "413": "The body is too large.",
    "415": "The content type is not application/json.",
    "422": "The Idempotency-Key was used with a different body.",
    "429": "A limit is reached, of the plan or of erasures at a time; see Retry-After.",
    "503": "It cannot be kept just now; send it again after Retry-After.",
}
_ASKED, _WRITTEN = ("400", "401", "403", "404", "503"), ("400", "401", "402", "403", "413", "415", "422", "429", "503")


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _strict(**properties: Schema) -> Schema:
    return _object(list(properties), **properties) | CLOSED


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: Schema, **more: Schema) -> Schema:
    return _object(["object", "data", *more], object={"const": "list"}, data={"type": "array", "items": of}, **more)


def _schemas() -> Mapping[str, Schema]:
    message = _object(["role", "content"], role={"enum": list(ROLES)}, content=TEXT | {"minLength": 1}) | {
        "additionalProperties": False
    }
    document = _object(
        ["type", "text"], type={"const": "document"}, text=TEXT | {"minLength": 1}, title=TEXT | {"maxLength": TITLE_MAX}
    )
    document |= CLOSED | {"description": "one text that may be longer than the model's context; the last message asks about it"}
    status = {"enum": sorted(set(API_STATUS.values()))}
    known = dict.fromkeys(("id", "channel", "source", "status_url", "cancel_url"), TEXT)
    times = dict.fromkeys(("created_at", "run_at", "started_at", "finished_at", "cancel_requested_at"), WHEN)
    job = known | times | {
        "object": {"const": "job"},
        "status": status,
        "external_id": {"type": ["string", "null"]},
        "conversation": {"type": ["string", "null"]},
        "attempt": {"type": "integer", "minimum": 0},
        "queue_position": {"type": ["integer", "null"], "minimum": 1},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "result": {"type": ["object", "null"]},
        "error": _maybe(_strict(code=TEXT, message=TEXT)),
        "screening": {"type": ["object", "null"]},
        "callback": _maybe(_strict(status=TEXT, attempts={"type": "integer"}, last_error={"type": ["string", "null"]})),
        "metadata": {"type": "object"},
    }  # fmt: skip
    asked = {
        "input": {
            "oneOf": [
                TEXT,
                {"type": "array", "items": {"oneOf": [message, document]}, "minItems": 1, "maxItems": MESSAGES_MAX},
            ]
        },
        "callback_url": TEXT | {"format": "uri", "description": "gets the result, signed per Standard Webhooks"},
        "conversation": TEXT | {"minLength": 1, "maxLength": CONVERSATION_MAX, "description": "jobs of one are answered in order"},
        "metadata": {"type": "object", "description": "comes back as it was"},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": TOKENS_MAX},
        "priority": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 100, "description": "lower goes first"},
        "memory": {"type": "boolean", "description": "the model sees the conversation so far"},
        "tools": {"type": "array", "items": {"enum": list(API_TOOLS)}, "uniqueItems": True},
        "stream": {"type": "boolean", "description": "the text so far is among the job's events"},
    }
    problem = {"type": TEXT, "title": TEXT, "status": {"type": "integer"}, "detail": TEXT}
    return {
        "Job": _strict(**job),
        "JobRequest": _object(["input"], **asked) | CLOSED,
        "JobList": _list(_ref("Job"), has_more={"type": "boolean"}, last_id={"type": ["string", "null"]}),
        "Problem": _strict(**problem),
        "Ready": _object(["ready", "checks"], ready={"type": "boolean"}, checks={"type": "object", "additionalProperties": TEXT}),
        "Document": {"type": "object"},
    }


def _answers(good: Mapping[str, tuple[str, str]], problems: Sequence[str] = ()) -> Schema:
    answers: Schema = {
        status: {"description": text, "content": {"application/json": {"schema": _ref(schema)}}}
        for status, (text, schema) in good.items()
    }
    for status in problems:
        content = {"application/problem+json": {"schema": _ref("Problem")}}
        answers[status] = {"description": _PROBLEMS[status], "content": content}
    return answers


def _parameter(name: str, place: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": place, "schema": schema, "description": description, "required": place == "path"}


def _watched() -> Schema:
    stream = {"description": "The job's events as they come.", "content": {"text/event-stream": {"schema": TEXT}}}
    return {"200": stream, "204": {"description": "All was told before."}} | _answers({}, _ASKED)


_LAST_EVENT = _parameter("Last-Event-ID", "header", TEXT, "go on behind this event")
_ID = _parameter("job_id", "path", TEXT, "the id that submitting gave")
_PREFER = _parameter("Prefer", "header", TEXT, "`wait=N` waits up to N seconds, at most 60, for the job's end (RFC 7240)")
_IDEMPOTENCY = _parameter(
    "Idempotency-Key", "header", TEXT | {"maxLength": IDEMPOTENCY_KEY_MAX}, "the same key and body again is the same job"
)
_PAGE = (
    _parameter("status", "query", {"enum": sorted(set(API_STATUS.values()))}, "only jobs in it"),
    _parameter("channel", "query", TEXT, "only jobs of this channel"),
    _parameter("external_id", "query", TEXT, "only jobs that the platform calls so"),
    _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": 50}, "jobs of a page"),
    _parameter("after", "query", TEXT, "the last_id of the page before"),
)
_CHAT = _parameter("name", "path", TEXT, "the conversation, or the user; may have slashes in it")
_JOB = {"200": ("The job.", "Job")}
_DONE = {"200": ("What was done.", "Document")}


def _operation(summary: str, name: str, answers: Schema, *parameters: Schema, body: str = "", public: bool = False) -> Schema:
    operation: Schema = {"summary": summary, "operationId": name, "parameters": list(parameters), "responses": answers}
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    if public:
        operation["security"] = []
    return operation


@cache
def openapi_json() -> bytes:
    """The document as JSON: anybody may ask for it, so it must cost next to nothing."""
    return encode_json(openapi())


@cache
def openapi() -> Schema:
    """The document. The same object each time: read it only."""
    submitted = _answers({"202": ("The job is kept.", "Job"), "200": ("`Prefer: wait` saw it end.", "Job")}, _WRITTEN)
    cancelled = _answers(_JOB | {"202": ("It is running, and stops within a second.", "Job")}, _ASKED)
    erasing = _answers({"202": ("The erasure, which goes on.", "Document")}, (*_ASKED, "429"))
    ready = {"200": ("Progress is possible.", "Ready"), "503": ("It is not, and why.", "Ready")}
    only = _parameter("only", "query", {"const": "record"}, "ready as soon as webhooks are kept")
    paths = {
        "/v1/jobs": {
            "post": _operation("Submit a job", "submitJob", submitted, _IDEMPOTENCY, _PREFER, body="JobRequest"),
            "get": _operation("List jobs, the newest first", "listJobs", _answers({"200": ("A page.", "JobList")}, _ASKED), *_PAGE),
        },
        "/v1/jobs/{job_id}": {"get": _operation("Look at a job", "showJob", _answers(_JOB, _ASKED), _ID, _PREFER)},
        "/v1/jobs/{job_id}/cancel": {"post": _operation("Stop a job", "cancelJob", cancelled, _ID)},
        "/v1/jobs/{job_id}/events": {"get": _operation("Watch a job", "watchJob", _watched(), _ID, _LAST_EVENT)},
        "/v1/conversations": {"get": _operation("Chats in which a person answers", "listHeld", _answers(_DONE, _ASKED))},
        "/v1/conversations/{name}/release": {
            "post": _operation("Let the model answer again", "release", _answers(_DONE, _ASKED), _CHAT)
        },
        "/v1/conversations/{name}": {"delete": _operation("Erase a conversation", "eraseConversation", erasing, _CHAT)},
        "/v1/users/{name}": {"delete": _operation("Erase a person's messages", "eraseUser", erasing, _CHAT)},
        "/v1/erasures/{erasure_id}": {
            "get": _operation("How far an erasure is", "showErasure", _answers(_DONE, _ASKED), _ID | {"name": "erasure_id"})
        },
        "/healthz": {
            "get": _operation("Whether the process serves", "alive", _answers({"200": ("It does.", "Document")}), public=True)
        },
        "/readyz": {"get": _operation("Whether progress is possible", "ready", _answers(ready), only, public=True)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sentinel", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "security": [{"key": []}],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
