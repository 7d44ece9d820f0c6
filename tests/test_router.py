"""The how-to page on a router: what it says is so."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from dicomnode import Acceptor, Instance, IStorage, Status, Storage
from dicomnode.contracts import InstanceWriterContract
from dicomnode.testing import CalledPeer, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.cases import QuickReactor
from tests.howtocases import (
    CT_IMAGE_STORAGE,
    MR_IMAGE_STORAGE,
    HowtoTestCase,
    Sinks,
    image,
    peer_store,
)


class RouterTests(HowtoTestCase):
    """Each instance goes to two nodes while it arrives."""

    def setUp(self) -> None:
        super().setUp()
        self.router = self.load("router")

    def routes(self, *endpoints: Any, reactor: Any = None, size: int | None = None) -> Peer:
        """Return a sender to a router that has these as ARCHIVE and RESEARCH."""
        self.reactor = reactor = reactor or Reactor()
        titles = ("ARCHIVE", "RESEARCH")
        self.routing = self.router.Router(reactor, list(map(self.router.Destination, titles, endpoints)))
        acceptor = Acceptor(reactor, [Storage(self.routing)])
        peer = Peer(acceptor, size)
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE], MR_IMAGE_STORAGE: [IMPLICIT_VR_LE]})
        return peer

    def called(self, peer: Peer, *called: CalledPeer) -> None:
        """Let the destinations accept, and read what is sent to them."""
        peer.exchange()
        for one in called:
            if not one._core.contexts:
                one.accepts()
        self.reactor.advance(0)  # who was sent much has another turn
        for one in called:
            one.exchange()
        peer.exchange()

    def test_stores_at_both(self) -> None:
        """An instance is at both destinations, octet for octet, before Success is answered."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        for storage in sinks.storages:
            storage.stalls()
        peer.stores("1.2.3", image())
        for storage in sinks.storages:
            sinks.exchange(peer)
            self.assertEqual(peer.responses, [])
            storage.recovers()
        sinks.exchange(peer)
        self.assertAnswered(peer, Status.SUCCESS)
        for storage in sinks.storages:
            instance, data_set = storage.instances["1.2.3"]
            self.assertEqual((instance.transfer_syntax_uid, data_set), (EXPLICIT_VR_LE, image()))
        self.assertEqual(os.listdir(), [])

    def test_one_association_for_each(self) -> None:
        """What comes on one association goes on one to each destination, which is released with it."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        for uid in ("1.2.3", "1.2.4", "1.2.5"):
            peer.stores(uid, image(uid))
            sinks.exchange(peer)
            self.assertAnswered(peer, Status.SUCCESS)
        self.assertEqual([len(network.connections) for network in sinks.networks], [1, 1])
        peer.releases()
        peer.transport.lose()
        sinks.exchange(peer)
        self.assertEqual([acceptor.associations for acceptor in sinks.acceptors], [set(), set()])
        self.assertEqual(self.routing._onward, {})

    def test_streams(self) -> None:
        """Fragments go on before the instance is whole, and its end when it was found whole."""
        destinations = CalledPeer(), CalledPeer()
        peer = self.routes(*destinations)
        data_set = image(octets=100_000)
        peer._core.send_command(1, peer_store("1.2.3"), True)
        peer._core.send_data_set(1, data_set[:50_000], last=False)
        peer.exchange()
        self.called(peer, *destinations)
        for destination in destinations:
            self.assertTrue(data_set.startswith(destination.data_set))
            self.assertGreater(len(destination.data_set), 30_000)
        peer._core.send_data_set(1, data_set[50_000:], last=True)
        self.called(peer, *destinations)
        for destination in destinations:
            self.assertEqual(destination.data_set, data_set)

    def test_success_of_both(self) -> None:
        """Nothing is answered before both have answered; a failure of one is the sender's."""
        for answers, status, comment in (
            ((0x0000, 0x0000), 0x0000, None),
            ((0x0000, 0xA700), 0xA700, "RESEARCH: full"),
            ((0xA900, 0x0000), 0xA900, "ARCHIVE: full"),
            ((0xB000, 0x0000), 0xB000, None),
            ((0xB000, 0xC000), 0xC000, "RESEARCH: full"),
        ):
            destinations = CalledPeer(), CalledPeer()
            peer = self.routes(*destinations)
            peer.stores("1.2.3", image())
            self.called(peer, *destinations)
            for destination, answer in zip(destinations, answers, strict=True):
                peer.exchange()
                self.assertEqual(peer.responses, [])
                destination.responds(answer, **({"error_comment": "full"} if answer else {}))
            peer.exchange()
            self.assertAnswered(peer, status, comment)

    def test_the_slower_sets_the_pace(self) -> None:
        """While one destination does not read, the sender is paused, and little waits on the way."""
        slow, quick = CalledPeer(capacity=10_000), CalledPeer()
        peer = self.routes(slow, quick, size=4000)
        peer._core.send_command(1, peer_store("1.2.3"), True)
        peer.exchange()
        self.called(peer, slow, quick)
        data_set = image(octets=1_000_000)
        peer._core.send_data_set(1, data_set, last=True)
        for data in peer._core.data_to_send():
            peer.transport.deliver(data, 4000)
        self.assertTrue(peer.transport.paused)
        self.assertLess(sum(map(len, slow.transport.written)), 60_000)
        quick.exchange()
        self.assertLess(len(quick.data_set), 60_000)
        while not peer.transport.arrived:
            before = len(slow.data_set)
            self.called(peer, slow, quick)
            self.assertLess(len(slow.data_set) - before, 60_000)
        for _ in range(2):  # what was sent, and what had to wait for that
            self.called(peer, slow, quick)
        for destination in (slow, quick):
            self.assertEqual(destination.data_set, data_set)
            destination.responds(Status.SUCCESS)
        peer.exchange()
        self.assertAnswered(peer, Status.SUCCESS)
        self.assertFalse(peer.transport.paused)

    def test_one_goes_away(self) -> None:
        """One that is lost in the middle holds nobody up: the other has it, and the sender a failure."""
        lost, other = CalledPeer(capacity=10_000), CalledPeer()
        peer = self.routes(lost, other, size=4000)
        data_set = image(octets=100_000)
        peer._core.send_command(1, peer_store("1.2.3"), True)
        peer.exchange()
        self.called(peer, lost, other)
        peer._core.send_data_set(1, data_set, last=True)
        for data in peer._core.data_to_send():
            peer.transport.deliver(data, 4000)
        self.assertTrue(peer.transport.paused)
        lost.transport.lose()
        peer.exchange()
        other.exchange()
        self.assertEqual(other.data_set, data_set)
        self.assertEqual(peer.responses, [])
        other.responds(Status.SUCCESS)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)
        self.assertIn("ARCHIVE: the transport connection was closed", str(peer.response.error_comment))

    def test_comes_back(self) -> None:
        """After one was lost, the next instance is sent on a new association."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        peer.stores("1.2.3", image())
        sinks.exchange(peer)
        sinks.networks[0].lose()
        peer.stores("1.2.4", image("1.2.4"))
        sinks.exchange(peer)
        self.assertAnswered(peer, Status.SUCCESS)
        self.assertEqual([len(network.connections) for network in sinks.networks], [2, 1])

    def test_one_behind_the_other(self) -> None:
        """What a sender invokes without waiting for responses goes on in order."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        uids = ["1.2.3", "1.2.4", "1.2.5"]
        for uid in uids:
            peer.stores(uid, image(uid, 50_000))
        sinks.exchange(peer, 20)
        self.assertEqual([response.status for response in peer.responses], [Status.SUCCESS] * 3)
        for storage in sinks.storages:
            self.assertEqual(list(storage.instances), uids)
        self.assertEqual([len(network.connections) for network in sinks.networks], [1, 1])

    def test_nobody_there(self) -> None:
        """Where one cannot be reached, nothing is sent to the other, whose association stays."""
        sinks = Sinks()
        sinks.acceptors[1].drain(0)
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        for uid in ("1.2.3", "1.2.4"):
            peer.stores(uid, image(uid))
            sinks.exchange(peer)
            self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)
            self.assertIn("RESEARCH: Connection was refused", str(peer.response.error_comment))
        self.assertEqual(sinks.storages[0].writers, [])
        self.assertEqual(len(sinks.networks[0].connections), 1)

    def test_not_wanted(self) -> None:
        """Where one has not accepted the context, the sender is told that the SOP Class is not supported."""
        first, second = CalledPeer(), CalledPeer()
        peer = self.routes(first, second)
        peer.stores("1.2.3", image())
        first.accepts()
        second.accepts(3, 0)
        self.called(peer, first, second)
        self.assertAnswered(peer, Status.SOP_CLASS_NOT_SUPPORTED, "RESEARCH: does not take this")
        self.assertEqual(first.messages, [])

    def test_proposes_what_was_accepted(self) -> None:
        """The contexts of the sender are proposed to the destinations, and no others."""
        first, second = CalledPeer(), CalledPeer()
        peer = self.routes(first, second)
        peer.stores("1.2.3", image())
        for one in (first, second):
            one.exchange()
            proposed = {(c.abstract_syntax, c.transfer_syntaxes) for c in one.request.contexts}
            expected = {(CT_IMAGE_STORAGE, (EXPLICIT_VR_LE,)), (MR_IMAGE_STORAGE, (IMPLICIT_VR_LE,))}
            self.assertEqual(proposed, expected)

    def test_found_wanting(self) -> None:
        """Of an instance that is another than its command says, no destination gets the end."""
        destinations = CalledPeer(), CalledPeer()
        peer = self.routes(*destinations)
        peer.stores("1.2.4", image("1.2.3", octets=100_000))
        self.called(peer, *destinations)
        self.assertEqual(peer.response.status, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS)
        self.called(peer, *destinations)
        for destination in destinations:
            self.assertLess(len(destination.data_set), 100_000)
            self.assertTrue(any(hasattr(item, "by_peer") for item in destination.indications))

    def test_after_one_found_wanting(self) -> None:
        """The next instance after such a one goes on, by new associations."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        peer.stores("1.2.3", image("1.2.3"))
        sinks.exchange(peer)
        peer.stores("1.2.4", image("1.2.3", octets=100_000))
        peer.stores("1.2.5", image("1.2.5"))
        sinks.exchange(peer, 20)
        expected = [Status.SUCCESS, Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, Status.SUCCESS]
        self.assertEqual([response.status for response in peer.responses], expected)
        for storage in sinks.storages:
            self.assertEqual(list(storage.instances), ["1.2.3", "1.2.5"])
        peer.releases()
        peer.transport.lose()
        sinks.exchange(peer)
        self.assertEqual([acceptor.associations for acceptor in sinks.acceptors], [set(), set()])

    def test_sender_goes_away(self) -> None:
        """With a sender that is lost in the middle, both associations end, and nothing is stored."""
        sinks = Sinks()
        peer = self.routes(*sinks.networks, reactor=sinks.reactor)
        peer._core.send_command(1, peer_store("1.2.3"), True)
        peer._core.send_data_set(1, image(octets=90_000)[:50_000], last=False)
        sinks.exchange(peer)
        self.assertEqual([len(storage.writers) for storage in sinks.storages], [1, 1])
        peer.transport.lose()
        sinks.exchange(peer)
        self.assertEqual([storage.writers[0].ended for storage in sinks.storages], ["abort", "abort"])
        self.assertEqual([acceptor.associations for acceptor in sinks.acceptors], [set(), set()])

    def test_sender_goes_away_early(self) -> None:
        """An association that comes about when the sender has gone is not kept."""
        destinations = CalledPeer(), CalledPeer()
        peer = self.routes(*destinations)
        peer.stores("1.2.3", image())
        peer.transport.lose()
        for destination in destinations:
            destination.accepts()
            self.assertTrue(any(hasattr(item, "by_peer") for item in destination.indications))
        self.assertEqual(self.routing._onward, {})

    def test_program(self) -> None:
        """The program listens, and connects when an instance comes."""
        reactor = QuickReactor()
        self.runs(self.router.main(reactor, "tcp:192.0.2.7:104", "tcp:192.0.2.8:104"))
        port, acceptor, *_ = reactor.tcpServers[0]
        self.assertEqual(port, 11112)
        peer = Peer(acceptor)
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        self.assertEqual(reactor.tcpClients, [])
        peer.stores("1.2.3", image())
        clients = [client[:2] for client in reactor.tcpClients]
        self.assertEqual(clients, [("192.0.2.7", 104), ("192.0.2.8", 104)])


class ForwardingContractTests(InstanceWriterContract, HowtoTestCase):
    """What every writer promises, the router's does, too: what is at both destinations is kept."""

    def setUp(self) -> None:
        super().setUp()
        router, self.sinks = self.load("router"), Sinks(check=False)
        titled = zip(("ARCHIVE", "RESEARCH"), self.sinks.networks, strict=True)
        self.storage = router.Router(self.sinks.reactor, [router.Destination(*one) for one in titled])

    def open_storage(self) -> IStorage:
        storage: IStorage = self.storage
        return storage

    def instance(self, sop_instance_uid: str = "1.2.3") -> Instance:
        acceptor = Acceptor(self.sinks.reactor, [Storage(self.storage)])
        self.peer = Peer(acceptor)
        self.peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        return replace(super().instance(sop_instance_uid), association=self.peer.association)

    def kept(self, what: Instance) -> bytes | None:
        found = [storage.instances.get(what.sop_instance_uid) for storage in self.sinks.storages]
        return found[0][1] if found[0] and found[1] else None

    def settle(self) -> None:
        self.sinks.exchange(self.peer)
