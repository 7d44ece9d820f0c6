"""The service that the options of ``storescp`` describe: for ``twistd``, ``twist`` and ``__main__``."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger, LogPublisher, globalLogPublisher
from twisted.python.threadpool import ThreadPool

from dicomnode import events, uids
from dicomnode.acceptor import Acceptor
from dicomnode.commits import Sync, sync_directory
from dicomnode.filestore import FileStorage
from dicomnode.implementation import __version__
from dicomnode.interfaces import IAssociationPolicy, IService, IStorage
from dicomnode.layout import Layout
from dicomnode.limits import Limits
from dicomnode.node import Node
from dicomnode.observers import LogObserver, lines_for
from dicomnode.options import Options
from dicomnode.partfile import OnDuplicate, remove_dead_parts
from dicomnode.policies import All, CalledAETitle, CallingAETitle, InvalidPolicy, PeerAddress, PolicyFile
from dicomnode.services import Discard, Storage, Verification
from dicomnode.signals import Signals
from dicomnode.timers import Timeouts
from dicomnode.walking import Threads

__all__ = ["CannotStart", "Options", "makeService"]

#: Threads that wait for slow disks.
THREADS = 10


#: Connections that the system may accept before we do. Twisted's 50 are full when a thousand come at a
#: time, and who comes then is kept waiting for seconds, until it asks again.
BACKLOG = 1024

#: File descriptors for everything but connections and what they store.
DESCRIPTORS = 64


class CannotStart(SystemExit, Exception):
    """The command cannot start, and has said why: exit with code 1.

    An Exception, so that ``twistd`` cleans up behind it; a SystemExit, so that no one prints a traceback.
    """

    def __init__(self, why: str) -> None:
        line = " ".join(why.split())
        print(f"dicomnode: error: {line}", file=sys.__stderr__, flush=True)
        super().__init__(1)


class Command(Node):
    """A node whose failure to start is one line, and which knows what signals mean."""

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[IStreamServerEndpoint],
        acceptor: Acceptor,
        pool: ThreadPool,
        *,
        reread: Callable[[], None] | None,
        grace: float,
        observe: events.Observer,
    ) -> None:
        super().__init__(endpoints, acceptor, pool, grace=grace, observe=observe)
        self._signals = Signals(reactor, hasten=self.hasten, reread=reread)

    def startService(self) -> None:
        super().startService()
        self._signals.install()

    def stopService(self) -> Deferred[None]:
        self._signals.stopping()
        return super().stopService().addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        self._signals.restore()
        return result

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

    :raises CannotStart: when the output directory cannot be written, an endpoint not be made, or the policy
        file not be used.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Twisted types it as what all reactors have in common
    observe = LogObserver(options["log-level"], log=Logger("dicomnode", observer=_log_to(options)))
    observe(events.Started(__version__))
    pool = ThreadPool(0, THREADS, "dicomnode-files")
    layout = Layout(options["layout"])
    storage: IStorage
    if options["ignore"]:
        storage = Discard()
    else:
        directory = _writable(options["output-directory"])
        _clean(directory, observe)
        storage = FileStorage(
            directory,
            reactor=reactor,
            pool=pool,
            name=layout,
            sync=Sync(options["sync"]),
            on_duplicate=OnDuplicate(options["on-duplicate"]),
            reserve=options["reserve"],
            observe=observe,
        )
    transfer_syntaxes = uids.preferred(options["prefer"])
    services: list[IService] = [
        Storage(
            storage,
            transfer_syntaxes=transfer_syntaxes,
            accept_unknown=options["accept-unknown"],
            check=not (options["no-check"] or options["ignore"]),
            walk=layout.needs_walk and not options["ignore"],
            threads=Threads(reactor, pool),
            max_instance_size=options["max-instance-size"],
            observe=observe,
        )
    ]
    if not options["no-echo"]:
        services.append(Verification(transfer_syntaxes))
    policy_file = _policy_file(options["policy"])
    limits = Limits(
        associations=options["max-associations"],
        per_host=options["max-associations-per-host"],
        per_ae_title=options["max-associations-per-aet"],
        half_open=options["max-half-open"],
    )
    _allow_descriptors(limits)
    acceptor = Acceptor(
        reactor,
        services,
        policy=All(*_policies(options), *([policy_file] if policy_file is not None else [])),
        limits=limits,
        max_length=options["max-pdu"],
        timeouts=Timeouts(options["acse-timeout"], options["dimse-timeout"], options["network-timeout"]),
        observe=observe,
    )
    endpoints = [_endpoint(reactor, description) for description in options["ports"]]
    reread = _rereading(policy_file, events.guarded(observe)) if policy_file is not None else None
    return Command(reactor, endpoints, acceptor, pool, reread=reread, grace=options["grace"], observe=observe)


def _allow_descriptors(limits: Limits) -> None:
    """Have as many file descriptors as the limits need, where that is allowed.

    The usual 1,024 are for programs that use select(); one that does not may ask for more.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.associations + limits.half_open + DESCRIPTORS
    if not limits.associations or not limits.half_open:
        wanted = most
    elif most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if resource.RLIM_INFINITY not in (allowed, wanted) and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _policies(options: Mapping[str, Any]) -> Iterator[IAssociationPolicy]:
    """Yield what must be right about who associates: first whence, so that strangers learn no titles."""
    if options["allow-from"]:
        yield PeerAddress(*options["allow-from"])
    if options["allow-aet"]:
        yield CallingAETitle(*options["allow-aet"])
    if options["require-called-aet"]:
        yield CalledAETitle(options["ae-title"])


