"""Tests for :mod:`dicomnode.node`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import Any, cast

from twisted.application.service import MultiService
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, FirstError, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from dicomnode import events, uids
from dicomnode.acceptor import Acceptor
from dicomnode.core.association import Aborted
from dicomnode.filestore import FileStorage
from dicomnode.node import Node
from dicomnode.services import Storage, Verification
from dicomnode.testing import MemoryStorage, Peer, Pool, Reactor, Recorder

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"

REFUSED = CannotListenError("", 104, OSError(13, "Permission denied"))


@implementer(IListeningPort)
class Port:
    """A port that says what is done to it."""

    def __init__(self, number: int, log: list[str], stopping: Any = None) -> None:
        self.number = number
        self.log = log
        self.stopping = stopping

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> Any:
        self.log.append(f"close {self.number}")
        if isinstance(self.stopping, Exception):
            raise self.stopping
        return self.stopping

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", self.number)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """An endpoint that listens, or fails to, when it is told."""

    def __init__(self, listening: Deferred[Any]) -> None:
        self.listening = listening
        self.factory: Any = None

    def listen(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        return self.listening


class LoggingPool(Pool):
    """A pool that says when it is started and stopped."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def start(self) -> None:
        super().start()
        self.log.append("start pool")

    def stop(self) -> None:
        super().stop()
        self.log.append("stop pool")


