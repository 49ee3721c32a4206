"""Addresses of clients, and how much of one stands for one client."""

from __future__ import annotations

import ipaddress

IPV6_SITE_BITS = 64
"""Length of the prefixes that IPv6 hands out: whoever has one address has as many as they like."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(host: str) -> Address | None:
    """Return the address that ``host`` is, without a zone.

    It is None if it is none, such as a socket's that has no address. One of IPv4 within IPv6 is the
    one of IPv4.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def site_of(address: Address) -> str:
    """Return what stands for one client: an address of IPv4, or a network of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False))
    return str(address)