def _policy_file(path: str | None) -> PolicyFile | None:
    if path is None:
        return None
    try:
        return PolicyFile(os.path.abspath(path))
    except InvalidPolicy as error:
        raise CannotStart(str(error)) from None


def _rereading(policy: PolicyFile, observe: events.Observer) -> Callable[[], None]:
    def reread() -> None:
        try:
            policy.read()
        except InvalidPolicy as error:
            observe(events.PolicyNotRead(policy.path, str(error)))
        else:
            observe(events.PolicyRead(policy.path))

    return reread


def _endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    unsaid = re.match("tcp6?:.*[^:]$", description) and "backlog=" not in description
    backlog = f":backlog={BACKLOG}" if unsaid else ""
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description + backlog)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever an endpoint's plugin makes of what it is given
        raise CannotStart(f"argument PORT: {description}: {error}") from None
    return endpoint


def _cannot_listen(error: CannotListenError) -> str:
    why = getattr(error.socketError, "strerror", None) or error.socketError
    # That which has no interface is a path.
    where = error.port if error.interface is None else f"{error.interface or 'any'}:{error.port}"
    return f"cannot listen on {where}: {why}"


def _writable(directory: str) -> str:
    """Make ``directory`` with its parents, durably, and see that a file can be made in it."""
    path = os.path.abspath(directory)
    above = [path, *map(str, Path(path).parents)]
    missing = list(takewhile(lambda path: not os.path.lexists(path), above))
    try:
        os.makedirs(path, exist_ok=True)
        for made in missing:
            with suppress(OSError):  # what may not be read cannot be synced
                sync_directory(os.path.dirname(made))
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise CannotStart(f"output directory {directory!r} is not a directory") from None
    except OSError as error:
        raise CannotStart(f"output directory {directory!r}: {error.strerror}") from None
    return path


def _clean(directory: str, observe: events.Observer) -> None:
    try:
        for name in remove_dead_parts(directory):
            observe(events.PartRemoved(name))
    except OSError as error:
        raise CannotStart(f"output directory {directory!r}: {error.strerror}") from None


def _log_to(options: Mapping[str, Any]) -> ILogObserver:
    """Under ``twistd`` and ``twist``: lines to stderr, and events to Twisted's log; not to one place twice.

    Elsewhere, in a ``.tac`` file say, stderr is the application's: its log is Twisted's.
    """
    parent: Mapping[str, Any] | None = getattr(options, "parent", None)
    if parent is None:
        return globalLogPublisher
    # sys.stderr is Twisted's own log after start-up.
    lines = lines_for(options["log-format"], cast(TextIO, sys.__stderr__))
    if _is_stderr(_log_descriptor(parent)):
        return lines
    return LogPublisher(lines, globalLogPublisher)


def _log_descriptor(parent: Mapping[str, Any]) -> int | None:
    """Return where Twisted's log goes, if to a file that is open.

    :param parent: the options of ``twistd``, or of ``twist``.
    """
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
