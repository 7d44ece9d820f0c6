"""Tests of what keeps scouts."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, Instance, IStorage, Status, Storage
from dicomnode.contracts import InstanceWriterContract
from dicomnode.part10 import part10_header
from dicomnode.testing import Peer, Reactor
from dicomnode.uids import EXPLICIT_VR_LE
from triage.scouts import Scouts
from triage.tests.samples import CT, image, octets


class ReadingService:
    """Posts are in a dict; they arrive at once, or when the test says so."""

    def __init__(self) -> None:
        self.posts: dict[str, bytes] = {}
        self.arriving: list[Deferred[None]] | None = None
        self.error: Exception | None = None

    def post(self, name: str, file: bytes) -> Deferred[None]:
        if self.error:
            raise self.error
        self.posts[name] = file
        if self.arriving is None:
            return succeed(None)
        self.arriving.append(Deferred())
        return self.arriving[-1]


class ScoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.service = ReadingService()

    def sends(self, data_set: bytes, size: int | None = None) -> Peer:
        peer = Peer(Acceptor(Reactor(), [Storage(Scouts(self.service.post, most=200))]), size)
        peer.associates({CT: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", data_set)
        return peer

    def test_posts(self) -> None:
        """A small instance is posted as a DICOM file."""
        data_set = octets(image("1.2.3"))
        peer = self.sends(data_set)
        self.assertEqual(peer.response.status, Status.SUCCESS)
        file = self.service.posts["1.2.3.dcm"]
        self.assertEqual(file[128:132], b"DICM")
        self.assertTrue(file.endswith(data_set))

    def test_success_means_posted(self) -> None:
        """There is no response before the reading service has answered."""
        self.service.arriving = []
        peer = self.sends(octets(image("1.2.3")))
        self.assertEqual(peer.responses, [])
        self.service.arriving.pop().callback(None)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_too_large(self) -> None:
        """A large one is refused, however it arrives, and the association goes on."""
        for size in (None, 50):
            peer = self.sends(octets(image("1.2.3", 1000)), size)
            self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)
            self.assertEqual(peer.response.error_comment, "too large for a scout")
            peer.stores("1.2.4", octets(image("1.2.4")))
            self.assertEqual(peer.response.status, Status.SUCCESS)
            self.assertEqual(list(self.service.posts), ["1.2.4.dcm"])

    def test_the_service_fails(self) -> None:
        """What cannot be posted is refused."""
        self.service.error = OSError("no route")
        peer = self.sends(octets(image("1.2.3")))
        self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)

    def test_the_peer_vanishes(self) -> None:
        """What has been posted in part only is not posted."""
        peer = Peer(Acceptor(Reactor(), [Storage(Scouts(self.service.post, most=200))]))
        peer.associates({CT: [EXPLICIT_VR_LE]})
        peer.begins("1.2.3", octets(image("1.2.3"))[:40])
        peer.transport.lose()
        self.assertEqual(self.service.posts, {})


class ScoutContractTests(InstanceWriterContract, SynchronousTestCase):
    """What every writer promises."""

    def setUp(self) -> None:
        self.service = ReadingService()
        self.storage = Scouts(self.service.post, most=1 << 20)

    def open_storage(self) -> IStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        kept = self.service.posts.get(f"{what.sop_instance_uid}.dcm")
        return None if kept is None else kept.removeprefix(part10_header(what))
