"""What the options of ``storescp`` describe, part by part; and what is said where a part cannot be made."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from dicomnode import events, uids
from dicomnode.acceptor import Acceptor
from dicomnode.checkers import checker_of
from dicomnode.commandline import ON_RECEPTION, ON_STUDY, CommandLine
from dicomnode.commits import Sync, sync_directory
from dicomnode.executions import Executions, OnReception, OnStudy
from dicomnode.filestore import FileStorage
from dicomnode.hooks import Hooked
from dicomnode.identity import Portal, Users
from dicomnode.interfaces import IAssociationPolicy, IReadable, IService, IStorage
from dicomnode.layout import Layout
from dicomnode.limits import Limits, Slots
from dicomnode.partfile import OnDuplicate, remove_dead_parts
from dicomnode.policies import All, CalledAETitle, CallingAETitle, InvalidPolicy, PeerAddress, PolicyFile
from dicomnode.reports import Reporter, Reports
from dicomnode.services import Discard, Storage, Verification
from dicomnode.studies import Studies
from dicomnode.timers import Timeouts
from dicomnode.walking import Threads

_log = Logger()

#: Threads that wait for slow disks.
THREADS = 10


#: Connections that the system may accept before we do. Twisted's 50 are full when a thousand come at a
#: time, and who comes then is kept waiting for seconds, until it asks again.
BACKLOG = 1024

#: Associations of one process, where there is no other limit.
MOST = 1 << 16

#: File descriptors for everything but connections and what they store.
DESCRIPTORS = 64


class CannotStart(SystemExit, Exception):
    """The command cannot start, and has said why: exit with code 1.

    An Exception, so that ``twistd`` cleans up behind it; a SystemExit, so that no one prints a traceback.
    It is said on stderr; and in Twisted's log where there is no stderr, in a daemon. As text it is why.
    """

    def __init__(self, why: str) -> None:
        self.why = " ".join(why.split())
        print(f"dicomnode: error: {self.why}", file=sys.__stderr__, flush=True)
        if _is_null(2):
            _log.critical("{why}", why=self.why)
        super().__init__(1)

    def __str__(self) -> str:
        return self.why


def _is_null(descriptor: int) -> bool:
    """Is what is written there nobody's to read?"""
    with suppress(OSError):
        return os.fstat(descriptor).st_rdev == os.stat(os.devnull).st_rdev
    return True


class Commands:
    """What is executed upon what arrives, and how that ends."""

    def __init__(
        self,
        reactor: Any,
        executions: Executions,
        hooks: Sequence[OnReception],
        studies: Studies | Reporter | None,
    ) -> None:
        self._reactor = reactor
        self._executions = executions
        self._hooks = hooks
        self.studies = studies

    def round(self, storage: IStorage) -> IStorage:
        """Return a storage that tells what arrives."""
        return Hooked(storage, self._reactor, *self._hooks, studies=self.studies)

    def start(self) -> None:
        self._executions.start()

    def stop_within(self, seconds: float) -> None:
        self._executions.stop_within(seconds)

    def finished(self) -> Deferred[None]:
        told = maybeDeferred(self.studies.stop) if self.studies is not None else succeed(None)
        return told.addCallback(lambda _: self._executions.finished())


def threads() -> ThreadPool:
    """Return those that wait for slow disks. The process does not wait for them in the end."""
    pool = ThreadPool(0, THREADS, "dicomnode-files")
    pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
    return pool


def limits_of(options: Mapping[str, Any]) -> Limits:
    return Limits(
        associations=options["max-associations"],
        per_host=options["max-associations-per-host"],
        per_ae_title=options["max-associations-per-aet"],
        half_open=options["max-half-open"],
    )


