"""A page of the web as the words that a reader would see, roughly. Pure, in a time that grows with its length, whatever is in it.

The standard library's reader takes a minute for 64 KiB of tags that do not end.
"""

from __future__ import annotations

import html
import re

SILENT = frozenset({"noscript", "template", "svg"})
RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}  # what is in them is no markup
BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "td", "th"})

_MARKUP = re.compile(r"<(?:(?P<comment>!--)|(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*)|[!?/])")
_IN_TAG = re.compile(r""">|=\s*["']""")
_LONG_NUMBER = re.compile("&#[0-9]{8,};?")  # no character has one, and Python refuses to read it
_CHARSET = re.compile(
    r"utf-?8|utf-?16(?:[bl]e)?|(?:us-)?ascii|iso-?8859-\d{1,2}|latin-?\d|(?:windows-|cp)125\d|koi8-[ru]|gb(?:k|2312|18030)|big5|"
    r"euc-(?:jp|kr)|shift[_-]jis|iso-2022-jp"
)


def decode(body: bytes, charset: str) -> str:
    """The text of a body in that character set; as UTF-8 in any other, since Python's codecs are not all of text, nor all quick."""
    try:
        return body.decode(charset if _CHARSET.fullmatch(charset) else "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def plain_text(page: str) -> str:
    """No scripts and no tags, a line for each block. As in browsers, markup without an end takes the rest with it."""
    pieces: list[str] = []
    at = silent = 0
    while at >= 0:
        found = _MARKUP.search(page, at)
        if not silent:
            pieces.append(_characters(page[at : found.start()] if found else page[at:]))
        if found is None:
            break
        at = _end(page, found)
        name = (found["name"] or "").lower()
        if name in BLOCKS:
            pieces.append("\n")
        if name in SILENT and page[at - 2] != "/":
            silent = max(0, silent - 1) if found["close"] else silent + 1
        if name in RAW and not found["close"] and at >= 0:
            closing = RAW[name].search(page, at)
            at = closing.start() if closing else -1
    lines = (" ".join(line.split()) for line in "".join(pieces).splitlines())
    return "\n".join(line for line in lines if line)


def _end(page: str, found: re.Match[str]) -> int:
    """Where the markup ends; -1 if it does not."""
    if found["name"]:
        return _end_of_tag(page, found.end())
    mark, after = ("-->", found.end() - 2) if found["comment"] else (">", found.end())
    end = page.find(mark, after)
    return end + len(mark) if end >= 0 else -1


def _end_of_tag(page: str, at: int) -> int:
    """Behind the tag's `>`, which is not one within the quotes of an attribute."""
    while at >= 0 and (found := _IN_TAG.search(page, at)) is not None:
        if found[0] == ">":
            return found.end()
        end = page.find(found[0][-1], found.end())
        at = end + 1 if end >= 0 else -1
    return -1


def _characters(text: str) -> str:
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text
