"""What implementations of the interfaces promise, as tests: mix one in, and it tests yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dicomnode.acceptor import Acceptor
from dicomnode.core.command import Status, is_warning
from dicomnode.interfaces import IInstanceWriter, Instance, IStorage
from dicomnode.services import Verification
from dicomnode.testing import Peer, Reactor, Transport
from dicomnode.waiting import deferred_of, kept_on

if TYPE_CHECKING:
    from twisted.trial.unittest import SynchronousTestCase as _Case
else:
    _Case = object


class InstanceWriterContract(_Case):
    """What every instance writer promises: mix it into a SynchronousTestCase.

    Say what the storage is and what it has kept by :meth:`open_storage` and :meth:`kept`; the
    others where it matters.
    """

    #: Does the storage keep anything at all?
    keeps = True

    _peer: Peer | None = None

    def open_storage(self) -> IStorage:
        """Return the storage under test: always the same one."""
        raise NotImplementedError

    def kept(self, what: Instance) -> bytes | None:
        """Return the data set that the storage has kept of an instance, if it has."""
        raise NotImplementedError

    def leftovers(self) -> Sequence[object]:
        """Return what there is besides the instances that are kept."""
        return ()

    def settle(self) -> None:
        """Let what the storage has begun come to its end."""

    def instance(self, sop_instance_uid: str = "1.2.3") -> Instance:
        """Return an instance that may be stored; there is one association for all."""
        if self._peer is None:
            self._peer = Peer(Acceptor(Reactor(), [Verification()]))
            self._peer.associates()
        association = self._peer.association
        sop_class_uid, transfer_syntax_uid = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
        return Instance(sop_class_uid, sop_instance_uid, transfer_syntax_uid, "PEER", "ANY-SCP", association)

    def writer(self, sop_instance_uid: str = "1.2.3") -> IInstanceWriter:
        """Begin to keep an instance."""
        opening = deferred_of(self.open_storage().open, self.instance(sop_instance_uid))
        self.settle()
        return self.successResultOf(opening)

    def commits(self, writer: IInstanceWriter) -> None:
        committing = deferred_of(writer.commit)
        self.settle()
        status = self.successResultOf(committing)
        # Success, or stored with a warning
        self.assertTrue(status is None or status == Status.SUCCESS or is_warning(status), status)  # type: ignore[no-untyped-call]

    def aborts(self, writer: IInstanceWriter) -> None:
        aborting = deferred_of(writer.abort)
        self.settle()
        self.assertIsNone(self.successResultOf(aborting))

    def cancels(self, deferred: Deferred[Any]) -> None:
        """Wait no longer, as the association's end does."""

        def cancelled(failure: Failure) -> None:
            failure.trap(CancelledError)  # type: ignore[no-untyped-call]

        deferred.addErrback(cancelled)
        deferred.cancel()

    def assert_kept(self, data: bytes | None, sop_instance_uid: str = "1.2.3") -> None:
        """Assert what is kept of an instance, and that nothing else is left."""
        self.assertEqual(self.kept(self.instance(sop_instance_uid)), data if self.keeps else None)  # type: ignore[no-untyped-call]
        self.assertEqual(list(self.leftovers()), [])  # type: ignore[no-untyped-call]

    def test_interfaces(self) -> None:
        """The storage and its writers provide what their interfaces ask for."""
        verifyObject(IStorage, self.open_storage())
        writer = self.writer()
        verifyObject(IInstanceWriter, writer)
        self.aborts(writer)

    def test_keeps_what_was_written(self) -> None:
        """What is kept is what was written, in order, by whichever method and in whatever pieces."""
        pieces: list[bytes] = [bytes([number]) * (number * 37 % 300) for number in range(200)]
        writer = self.writer()
        for start in range(0, len(pieces), 8):
            writer.writeSequence([pieces[start], memoryview(pieces[start + 1])])
            writer.writeSequence(pieces[start + 2 : start + 7])
            writer.write(pieces[start + 7])
        self.commits(writer)
        self.assert_kept(b"".join(pieces))

    def test_keeps_an_empty_data_set(self) -> None:
        """An instance of which nothing was written is kept, and empty."""
        self.commits(self.writer())
        self.assert_kept(b"")

    def test_keeps_nothing_before_commit(self) -> None:
        """What is not committed is not there."""
        writer = self.writer()
        writer.write(b"begun")
        self.settle()
        self.assertIsNone(self.kept(self.instance()))
        self.aborts(writer)

    def test_aborts(self) -> None:
        """Nothing is left of what was aborted, whether or not something was written."""
        self.aborts(self.writer())
        writer = self.writer()
        writer.writeSequence([b"begun", b"and", b"forgotten"])
        self.aborts(writer)
        self.assert_kept(None)

    def test_aborts_beside_what_is_kept(self) -> None:
        """What was kept before, and by others, is as it was when a writer is aborted."""
        for uid in ("1.2.3", "1.2.4"):
            first = self.writer(uid)
            first.write(b"the first")
            self.commits(first)
        second = self.writer()
        second.write(b"the second, which is longer")
        self.aborts(second)
        self.assert_kept(b"the first")
        self.assert_kept(b"the first", "1.2.4")

    def test_replaces(self) -> None:
        """An instance that is kept again is the later one, whole."""
        for data in (b"the first, which is longer", b"the second"):
            writer = self.writer()
            writer.write(data)
            self.commits(writer)
            self.assert_kept(data)

    def test_two_at_a_time(self) -> None:
        """Two writers of one instance do not mix: who commits last wins."""
        one, other = self.writer(), self.writer()
        for _ in range(5):
            one.write(b"one ")
            other.writeSequence([b"other "])
        self.commits(other)
        self.assertEqual(self.kept(self.instance()), b"other " * 5 if self.keeps else None)  # type: ignore[no-untyped-call]
        self.commits(one)
        self.assert_kept(b"one " * 5)

    def test_memoryviews(self) -> None:
        """The views may be kept, and hold what is in them when nobody else does."""
        writer = self.writer()
        for number in range(20):
            read = bytes([number]) * 1000
            writer.writeSequence([memoryview(read)[start : start + 100] for start in range(0, 1000, 100)])
            del read
        self.commits(writer)
        self.assert_kept(b"".join(bytes([number]) * 1000 for number in range(20)))

    def test_producer(self) -> None:
        """A producer is not bothered by a writer that is not behind; it is unregistered before the end."""
        transport = Transport(Protocol())
        writer = self.writer()
        writer.registerProducer(transport, True)
        writer.write(b"data")
        writer.unregisterProducer()
        self.commits(writer)
        self.assert_kept(b"data")
        writer = self.writer()
        writer.registerProducer(transport, True)
        writer.write(b"other")
        writer.unregisterProducer()
        self.aborts(writer)
        self.assert_kept(b"data")
        self.assertFalse(transport.disconnecting)  # type: ignore[no-untyped-call]

    def test_commit_is_cancelled(self) -> None:
        """Where the peer goes away while it is kept, that stops nobody from keeping the instance."""
        writer = self.writer()
        writer.write(b"data")
        self.cancels(kept_on(deferred_of(writer.commit)))
        self.settle()
        self.assert_kept(b"data")

    def test_abort_is_cancelled(self) -> None:
        """Nor, where it is forgotten, from forgetting it."""
        writer = self.writer()
        writer.write(b"data")
        self.cancels(kept_on(deferred_of(writer.abort)))
        self.settle()
        self.assert_kept(None)
