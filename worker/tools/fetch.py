"""Reads a page of the public web, through the guard that lets nobody into the inside network; see sentinel.outbound.

The page is data and may say anything: it is cut, and told apart from what the user says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

from sentinel.errors import RefusedAddress, SendFailed
from sentinel.model import Outgoing
from sentinel.outbound import Answer
from worker.page_text import decode, plain_text
from worker.tools import Surroundings, Tool, ToolFailed, takes, text_parameter

REDIRECTS_MAX = 3
URL_MAX = 1000
MOVED = (301, 302, 303, 307, 308)


class Fetch(Tool):
    """A GET, and what text came back."""

    name = "fetch"
    description = "reads the text of a public web page"
    parameters = takes({"url": text_parameter("an https URL", URL_MAX)})
    sample: ClassVar[Mapping[str, Any]] = {"url": "https://example.com/"}

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """The page's text. Every redirect passes the guard again."""
        url = arguments["url"]
        for _ in range(REDIRECTS_MAX + 1):
            answer = await _get(url, around)
            if answer.status not in MOVED:
                return _read(answer)
            url = _target(url, answer)
        raise ToolFailed("The page leads from one address to the next.")


async def _get(url: str, around: Surroundings) -> Answer:
    if not is_allowed(url, around.hosts):
        raise ToolFailed("Pages of this host may not be read.")
    try:
        headers = {"accept": "text/html, text/plain, application/json"}
        return await around.outbound.send(Outgoing(url, b"", headers, "GET", guarded=True), around.networks, around.tenant)
    except (SendFailed, RefusedAddress) as error:
        raise ToolFailed(error.detail) from None


def _target(url: str, answer: Answer) -> str:
    try:
        return urljoin(url, answer.headers.get("location", ""))
    except ValueError:
        raise ToolFailed("The page leads to no address.") from None


def _read(answer: Answer) -> str:
    if not 200 <= answer.status < 300:
        raise ToolFailed(f"The page answers with status {answer.status}.")
    kind, _, rest = answer.headers.get("content-type", "").lower().partition(";")
    if not (kind.startswith("text/") or kind.strip().endswith(("json", "xml"))):
        raise ToolFailed("The page is not text.")
    text = decode(answer.body, rest.partition("charset=")[2].partition(";")[0].strip(" \"'"))
    return plain_text(text) if "html" in kind else text


def is_allowed(url: str, hosts: tuple[str, ...] | Any) -> bool:
    """Whether the URL's host is one of `hosts` or below one; any is where there are none."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    return not hosts or any(host == allowed or host.endswith(f".{allowed}") for allowed in hosts)


tool = Fetch()
