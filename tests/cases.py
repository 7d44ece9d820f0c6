"""What the tests of the shell share: an acceptor, its peers, and what can be said about them."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core.association import Aborted, AssociateConfirmed
from dicomnode.core.codec import encode
from dicomnode.core.command import CEchoRQ, CFindRQ, Command, CStoreRQ
from dicomnode.core.machine import State
from dicomnode.core.pdu import AssociateRQ, ProposedContext, p_data_tf
from dicomnode.interfaces import IOperation, IService
from dicomnode.services import Storage, Verification
from dicomnode.testing import MemoryStorage, Peer, Pool, Reactor, Recorder
from dicomnode.timers import Timeouts
from dicomnode.uids import VERIFICATION

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR_LE = "1.2.840.10008.1.2"

#: What peers propose, unless told otherwise; and the ids of these contexts.
CONTEXTS = {VERIFICATION: [IMPLICIT_VR_LE], CT_IMAGE_STORAGE: [IMPLICIT_VR_LE], FIND: [IMPLICIT_VR_LE]}
ECHO, CT, QUERY = 1, 3, 5

#: A request for an association on which nothing is to be stored.
REQUEST = AssociateRQ("ANY-SCP", "PEER", (ProposedContext(ECHO, VERIFICATION, (IMPLICIT_VR_LE,)),))

#: Three lengths to tell apart.
TIMEOUTS = Timeouts(acse=10.0, dimse=20.0, network=40.0, performing=600.0)

_E = TypeVar("_E")


def echo_rq(message_id: int = 1) -> CEchoRQ:
    return CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=message_id)


def store_rq(message_id: int = 1, sop_instance_uid: str = "1.2.3") -> CStoreRQ:
    return CStoreRQ(
        affected_sop_class_uid=CT_IMAGE_STORAGE,
        message_id=message_id,
        affected_sop_instance_uid=sop_instance_uid,
    )


def find_rq(message_id: int = 1) -> CFindRQ:
    return CFindRQ(affected_sop_class_uid=FIND, message_id=message_id)


def message(context_id: int, command: Command, data_set: bytes | None = None) -> bytes:
    """Return a message, each half of it one PDU."""
    if data_set is None:
        return p_data_tf(context_id, True, True, encode(command))
    return begun(context_id, command) + data(context_id, data_set)


def begun(context_id: int, command: Command) -> bytes:
    """Return the command set of a message whose data set is to follow."""
    return p_data_tf(context_id, True, True, encode(command, True))


def data(context_id: int, fragment: bytes, last: bool = True) -> bytes:
    """Return a fragment of a data set."""
    return p_data_tf(context_id, False, last, fragment)


@implementer(IService)
class Service:
    """Performs operations as a function says, and remembers them."""

    def __init__(self, perform: Callable[[IOperation], Awaitable[int]], *abstract_syntaxes: str) -> None:
        self.contexts: Mapping[str, Sequence[str]] = dict.fromkeys(
            abstract_syntaxes or (CT_IMAGE_STORAGE,), (IMPLICIT_VR_LE,)
        )
        self.operations: list[IOperation] = []
        self._perform = perform

    def perform(self, operation: IOperation) -> Awaitable[int]:
        self.operations.append(operation)
        return self._perform(operation)


class Waiting(Service):
    """Takes the data set, and performs the operation once it is told: fire, or fail, ``turns``."""

    def __init__(self, *abstract_syntaxes: str) -> None:
        super().__init__(self._wait, *abstract_syntaxes)
        self.turns: list[Deferred[int]] = []
        self.cancelled = 0

    def _wait(self, operation: IOperation) -> Deferred[int]:
        turn = self.turn()
        return operation.read_data_set(1 << 20).addCallback(lambda _: turn)

    def turn(self) -> Deferred[int]:
        self.turns.append(Deferred(self._cancelled))
        return self.turns[-1]

    def _cancelled(self, turn: Deferred[int]) -> None:
        self.cancelled += 1


class Policy:
    """A policy that says what it was told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def consider(self, request: AssociateRQ, peer: object) -> Any:
        return self.answer


