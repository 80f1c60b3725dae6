"""The one reading of a URL that a caller chose: whoever checks it and whoever connects by it use this. Pure.

Stricter than RFC 3986: what two parsers could read as two hosts is no URL here. That is a user name, a backslash, anything but
visible ASCII, a percent sign or a zone in the host, an empty port, a trailing dot, and a number that is no address in full.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

import attrs

URL_MAX = 2_048
DEFAULT_PORTS = {"https": 443, "http": 80}

_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:[/?][!$%&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]*)?)",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*", re.ASCII)


@attrs.frozen
class Target:
    """A URL in parts. `host` is lower case, of an IPv6 address without its brackets; `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL again, as any parser reads it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(text: str) -> Target | None:
    """The parts of an absolute http or https URL; None for everything else."""
    found = _URL.fullmatch(text) if len(text) <= URL_MAX else None
    if found is None:
        return None
    scheme, host = found["scheme"].lower(), (found["ipv6"] or found["name"]).lower()
    port = int(found["port"] or DEFAULT_PORTS[scheme])
    valid = _is_ipv6(host) if found["ipv6"] else _is_name(host)
    path = found["path"] if found["path"].startswith("/") else "/" + found["path"]
    return Target(scheme, host, port, path) if valid and 1 <= port <= 65_535 else None


def authority(url: str) -> str:
    """Host and port as they stand in a URL: what counts as one receiver where many wait. "" for what is no URL."""
    return "".join(url.lower().replace("?", "/").split("/")[2:3])


def _is_name(host: str) -> bool:
    """Whether it is a name, or an IPv4 address written in full; resolvers read `127.1` and `0x7f000001` as one too."""
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _is_ipv4(host)
    return all(_LABEL.fullmatch(label) for label in labels)


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
