"""The commands ``echo`` and ``store`` in processes, against SCPs: DCMTK's, pynetdicom's, and our own."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from signal import SIGINT

from tests.interop import samples
from tests.interop.samples import Sample, data_set_of
from tests.interop.support import (
    LOOPBACK,
    Ended,
    InteropTestCase,
    Process,
    eventually,
    find_program,
    free_port,
    missing_modules,
    missing_programs,
    run,
)

COMMAND = (sys.executable, "-m", "dicomnode")

#: The command in a process that says on stderr, when it ends, the most that was resident at a time, in KiB. A
#: process that has ended could be asked for no other than what its parent had, too.
PEAK = """
import atexit, re, runpy, sys
peak = lambda: re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
atexit.register(lambda: print(peak(), file=sys.__stderr__))
sys.argv[0] = "dicomnode"
runpy.run_module("dicomnode", run_name="__main__", alter_sys=True)
"""


def client(command: str, port: int, *arguments: str | Path) -> Ended:
    """Run a command to its end."""
    return run(COMMAND[0], *COMMAND[1:], command, LOOPBACK, str(port), *arguments)


class ClientTestCase(InteropTestCase):
    """A test with SCPs in processes."""

    def starts(self, *command: str) -> tuple[Process, int]:
        """Start an SCP, whose last argument is its port, and wait until it listens."""
        port = free_port()
        process = Process([*command, f"{port}"])
        self.addCleanup(process.clean_up)

        def listens() -> bool:
            try:
                socket.create_connection((LOOPBACK, port)).close()
            except ConnectionRefusedError:
                return False
            return True

        eventually("it listens", listens)
        return process, port

    def tree(self) -> tuple[Path, list[Sample]]:
        """Make a directory of files, in directories, with something else among them."""
        home = self.directory()
        (home / "below").mkdir()
        files = [
            sample
            for sample in samples.shipped()
            if sample.storable
            and sample.prefix
            and sample.instance == sample.meta_instance
            and "test_files" in sample.name
            and len(sample.data_set) % 2 == 0
        ]
        by_instance = {sample.instance: sample for sample in files}
        chosen = list(by_instance.values())[:24]
        for number, sample in enumerate(chosen):
            shutil.copy(sample.path, home / ("below" if number % 2 else ".") / f"{number}.dcm")
        (home / "README").write_text("none of DICOM")
        return home, chosen

    def assertArrived(self, done: Ended, files: list[Sample], where: Path) -> None:
        self.assertEqual((done.code, done.stderr), (0, ""), done.stdout)
        self.assertIn(f"{len(files)} of {len(files)} files have arrived", done.stdout)
        self.assertIn("README: skipped", done.stdout)
        kept = {
            data_set_of(path.read_bytes())
            for path in where.iterdir()
            if path.is_file() and path.name not in ("stdout", "stderr")
        }
        self.assertEqual(kept, {sample.data_set for sample in files})


class MemoryTests(ClientTestCase):
    """What ``store`` takes of memory does not depend on what it sends."""

    def stores(self, port: int, files: int, *arguments: str | Path) -> int:
        """Have so many files sent, and return the most that was resident at a time, in octets."""
        done = run(sys.executable, "-c", PEAK, "store", LOOPBACK, f"{port}", *arguments)
        self.assertEqual(done.code, 0, done)
        self.assertIn(f"{files} of {files} files have arrived", done.stdout)
        return int(done.lines[-1]) * 1024  # behind what it may have said of its progress

    def test_files(self) -> None:
        """Of 3,000 small files in a tree it is what it is of 30 of them, and of one of 1 GiB."""
        node = self.storescp("--ignore", "-q", ports=(f"{free_port()}",))
        sample = samples.made(self.directory())[1]
        home = self.directory()
        octets = sample.path.read_bytes()
        for number in range(3000):
            below = home / f"{number // 1000}" / f"{number // 30 % 10}"
            below.mkdir(parents=True, exist_ok=True)
            (below / f"{number}.dcm").write_bytes(octets)
        few = self.stores(node.port, 30, *sorted(home.rglob("*.dcm"))[:30])
        many = self.stores(node.port, 3000, "-r", home)
        large = self.directory() / "large.dcm"
        with open(large, "wb") as file:
            # Its last element, of 7FE0,0010 in Explicit VR Little Endian, is a gibibyte of zeros.
            file.write(octets[: octets.rindex(b"\xe0\x7f\x10\0OW") + 8] + (1 << 30).to_bytes(4, "little"))
            file.truncate(file.tell() + (1 << 30))
        one = self.stores(node.port, 1, large)
        self.assertLess(few, 100 << 20)
        self.assertLess(many - few, 4 << 20)
        self.assertLess(one - few, 4 << 20)


class DCMTKTests(ClientTestCase):
    """DCMTK's ``storescp`` answers, and keeps what it is sent."""

    skip = missing_programs("storescp")

    def test_session(self) -> None:
        """Every file of a directory arrives as it is."""
        program = find_program("storescp")
        assert program is not None
        node, port = self.starts(program, "-q", "+B", "+xa", "-pm")
        self.assertEqual(client("echo", port, "--repeat", "3").code, 0)
        self.assertEqual(client("echo", port, "--abort", "-xi").code, 0)
        home, files = self.tree()
        self.assertArrived(client("store", port, "-r", "-cx", home), files, node.home)

    def test_refused(self) -> None:
        """An association that it rejects, or aborts, is told."""
        program = find_program("storescp")
        assert program is not None
        path = samples.shipped()[0].path
        for option, word in (("--refuse", "rejected"), ("--abort-during", "aborted")):
            _, port = self.starts(program, "-q", option)
            done = client("store", port, path)
            self.assertEqual(done.code, 1)
            self.assertIn(word, done.stderr)
            self.assertIn("0 of 1 files", done.stdout)


