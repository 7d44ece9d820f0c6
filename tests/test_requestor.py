"""Tests of :mod:`dicomnode.requestor`: associations that we request, both ends in memory."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core.association import Aborted, Association
from dicomnode.core.command import CEchoRQ, CEchoRSP, CGetRQ, CStoreRSP, NEventReportRQ
from dicomnode.core.items import CommonExtendedNegotiation, ExtendedNegotiation, RoleSelection, UserIdentity
from dicomnode.core.machine import Role
from dicomnode.core.pdu import Abort, AnsweredContext, AssociateAC, AssociateRQ, ProposedContext
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    AssociationTimedOut,
    ContextNotAccepted,
    LocalProtocolError,
    TooManyContexts,
)
from dicomnode.establishment import nobody
from dicomnode.interfaces import IAssociation, IOperation
from dicomnode.observers import LogObserver
from dicomnode.policies import CalledAETitle
from dicomnode.protocol import AssociationProtocol
from dicomnode.records import record
from dicomnode.requestor import ServiceUser, associate
from dicomnode.services import Storage, StorageSupport, Verification
from dicomnode.testing import CalledPeer, MemoryStorage, Network
from dicomnode.uids import STORAGE_SERVICE_CLASS, VERIFICATION
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    IMPLICIT_VR_LE,
    Service,
    store_rq,
)
from tests.requestorcases import GET, NAMES, TIMEOUTS, RequestorCase


class AssociateTests(RequestorCase):
    """An association is requested, and accepted or not."""

    def test_session(self) -> None:
        """However octets arrive, echo, store and release are done, one after the other."""
        for size in (1, 2, 7, 100, None):
            storage = MemoryStorage()
            acceptor = Acceptor(self.reactor, [Verification(), Storage(storage, check=False)])
            network, association = self.joins(acceptor, size=size)
            data = bytes(range(256)) * 300
            echoed = association.echo()
            stored = association.store(data, **NAMES)
            released = association.release()
            network.exchange()
            self.assertEqual(
                self.successResultOf(echoed),
                CEchoRSP(affected_sop_class_uid=VERIFICATION, message_id_being_responded_to=1, status=0),
            )
            response = self.successResultOf(stored)
            assert isinstance(response, CStoreRSP)
            self.assertEqual((response.status, response.affected_sop_instance_uid), (0, "1.2.3"))
            self.assertEqual(storage.instances["1.2.3"][1], data)
            self.successResultOf(released)
            self.assertEqual(acceptor.associations, set())

    def test_association(self) -> None:
        """What it gives is an association, which knows both ends."""
        _, association = self.associates(calling_ae_title="MODALITY", called_ae_title="ARCHIVE", number=7)
        verifyObject(IAssociation, association)
        titles = (association.calling_ae_title, association.called_ae_title)
        self.assertEqual(titles, ("MODALITY", "ARCHIVE"))
        self.assertEqual((association.number, association.role), (7, Role.REQUESTOR))
        self.assertEqual([*association.contexts], [ECHO, CT, 5])
        self.assertEqual(association.peer.host, "192.0.2.1")

    def test_request(self) -> None:
        """What is asked for is in the A-ASSOCIATE-RQ."""
        identity = UserIdentity(1, b"somebody")
        contexts = [ProposedContext(3, VERIFICATION, (IMPLICIT_VR_LE,))]
        peer, associating = self.requests(
            contexts=contexts,
            roles={CT_IMAGE_STORAGE: (False, True)},
            asynchronous_operations=(4, 2),
            user_identity=identity,
            max_length=4096,
        )
        request = peer.request
        self.assertEqual((request.calling_ae_title, request.called_ae_title), ("DICOMNODE", "ANY-SCP"))
        self.assertEqual(request.contexts, (*contexts,))
        information = request.user_information
        self.assertEqual(information.roles, (RoleSelection(CT_IMAGE_STORAGE, False, True),))
        self.assertEqual(information.asynchronous_operations_window, (4, 2))
        self.assertEqual((information.user_identity, information.max_length), (identity, 4096))
        self.assertTrue(information.implementation_class_uid)
        peer.rejects(1, 1, 1)
        self.failureResultOf(associating, AssociationRejected)

    def test_default(self) -> None:
        """Without contexts it is Verification, and no window is asked for."""
        peer = CalledPeer()
        associating = associate(self.reactor, peer)
        peer.accepts()
        self.assertEqual([item.abstract_syntax for item in peer.request.contexts], [VERIFICATION])
        self.assertIsNone(peer.request.user_information.asynchronous_operations_window)
        self.successResultOf(associating)
        peer.transport.lose()

    def test_mistakes(self) -> None:
        """What cannot be asked for is not."""
        peer = CalledPeer()
        for title in ("", " ", "SEVENTEEN-LETTERS"):
            self.assertRaises(ValueError, associate, self.reactor, peer, calling_ae_title=title)
            self.assertRaises(ValueError, associate, self.reactor, peer, called_ae_title=title)
        self.assertRaises(ValueError, associate, self.reactor, peer, contexts=())
        contexts = {f"1.2.{number}": (IMPLICIT_VR_LE,) for number in range(129)}
        error = self.assertRaises(TooManyContexts, associate, self.reactor, peer, contexts=contexts)
        self.assertEqual(error.contexts, 129)

    def test_extended_negotiation(self) -> None:
        """What else is proposed for SOP Classes goes out, and comes back as the other end answers it."""
        item = CommonExtendedNegotiation("1.2.3", STORAGE_SERVICE_CLASS, (CT_IMAGE_STORAGE,))
        peer, associating = self.requests(
            contexts={CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], "1.2.3": [IMPLICIT_VR_LE]},
            extended={CT_IMAGE_STORAGE: b"proposed"},
            common_extended=[item],
        )
        information = peer.request.user_information
        self.assertEqual(information.extended, (ExtendedNegotiation(CT_IMAGE_STORAGE, b"proposed"),))
        self.assertEqual(information.common_extended, (item,))
        peer.accepts(extended=(ExtendedNegotiation(CT_IMAGE_STORAGE, b"answered"),))
        association = self.successResultOf(associating)
        self.assertEqual(association.application_information, {CT_IMAGE_STORAGE: b"answered"})

    def test_extended_negotiation_with_storage(self) -> None:
        """A Storage that is asked so says what it does with instances, and takes what is specialized."""
        network = Network(self.reactor, Acceptor(self.reactor, [Storage(MemoryStorage())]))
        associating = associate(
            self.reactor,
            network,
            contexts={CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], "1.2.3": [IMPLICIT_VR_LE]},
            extended={CT_IMAGE_STORAGE: StorageSupport(level=0).encode()},
            common_extended=[CommonExtendedNegotiation("1.2.3", STORAGE_SERVICE_CLASS)],
        )
        network.exchange()
        association = self.successResultOf(associating)
        self.assertEqual(association.application_information, {CT_IMAGE_STORAGE: StorageSupport().encode()})
        accepted = [context.abstract_syntax for context in association.contexts.values()]
        self.assertEqual(accepted, [CT_IMAGE_STORAGE, "1.2.3"])
        association.abort()
        network.exchange()

    def test_not_encoded(self) -> None:
        """What cannot be encoded is the caller's to know: once connected, nobody could be told."""
        peer = CalledPeer()
        for wrong in (
            {"contexts": [(VERIFICATION, IMPLICIT_VR_LE)]},
            {"roles": {VERIFICATION: (True, True), 7: (True, True)}},
            {"asynchronous_operations": (1, 70_000)},
        ):
            error = self.assertRaises(ValueError, associate, self.reactor, peer, **wrong)
            self.assertIn("cannot be encoded", str(error))

    def test_rejected(self) -> None:
        """A rejection is a failure with the standard's result, source and reason."""
        peer, associating = self.requests()
        peer.rejects(2, 3, 1)
        error = self.failureResultOf(associating, AssociationRejected).value
        self.assertEqual((error.result, error.source, error.reason), (2, 3, 1))
        self.assertTrue(peer.transport.disconnecting)
        peer.transport.lose()
        self.assertEqual(len(self.seen.of(events.AssociationRejected)), 1)
        self.assertEqual(self.seen.of(events.AssociationEnded)[0].how, "rejected")

    def test_rejected_by_a_policy(self) -> None:
        """An acceptor's policy is what a requestor is told."""
        acceptor = Acceptor(self.reactor, [Verification()], policy=CalledAETitle("ARCHIVE"))
        network = Network(self.reactor, acceptor)
        associating = associate(self.reactor, network)
        network.exchange()
        error = self.failureResultOf(associating, AssociationRejected).value
        self.assertEqual((error.result, error.source, error.reason), (1, 1, 7))

    def test_no_connection(self) -> None:
        """What the endpoint fails with, it fails with."""
        acceptor = Acceptor(self.reactor, [Verification()])
        acceptor.drain(0)
        associating = associate(self.reactor, Network(self.reactor, acceptor))
        self.failureResultOf(associating, ConnectionRefusedError)

    def test_no_answer(self) -> None:
        """An A-ASSOCIATE-RQ that is not answered is given up after the ACSE timeout."""
        peer, associating = self.requests()
        self.reactor.advance(9)
        self.assertNoResult(associating)
        self.reactor.advance(1)
        error = self.failureResultOf(associating, AssociationTimedOut).value
        self.assertEqual((error.what, error.seconds, error.source), ("ACSE", 10.0, 0))
        self.assertAborts(peer)

    def test_aborted(self) -> None:
        """An A-ABORT instead of an answer is a failure with its source and reason."""
        peer, associating = self.requests()
        peer.sends(Abort(2, 6).encode())
        error = self.failureResultOf(associating, AssociationAborted).value
        self.assertEqual((error.source, error.reason), (2, 6))

    def test_nonsense(self) -> None:
        """An answer that is none is refused, and a failure."""
        peer, associating = self.requests()
        peer.sends(b"\x07\0\0\0\0\x05")
        self.failureResultOf(associating, AssociationAborted)

    def test_lost(self) -> None:
        """A connection that goes away before there is an answer is a failure that says why."""
        peer, associating = self.requests()
        peer.transport.lose(Failure(ConnectionLost("reset")))
        self.assertIn("reset", str(self.failureResultOf(associating, AssociationLost).value))

    def test_cancelled(self) -> None:
        """Who does not wait for the answer any longer aborts."""
        peer, associating = self.requests()
        associating.cancel()
        self.failureResultOf(associating, CancelledError)
        self.assertAborts(peer)
        self.assertTrue(peer.transport.disconnecting)
        peer.accepts()

    def test_nothing_is_left(self) -> None:
        """Where there never was an association, we close the connection behind the A-ABORT: nobody has it."""
        peer, associating = self.requests()
        self.reactor.advance(TIMEOUTS.acse)
        self.failureResultOf(associating, AssociationTimedOut)
        self.assertAborts(peer)
        self.assertTrue(peer.transport.disconnecting)
        peer, association = self.associates()
        association.abort()
        self.assertAborts(peer)
        self.assertFalse(peer.transport.disconnecting)  # here we wait for the peer to do so (PS3.8 AA-1)

    def test_cancelled_while_connecting(self) -> None:
        """Nor for the connection."""

        class Endpoint(CalledPeer):
            def connect(self, protocolFactory: object) -> Deferred[Any]:
                return connecting

        connecting: Deferred[Any] = Deferred()
        associating = associate(self.reactor, Endpoint())
        associating.cancel()
        self.failureResultOf(associating, CancelledError)

    def test_endpoint_cancelled(self) -> None:
        """Twisted's endpoints have an error of their own for that: it is not what is told."""
        reactor: Any = MemoryReactorClock()
        endpoint = TCP4ClientEndpoint(reactor, "192.0.2.1", 104)
        associating = associate(reactor, endpoint, contexts={VERIFICATION: [IMPLICIT_VR_LE]})
        associating.cancel()
        self.failureResultOf(associating, CancelledError)

    def test_ended_by_who_is_told(self) -> None:
        """An observer that is told of the association may end it, or have nobody wait for it any more."""
        for end, error in (
            (lambda association, _: association.abort(), AssociationAborted),
            (lambda _, associating: associating.cancel(), CancelledError),
        ):
            kinds: list[type[events.Event]] = []
            waiting: list[Deferred[Any]] = []

            def observe(
                event: events.Event, end: Any = end, kinds: Any = kinds, waiting: Any = waiting
            ) -> None:
                kinds.append(type(event))
                if isinstance(event, events.AssociationAccepted):
                    end(event.association, *waiting)

            peer, associating = self.requests(observe=observe)
            waiting.append(associating)
            peer.accepts()
            self.failureResultOf(associating, error)
            self.assertEqual(peer.indications[-1], Aborted(0, 0, by_peer=True))
            self.assertNotIn(events.Unexpected, kinds)

    def test_no_context(self) -> None:
        """An association without a context is one all the same."""
        peer, associating = self.requests()
        peer.accepts(3, 4, 1)
        association = self.successResultOf(associating)
        self.assertEqual(association.contexts, {})
        error = self.failureResultOf(association.echo(), ContextNotAccepted).value
        self.assertEqual((error.abstract_syntax, error.transfer_syntax), (VERIFICATION, ""))
        error = self.failureResultOf(association.store(b"", **NAMES), ContextNotAccepted).value
        self.assertEqual((error.abstract_syntax, error.transfer_syntax), (CT_IMAGE_STORAGE, IMPLICIT_VR_LE))

    def test_events(self) -> None:
        """What happens is observed, as at the other end."""
        peer, association = self.associates(trace=True)
        association.echo()
        peer.responds(0)
        released = association.release()
        peer.answers_release()
        self.successResultOf(released)
        peer.transport.lose()
        seen = [type(event) for event in self.seen.events if not isinstance(event, events.Transition)]
        self.assertEqual(
            seen,
            [
                events.AssociationRequested,
                events.AssociationAccepted,
                events.InvocationStarted,
                events.InvocationEnded,
                events.AssociationReleased,
                events.AssociationEnded,
            ],
        )
        (ended,) = self.seen.of(events.InvocationEnded)
        self.assertIsInstance(ended.invocation.request, CEchoRQ)
        self.assertEqual((ended.response.status, ended.octets, ended.seconds), (0, 0, 0.0))

    def test_log(self) -> None:
        """A log says which end we are, and a record what was invoked and what came of it."""
        lines: list[str] = []
        log = Logger("dicomnode", observer=lambda event: lines.append(str(event.get("line"))))  # type: ignore[arg-type]
        observe = events.Fanout(self.seen, LogObserver("info", log=log))
        peer, associating = self.requests(observe=observe)
        peer.accepts(0, 3, 3)
        association = self.successResultOf(associating)
        stored = association.echo()
        peer.responds(0x0211, error_comment="not today")
        self.successResultOf(stored)
        association.abort()
        peer, associating = self.requests(observe=observe)
        peer.rejects(1, 1, 7)
        self.failureResultOf(associating, AssociationRejected)
        self.assertEqual(lines[0], "Association Accepted")
        self.assertIn("Association Rejected", lines)
        self.assertEqual([line for line in lines if line.startswith("Presentation context")], [])
        records = [record(event) for event in self.seen.events]
        self.assertTrue(json.dumps(records))
        started, ended = (item for item in records if item["event"].startswith("Invocation"))
        self.assertEqual((started["operation"], started["data_set"]), ("C-ECHO", False))
        self.assertEqual((ended["status"], ended["error_comment"]), ("0x0211", "not today"))

    def test_answer_to_nothing(self) -> None:
        """An answer about a context that was not proposed is no agreement, and can be told."""
        peer, associating = self.requests(contexts={VERIFICATION: [IMPLICIT_VR_LE]})
        contexts = tuple(AnsweredContext(id, 0, IMPLICIT_VR_LE) for id in (1, 99))
        peer._core.accept(AssociateAC("", "", contexts))
        peer.exchange()
        self.assertEqual([*self.successResultOf(associating).contexts], [1])
        accepted = record(self.seen.of(events.AssociationAccepted)[0])["accepted"]
        self.assertEqual([item["abstract_syntax"] for item in accepted], [VERIFICATION, ""])

    def test_failing_observer(self) -> None:
        """An observer that fails ends the association, and the request."""

        def observe(event: events.Event) -> None:
            raise ZeroDivisionError

        _peer, associating = self.requests(observe=observe)
        self.failureResultOf(associating, AssociationAborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class EstablishmentTests(RequestorCase):
    """How an association comes about, seen from the protocol."""

    def test_given_up_before_there_is_a_connection(self) -> None:
        """Before there is a connection, there is nobody to send an A-ABORT to."""
        association = AssociationProtocol(
            Association(Role.REQUESTOR),
            clock=self.reactor,
            service_for=lambda _: None,
            request=AssociateRQ("ANY-SCP", "PEER", (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),)),
            closed=lambda _: None,
            observe=self.seen,
        )
        association.established.cancel()
        self.failureResultOf(association.established, CancelledError)
        self.assertEqual(self.seen.events, [])

    def test_nobody_considers(self) -> None:
        """Whom nobody can ask for an association, considers none."""
        self.assertRaises(NotImplementedError, nobody, None, None)


