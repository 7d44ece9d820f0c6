"""The servers that are compared: how each is started, what it takes of the machine, and its end."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.benchmarks.load import SCU, Refused
from tests.benchmarks.messages import answers, c_store

#: One instance is stored before anything is measured. This is its number.
WARM_UP = 99_999_999

_ANSWERS = [answer.hex() for answer in answers()]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A program to be measured."""

    name: str
    command: Callable[[int, Path], list[str]]  #: from port and directory
    serial: bool = False  #: takes its associations one by one
    processes: int = 1  #: that accept associations
    share: float = 1.0  #: of the operations, for those that are slow
    framed: bool = False  #: its files hold PDUs
    canned: bool = False  #: understands nothing but the load generator
    stores: bool = True
    syncs: bool = False  #: its files are to be on a real disk


def find_program(name: str) -> str | None:
    """Find a program that is not this environment's: pynetdicom installs a storescp and a storescu, too."""
    ours = Path(sys.executable).parent
    elsewhere = [part for part in os.get_exec_path() if Path(part) != ours]
    return shutil.which(name, path=os.pathsep.join(elsewhere))


def _python(*arguments: str) -> Callable[[int, Path], list[str]]:
    return lambda port, directory: [
        *(sys.executable, "-m"),
        *(part.format(port=port, directory=directory) for part in arguments),
    ]


def _dicomnode(sync: str, *options: str) -> Callable[[int, Path], list[str]]:
    # Idle associations are to be held, however many they are and however long that takes.
    options = ("--sync", sync, "--max-associations", "0", "-tn", "0", *options)
    return _python("dicomnode", "storescp", "{port}", "-od", "{directory}", *options)


def _dcmtk(*options: str) -> Callable[[int, Path], list[str]]:
    program = find_program("storescp") or "storescp"
    return lambda port, directory: [program, "+B", "+xa", *options, "-od", str(directory), str(port)]


def _orthanc(port: int, directory: Path) -> list[str]:
    configuration = {
        "DicomPort": port,
        "HttpServerEnabled": False,
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "OverwriteInstances": True,
        "Plugins": [],
    }
    file = directory / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return [find_program("Orthanc") or "Orthanc", str(file)]


def _c_sink(port: int, directory: Path) -> list[str]:
    return [str(_compiled()), str(port), str(directory), *_ANSWERS]


@cache
def _compiled() -> Path:
    """Compile the sink in C, for as long as this process runs."""
    folder = tempfile.TemporaryDirectory(prefix="sink-")
    atexit.register(folder.cleanup)
    program = Path(folder.name, "sink")
    subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("sink.c")], check=True)
    return program


#: The first is compared with the others, which sync nothing either.
SERVERS = (
    Server("dicomnode", _dicomnode("none")),
    Server("--sync full", _dicomnode("full"), syncs=True, share=0.25),
    Server("--processes 2", _dicomnode("none", "--processes", "2"), processes=2),
    Server("pynetdicom", _python("pynetdicom", "storescp", "{port}", "-od", "{directory}"), share=0.1),
    Server("dcmtk +B", _dcmtk(), serial=True),
    Server("+B --fork", _dcmtk("--fork")),
    Server(
        "twisted sink",
        _python("tests.benchmarks.sink", "{port}", "{directory}", *_ANSWERS),
        framed=True,
        canned=True,
    ),
    Server("C sink", _c_sink, framed=True, canned=True),
    Server("orthanc", _orthanc),
)


def discarding(octets: int) -> Server:
    """Return what discards messages of so many octets: with it, the load generator itself is measured."""
    command = _python("tests.benchmarks.discard", "{port}", str(octets), *_ANSWERS)
    return Server("generator alone", command, canned=True, stores=False)


