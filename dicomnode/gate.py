"""Whether we read from a transport: not while there is any reason against it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from dicomnode.wire import ITransport, Wire


@implementer(IPushProducer)
class Gate:
    """Pauses a transport while there is a reason to.

    It is itself what the transport pauses, and so a reason, when the peer does not read what we write.
    But while a data set goes out, that is paused instead: else two ends that wait to be read would both
    read nothing, and an A-ABORT would not be heard. And before there is an association nothing is: TLS
    waits to read its handshake before it writes what it was given.

    :param paused: is called with True when reading stops, with False when it goes on.
    :param changed: is called whenever a reason came or went.
    """

    _held = False
    _open = True
    _established = False
    _outgoing: IPushProducer | None = None
    _outstanding = 0  # octets of what we wrote, when that was last looked at

    def __init__(
        self,
        transport: ITransport,
        wire: Wire,
        *,
        paused: Callable[[bool], None],
        changed: Callable[[], None],
    ) -> None:
        self.closed = False  #: is there any reason not to read?
        self.unread = False  #: does the peer not read what we write?
        self.times_unread = 0  #: how often that has come to be so
        self._wire = wire
        self._paused = paused
        self._changed = changed
        self._reasons: set[object] = set()
        transport.registerProducer(self, True)

    def close(self, reason: object) -> None:
        """Stop reading, until :meth:`open` is called for the same reason."""
        closes = not self._reasons and self._open
        self._reasons.add(reason)
        self.closed = True
        if closes:
            if not self._held:
                self._wire.pause()
            self._paused(True)  # upon which the reason may be taken back
        self._changed()

    def open(self, reason: object) -> None:
        """``reason`` is none any more."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            self.closed = bool(self._reasons)
            if not self._reasons and self._open:
                self._paused(False)
                if not (self._held or self._reasons):
                    self._wire.resume()
            self._changed()

    def hold(self) -> None:
        """Stop reading until :meth:`release`, which will not be long: nobody is told."""
        if not self._held and not self._reasons and self._open:
            self._wire.pause()
        self._held = True

    def release(self) -> None:
        """Read on, unless there is a reason not to."""
        held, self._held = self._held, False  # to resume may bring what closes it again
        if held and not self._reasons and self._open:
            self._wire.resume()

    def established(self) -> None:
        """There is an association: what is read from here on may have to be answered."""
        self._established = True

    def sends(self, producer: IPushProducer | None) -> None:
        """From here on ``producer`` writes a data set, and is what is paused; or none does."""
        self._outgoing = producer
        if producer is not None and self.unread:
            self.open(self)
            producer.pauseProducing()

    def lost(self) -> None:
        """The transport connection is gone: there is nothing more to pause."""
        self._open = self.unread = False
        self._reasons.clear()
        self.closed = False
        self._wire.lost()

    def read_meanwhile(self) -> int:
        """Return how many octets the peer has read of what we wrote since this was last asked."""
        before, self._outstanding = self._outstanding, self._wire.outstanding()
        return before - self._outstanding

    @property
    def has_read_all(self) -> bool:
        """Had the peer read all that we wrote, when that was last looked at?"""
        return not self._outstanding

    # IPushProducer: for the transport

    def pauseProducing(self) -> None:
        self.unread = True
        self.times_unread += 1
        if self._outgoing is not None:
            self._outgoing.pauseProducing()
        elif self._established:
            self.close(self)
        self._changed()

    def resumeProducing(self) -> None:
        self.unread = False
        if self in self._reasons:
            self.open(self)
        self._changed()  # before more is written, upon which it may not be read again
        if self._outgoing is not None:
            self._outgoing.resumeProducing()

    def stopProducing(self) -> None:
        """The transport is gone: connectionLost says so too."""
