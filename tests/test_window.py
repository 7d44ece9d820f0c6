"""Tests of the asynchronous operations window (PS3.7 D.3.3.3), as the acceptor of an association."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from zope.interface import implementer

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core.association import AssociateConfirmed, ReleaseConfirmed
from dicomnode.core.command import CGetRQ, CStoreRSP, NEventReportRQ
from dicomnode.core.items import UserInformation
from dicomnode.core.machine import State
from dicomnode.core.pdu import AssociateAC
from dicomnode.interfaces import IInstanceWriter, Instance, IOperation, IStorage
from dicomnode.requestor import associate
from dicomnode.services import Storage, Verification
from dicomnode.testing import MemoryStorage, MemoryWriter, Network, Peer
from dicomnode.timers import Timeouts
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    IMPLICIT_VR_LE,
    Service,
    ShellTestCase,
    Waiting,
    echo_rq,
    message,
    store_rq,
)


class WindowCase(ShellTestCase):
    """An acceptor whose C-STOREs are performed when it is told."""

    def window(
        self, proposed: tuple[int, int] | None, ours: tuple[int, int] = (1, 1)
    ) -> tuple[Peer, tuple[int, int] | None]:
        """Propose a window. Return the peer, and what it was answered."""
        self.service = Waiting()
        self.accepts(Verification(), self.service, asynchronous_operations=ours)
        information = UserInformation(16382, asynchronous_operations_window=proposed)
        peer = self.associates(user_information=information)
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        peer.indications.clear()
        return peer, confirmed.answer.user_information.asynchronous_operations_window

    def stores(self, peer: Peer, *message_ids: int) -> None:
        peer.sends(
            b"".join(message(CT, store_rq(number, f"1.2.{number}"), b"data") for number in message_ids)
        )

    def assertAnswers(self, peer: Peer, *message_ids: int) -> None:
        """Assert which C-STOREs were answered since it was last asked, in order."""
        answered = [one.message_id_being_responded_to for one in peer.responses]
        peer.indications.clear()
        self.assertEqual(answered, list(message_ids))


class NegotiationTests(WindowCase):
    """What is answered."""

    def test_answers(self) -> None:
        """The answer is the narrower of two windows, and finite though none was proposed."""
        for proposed, ours, answered in (
            ((5, 1), (1, 10), (5, 1)),
            ((20, 1), (1, 10), (10, 1)),
            ((0, 0), (3, 10), (10, 3)),
            ((0, 2), (3, 10), (10, 2)),
            ((1, 1), (3, 10), (1, 1)),
            ((8, 8), (1, 2), (2, 1)),
            ((65535, 65535), (65535, 65535), (65535, 65535)),
        ):
            self.assertEqual(self.window(proposed, ours)[1], answered, (proposed, ours))

    def test_not_proposed(self) -> None:
        """Where nothing was proposed nothing is answered."""
        self.assertIsNone(self.window(None, (3, 10))[1])

    def test_default(self) -> None:
        """By default nothing is answered, and one operation at a time is what holds."""
        self.assertIsNone(self.window((10, 10))[1])

    def test_mistakes(self) -> None:
        """Both numbers are finite, and fit into the item."""
        for mistake in ((0, 1), (1, 0), (1, 65536), (-1, 1)):
            self.assertRaises(ValueError, self.accepts, asynchronous_operations=mistake)

    def test_dump(self) -> None:
        """What was answered is in the answer that observers see."""
        self.window((10, 1), (1, 4))
        answer = self.last(events.AssociationAccepted).answer
        self.assertEqual(answer.user_information.asynchronous_operations_window, (4, 1))


class PerformingTests(WindowCase):
    """Several operations of one association at the same time."""

    def test_any_order(self) -> None:
        """They are answered as they come to their ends, whichever was first."""
        peer, _ = self.window((4, 1), (1, 4))
        self.stores(peer, 1, 2, 3, 4)
        self.assertEqual(len(self.service.turns), 4)
        for turn, answered in ((2, 3), (0, 1), (3, 4), (1, 2)):
            self.service.turns[turn].callback(0)
            peer.exchange()
            self.assertAnswers(peer, answered)

    def test_held(self) -> None:
        """One more than there may be waits until another is answered, and nothing behind it is read."""
        for size in (1, 7, 100, None):
            self.service = Waiting()
            self.accepts(Verification(), self.service, asynchronous_operations=(1, 3))
            information = UserInformation(16382, asynchronous_operations_window=(0, 1))
            peer = self.associates(size, user_information=information)
            self.stores(peer, *range(1, 8))
            for performed in range(3, 7):
                self.assertEqual(len(self.service.operations), performed)
                self.assertReading(peer, False)
                self.service.turns[performed - 3].callback(0)
            self.assertEqual(len(self.service.operations), 7)
            self.assertReading(peer)
            for turn in self.service.turns[4:]:
                turn.callback(0)
            peer.exchange()
            self.assertAnswers(peer, *range(1, 8))

    def test_nothing_is_kept_of_what_waits(self) -> None:
        """Of a peer that sends and sends no more is taken from the transport than was read already."""
        peer, _ = self.window((2, 1), (1, 2))
        self.stores(peer, 1, 2)
        for number in range(3, 100):
            peer.transport.deliver(message(CT, store_rq(number, f"1.2.{number}"), bytes(1000)))
        self.assertFalse(peer.transport.arrived)
        self.assertEqual(len(peer.transport._arriving), 96)  # one read of 97 was there when it paused

    def test_within_the_window(self) -> None:
        """Who keeps to the window is read from while all of it is performed: A-ABORT is heard."""
        peer, _ = self.window((3, 1), (1, 3))
        self.stores(peer, 1, 2, 3)
        self.assertReading(peer)
        peer.aborts()
        self.assertEqual(self.service.cancelled, 3)
        self.assertEqual([one.response for one in self.seen.of(events.OperationEnded)], [None] * 3)
        self.assertClosing(peer)

    def test_released(self) -> None:
        """A release that is asked for meanwhile is answered once all are."""
        peer, _ = self.window((3, 1), (1, 3))
        self.stores(peer, 1, 2, 3)
        peer.releases()
        for turn in (1, 2):
            self.service.turns[turn].callback(0)
            peer.exchange()
        self.assertAnswers(peer, 2, 3)
        self.service.turns[0].callback(0)
        peer.exchange()
        self.assertIsInstance(peer.indications.pop(), ReleaseConfirmed)
        self.assertAnswers(peer, 1)

    def test_lost(self) -> None:
        """What waits is forgotten with the association, however that ends."""
        for end in (
            lambda peer: peer.transport.lose(),
            lambda peer: peer.association.abort(),
            lambda peer: peer.association.stop(),
        ):
            peer, _ = self.window((2, 1), (1, 2))
            self.stores(peer, 1, 2, 3, 4)
            end(peer)
            self.assertEqual(self.service.cancelled, 2)
            self.assertEqual(len(self.service.operations), 2)
            self.assertEqual(self.seen.of(events.Unexpected), [])

    def test_patience(self) -> None:
        """Who waits for us, within the window or beyond it, is not silent."""
        for last in (3, 5):
            peer, _ = self.window((3, 1), (1, 3))
            self.stores(peer, *range(1, last + 1))
            self.assertPatient()
            self.assertEstablished(peer)
            peer.transport.lose()

    def test_message_id_in_use(self) -> None:
        """A Message ID that is in use is refused, with as many outstanding as may be."""
        peer, _ = self.window((3, 1), (1, 3))
        self.stores(peer, 1, 2, 1)
        self.assertResponses(peer, 0x0210)

    def test_same_instance(self) -> None:
        """An instance waits while the same is being stored: the last that is sent is what is kept."""
        for size in (7, None):
            self.service = Waiting()
            self.accepts(Verification(), self.service, asynchronous_operations=(1, 9))
            window = UserInformation(16382, asynchronous_operations_window=(9, 1))
            peer = self.associates(size, user_information=window)
            requests = (store_rq(1), store_rq(2, "1.2.4"), store_rq(3), store_rq(4, "1.2.5"))
            peer.sends(b"".join(message(CT, request, b"data") for request in requests))
            self.assertEqual(len(self.service.operations), 2)
            self.service.turns[1].callback(0)
            peer.exchange()
            self.assertAnswers(peer, 2)
            self.assertEqual(len(self.service.operations), 2)
            self.service.turns[0].callback(0)
            peer.exchange()
            self.assertAnswers(peer, 1)
            self.assertEqual(len(self.service.operations), 4)
            for turn in self.service.turns[2:]:
                turn.callback(0)
            peer.exchange()
            self.assertAnswers(peer, 3, 4)

    def test_same_instance_and_message_id(self) -> None:
        """One that could not be told from another by its response is refused, and does not wait."""
        peer, _ = self.window((3, 1), (1, 3))
        peer.sends(message(CT, store_rq(1), b"data") * 2)
        self.assertResponses(peer, 0x0210)

    def test_window_of_one(self) -> None:
        """A window of one is as none: a second operation may be on its way in, and no third."""
        peer, answered = self.window((1, 1), (1, 10))
        self.assertEqual(answered, (1, 1))
        self.stores(peer, 1, 2, 3)
        self.assertEqual(len(self.service.operations), 2)
        self.assertReading(peer, False)

    def test_drained(self) -> None:
        """Draining waits for all of them."""
        peer, _ = self.window((3, 1), (1, 3))
        self.stores(peer, 1, 2, 3)
        self.acceptor.drain(30)
        for turn in self.service.turns:
            self.assertState(peer, State.STA6)
            turn.callback(0)
        peer.exchange()
        self.assertAborted(peer)

    def test_echo_meanwhile(self) -> None:
        """An echo counts, too, and need not wait for what is slow."""
        peer, _ = self.window((3, 1), (1, 3))
        self.stores(peer, 1, 2)
        peer.sends(message(ECHO, echo_rq(3)))
        self.assertAnswers(peer, 3)


class InvokingTests(WindowCase):
    """The other direction: what a service invokes on the requestor."""

    def reports(self, proposed: tuple[int, int], ours: tuple[int, int]) -> int:
        """Return how many of five notifications are outstanding, with a window."""

        def perform(operation: IOperation) -> Deferred[int]:
            for number in range(5):
                report = NEventReportRQ(
                    affected_sop_class_uid=CT_IMAGE_STORAGE,
                    message_id=0,
                    affected_sop_instance_uid=f"1.2.{number}",
                    event_type_id=1,
                )
                operation.association.invoke(report).addErrback(lambda _: None)
            return operation.read_data_set(100).addCallback(lambda _: 0)

        self.accepts(Service(perform), asynchronous_operations=ours)
        information = UserInformation(16382, asynchronous_operations_window=proposed)
        peer = self.associates(user_information=information)
        peer.indications.clear()
        self.stores(peer, 1)
        commands = [item.command for item in peer.indications if hasattr(item, "command")]
        return sum(isinstance(command, NEventReportRQ) for command in commands)

    def test_window(self) -> None:
        """As many are outstanding as the requestor performs, and no more than we would invoke."""
        self.assertEqual(self.reports((1, 3), (4, 2)), 3)
        self.assertEqual(self.reports((1, 0), (4, 2)), 4)
        self.assertEqual(self.reports((1, 9), (1, 2)), 1)
        self.assertEqual(self.reports((9, 9), (1, 1)), 1)

    def test_responses_are_read(self) -> None:
        """With as many C-GETs as there may be, the responses to their C-STOREs are read."""
        get = "1.2.840.10008.5.1.4.1.2.2.3"

        async def perform(operation: IOperation) -> int:
            report = store_rq(0, "1.2.3")
            response = await operation.association.invoke(report, b"data")
            return response.status

        self.accepts(Service(perform, get), Storage(MemoryStorage()), asynchronous_operations=(1, 2))
        peer = self.connects()
        peer.associates(
            {get: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]},
            user_information=UserInformation(16382, asynchronous_operations_window=(2, 1)),
        )
        for number in (1, 2):
            peer.invokes(get, CGetRQ(affected_sop_class_uid=get, message_id=number))
        for number in (1, 2):
            response = CStoreRSP(
                affected_sop_class_uid=CT_IMAGE_STORAGE, message_id_being_responded_to=number, status=0
            )
            peer.invokes(CT_IMAGE_STORAGE, response)
        self.assertResponses(peer, 0, 0)


@implementer(IStorage)
class SlowStorage(MemoryStorage):
    """Keeps each instance in a tenth of a second, however many at a time: as an archive far away does."""

    def __init__(self, reactor: object) -> None:
        super().__init__()
        self.reactor = reactor

    def _open(self, instance: Instance) -> IInstanceWriter:
        self.writers.append(_SlowWriter(self, instance))
        return self.writers[-1]


@implementer(IInstanceWriter)
class _SlowWriter(MemoryWriter):
    _storage: SlowStorage

    def commit(self) -> Deferred[None]:
        self._end("commit")
        return deferLater(self._storage.reactor, 0.1, self._keep, None)  # type: ignore[arg-type]


class GainTests(ShellTestCase):
    """What it gains where the storage takes its time."""

    def seconds(self, window: int) -> float:
        """Return how long twenty instances take with a window, on the clock of the test."""
        storage = SlowStorage(self.reactor)
        acceptor = Acceptor(
            self.reactor, [Storage(storage, check=False)], asynchronous_operations=(1, window)
        )
        network = Network(self.reactor, acceptor)
        timeouts = Timeouts(0, 0, 0)
        associating = associate(
            self.reactor,
            network,
            contexts={CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]},
            asynchronous_operations=(window, 1),
            timeouts=timeouts,
        )
        network.exchange()
        association = self.successResultOf(associating)
        stored = gatherResults(
            association.store(
                bytes(10_000),
                sop_class_uid=CT_IMAGE_STORAGE,
                sop_instance_uid=f"1.2.{number}",
                transfer_syntax_uid=IMPLICIT_VR_LE,
            )
            for number in range(20)
        )
        began = self.reactor.seconds()
        network.exchange()
        while not stored.called:
            due = min(call.getTime() for call in self.reactor.getDelayedCalls())
            self.reactor.advance(due - self.reactor.seconds())
            network.exchange()
        self.assertEqual([response.status for response in self.successResultOf(stored)], [0] * 20)
        self.assertEqual(len(storage.instances), 20)
        network.lose()
        return self.reactor.seconds() - began

    def test_gain(self) -> None:
        """Twenty instances of 100 ms each take 2 s one after the other, and 200 ms ten at a time."""
        for window, seconds in ((1, 2.0), (2, 1.0), (10, 0.2), (20, 0.1)):
            self.assertAlmostEqual(self.seconds(window), seconds, 6)
