"""Tests for ``docs/howto``: each of its programs runs, in memory, and does what its page says."""

from __future__ import annotations

import json
import os
import re
import sys
import unittest
from collections.abc import Coroutine
from dataclasses import replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

from pydicom import Dataset
from pydicom.filereader import read_dataset
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from twisted.web.server import Site

from dicomnode import Acceptor, CalledAETitle, Instance, IStorage, Status, Storage, associate
from dicomnode.contracts import InstanceWriterContract
from dicomnode.core.command import CStoreRQ, NActionRQ, NEventReportRQ, NEventReportRSP
from dicomnode.testing import CalledPeer, MemoryStorage, Network, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION
from tests.cases import QuickReactor

HOWTO = Path(__file__).resolve().parent.parent / "docs" / "howto"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def encoded(implicit_vr: bool = False, **elements: Any) -> bytes:
    """Return a data set of these elements."""
    data_set, buffer = Dataset(), BytesIO()
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    data_set.save_as(buffer, implicit_vr=implicit_vr, little_endian=True)
    return buffer.getvalue()


def image(uid: str = "1.2.3", octets: int = 1000) -> bytes:
    return encoded(SOPClassUID=CT_IMAGE_STORAGE, SOPInstanceUID=uid, EncapsulatedDocument=bytes(octets))


