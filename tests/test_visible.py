"""Tests for :mod:`dicomnode.visible`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.visible import LIMIT, spoken, visible
from tests.core.helpers import stable


class VisibleTests(SynchronousTestCase):
    """What a peer says is shown on one line, and bounded."""

    def test_printable(self) -> None:
        """What can be printed stays as it is, in any script, spaces and backslashes too."""
        for text in ("", "ANY-SCP", "  A  B ", "José Müller", "山田", "DOMAIN\\user", "[x]"):
            self.assertEqual(visible(text), text)

    def test_escapes(self) -> None:
        """Controls, separators, surrogates and directions of writing are shown as escapes."""
        self.assertEqual(visible("A\nI: Accepting"), r"A\x0aI: Accepting")
        self.assertEqual(visible("\0\x1b[2J\x7f\x85\x9b"), r"\x00\x1b[2J\x7f\x85\x9b")
        self.assertEqual(visible("\u2028\u2029\ud800\u202e"), r"\u2028\u2029\ud800\u202e")
        self.assertEqual(visible("\U000e0001"), r"\U000e0001")

    def test_limit(self) -> None:
        """A long text is cut, and it is said how much is missing."""
        self.assertEqual(visible("x" * LIMIT), "x" * LIMIT)
        self.assertEqual(visible("x" * (LIMIT + 7)), "x" * LIMIT + "... (7 more)")
        self.assertEqual(visible("abcdef", 4), "abcd... (2 more)")

    @given(st.text())
    @stable
    def test_any_text(self, text: str) -> None:
        """Whatever it is, it is printable, on one line; and showing it again changes nothing."""
        shown = visible(text)
        self.assertTrue(shown.isprintable())
        self.assertEqual(len(shown.splitlines() or [""]), 1)
        self.assertEqual(visible(shown, len(shown)), shown)


class Anywhere:
    """An address of a kind that nobody has foreseen."""

    def __str__(self) -> str:
        return "over\nthere"


class SpokenTests(SynchronousTestCase):
    """Addresses are written as is usual."""

    def test_addresses(self) -> None:
        """Hosts with their ports, IPv6 in brackets; paths; and whatever else as it calls itself."""
        for address, said in (
            (IPv4Address("TCP", "192.0.2.1", 104), "192.0.2.1:104"),
            (IPv6Address("TCP", "2001:db8::1", 104), "[2001:db8::1]:104"),
            (UNIXAddress(b"/run/dicom\n\xff"), r"/run/dicom\x0a\xff"),
            (UNIXAddress(None), "a local socket"),
            (Anywhere(), r"over\x0athere"),
        ):
            self.assertEqual(spoken(address), said)  # type: ignore[arg-type]