class QuickPool(Pool):
    """A thread pool whose jobs are done at once."""

    def callInThreadWithCallback(self, *arguments: Any, **keywords: Any) -> None:
        super().callInThreadWithCallback(*arguments, **keywords)
        self.run()


class QuickReactor(MemoryReactorClock):
    """A reactor in memory, with a thread pool whose jobs are done at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = QuickPool()

    def getThreadPool(self) -> Pool:
        return self.pool

    def callFromThread(self, callable: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        callable(*arguments, **keywords)


class ShellTestCase(SynchronousTestCase):
    """An acceptor in memory; at the end, it has forgotten everyone who came."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.seen = Recorder()
        self.storage = MemoryStorage()
        self.acceptors: list[Acceptor] = []
        self.peers: list[Peer] = []
        self.acceptor = self.accepts(Verification(), Storage(self.storage, check=False))
        self.addCleanup(self.assertNothingLeft)

    def accepts(self, *services: IService, **options: Any) -> Acceptor:
        """Return an acceptor which peers that come now will find."""
        options = {"timeouts": TIMEOUTS, "observe": self.seen} | options
        self.acceptor = Acceptor(self.reactor, services, **options)
        self.acceptors.append(self.acceptor)
        return self.acceptor

    def connects(self, size: int | None = None) -> Peer:
        """Return a peer that has connected, and said nothing."""
        self.peers.append(Peer(self.acceptor, size))
        return self.peers[-1]

    def associates(self, size: int | None = None, **how: Any) -> Peer:
        """Return a peer with an association."""
        peer = self.connects(size)
        peer.associates(CONTEXTS, **how)
        return peer

    def last(self, kind: type[_E]) -> _E:
        """Return the last event of a kind."""
        return self.seen.of(kind)[-1]

    def passes(self, seconds: float) -> None:
        """Let time pass; then each end reads what the other has written."""
        self.reactor.advance(seconds)
        for peer in self.peers:
            peer.exchange()

    def assertNothingLeft(self) -> None:
        """Assert that no timer, no association and no open writer outlives the connections."""
        for peer in self.peers:
            peer.transport.lose()
        self.assertEqual([call for call in self.reactor.getDelayedCalls() if call.active()], [])
        for acceptor in self.acceptors:
            self.assertEqual(acceptor.associations, set())
        for writer in self.storage.writers:
            self.assertIn(writer.ended, ("commit", "abort"))

    def assertState(self, peer: Peer, state: State) -> None:
        self.assertIs(peer.association._core.state, state)

    def assertEstablished(self, peer: Peer) -> None:
        self.assertState(peer, State.STA6)
        self.assertFalse(peer.transport.disconnecting)

    def assertResponses(self, peer: Peer, *statuses: int) -> None:
        """Assert the statuses of the responses that a peer has had since it was last asked."""
        responses = [response.status for response in peer.responses]
        peer.indications.clear()
        self.assertEqual([f"{status:04X}" for status in responses], [f"{status:04X}" for status in statuses])

    def assertAborted(self, peer: Peer, source: int = 0, reason: int = 0) -> None:
        """Assert that a peer was sent an A-ABORT, and nothing behind it."""
        peer.exchange()
        self.assertEqual(peer.indications[-1], Aborted(source, reason, by_peer=True))
        self.assertState(peer, State.STA13)

    def assertAnswered(self, peer: Peer, answer: object) -> None:
        """Assert how a peer's A-ASSOCIATE-RQ was answered."""
        self.assertEqual(peer.indications[:1], [AssociateConfirmed(answer)])  # type: ignore[arg-type]

    def assertClosing(self, peer: Peer) -> None:
        self.assertTrue(peer.transport.disconnecting)

    def assertReading(self, peer: Peer, reading: bool = True) -> None:
        """Assert whether a peer is read from; each change of that is observed."""
        self.assertEqual(peer.transport.paused, not reading)

    def assertTimedOut(self, what: str, seconds: float) -> None:
        timed_out = self.last(events.TimedOut)
        self.assertEqual((timed_out.what, timed_out.seconds), (what, seconds))

    def assertPatient(self, seconds: float = 599.0) -> None:
        """Assert that nothing happens for a long time."""
        before = len(self.seen.events)
        self.passes(seconds)
        self.assertEqual(self.seen.events[before:], [])
