"""What the interoperability tests share: the real command in a process, and the peers that are installed.

Here alone are real processes, sockets and time. Nothing waits for ever: each wait has its limit, after which
the test fails. A peer that is not installed skips the tests that need it, and says so.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIG_DFL, SIGINT, signal
from typing import NamedTuple, TypeVar

from twisted.trial.unittest import SynchronousTestCase

LOOPBACK = "127.0.0.1"

#: How long anything may take that is not itself a matter of time, in seconds: generous, for slow machines.
PATIENCE = 30.0

_SCRIPTS = sysconfig.get_path("scripts")

#: The ways to run the command; its arguments follow.
MODULE = (sys.executable, "-m", "dicomnode", "storescp")
SCRIPT = (os.path.join(_SCRIPTS, "dicomnode"), "storescp")
TWISTD = (os.path.join(_SCRIPTS, "twistd"), "-n", "--pidfile=", "storescp")
TWIST = (os.path.join(_SCRIPTS, "twist"), "storescp")

#: What the command says of where it listens: as text, and as JSON.
_LISTENING = re.compile(r'^(?:I: Listening on|.*"event": "Listening",).*?(?::(\d+))?\W*$', re.MULTILINE)

#: Options that say how much is logged: without one, it is asked to say where it listens.
_LOUDNESS = {"-q", "-v", "-d", "-ll"}

_T = TypeVar("_T")


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What it had to say on stderr."""
        return self.stderr.splitlines()


def eventually(what: str, found: Callable[[], _T | None], patience: float = PATIENCE) -> _T:
    """Ask ``found`` again and again until it finds something.

    :raises AssertionError: when it takes too long.
    """
    deadline = time.monotonic() + patience
    while not (result := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {patience:g} s")
        time.sleep(0.005)
    return result


def find_program(name: str) -> str | None:
    """Find a program that is not this environment's: pynetdicom installs an echoscu and a storescu, too."""
    ours = Path(sys.executable).parent
    elsewhere = [part for part in os.get_exec_path() if Path(part) != ours]
    return shutil.which(name, path=os.pathsep.join(elsewhere))


def run(program: str | Path, *arguments: str | Path, patience: float = PATIENCE, **environment: str) -> Ended:
    """Run a program to its end: one that is given by its path, or DCMTK's of a name."""
    done = subprocess.run(
        [find_program(str(program)) or str(program), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=patience,
    )
    return Ended(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


class Process:
    """A process whose output goes to files, so that it never waits for a reader.

    :param together: stdout and stderr are one file, which :attr:`stdout` reads.
    """

    def __init__(self, command: Sequence[str], *, together: bool = False) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="dicomnode-interop-")
        self.home = Path(self._home.name)
        with open(self.home / "stdout", "wb") as stdout, open(self.home / "stderr", "wb") as stderr:
            # A session of its own: an interrupt typed at the terminal is for the tests.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stdout if together else stderr,
                cwd=self.home,
                start_new_session=True,
                # Tests in the background ignore SIGINT, if a shell started them, and that is inherited.
                preexec_fn=lambda: signal(SIGINT, SIG_DFL),
            )

    @property
    def stdout(self) -> str:
        return _text((self.home / "stdout").read_bytes())

    @property
    def stderr(self) -> str:
        return _text((self.home / "stderr").read_bytes())

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, patience: float = PATIENCE) -> Ended:
        """Wait for its end."""
        code = self.process.wait(patience)
        return Ended(code, self.stdout, self.stderr)

    def stop(self, number: int = SIGINT, patience: float = PATIENCE) -> Ended:
        """Ask it to end, and wait."""
        self.send_signal(number)
        return self.ended(patience)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._home.cleanup()


class Storescp(Process):
    """The command, listening. Its files go to its working directory, unless told otherwise.

    :param options: the command's, without a port: it listens on one that is free, which :attr:`port` tells.
    :param how: one of the ways to run it.
    """

    def __init__(
        self,
        *options: str,
        how: Sequence[str] = MODULE,
        ports: Sequence[str] = ("0",),
        together: bool = False,
    ) -> None:
        loudness = () if _LOUDNESS & {*options} else ("-v",)
        super().__init__([*how, *ports, *loudness, *options], together=together)
        self.directory = self.home
        try:
            self.ports = eventually("it listens", lambda: self._listening(ports))
        except AssertionError:
            print(self.stderr, file=sys.stderr)
            self.clean_up()
            raise

    def _listening(self, ports: Sequence[str]) -> list[int] | None:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended: {self.stderr}")
        if ports[0].isdigit() and int(ports[0]):
            # It was told where, and may have been told to be silent.
            try:
                socket.create_connection((LOOPBACK, int(ports[0]))).close()
            except ConnectionRefusedError:
                return None
            return [int(ports[0])]
        found = _LISTENING.findall(self.stdout + self.stderr)
        return [int(port or 0) for port in found] if len(found) >= len(ports) else None

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def address(self) -> tuple[str, int]:
        return LOOPBACK, self.port

    def files(self) -> list[str]:
        """The names of all that it has written, hidden ones included."""
        return sorted(
            os.path.relpath(os.path.join(directory, name), self.home)
            for directory, _, names in os.walk(self.home)
            for name in names
            if name not in ("stdout", "stderr")
        )

    def memory(self) -> int:
        """Its resident memory, in octets."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """The most that its resident memory has been, in octets."""
        return self._status("VmHWM")

    def page_faults(self) -> int:
        """How many page faults it has had that needed no disk: minflt of proc_pid_stat(5)."""
        return int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[7])

    def _status(self, what: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name == what:
                return int(value.split()[0]) * 1024
        raise LookupError(what)

    def descriptors(self) -> int:
        """How many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class InteropTestCase(SynchronousTestCase):
    """A test that starts processes, all of which end with it."""

    def storescp(
        self,
        *options: str,
        how: Sequence[str] = MODULE,
        ports: Sequence[str] = ("0",),
        together: bool = False,
    ) -> Storescp:
        """Start the command, with its own options, and wait until it listens."""
        started = Storescp(*options, how=how, ports=ports, together=together)
        self.addCleanup(started.clean_up)
        return started

    def directory(self) -> Path:
        """Make an empty directory."""
        home = tempfile.TemporaryDirectory(prefix="dicomnode-interop-")
        self.addCleanup(home.cleanup)
        return Path(home.name)

    def assertCalm(self, log: str) -> None:
        """Nothing unforeseen is in a log."""
        for word in ("Traceback", "Unhandled", "C: "):
            self.assertNotIn(word, log)


def kept_running(make: Callable[[], Storescp]) -> Callable[[], Storescp]:
    """Make one process for all tests of a module, when the first of them asks; it ends when they have."""
    running: list[Storescp] = []

    def get() -> Storescp:
        if not running:
            running.append(make())
            atexit.register(running[0].clean_up)
        return running[0]

    return get


def free_port() -> int:
    """Find a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


# The peers


def missing_programs(*names: str) -> str | None:
    """Say which of some programs are not installed: a reason to skip, or None."""
    missing = [name for name in names if find_program(name) is None]
    return f"not installed: {', '.join(missing)} (DCMTK)" if missing else None


def missing_modules(*names: str) -> str | None:
    """Say which of some Python packages are not installed: a reason to skip, or None."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


#: The Debian package of DCMTK sets this for none of its programs: without it, the last segment of each
#: instance waits 40 ms for an acknowledgement.
NO_DELAY = {"TCP_NODELAY": "1"}