def missing(server: Server) -> str | None:
    """Say what would have to be installed."""
    program = {"dcmtk +B": "storescp", "+B --fork": "storescp", "orthanc": "Orthanc", "C sink": "cc"}.get(
        server.name
    )
    if program is not None:
        return None if find_program(program) else f"{program} is not installed"
    if server.name == "pynetdicom" and importlib.util.find_spec("pynetdicom") is None:
        return "pynetdicom is not installed"
    return None


class Running:
    """A server that listens."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            server.command(self.port, directory),
            # As shipped, DCMTK answers 22 operations a second, whatever their size (Nagle, delayed ACK).
            env={**os.environ, "TCP_NODELAY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )

    def warm_up(self, patience: float = 30.0) -> None:
        """Wait until it listens, and have each of its processes store an instance."""
        deadline = time.monotonic() + patience
        while True:
            try:
                SCU(self.port).release()
                break
            except (ConnectionError, Refused):
                if self._process.poll() is not None:
                    raise Refused(f"it ended with {self._process.returncode}: {self._last_words()}") from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._settle(deadline)
        # Held at a time, so that each process has one.
        scus = [SCU(self.port) for _ in range(self.server.processes)]
        for number, scu in enumerate(scus):
            if self.server.stores:
                # In PDUs that are short enough for any.
                scu.send(c_store(WARM_UP - number, 4096, fragment=2048))
        for scu in scus:
            scu.release()

    def _settle(self, deadline: float) -> None:
        """Wait until it has started whatever it starts: until it takes next to nothing of a processor."""
        before = 0.0
        while self.cpu() - before > 0.01 and time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.1)

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]

    def cpu(self) -> float:
        """Return the processor time it has taken so far, its children included, in seconds."""
        seconds = 0.0
        for pid in self._family():
            try:
                # Its clock, as clock_getcpuclockid(3) gives it, for /proc knows but hundredths of seconds;
                # and the times of children that it has waited for.
                seconds += time.clock_gettime(~pid << 3 | 2)
                seconds += sum(map(int, _fields(pid)[13:15])) / _TICKS
            except OSError:
                continue  # It has ended.
        return seconds

    def peak(self) -> float:
        """Return the most that was resident at a time, in MB; of children, what they share with nobody."""
        return self._memory("VmHWM")

    def resident(self) -> float:
        """Return what is resident now, in MB; of children, what they share with nobody."""
        return self._memory("VmRSS")

    def _memory(self, name: str) -> float:
        own, *children = self._family()
        kib = _sum(Path(f"/proc/{own}/status"), name)
        for child in children:
            kib += _sum(Path(f"/proc/{child}/smaps_rollup"), "Private_")
        return kib * 1024 / 1e6

    def _family(self) -> list[int]:
        """Return the process, and all that it started: they are of its session."""
        own = self._process.pid
        family = [own]
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and int(entry) != own and int(_fields(int(entry))[3]) == own:
                    family.append(int(entry))
            except OSError:
                continue  # It has ended.
        return family

    def stop(self) -> None:
        """End it, and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stderr.close()


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, ppid, pgrp, session ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _sum(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def running(server: Server, parent: Path) -> Iterator[Running]:
    """Start a server afresh, with an empty directory below ``parent``; end it, and empty its files.

    They stay, with nothing in them, until the end of the run (:func:`keeping`): ext4 does not give an inode
    to a new file that had another a short while ago (60 seconds; 360, if that is not on the disk yet), and
    looks at each of those whenever a file is made. To delete 2,000 files had each that was made in the
    minutes after take 300 to 2,000 us, and not 60: of which the servers that came later in a round had most.
    """
    directory = Path(tempfile.mkdtemp(prefix="server-", dir=parent))
    try:
        started = Running(server, directory)
        try:
            started.warm_up()
            yield started
        finally:
            started.stop()
    finally:
        for path in directory.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)


@contextmanager
def keeping(parent: Path) -> Iterator[Path]:
    """Make a directory for a whole run below ``parent``, and remove it when nothing is measured any more."""
    directory = Path(tempfile.mkdtemp(prefix="dicomnode-benchmark-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
