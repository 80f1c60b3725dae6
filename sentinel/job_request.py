"""What a caller may ask of a job: the body of POST /v1/jobs, checked field by field. Pure.

Beside the messages of the input there may be one document: a long text, which the last of them asks about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sentinel import payload
from sentinel.edge.urls import URL_MAX, parse_url
from sentinel.errors import BadInput

MESSAGES_MAX = 200
TOKENS_MAX = 8192
DOCUMENT_BYTES_MAX = 524_288
TITLE_MAX = 200
CONVERSATION_MAX = 200
METADATA_BYTES_MAX = 16_384
ROLES = ("system", "user", "assistant")
FIELDS = ("input", "callback_url", "conversation", "metadata", "max_tokens", "priority", "memory", "tools", "stream")
API_TOOLS = ("calculator", "clock", "fetch")  # those of the worker that change nothing and need no chat


@attrs.frozen
class JobRequest:
    """A checked request. `options` holds what the worker and the caller need later: callback_url, metadata, document …"""

    input: tuple[Mapping[str, Any], ...] = attrs.field(repr=False)
    options: Mapping[str, Any] = attrs.field(repr=False)
    conversation: str | None = None
    priority: int = 100


def parse_job_request(body: bytes, document_bytes_max: int = DOCUMENT_BYTES_MAX) -> JobRequest:
    """The request that `body` holds. Raises BadInput naming the field that is wrong and what it may be."""
    given = payload.decode_json(body)
    if not isinstance(given, dict):
        raise BadInput('The body must be a JSON object such as {"input": "hello"}.')
    if unknown := sorted(given.keys() - set(FIELDS)):
        raise BadInput(f"There is no field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}.")
    items = _items(given.get("input"))
    document = _document(items, document_bytes_max)
    options = {
        "document": document,
        "callback_url": _callback_url(given.get("callback_url")),
        "metadata": _metadata(given.get("metadata")),
        "max_tokens": _integer("max_tokens", given.get("max_tokens"), 1, TOKENS_MAX),
        "stream": _stream(given.get("stream")),
        "tools": _tools(given.get("tools"), document),
        "memory": _memory(given.get("memory"), given.get("conversation")),
    }
    return JobRequest(
        input=_messages(items, document),
        options={name: value for name, value in options.items() if value is not None},
        conversation=_conversation(given.get("conversation")),
        priority=_integer("priority", given.get("priority"), 0, 1000) if given.get("priority") is not None else 100,  # type: ignore[arg-type]
    )


def _items(given: Any) -> list[Any]:
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not 1 <= len(given) <= MESSAGES_MAX:
        raise BadInput(f'input must be a text, or a list of 1 to {MESSAGES_MAX} messages {{"role", "content"}}.')
    return given


def _is_document(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "document"


def _document(items: list[Any], bytes_max: int) -> Mapping[str, str] | None:
    """The document among the items, as it is kept: its text, and its title if it has one."""
    found = [(place, item) for place, item in enumerate(items) if _is_document(item)]
    if not found:
        return None
    place, given = found[0]
    if len(found) > 1:
        raise BadInput(f"input[{found[1][0]}] is a second document; a job has one.")
    text, title = given.get("text"), given.get("title", "")
    if given.keys() - {"type", "text", "title"} or not isinstance(text, str) or not text.strip():
        raise BadInput(f'input[{place}] must be {{"type": "document", "text", "title"?}} with a text that is not blank.')
    if len(text.encode()) > bytes_max:
        raise BadInput(f"input[{place}].text is longer than {bytes_max} bytes in UTF-8.")
    if not isinstance(title, str) or len(title) > TITLE_MAX:
        raise BadInput(f"input[{place}].title must be a text of at most {TITLE_MAX} characters.")
    return {"text": text, "title": title} if title else {"text": text}


def _messages(items: list[Any], document: Mapping[str, str] | None) -> tuple[Mapping[str, Any], ...]:
    for place, message in enumerate(items):
        if _is_document(message):
            continue
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise BadInput(f"input[{place}] must be an object with role and content, and nothing else.")
        if message["role"] not in ROLES:
            raise BadInput(f"input[{place}].role must be one of {', '.join(ROLES)}.")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise BadInput(f"input[{place}].content must be a text that is not blank.")
    messages = tuple(item for item in items if not _is_document(item))
    if document is not None and (not messages or messages[-1]["role"] != "user"):
        raise BadInput("Beside a document, the last message of input must be the user's: what is asked about it.")
    return messages


def _callback_url(given: Any) -> str | None:
    """A URL that can be read in one way only; where it may lead is decided when it is called."""
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > URL_MAX:
        raise BadInput(f"callback_url must be a URL of at most {URL_MAX} characters.")
    if parse_url(given) is None:
        raise BadInput(
            "callback_url must be an absolute https URL (http only into an allowed network) in plain ASCII, "
            "without user name and fragment."
        )
    return given


def _metadata(given: Any) -> Mapping[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or len(payload.encode_json(given)) > METADATA_BYTES_MAX:
        raise BadInput(f"metadata must be an object of at most {METADATA_BYTES_MAX} bytes of JSON.")
    return given


def _conversation(given: Any) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not 1 <= len(given) <= CONVERSATION_MAX:
        raise BadInput(f"conversation must be a text of 1 to {CONVERSATION_MAX} characters.")
    return given


def _memory(given: Any, conversation: Any) -> bool | None:
    if given is None:
        return None
    if type(given) is not bool or (given and conversation is None):
        raise BadInput("memory must be true or false, and true only with a conversation.")
    return given


def _stream(given: Any) -> bool | None:
    if given is not None and type(given) is not bool:
        raise BadInput("stream must be true or false.")
    return given or None


def _tools(given: Any, document: Mapping[str, str] | None) -> list[str] | None:
    if given is None:
        return None
    if document is not None:
        raise BadInput("A document is read without tools; leave out one of the two.")
    if not isinstance(given, list) or any(name not in API_TOOLS for name in given):
        raise BadInput(f"tools must be a list of names out of {', '.join(API_TOOLS)}.")
    return sorted(set(given))


def _integer(name: str, given: Any, least: int, most: int) -> int | None:
    if given is None:
        return None
    if type(given) is not int or not least <= given <= most:
        raise BadInput(f"{name} must be a whole number from {least} to {most}.")
    return given