class NodeTests(SynchronousTestCase):
    """A node listens, and stops in good order."""

    def setUp(self) -> None:
        self.log: list[str] = []
        self.reactor = Reactor()
        self.pool = LoggingPool(self.log)
        self.recorder = Recorder()
        self.storage = MemoryStorage()
        services = [Storage(self.storage, check=False), Verification()]
        self.acceptor = Acceptor(self.reactor, services, observe=self.recorder)
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))

    def make_node(self, *endpoints: Any, grace: float = 30.0, behind: Any = None) -> Node:
        pool = cast(Any, self.pool)
        return Node(endpoints, self.acceptor, pool, grace=grace, observe=self.recorder, behind=behind)

    def listens(self, number: int, stopping: Any = None) -> Endpoint:
        return Endpoint(succeed(Port(number, self.log, stopping)))

    def addresses(self) -> list[int]:
        return [cast(IPv4Address, event.address).port for event in self.recorder.of(events.Listening)]

    def associate(self) -> Peer:
        peer = Peer(self.acceptor)
        peer.associates({CT: [EXPLICIT_VR_LE], uids.VERIFICATION: [EXPLICIT_VR_LE]})
        return peer

    def test_order(self) -> None:
        """It listens with privilege, starts its threads without; and stops the other way round."""
        endpoint = self.listens(104)
        node = self.make_node(endpoint)
        node.privilegedStartService()
        self.assertEqual(self.log, [])
        self.assertIs(endpoint.factory, self.acceptor)
        self.assertEqual(self.addresses(), [104])
        node.startService()
        self.assertEqual(self.log, ["start pool"])
        self.assertEqual(self.addresses(), [104])
        self.assertTrue(node.running)
        self.assertIsNone(self.successResultOf(node.stopService()))
        self.assertEqual(self.log, ["start pool", "close 104", "stop pool"])
        self.assertFalse(node.running)

    def test_behind(self) -> None:
        """What goes on behind is told of the grace at first; it is waited for before the threads stop."""

        class Slow:
            def start(_) -> None:
                self.log.append("start behind")

            def stop_within(_, seconds: float) -> None:
                self.log.append(f"stop within {seconds:g}")

            def finished(_) -> Deferred[None]:
                self.log.append("finish")
                return finishing

        finishing: Deferred[None] = Deferred()
        node = self.make_node(self.listens(104), grace=7.0, behind=Slow())
        node.startService()
        stopping = node.stopService()
        self.assertEqual(self.log, ["start behind", "start pool", "close 104", "stop within 7", "finish"])
        self.assertNoResult(stopping)
        node.hasten()
        finishing.callback(None)
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.log[-2:], ["stop within 0", "stop pool"])

    def test_nothing_to_be_behind(self) -> None:
        """What cannot be finished is refused when that is still easily mended."""
        error = self.assertRaises(TypeError, self.make_node, behind=object())
        self.assertIn("has no method start", str(error))

    def test_without_privilege(self) -> None:
        """Where nobody starts services with privilege, it listens when it is started."""
        node = self.make_node(self.listens(104), self.listens(11112))
        node.startService()
        self.assertEqual(self.addresses(), [104, 11112])
        self.successResultOf(node.stopService())
        self.assertEqual(self.log, ["start pool", "close 104", "close 11112", "stop pool"])

    def test_part_of_an_application(self) -> None:
        """It is started and stopped with the service that it is a part of."""
        parent = MultiService()
        self.make_node(self.listens(104)).setServiceParent(parent)
        parent.privilegedStartService()
        parent.startService()
        self.assertIsNotNone(self.successResultOf(parent.stopService()))
        self.assertEqual(self.log, ["start pool", "close 104", "stop pool"])

    def test_reactor(self) -> None:
        """With endpoints of Twisted's own it accepts connections, and no more once it has stopped."""
        reactor = MemoryReactorClock()
        node = self.make_node(TCP4ServerEndpoint(reactor, 104), TCP4ServerEndpoint(reactor, 11112))
        node.startService()
        self.assertEqual(
            [server[:2] for server in reactor.tcpServers], [(104, self.acceptor), (11112, self.acceptor)]
        )
        self.associate().echoes()
        node.stopService()
        self.assertIsNone(self.acceptor.buildProtocol(None))
        for association in list(self.acceptor.associations):
            association.transport.lose()

    def test_cannot_listen(self) -> None:
        """A port that cannot be listened on is an error, and no thread is started."""
        node = self.make_node(Endpoint(fail(REFUSED)))
        self.assertRaises(CannotListenError, node.privilegedStartService)
        node = self.make_node(Endpoint(fail(REFUSED)))
        self.assertRaises(CannotListenError, node.startService)
        self.assertEqual(self.log, [])
        self.assertFalse(node.running)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_second_cannot_listen(self) -> None:
        """When one port cannot be listened on, those before it are closed, and those behind not opened."""
        third = self.listens(3)
        node = self.make_node(self.listens(1), Endpoint(fail(REFUSED)), third)
        self.assertRaises(CannotListenError, node.privilegedStartService)
        self.assertEqual(self.log, ["close 1"])
        self.assertIsNone(third.factory)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_listens_later(self) -> None:
        """An endpoint may take its time: it is told when it listens, and closed as others are."""
        listening: Deferred[Port] = Deferred()
        node = self.make_node(Endpoint(listening))
        node.startService()
        self.assertEqual(self.addresses(), [])
        listening.callback(Port(104, self.log))
        self.assertEqual(self.addresses(), [104])
        self.successResultOf(node.stopService())
        self.assertEqual(self.log, ["start pool", "close 104", "stop pool"])

    def test_cannot_listen_later(self) -> None:
        """An endpoint that fails when it is too late to say so at start is logged; the others go on."""
        listening: Deferred[Port] = Deferred()
        node = self.make_node(Endpoint(listening), self.listens(2))
        node.startService()
        listening.errback(REFUSED)
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [REFUSED])
        self.successResultOf(node.stopService())
        self.assertEqual(self.log, ["start pool", "close 2", "stop pool"])

    def test_never_listens(self) -> None:
        """An endpoint that has not come to listen is no reason not to stop."""
        cancelled: list[Deferred[Port]] = []
        node = self.make_node(Endpoint(Deferred(cancelled.append)), self.listens(2))
        node.startService()
        self.successResultOf(node.stopService())
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.log, ["start pool", "close 2", "stop pool"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cannot_listen_before_it_runs(self) -> None:
        """That is logged, too, when it fails between the two steps in which a service starts."""
        listening: Deferred[Port] = Deferred()
        node = self.make_node(Endpoint(listening))
        node.privilegedStartService()
        listening.errback(REFUSED)
        self.assertEqual([failure.value for failure in self.flushLoggedErrors()], [REFUSED])
        node.startService()
        self.successResultOf(node.stopService())

    def test_port_that_takes_its_time(self) -> None:
        """It waits for a port to be closed."""
        closing: Deferred[None] = Deferred()
        node = self.make_node(self.listens(1, closing), self.listens(2))
        node.startService()
        stopping = node.stopService()
        self.assertNoResult(stopping)
        self.assertNotIn("stop pool", self.log)
        closing.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.log, ["start pool", "close 1", "close 2", "stop pool"])

    def test_port_that_cannot_be_closed(self) -> None:
        """That a port cannot be closed is told; the others are, and no thread is left."""
        node = self.make_node(self.listens(1, OSError("no")), self.listens(2))
        node.startService()
        self.associate()
        stopping = node.stopService()
        for association in list(self.acceptor.associations):
            association.transport.lose()
        self.failureResultOf(stopping, FirstError)
        self.assertEqual(self.log, ["start pool", "close 1", "close 2", "stop pool"])

    def test_drains(self) -> None:
        """What is in flight is answered, within its time, before the threads are stopped."""
        node = self.make_node(self.listens(104), grace=10)
        node.startService()
        idle, busy = self.associate(), self.associate()
        committing: Deferred[None] = Deferred()
        self.patch(self.storage, "open", lambda _: succeed(Slow(committing)))
        busy.stores("1.2.3", b"data")
        stopping = node.stopService()
        self.assertEqual(self.log, ["start pool", "close 104"])
        for peer in (idle, busy):
            peer.exchange()
        self.assertIsInstance(idle.indications[-1], Aborted)
        idle.transport.lose()
        self.reactor.advance(9)
        self.assertNoResult(stopping)
        committing.callback(None)
        busy.exchange()
        self.assertEqual(busy.response.status, 0)
        self.assertIsInstance(busy.indications[-1], Aborted)
        self.assertNoResult(stopping)
        busy.transport.lose()
        self.successResultOf(stopping)
        self.assertEqual(self.log[-1], "stop pool")

    def test_grace_is_over(self) -> None:
        """What is not done in time is aborted, and then the threads are stopped."""
        node = self.make_node(self.listens(104), grace=10)
        node.startService()
        peer = self.associate()
        committing: Deferred[None] = Deferred()
        self.patch(self.storage, "open", lambda _: succeed(Slow(committing)))
        peer.stores("1.2.3", b"data")
        stopping = node.stopService()
        self.reactor.advance(9.9)
        peer.exchange()
        self.assertNotIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(0.1)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        self.assertNoResult(stopping)
        self.reactor.advance(1)
        self.assertTrue(peer.transport.aborted)
        peer.transport.lose()
        self.successResultOf(stopping)
        self.assertEqual(self.log[-1], "stop pool")
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])

    def test_again(self) -> None:
        """A node that has stopped starts as it did the first time, and so do its threads."""
        pool = ThreadPool(0, 1)
        self.pool = cast(Any, pool)
        node = self.make_node(self.listens(104))
        for _ in range(2):
            node.startService()
            self.assertTrue(pool.started)
            self.associate().releases()
            for association in [*self.acceptor.associations]:
                association.transport.lose()
            for _ in range(2):
                self.assertIsNone(self.successResultOf(node.stopService()))
            self.assertFalse(pool.started)
        self.assertEqual(self.log, ["close 104", "close 104"])

    def test_not_before_it_has_stopped(self) -> None:
        """It is not started while it stops; who stops it once more waits for the same."""
        node = self.make_node(self.listens(104))
        node.startService()
        peer = self.associate()
        stopping = [node.stopService(), node.stopService()]
        error = self.assertRaises(RuntimeError, node.startService)
        self.assertEqual(str(error), "the service is stopping: wait until it has stopped")
        self.assertRaises(RuntimeError, self.acceptor.accept)
        for one in stopping:
            self.assertNoResult(one)
        peer.transport.lose()
        for one in stopping:
            self.assertIsNone(self.successResultOf(one))
        self.assertEqual(self.log, ["start pool", "close 104", "stop pool"])

    def test_shared_acceptor(self) -> None:
        """Of nodes that share an acceptor, the last that stops ends what is in flight."""
        first = Node([self.listens(1)], self.acceptor)
        second = Node([self.listens(2)], self.acceptor)
        for node in (first, second):
            node.startService()
        peer = self.associate()
        self.assertIsNone(self.successResultOf(first.stopService()))
        self.assertEqual(self.log, ["close 1"])
        peer.echoes()
        self.assertEqual(peer.response.status, 0)
        self.associate().transport.lose()
        first.startService()
        self.successResultOf(second.stopService())
        stopping = first.stopService()
        self.assertNoResult(stopping)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        peer.transport.lose()
        self.successResultOf(stopping)
        self.assertIsNone(self.acceptor.buildProtocol(None))

    def test_not_shared(self) -> None:
        """Whose threads, or hooks, an acceptor has cannot be one of several: he would stop them for all."""
        for first, second in (({}, {"pool": self.pool}), ({"pool": self.pool}, {})):
            nodes = [Node([self.listens(1)], self.acceptor, **of) for of in (first, second)]
            nodes[0].startService()
            error = self.assertRaises(RuntimeError, nodes[1].startService)
            self.assertEqual(
                str(error), "nodes share an acceptor only if none has a pool, or anything behind it"
            )
            self.successResultOf(nodes[0].stopService())

    def test_cannot_listen_and_stops(self) -> None:
        """A node that could not start has stopped when the ports that it had opened are closed."""
        closing: Deferred[None] = Deferred()
        bad = Endpoint(succeed(None))
        self.patch(bad, "listen", lambda factory: 1 // 0)
        node = self.make_node(self.listens(1, closing), bad)
        self.assertRaises(ZeroDivisionError, node.startService)
        self.assertEqual(self.acceptor.nodes, set())
        stopping = node.stopService()
        self.assertNoResult(stopping)
        closing.callback(None)
        self.assertIsNone(self.successResultOf(stopping))

    def test_no_pool(self) -> None:
        """Without threads of its own there is nothing to start or stop: a storage uses the reactor's."""
        files = FileStorage(".", reactor=self.reactor)
        self.assertIs(files.pool, self.reactor.pool)
        node = Node([self.listens(104)], Acceptor(self.reactor, [Storage(files)]))
        node.startService()
        self.assertTrue(node.running)
        self.successResultOf(node.stopService())
        self.assertFalse(self.reactor.pool.running)
        self.assertEqual(self.log, ["close 104"])

    def test_hasten(self) -> None:
        """Who has no more patience need not wait for the grace to pass."""
        node = self.make_node(self.listens(104), grace=1000)
        node.startService()
        peer = self.associate()
        self.patch(self.storage, "open", lambda _: succeed(Slow(Deferred())))
        peer.stores("1.2.3", b"data")
        stopping = node.stopService()
        self.reactor.advance(1)
        self.assertNoResult(stopping)
        node.hasten()
        self.reactor.advance(0)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        self.reactor.advance(1)
        self.assertTrue(peer.transport.aborted)
        peer.transport.lose()
        self.successResultOf(stopping)
        self.assertEqual(self.log[-1], "stop pool")

    def test_threads(self) -> None:
        """It waits for its threads, and nothing else in the process does."""
        reactor, done = self.threaded()
        self.pool = cast(Any, ThreadPool(0, 1))
        node = self.make_node(self.listens(104))
        node.startService()
        working = Event()
        self.pool.callInThread(working.wait)  # type: ignore[attr-defined]
        stopping = node.stopService()
        self.assertNoResult(stopping)
        working.set()
        done.get(timeout=60)()
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_behind_the_threads(self) -> None:
        """What a thread keeps while the service stops is told, too: what is behind is asked again."""

        class Slow:
            def start(_) -> None: ...

            def stop_within(_, seconds: float) -> None:
                self.log.append(f"stop within {seconds:g}")

            def finished(_) -> Deferred[None]:
                self.log.append("finish")
                return succeed(None)

        _reactor, done = self.threaded()
        self.pool = cast(Any, ThreadPool(0, 1))
        node = self.make_node(grace=7.0, behind=Slow())
        node.startService()
        working = Event()
        self.pool.callInThread(working.wait)  # type: ignore[attr-defined]
        stopping = node.stopService()
        self.assertEqual(self.log, ["stop within 7", "finish", "stop within 7"])
        self.assertNoResult(stopping)
        working.set()
        done.get(timeout=60)()
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.log[3:], ["finish"])

    def test_threads_that_do_not_end(self) -> None:
        """A thread that waits for a disk for ever is left behind when the grace is over, and that is said."""
        for hastened in (False, True):
            reactor, done = self.threaded()
            self.pool = cast(Any, ThreadPool(0, 1))
            node = self.make_node(self.listens(104), grace=7)
            node.startService()
            working = Event()
            self.pool.callInThread(working.wait)  # type: ignore[attr-defined]
            with capturedLogs() as logged:
                stopping = node.stopService()
                reactor.advance(6.5)
                self.assertNoResult(stopping)
                if hastened:
                    node.hasten()
                else:
                    reactor.advance(0.5)
                self.assertIsNone(self.successResultOf(stopping))
            self.assertEqual(
                [event["log_format"] for event in logged if event["log_level"] is LogLevel.error],
                ["Threads wait for a disk that does not answer: they are left behind"],
            )
            working.set()
            done.get(timeout=60)()
            self.assertEqual(reactor.getDelayedCalls(), [])

    def test_threads_that_have_nothing_to_do(self) -> None:
        """One that waits for nothing is not said to wait, though who says not to wait is quicker than it."""
        reactor, done = self.threaded()
        pool = ThreadPool(0, 1)
        self.pool = cast(Any, pool)
        node = self.make_node(self.listens(104), grace=7)
        node.startService()
        worked = Event()
        pool.callInThread(worked.set)
        worked.wait(60)
        while pool.working:
            pass
        with capturedLogs() as logged:
            stopping = node.stopService()
            node.hasten()
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual([event for event in logged if event["log_level"] is LogLevel.error], [])
        done.get(timeout=60)()
        self.assertEqual(reactor.getDelayedCalls(), [])

    def threaded(self) -> tuple[Reactor, SimpleQueue[Callable[[], object]]]:
        """Have an acceptor on a reactor, to which what threads say comes by a queue."""
        done: SimpleQueue[Callable[[], object]] = SimpleQueue()

        class Threaded(Reactor):
            def callFromThread(self, callable: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
                done.put(partial(callable, *arguments, **keywords))

        reactor = Threaded()
        self.acceptor = Acceptor(reactor, [Verification()])
        return reactor, done

    def test_no_grace(self) -> None:
        """With no time at all, what is in flight is aborted at once."""
        node = self.make_node(self.listens(104), grace=0)
        node.startService()
        peer = self.associate()
        self.patch(self.storage, "open", lambda _: succeed(Slow(Deferred())))
        peer.stores("1.2.3", b"data")
        stopping = node.stopService()
        self.reactor.advance(0)
        peer.exchange()
        self.assertIsInstance(peer.indications[-1], Aborted)
        peer.transport.lose()
        self.successResultOf(stopping)


class Slow:
    """A writer whose commit takes as long as it is told."""

    def __init__(self, committing: Deferred[None]) -> None:
        self.committing = committing

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """It is never behind."""

    def unregisterProducer(self) -> None:
        """It is never behind."""

    def write(self, data: bytes) -> None:
        """Take it."""

    def writeSequence(self, data: Any) -> None:
        """Take them."""

    def commit(self) -> Deferred[None]:
        return self.committing

    def abort(self) -> Deferred[None]:
        return succeed(None)