class HowtoTestCase(SynchronousTestCase):
    """A test of a program of ``docs/howto``, in a directory of its own."""

    def setUp(self) -> None:
        directory, before = self.mktemp(), os.getcwd()
        os.makedirs(directory)
        os.chdir(directory)
        self.addCleanup(os.chdir, before)

    def load(self, name: str) -> ModuleType:
        """Import a program, and forget it afterwards."""
        self.patch(sys, "path", [str(HOWTO), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(sys.modules.pop, name, None)
        return import_module(name)

    def runs(self, program: Coroutine[Any, Any, None]) -> None:
        """Run a program, which does not end by itself."""
        self.assertNoResult(Deferred.fromCoroutine(program))

    def assertAnswered(self, peer: Peer, status: int, comment: str | None = None) -> None:
        self.assertEqual((peer.response.status, peer.response.error_comment), (status, comment))


class PageTests(SynchronousTestCase):
    """The pages, and the programs."""

    def test_each_has_a_page(self) -> None:
        """Each file is shown on a page, and each page is in the table of contents."""
        pages = {page.stem: page.read_text() for page in HOWTO.glob("*.rst")}
        shown = set(re.findall(r"literalinclude:: (\S+)", "".join(pages.values())))
        files = {path.name for path in HOWTO.iterdir() if path.is_file() and path.suffix != ".rst"}
        self.assertEqual(shown, files)
        contents = re.findall(r"^   (\w+)$", pages["index"], re.MULTILINE)
        self.assertEqual({*contents, "index"}, set(pages))
        self.assertIn("\n   howto/index\n", (HOWTO.parent / "index.rst").read_text())

    def test_each_is_run(self) -> None:
        """There is no program without a test, here or in ``tests.interop``."""
        tests = Path(__file__).parent
        text = Path(__file__).read_text() + (tests / "interop" / "test_howto.py").read_text()
        for path in HOWTO.glob("*.[pt]*"):
            self.assertTrue(re.search(rf'["/]{path.stem}\b', text), path.name)


class Sinks:
    """The two nodes to which a router sends, and who sends to it."""

    def __init__(self, check: bool = True) -> None:
        self.reactor = Reactor()
        self.storages = [MemoryStorage(), MemoryStorage()]
        self.acceptors = [
            Acceptor(self.reactor, [Storage(storage, check=check)], policy=CalledAETitle(title))
            for storage, title in zip(self.storages, ("ARCHIVE", "RESEARCH"), strict=True)
        ]
        self.networks = [Network(self.reactor, one) for one in self.acceptors]

    def exchange(self, peer: Peer, rounds: int = 5) -> None:
        for _ in range(rounds):
            for network in self.networks:
                network.exchange()
            peer.exchange()


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


def peer_store(uid: str) -> CStoreRQ:
    return CStoreRQ(affected_sop_class_uid=CT_IMAGE_STORAGE, message_id=1, affected_sop_instance_uid=uid)


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


class WebsiteTests(HowtoTestCase):
    """A node and a web site, as one service."""

    def test_both(self) -> None:
        """What arrives at one port is seen at the other, and both stop in good order."""
        website = self.load("website")
        reactor = QuickReactor()
        together = website.services(reactor)
        self.assertIsInstance(together, MultiService)
        self.patch(website, "services", lambda _: together)
        self.runs(website.main(reactor))
        acceptor = reactor.tcpServers[0][1]
        (site,) = (factory for _, factory, *_ in reactor.tcpServers if isinstance(factory, Site))
        peer = Peer(acceptor)
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", image())
        self.assertAnswered(peer, Status.SUCCESS)
        self.assertIn(b'<a href="CT.1.2.3">', self.gets(site, b"/"))
        head, _, body = self.gets(site, b"/counted").partition(b"\r\n\r\n")
        self.assertIn(b"application/json", head)
        self.assertEqual(json.loads(body)["instances"]["kept"], 1)
        [(phase, event, stop)] = [
            (phase, event, how[0])
            for phase, events in reactor.triggers.items()
            for event, hows in events.items()
            for how in hows
        ]
        self.assertEqual((phase, event), ("before", "shutdown"))
        stopping = stop()
        peer.exchange()
        peer.transport.lose()
        self.successResultOf(stopping)

    def gets(self, site: Site, path: bytes) -> bytes:
        """Ask the site for a page."""
        channel, transport = site.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path)
        return transport.value()


class FakeAgent:
    """An agent whose connection is made, and whose response comes, when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes, Headers, IBodyProducer]] = []
        self.body = StringTransport()
        self.produced: Deferred[None] | None = None
        self.failed: list[Failure] = []
        self.cancelled = False
        self._response: Deferred[Any] = Deferred()

    def request(self, method: bytes, uri: bytes, headers: Headers, bodyProducer: IBodyProducer) -> Any:
        self.requests.append((method, uri, headers, bodyProducer))
        self._response = Deferred(self._cancel)
        return self._response

    def _cancel(self, _: object) -> None:
        self.cancelled = True

    def connects(self) -> None:
        consumer: IConsumer = self.body
        self.produced = self.requests[-1][3].startProducing(consumer)
        self.produced.addErrback(self.fails)

    def fails(self, failure: Failure) -> None:
        self.failed.append(failure)
        self._response.errback(failure)

    def responds(self, code: int, text: bytes = b"") -> None:
        self._response.callback(FakeResponse(code, text))


class FakeResponse:
    """A response that is there at once."""

    def __init__(self, code: int, text: bytes) -> None:
        self.code, self.phrase, self.text = code, b"", text

    def deliverBody(self, protocol: Any) -> None:
        protocol.dataReceived(self.text)
        protocol.connectionLost(Failure(ResponseDone()))


class HTTPAPITests(HowtoTestCase):
    """A storage that posts, and answers when it is answered."""

    def setUp(self) -> None:
        super().setUp()
        self.agent, self.reactor = FakeAgent(), Reactor()
        api = self.load("http_api").API(self.reactor, self.agent, "http://api.example.org/instances")
        self.peer = Peer(Acceptor(self.reactor, [Storage(api)]), 4000)
        self.peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})

    def test_posts(self) -> None:
        """A DICOM file is posted; Success is answered once the API has said that it is created."""
        self.peer.stores("1.2.3", image())
        [(method, uri, headers, _)] = self.agent.requests
        self.assertEqual((method, uri), (b"POST", b"http://api.example.org/instances"))
        self.assertEqual(headers.getRawHeaders("content-type"), ["application/dicom"])
        self.agent.connects()
        self.peer.exchange()
        self.successResultOf(self.agent.produced)
        self.assertEqual(self.agent.body.value()[128:132], b"DICM")
        self.assertTrue(self.agent.body.value().endswith(image()))
        self.assertEqual(self.peer.responses, [])
        self.agent.responds(201)
        self.peer.exchange()
        self.assertAnswered(self.peer, Status.SUCCESS)

    def test_refused(self) -> None:
        """What the API says against it, the sender is told."""
        self.peer.stores("1.2.3", image())
        self.agent.connects()
        self.agent.responds(413, b"too large\n")
        self.peer.exchange()
        self.assertAnswered(self.peer, Status.OUT_OF_RESOURCES, "the API said 413 too large")

    def test_no_connection(self) -> None:
        """Where there is no API, the sender is told so."""
        self.peer.stores("1.2.3", image())
        self.agent._response.errback(ConnectionError("nobody is there"))
        self.peer.exchange()
        self.assertAnswered(self.peer, Status.OUT_OF_RESOURCES, "the API failed: nobody is there")

    def test_slow(self) -> None:
        """While the API does not read, the sender is paused, from the very beginning."""
        self.peer.stores("1.2.3", image(octets=100_000))
        body, write, times = self.agent.requests[0][3], self.agent.body.write, 0

        def write_and_pause(data: bytes) -> None:
            write(data)
            body.pauseProducing()

        self.agent.body.write = write_and_pause
        self.agent.connects()
        while self.peer.transport.paused:
            before, times = len(self.agent.body.value()), times + 1
            body.resumeProducing()
            self.assertLess(len(self.agent.body.value()) - before, 20_000)
        self.assertGreater(times, 10)
        self.assertTrue(self.agent.body.value().endswith(image(octets=100_000)))

    def test_lost(self) -> None:
        """With a connection that is lost in the middle, the rest is dropped, and the sender is told."""
        self.peer._core.send_command(1, peer_store("1.2.3"), True)
        self.peer._core.send_data_set(1, image(octets=50_000)[:20_000], last=False)
        self.peer.exchange()
        self.agent.connects()
        self.agent.requests[0][3].stopProducing()
        self.agent._response.errback(ConnectionError("lost"))
        self.peer._core.send_data_set(1, image(octets=50_000)[20_000:], last=True)
        self.peer.exchange()
        self.assertAnswered(self.peer, Status.OUT_OF_RESOURCES, "the API failed: lost")

    def test_sender_goes_away(self) -> None:
        """With a sender that is lost in the middle, the request is broken off."""
        self.peer._core.send_command(1, peer_store("1.2.3"), True)
        self.peer._core.send_data_set(1, image(octets=50_000)[:20_000], last=False)
        self.peer.exchange()
        self.agent.connects()
        self.peer.transport.lose()
        self.assertEqual(len(self.agent.failed), 1)

    def test_silent(self) -> None:
        """An API that does not answer is waited for no longer than a minute."""
        self.peer.stores("1.2.3", image())
        self.agent.connects()
        self.peer.exchange()
        self.reactor.advance(60)
        self.peer.exchange()
        self.assertTrue(self.agent.cancelled)
        self.assertEqual(self.peer.response.status, Status.OUT_OF_RESOURCES)


class StorageCommitmentTests(HowtoTestCase):
    """A service for another SOP Class, beside a storage."""

    def setUp(self) -> None:
        super().setUp()
        self.program, self.reactor = self.load("storage_commitment"), QuickReactor()
        self.runs(self.program.main(self.reactor))

    def asks(self, syntax: str, *instances: tuple[str, str], **elements: Any) -> tuple[Peer, list[Any]]:
        """Ask for the commitment to instances, and return what is reported."""
        peer = Peer(self.reactor.tcpServers[0][1])
        peer.associates({self.program.STORAGE_COMMITMENT: [syntax], CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", image(), CT_IMAGE_STORAGE)
        self.assertAnswered(peer, Status.SUCCESS)
        items = []
        for sop_class, uid in instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            items.append(item)
        request = NActionRQ(
            requested_sop_class_uid=self.program.STORAGE_COMMITMENT,
            message_id=9,
            requested_sop_instance_uid=self.program.WELL_KNOWN_INSTANCE,
            action_type_id=1,
        )
        about = {"TransactionUID": "1.2", "ReferencedSOPSequence": items} | elements
        asked = {keyword: value for keyword, value in about.items() if value is not None}
        peer.invokes(self.program.STORAGE_COMMITMENT, request, encoded(syntax == IMPLICIT_VR_LE, **asked))
        del peer.indications[:-1]
        self.reactor.advance(0)
        peer.exchange()
        return peer, peer.indications[1:]

    def test_commits(self) -> None:
        """What is kept is committed to, and what is not is said to have failed, in either encoding."""
        for syntax in (EXPLICIT_VR_LE, IMPLICIT_VR_LE):
            for instances, event, failures in (
                ([(CT_IMAGE_STORAGE, "1.2.3")], 1, []),
                ([(CT_IMAGE_STORAGE, "1.2.3"), (CT_IMAGE_STORAGE, "1.2.4")], 2, [0x0112]),
                ([(MR_IMAGE_STORAGE, "1.2.3")], 2, [0x0119]),
            ):
                peer, (message, *fragments) = self.asks(syntax, *instances)
                self.assertAnswered(peer, Status.SUCCESS)
                self.assertIsInstance(message.command, NEventReportRQ)
                self.assertEqual(message.command.event_type_id, event)
                octets = b"".join(data for fragment in fragments for data in fragment.data)
                result = read_dataset(BytesIO(octets), syntax == IMPLICIT_VR_LE, True)
                self.assertEqual(result.TransactionUID, "1.2")
                self.assertEqual([i.FailureReason for i in result.get("FailedSOPSequence", [])], failures)
                committed = [i.ReferencedSOPInstanceUID for i in result.get("ReferencedSOPSequence", [])]
                self.assertEqual(len(committed), len(instances) - len(failures))
                response = NEventReportRSP(
                    message_id_being_responded_to=message.command.message_id, status=Status.SUCCESS
                )
                peer.invokes(self.program.STORAGE_COMMITMENT, response)
                self.assertTrue(peer.transport.connected)

    def test_asks_nothing(self) -> None:
        """A request that lacks what it is about is refused, and nothing is reported."""
        for missing in ("TransactionUID", "ReferencedSOPSequence"):
            peer, reported = self.asks(EXPLICIT_VR_LE, **{missing: None})
            self.assertAnswered(peer, 0x0120)
            self.assertEqual(reported, [])

    def test_goes_away(self) -> None:
        """Who does not wait for the report is not told, and the log says so."""
        peer, _ = self.asks(EXPLICIT_VR_LE, (CT_IMAGE_STORAGE, "1.2.3"))
        said: list[dict[str, Any]] = []
        self.patch(self.program.log, "observer", said.append)
        peer.transport.lose()
        self.assertIn("was not told", str(said[0]["log_format"]))


class HAProxyTests(HowtoTestCase):
    """Behind HAProxy, the peers are those who connect to it."""

    def test_peers(self) -> None:
        """Who may associate is judged by the address that the PROXY protocol says."""
        self.patch(sys, "dont_write_bytecode", True)
        reactor = QuickReactor()
        self.runs(self.load("behind_haproxy").main(reactor))
        port, factory, *_ = reactor.tcpServers[0]
        self.assertEqual(port, 11112)
        for address, accepted in (("192.0.2.7", True), ("198.51.100.7", False)):
            clock = Reactor()
            network = Network(clock, factory)
            associating = associate(clock, network, contexts={VERIFICATION: [IMPLICIT_VR_LE]})
            header = f"PROXY TCP4 {address} 192.0.2.1 50000 104\r\n".encode()
            network.connections[0][0].written.insert(0, header)
            network.exchange()
            if accepted:
                self.successResultOf(associating)
            else:
                self.failureResultOf(associating)


class ReceivingTests(HowtoTestCase):
    """The test suite that receives."""

    def test_in_memory(self) -> None:
        """Its tests in memory pass; those with a socket are run by trial, in ``tests.interop``."""
        module = self.load("test_receiving")
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(module.InMemoryTests)
        result = unittest.TestResult()
        suite.run(result)
        self.assertEqual((result.failures, result.errors, result.testsRun), ([], [], 2))


class ManifestTests(SynchronousTestCase):
    """The files for other programs, as far as they can be read without these."""

    def number(self, pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        assert found is not None, pattern
        return int(found[1])

    def test_kubernetes(self) -> None:
        """What is in flight has its grace before the container is killed, and so have the unready."""
        text = (HOWTO / "kubernetes.yaml").read_text()
        self.assertNotIn("\t", text)
        for line in text.splitlines():
            self.assertRegex(line, r"^(---|( {2})*(#.*|- .*|\w+:( .*)?))$")
        total = self.number(r"terminationGracePeriodSeconds: (\d+)", text)
        pre_stop = self.number(r'\["sleep", "(\d+)"\]', text)
        self.assertGreaterEqual(total, pre_stop + self.number(r'"--grace", "(\d+)"', text) + 5)
        arguments = json.loads(self.found(r"args: (\[.*\])", text))
        self.assertEqual(arguments[0], self.found(r"containerPort: (\d+)", text))
        directory = arguments[arguments.index("--output-directory") + 1]
        self.assertEqual(directory, self.found(r"mountPath: (.*)", text))

    def found(self, pattern: str, text: str) -> str:
        found = re.search(pattern, text)
        assert found is not None, pattern
        return found[1]

    def test_systemd(self) -> None:
        """The service waits longer than the grace of the node, and has the socket."""
        unit = (HOWTO / "dicomnode.service").read_text()
        program = (HOWTO / "systemd_socket.py").read_text()
        grace = self.number(r"grace=(\d+)", program)
        self.assertGreater(self.number(r"TimeoutStopSec=(\d+)", unit), grace)
        self.assertIn("Requires=dicomnode.socket", unit)
        self.assertIn("ListenStream=", (HOWTO / "dicomnode.socket").read_text())

    def test_haproxy(self) -> None:
        """HAProxy sends the PROXY protocol to where the program listens, and when it checks, too."""
        text = (HOWTO / "haproxy.cfg").read_text()
        self.assertRegex(text, r"server node1 127.0.0.1:11112 send-proxy-v2 check check-send-proxy")
