"""What implementations of the interfaces promise, as tests: mix one in, and it tests yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dicomnode.acceptor import Acceptor
from dicomnode.core.command import Request, Status, UnrecognizedRQ, is_warning
from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import AssociateRQ, ProposedContext
from dicomnode.errors import AssociationRejected
from dicomnode.events import Unexpected
from dicomnode.interfaces import (
    IAssociationPolicy,
    ICertificatePolicy,
    IInstanceWriter,
    Instance,
    IService,
    IStorage,
)
from dicomnode.policies import ask
from dicomnode.services import Verification
from dicomnode.testing import Peer, Reactor, Recorder, Transport
from dicomnode.uids import IMPLICIT_VR_LE, VERIFICATION
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


class ServiceContract(_Case):
    """What every service promises: mix it into a SynchronousTestCase.

    Say what the service is by :meth:`make_service`, and what may be asked of it by :meth:`requests`.
    """

    def make_service(self) -> IService:
        """Return the service under test."""
        raise NotImplementedError

    def requests(self) -> Sequence[tuple[str, Request, bytes | None]]:
        """Return requests that are answered with Success, or a warning, in this order.

        Of each, the abstract syntax, the command set, and the data set if there is one, in the transfer
        syntax that the service prefers.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Let what the service has begun come to its end."""

    def associates(self) -> tuple[Peer, Recorder]:
        """Return a peer that may ask, and what is observed."""
        service, seen = self.make_service(), Recorder()
        peer = Peer(Acceptor(Reactor(), [service], observe=seen))
        syntaxes = {abstract_syntax for abstract_syntax, _, _ in self.requests()}
        peer.associates({one: service.contexts[one][:1] for one in syntaxes})
        return peer, seen

    def test_interface(self) -> None:
        """It provides what the interface asks for, and names transfer syntaxes for what it serves."""
        service = self.make_service()
        verifyObject(IService, service)
        for abstract_syntax, _, _ in self.requests():
            syntaxes = service.contexts[abstract_syntax]
            self.assertTrue(syntaxes)  # type: ignore[no-untyped-call]
            self.assertEqual(len(set(syntaxes)), len(syntaxes))  # type: ignore[no-untyped-call]

    def test_answers(self) -> None:
        """What may be asked is answered so."""
        peer, seen = self.associates()
        for abstract_syntax, request, data_set in self.requests():
            answered = len(peer.responses)
            peer.invokes(abstract_syntax, request, data_set)
            self.settle()
            peer.exchange()
            self.assertEqual(len(peer.responses), answered + 1)  # type: ignore[no-untyped-call]
            status = peer.response.status
            self.assertTrue(status == Status.SUCCESS or is_warning(status), peer.response)  # type: ignore[no-untyped-call]
        self.assertEqual(seen.of(Unexpected), [])  # type: ignore[no-untyped-call]

    def test_other_operation(self) -> None:
        """An operation that it does not know is refused, and no bug."""
        peer, seen = self.associates()
        for context in list(peer.association.contexts.values()):
            peer.invokes(context.abstract_syntax, UnrecognizedRQ(message_id=1, command_field=0x0070))
            self.settle()
            peer.exchange()
            status = peer.response.status
            self.assertFalse(status == Status.SUCCESS or is_warning(status), peer.response)  # type: ignore[no-untyped-call]
        self.assertEqual(seen.of(Unexpected), [])  # type: ignore[no-untyped-call]

    def test_goes_away(self) -> None:
        """A peer that is lost in the middle, or before it is answered, is no bug."""
        for abstract_syntax, request, data_set in self.requests():
            for half in (True, False):
                peer, seen = self.associates()
                if half and data_set:
                    peer.invokes(abstract_syntax, request, data_set[: len(data_set) // 2], last=False)
                else:
                    peer.invokes(abstract_syntax, request, data_set)
                peer.transport.lose()
                self.settle()
                self.assertEqual(seen.of(Unexpected), [])  # type: ignore[no-untyped-call]


class PolicyContract(_Case):
    """What every policy promises: mix it into a SynchronousTestCase.

    Say what the policy is by :meth:`make_policy`, and whom it lets in, and whom not, by :meth:`accepted` and
    :meth:`refused`.
    """

    def make_policy(self) -> IAssociationPolicy:
        """Return the policy under test."""
        raise NotImplementedError

    def accepted(self) -> Sequence[AssociateRQ]:
        """Return requests that it accepts, from :meth:`peer`."""
        raise NotImplementedError

    def refused(self) -> Sequence[AssociateRQ]:
        """Return requests that it refuses."""
        return ()

    def peer(self) -> IAddress:
        """Return where these come from."""
        return IPv4Address("TCP", "192.0.2.1", 50000)

    def settle(self) -> None:
        """Let what the policy has begun come to its end."""

    def request(
        self, calling: str = "PEER", called: str = "ANY-SCP", contexts: Sequence[ProposedContext] = ()
    ) -> AssociateRQ:
        """Return a request, for the Verification SOP Class unless there are other contexts."""
        contexts = contexts or (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),)
        return AssociateRQ(called, calling, tuple(contexts), UserInformation(max_length=16382))

    def asks(self, request: AssociateRQ) -> Deferred[Sequence[ProposedContext] | None]:
        """Ask the policy."""
        return Deferred.fromCoroutine(ask(self.make_policy(), request, self.peer(), None))

    def test_interface(self) -> None:
        """It provides what its interface asks for."""
        policy = self.make_policy()
        interface = ICertificatePolicy if ICertificatePolicy.providedBy(policy) else IAssociationPolicy
        verifyObject(interface, policy)

    def test_accepts(self) -> None:
        """Whom it accepts it gives an answer, with no contexts that were not proposed."""
        for request in self.accepted():
            asking = self.asks(request)
            self.settle()
            allowed = self.successResultOf(asking)
            ids = {context.id for context in request.contexts}
            self.assertLessEqual({context.id for context in allowed or ()}, ids)

    def test_refuses(self) -> None:
        """Whom it refuses it tells why, with codes that PS3.8 Table 9-21 gives to who accepts."""
        for request in self.refused():
            asking = self.asks(request)
            self.settle()
            error = self.failureResultOf(asking, AssociationRejected).value  # type: ignore[no-untyped-call]
            self.assertIn(error.result, (1, 2))  # type: ignore[no-untyped-call]
            self.assertIn((error.source, error.reason), _REASONS)  # type: ignore[no-untyped-call]

    def test_goes_away(self) -> None:
        """Nobody need wait for what it decides."""
        for request in (*self.accepted(), *self.refused()):
            asking = self.asks(request)
            asking.addErrback(_not_waited_for)
            asking.cancel()
            self.settle()


def _not_waited_for(failure: Failure) -> None:
    failure.trap(CancelledError, AssociationRejected)  # type: ignore[no-untyped-call]


#: Sources and reasons of an A-ASSOCIATE-RJ (PS3.8 Table 9-21).
_REASONS = frozenset({(1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2)})
