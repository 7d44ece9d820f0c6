"""Tests for :mod:`dicomnode.selection`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.part10 import part10_header
from dicomnode.selection import File, Passed, Selection, find
from dicomnode.uids import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE
from tests.files import CT, instance

DICOMDIR = "1.2.840.10008.1.3.10"


def dicom(path: Path, sop_class: str = CT, octets: int = 10) -> str:
    """Write a DICOM file."""
    header = part10_header(instance(sop_class_uid=sop_class))
    path.write_bytes(header + bytes(octets))
    return str(path)


class FindTests(SynchronousTestCase):
    """What is there is found, and what is passed over is said."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()

    def passed(self, path: Path, recurse: bool = False) -> list[tuple[str, str, bool]]:
        found = find([str(path)], recurse=recurse)
        return [
            (os.path.basename(item.path), item.why, item.failed) for item in found if isinstance(item, Passed)
        ]

    def test_file(self) -> None:
        """A file is what its File Meta Information says, and its data set is so long."""
        path = dicom(self.home / "a")
        self.assertEqual(list(find([path])), [File(path, CT, EXPLICIT_VR_LE, 10)])

    def test_directory(self) -> None:
        """What is in a directory is found by name; what is in those below, only if that is asked for."""
        (self.home / "d" / "e").mkdir(parents=True)
        paths = [dicom(self.home / name) for name in ("b", "a", "d/c", "d/e/f")]
        flat = [item.path for item in find([str(self.home)]) if isinstance(item, File)]
        self.assertEqual(flat, [paths[1], paths[0]])
        self.assertEqual(self.passed(self.home), [("d", "it is a directory, and -r is not given", False)])
        deep = [item.path for item in find([str(self.home)], recurse=True)]
        self.assertEqual(deep, [paths[1], paths[0], paths[2], paths[3]])

    def test_others(self) -> None:
        """What is no DICOM file was to be sent if it was named, and else it was not."""
        (self.home / "text").write_text("none")
        dicom(self.home / "index", DICOMDIR)
        os.mkfifo(self.home / "pipe")
        os.symlink(self.home.resolve(), self.home / "loop")
        said = {
            "index": "it is a DICOMDIR",
            "loop": "it is not a regular file",
            "pipe": "it is not a regular file",
            "text": "it is not a DICOM file",
        }
        found = self.passed(self.home, recurse=True)
        self.assertEqual(found, [(name, why, False) for name, why in said.items()])
        for name in ("index", "pipe", "text"):
            self.assertEqual(self.passed(self.home / name), [(name, said[name], True)])

    def test_broken(self) -> None:
        """What is a DICOM file, and broken, was to be sent, wherever it was found."""
        whole = Path(dicom(self.home / "a")).read_bytes()
        (self.home / "a").write_bytes(whole[:140])
        os.symlink("nowhere", self.home / "b")
        (broken, lost) = self.passed(self.home)
        self.assertEqual((broken[0], broken[2]), ("a", True))
        self.assertEqual(lost, ("b", "No such file or directory", True))

    def test_no_uid(self) -> None:
        """One whose SOP Class is no UID is: in a request, it would cost the others."""
        for sop_class in ("1" * 65, "1.2.x", "1..2"):
            dicom(self.home / "a", sop_class)
            self.assertEqual(self.passed(self.home), [("a", "its SOP Class UID is not a UID", True)])

    def test_no_directory(self) -> None:
        """A directory that cannot be read is said."""
        (self.home / "d").mkdir()

        def scandir(path: str) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "scandir", scandir)
        self.assertEqual(self.passed(self.home / "d"), [("d", "Permission denied", True)])


class SelectionTests(SynchronousTestCase):
    """Files are shared out by what they need."""

    def test_batches(self) -> None:
        """There are as many contexts on an association as there is room for, and each file is on one."""
        selection = Selection()
        for number in range(300):
            self.assertIsNone(selection.add(File(f"{number}", f"1.2.{number % 130}", IMPLICIT_VR_LE, 2)))
        self.assertEqual([len(batch.pairs) for batch in selection.batches], [128, 2])
        self.assertEqual([len(batch.files) for batch in selection.batches], [296, 4])
        self.assertEqual((selection.files, selection.octets), (300, 600))

    def test_contexts(self) -> None:
        """Implicit VR Little Endian is proposed, too, unless no more than what is needed is to be."""
        selection = Selection()
        selection.add(File("a", CT, EXPLICIT_VR_LE, 2))
        (batch,) = selection.batches
        for defaults, syntaxes in ((True, [EXPLICIT_VR_LE, IMPLICIT_VR_LE]), (False, [EXPLICIT_VR_LE])):
            contexts = batch.contexts(defaults=defaults)
            self.assertEqual([context.transfer_syntaxes[0] for context in contexts], syntaxes)

    def test_request(self) -> None:
        """If one transfer syntax is to be proposed, a file in it is taken, and one that can be put in it."""
        selection = Selection(IMPLICIT_VR_LE)
        for syntax in (IMPLICIT_VR_LE, EXPLICIT_VR_LE):
            self.assertIsNone(selection.add(File("a", CT, syntax, 2)))
        passed = selection.add(File("b", CT, EXPLICIT_VR_BE, 2))
        assert passed is not None
        self.assertTrue(passed.failed)
        self.assertIn("only Implicit VR Little Endian", passed.why)
        self.assertEqual(selection.batches[0].pairs, [(CT, IMPLICIT_VR_LE)])
