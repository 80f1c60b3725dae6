"""Whose request it is when a proxy stands in between: the PROXY protocol, X-Forwarded-For and Forwarded. Pure.

A proxy's word counts only when the connection comes from a configured network: anybody else could claim to be anybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

from sentinel.errors import BadInput

Networks = tuple[IPv4Network | IPv6Network, ...]

HTTP2_PREFACE = b"PRI"
V1, V1_BYTES_MAX = b"PROXY ", 107
V2, V2_BYTES_MAX = b"\r\n\r\n\0\r\nQUIT\n", 4_096
_V2_ADDRESSES: Mapping[int, tuple[type[IPv4Address] | type[IPv6Address], int]] = {0x11: (IPv4Address, 4), 0x21: (IPv6Address, 16)}
_FORWARDED_FOR = re.compile(r'(?:^|[;,\s])for="?(\[[^]"]*\]|[^;,"\s]*)', re.IGNORECASE)


@attrs.frozen
class Opening:
    """How a connection begins: for HTTP/2 or not, for which client if a proxy said so, and with which bytes of HTTP or TLS."""

    http2: bool
    client: str
    rest: bytes


def read_opening(data: bytes, from_proxy: bool) -> Opening | None:
    """
    What the first bytes of a connection say; None if they are too few to tell.

    Raises:
        BadInput: a proxy that is believed sends a PROXY header that is none
            (https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt).
    """
    if from_proxy and (data.startswith(V1) or V1.startswith(data)):
        return _read_v1(data)
    if from_proxy and (data.startswith(V2) or V2.startswith(data)):
        return _read_v2(data)
    return _read_http(data, "")


def _read_http(data: bytes, client: str) -> Opening | None:
    if HTTP2_PREFACE.startswith(data[: len(HTTP2_PREFACE)]) and len(data) < len(HTTP2_PREFACE):
        return None
    return Opening(data.startswith(HTTP2_PREFACE), client, data)


def _read_v1(data: bytes) -> Opening | None:
    line, end, rest = data.partition(b"\r\n")
    if not end and len(data) < V1_BYTES_MAX:
        return None
    fields = line.split(b" ")
    if end and fields[1:2] == [b"UNKNOWN"]:
        return _read_http(rest, "")
    address = plain_address(fields[2].decode("latin-1")) if end and len(fields) == 6 else ""
    if not address or fields[1] != (b"TCP6" if ":" in address else b"TCP4"):
        raise BadInput("The PROXY header is not valid.")
    return _read_http(rest, address)


def _read_v2(data: bytes) -> Opening | None:
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16])
    if command not in (0x20, 0x21) or length > V2_BYTES_MAX:
        raise BadInput("The PROXY header is not valid.")
    if len(data) < 16 + length:
        return None
    client = ""
    if command == 0x21 and family in _V2_ADDRESSES:  # 0x20 is the proxy itself, asking after our health
        make, size = _V2_ADDRESSES[family]
        if length < 2 * size + 4:
            raise BadInput("The PROXY header is not valid.")
        client = str(make(data[16 : 16 + size]))
    return _read_http(data[16 + length :], client)


def forwarded_client(peer: str, headers: Mapping[str, str], proxies: Networks) -> str:
    """
    The address of the client: the last one that a proxy names and that is no proxy of ours; `peer` if none does.

    From `Forwarded` (RFC 7239) if it is there, else from `X-Forwarded-For`. Names and hidden identifiers end the search: what is
    before them, nobody whom we believe has seen.
    """
    if forwarded := headers.get("forwarded"):
        named = [found.strip() for found in _FORWARDED_FOR.findall(forwarded)]
    elif forwarded := headers.get("x-forwarded-for"):
        named = [found.strip() for found in forwarded.split(",")]
    else:
        return peer
    for text in reversed(named):
        address = plain_address(text)
        if not address:
            return peer
        if not is_proxy(address, proxies):
            return address
        peer = address
    return peer


@lru_cache(4_096)
def plain_address(text: str) -> str:
    """The IP address without brackets, port and zone, in its usual form; "" if there is none in it."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0] if text.count(":") == 1 else text
    try:
        return str(ip_address(bare.partition("%")[0]))
    except ValueError:
        return ""


@lru_cache(16)
def networks(text: str) -> Networks:
    """The networks (CIDR) of a setting, which are separated by commas."""
    return tuple(ip_network(part) for part in text.split(","))


@lru_cache(4_096)
def is_proxy(address: str, proxies: Networks) -> bool:
    """Whether the address lies in one of the networks. A Unix socket's peer has none (""), and is on this machine by nature."""
    if not address:
        return True
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found.version == network.version and found in network for network in proxies)
