"""Tests for :mod:`dicomnode.ledger`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.pdu import AssociateRJ
from dicomnode.errors import AssociationRejected
from dicomnode.ledger import Ledger, Page, SharedSlots
from dicomnode.limits import Limits
from dicomnode.services import Verification
from tests.cases import ShellTestCase


class Association:
    """An association, as far as limits are concerned."""

    def __init__(self, calling: str = "PEER", where: str | None = "192.0.2.1") -> None:
        self.calling_ae_title = calling
        self.peer = UNIXAddress(None) if where is None else IPv4Address("TCP", where, 50000)


class LedgerCase(SynchronousTestCase):
    """Tests of processes that share a ledger."""

    def ledger(self, regions: int = 2, records: int = 4) -> Ledger:
        ledger = Ledger.make(regions, records)
        self.addCleanup(os.close, ledger.descriptor)
        return ledger

    def slots(self, *, processes: int = 2, records: int = 4, **limits: int) -> list[SharedSlots]:
        """Return the slots of each process, which sees the ledger by itself."""
        ledger = self.ledger(processes, records)
        chosen = Limits(**{"associations": 0, **limits})
        return [
            SharedSlots(chosen, Page(Ledger(ledger.descriptor, processes, records), region))
            for region in range(processes)
        ]

    def take(self, slots: SharedSlots, *who: str | None) -> Any:
        association: Any = Association(*who)  # type: ignore[arg-type]
        slots.connected()
        slots.take(association, association.peer)
        return association

    def assert_refused(self, slots: SharedSlots, why: str, *who: str | None) -> None:
        error = self.assertRaises(AssociationRejected, self.take, slots, *who)
        self.assertEqual((error.result, error.source, error.reason), (2, 3, 2))
        self.assertEqual(str(error), why)


class SlotTests(LedgerCase):
    """A slot that one process holds counts for all."""

    def test_in_all(self) -> None:
        """The limit is that of all together; who holds most of them is named, wherever that is."""
        one, other = self.slots(associations=3)
        self.take(one, "CT1", "192.0.2.2")
        self.take(other, "MR1")
        first = self.take(one, "CT1", "192.0.2.2")
        self.assertEqual((len(one), len(other)), (3, 3))
        for slots in (one, other):
            why = "all 3 associations are in use, most of them by CT1 at 192.0.2.2 (2)"
            self.assert_refused(slots, why)
        one.free(first)
        self.take(other)
        self.assertEqual(len(one), 3)

    def test_per_host(self) -> None:
        """So it is with those of one address; peers at UNIX sockets have none."""
        one, other = self.slots(per_host=2, records=9)
        self.take(one, "CT1")
        self.take(other, "CT2")
        why = "all 2 associations of 192.0.2.1 are in use, most of them by CT1 at 192.0.2.1 (1)"
        self.assert_refused(other, why)
        self.take(other, "CT1", "192.0.2.2")
        for _ in range(3):
            self.take(one, "CT1", None)

    def test_per_ae_title(self) -> None:
        """So it is with those of one title."""
        one, other = self.slots(per_ae_title=1)
        held = self.take(one, "")
        why = "all 1 associations of no title are in use, most of them by no title at 192.0.2.1 (1)"
        self.assert_refused(other, why, "", "192.0.2.2")
        self.take(other, "CT1")
        one.free(held)
        self.take(other, "")

    def test_freed(self) -> None:
        """Places are used again, lowest first; who had no slot frees none."""
        one, other = self.slots(associations=4)
        held = [self.take(one, f"CT{number}") for number in range(4)]
        for association in (held[2], held[0]):
            one.free(association)
        one.connected()
        one.free(Association())  # type: ignore[arg-type]
        self.take(one, "MR1")
        titles = [title.rstrip(b"\0") for _, title in other._page.ledger.holders()]
        self.assertEqual(titles, [b"MR1", b"CT1", b"CT3"])
        self.assertEqual((len(one), len(other), one._page.connections), (3, 3, 3))

    def test_full(self) -> None:
        """Where a process has no place for more, though nothing else limits it, it says so."""
        one, other = self.slots(records=1)
        self.take(one)
        self.assert_refused(one, "all 1 associations of this process are in use")
        self.take(other)

    def test_long_names(self) -> None:
        """Names that are longer than any there are count by their beginning, and break nothing."""
        one, other = self.slots(per_ae_title=1)
        title = "\N{SNOWMAN}" * 40
        self.take(one, title)
        self.assertRaises(AssociationRejected, self.take, other, title)
        self.take(other, "CT1")

    def test_dead_process(self) -> None:
        """What a dead process held is free, and who takes its place begins with nothing."""
        one, other = self.slots(associations=2)
        self.take(one)
        self.take(one)
        other._page.ledger.clear(0)
        self.assertEqual(len(other), 0)
        self.take(other)
        again = Page(one._page.ledger, 0)
        self.assertEqual((again.connections, again.full, again.hold(("x", "y"))), (0, False, 0))


class ConnectionTests(LedgerCase):
    """Processes know who has fewest connections."""

    def test_fewest(self) -> None:
        """It is fewest of those that listen; none, while no one does."""
        ledger = self.ledger(3)
        pages = [Page(ledger, region) for region in range(3)]
        for page, connections in zip(pages, (3, 2, 1), strict=True):
            page.connections = connections
        self.assertEqual(ledger.fewest(), 0)
        for page, fewest in zip(pages, (3, 2, 1), strict=True):
            page.listens(True)
            self.assertEqual(ledger.fewest(), fewest)
        pages[2].listens(False)
        self.assertEqual(ledger.fewest(), 2)

    def test_without_memfd(self) -> None:
        """Where there is no memory without a file, there is a file without a name."""
        make = getattr(os, "memfd_create", None)
        if make is not None:
            self.addCleanup(setattr, os, "memfd_create", make)
            del os.memfd_create
        page = Page(self.ledger(), 1)
        page.hold(("192.0.2.1", "CT1"))
        self.assertEqual(page.ledger.held(), 1)


class AcceptorTests(ShellTestCase):
    """An acceptor asks the slots that it is given."""

    def test_acceptor(self) -> None:
        """It tells them of each connection, takes slots, and frees them."""
        ledger = Ledger.make(2, 4)
        self.addCleanup(os.close, ledger.descriptor)
        limits = Limits(associations=1)
        page = Page(ledger, 0)
        self.accepts(Verification(), limits=limits, slots=SharedSlots(limits, page))
        peer, silent = self.associates(), self.connects()
        self.assertEqual((page.connections, ledger.held()), (2, 1))
        self.assertAnswered(self.associates(), AssociateRJ(2, 3, 2))
        peer.transport.lose()
        silent.transport.lose()
        self.assertEqual((page.connections, ledger.held()), (1, 0))
