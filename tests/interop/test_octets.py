"""Octets that a peer sends are the octets that are stored: here the peer alters nothing."""

from __future__ import annotations

from collections.abc import Iterable

from dicomnode import uids
from tests.interop import samples, wire
from tests.interop.samples import Sample, data_set_of
from tests.interop.support import InteropTestCase, Storescp

#: Shipped files that are refused, for cause. Those without UIDs are sent with those of their File Meta.
REFUSED = {
    "charset_files/chrSQEncoding.dcm": (0xC210, "the data set has no SOP Class UID"),
    "charset_files/chrSQEncoding1.dcm": (0xC210, "the data set has no SOP Class UID"),
    "test_files/MR_truncated.dcm": (0xC210, "data set ends inside (7FE0,0010) at octet 9296"),
    "test_files/UN_sequence.dcm": (0xC210, "the data set has no SOP Class UID"),
    "test_files/no_meta_group_length.dcm": (0xC210, "the data set has no SOP Class UID"),
    "test_files/priv_SQ.dcm": (0xC210, "the data set has no SOP Class UID"),
    "test_files/rtplan_truncated.dcm": (0xC210, "data set ends inside (300A,00B0) at octet 1829"),
}


class OctetsTests(InteropTestCase):
    """Files arrive as they are."""

    def assertArrives(self, files: Iterable[Sample], node: Storescp) -> dict[str, tuple[object, object]]:
        """Store each file, compare what is stored, and return what was refused."""
        refused = {}
        for sample in files:
            with wire.Peer(node.address) as peer:
                answer = peer.associate([(1, sample.sop_class, (sample.transfer_syntax,))])
                self.assertEqual(answer.contexts, {1: (0, sample.transfer_syntax)}, sample.name)
                response = peer.store(sample.instance, sample.data_set, sop_class=sample.sop_class)
                peer.release()
            path = node.directory / sample.stored_name
            if response[wire.STATUS]:
                refused[sample.name] = (response[wire.STATUS], response.get(wire.COMMENT))
            else:
                self.assertEqual(data_set_of(path.read_bytes()), sample.data_set, sample.name)
                path.unlink()
            self.assertEqual(node.files(), [], sample.name)
        self.assertCalm(node.stderr)
        return refused

    def test_shipped_files(self) -> None:
        """Every file that pydicom ships arrives, or is refused for cause."""
        files = [sample for sample in samples.shipped() if sample.sop_class in uids.STORAGE_SOP_CLASSES]
        refused = self.assertArrives(files, self.storescp())
        self.assertEqual(refused, {name: REFUSED[name] for name in refused})
        self.assertGreater(len(files) - len(refused), 170)

    def test_unchecked(self) -> None:
        """With --no-check, those arrive, too, that are refused for cause."""
        files = [sample for sample in samples.shipped() if sample.name in REFUSED]
        self.assertEqual(self.assertArrives(files, self.storescp("--no-check")), {})

    def test_transfer_syntaxes(self) -> None:
        """An instance of each transfer syntax arrives."""
        files = samples.made(self.directory())
        self.assertEqual(len(files), 46)
        self.assertEqual(self.assertArrives(files, self.storescp()), {})

    def test_not_storable(self) -> None:
        """What is of no Storage SOP Class is not: a DICOMDIR."""
        node = self.storescp()
        for sample in samples.shipped():
            if sample.sop_class and sample.sop_class not in uids.STORAGE_SOP_CLASSES:
                with wire.Peer(node.address) as peer:
                    answer = peer.associate([(1, sample.sop_class, (sample.transfer_syntax,))])
                    self.assertEqual(answer.contexts[1][0], 3, sample.name)
                    peer.release()
