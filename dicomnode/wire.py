"""The way to the peer and back: a stream transport of Twisted, used as TCP wants it."""

from __future__ import annotations

import socket
import termios
from contextlib import suppress
from fcntl import ioctl
from functools import cache
from struct import Struct
from typing import Any, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer, ITCPTransport
from twisted.protocols.policies import ProtocolWrapper

#: How much is read at a time, in octets: while commands are exchanged; while a data set arrives; and while
#: one does that is ``LARGE`` already. The first brings an instance of 64 KiB with all that is around it, the
#: second a CT or MR slice of 512 x 512 x 2: what a read has brought whole is kept at one stretch. The last is
#: a tenth faster, and keeps everyone else waiting twice as long: it is not for what comes each second.
READ = (1 << 16) + (1 << 13)
BULK_READ = (1 << 19) + (1 << 16)
LARGE_READ = 2 * BULK_READ
LARGE = 1 << 23

#: How long what a read has brought may keep everyone else waiting, in seconds. When it takes longer, as much
#: is read the next time as would have taken so long, down to ``LEAST_READ``; when it takes a quarter of that,
#: twice as much again.
LONG = 0.002
LEAST_READ = 1 << 14

#: So many associations of an acceptor may be paused, each with what a long read has brought. When there are
#: more, all of them read ``READ`` at a time, at most, until there are half as many.
CROWD = 32

#: What ``TIOCOUTQ`` gives: of a socket, the octets that are yet to be sent, or acknowledged.
_OUTSTANDING = Struct("i")

#: Linux only. It lasts until we next send, more or less, and so is set after each response.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class ITransport(ITCPTransport, IPushProducer, IConsumer):
    """What a stream transport of Twisted provides, under one name for the type checker."""


class Reads:
    """How much those associations read at a time that may all be paused at once.

    What a read has brought is kept while its association is paused: a MiB of a large data set. That is little
    for a few; but a disk that stands still, or peers who send what takes long, pause hundreds.
    """

    def __init__(self) -> None:
        self.most = LARGE_READ
        self.long: set[Wire] = set()  #: those that would read more than ``READ``
        self._paused = 0

    def paused(self) -> None:
        """One more is paused."""
        self._paused += 1
        if self._paused == CROWD:
            self._set(READ)

    def resumed(self) -> None:
        """One of them is not, or is gone."""
        self._paused -= 1
        if self._paused == CROWD // 2:
            self._set(LARGE_READ)

    def _set(self, most: int) -> None:
        self.most = most
        for wire in self.long:
            wire.resize()


