"""Reads a page of the public web, through the guard that lets nobody into the inside network; see sentinel.outbound.

The page is data and may say anything: it is cut, and told apart from what the user says.
"""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

import trio

from sentinel.errors import RefusedAddress, SendFailed
from sentinel.model import Outgoing
from sentinel.outbound import Answer
from worker.tools import Surroundings, Tool, ToolFailed, takes, text_parameter

REDIRECTS_MAX = 3
URL_MAX = 1000
MOVED = (301, 302, 303, 307, 308)
SILENT = frozenset({"script", "style", "noscript", "template", "svg"})
BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "td", "th"})


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
                return await _read(answer)
            url = urljoin(url, answer.headers.get("location", ""))
        raise ToolFailed("The page leads from one address to the next.")


async def _get(url: str, around: Surroundings) -> Answer:
    if not is_allowed(url, around.hosts):
        raise ToolFailed("Pages of this host may not be read.")
    try:
        headers = {"accept": "text/html, text/plain, application/json"}
        return await around.outbound.send(Outgoing(url, b"", headers, "GET", guarded=True), around.networks, around.tenant)
    except (SendFailed, RefusedAddress) as error:
        raise ToolFailed(error.detail) from None


async def _read(answer: Answer) -> str:
    if not 200 <= answer.status < 300:
        raise ToolFailed(f"The page answers with status {answer.status}.")
    kind, _, rest = answer.headers.get("content-type", "").lower().partition(";")
    if not (kind.startswith("text/") or kind.strip().endswith(("json", "xml"))):
        raise ToolFailed("The page is not text.")
    charset = rest.partition("charset=")[2].strip(" \"'") or "utf-8"
    try:
        text = answer.body.decode(charset, "replace")
    except LookupError:
        text = answer.body.decode("utf-8", "replace")
    return await trio.to_thread.run_sync(plain_text, text) if "html" in kind else text


def is_allowed(url: str, hosts: tuple[str, ...] | Any) -> bool:
    """Whether the URL's host is one of `hosts` or below one; any is where there are none."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    return not hosts or any(host == allowed or host.endswith(f".{allowed}") for allowed in hosts)


def plain_text(html: str) -> str:
    """What a reader would see of a page, roughly: no scripts, no tags, a line for each block."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).splitlines())
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, _attributes: Any) -> None:
        self._silent += tag in SILENT
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in SILENT))
        if tag in BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)


tool = Fetch()
