"""Tests for :mod:`dicomnode.outcomes`."""

from __future__ import annotations

import io

from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.command import CStoreRSP
from dicomnode.errors import (
    AssociationAborted,
    AssociationRejected,
    AssociationTimedOut,
    ContextNotAccepted,
    InvalidFile,
)
from dicomnode.observers import write
from dicomnode.outcomes import Report, amount, answer, arrived, refused, why
from dicomnode.uids import IMPLICIT_VR_LE
from tests.files import CT


def response(status: int, comment: str | None = None) -> CStoreRSP:
    return CStoreRSP(message_id_being_responded_to=1, status=status, error_comment=comment)


class WordTests(SynchronousTestCase):
    """What the standard has numbers for is said in words."""

    def test_answers(self) -> None:
        """A status is said with its meaning, and with the comment."""
        for status, words, has in (
            (0x0000, "0x0000 Success", True),
            (0x0124, "0x0124 Not authorized", False),
            (0xA701, "0xA701 Refused: Out of resources", False),
            (0xA900, "0xA900 Data set does not match SOP Class", False),
            (0xB000, "0xB000 Coercion of data elements", True),
            (0xB123, "0xB123 Warning", True),
            (0xC001, "0xC001 Cannot understand", False),
            (0x0001, "0x0001 Warning", True),
            (0x4711, "0x4711 Failure", False),
        ):
            self.assertEqual((answer(response(status)), arrived(status)), (words, has))
        self.assertEqual(answer(response(0xA700, "f\x1bull")), "0xA700 Refused: Out of resources (f\\x1bull)")

    def test_refusals(self) -> None:
        """A context that is not accepted is named, with the reason."""
        for result, words in (
            (1, "want"),
            (3, "SOP Class"),
            (4, "transfer syntax"),
            (2, "no reason"),
            (None, "no"),
        ):
            text = refused(CT, IMPLICIT_VR_LE, result)
            self.assertIn("CT Image Storage in Implicit VR Little Endian", text)
            self.assertIn(words, text)

    def test_errors(self) -> None:
        """What has gone wrong is one line."""
        for error, words in (
            (AssociationRejected(1, 1, 7), "permanently: called AE title not recognised (1, 1, 7)"),
            (AssociationRejected(2, 3, 2), "for the time being: local limit exceeded (2, 3, 2)"),
            (AssociationRejected(2, 3, 9), "reserved reason"),
            (AssociationTimedOut("ACSE", 30), "ACSE timeout: the other end was silent for 30 s"),
            (AssociationAborted(0, 0), "the association was aborted"),
            (AssociationAborted(2, 2), "the association was aborted: unexpected PDU (2, 2)"),
            (ContextNotAccepted(CT, IMPLICIT_VR_LE), "does not take CT Image Storage"),
            (FileNotFoundError(2, "No such file"), "No such file"),
            (ConnectionRefusedError(), "there is no connection: Connection was refused"),
            (InvalidFile("it\nis none"), "it is none"),
            (ValueError(), "ValueError"),
        ):
            self.assertIn(words, why(error))
            self.assertNotIn("\n", why(error))

    def test_amounts(self) -> None:
        """Amounts are readable."""
        for octets, words in (
            (0, "0 octets"),
            (1024, "1.0 KiB"),
            (5 << 20, "5.0 MiB"),
            (3 << 40, "3072.0 GiB"),
        ):
            self.assertEqual(amount(octets), words)


class ReportTests(SynchronousTestCase):
    """Each file that has not arrived is said, and the exit code tells."""

    def setUp(self) -> None:
        self.stream = io.StringIO()
        self.report = Report(self.stream)

    def test_all(self) -> None:
        """If all have arrived, there is one line."""
        self.report.has_arrived("a", 2048, response(0))
        self.report.is_skipped("README", "it is not a DICOM file")
        self.assertEqual(self.report.end(1.25), 0)
        self.assertEqual(
            self.stream.getvalue(),
            "README: skipped: it is not a DICOM file\n"
            "1 of 1 files have arrived (2.0 KiB in 1.2 s), 1 skipped\n",
        )

    def test_not_all(self) -> None:
        """What has failed, and what has come with a warning, is listed."""
        self.report.has_arrived("a", 1, response(0xB000))
        self.report.has_failed("b\x1b", "0xA700")
        self.assertEqual(self.report.end(0), 1)
        self.assertEqual(
            self.stream.getvalue().splitlines(),
            [
                "a: has arrived, with a warning: 0xB000 Coercion of data elements",
                "b\\x1b: 0xA700",
                "1 of 2 files have arrived (1 octets in 0.0 s), 1 failed",
            ],
        )

    def test_none(self) -> None:
        """If there was nothing to be sent, nothing has arrived."""
        self.assertEqual(self.report.end(0), 1)

    def test_interrupted(self) -> None:
        """What is not known to have arrived is counted."""
        self.report.has_arrived("a", 1, response(0))
        self.assertEqual(self.report.end(0, interrupted=2), 1)
        self.assertIn("interrupted: 1 of 3 files", self.stream.getvalue())

    def test_nobody_reads(self) -> None:
        """That nobody reads it is no failure."""
        closed = io.StringIO()
        closed.close()
        for stream in (None, closed):
            write(stream, "text")
        octets = io.BytesIO()
        stream = io.TextIOWrapper(octets, "ascii")
        write(stream, "\xe9")
        self.assertEqual(octets.getvalue(), b"\\xe9")
