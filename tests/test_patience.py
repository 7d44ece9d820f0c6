"""Tests of :mod:`dicomnode.patience`: whom an association waits for, and what does not put that off."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from itertools import count
from typing import Any, cast

from dicomnode import events
from dicomnode.core.association import MessageReceived
from dicomnode.core.command import CGetRQ, Request, respond
from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import ReleaseRQ
from dicomnode.errors import AssociationTimedOut
from dicomnode.interfaces import IOperation
from dicomnode.services import Discard, Storage, Verification
from dicomnode.testing import CalledPeer, MemoryStorage, Peer
from dicomnode.timers import MIN_PROGRESS, Timeouts
from tests.cases import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    FIND,
    IMPLICIT_VR_LE,
    QUERY,
    TIMEOUTS,
    Service,
    ShellTestCase,
    Waiting,
    begun,
    data,
    echo_rq,
    find_rq,
    message,
    store_rq,
)
from tests.requestorcases import GET, NAMES, Producer, RequestorCase

#: What a requestor proposes that invokes several operations at a time.
WINDOW = UserInformation(max_length=16382, asynchronous_operations_window=(10, 1))


def asks_back(request: Request, data_set: Any = None) -> Service:
    """Return a service that asks something of its peer, and is done when that is answered."""

    def perform(operation: IOperation) -> Any:
        reading = operation.read_data_set(100)
        reading.addCallback(lambda _: operation.association.invoke(request, data_set))
        return reading.addCallback(lambda _: 0)

    return Service(perform, FIND)


class PerformingTests(ShellTestCase):
    """What is performed has its time, whatever the peer does meanwhile."""

    def asks(self, peer: Peer, *message_ids: int) -> None:
        for message_id in message_ids:
            peer.sends(message(QUERY, find_rq(message_id), b"identifier"))

    def answers(self, peer: Peer) -> None:
        """Have a peer answer the last request that it was sent."""
        messages = [item for item in peer.indications if isinstance(item, MessageReceived)]
        requests = [item for item in messages if isinstance(item.command, Request)]
        peer._core.send_command(requests[-1].context.id, respond(cast(Request, requests[-1].command), 0))
        peer.exchange()

    def aborts(self) -> list[str]:
        return [event.why for event in self.seen.of(events.AbortSent)]

    def test_released_meanwhile(self) -> None:
        """An A-RELEASE-RQ waits for what is stuck no longer than the association would."""
        self.accepts(Waiting(FIND), Verification())
        peer = self.associates()
        self.asks(peer, 1)
        peer.sends(ReleaseRQ().encode())
        self.passes(TIMEOUTS.performing - 1)
        self.assertEqual(self.aborts(), [])
        self.passes(1)
        self.assertEqual(self.aborts(), ["performing timeout"])

    def test_peer_goes_on(self) -> None:
        """What the peer says while something is stuck does not keep that."""
        self.accepts(Waiting(FIND), Verification(), asynchronous_operations=(1, 10))
        octets = message(ECHO, echo_rq(7))
        for cuts in ((0,), (0, 20)):
            self.seen.events.clear()
            peer = self.associates(user_information=WINDOW)
            self.asks(peer, 1)
            for _ in range(59):
                self.passes(TIMEOUTS.performing / 60)
                for start, end in zip(cuts, (*cuts[1:], None), strict=True):
                    peer.sends(octets[start:end])
                self.assertEqual(peer.response.message_id_being_responded_to, 7)
            self.assertEqual(self.aborts(), [])
            self.passes(TIMEOUTS.performing / 60)
            self.assertEqual(self.aborts(), ["performing timeout"])

    def test_one_after_the_other(self) -> None:
        """Of several that go on, each has that time from when it is the one that has gone on for longest."""
        service = Waiting(FIND)
        self.accepts(service, Verification(), asynchronous_operations=(1, 10))
        peer = self.associates(user_information=WINDOW)
        self.asks(peer, 1, 2, 3)
        for turn in service.turns:
            self.passes(TIMEOUTS.performing - 1)
            turn.callback(0)
            peer.exchange()
        self.assertEqual((len(peer.responses), self.aborts()), (3, []))

    def test_peer_is_asked(self) -> None:
        """What a service asks of the peer, on the same association, that has to answer in its own time."""

        self.accepts(asks_back(store_rq(), b"data"), Storage(self.storage, check=False))
        peer = self.associates()
        self.asks(peer, 1)
        self.passes(TIMEOUTS.dimse - 1)
        self.assertEqual(self.aborts(), [])
        self.passes(1)
        self.assertEqual(self.aborts(), ["DIMSE timeout"])

    def test_in_the_midst_of_a_message(self) -> None:
        """What is stuck has no more time where the peer has begun to say something, and may take for ever."""
        self.accepts(
            Waiting(FIND),
            Verification(),
            asynchronous_operations=(1, 10),
            timeouts=Timeouts(dimse=0, network=0, performing=60),
        )
        peer = self.associates(user_information=WINDOW)
        self.asks(peer, 1)
        peer.sends(message(ECHO, echo_rq(7))[:20])
        self.passes(59)
        self.assertEqual(self.aborts(), [])
        self.passes(1)
        self.assertEqual(self.aborts(), ["performing timeout"])

    def test_asks_again_and_again(self) -> None:
        """An operation that asks one thing of the peer after the other goes on."""

        async def perform(operation: IOperation) -> int:
            await operation.read_data_set(100)
            for _ in range(100):
                await operation.association.invoke(echo_rq())
            return 0

        self.accepts(Service(perform, FIND), Verification())
        peer = self.associates()
        self.asks(peer, 1)
        for _ in range(100):
            self.passes(TIMEOUTS.dimse - 1)
            self.answers(peer)
        self.assertEqual((peer.response.status, self.aborts()), (0, []))

    def test_waits_for_its_turn(self) -> None:
        """Nor does it keep the peer waiting where that has yet to answer what is before it."""

        timeouts = Timeouts(dimse=30, performing=20)
        self.accepts(asks_back(echo_rq()), Verification(), timeouts=timeouts)
        peer = self.associates()
        first = peer.association.invoke(echo_rq())
        peer.exchange()
        self.asks(peer, 1)
        self.passes(25)
        self.answers(peer)
        self.assertEqual(self.successResultOf(first).status, 0)
        self.passes(25)
        self.answers(peer)
        self.assertEqual((peer.response.status, self.aborts()), (0, []))

    def test_sends_to_the_end(self) -> None:
        """A data set is sent to its end, as long as it comes, though the peer releases."""

        def perform(operation: IOperation) -> Any:
            operation.association.invoke(store_rq(), body).addErrback(lambda _: None)
            return operation.read_data_set(100).addCallback(lambda _: 0)

        body = Producer()
        self.accepts(Service(perform, FIND), Storage(self.storage, check=False))
        peer = self.associates()
        self.asks(peer, 1)
        body.consumer.write(bytes(1 << 14))
        peer.releases()
        for _ in range(3):
            self.passes(TIMEOUTS.performing - 1)
            body.consumer.write(bytes(1 << 14))
            peer.transport.taken()
        self.assertEqual(self.aborts(), [])
        self.passes(TIMEOUTS.performing)
        self.assertEqual(self.aborts(), ["performing timeout"])

    def test_read_slowly(self) -> None:
        """While the peer is to read what is sent to it, that is what counts: it may read for long."""

        self.accepts(asks_back(store_rq(), bytes(1 << 20)), Storage(self.storage, check=False))
        peer = self.connects()
        peer.transport.capacity = 1000
        peer.associates({FIND: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]})
        left = count(1 << 20, -MIN_PROGRESS)
        self.patch(peer.association._wire, "outstanding", left.__next__)
        peer.transport.deliver(message(1, find_rq(), b"identifier"))
        for _ in range(2 * int(TIMEOUTS.performing / TIMEOUTS.network)):
            self.reactor.advance(TIMEOUTS.network)
            self.reactor.advance(0)
        self.assertEqual(self.aborts(), [])
        peer.association.abort()

    def test_what_it_sends(self) -> None:
        """An operation that has instances sent goes on while they are."""

        body = Producer()
        self.accepts(asks_back(store_rq(), body), Storage(self.storage, check=False))
        peer = self.associates()
        self.asks(peer, 1)
        for _ in range(3):
            self.passes(TIMEOUTS.performing - 1)
            body.consumer.write(bytes(1 << 17))
            peer.transport.taken()
        self.assertEqual(self.aborts(), [])
        self.passes(TIMEOUTS.performing)
        self.assertEqual(self.aborts(), ["performing timeout"])


class AwaitingTests(RequestorCase):
    """Who is awaited to answer has the time for it: not more for talking, nor less for what is ours to do."""

    def passes(self, seconds: float) -> None:
        """Let time pass, with a turn of the reactor after that."""
        self.reactor.advance(seconds)
        self.reactor.advance(0)

    def test_we_perform(self) -> None:
        """A response is not awaited while the peer waits for one of ours."""
        service = Waiting(FIND)
        peer, association = self.associates(services=[service])
        echoed = association.echo()
        peer.exchange()
        peer.sends(message(QUERY, find_rq(), b"identifier"))
        self.passes(TIMEOUTS.performing - 1)
        self.assertNoResult(echoed)
        service.turns[0].callback(0)
        self.passes(TIMEOUTS.dimse - 1)
        self.assertNoResult(echoed)
        self.passes(1)
        self.failureResultOf(echoed, AssociationTimedOut)

    def test_we_keep_what_a_get_brings(self) -> None:
        """Nor is that to a C-GET while what it brings is being kept."""
        storage = MemoryStorage()
        peer, association = self.associates(
            contexts={GET: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE]},
            roles={CT_IMAGE_STORAGE: (False, True)},
            services=[Storage(storage, check=False)],
        )
        got = association.invoke(CGetRQ(affected_sop_class_uid=GET, message_id=1), b"identifier")
        self.turns(peer)
        peer.sends(begun(3, store_rq()))
        storage.stalls()
        peer.sends(data(3, b"data"))
        self.passes(TIMEOUTS.dimse * 2)
        self.assertNoResult(got)
        storage.recovers()
        self.turns(peer)
        self.passes(TIMEOUTS.dimse)
        self.failureResultOf(got, AssociationTimedOut)

    def test_release(self) -> None:
        """Who asks for something again and again does not answer A-RELEASE-RQ by that."""
        peer, association = self.associates()
        released = association.release()
        for _ in range(10):
            self.assertNoResult(released)
            self.passes(TIMEOUTS.acse / 10)
            peer.sends(message(ECHO, echo_rq()))
        self.assertEqual(self.failureResultOf(released, AssociationTimedOut).value.what, "ACSE")

    def test_message_before_the_answer(self) -> None:
        """A message that comes before the answer is let come, for as long as it comes on."""
        peer, association = self.associates(services=[Storage(MemoryStorage(), check=False)])
        echoed = association.echo()
        peer.exchange()
        peer.sends(begun(CT, store_rq()))
        for number in range(1000):
            self.passes(1)
            peer.sends(data(CT, bytes(MIN_PROGRESS), last=False))
            if number % 100 == 0:
                arriving = association._association._operations.arriving
                arriving.pauseProducing()
                arriving.resumeProducing()
        self.assertNoResult(echoed)
        for _ in range(5):  # within which it is looked four times
            self.passes(TIMEOUTS.dimse / 4)
        self.failureResultOf(echoed, AssociationTimedOut)

    def test_messages_before_the_answer(self) -> None:
        """Who says next to nothing, a bit at a time, has the time for the answer, and no more."""
        octets = message(ECHO, echo_rq())
        for whole in (True, False):
            peer, association = self.associates()
            answered = association.echo()
            peer.exchange()
            peer.sends(octets[:40])
            for _ in range(3):
                self.passes(TIMEOUTS.dimse - 1)
                if whole:
                    peer.sends(octets[40:])
                    peer.sends(octets[:40])
                else:
                    peer.sends(octets[40:] + octets[:40])
            self.failureResultOf(answered, AssociationTimedOut)

    def test_message_that_is_awaited_for_nothing(self) -> None:
        """Where nothing is awaited, a message may take as long as it goes on."""
        peer, association = self.associates(services=[Storage(Discard(), check=False)])
        echoed = association.echo()
        peer.responds()
        self.successResultOf(echoed)
        peer.sends(begun(CT, store_rq()))
        for _ in range(100):
            self.passes(TIMEOUTS.dimse - 1)
            peer.sends(data(CT, bytes(MIN_PROGRESS), last=False))
        self.assertEqual(self.seen.of(events.AbortSent), [])
        peer.aborts()

    def test_not_read(self) -> None:
        """Who does not read is not heard for what it sends."""
        peer = CalledPeer(capacity=1000)
        peer, association = self.associates(peer, services=[Storage(Discard(), check=False)])
        stored = association.store(bytes(4000), **NAMES)
        peer.transport.deliver(begun(CT, store_rq()))
        for _ in range(8):
            self.assertNoResult(stored)
            self.passes(TIMEOUTS.network / 8)
            peer.transport.deliver(data(CT, bytes(MIN_PROGRESS + 100), last=False))
        self.assertEqual(self.failureResultOf(stored, AssociationTimedOut).value.what, "network")

    def test_reads_little_by_little(self) -> None:
        """What it has read counts over all of the timeout, however often that is looked at."""
        for octets, patient in ((MIN_PROGRESS // 2, True), (MIN_PROGRESS // 8, False)):
            peer, association = self.associates()
            left = count(1 << 20, -octets)  # looked at four times in each timeout
            self.patch(association._association._wire, "outstanding", left.__next__)
            stored = association.store(b"data", **NAMES)
            for _ in range(20):
                self.passes(TIMEOUTS.dimse / 4)
            self.assertEqual(stored.called, not patient)
            association.abort()
            self.failureResultOf(stored)
            peer.transport.lose()
