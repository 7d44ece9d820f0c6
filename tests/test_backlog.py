"""Tests of :mod:`dicomnode.backlog`: what waits for someone slow."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.backlog import Backlog, Total
from dicomnode.fragments import OVERHEAD


def fragment(octets: int) -> bytes:
    """Return a fragment that costs so many octets."""
    return bytes(octets - OVERHEAD)


class BacklogTests(SynchronousTestCase):
    """Of one, and of all."""

    def setUp(self) -> None:
        self.total = Total(6000)
        self.backlog, self.other = (Backlog(4000, 1000, self.total) for _ in range(2))

    def test_own(self) -> None:
        """There is too much above the one mark, and little below the other; what was taken counts."""
        self.assertFalse(self.backlog)
        self.assertTrue(self.backlog.little)
        self.backlog.add([fragment(3000), fragment(1000)])
        self.assertTrue(self.backlog)
        self.assertFalse(self.backlog.too_much)
        self.backlog.add([fragment(300)])
        self.assertTrue(self.backlog.too_much)
        self.assertEqual(self.backlog.take(), [fragment(3000), fragment(1000), fragment(300)])
        self.assertFalse(self.backlog)
        self.backlog.add([fragment(999)])
        self.assertTrue(self.backlog.too_much)
        self.assertFalse(self.backlog.little)
        self.backlog.done()
        self.assertFalse(self.backlog.too_much)
        self.assertTrue(self.backlog.little)
        self.backlog.add([fragment(300)])
        self.assertFalse(self.backlog.little)

    def test_all(self) -> None:
        """While all have too much, whatever one has is too much; who has nothing may bring some."""
        self.other.add([fragment(4000)])
        self.backlog.add([fragment(2000)])
        self.assertFalse(self.backlog.too_much)
        self.backlog.add([fragment(300)])
        self.assertTrue(self.backlog.too_much)
        self.assertTrue(self.other.too_much)
        self.assertTrue(Backlog(4000, 1000, self.total).little)
        self.backlog.take()
        self.other.add([fragment(3000)])
        self.backlog.done()
        self.assertFalse(self.backlog.too_much)
        self.assertTrue(self.backlog.little)
        self.other.take()
        self.other.done()
        self.assertEqual(self.total.octets, 0)

    def test_dropped(self) -> None:
        """What is dropped counts no more: all of it, or what was not taken."""
        for end in (self.backlog.done, self.backlog.clear):
            self.backlog.add([fragment(700)])
            self.backlog.take()
            self.backlog.add([fragment(2000)])
            self.backlog.forget()
            self.assertFalse(self.backlog)
            self.assertEqual(self.total.octets, 700)
            end()
            self.assertEqual(self.total.octets, 0)
        self.backlog.add([fragment(700)])
        self.backlog.clear()
        self.assertFalse(self.backlog)
        self.assertEqual(self.total.octets, 0)