def most_associations(limits: Limits) -> int:
    """Return how many associations one process could have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if allowed == resource.RLIM_INFINITY else min(allowed, MOST)
    return min(limits.associations or most, most)


def acceptor_of(
    options: Mapping[str, Any],
    reactor: Any,
    pool: ThreadPool,
    directory: str | None,
    policy_file: PolicyFile | None,
    limits: Limits,
    slots: Slots,
    commands: Commands | None,
    observe: events.Observer,
) -> Acceptor:
    """Return what accepts and stores."""
    layout = Layout(options["layout"])
    storage: IStorage
    if directory is None:
        storage = Discard()
    else:
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
    if commands is not None:
        storage = commands.round(storage)
    transfer_syntaxes = uids.preferred(options["prefer"])
    services: list[IService] = [
        Storage(
            storage,
            transfer_syntaxes=transfer_syntaxes,
            accept_unknown=options["accept-unknown"],
            check=not (options["no-check"] or options["ignore"]),
            walk=(layout.needs_walk or options["exec-on-eostudy"] is not None) and not options["ignore"],
            threads=Threads(reactor, pool),
            max_instance_size=options["max-instance-size"],
        )
    ]
    if not options["no-echo"]:
        services.append(Verification(transfer_syntaxes))
    return Acceptor(
        reactor,
        services,
        policy=All(*_policies(options), *([policy_file] if policy_file is not None else [])),
        portal=_portal(options["auth"]),
        limits=limits,
        slots=slots,
        max_length=options["max-pdu"],
        asynchronous_operations=(1, options["max-operations"]),
        timeouts=Timeouts(options["acse-timeout"], options["dimse-timeout"], options["network-timeout"]),
        observe=observe,
    )


def commands_of(
    options: Mapping[str, Any], reactor: Any, observe: events.Observer, reports: Reports | None = None
) -> Commands | None:
    """Return what executes the commands, if there are any.

    :param reports: a worker's: the process that has started it keeps the studies, and is told of them.
    """
    on_reception = _command(options, "exec-on-reception")
    on_study = _command(options, "exec-on-eostudy", ON_STUDY)
    # Each worker executes its own upon reception, the process that has started them those upon studies.
    processes = options["processes"]
    sharing = 1
    if processes > 1:
        sharing = max(1, (on_reception is not None) * processes + (on_study is not None))
    executions = Executions(
        reactor,
        most=max(1, options["exec-processes"] // sharing),
        timeout=options["exec-timeout"],
        observe=observe,
    )
    quiet = options["eostudy-timeout"]
    if on_reception is None and on_study is None:
        return None
    hooks = [OnReception(on_reception, executions)] if on_reception is not None else []
    studies: Studies | Reporter | None = None
    if on_study is not None and reports is not None:
        studies = Reporter(reports)
    elif on_study is not None:
        studies = Studies(reactor, OnStudy(on_study, executions), quiet=quiet)
    return Commands(reactor, executions, hooks, studies)


def _command(options: Mapping[str, Any], option: str, placeholders: str = ON_RECEPTION) -> CommandLine | None:
    if options[option] is None:
        return None
    command = CommandLine(options[option], placeholders)
    if command.program is None:
        raise CannotStart(f"argument --{option}: {options[option]!r}: there is no such program")
    return command


def allow_descriptors(limits: Limits, operations: int) -> None:
    """Have as many file descriptors as the limits need, where that is allowed.

    The usual 1,024 are for programs that use select(); one that does not may ask for more.

    :param operations: of an association, each of which may have a file.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (1 + operations) * limits.associations + limits.half_open + DESCRIPTORS
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


def _portal(descriptions: Sequence[str]) -> Portal | None:
    try:
        checkers = [checker_of(description) for description in descriptions]
    except ValueError as error:
        raise CannotStart(f"argument --auth: {error}") from None
    return Portal(Users(), checkers) if checkers else None


def policy_file_of(path: str | None) -> PolicyFile | None:
    if path is None:
        return None
    try:
        return PolicyFile(os.path.abspath(path))
    except InvalidPolicy as error:
        raise CannotStart(str(error)) from None


def rereading(
    policy: PolicyFile | None, endpoints: Sequence[IStreamServerEndpoint], observe: events.Observer
) -> Callable[[], None] | None:
    readable = [cast(IReadable, endpoint) for endpoint in endpoints if IReadable.providedBy(endpoint)]

    def reread() -> None:
        if policy is not None:
            try:
                policy.read()
            except InvalidPolicy as error:
                observe(events.PolicyNotRead(policy.path, str(error)))
            else:
                observe(events.PolicyRead(policy.path))
        for endpoint in readable:
            try:
                endpoint.read()
            except (OSError, ValueError) as error:
                observe(events.CertificatesNotRead(endpoint.path, str(error)))
            else:
                observe(events.CertificatesRead(endpoint.path))

    return reread if policy is not None or readable else None


def endpoint_of(reactor: Any, description: str) -> IStreamServerEndpoint:
    unsaid = re.match("tcp6?:.*[^:]$", description) and "backlog=" not in description
    backlog = f":backlog={BACKLOG}" if unsaid else ""
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description + backlog)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever an endpoint's plugin makes of what it is given
        raise CannotStart(f"argument PORT: {description}: {_why_none(description, error)}") from None
    return endpoint


def _why_none(description: str, error: Exception) -> str:
    if description.startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket is inherited: see LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID (sd_listen_fds(3))"
    if isinstance(error, TypeError):
        return re.sub(r"^\w+\(\) ", "", str(error))  # the name of a function says nothing
    return str(error)


def cannot_listen(error: CannotListenError) -> str:
    why = getattr(error.socketError, "strerror", None) or error.socketError
    # That which has no interface is a path.
    where = error.port if error.interface is None else f"{error.interface or 'any'}:{error.port}"
    return f"cannot listen on {where}: {why}"


def writable(directory: str) -> str:
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


def clean(directory: str, observe: events.Observer) -> None:
    try:
        for name in remove_dead_parts(directory):
            observe(events.PartRemoved(name))
    except OSError as error:
        raise CannotStart(f"output directory {directory!r}: {error.strerror}") from None