class PynetdicomTests(ClientTestCase):
    """pynetdicom's ``storescp`` does, too."""

    skip = missing_modules("pynetdicom")

    def test_session(self) -> None:
        """Files arrive; and in Implicit VR Little Endian, if that is asked for."""
        node, port = self.starts(sys.executable, "-m", "pynetdicom", "storescp", "-od", "kept")
        self.assertEqual(client("echo", port).code, 0)
        home, files = self.tree()
        done = client("store", port, "-r", home)
        self.assertEqual((done.code, done.stderr), (0, ""), done.stdout)
        self.assertEqual(len(os.listdir(node.home / "kept")), len(files))
        done = client("store", port, "-xi", next(home.glob("*.dcm")))
        self.assertEqual(done.stdout.count("\n"), 1)


class OwnTests(ClientTestCase):
    """So does our own, and what a signal ends is aborted."""

    def test_session(self) -> None:
        """Every file arrives as it is, by either way to say to whom."""
        node = self.storescp("-od", "kept", "--sync", "none", "--no-check")
        home, files = self.tree()
        self.assertArrived(client("store", node.port, "-r", home), files, node.home / "kept")
        endpoint = f"tcp:{LOOPBACK}:{node.port}"
        self.assertEqual(run(COMMAND[0], *COMMAND[1:], "echo", endpoint).stdout[:14], "0x0000 Success")

    def test_interrupted(self) -> None:
        """Ctrl-C aborts the association, and says how far it was."""
        node = self.storescp("-od", "kept", "--sync", "none")
        home = self.directory()
        path = samples.shipped()[0].path
        with open(home / "large", "wb") as file:
            file.write(path.read_bytes())
            file.truncate(8 << 30)
        process = Process([*COMMAND, "store", LOOPBACK, f"{node.port}", str(home)])
        self.addCleanup(process.clean_up)
        eventually("it sends", lambda: "Accepting Association" in node.stderr)
        time.sleep(0.2)
        ended = process.stop(SIGINT)
        self.assertEqual((ended.code, ended.stderr), (130, ""))
        self.assertIn("interrupted: 0 of 1 files have arrived", ended.stdout)
        eventually("it is told", lambda: "Association Aborted" in node.stderr)

    def test_wrong(self) -> None:
        """What cannot be is one line."""
        for arguments, code in (((COMMAND[2], "echo", LOOPBACK), 2), ((COMMAND[2], "echo", "x:1"), 2)):
            done = run(COMMAND[0], COMMAND[1], *arguments)
            self.assertEqual((done.code, len(done.lines), done.stdout), (code, 1, ""))
        done = client("echo", free_port())
        self.assertEqual((done.code, len(done.lines), done.stdout), (1, 1, ""))
        self.assertIn("there is no connection", done.stderr)
