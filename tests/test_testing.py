"""Tests of :mod:`dicomnode.testing`: the doubles do what their originals do."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from typing import cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IReactorFromThreads,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.threads import deferToThreadPool
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.association import ReleaseConfirmed
from dicomnode.core.items import UserInformation
from dicomnode.interfaces import IAssociation, IInstanceWriter, Instance, IStorage
from dicomnode.services import Storage, Verification
from dicomnode.testing import (
    MemoryStorage,
    Peer,
    Pool,
    Reactor,
    Recorder,
    Transport,
)
from dicomnode.uids import VERIFICATION

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"


class RecorderTests(SynchronousTestCase):
    def test_events(self) -> None:
        """A recorder remembers what it is told, in order, and tells kinds apart."""
        recorder = Recorder()
        first = events.Listening(IPv4Address("TCP", "192.0.2.1", 104))
        second = events.Listening(IPv4Address("TCP", "192.0.2.1", 11112))
        recorder(first)
        recorder(second)
        self.assertEqual(recorder.events, [first, second])
        self.assertEqual(recorder.of(events.Listening), [first, second])
        self.assertEqual(recorder.of(events.Paused), [])


class PoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.pool = Pool()

    def test_reactor(self) -> None:
        """The reactor has a clock, and takes reports from threads."""
        verifyObject(IReactorFromThreads, self.reactor)
        verifyObject(IReactorTime, self.reactor)

    def test_told(self) -> None:
        """A job is done when the pool is told so."""
        job = deferToThreadPool(self.reactor, self.pool, sum, [1, 2])
        self.assertNoResult(job)
        self.pool.run()
        self.assertEqual(self.successResultOf(job), 3)

    def test_some(self) -> None:
        """So many jobs are done as it is told; or all, with those that they lead to."""
        jobs = [deferToThreadPool(self.reactor, self.pool, int) for _ in range(3)]
        jobs[0].addCallback(lambda _: deferToThreadPool(self.reactor, self.pool, int))
        self.pool.run(1)
        self.assertEqual(len(self.pool.jobs), 3)
        self.pool.run()
        for job in jobs:
            self.assertEqual(self.successResultOf(job), 0)

    def test_failure(self) -> None:
        """A job that fails does so to who waits for it."""
        job = deferToThreadPool(self.reactor, self.pool, int, "one")
        self.pool.run()
        self.failureResultOf(job, ValueError)

    def test_no_one_waits(self) -> None:
        """A job may be of interest to no one."""
        done: list[int] = []
        self.pool.callInThreadWithCallback(None, done.append, 1)
        self.pool.run()
        self.assertEqual(done, [1])

    def test_life(self) -> None:
        """A pool knows whether it was started."""
        self.pool.start()
        self.assertTrue(self.pool.running)
        self.pool.stop()
        self.assertFalse(self.pool.running)


class Listener(Protocol):
    """Notes what it is told; pauses its transport at each octet named in ``pauses_at``."""

    pauses_at = b""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def connectionMade(self) -> None:
        self.told.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)
        if data in self.pauses_at:
            self.transport.pauseProducing()

    def connectionLost(self, reason: object = None) -> None:
        self.told.append("lost")


class TransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.protocol = Listener()
        self.transport = Transport(self.protocol)
        self.transport.connect()
        self.protocol.told.clear()

    def test_interfaces(self) -> None:
        """It provides what a TCP transport does."""
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, self.transport)

    def test_deliver(self) -> None:
        """What is delivered arrives whole, or in reads of a size."""
        self.transport.deliver(b"whole")
        self.transport.deliver(b"parts", 2)
        self.assertEqual(self.protocol.told, [b"whole", b"pa", b"rt", b"s"])

    def test_paused(self) -> None:
        """While it is paused nothing arrives, and nothing is lost."""
        self.protocol.pauses_at = b"b"
        self.transport.deliver(b"abc", 1)
        self.assertEqual(self.protocol.told, [b"a", b"b"])
        self.transport.resumeProducing()
        self.assertEqual(self.protocol.told, [b"a", b"b", b"c"])

    def test_delivered_meanwhile(self) -> None:
        """What is delivered while something arrives, arrives behind it."""
        self.protocol.dataReceived = lambda data: (  # type: ignore[method-assign]
            Listener.dataReceived(self.protocol, data),
            self.transport.deliver(b"c") if data == b"a" else None,
        )
        self.transport.deliver(b"ab", 1)
        self.assertEqual(self.protocol.told, [b"a", b"b", b"c"])

    def test_written(self) -> None:
        """What is written can be counted, and taken once."""
        self.transport.write(b"one")
        self.transport.writeSequence([b"t", b"wo"])
        self.assertEqual(self.transport.written, [b"one", b"two"])
        self.assertEqual(self.transport.taken(), b"onetwo")
        self.assertEqual(self.transport.taken(), b"")

    def test_closing(self) -> None:
        """A connection that is being closed takes and delivers nothing more."""
        for close in (self.transport.loseConnection, self.transport.stopProducing):
            close()
            self.transport.write(b"data")
            self.transport.deliver(b"data")
            self.assertTrue(self.transport.disconnecting)
            self.assertEqual((self.protocol.told, self.transport.taken()), ([], b""))

    def test_aborted(self) -> None:
        """An aborted connection is told from a closed one."""
        self.transport.abortConnection()
        self.assertTrue(self.transport.aborted)
        self.assertTrue(self.transport.disconnecting)

    def test_lost(self) -> None:
        """A connection is lost once."""
        self.transport.lose()
        self.transport.lose(connectionDone)
        self.transport.deliver(b"data")
        self.assertEqual(self.protocol.told, ["lost"])

    def test_no_half_close(self) -> None:
        """Who half-closes is told that associations do not."""
        self.assertRaises(NotImplementedError, self.transport.loseWriteConnection)

    def test_options(self) -> None:
        """TCP_NODELAY is remembered; addresses are those of the documentation."""
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.assertTrue(self.transport.getTcpNoDelay())
        self.assertFalse(self.transport.getTcpKeepAlive())
        self.assertEqual(self.transport.getPeer().host, "192.0.2.1")
        self.assertEqual(self.transport.getHost().host, "192.0.2.2")

    def test_producer(self) -> None:
        """There is one producer at a time."""
        self.transport.registerProducer(self.transport, True)
        self.assertRaises(AssertionError, self.transport.registerProducer, self.transport, True)
        self.transport.unregisterProducer()
        self.assertIsNone(self.transport.producer)


class PeerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.storage = MemoryStorage()
        self.acceptor = Acceptor(Reactor(), [Verification(), Storage(self.storage, check=False)])

    def peer(self, size: int | None = None) -> Peer:
        peer = Peer(self.acceptor, size)
        self.addCleanup(peer.transport.lose)
        return peer

    def test_echo(self) -> None:
        """A peer that says nothing else asks for the Verification SOP Class."""
        peer = self.peer()
        peer.associates()
        peer.echoes()
        self.assertEqual(peer.response.status, 0)

    def test_half(self) -> None:
        """A peer may send some of a data set, and go on, or not."""
        peer = self.peer()
        peer.associates({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]})
        peer.begins("1.2.3", b"one ")
        self.assertEqual(self.storage.writers[-1].data, [b"one "])
        peer.goes_on(b"two ")
        self.assertEqual(peer.responses, [])
        peer.goes_on(b"three", last=True)
        self.assertEqual(peer.response.status, 0)
        self.assertEqual(self.storage.instances["1.2.3"][1], b"one two three")
        peer.begins("1.2.4", b"")
        self.assertEqual(self.storage.writers[-1].data, [])
        peer.transport.lose()
        self.assertEqual(self.storage.writers[-1].ended, "abort")

    def test_store(self) -> None:
        """A peer stores an instance of its first context's SOP Class, whatever the size of reads."""
        for size in (1, 100, None):
            peer = self.peer(size)
            peer.associates({CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], VERIFICATION: [IMPLICIT_VR_LE]})
            peer.stores("1.2.3", b"data")
            peer.stores("1.2.4", b"data", CT_IMAGE_STORAGE, move_originator_ae_title="MOVER")
            self.assertEqual([response.status for response in peer.responses], [0, 0])
            self.assertEqual([*self.storage.instances], ["1.2.3", "1.2.4"])

    def test_user_information(self) -> None:
        """A peer says of itself what it is told to."""
        peer = self.peer()
        peer.associates(calling="ME", called="YOU", user_information=UserInformation(max_length=20))
        self.assertEqual(peer.association.calling_ae_title, "ME")
        self.assertEqual(peer.association.called_ae_title, "YOU")

    def test_release(self) -> None:
        """A peer may release, and answer a release."""
        peer = self.peer()
        peer.associates()
        peer.releases()
        self.assertEqual(peer.indications[-1], ReleaseConfirmed())
        peer = self.peer()
        peer.associates()
        released = peer.association.release()
        peer.exchange()
        peer.answers_release()
        self.successResultOf(released)

    def test_abort(self) -> None:
        """A peer may abort, and send anything at all."""
        for end in (Peer.aborts, lambda peer: peer.sends(b"anything")):
            peer = self.peer()
            peer.associates()
            end(peer)
            self.assertEqual(peer.association._how, "aborted")

    def test_no_one_is_there(self) -> None:
        """An acceptor that accepts no one any more has no peers."""
        self.acceptor.drain(0)
        self.assertRaises(AssertionError, Peer, self.acceptor)


