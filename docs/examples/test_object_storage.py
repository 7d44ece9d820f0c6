"""How a storage is tested without a socket, a thread or a wait.

``python -m twisted.trial test_object_storage`` runs them.
"""

from object_storage import Bucket, ObjectStorage, Upload
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import Acceptor, Instance, Status, Storage
from dicomnode.contracts import InstanceWriterContract
from dicomnode.part10 import part10_header
from dicomnode.testing import Peer, Reactor, data_set
from dicomnode.uids import EXPLICIT_VR_LE

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

#: An instance of more than one part.
DATA_SET = data_set("1.2.3", sop_class_uid=CT_IMAGE_STORAGE, octets=1000)


class SlowBucket(Bucket):
    """Its parts arrive when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.on_their_way: list[Deferred[None]] = []
        self.forgotten: list[str] = []

    def upload(self, key: str) -> Upload:
        return SlowUpload(self, key)

    def arrives(self) -> None:
        self.on_their_way.pop(0).callback(None)


class SlowUpload(Upload):
    def put(self, part: bytes) -> Deferred[None]:
        arriving: Deferred[None] = Deferred()
        self.bucket.on_their_way.append(arriving)
        return arriving.addCallback(lambda _: super(SlowUpload, self).put(part))

    def forget(self) -> Deferred[None]:
        self.bucket.forgotten.append(self.key)
        return super().forget()


class ObjectStorageTests(SynchronousTestCase):
    def stores(self, bucket: Bucket, size: int | None = None) -> Peer:
        """Let a peer store the instance, in reads of ``size`` octets; a part has 200 octets."""
        peer = Peer(Acceptor(Reactor(), [Storage(ObjectStorage(bucket, part=200))]), size)
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", DATA_SET)
        return peer

    def test_stores(self) -> None:
        """The object is a DICOM file, and its data set is what was sent."""
        bucket = Bucket()
        peer = self.stores(bucket)
        self.assertEqual(peer.response.status, Status.SUCCESS)
        self.assertEqual(bucket.objects["1.2.3.dcm"][128:132], b"DICM")
        self.assertTrue(bucket.objects["1.2.3.dcm"].endswith(DATA_SET))

    def test_success_means_stored(self) -> None:
        """There is no response before every part has arrived."""
        bucket = SlowBucket()
        peer = self.stores(bucket)
        while bucket.on_their_way:
            self.assertEqual(peer.responses, [])
            bucket.arrives()
            peer.exchange()
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_a_slow_store_pauses_the_peer(self) -> None:
        """While more parts wait than may, nothing is read; then reading goes on."""
        bucket = SlowBucket()
        peer = self.stores(bucket, size=100)
        self.assertTrue(peer.transport.paused)
        while bucket.on_their_way:
            bucket.arrives()
        self.assertFalse(peer.transport.paused)
        peer.exchange()
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_a_store_that_fails(self) -> None:
        """What cannot be put is refused and forgotten, and the next instance is not."""
        bucket = SlowBucket()
        peer = self.stores(bucket, size=100)
        bucket.on_their_way.pop(0).errback(RuntimeError("no such bucket"))
        peer.exchange()
        self.assertEqual(peer.response.status, Status.OUT_OF_RESOURCES)
        self.assertEqual(peer.response.error_comment, "the object store failed: no such bucket")
        self.assertEqual((bucket.objects, bucket.forgotten), ({}, ["1.2.3.dcm"]))
        bucket.upload = Bucket().upload
        peer.stores("1.2.3", DATA_SET)
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_a_peer_that_goes_away(self) -> None:
        """Of a transfer that ends in its middle nothing is left."""
        bucket = SlowBucket()
        peer = self.stores(bucket, size=100)
        peer.transport.lose()
        while bucket.on_their_way:
            bucket.arrives()
        self.assertEqual((bucket.objects, bucket.forgotten), ({}, ["1.2.3.dcm"]))


class ObjectWriterContractTests(InstanceWriterContract, SynchronousTestCase):
    """What every writer promises: a dozen tests for these two methods."""

    def setUp(self) -> None:
        self.bucket = Bucket()
        self.storage = ObjectStorage(self.bucket, part=200)

    def open_storage(self) -> ObjectStorage:
        return self.storage

    def kept(self, what: Instance) -> bytes | None:
        kept = self.bucket.objects.get(f"{what.sop_instance_uid}.dcm")
        return None if kept is None else kept.removeprefix(part10_header(what))
