"""pynetdicom as the requestor: its ``echoscu`` and ``storescu`` applications, and its application entity."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.interop import samples, wire
from tests.interop.samples import Sample
from tests.interop.support import LOOPBACK, MODULE, Process, eventually, free_port, missing_modules, run
from tests.interop.transfers import TransferTestCase

#: What ``storescu`` sends otherwise than it is in the file: pydicom decodes and encodes it again.
ALTERED = {
    # Trailing octets behind the last element, the padding of a value, group lengths of a wrong size.
    "charset_files/chrJapMulti.dcm",
    "charset_files/chrJapMultiExplicitIR6.dcm",
    "charset_files/chrKoreanMulti.dcm",
    "palettes/winter.dcm",
    "test_files/693_J2KI.dcm",
    "test_files/ExplVR_BigEnd.dcm",
    "test_files/rtdose_rle.dcm",
    "test_files/rtdose_rle_1frame.dcm",
    # Deflated anew.
    "test_files/image_dfl.dcm",
    # Cut off: the length of the last element is made that of what there is of it.
    "test_files/MR_truncated.dcm",
    "test_files/rtplan_truncated.dcm",
}

#: What ``storescu`` does not send.
UNSENT = {
    # It has no preamble.
    "test_files/ExplVR_BigEndNoMeta.dcm",
    "test_files/ExplVR_LitEndNoMeta.dcm",
    "test_files/rtstruct.dcm",
    # Implicit VR in an explicit VR syntax: pydicom reads it, and cannot write it.
    "test_files/SC_rgb_jpeg.dcm",
}

#: What is refused when it is sent as it is, named as its File Meta Information names it: some of these have
#: another SOP Instance UID than their data sets.
REFUSED = {
    "charset_files/chrJapMulti.dcm": 0xA900,
    "charset_files/chrJapMultiExplicitIR6.dcm": 0xA900,
    "test_files/badVR.dcm": 0xA900,
    "test_files/rtdose.dcm": 0xA900,
    "test_files/rtdose_1frame.dcm": 0xA900,
    "test_files/rtdose_expb.dcm": 0xA900,
    "test_files/rtdose_expb_1frame.dcm": 0xA900,
    "test_files/rtplan.dcm": 0xA900,
    "test_files/rtplan_truncated.dcm": 0xC210,
    "test_files/MR_truncated.dcm": 0xC210,
}


#: Lines that name the program.
_PROGRAM = ("D: storescp.py ", "D: dicomnode ", "D: Our Implementation ", "D: Responding Application Name: ")


class PynetdicomTests(TransferTestCase):
    """pynetdicom associates, verifies and stores."""

    skip = missing_modules("pynetdicom")

    def test_echoscu(self) -> None:
        """``echoscu`` is answered."""
        node = self.storescp()
        done = run(
            sys.executable, "-m", "pynetdicom", "echoscu", "-v", "--repeat", "2", LOOPBACK, f"{node.port}"
        )
        self.assertEqual(done.code, 0)
        self.assertEqual(done.stderr.count("Status: 0x0000 - Success"), 2, done.stderr)
        self.assertCalm(node.stderr)

    def test_storescu(self) -> None:
        """``storescu`` sends every file that pydicom ships, in its own transfer syntax."""

        def storescu(paths: Sequence[Path], _: Sequence[Sample], port: int) -> None:
            # With one file, as with many: the directory.
            command = (sys.executable, "-m", "pynetdicom", "storescu", "--required-contexts", "--recurse")
            done = run(*command, LOOPBACK, f"{port}", paths[0].parent)
            self.assertEqual(done.code, 0, done.stderr)

        files = [sample for sample in samples.shipped() if sample.storable]
        self.assertTransferred(files, storescu, self.storescp(), altered=ALTERED, unsent=UNSENT)

    def test_as_it_is(self) -> None:
        """An application entity that reads nothing sends every shipped file as it is."""
        files = [
            replace(sample, instance=sample.meta_instance)
            for sample in samples.shipped()
            if sample.storable and sample.prefix
        ]
        self.assertTransferred(files, self.send_as_it_is, self.storescp(), refused=REFUSED)

    def test_transfer_syntaxes(self) -> None:
        """An application entity that reads nothing sends an instance of each transfer syntax."""
        self.assertTransferred(samples.made(self.directory()), self.send_as_it_is, self.storescp())

    def send_as_it_is(self, paths: Sequence[Path], files: Sequence[Sample], port: int) -> None:
        """Send files whose data sets pynetdicom does not decode."""
        from pynetdicom import AE, _config

        self.patch(_config, "STORE_SEND_CHUNKED_DATASET", True)
        self.patch(_config, "ENFORCE_UID_CONFORMANCE", False)
        entity = AE("AS_IT_IS")
        for sop_class, transfer_syntax in sorted({(file.sop_class, file.transfer_syntax) for file in files}):
            entity.add_requested_context(sop_class, transfer_syntax)
        association = entity.associate(LOOPBACK, port, ae_title="STORESCP")
        self.assertTrue(association.is_established)
        for path in paths:
            self.assertIn("Status", association.send_c_store(path), path)
        association.release()

    def test_log_lines(self) -> None:
        """What pynetdicom's ``storescp`` says of a conversation, we say, word for word and in its order."""
        for loudness in ("-v", "-d"):
            theirs = self.said(loudness, sys.executable, "-m", "pynetdicom", "storescp")
            ours = self.said(loudness, *MODULE)
            left = iter(ours)
            for line in theirs:
                # What is not found in what is left is not there, or not in this place.
                self.assertIn(line, left, f"{loudness}: {line!r} is not in {ours}")
            self.assertGreater(len(theirs), 10)
            # What we say beside that is for who looks for trouble.
            more = [line for line in ours if line not in theirs]
            self.assertEqual([line for line in more if not line.startswith(("I: Listening on ", "W: "))], [])

    def said(self, loudness: str, *command: str) -> list[str]:
        """Return the lines that a program says of a conversation, but for those that name the program."""
        port = free_port()
        process = Process([*command, f"{port}", loudness])
        self.addCleanup(process.clean_up)
        self.converse((LOOPBACK, port), process)
        lines = process.stop().lines
        # A warning of Python's is none of its own.
        lines = [line for line in lines if line[1:3] == ": "]
        return [line for line in lines if not line.startswith(_PROGRAM)]

    def converse(self, address: tuple[str, int], process: Process) -> None:
        """Let things happen, one after the other, each of which gives its lines."""

        def connected() -> wire.Peer | None:
            try:
                return wire.Peer(address)
            except ConnectionRefusedError:
                return None

        def until_said(count: int, *ends: str) -> None:
            eventually("it is said", lambda: sum(map(process.stderr.count, ends)) >= count, 5)

        with eventually("it listens", connected) as peer:
            peer.associate(
                (
                    (1, wire.VERIFICATION, (wire.IMPLICIT_LE,)),
                    (3, wire.CT_IMAGE_STORAGE, (wire.EXPLICIT_LE, wire.IMPLICIT_LE, wire.JPEG_BASELINE)),
                    (5, "1.2.3", ("1.2",)),
                    (7, wire.CT_IMAGE_STORAGE, ("1.2.3",)),
                )
            )
            peer.echo()
            for _ in range(2):
                # As it should have been, pynetdicom reads this without a warning.
                peer.store("1.2.3.4", samples.encoded("1.2.3.4", wire.IMPLICIT_LE), context=3)
            peer.release()
            until_said(1, "I: Association Released")
        with wire.Peer(address) as peer:
            peer.associate()
            peer.send(wire.abort())
            until_said(1, "I: Association Aborted")
        with wire.Peer(address) as peer:
            peer.associate()
        until_said(2, "I: Association Aborted")
        with wire.Peer(address) as peer:
            peer.send(wire.associate_rq(version=2))
            self.assertEqual(peer.read(), wire.PDU(wire.ASSOCIATE_RJ, bytes((0, 1, 2, 2))))
            until_said(1, "E: A-ASSOCIATE-RQ: Unsupported protocol version")
            time.sleep(0.2)  # what it says after that, nothing announces
