"""Tests for :mod:`dicomnode.networks`."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.networks import Networks, address, host, network

UNIX_PEER: Any = UNIXAddress(None)


def ipv4(text: str) -> Any:
    return IPv4Address("TCP", text, 50000)


def ipv6(text: str) -> Any:
    return IPv6Address("TCP", text, 50000)


class NetworkTests(SynchronousTestCase):
    """A network is written as everywhere."""

    def test_network(self) -> None:
        """It is an address, or a network in CIDR; an IPv4 network within IPv6 is the IPv4 network."""
        for text, expected in (
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("2001:db8::/64", "2001:db8::/64"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/80", "::/80"),
        ):
            self.assertEqual(str(network(text)), expected)

    def test_no_network(self) -> None:
        """What is none is said not to be, and what is an address within one, to be that."""
        for text, why in (
            ("", "'' is not an IP address or network"),
            ("modality", "'modality' is not an IP address or network"),
            ("192.0.2.256", "'192.0.2.256' is not an IP address or network"),
            ("192.0.2.0/33", "'192.0.2.0/33' is not an IP address or network"),
            ("192.0.2.7/24", "'192.0.2.7/24' is an address inside a network; the network is 192.0.2.0/24"),
        ):
            error = self.assertRaises(ValueError, network, text)
            self.assertEqual(str(error), why)

    def test_address(self) -> None:
        """A peer has an IP address, unless it is at a UNIX socket, or no one knows where."""
        for peer, expected in (
            (ipv4("192.0.2.1"), "192.0.2.1"),
            (ipv6("2001:db8::1"), "2001:db8::1"),
            (ipv6("fe80::1%eth0"), "fe80::1%eth0"),
            (ipv6("::ffff:192.0.2.1"), "192.0.2.1"),
            (ipv4("somewhere"), "None"),
            (UNIX_PEER, "None"),
            (None, "None"),
        ):
            self.assertEqual(str(address(peer)), expected)

    def test_host(self) -> None:
        """Machines are told apart by address; all at UNIX sockets are one."""
        self.assertEqual(host(ipv4("192.0.2.1")), host(ipv6("::ffff:192.0.2.1")))
        self.assertEqual(host(UNIX_PEER), "UNIX sockets")

    def test_within(self) -> None:
        """A peer is within some networks when it is in one of them."""
        networks = Networks(["192.0.2.0/28", "2001:db8::/64", "::ffff:198.51.100.7"])
        for peer, within in (
            (ipv4("192.0.2.1"), True),
            (ipv4("192.0.2.16"), False),
            (ipv6("::ffff:192.0.2.1"), True),
            (ipv6("::ffff:192.0.2.16"), False),
            (ipv4("198.51.100.7"), True),
            (ipv6("2001:db8::7"), True),
            (ipv6("2001:db8:1::7"), False),
            (UNIX_PEER, False),
            (None, False),
        ):
            self.assertEqual(peer in networks, within, peer)

    def test_link_local(self) -> None:
        """The interface of a link-local address is not compared."""
        self.assertIn(ipv6("fe80::1%eth0"), Networks(["fe80::/10"]))

    def test_everyone(self) -> None:
        """No network of a family has addresses of the other."""
        self.assertIn(ipv6("::ffff:192.0.2.1"), Networks(["0.0.0.0/0"]))
        self.assertNotIn(ipv4("192.0.2.1"), Networks(["::/0"]))

    def test_unix(self) -> None:
        """UNIX sockets are meant only where they are named."""
        networks = Networks(["unix"])
        self.assertIn(UNIX_PEER, networks)
        self.assertNotIn(ipv4("192.0.2.1"), networks)
        self.assertNotIn(None, networks)
