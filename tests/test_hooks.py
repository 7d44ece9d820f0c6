"""Tests for :mod:`dicomnode.hooks`."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, OperationFailed, Storage, Verification, events, uids
from dicomnode.commits import Sync
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.command import Status
from dicomnode.filestore import FileStorage
from dicomnode.hooks import Arrivals, AssociationHooks, AssociationOver, Hooked, InstanceReceived
from dicomnode.interfaces import Instance, IStorage
from dicomnode.partfile import OnDuplicate
from dicomnode.studies import Studies
from dicomnode.testing import MemoryStorage, Peer, Pool, Reactor
from dicomnode.walking import Threads
from tests.cases import begun, data, store_rq
from tests.servicecases import CT, EXPLICIT_VR_LE, CoroutineStorage, Stubborn, data_set

DEFLATED = "1.2.840.10008.1.2.1.99"


class HookCase(SynchronousTestCase):
    """Tests of hooks at the other end of an association in memory."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.storage = MemoryStorage()
        self.received: list[InstanceReceived] = []

    def associate(
        self,
        *hooks: Any,
        storage: IStorage | None = None,
        studies: Arrivals | None = None,
        observe: events.Observer = events.ignore,
    ) -> Peer:
        hooked = Hooked(storage or self.storage, self.reactor, *hooks, studies=studies)
        services = [Storage(hooked), Verification()]
        peer = Peer(Acceptor(self.reactor, services, observe=observe))
        peer.associates({CT: [EXPLICIT_VR_LE], uids.VERIFICATION: [EXPLICIT_VR_LE]})
        return peer


