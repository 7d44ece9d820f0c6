"""What a storage sets of its context (:mod:`contextvars`) is its operation's, however that goes on."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProducer

from dicomnode.acceptor import Acceptor
from dicomnode.interfaces import IInstanceWriter, Instance, IOperation
from dicomnode.services import Storage
from dicomnode.testing import MemoryStorage, MemoryWriter, Peer, Pool
from dicomnode.walking import Threads
from tests.reliability.sessions import CT_IMAGE_STORAGE, DEFLATED, data_set, deflated
from tests.test_walkinginturns import DATA, EXPLICIT, InTurnsCase, read

OCTETS = deflated(data_set("1.2.3"))

VARIABLE = ContextVar("VARIABLE", default="outside")


class Writer(MemoryWriter):
    """Sees the variable, and sets it, in each of its methods."""

    def see(self, where: str) -> None:
        storage = cast(Setting, self._storage)
        storage.seen.append((self.instance.sop_instance_uid, where, VARIABLE.get()))
        VARIABLE.set(f"{self.instance.sop_instance_uid} {where}")

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self.see("register")
        super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self.see("unregister")
        super().unregisterProducer()

    def commit(self) -> Deferred[None]:
        self.see("commit")
        return super().commit()

    def abort(self) -> Deferred[None]:
        self.see("abort")
        return super().abort()


class Setting(MemoryStorage):
    """Sets the variable when an instance is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, str]] = []
        self.opening: Deferred[None] | None = None  #: until when one that is opened waits

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        self.seen.append((instance.sop_instance_uid, "open", VARIABLE.get()))
        VARIABLE.set(f"{instance.sop_instance_uid} open")
        self.writers.append(Writer(self, instance))
        writer = cast(IInstanceWriter, self.writers[-1])
        opening, self.opening = self.opening, None
        return succeed(writer) if opening is None else opening.addCallback(lambda _: writer)


class More(Storage):
    """A service that is performed as a coroutine."""

    async def perform(self, operation: IOperation) -> int:
        return await super().perform(operation)


class ContextTests(InTurnsCase):
    """From the opening of a writer to its end."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = Pool()
        self.storage = Setting()

    def associate(self, service: type[Storage], transfer_syntax: str = EXPLICIT) -> Peer:
        threads = Threads(self.clock, cast(Any, self.pool))
        peer = Peer(Acceptor(self.clock, [service(self.storage, threads=threads)]))
        peer.associates({CT_IMAGE_STORAGE: [transfer_syntax]})
        return peer

    def goes_on(self, peer: Peer) -> None:
        """Let all that waits be done."""
        for _ in range(100):
            self.clock.advance(0)
            self.pool.run()
        peer.exchange()

    def assertSeen(self, uid: str, end: str) -> None:
        """What was set for this instance was seen for it, from beginning to end, and nothing else was."""
        seen = [(where, value) for instance, where, value in self.storage.seen if instance == uid]
        self.assertEqual([where for where, _ in seen], ["open", "register", "unregister", end])
        self.assertEqual(seen[0][1], "outside")
        for where, value in seen[1:]:
            self.assertTrue(value.startswith(uid), f"{where} saw {value}")

    def test_however_walked(self) -> None:
        """The data set may be walked at once, in turns, or in threads; be whole, or not."""
        for service in (Storage, More):
            for transfer_syntax, data, end in (
                (EXPLICIT, data_set("1.2.3"), "commit"),
                (EXPLICIT, DATA, "commit"),
                (EXPLICIT, DATA[:-1], "abort"),
                (DEFLATED, OCTETS, "commit"),
                (DEFLATED, OCTETS[:-8], "abort"),
            ):
                self.storage = Setting()
                peer = self.associate(service, transfer_syntax)
                peer.transport.deliver(read(data))
                self.goes_on(peer)
                self.assertEqual(peer.response.status == 0, end == "commit")
                self.assertSeen("1.2.3", end)
                self.assertEqual(VARIABLE.get(), "outside")

    def test_what_is_behind(self) -> None:
        """A request that is read when the storage has opened for the one before has nothing of that one's."""
        for service in (Storage, More):
            self.storage = Setting()
            opening: Deferred[None] = Deferred()
            self.storage.opening = opening
            peer = self.associate(service)
            peer.begins("1.2.3", data_set("1.2.3")[:10])
            peer.goes_on(data_set("1.2.3")[10:], last=True)
            peer.stores("1.2.4", data_set("1.2.4"))
            opening.callback(None)
            self.goes_on(peer)
            self.assertEqual([response.status for response in peer.responses], [0, 0])
            for uid in ("1.2.3", "1.2.4"):
                self.assertSeen(uid, "commit")
            self.assertEqual(VARIABLE.get(), "outside")

    def test_beside(self) -> None:
        """Instances that arrive at the same time have nothing of each other's."""
        uids = ("1.2.3", "1.2.4")
        peers = [self.associate(Storage) for _ in uids]
        for peer, uid in zip(peers, uids, strict=True):
            peer.begins(uid, data_set(uid)[:10])
        for peer, uid in zip(peers, uids, strict=True):
            peer.goes_on(data_set(uid)[10:], last=True)
        for peer, uid in zip(peers, uids, strict=True):
            self.goes_on(peer)
            self.assertEqual(peer.response.status, 0)
            self.assertSeen(uid, "commit")
        self.assertEqual(VARIABLE.get(), "outside")