class Wire:
    """Writes to a transport, stops and goes on reading from it, and says how much to read at a time.

    :param reads: of all associations that it is one of.
    """

    def __init__(self, transport: ITransport, reads: Reads) -> None:
        _reuse_memory()
        self._transport = transport
        self._reads = reads
        self._paused = False
        self._descriptor: FileDescriptor | None = None
        self._below: FileDescriptor | None = None
        self._socket: socket.socket | None = None
        self._wanted = READ
        self._most = LARGE_READ
        bottom: Any = transport
        while isinstance(bottom, ProtocolWrapper):  # TLS; or the PROXY protocol
            bottom = bottom.transport
        if isinstance(bottom, FileDescriptor) and not getattr(bottom, "TLS", False):
            if bottom is transport:
                self._descriptor = bottom
                bottom.bufferSize = READ
            else:
                self._below = bottom
        if ITCPTransport.providedBy(bottom):
            # A response is one small write: it must not wait for the acknowledgement of another.
            bottom.setTcpNoDelay(True)
            if isinstance(bottom, FileDescriptor) and _QUICKACK is not None:
                self._socket = cast(Any, bottom).getHandle()

    def read(self, protocol: IProtocol) -> None:
        """Read what has come already: the reactor would have to ask whether anything has.

        Where the connection turns out to be lost, the reactor will find that, too.

        :param protocol: that it goes to. Where the transport still reads for another, who is handing it over,
            what that has read goes first: then nothing is read.
        """
        descriptor = self._descriptor
        if descriptor is not None and getattr(descriptor, "protocol", None) is protocol:
            descriptor.doRead()  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        """Write; at once, where nothing waits to be written before it.

        The transport would have the reactor wait until the socket can be written to, which it nearly
        always can: two system calls and a turn of the reactor for each response.
        """
        descriptor = self._descriptor
        if (
            descriptor is not None
            and not descriptor.dataBuffer
            and not descriptor._tempDataBuffer
            and descriptor.connected
            and not descriptor.disconnecting
        ):
            written = descriptor.writeSomeData(data)
            # It may return an exception, too: the transport, which finds the same, ends by it.
            if isinstance(written, int):
                data = data[written:]
        if data:
            self._transport.write(data)
            self._send_below()
        if self._socket is not None:
            # An SCU that leaves Nagle's algorithm on sends its command, and its data set not before
            # that is acknowledged: which TCP delays by 40 ms, for it might go with a response.
            try:  # noqa: SIM105  # suppress() costs as much as the system call
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            except OSError:
                pass  # it is gone: the transport will find that, too

    def outstanding(self) -> int:
        """Return how many octets of what was written have yet to leave, or to be acknowledged, if known."""
        descriptor = self._descriptor or self._below
        if descriptor is None:
            return 0
        octets = len(descriptor.dataBuffer) - descriptor.offset + descriptor._tempDataLen
        if self._socket is not None:
            with suppress(OSError, ValueError):  # it is gone
                queued = ioctl(self._socket, termios.TIOCOUTQ, bytes(_OUTSTANDING.size))
                octets += _OUTSTANDING.unpack(queued)[0]
        return octets

    def _send_below(self) -> None:
        """Send what TLS has made of what was written: at once, too."""
        below = self._below
        if (
            below is not None
            and below._tempDataBuffer
            and below.connected
            and not below.disconnecting
            and not below.producerPaused
        ):
            below.doWrite()  # type: ignore[no-untyped-call]  # what it may return, the reactor will find

    def arriving(self, octets: int, *, more: bool) -> None:
        """Read as much at a time as is good for a data set of which so many octets have come.

        :param more: of it is to come. Else what is read next is behind it: most likely, another like it.
        """
        wanted = LARGE_READ if more and octets > LARGE else BULK_READ if more or octets > READ else READ
        if wanted != self._wanted:
            self._wanted = wanted
            self.resize()

    def took(self, octets: int, seconds: float, *, done: bool = True) -> None:
        """Learn for how long a read of so many octets has kept everyone else waiting.

        :param done: is nothing of it left for further turns? Else half as much is read the next time, at
            most: what is left is kept until then.
        """
        if not done:
            seconds = max(seconds, 2 * LONG)
        if seconds > LONG:
            self._most = min(self._most, max(int(octets * LONG / seconds), LEAST_READ))
        elif self._most < LARGE_READ and seconds < LONG / 4:
            self._most = min(self._most * 2, LARGE_READ)
        else:
            return
        self.resize()

    def resize(self) -> None:
        """Read as much at a time as is good for this one, and for all."""
        if self._descriptor is not None:
            size = min(self._most, self._wanted)
            if size > READ:
                self._reads.long.add(self)
                size = min(size, self._reads.most)
            else:
                self._reads.long.discard(self)
            self._descriptor.bufferSize = size

    def pause(self) -> None:
        """Read no more, until :meth:`resume`."""
        if not self._paused:
            self._paused = True
            self._transport.pauseProducing()
            self._reads.paused()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._reads.resumed()
            self._transport.resumeProducing()

    def lost(self) -> None:
        """The transport connection is gone."""
        self._descriptor = None  # nothing is read from it any more
        self._reads.long.discard(self)
        if self._paused:
            self._paused = False
            self._reads.resumed()


@cache
def _reuse_memory() -> None:
    """Have the memory for a read be what the read before it had.

    glibc asks the kernel for whatever is larger than 128 KiB, and gives it back at once: a read of 512 KiB
    then costs 130 page faults, a quarter of the time for all of it. It does so no longer for what is
    not larger than something that it has freed (mallopt(3): the threshold is dynamic).
    """
    bytes(2 * LARGE_READ)
