"""Whose request it is: what proxies say, and whom of them to believe."""

from __future__ import annotations

import struct
from ipaddress import ip_network

import pytest

from sentinel.edge.forwarded import V2, Opening, forwarded_client, is_proxy, read_opening
from sentinel.errors import BadInput

PROXIES = (ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8"), ip_network("fd00::/8"))
GET = b"GET / HTTP/1.1\r\n"
NAMED = b"PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n"
PRI = b"PRI * HTTP/2.0\r\n"


def v2(command: int, family: int, addresses: bytes) -> bytes:
    """A header of the PROXY protocol's version 2."""
    return V2 + bytes([command, family]) + struct.pack("!H", len(addresses)) + addresses


IPV4 = bytes([203, 0, 113, 7, 10, 0, 0, 1]) + struct.pack("!HH", 5000, 443)
IPV6 = bytes.fromhex("20010db8000000000000000000000009") + bytes(16) + struct.pack("!HH", 5000, 443)


@pytest.mark.parametrize(
    ("data", "from_proxy", "opening"),
    [
        (GET, False, Opening(False, "", GET)),
        (GET, True, Opening(False, "", GET)),
        (PRI, False, Opening(True, "", PRI)),
        (b"\x16\x03\x01", True, Opening(False, "", b"\x16\x03\x01")),
        (b"\r\nGET / HTTP/1.1\r\n", True, Opening(False, "", b"\r\nGET / HTTP/1.1\r\n")),
        (NAMED + GET, True, Opening(False, "203.0.113.7", GET)),
        (b"PROXY TCP6 2001:db8::9 ::1 5000 443\r\n" + PRI, True, Opening(True, "2001:db8::9", PRI)),
        (b"PROXY UNKNOWN what ever\r\n" + GET, True, Opening(False, "", GET)),
        (NAMED + GET, False, Opening(False, "", NAMED + GET)),
        (v2(0x21, 0x11, IPV4) + GET, True, Opening(False, "203.0.113.7", GET)),
        (v2(0x21, 0x11, IPV4 + b"\x04\0\x01x") + GET, True, Opening(False, "203.0.113.7", GET)),
        (v2(0x21, 0x21, IPV6) + PRI, True, Opening(True, "2001:db8::9", PRI)),
        (v2(0x20, 0x00, b"") + GET, True, Opening(False, "", GET)),
        (v2(0x21, 0x31, bytes(216)) + GET, True, Opening(False, "", GET)),
        (v2(0x21, 0x11, IPV4) + GET, False, Opening(False, "", v2(0x21, 0x11, IPV4) + GET)),
    ],
)  # fmt: skip
def test_how_a_connection_begins(data: bytes, from_proxy: bool, opening: Opening) -> None:
    """Each beginning is known for what it is, from any number of its bytes on; before, more are asked for."""
    assert read_opening(data, from_proxy) == opening
    for size in range(1, len(data)):
        early = read_opening(data[:size], from_proxy)
        assert early is None or (early.http2, early.client, early.rest + data[size:]) == (
            opening.http2,
            opening.client,
            opening.rest,
        )


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 not.an.address 10.0.0.1 5000 443\r\n",
        b"PROXY TCP4 2001:db8::9 10.0.0.1 5000 443\r\n",
        b"PROXY TCP6 203.0.113.7 10.0.0.1 5000 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5000\r\n",
        b"PROXY SCTP 203.0.113.7 10.0.0.1 5000 443\r\n",
        b"PROXY " + b"x" * 200,
        b"PROXY UNKNOWN" + b"x" * 200,
        v2(0x11, 0x11, IPV4),
        v2(0x22, 0x11, IPV4),
        v2(0x21, 0x11, IPV4[:5]),
        v2(0x21, 0x21, IPV4),
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_a_bad_header_of_a_proxy_is_refused(data: bytes) -> None:
    """A proxy that is believed must say it right."""
    with pytest.raises(BadInput):
        read_opening(data, True)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "10.0.0.1"),
        ({"x-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
        ({"x-forwarded-for": "1.1.1.1, 203.0.113.7"}, "203.0.113.7"),  # the first is what the client claims
        ({"x-forwarded-for": "203.0.113.7, 10.1.1.1,127.0.0.1"}, "203.0.113.7"),
        ({"x-forwarded-for": "203.0.113.7:5000"}, "203.0.113.7"),
        ({"x-forwarded-for": "2001:DB8::9"}, "2001:db8::9"),
        ({"x-forwarded-for": "[2001:db8::9]:80"}, "2001:db8::9"),
        ({"x-forwarded-for": "10.2.2.2"}, "10.2.2.2"),
        ({"x-forwarded-for": "unknown"}, "10.0.0.1"),
        ({"x-forwarded-for": "1.1.1.1, unknown, 10.1.1.1"}, "10.1.1.1"),
        ({"x-forwarded-for": ", ,"}, "10.0.0.1"),
        ({"x-forwarded-for": "\xff\0"}, "10.0.0.1"),
        ({"forwarded": "for=203.0.113.7;proto=https"}, "203.0.113.7"),
        ({"forwarded": 'for=1.1.1.1, For="[2001:db8::9]:4711";by=10.0.0.1'}, "2001:db8::9"),
        ({"forwarded": "for=_hidden, for=10.1.1.1"}, "10.1.1.1"),
        ({"forwarded": "for=203.0.113.7", "x-forwarded-for": "1.1.1.1"}, "203.0.113.7"),
        ({"forwarded": "proto=https"}, "10.0.0.1"),
    ],
)
def test_the_client_behind_proxies(headers: dict[str, str], client: str) -> None:
    """It is the last address that one of our proxies names and that is not a proxy itself."""
    assert forwarded_client("10.0.0.1", headers, PROXIES) == client


def test_what_is_a_proxy() -> None:
    """A configured network's address, in whatever form it is written, and whoever comes by a socket in the file system."""
    assert all(
        is_proxy(address, PROXIES) for address in ("10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0", "")
    )
    assert not any(is_proxy(address, PROXIES) for address in ("203.0.113.7", "::1", "::ffff:203.0.113.7"))
