"""Which IP addresses a URL that a caller chose may lead to. Pure: an explicit table, because `ipaddress.is_global` is not enough.

Python's `is_global` calls NAT64, 6to4, multicast and several reserved ranges global, and cloud metadata services sit on
addresses that look public.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REFUSED: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            # IPv4: IANA special-purpose registry (RFC 6890 and successors), multicast, reserved
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
            *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            # cloud platforms' own services on addresses that look public (Azure, Alibaba)
            *("168.63.129.16/32", "100.100.100.200/32"),
            # IPv6: all outside 2000::/3, the only space that IANA gives out as global unicast; and inside it Teredo and ORCHID,
            # documentation, 6to4, AS112
            *("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether the address, and the IPv4 address inside it if it wraps one, is one of the public internet."""
    address = unwrapped(ip_address(text.partition("%")[0]))
    return not any(address.version == network.version and address in network for network in REFUSED)


def is_within(text: str, networks: Iterable[str]) -> bool:
    """Whether the address lies in one of these networks (CIDR)."""
    address = unwrapped(ip_address(text.partition("%")[0]))
    return any(address.version == network.version and address in network for network in map(ip_network, networks))


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside a v4-mapped or NAT64 one; any other address as it is."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
