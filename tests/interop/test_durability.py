"""What is acknowledged is stored: the order of the system calls, and what a kill at any moment leaves."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.interop.support import MODULE, InteropTestCase, eventually, missing_programs
from tests.interop.wire import Peer
from tests.reliability.kill import Rounds

#: The calls that a store's promise is made of.
CALLS = "openat,writev,fsync,rename,renameat,renameat2,link,linkat,unlink,close,sendto,write,mkdir"

#: How many times the server is killed: a hundred take some minutes.
ROUNDS = int(os.environ.get("DICOMNODE_KILL_ROUNDS", "5"))

_LINE = re.compile(r"(\d+) +(.*)")


def cannot_trace() -> str | None:
    """Return why nothing can be traced here, if so."""
    missing = missing_programs("strace")
    if (
        missing is None
        and subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode
    ):
        return "strace may not trace"
    return missing


def calls(trace: str) -> Iterator[str]:
    """Yield the calls of a trace of strace's in the order of their ends."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        process, call = match.groups()
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>").rstrip()
        elif call.startswith("<..."):
            yield begun.pop(process, "") + call.partition("resumed>")[2]
        else:
            yield call


class OrderTests(InteropTestCase):
    """The order of the system calls, as the kernel saw them."""

    skip = cannot_trace()

    #: What matters of the calls, and what it is called here.
    STEPS = (
        ("written", r"writev\(\d+<[^>]*\.part>.*"),
        ("file synced", r"fsync\(\d+<[^>]*\.part>\) += 0"),
        ("directory made", r"mkdir\(.*/(?:1\.2\.4|_)\", .*"),
        ("named", r"rename\(.*\.part\", .*CT\.1\.2\.3(?:\.dcm)?\"\) += 0"),
        ("named", r"link(?:at)?\(.*\.part\", .*CT\.1\.2\.3(?:\.dcm)?\".*\) += 0"),
        ("directory synced", r"fsync\(\d+<[^>]*(?:/files|/_)>\) += 0"),
        ("answered", r"sendto\(.*, \"\\4\\0.*"),
    )

    def steps(self, *options: str) -> list[str]:
        """Return what a store does, in order, each thing once if it is repeated."""
        directory = self.directory()
        trace, files = directory / "trace", directory / "files"
        tracer = ("strace", "-D", "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(trace))
        server = self.storescp("-od", str(files), *options, how=(*tracer, *MODULE))
        with Peer(server.address) as peer:
            peer.associate()
            self.assertEqual(peer.store("1.2.3")[0x0900], 0)
            peer.release()
        self.assertCalm(server.stop().stderr)
        eventually("the trace is complete", lambda: "exited with" in trace.read_text() or None)
        found: list[str] = []
        for call in calls(trace.read_text()):
            for name, pattern in self.STEPS:
                if re.fullmatch(pattern, call) and found[-1:] != [name]:
                    found.append(name)
        return found

    def test_full(self) -> None:
        """The file is synced before it is named, its directory after that, and then comes the answer."""
        expected = ["written", "file synced", "named", "directory synced", "answered"]
        self.assertEqual(self.steps(), expected)
        self.assertEqual(self.steps("--on-duplicate", "keep"), expected)

    def test_full_layout(self) -> None:
        """So it does where directories are made for it."""
        expected = ["written", "file synced", "directory made", "named", "directory synced", "answered"]
        self.assertEqual(self.steps("--layout", "{study}/{prefix}.{instance}.dcm"), expected)

    def test_file(self) -> None:
        """The name is not waited for where that is not asked for."""
        self.assertEqual(self.steps("--sync", "file"), ["written", "file synced", "named", "answered"])

    def test_none(self) -> None:
        """Nothing is waited for where that is not asked for."""
        self.assertEqual(self.steps("--sync", "none"), ["written", "named", "answered"])


class KillTests(InteropTestCase):
    """What is left when the process is killed at any moment under load."""

    timeout = 3600

    def rounds(self, number: int, *options: str) -> Rounds:
        with tempfile.TemporaryDirectory(prefix="dicomnode-kill-") as directory:
            rounds = Rounds(Path(directory), 1, *options)
            for _ in range(number):
                self.assertEqual(rounds.one(), [])
            self.assertEqual(rounds.last(), [])
        self.assertGreater(rounds.acknowledged, 0)
        return rounds

    def test_kill(self) -> None:
        """Each acknowledged instance is whole, nothing torn has a name, and no part file outlives a start."""
        self.rounds(ROUNDS)

    def test_kill_without_sync(self) -> None:
        """That a process ends costs nothing that it has acknowledged, however little it syncs."""
        self.rounds(max(1, ROUNDS // 5), "--sync", "none", "--layout", "{study}/{prefix}.{instance}")