class MemoryStorageTests(SynchronousTestCase):
    """The storage stalls and fails as disks do; that it keeps its contract is told elsewhere, too."""

    def setUp(self) -> None:
        self.storage = MemoryStorage()

    def writer(self) -> IInstanceWriter:
        return self.successResultOf(self.storage.open(_instance()))

    def test_interfaces(self) -> None:
        """They provide what storages and writers do."""
        verifyObject(IStorage, self.storage)
        verifyObject(IInstanceWriter, self.writer())

    def test_stalls(self) -> None:
        """Nothing opens, and no commit ends, until it recovers."""
        writer = self.writer()
        self.storage.stalls()
        opening, committing = self.storage.open(_instance()), writer.commit()
        self.assertNoResult(opening)
        self.assertNoResult(committing)
        self.storage.recovers()
        self.successResultOf(opening)
        self.successResultOf(committing)
        self.assertEqual(len(self.storage.writers), 2)

    def test_recovers_from_nothing(self) -> None:
        """To recover what does not stall does nothing."""
        self.storage.recovers()
        self.assertFalse(self.writer().ended)

    def test_fails(self) -> None:
        """While it has an error, open and commit fail with it."""
        writer = self.writer()
        self.storage.error = OSError(28, "No space left on device")
        self.failureResultOf(self.storage.open(_instance()), OSError)
        self.failureResultOf(writer.commit(), OSError)
        self.assertEqual(self.storage.instances, {})

    def test_opening_cancelled(self) -> None:
        """An opening that is cancelled gives no writer to no one."""
        self.storage.stalls()
        opening = self.storage.open(_instance())
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.storage.recovers()
        self.assertEqual(self.storage.writers, [])

    def test_ends_once(self) -> None:
        """A writer objects when it is told to end twice."""
        for first, second in (("commit", "abort"), ("abort", "commit"), ("abort", "abort")):
            writer = self.writer()
            getattr(writer, first)()
            self.assertRaises(AssertionError, getattr(writer, second))


