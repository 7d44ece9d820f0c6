"""Tests for ``docs/howto``: each of its programs runs, in memory, and does what its page says."""

from __future__ import annotations

import json
import re
import sys
import unittest
from io import BytesIO
from pathlib import Path
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

from dicomnode import Acceptor, Status, Storage, associate
from dicomnode.core.command import NActionRQ, NEventReportRQ, NEventReportRSP
from dicomnode.testing import Network, Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION
from tests.cases import QuickReactor
from tests.howtocases import (
    CT_IMAGE_STORAGE,
    HOWTO,
    MR_IMAGE_STORAGE,
    HowtoTestCase,
    encoded,
    image,
    peer_store,
)


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
