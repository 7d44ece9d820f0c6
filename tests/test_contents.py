"""Tests of :mod:`dicomnode.contents`: files as another process has read them."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.contents import Contents, knowing, known


class ContentsTests(SynchronousTestCase):
    """A file is read once; what is known of it is not read at all."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def write(self, name: str, octets: bytes = b"octets") -> str:
        (self.directory / name).write_bytes(octets)
        return str(self.directory / name)

    def test_read(self) -> None:
        """What is in a file is what was in it when it was read."""
        path = self.write("a.pem")
        contents = Contents()
        self.assertEqual(contents.read(path), b"octets")
        self.write("a.pem", b"others")
        self.assertEqual(contents.read(path), b"octets")
        self.assertEqual(contents, {path: b"octets"})
        self.assertRaises(FileNotFoundError, contents.read, str(self.directory / "b"))

    def test_known(self) -> None:
        """Neither what is known nor which there are is looked up."""
        paths = [self.write("b.crt"), self.write("a.pem"), self.write("a.key")]
        contents = Contents()
        contents.read(paths[2])
        here = str(self.directory)
        self.assertEqual(contents.below(here, ".pem", ".crt"), [paths[1], paths[0]])
        for path in paths:
            contents.read(path)
            Path(path).unlink()
        again = Contents(contents)
        self.write("c.pem")
        self.assertEqual(again.below(here, ".pem", ".crt"), [paths[1], paths[0]])
        self.assertEqual([again.read(path) for path in paths], [b"octets"] * 3)

    def test_no_directory(self) -> None:
        """What is no directory has none below it, whether it is known or looked at."""
        path = self.write("a.pem")
        for contents in (Contents(), Contents({path: b"octets"})):
            self.assertIsNone(contents.below(path, ".pem"))

    def test_knowing(self) -> None:
        """What is made meanwhile finds what is known, and nothing else does."""
        with knowing({"a": b"1"}):
            self.assertEqual(known(), {"a": b"1"})
            with knowing({}):
                self.assertEqual(known(), {})
            self.assertEqual(Contents(known()).read("a"), b"1")
        self.assertEqual(known(), {})
