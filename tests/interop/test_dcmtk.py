"""DCMTK as the requestor: ``echoscu``, ``storescu`` and ``dcmsend``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from tests.interop import samples, wire
from tests.interop.samples import Sample
from tests.interop.support import LOOPBACK, NO_DELAY, InteropTestCase, Storescp, missing_programs, run
from tests.interop.transfers import TransferTestCase

#: What ``storescu`` and ``dcmsend`` send otherwise than it is in the file, without an option: they leave
#: out group lengths and trailing padding, make the lengths of sequences, items and fragments explicit, and
#: deflate anew.
ALTERED = {
    "charset_files/chrJapMulti.dcm",
    "charset_files/chrKoreanMulti.dcm",
    "palettes/fall.dcm",
    "palettes/hotiron.dcm",
    "palettes/hotmetalblue.dcm",
    "palettes/pet.dcm",
    "palettes/pet20step.dcm",
    "palettes/spring.dcm",
    "palettes/summer.dcm",
    "palettes/winter.dcm",
    "test_files/693_J2KI.dcm",
    "test_files/CT_small.dcm",
    "test_files/JPEG-lossy.dcm",
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm",
    "test_files/JPEG2000.dcm",
    "test_files/JPGExtended.dcm",
    "test_files/MR_small.dcm",
    "test_files/MR_small_RLE.dcm",
    "test_files/MR_small_expb.dcm",
    "test_files/MR_small_jp2klossless.dcm",
    "test_files/MR_small_jpeg_ls_lossless.dcm",
    "test_files/MR_small_padded.dcm",
    "test_files/SC_rgb_gdcm_KY.dcm",
    "test_files/SC_rgb_rle_16bit.dcm",
    "test_files/SC_rgb_rle_16bit_2frame.dcm",
    "test_files/dicomdirtests/98892001/CT2N/6293",
    "test_files/dicomdirtests/98892001/CT2N/6924",
    "test_files/dicomdirtests/98892001/CT5N/2062",
    "test_files/dicomdirtests/98892001/CT5N/2392",
    "test_files/dicomdirtests/98892001/CT5N/2693",
    "test_files/dicomdirtests/98892001/CT5N/3023",
    "test_files/dicomdirtests/98892001/CT5N/3353",
    "test_files/examples_jpeg2k.dcm",
    "test_files/examples_palette.dcm",
    "test_files/examples_rgb_color.dcm",
    "test_files/examples_ybr_color.dcm",
    "test_files/image_dfl.dcm",
    "test_files/liver_1frame.dcm",
    "test_files/reportsi.dcm",
    "test_files/rtstruct.dcm",
    "test_files/waveform_ecg.dcm",
}

#: What they do not send.
UNSENT = {
    # They cannot read it: cut off, or implicit VR in an explicit VR syntax.
    "test_files/MR_truncated.dcm",
    "test_files/SC_rgb_jpeg.dcm",
    "test_files/rtplan_truncated.dcm",
    # They misread it, and name the SOP Class and Instance "31": refused with 0122.
    "test_files/rtdose_rle.dcm",
    "test_files/rtdose_rle_1frame.dcm",
}

#: Transfer syntaxes that DCMTK 3.6.7 does not know, or cannot propose.
UNKNOWN = {
    "Deflated Image Frame Compression",
    "Encapsulated Uncompressed Explicit VR Little Endian",
    "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
    "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
    "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
    "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
    "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
    "Fragmentable MPEG2 Main Profile / High Level",
    "Fragmentable MPEG2 Main Profile / Main Level",
    "High-Throughput JPEG 2000 Image Compression",
    "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
    "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
    "JPEG XL",
    "JPEG XL JPEG Recompression",
    "JPEG XL Lossless",
    "JPIP HTJ2K Referenced",
    "JPIP HTJ2K Referenced Deflate",
    "JPIP Referenced",
    "JPIP Referenced Deflate",
    "SMPTE ST 2110-20 Uncompressed Interlaced Active Video",
    "SMPTE ST 2110-20 Uncompressed Progressive Active Video",
    "SMPTE ST 2110-30 PCM Digital Audio",
}

#: As there are no pixel data to decode, they convert these to an uncompressed syntax that was accepted.
CONVERTED = {"JPIP Referenced", "JPIP HTJ2K Referenced"}


class DCMTKTests(TransferTestCase):
    """DCMTK associates, verifies and stores."""

    skip = missing_programs("echoscu", "storescu", "dcmsend")

    def test_echoscu(self) -> None:
        """``echoscu`` is answered, whatever transfer syntaxes it proposes."""
        node = self.storescp()
        for options in ((), ("--repeat", "3"), ("--propose-ts", "38"), ("--propose-pc", "128")):
            done = run("echoscu", "-v", *options, LOOPBACK, f"{node.port}", **NO_DELAY)
            self.assertEqual(done.code, 0, done)
            self.assertIn("I: Received Echo Response (Success)", done.stdout + done.stderr)
        self.assertCalm(node.stderr)

    def test_echoscu_aborts(self) -> None:
        """An A-ABORT in place of a release ends the association, and nothing else."""
        node = self.storescp()
        for _ in range(2):
            done = run("echoscu", "--abort", LOOPBACK, f"{node.port}", **NO_DELAY)
            self.assertEqual(done.code, 0, done)
        self.assertCalm(node.stderr)

    def storescu(self, paths: Sequence[Path], files: Sequence[Sample], port: int) -> None:
        """Send files with ``storescu``, each in its own transfer syntax."""
        # No option proposes a transfer syntax alone, but a profile does.
        contexts = sorted({(file.sop_class, file.transfer_syntax) for file in files})
        syntaxes = sorted({transfer_syntax for _, transfer_syntax in contexts})
        profile = paths[0].with_name("profile.cfg")
        profile.write_text(
            "\n".join(
                (
                    "[[TransferSyntaxes]]",
                    *(f"[TS{n}]\nTransferSyntax1 = {uid}" for n, uid in enumerate(syntaxes)),
                    "[[PresentationContexts]]",
                    "[All]",
                    *(
                        f"PresentationContext{n} = {sop_class}\\TS{syntaxes.index(uid)}"
                        for n, (sop_class, uid) in enumerate(contexts, 1)
                    ),
                    "[[Profiles]]",
                    "[Default]",
                    "PresentationContexts = All",
                )
            )
        )
        run("storescu", "-nh", "-xf", profile, "Default", LOOPBACK, f"{port}", *paths, **NO_DELAY)

    def dcmsend(self, paths: Sequence[Path], _: Sequence[Sample], port: int) -> None:
        """Send files with ``dcmsend``, which decompresses nothing, and judges no UID."""
        run("dcmsend", "+f", "-dn", "-nh", "-nuc", LOOPBACK, f"{port}", *paths, **NO_DELAY)

    def test_storescu(self) -> None:
        """``storescu`` sends every file that pydicom ships, in its own transfer syntax."""
        files = [sample for sample in samples.shipped() if sample.storable]
        self.assertTransferred(files, self.storescu, self.storescp(), altered=ALTERED, unsent=UNSENT)

    def test_dcmsend(self) -> None:
        """``dcmsend`` sends every file that pydicom ships, in its own transfer syntax."""
        # It proposes Explicit VR together with Implicit VR: which one is used is for the acceptor to say.
        files = [sample for sample in samples.shipped() if sample.storable]
        little = [sample for sample in files if sample.transfer_syntax == wire.EXPLICIT_LE]
        big = [sample for sample in files if sample.transfer_syntax == wire.EXPLICIT_BE]
        rest = [sample for sample in files if sample not in little and sample not in big]
        for group, options in ((little, ("-xe",)), (big, ("-xb",)), (rest, ())):
            node = self.storescp(*options)
            self.assertTransferred(group, self.dcmsend, node, altered=ALTERED, unsent=UNSENT)

    def test_storescu_transfer_syntaxes(self) -> None:
        """``storescu`` sends an instance of each transfer syntax that it knows."""
        files = samples.made(self.directory())
        node = self.storescp()
        self.assertTransferred(files, self.storescu, node, altered=CONVERTED, unsent=UNKNOWN)

    def test_dcmsend_transfer_syntaxes(self) -> None:
        """``dcmsend`` sends an instance of each transfer syntax that it knows."""
        files = samples.made(self.directory())
        for group, options in ((files[1:2], ("-xe",)), (files[3:4], ("-xb",)), (files[:1] + files[4:], ())):
            node = self.storescp(*options)
            self.assertTransferred(group, self.dcmsend, node, altered=CONVERTED, unsent=UNKNOWN)


class OptionTests(InteropTestCase):
    """What the options of the command do to DCMTK."""

    skip = missing_programs("echoscu", "storescu", "dcmsend", "dcmdump")

    def sent(self, node: Storescp, *command: str | Path) -> int:
        """Run a program, with a file if it takes one, and return its exit code."""
        program, *options = command
        files = () if program == "echoscu" else (_file("test_files/MR_small_implicit.dcm"),)
        return run(program, *options, LOOPBACK, f"{node.port}", *files, **NO_DELAY).code

    def test_called_ae_title(self) -> None:
        """With --require-called-aet, who calls another title gets no association."""
        node = self.storescp("-aet", "OURS", "--require-called-aet")
        self.assertNotEqual(self.sent(node, "echoscu"), 0)
        self.assertEqual(self.sent(node, "echoscu", "-aec", "OURS"), 0)
        self.assertEqual(self.sent(node, "dcmsend", "-aec", "OURS"), 0)
        self.assertEqual(len(node.files()), 1)

    def test_no_echo(self) -> None:
        """With --no-echo, there is no verification, but all the rest."""
        node = self.storescp("--no-echo")
        self.assertNotEqual(self.sent(node, "echoscu"), 0)
        self.assertEqual(self.sent(node, "storescu"), 0)

    def test_max_pdu(self) -> None:
        """It keeps to the maximum length that is announced: a small one, and none."""
        for octets in ("4096", "0"):
            node = self.storescp("-pdu", octets)
            for program in ("storescu", "dcmsend"):
                self.assertEqual(self.sent(node, program), 0)
            self.assertEqual(len(node.files()), 1)

    def test_transfer_syntaxes(self) -> None:
        """Of what it proposes, what is preferred here is what it sends."""
        for option, proposed, syntax in (
            ("-xi", "-xe", wire.IMPLICIT_LE),
            ("-xe", "-xb", wire.EXPLICIT_LE),
            ("-xb", "-xe", wire.EXPLICIT_BE),
            ("-x=", "-xb", wire.EXPLICIT_LE if sys.byteorder == "little" else wire.EXPLICIT_BE),
        ):
            node = self.storescp(option)
            self.assertEqual(self.sent(node, "storescu", "-R", "+C", proposed), 0)
            (name,) = node.files()
            self.assertEqual(read_file_meta_info(node.directory / name).TransferSyntaxUID, syntax)
            dumped = run("dcmdump", "--search", "SOPInstanceUID", node.directory / name)
            self.assertEqual((dumped.code, dumped.stderr), (0, ""), "dcmdump reads it")

    def test_ignore(self) -> None:
        """With --ignore, it is told that all is well."""
        node = self.storescp("--ignore")
        self.assertEqual(self.sent(node, "dcmsend"), 0)
        self.assertEqual(node.files(), [])

    def test_user_identity(self) -> None:
        """Its user identity is passed over; its password is nowhere in the log."""
        node = self.storescp("-d")
        self.assertEqual(self.sent(node, "storescu", "-usr", "somebody", "-pwd", "hush"), 0)
        self.assertIn("somebody", node.stderr)
        self.assertNotIn("hush", node.stderr)


def _file(name: str) -> Path:
    return next(sample.path for sample in samples.shipped() if sample.name == name)
