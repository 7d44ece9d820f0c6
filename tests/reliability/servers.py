"""The servers that are laid side by side: dicomnode, pynetdicom's storescp, DCMTK's storescp.

Each is a real process, started afresh, on a free port and a directory of its own; and each is looked at from
outside alone: what it answers, what is in its directory, what ``/proc`` and its log say.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from signal import SIGKILL
from types import TracebackType

from tests.interop.samples import data_set_of
from tests.interop.support import LOOPBACK, Process, eventually, find_program, free_port, run
from tests.interop.wire import ECHO, Peer

DICOMNODE, PYNETDICOM, DCMTK = KINDS = ("dicomnode", "pynetdicom", "DCMTK")


def available() -> list[str]:
    """Return those that are installed."""
    return [kind for kind in KINDS if kind != DCMTK or find_program("storescp")]


def versions() -> dict[str, str]:
    """Return the version of each that is installed."""
    found = {kind: version(kind) for kind in (DICOMNODE, PYNETDICOM)}
    if find_program("storescp"):
        said = re.search(r"v(\S+)", run("storescp", "--version").stdout)
        found[DCMTK] = said[1] if said else "?"
    return found


def _command(
    kind: str, port: int, directory: Path, timeout: int | None, concurrent: bool, ours: Sequence[str]
) -> list[str]:
    if kind == DCMTK:
        # It takes one association at a time, unless it is told to fork; and without TCP_NODELAY each answer
        # waits 40 ms, which is a matter of speed and none of these tests'.
        command = ["env", "TCP_NODELAY=1", find_program("storescp") or "storescp", "+B", "+xa"]
        command += ["--fork"] if concurrent else []
        timeouts = ("-ts", "-ta", "-td")
    else:
        command = [sys.executable, "-m", kind, "storescp"]
        command += ours if kind == DICOMNODE else ()
        timeouts = ("-ta", "-td", "-tn")
    for option in timeouts if timeout else ():
        command += [option, str(timeout)]
    return [*command, "-od", str(directory), str(port)]


class Server(Process):
    """A server that answers C-ECHO already.

    :param kind: one of :data:`KINDS`.
    :param ours: options that dicomnode alone has.
    :param timeout: of ACSE, DIMSE and the network, in seconds; each server's own defaults without it.
    :param concurrent: let DCMTK fork for each association.
    :param directory: where its files go, if not to a directory of its own.
    :param tracer: a command that runs the server's.
    """

    def __init__(
        self,
        kind: str,
        *ours: str,
        timeout: int | None = None,
        concurrent: bool = False,
        directory: Path | None = None,
        tracer: Sequence[str] = (),
    ) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="dicomnode-peers-")
        self.kind = kind
        self.directory = directory or Path(self._own.name)
        self.address = (LOOPBACK, free_port())
        command = _command(kind, self.address[1], self.directory, timeout, concurrent, ours)
        super().__init__([*tracer, *command])
        try:
            eventually(f"{kind} answers", self._answers)
        except BaseException:
            self.clean_up()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clean_up()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended: {self.stderr}")
        try:
            with self.peer(5) as peer:
                peer.associate(ECHO)
                peer.echo()
                peer.release()
        except (OSError, AssertionError):
            return False
        return True

    def peer(self, patience: float = 10.0) -> Peer:
        """Connect to it."""
        return Peer(self.address, patience)

    def connection(self) -> socket.socket:
        """Begin to connect to it."""
        connecting = socket.socket()
        connecting.setblocking(False)
        connecting.connect_ex(self.address)
        return connecting

    def kill(self) -> None:
        """Kill it, with its children, and wait."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()

    def clean_up(self) -> None:
        self.kill()
        super().clean_up()
        self._own.cleanup()

    @property
    def end(self) -> str | None:
        """How it has ended, if it has."""
        code = self.process.poll()
        if code is None:
            return None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    # Its directory

    def names(self) -> list[str]:
        """Return the names of all its files, hidden ones included, once they have stopped to change."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            seen = self._listing()
            time.sleep(0.2)  # DCMTK answers before it has written
            if self._listing() == seen:
                break
        return [name for name, _ in seen]

    def _listing(self) -> list[tuple[str, int]]:
        found = []
        for path in sorted(self.directory.iterdir()):
            with suppress(FileNotFoundError):
                found.append((path.name, path.stat().st_size))
        return found

    def path(self, uid: str) -> Path | None:
        """Return the file of an instance."""
        for name in self.names():
            if name.endswith(f".{uid}") and not name.startswith("."):
                return self.directory / name
        return None

    def contents(self, uid: str) -> bytes | None:
        """Return the data set in the file of an instance."""
        path = self.path(uid)
        return None if path is None else data_set_of(path.read_bytes())

    # Its processes

    def processes(self) -> Iterator[int]:
        """Yield it and its children: the session that it was started in."""
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.getpgid(int(name)) == self.process.pid:
                    yield int(name)

    def peak(self) -> float:
        """Return the most that has been resident in one of its processes that live, in MiB."""
        found = [0]
        for pid in self.processes():
            with suppress(OSError):
                match = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
                found.append(int(match[1]) if match else 0)
        return max(found) / 1024

    def descriptors(self) -> int:
        """Return how many descriptors it has open, without its children's."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def sockets(self) -> set[str]:
        """Return the sockets that it, or a child, has open."""
        found = set()
        for pid in self.processes():
            with suppress(OSError):
                for descriptor in os.scandir(f"/proc/{pid}/fd"):
                    with suppress(OSError):
                        found.add(os.readlink(descriptor.path))
        return {name for name in found if name.startswith("socket:")}
