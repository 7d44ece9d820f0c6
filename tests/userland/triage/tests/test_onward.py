"""Tests of what goes on to the archive."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, Status, Storage
from dicomnode.testing import CalledPeer, MemoryStorage, Network, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE
from triage.onward import Onward
from triage.tests.samples import CT, image, octets


class OnwardTests(SynchronousTestCase):
    """The archive is another node of ours."""

    def setUp(self) -> None:
        self.reactor, self.archived = Reactor(), MemoryStorage()
        self.archive = Network(self.reactor, Acceptor(self.reactor, [Storage(self.archived)]))
        self.onward = Onward(self.reactor, self.archive, "ARCHIVE")
        self.sender = Peer(Acceptor(self.reactor, [Storage(self.onward)]))
        self.sender.associates({CT: [EXPLICIT_VR_LE]})

    def exchange(self) -> None:
        for _ in range(5):
            self.sender.exchange()
            self.archive.exchange()
        self.sender.exchange()

    def test_arrives(self) -> None:
        """What is Success to the sender is in the archive, octet for octet."""
        for uid in ("1.2.3", "1.2.4"):
            data_set = octets(image(uid, 100_000))
            self.sender.stores(uid, data_set)
            self.assertEqual(len(self.sender.responses), len(self.archived.instances))
            self.exchange()
            self.assertEqual(self.sender.response.status, Status.SUCCESS)
            self.assertEqual(self.archived.instances[uid][1], data_set)

    def test_a_slow_archive(self) -> None:
        """Success waits for the archive."""
        self.archived.stalls()
        self.sender.stores("1.2.3", octets(image("1.2.3")))
        self.exchange()
        self.assertEqual(self.sender.responses, [])
        self.archived.recovers()
        self.exchange()
        self.assertEqual(self.sender.response.status, Status.SUCCESS)

    def test_a_full_archive(self) -> None:
        """What the archive refuses is refused with its status."""
        self.archived.error = OSError("full")
        self.sender.stores("1.2.3", octets(image("1.2.3")))
        self.exchange()
        self.assertEqual(self.sender.response.status, Status.OUT_OF_RESOURCES)

    def test_the_archive_goes_away(self) -> None:
        """A lost association fails what was under way; the next instance goes on a new one."""
        self.archived.stalls()
        self.sender.stores("1.2.3", octets(image("1.2.3")))
        self.exchange()
        self.archive.lose()
        self.exchange()
        self.assertEqual(self.sender.response.status, Status.OUT_OF_RESOURCES)
        self.archived.recovers()
        self.sender.stores("1.2.3", octets(image("1.2.3")))
        self.exchange()
        self.assertEqual(self.sender.response.status, Status.SUCCESS)

    def test_the_sender_goes_away(self) -> None:
        """Half an instance is not in the archive."""
        self.sender.begins("1.2.3", octets(image("1.2.3"))[:40])
        self.exchange()
        self.sender.transport.lose()
        self.exchange()
        self.assertEqual(self.archived.instances, {})

    def test_stops(self) -> None:
        """The associations with the archive are released."""
        self.sender.stores("1.2.3", octets(image("1.2.3")))
        self.exchange()
        stopping = Deferred.fromCoroutine(self.onward.stop())
        self.archive.exchange()
        self.successResultOf(stopping)


class ScriptedArchiveTests(SynchronousTestCase):
    """The archive does as it is told."""

    def setUp(self) -> None:
        reactor = Reactor()
        self.archive = CalledPeer(capacity=20_000)
        onward = Onward(reactor, self.archive, "ARCHIVE")
        self.sender = Peer(Acceptor(reactor, [Storage(onward)]), size=10_000)
        self.sender.associates({CT: [EXPLICIT_VR_LE]})
        self.sender.stores("1.2.3", octets(image("1.2.3")))

    def test_rejects(self) -> None:
        """An archive that wants none of us is a failure, with what it said."""
        self.archive.rejects(1, 1, 7)
        self.sender.exchange()
        self.assertEqual(self.sender.response.status, Status.OUT_OF_RESOURCES)

    def test_warns(self) -> None:
        """A warning of the archive is passed on: it has stored the instance."""
        self.archive.accepts()
        self.sender.exchange()
        self.archive.responds(0xB000)
        self.sender.exchange()
        self.assertEqual(self.sender.response.status, 0xB000)

    def test_a_slow_archive_pauses_the_sender(self) -> None:
        """What the archive does not read is not read from the sender."""
        self.archive.accepts()
        self.sender.exchange()
        self.archive.responds(0)
        self.sender.stores("1.2.4", octets(image("1.2.4", 1_000_000)))
        self.assertTrue(self.sender.transport.paused)
        while self.sender.transport.paused:
            self.archive.exchange()
        self.sender.exchange()
        self.archive.responds(0)
        self.sender.exchange()
        self.assertEqual(self.sender.response.status, Status.SUCCESS)
