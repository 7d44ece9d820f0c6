"""Tests of :mod:`dicomnode.wire`: octets on their way to a transport."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode import wire
from dicomnode.testing import Transport
from dicomnode.wire import BULK_READ, CROWD, LARGE, LARGE_READ, LEAST_READ, LONG, READ, Reads, Wire


class Socket:
    """Remembers what options it was given."""

    def __init__(self) -> None:
        self.options: list[tuple[int, int, int]] = []
        self.closed = False
        self.descriptor = 0

    def fileno(self) -> int:
        return -1 if self.closed else self.descriptor

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self.closed:
            raise OSError("closed")
        self.options.append((level, option, value))


@implementer(ITCPTransport)
class Descriptor(FileDescriptor):  # type: ignore[misc]  # of ITCPTransport, only what is asked of it
    """A descriptor that takes so many octets at a time."""

    connected = 1
    TLS = False

    def __init__(self) -> None:
        super().__init__(MemoryReactor())
        self.takes: int | Exception = 1 << 20
        self.sent: list[bytes] = []
        self.no_delay = False
        self.reads = 0
        self.aborted = False
        self.protocol: Protocol | None = None
        self.socket = Socket()

    def doRead(self) -> None:
        self.reads += 1

    def abortConnection(self) -> None:
        self.aborted = True

    def writeSomeData(self, data: bytes) -> int | Exception:
        if isinstance(self.takes, Exception):
            return self.takes
        self.sent.append(bytes(data[: self.takes]))
        return len(self.sent[-1])

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 11112)

    def getHandle(self) -> Socket:
        return self.socket

    @property
    def waits(self) -> bool:
        """Does it wait until the socket can be written to?"""
        return self in self.reactor.getWriters()


class WireTests(SynchronousTestCase):
    """What is written leaves at once, and in order."""

    def setUp(self) -> None:
        self.reads = Reads()
        self.descriptor = Descriptor()
        self.wire = self.wired(self.descriptor)

    def wired(self, transport: Any) -> Wire:
        return Wire(transport, self.reads)

    def test_at_once(self) -> None:
        """What the socket takes is not left for the reactor."""
        self.wire.write(b"response")
        self.assertEqual(self.descriptor.sent, [b"response"])
        self.assertFalse(self.descriptor.waits)

    def test_no_delay(self) -> None:
        """A small response does not wait for the acknowledgement of another."""
        self.assertTrue(self.descriptor.no_delay)

    def test_read(self) -> None:
        """What has come is read at once, where there is nobody in between who has to have it first."""
        protocol = self.descriptor.protocol = Protocol()
        self.wire.read(protocol)
        self.assertEqual(self.descriptor.reads, 1)
        self.wire.read(Protocol())
        self.assertEqual(self.descriptor.reads, 1)
        wrapped = Descriptor()
        wrapped.protocol = wrapper = ProtocolWrapper(WrappingFactory(Factory.forProtocol(Protocol)), protocol)
        wrapper.makeConnection(wrapped)
        self.wired(wrapper).read(protocol)
        self.assertEqual(wrapped.reads, 0)

    def test_rest(self) -> None:
        """What the socket does not take follows as soon as it can."""
        for takes in (0, 3, 7):
            descriptor = Descriptor()
            wired = self.wired(descriptor)
            descriptor.takes = takes
            wired.write(b"response")
            self.assertTrue(descriptor.waits)
            descriptor.takes = 100
            descriptor.doWrite()
            self.assertEqual(b"".join(descriptor.sent), b"response")

    def test_outstanding(self) -> None:
        """What waits here is told with what the system has of it, as far as there is anyone to tell."""
        self.descriptor.socket.closed = True
        self.descriptor.takes = 3
        self.wire.write(b"response")
        self.assertEqual(self.wire.outstanding(), 5)
        self.descriptor.doWrite()
        self.assertEqual(self.wire.outstanding(), 2)
        ours, theirs = socket.socketpair()
        self.descriptor.socket.closed = False
        self.descriptor.socket.descriptor = ours.fileno()
        with ours, theirs:
            self.assertEqual(self.wire.outstanding(), 2)
            ours.send(b"not read")
            self.assertGreater(self.wire.outstanding(), 2)
            theirs.recv(100)
            self.assertEqual(self.wire.outstanding(), 2)
        self.assertEqual(self.wired(Transport(Protocol())).outstanding(), 0)

    def test_order(self) -> None:
        """Nothing overtakes what waits."""
        self.descriptor.takes = 3
        self.wire.write(b"first")
        self.wire.write(b"second")
        self.assertEqual(self.descriptor.sent, [b"fir"])
        self.descriptor.takes = 3
        self.descriptor.doWrite()
        self.descriptor.takes = 100
        self.wire.write(b"third")
        self.descriptor.doWrite()
        self.assertEqual(b"".join(self.descriptor.sent), b"firstsecondthird")

    def test_lost(self) -> None:
        """A connection that turns out to be lost is left for the transport to find."""
        self.descriptor.takes = CONNECTION_LOST
        self.wire.write(b"response")
        self.assertTrue(self.descriptor.waits)
        self.assertIs(self.descriptor.doWrite(), CONNECTION_LOST)

    def test_disconnecting(self) -> None:
        """Nothing is sent on a connection that is closed, or being closed."""
        for attribute, value in (("disconnecting", True), ("connected", 0)):
            descriptor = Descriptor()
            setattr(descriptor, attribute, value)
            self.wired(descriptor).write(b"response")
            self.assertEqual(descriptor.sent, [])

    def test_encrypted(self) -> None:
        """What TLS is to encrypt is not sent past it."""
        self.descriptor.TLS = True
        self.wired(self.descriptor).write(b"response")
        self.assertEqual(self.descriptor.sent, [])

    def below(self, descriptor: Descriptor) -> Wire:
        """Return the way through what TLS would be: a protocol that is the transport of another."""
        wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.makeConnection(descriptor)
        return self.wired(wrapper)

    def test_below(self) -> None:
        """What a protocol between makes of a response is sent at once, and acknowledged."""
        descriptor = Descriptor()
        self.below(descriptor).write(b"response")
        self.assertTrue(descriptor.no_delay)
        self.assertEqual(descriptor.sent, [b"response"])
        self.assertFalse(descriptor.waits)
        self.assertTrue(descriptor.socket.options)

    def test_rest_below(self) -> None:
        """What the socket does not take follows as soon as it can, unless it is being closed."""
        descriptor = Descriptor()
        descriptor.takes = 3
        wire = self.below(descriptor)
        wire.write(b"response")
        self.assertTrue(descriptor.waits)
        descriptor.takes = 100
        descriptor.doWrite()
        self.assertEqual(b"".join(descriptor.sent), b"response")
        descriptor.disconnecting = True
        wire.write(b"more")
        self.assertEqual(b"".join(descriptor.sent), b"response")

    def test_no_descriptor(self) -> None:
        """A transport of another kind is written to as any is."""
        transport = Transport(Protocol())
        wired = self.wired(transport)
        wired.arriving(1, more=True)
        wired.write(b"response")
        self.assertEqual(transport.written, [b"response"])
        self.assertTrue(transport.no_delay)

    def test_acknowledged(self) -> None:
        """Behind a response, what the peer says next is acknowledged at once."""
        self.wire.write(b"response")
        expected = [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)]
        self.assertEqual(self.descriptor.socket.options, expected)

    def test_not_acknowledged(self) -> None:
        """That the socket is closed meanwhile does not matter."""
        self.descriptor.socket.closed = True
        self.wire.write(b"response")
        self.assertEqual(self.descriptor.sent, [b"response"])

    def test_not_linux(self) -> None:
        """Where TCP cannot be told when to acknowledge, it is not."""
        self.patch(wire, "_QUICKACK", None)
        self.wired(self.descriptor).write(b"response")
        self.assertEqual(self.descriptor.socket.options, [])

    def test_arriving(self) -> None:
        """While a data set arrives, and behind a large one, more is read at a time."""
        usual = FileDescriptor.bufferSize
        for octets, more, size in (
            (0, True, BULK_READ),
            (READ, False, READ),
            (READ + 1, False, BULK_READ),
            (LARGE, True, BULK_READ),
            (LARGE + 1, True, LARGE_READ),
            (LARGE + 1, False, BULK_READ),
            (READ, False, READ),
        ):
            self.wire.arriving(octets, more=more)
            self.assertEqual(self.descriptor.bufferSize, size, (octets, more))
        self.assertEqual(FileDescriptor.bufferSize, usual, "of everyone else")

    def test_long(self) -> None:
        """When what a read has brought keeps the others waiting, the next brings less; and more, when not."""
        for octets, more, size in ((0, False, READ), (1, True, BULK_READ), (LARGE + 1, True, LARGE_READ)):
            wire = self.wired(self.descriptor)
            wire.arriving(octets, more=more)
            sizes = []
            for seconds in (2 * LONG, 4 * LONG, 100 * LONG, LONG / 2, *[LONG / 8] * 8):
                wire.took(self.descriptor.bufferSize, seconds)
                sizes.append(self.descriptor.bufferSize)
            self.assertEqual(sizes[:2], [size // 2, max(size // 8, LEAST_READ)])
            self.assertEqual(sizes[2:5], [LEAST_READ, LEAST_READ, 2 * LEAST_READ])
            self.assertEqual(sizes[-1], size)

    def test_not_done(self) -> None:
        """What is left for further turns is less the next time, however short the first was."""
        self.wire.arriving(1, more=True)
        for seconds, size in ((LONG / 8, BULK_READ // 2), (4 * LONG, BULK_READ // 8)):
            self.wire.took(self.descriptor.bufferSize, seconds, done=False)
            self.assertEqual(self.descriptor.bufferSize, size)

    def test_longer_read(self) -> None:
        """Of what is no read, but what TLS has made of one, no more is read than before."""
        self.wire.arriving(1, more=True)
        self.wire.took(100 * BULK_READ, 2 * LONG)
        self.assertEqual(self.descriptor.bufferSize, BULK_READ)

    def test_crowd(self) -> None:
        """While many are paused, all read little at a time: what each has read may have to wait."""
        descriptors = [Descriptor() for _ in range(CROWD + 1)]
        wires = [self.wired(descriptor) for descriptor in descriptors]
        for one in wires[1:]:
            one.arriving(LARGE + 1, more=True)
        before = [READ] + [LARGE_READ] * CROWD
        for one in wires[1:]:
            self.assertEqual(self.sizes(descriptors), before)
            one.pause()
        self.assertEqual(self.sizes(descriptors), [READ] * (CROWD + 1))
        wires[0].arriving(1, more=True)
        for number, one in enumerate(wires[1 : CROWD // 2 + 1]):
            self.assertEqual(self.sizes(descriptors), [READ] * (CROWD + 1))
            one.resume() if number % 2 else one.lost()
        lost = slice(1, CROWD // 2, 2)
        del descriptors[lost]
        self.assertEqual(self.sizes(descriptors), [BULK_READ] + [LARGE_READ] * (CROWD - CROWD // 4))

    def sizes(self, descriptors: list[Descriptor]) -> list[int]:
        return [descriptor.bufferSize for descriptor in descriptors]

    def test_forgotten(self) -> None:
        """Of a connection that is gone, nothing is kept, though something be said of it."""
        self.wire.arriving(1, more=True)
        self.wire.pause()
        self.assertEqual(self.reads.long, {self.wire})
        self.wire.lost()
        self.wire.took(1 << 16, 2 * LONG)
        self.wire.arriving(LARGE + 1, more=True)
        self.assertEqual(self.reads.long, set())
        for _ in range(2 * CROWD):  # it is not paused any more, either
            other = self.wired(Descriptor())
            other.pause()
            other.lost()
        self.assertEqual(self.reads.most, LARGE_READ)