class ServiceTests(RequestorCase):
    """What the other end invokes on an association that we requested."""

    def test_performed(self) -> None:
        """Instances that come in, as for a C-GET, are given to a service, while the C-GET goes on."""
        storage = MemoryStorage()
        contexts = {GET: (IMPLICIT_VR_LE,), CT_IMAGE_STORAGE: (IMPLICIT_VR_LE,)}
        peer, association = self.associates(
            contexts=contexts,
            services=[Verification(), Storage(storage, check=False)],
            roles={CT_IMAGE_STORAGE: (False, True)},
        )
        responses: list[tuple[int, bytes]] = []
        got = association.invoke(
            CGetRQ(affected_sop_class_uid=GET, message_id=0),
            b"identifier",
            on_response=lambda response, data: responses.append((response.status, data)),
        )
        peer.exchange()
        peer.invokes(3, store_rq(9), b"data")
        self.assertEqual(storage.instances["1.2.3"][1], b"data")
        stored = peer.messages[-1]
        assert isinstance(stored, CStoreRSP)
        self.assertEqual((stored.message_id_being_responded_to, stored.status), (9, 0))
        peer.responds(0xFF00, to=0, number_of_remaining_suboperations=0)
        self.assertNoResult(got)
        peer.responds(0xB000, b"failed", to=0)
        self.assertEqual(self.successResultOf(got).status, 0xB000)
        self.assertEqual(responses, [(0xFF00, b""), (0xB000, b"failed")])

    def test_unserved(self) -> None:
        """What no service performs is answered so."""
        peer, _ = self.associates()
        peer.invokes(CT, store_rq(9), b"data")
        self.assertEqual(peer.messages[-1].status, 0x0211)  # type: ignore[attr-defined]

    def test_behind_a_data_set(self) -> None:
        """A response does not come between the fragments of a data set that is being sent."""
        turns: list[Deferred[int]] = []

        def perform(operation: IOperation) -> Deferred[int]:
            turns.append(Deferred())
            return operation.read_data_set(100).addCallback(lambda _: turns[-1])

        peer, association = self.associates(CalledPeer(capacity=1000), services=[Service(perform)])
        peer.invokes(CT, store_rq(9), b"data")
        stored = association.store(bytes(1 << 20), **NAMES)
        turns[0].callback(0)
        for _ in range(100):
            self.reactor.advance(0)
            peer.exchange()
        self.assertEqual([type(item).__name__ for item in peer.messages], ["CStoreRQ", "CStoreRSP"])
        self.assertEqual(len(peer.data_set), 1 << 20)
        peer.responds(0, to=0)
        self.successResultOf(stored)

    def test_acceptor_invokes(self) -> None:
        """An acceptor's service may invoke on the association of its operation."""
        reported: list[Deferred[Any]] = []

        def perform(operation: IOperation) -> int:
            report = NEventReportRQ(
                affected_sop_class_uid=CT_IMAGE_STORAGE,
                message_id=0,
                affected_sop_instance_uid="1.2.3",
                event_type_id=1,
            )
            reported.append(operation.association.invoke(report, b"what came of it"))
            return 0

        def take(operation: IOperation) -> Deferred[int]:
            return operation.read_data_set(100).addCallback(lambda data: len(data))

        acceptor = Acceptor(self.reactor, [Service(perform)])  # type: ignore[arg-type]
        network, association = self.joins(acceptor, services=[Service(take)])
        stored = association.store(b"data", **NAMES)
        network.exchange()
        self.assertEqual(self.successResultOf(stored).status, 0)
        self.assertEqual(self.successResultOf(reported[0]).status, len(b"what came of it"))

    def test_service_user_of_an_acceptor(self) -> None:
        """Before it has an association, nothing can be invoked on it."""
        acceptor = Acceptor(self.reactor, [Verification()])
        protocol = acceptor.buildProtocol(None)
        assert protocol is not None
        self.failureResultOf(ServiceUser(protocol).echo(), LocalProtocolError)
