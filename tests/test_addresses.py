"""Where a URL that a caller chose may lead: the public internet, or what the tenant was allowed, however it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.edge.addresses import is_public, is_within

INSIDE = {
    "this host": "0.0.0.0",  # noqa: S104  nothing is bound here
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 10, last": "10.255.255.255",
    "shared (CGNAT)": "100.64.0.1",
    "Alibaba metadata": "100.100.100.200",
    "shared, last": "100.127.255.255",
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.8.8",
    "link local": "169.254.0.1",
    "AWS, GCP and Azure metadata": "169.254.169.254",
    "ECS task metadata": "169.254.170.2",
    "Tencent metadata": "169.254.0.23",
    "private 172": "172.16.0.1",
    "private 172, last": "172.31.255.255",
    "IETF protocols": "192.0.0.1",
    "Oracle metadata": "192.0.0.192",
    "documentation 1": "192.0.2.1",
    "AS112": "192.31.196.1",
    "AMT": "192.52.193.1",
    "6to4 relay": "192.88.99.1",
    "private 192": "192.168.1.1",
    "AS112 direct": "192.175.48.1",
    "benchmarks": "198.18.0.1",
    "benchmarks, last": "198.19.255.255",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "Azure platform": "168.63.129.16",
    "multicast": "224.0.0.1",
    "multicast, last": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 loopback, long": "0:0:0:0:0:0:0:1",
    "v4-compatible": "::8.8.8.8",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-mapped in hex": "::ffff:7f00:1",
    "v4-mapped metadata": "::ffff:169.254.169.254",
    "v4-mapped Azure": "::ffff:168.63.129.16",
    "v4-translated": "::ffff:0:8.8.8.8",
    "NAT64 loopback": "64:ff9b::127.0.0.1",
    "NAT64 private": "64:ff9b::10.0.0.1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 Azure": "64:ff9b::168.63.129.16",
    "local NAT64": "64:ff9b:1::8.8.8.8",
    "discard": "100::1",
    "dummy": "100:0:0:1::1",
    "Teredo": "2001::1",
    "ORCHID": "2001:10::1",
    "ORCHID 2": "2001:20::1",
    "AS112 v6": "2001:4:112::1",
    "documentation v6": "2001:db8::1",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4 of metadata": "2002:a9fe:a9fe::1",
    "6to4 of a public one": "2002:808:808::1",
    "AS112 v6 direct": "2620:4f:8000::1",
    "documentation v6, new": "3fff::1",
    "SRv6": "5f00::1",
    "unique local": "fd00::1",
    "AWS metadata v6": "fd00:ec2::254",
    "GCP metadata v6": "fd20:ce::254",
    "link local v6": "fe80::1",
    "link local with a zone": "fe80::1%eth0",
    "loopback with a zone": "::1%lo",
    "site local": "fec0::1",
    "multicast v6": "ff02::1",
    "not given out": "200::1",
    "not given out either": "4000::1",
    "nor this": "8000::1",
}
OUTSIDE = {
    "Google": "8.8.8.8",
    "Cloudflare": "1.1.1.1",
    "before 10": "9.255.255.255",
    "after 10": "11.0.0.0",
    "before CGNAT": "100.63.255.255",
    "after CGNAT": "100.128.0.0",
    "before loopback": "126.255.255.255",
    "after loopback": "128.0.0.1",
    "beside Azure": "168.63.129.17",
    "after 172.16/12": "172.32.0.1",
    "beside 192.0.0": "192.0.1.1",
    "before multicast": "223.255.255.255",
    "v4-mapped public": "::ffff:8.8.8.8",
    "NAT64 public": "64:ff9b::8.8.8.8",
    "Google v6": "2001:4860:4860::8888",
    "Cloudflare v6": "2606:4700:4700::1111",
    "RIPE": "2a00:1450::1",
    "beside AS112": "2620:4f:7fff::1",
    "after 6to4": "2003::1",
}


@pytest.mark.parametrize("address", INSIDE.values(), ids=INSIDE)
def test_inside(address):
    """Nothing that is, wraps or may wrap an address of an inside network or a cloud's own service is public."""
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE.values(), ids=OUTSIDE)
def test_outside(address):
    """What anybody on the internet may reach is public."""
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_changes_nothing(address):
    """An IPv4 address is as public as its v4-mapped and NAT64 forms."""
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "127.0.0.1:80", "[::1]"])
def test_what_is_no_address(text):
    """Only what a resolver gives is taken: a short, octal or hex form is an error and not a guess."""
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        is_public(text)


@pytest.mark.parametrize(
    ("address", "networks", "within"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("10.1.2.3", ["192.168.0.0/16", "10.1.2.3/32"], True),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("64:ff9b::10.1.2.3", ["10.0.0.0/8"], True),
        ("11.0.0.1", ["10.0.0.0/8"], False),
        ("127.0.0.1", ["::1/128"], False),
        ("::1", ["127.0.0.0/8"], False),
        ("::1", ["::1/128"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("10.0.0.1", [], False),
        ("0.0.0.1", ["::/0"], False),
    ],
)
def test_allowed_networks(address, networks, within):
    """An address is within a network of its own kind that holds it, unwrapped as for `is_public`."""
    assert is_within(address, networks) is within
