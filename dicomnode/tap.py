"""The service that the options of ``storescp`` describe: for ``twistd``, ``twist`` and ``__main__``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, TextIO, cast

from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger, LogPublisher, globalLogPublisher
from twisted.python.threadpool import ThreadPool

from dicomnode import events, uids
from dicomnode.acceptor import AcceptAny, Acceptor, CalledAETitle
from dicomnode.filestore import FileStorage
from dicomnode.implementation import __version__
from dicomnode.interfaces import IService, IStorage
from dicomnode.node import Node
from dicomnode.observers import JSONLines, LogObserver, TextLines
from dicomnode.options import Options
from dicomnode.protocol import Timeouts
from dicomnode.services import Discard, Storage, Verification

__all__ = ["CannotStart", "Options", "makeService"]

#: Threads that wait for slow disks.
THREADS = 10


class CannotStart(SystemExit, Exception):
    """The command cannot start, and has said why: exit with code 1.

    An Exception, so that ``twistd`` cleans up behind it; a SystemExit, so that no one prints a traceback.
    """

    def __init__(self, why: str) -> None:
        line = " ".join(why.split())
        print(f"dicomnode: error: {line}", file=sys.__stderr__, flush=True)
        super().__init__(1)


class Command(Node):
    """A node whose failure to start is one line."""

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(_cannot_listen(error)) from None
        except OSError as error:
            where = f" on {error.filename}" if error.filename else ""
            raise CannotStart(f"cannot listen{where}: {error.strerror or error}") from None


def makeService(options: Mapping[str, Any]) -> Command:
    """Return the service that ``options`` describe: an :class:`Options`, or any mapping with its keys.

    :raises CannotStart: when the output directory cannot be written, or an endpoint not be made.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Twisted types it as what all reactors have in common
    observe = LogObserver(options["log-level"], log=Logger("dicomnode", observer=_log_to(options)))
    observe(events.Started(__version__))
    pool = ThreadPool(0, THREADS, "dicomnode-files")
    storage: IStorage
    if options["ignore"]:
        storage = Discard()
    else:
        directory = _writable(options["output-directory"])
        storage = FileStorage(directory, reactor=reactor, pool=pool, observe=observe)
    transfer_syntaxes = uids.preferred(options["prefer"])
    services: list[IService] = [
        Storage(
            storage,
            transfer_syntaxes=transfer_syntaxes,
            accept_unknown=options["accept-unknown"],
            check=not (options["no-check"] or options["ignore"]),
            observe=observe,
        )
    ]
    if not options["no-echo"]:
        services.append(Verification(transfer_syntaxes))
    acceptor = Acceptor(
        reactor,
        services,
        policy=CalledAETitle(options["ae-title"]) if options["require-called-aet"] else AcceptAny(),
        max_length=options["max-pdu"],
        timeouts=Timeouts(options["acse-timeout"], options["dimse-timeout"], options["network-timeout"]),
        observe=observe,
    )
    endpoints = [_endpoint(reactor, description) for description in options["ports"]]
    return Command(endpoints, acceptor, pool, grace=options["grace"], observe=observe)


def _endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever an endpoint's plugin makes of what it is given
        raise CannotStart(f"argument PORT: {description}: {error}") from None
    return endpoint


def _cannot_listen(error: CannotListenError) -> str:
    why = getattr(error.socketError, "strerror", None) or error.socketError
    # That which has no interface is a path.
    where = error.port if error.interface is None else f"{error.interface or 'any'}:{error.port}"
    return f"cannot listen on {where}: {why}"


def _writable(directory: str) -> str:
    """Make ``directory`` with its parents, and see that a file can be made in it."""
    path = os.path.abspath(directory)
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise CannotStart(f"output directory {directory!r} is not a directory") from None
    except OSError as error:
        raise CannotStart(f"output directory {directory!r}: {error.strerror}") from None
    return path


def _log_to(options: Mapping[str, Any]) -> ILogObserver:
    """Lines go to stderr, and events to Twisted's log; but not to one place twice."""
    # sys.stderr is Twisted's own log after start-up.
    stream = cast(TextIO, sys.__stderr__)
    lines = JSONLines(stream) if options["log-format"] == "json" else TextLines(stream)
    if _is_stderr(_log_descriptor(getattr(options, "parent", None))):
        return lines
    return LogPublisher(lines, globalLogPublisher)


def _log_descriptor(parent: Mapping[str, Any] | None) -> int | None:
    """Return where Twisted's log goes, if to a file that is open.

    :param parent: the options of ``twistd``, or of ``twist``.
    """
    if parent is None:
        return None
    if "logFile" in parent:  # twist
        try:
            descriptor: int = parent["logFile"].fileno()
        except (OSError, ValueError):
            return None  # it is no file of the system's
        return descriptor
    if parent.get("syslog") or not parent.get("nodaemon"):
        return None
    return 1 if parent.get("logfile") in (None, "-") else None


def _is_stderr(descriptor: int | None) -> bool:
    try:
        return descriptor is not None and os.path.sameopenfile(descriptor, 2)
    except OSError:
        return False  # one of them is closed
