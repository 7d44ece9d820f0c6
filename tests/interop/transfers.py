"""What the tests of every requestor have in common: send files through a recorder, and compare octets.

Two comparisons. What is stored must be what went over the wire, to the octet: that is our promise. What went
over the wire should be what is in the file: that is the requestor's business, and some re-encode what they
send, without a way to turn it off. Those files are listed by the tests: of a file that is not listed, what
is stored is what is in the source file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from dicomnode import uids
from tests.interop.recorder import Recorder, Stored
from tests.interop.samples import Sample, data_set_of, in_rounds, lay_out
from tests.interop.support import InteropTestCase, Storescp

#: Sends the files of a directory to a port of this machine.
Send = Callable[[Sequence[Path], Sequence[Sample], int], None]


class TransferTestCase(InteropTestCase):
    """A test that sends files."""

    def assertTransferred(
        self,
        samples: Iterable[Sample],
        send: Send,
        node: Storescp,
        *,
        altered: Iterable[str] = (),
        unsent: Iterable[str] = (),
        refused: Mapping[str, int] = {},
    ) -> None:
        """Send the samples in rounds, and compare after each.

        :param altered: those that the requestor may send otherwise than they are.
        :param unsent: those that it may refuse to send, or take for something else.
        :param refused: those that are refused, with their status.
        """
        self.altered: set[str] = set()
        self.unsent: set[str] = set()
        self.refused: dict[str, int] = {}
        for samples_of_round in in_rounds(samples):
            recorder = Recorder(node.address)
            paths = lay_out(samples_of_round, self.directory())
            send(paths, samples_of_round, recorder.port)
            self._compare(samples_of_round, recorder.stored(), node)
        # Another version of a requestor may alter fewer.
        self.assertEqual(self.altered - set(altered), set(), "sent otherwise than they are")
        self.assertEqual(self.unsent - set(unsent), set(), "not sent")
        self.assertEqual({**refused, **self.refused}, {**refused}, "refused")
        self.assertCalm(node.stderr)

    def _compare(self, samples: list[Sample], sent: list[Stored], node: Storescp) -> None:
        left = {(sample.sop_class, sample.instance): sample for sample in samples}
        for stored in sent:
            name = f"{uids.file_name_prefix(stored.sop_class)}.{stored.instance}"
            path = node.directory / name
            sample = left.pop((stored.sop_class, stored.instance), None)
            if stored.status != 0:
                self.assertFalse(path.exists(), f"{name} was refused, and is there")
                if sample is not None:
                    self.assertIsNotNone(stored.status, f"{sample.name} was not answered")
                    self.refused[sample.name] = stored.status or 0
                continue
            assert sample is not None, f"{name} is none of ours"
            self.assertEqual(
                data_set_of(path.read_bytes()), stored.data_set, f"{sample.name}: not what was sent"
            )
            self.assertMeta(path, stored)
            path.unlink()
            if stored.data_set != sample.data_set or stored.transfer_syntax != sample.transfer_syntax:
                self.altered.add(sample.name)
        self.unsent.update(sample.name for sample in left.values())
        self.assertEqual(node.files(), [], "left behind")

    def assertMeta(self, path: Path, stored: Stored) -> None:
        """A file begins as a DICOM file does, and its File Meta Information says what it is."""
        octets = path.read_bytes()
        self.assertEqual(octets[:132], bytes(128) + b"DICM")
        meta = read_file_meta_info(path)
        self.assertEqual(meta.FileMetaInformationGroupLength + 144, len(octets) - len(stored.data_set))
        self.assertEqual(meta.MediaStorageSOPClassUID, stored.sop_class)
        self.assertEqual(meta.MediaStorageSOPInstanceUID, stored.instance)
        self.assertEqual(meta.TransferSyntaxUID, stored.transfer_syntax)
        self.assertEqual(meta.SourceApplicationEntityTitle, stored.calling)
        self.assertEqual(meta.ReceivingApplicationEntityTitle, stored.called)
