"""Where peers are: the IP networks of an allowlist, and the address that a connection comes from.

An IPv4 address that is written as an IPv6 one (``::ffff:192.0.2.1``), as a socket that listens on
both has it, is the IPv4 address. A peer at a UNIX socket has no address: it is in no network, and
in an allowlist only where that has the word ``unix``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

#: Stands, among networks, for the UNIX sockets of this machine.
UNIX = "unix"


def network(text: str) -> IPv4Network | IPv6Network:
    """Return a network, of CIDR's ``192.0.2.0/24`` or of a single address.

    :raises ValueError: with what is wrong with it, in words.
    """
    try:
        found = ip_network(text)
    except ValueError:
        try:
            wider = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address or network") from None
        raise ValueError(f"{text!r} is an address inside a network; the network is {wider}") from None
    mapped = found.network_address.ipv4_mapped if isinstance(found, IPv6Network) else None
    if mapped is None or found.prefixlen < 96:
        return found
    return IPv4Network((mapped, found.prefixlen - 96))


def address(peer: IAddress) -> IPv4Address | IPv6Address | None:
    """Return the IP address of a peer, if it has one."""
    return _address(getattr(peer, "host", None) or "")


@lru_cache(maxsize=256)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def host(peer: IAddress) -> str:
    """Return what tells the machines of peers apart: all peers at UNIX sockets are of one."""
    return _host(getattr(peer, "host", None) or "")


@lru_cache(maxsize=256)
def _host(text: str) -> str:
    return str(_address(text) or "UNIX sockets")


class Networks:
    """Some networks, and perhaps the UNIX sockets of this machine.

    :param texts: addresses, networks, and :data:`UNIX`.
    :raises ValueError: with what is wrong with one of them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = set(texts)
        self._unix = UNIX in texts
        self._networks = [network(text) for text in sorted(texts - {UNIX})]

    def __contains__(self, peer: IAddress) -> bool:
        found = address(peer)
        if found is None:
            return self._unix and isinstance(peer, UNIXAddress)
        return any(found in network for network in self._networks)
