"""Tools that an operator declares in a source's settings: an HTTP request each, described by a JSON Schema.

The model fills in the arguments; where the request goes and with which credentials is the operator's, and never in a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import attrs

from sentinel import payload
from sentinel.errors import BadInput, GenerationFailed, HostRests, RefusedAddress, SendFailed
from sentinel.model import Outgoing
from worker.grammar import write_grammar
from worker.json_schema import read_schema
from worker.tools import OutcomeUnknown, Repeat, Surroundings, Tool, ToolFailed, tools

TOOLS_MAX = 20
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
WITH_BODY = ("POST", "PUT", "PATCH")
FIELDS = ("name", "description", "method", "url", "parameters", "headers", "repeat")
_DEFAULTS = {"method": "POST", "headers": {}, "repeat": "never", "parameters": {"type": "object", "properties": {}}}
_PLACE = re.compile(r"\{(\w+)\}")


@attrs.frozen(eq=False)
class DeclaredTool(Tool):
    """One HTTP request. Arguments named in the URL go there, the others into the query, or into a JSON body where there is one."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    url: str
    method: str = "POST"
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    repeat: Repeat = Repeat.NEVER

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """The answer's text. The key goes along as Idempotency-Key, for servers that know it."""
        try:
            answer = await around.outbound.send(self.request(arguments, around.key), around.networks, around.tenant)
        except (RefusedAddress, HostRests) as error:  # nothing was sent
            raise ToolFailed(error.detail) from None
        except SendFailed as error:
            raise (ToolFailed if self.repeat is not Repeat.NEVER else OutcomeUnknown)(error.detail) from None
        text = answer.body.decode("utf-8", "replace")
        if not 200 <= answer.status < 300:
            raise ToolFailed(f"The service answers with status {answer.status}: {text[:200]}")
        return text or "Done."

    def request(self, arguments: Mapping[str, Any], key: str) -> Outgoing:
        """The request that these arguments make; it passes the guard. Raises ToolFailed if one would leave its place in the URL."""
        placed = set(_PLACE.findall(self.url))
        url = _filled_in(self.url, arguments)
        rest = {name: value for name, value in arguments.items() if name not in placed}
        headers = {"accept": "application/json", "idempotency-key": key, **self.headers}
        if self.method in WITH_BODY:
            body = payload.encode_json(rest)
            return Outgoing(url, body, {"content-type": "application/json", **headers}, self.method, guarded=True)
        query = urlencode({name: _written(value) for name, value in rest.items()})
        return Outgoing(f"{url}{'&' if '?' in url else '?'}{query}" if query else url, b"", headers, self.method, guarded=True)


def read_declared(text: str) -> dict[str, Tool]:
    """The tools of a source's setting `http_tools`, by name. Raises BadInput that names the tool and what is wrong with it."""
    given = payload.decode_json(text.encode("utf-8", "surrogatepass")) if text else []
    if not isinstance(given, list) or len(given) > TOOLS_MAX:
        raise BadInput(f"http_tools must be a JSON list of at most {TOOLS_MAX} tools.")
    declared: dict[str, Tool] = {}
    for place, one in enumerate(given):
        tool = _tool(one, f"http_tools[{place}]")
        if tool.name in declared or tool.name in tools() or tool.name == "none":
            raise BadInput(f"http_tools[{place}].name: there is another tool of that name.")
        declared[tool.name] = tool
    return declared


def _tool(given: Any, place: str) -> DeclaredTool:
    if not isinstance(given, dict):
        raise BadInput(f"{place} must be an object.")
    if unknown := sorted(given.keys() - set(FIELDS)):
        raise BadInput(f"{place} has the unknown field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}.")
    values: dict[str, Any] = _DEFAULTS | given
    for field, valid in _RULES.items():
        if not valid(values.get(field)):
            raise BadInput(f"{place}.{field} must be {_MEANINGS[field]}.")
    try:
        write_grammar(read_schema(values["parameters"]))
    except GenerationFailed as error:
        raise BadInput(f"{place}.parameters: {error.detail}") from None
    return DeclaredTool(**{**values, "repeat": Repeat(values["repeat"])})


def _is_url(url: Any) -> bool:
    try:
        parts = urlsplit(_PLACE.sub("x", url)) if isinstance(url, str) else None
    except ValueError:
        return False
    return (
        parts is not None
        and parts.scheme in ("https", "http")
        and bool(parts.hostname)
        and not _PLACE.search(url.partition("://")[2].partition("/")[0])
    )


def _are_headers(headers: Any) -> bool:
    return isinstance(headers, dict) and all(isinstance(value, str) and value.isprintable() for value in headers.values())


def _filled_in(template: str, arguments: Mapping[str, Any]) -> str:
    """The URL with its arguments, of which none can be the folder above, nor nothing where a name was wanted."""

    def write(place: re.Match[str]) -> str:
        return quote(_written(arguments.get(place[1], "")), safe="")

    path, mark, query = template.partition("?")
    segments = []
    for segment in path.split("/"):
        filled = _PLACE.sub(write, segment)
        if filled in ("", ".", "..") and filled != segment:
            raise ToolFailed(f"The argument {_PLACE.findall(segment)[0]} must be something else than nothing, a dot or two.")
        segments.append(filled)
    return "/".join(segments) + mark + _PLACE.sub(write, query)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else payload.encode_json(value).decode()


_RULES: Mapping[str, Callable[[Any], bool]] = {
    "name": lambda name: isinstance(name, str) and NAME.fullmatch(name) is not None,
    "description": lambda text: isinstance(text, str) and 1 <= len(text) <= 300,
    "method": lambda method: method in METHODS,
    "url": _is_url,
    "headers": _are_headers,
    "repeat": lambda repeat: repeat in list(Repeat),
    "parameters": lambda schema: isinstance(schema, dict) and schema.get("type") == "object",
}
_MEANINGS = {
    "name": "a small letter and up to 39 more of a-z 0-9 _",
    "description": "a text of 1 to 300 characters",
    "method": f"one of {', '.join(METHODS)}",
    "url": "an absolute URL, with {arguments} behind its host only",
    "headers": "an object of texts",
    "repeat": f"one of {', '.join(Repeat)}",
    "parameters": 'a JSON Schema of type "object"',
}