class InstanceTests(HookCase):
    """A hook is called once an instance is kept."""

    def test_called(self) -> None:
        """Each is called in turn with what was kept, which is there by then."""
        there: list[bool] = []
        peer = self.associate(self.received.append, lambda _: there.append("1.2.3" in self.storage.instances))
        self.reactor.advance(7)
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, Status.SUCCESS)
        (received,) = self.received
        self.assertEqual(received.instance.sop_instance_uid, "1.2.3")
        self.assertEqual(received.instance.walk and received.instance.walk.whole, True)
        self.assertEqual((received.octets, received.time), (len(data_set()), 7.0))
        self.assertEqual((received.path, received.replaced, received.dropped), (None, False, False))
        self.assertEqual(there, [True])

    def test_not_called(self) -> None:
        """None is called for what is not kept, whether it is refused, or the storage fails."""
        peer = self.associate(self.received.append)
        peer.stores("1.2.3", data_set()[:-3])
        self.storage.error = OSError(28, "No space left on device")
        peer.stores("1.2.3", data_set())
        self.assertEqual([response.status for response in peer.responses], [0xC210, 0xA700])
        self.assertEqual(self.received, [])

    def test_waits(self) -> None:
        """The response waits for the hooks, and each for those before it."""
        turns: list[Deferred[None]] = [Deferred(), Deferred()]
        peer = self.associate(lambda _: turns[0], self.received.append, lambda _: turns[1])
        peer.stores("1.2.3", data_set())
        self.assertIn("1.2.3", self.storage.instances)
        self.assertEqual((self.received, peer.responses), ([], []))
        turns[0].callback(None)
        peer.exchange()
        self.assertEqual((len(self.received), peer.responses), (1, []))
        turns[1].callback(None)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_coroutine(self) -> None:
        """It may be a coroutine function, and so may what it stands round."""

        async def hook(received: InstanceReceived) -> None:
            self.received.append(received)

        peer = self.associate(hook, storage=cast(Any, CoroutineStorage()))
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(len(self.received), 1)
        peer.stores("1.2.3", data_set()[:-3])
        self.assertEqual(peer.response.status, 0xC210)

    def test_fails(self) -> None:
        """What it fails with is logged; others are called, Success is answered, the instance stays."""

        def hook(received: InstanceReceived) -> None:
            raise ZeroDivisionError

        peer = self.associate(hook, self.received.append)
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(len(self.received), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_answers(self) -> None:
        """The first OperationFailed is what is answered; others are called, the instance stays."""

        def fails(status: int) -> Any:
            async def hook(received: InstanceReceived) -> None:
                raise OperationFailed(status, "not forwarded")

            return hook

        peer = self.associate(fails(0xA702), fails(0xA703), self.received.append)
        peer.stores("1.2.3", data_set())
        self.assertEqual((peer.response.status, peer.response.error_comment), (0xA702, "not forwarded"))
        self.assertEqual(len(self.received), 1)
        self.assertIn("1.2.3", self.storage.instances)
        self.assertEqual(self.storage.writers[0].ended, "commit")

    def test_association_ends(self) -> None:
        """Hooks go on when the peer has gone."""
        turn: Deferred[None] = Deferred()
        peer = self.associate(lambda _: turn, self.received.append)
        peer.stores("1.2.3", data_set())
        peer.transport.lose()
        self.assertEqual(self.received, [])
        turn.callback(None)
        self.assertEqual(len(self.received), 1)

    def test_files(self) -> None:
        """The path is that of the file, whatever has become of its name."""
        there: list[bool] = []

        def hook(received: InstanceReceived) -> None:
            there.append(os.path.exists(received.path or ""))
            self.received.append(received)

        directory = self.mktemp()
        os.makedirs(directory)
        for on_duplicate, name, said in (
            (OnDuplicate.REPLACE, "CT.1.2.3", (False, False)),
            (OnDuplicate.REPLACE, "CT.1.2.3", (True, False)),
            (OnDuplicate.KEEP, "CT.1.2.3", (False, True)),
            (OnDuplicate.RENAME, "CT.1.2.3~1", (False, False)),
        ):
            storage = FileStorage(
                directory,
                reactor=self.reactor,
                pool=cast(Any, Pool()),
                sync=Sync.NONE,
                on_duplicate=on_duplicate,
            )
            peer = self.associate(hook, storage=storage)
            peer.stores("1.2.3", data_set())
            received = self.received.pop()
            self.assertEqual(received.path, os.path.abspath(os.path.join(directory, name)))
            self.assertEqual((received.replaced, received.dropped), said)
            self.assertTrue(there.pop())


def in_study(study: str) -> bytes:
    """Return a data set of a study, in Explicit VR Little Endian, with pixels."""
    values = Dataset()
    values.SOPClassUID, values.SOPInstanceUID, values.StudyInstanceUID = CT, "1.2.3", study
    values.add_new("PixelData", "OW", bytes(100))
    output = DicomBytesIO()
    output.is_little_endian, output.is_implicit_VR = True, False
    write_dataset(output, values)
    return output.getvalue()


class Told:
    """Remembers what it is told of studies."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begun(self, instance: Instance) -> None:
        assert getattr(instance.walk, "study_instance_uid", None) == "1.2"
        self.said.append("begun")

    def given_up(self, instance: Instance) -> None:
        self.said.append("given up")

    def received(self, received: InstanceReceived) -> None:
        self.said.append("received")


class StudyTests(HookCase):
    """Studies are told what arrives and what does not."""

    def test_told(self) -> None:
        """They know what is arriving, until it is kept, given up, or cannot be kept."""
        ended: list[Any] = []
        studies = Studies(self.reactor, ended.append, quiet=10.0)
        peer = self.associate(studies=studies)
        arriving: list[int] = []
        self.patch(studies, "received", lambda received: arriving.append(len(studies._arriving)))
        peer.stores("1.2.3", in_study("1.2"))
        self.assertEqual(arriving, [1])
        studies._arriving.clear()
        peer.stores("1.2.3", in_study("1.2")[:-3])
        self.assertEqual(studies._arriving, {})
        peer.stores("1.2.3", data_set())
        self.assertEqual(arriving, [1, 0])
        stubborn = Stubborn()
        stubborn.committing = OSError(28, "No space left on device")
        for studied in (studies, None):
            peer = self.associate(self.received.append, storage=stubborn, studies=studied)
            peer.stores("1.2.3", in_study("1.2"))
            self.assertEqual(peer.response.status, 0xA700)
        self.assertEqual((studies._arriving, self.received), ({}, []))

    def test_once(self) -> None:
        """That an instance is arriving is said once, when its walk has come to know of which study it is."""
        studies = Told()
        peer = self.associate(studies=studies)
        context, octets = peer.context(CT).id, in_study("1.2")
        known = octets.index(b"\x20\0\x0d\0UI") + 12
        peer.sends(begun(context, store_rq()) + data(context, octets[: known - 1], last=False))
        self.assertEqual(studies.said, [])
        for octet in range(known - 1, len(octets) - 1):
            peer.sends(data(context, octets[octet : octet + 1], last=False))
            self.assertEqual(studies.said, ["begun"])
        peer.sends(data(context, octets[-1:]))
        self.assertEqual((peer.response.status, studies.said), (Status.SUCCESS, ["begun", "received"]))

    def test_deflated(self) -> None:
        """What is walked in a thread may have been written by then: it is said before that is kept."""
        studies = Told()
        pool = Pool()
        hooked = Hooked(self.storage, self.reactor, studies=studies)
        storage = Storage(hooked, threads=Threads(self.reactor, cast(Any, pool)))
        peer = Peer(Acceptor(self.reactor, [storage]))
        peer.associates({CT: [DEFLATED]})
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        octets = deflate.compress(in_study("1.2")) + deflate.flush()
        peer.stores("1.2.3", octets + b"\0" * (len(octets) % 2))
        self.assertEqual(studies.said, [])
        pool.run()
        peer.exchange()
        self.assertEqual((peer.response.status, studies.said), (Status.SUCCESS, ["begun", "received"]))


class AssociationTests(HookCase):
    """A hook is called when an association is over."""

    def setUp(self) -> None:
        super().setUp()
        self.over: list[AssociationOver] = []

    def test_wants(self) -> None:
        """It is told of no more than it needs."""
        hooks = AssociationHooks()
        self.assertTrue(hooks.wants(events.OperationEnded))
        self.assertFalse(hooks.wants(events.OperationStarted))

    def test_over(self) -> None:
        """It is told how an association ended, and what was stored on it."""
        peer = self.associate(observe=AssociationHooks(self.over.append))
        association = peer.association
        peer.stores("1.2.3", data_set())
        peer.stores("1.2.4", data_set("1.2.4"))
        peer.stores("1.2.5", data_set())
        peer.echoes()
        self.reactor.advance(3)
        peer.releases()
        self.assertEqual(self.over, [])
        peer.transport.lose()
        octets = len(data_set()) + len(data_set("1.2.4"))
        self.assertEqual(self.over, [AssociationOver(association, "released", 3.0, 2, octets)])

    def test_warning(self) -> None:
        """What is stored with a warning is stored: a hook is told, and it counts."""
        storage = Stubborn()
        storage.committing = succeed(0xB006)
        peer = self.associate(
            self.received.append, storage=cast(Any, storage), observe=AssociationHooks(self.over.append)
        )
        peer.stores("1.2.3", data_set())
        self.assertEqual(peer.response.status, 0xB006)
        self.assertEqual(len(self.received), 1)
        peer.transport.lose()
        self.assertEqual([(over.instances, over.octets) for over in self.over], [(1, len(data_set()))])

    def test_never(self) -> None:
        """It is not told of what has been none."""
        hooks = AssociationHooks(self.over.append)
        acceptor = Acceptor(self.reactor, [Verification()], observe=hooks)
        Peer(acceptor).transport.lose()
        peer = self.associate(observe=hooks)
        peer.stores("1.2.3", data_set())
        peer.transport.lose()
        self.assertEqual([(over.how, over.instances) for over in self.over], [("lost", 1)])

    def test_fails(self) -> None:
        """What it fails with is logged, and the others are called."""

        async def hook(over: AssociationOver) -> None:
            raise OperationFailed(0xA700)

        peer = self.associate(observe=AssociationHooks(hook, self.over.append))
        peer.transport.lose()
        self.assertEqual(len(self.over), 1)
        self.assertEqual(len(self.flushLoggedErrors(OperationFailed)), 1)


class ContractTests(InstanceWriterContract, SynchronousTestCase):
    """It keeps the promises of a storage, if what it stands round does."""

    def setUp(self) -> None:
        self.storage = MemoryStorage()
        clock = Reactor()
        self.hooked = Hooked(self.storage, clock, lambda _: None, studies=Studies(clock))

    def open_storage(self) -> IStorage:
        return self.hooked

    def kept(self, what: Instance) -> bytes | None:
        return self.storage.instances.get(what.sop_instance_uid, (what, None))[1]

    def leftovers(self) -> Sequence[object]:
        return ()
