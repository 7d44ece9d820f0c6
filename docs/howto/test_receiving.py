"""How a program that sends instances is tested: by what arrives.

``python -m twisted.trial test_receiving`` runs it.
"""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, serverFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dicomnode import Acceptor, Status, Storage, associate, plan
from dicomnode.testing import MemoryStorage, Network, Reactor

# What is to be tested: a part of some program, that sends a slice, and tries once more where it is refused.


async def send_slice(clock: Any, endpoint: IStreamClientEndpoint, position: float) -> int:
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid()
    image.SliceLocation = position
    association = await associate(clock, endpoint, contexts=plan([image]))
    response = await association.store(image)
    if response.status == Status.OUT_OF_RESOURCES:
        response = await association.store(image)
    await association.release()
    return response.status


class InMemoryTests(SynchronousTestCase):
    """Both ends in memory: no socket, no thread, no wait. For what takes an endpoint."""

    def setUp(self) -> None:
        self.reactor, self.storage = Reactor(), MemoryStorage()
        self.network = Network(self.reactor, Acceptor(self.reactor, [Storage(self.storage)]))

    def test_arrives(self) -> None:
        """A slice arrives as it was sent."""
        sending = Deferred.fromCoroutine(send_slice(self.reactor, self.network, 12.5))
        self.network.exchange()
        self.assertEqual(self.successResultOf(sending), Status.SUCCESS)
        [(instance, data_set)] = self.storage.instances.values()
        self.assertEqual(instance.sop_class_uid, CTImageStorage)
        self.assertIn(b"12.5", data_set)

    def test_a_full_disk(self) -> None:
        """A slice that is refused once is sent again."""
        self.storage.error = OSError("the disk is full")
        self.storage.stalls()
        sending = Deferred.fromCoroutine(send_slice(self.reactor, self.network, 12.5))
        self.network.exchange()
        self.assertNoResult(sending)
        self.storage.recovers()
        self.storage.error = None
        self.network.exchange()
        self.assertEqual(self.successResultOf(sending), Status.SUCCESS)
        self.assertEqual(len(self.storage.instances), 1)


class RealSocketTests(TestCase):
    """A port that is free, for this test. For what is given a host and a port: another process, say."""

    async def receive(self) -> tuple[int, MemoryStorage]:
        """Listen, and return the port and what arrives at it."""
        storage = MemoryStorage()
        acceptor = Acceptor(reactor, [Storage(storage)])
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(acceptor)
        self.addCleanup(acceptor.drain, 1.0)
        self.addCleanup(port.stopListening)
        return port.getHost().port, storage

    async def test_arrives(self) -> None:
        """A slice arrives over a socket."""
        port, storage = await self.receive()
        status = await send_slice(reactor, HostnameEndpoint(reactor, "127.0.0.1", port), 12.5)
        self.assertEqual(status, Status.SUCCESS)
        self.assertEqual(len(storage.instances), 1)