class MemoryWriterContractTests(InstanceWriterContract, SynchronousTestCase):
    """The storage in memory keeps the contract of writers, and the contract can be kept."""

    def setUp(self) -> None:
        self.storage = MemoryStorage()

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        return self.storage.instances.get(what.sop_instance_uid, (what, None))[1]


class StallingMemoryWriterContractTests(MemoryWriterContractTests):
    """So it does when it is slow."""

    def setUp(self) -> None:
        super().setUp()
        self.storage.stalls()

    def settle(self) -> None:
        self.storage.recovers()
        self.storage.stalls()


class ContractTests(SynchronousTestCase):
    def test_association(self) -> None:
        """The instances of a contract come on one association, as those of a peer do."""
        contract = InstanceWriterContract()
        first, second = contract.instance(), contract.instance("1.2.4")
        self.assertIs(first.association, second.association)
        self.assertEqual(first.association.calling_ae_title, first.calling_ae_title)
        self.assertNoResult(first.association.when_ended())

    def test_who_it_is_about(self) -> None:
        """The contract asks whoever mixes it in for a storage, and for what that keeps."""
        contract = InstanceWriterContract()
        self.assertRaises(NotImplementedError, contract.open_storage)
        self.assertRaises(NotImplementedError, contract.kept, _instance())


def _instance() -> Instance:
    return Instance(CT_IMAGE_STORAGE, "1.2.3", IMPLICIT_VR_LE, "PEER", "ANY-SCP", cast(IAssociation, None))
