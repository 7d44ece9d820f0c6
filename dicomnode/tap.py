"""The service that the options of ``storescp`` describe: for ``twistd``, ``twist`` and ``__main__``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any, TextIO, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger, LogPublisher, globalLogPublisher
from twisted.python.threadpool import ThreadPool

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.assembly import (
    CannotStart,
    Commands,
    acceptor_of,
    allow_descriptors,
    cannot_listen,
    clean,
    commands_of,
    endpoint_of,
    limits_of,
    most_associations,
    policy_file_of,
    rereading,
    threads,
    writable,
)
from dicomnode.contents import knowing
from dicomnode.implementation import __version__
from dicomnode.interfaces import IReadable, IShareable
from dicomnode.ledger import Ledger, Page, SharedSlots
from dicomnode.limits import Slots
from dicomnode.node import Node
from dicomnode.observers import LogObserver, Relay, lines_for
from dicomnode.options import Options
from dicomnode.partfile import remove_dead_parts
from dicomnode.policies import PolicyFile
from dicomnode.reports import Gathering, Reports
from dicomnode.signals import Signals, end_soon
from dicomnode.studies import Studies
from dicomnode.turns import inherited
from dicomnode.workers import Brief, CannotShare, Shared, Workers

__all__ = ["CannotStart", "Options", "makeService"]


class Worker(Node):
    """The node of one of several processes; what signals mean is for the one that has started it."""

    def __init__(
        self,
        endpoints: Sequence[IStreamServerEndpoint],
        acceptor: Acceptor,
        pool: ThreadPool,
        *,
        page: Page,
        grace: float,
        behind: Commands | None,
    ) -> None:
        super().__init__(endpoints, acceptor, pool, grace=grace, behind=behind)
        self._page = page

    def startService(self) -> None:
        super().startService()
        self._page.listens(True)

    def stopService(self) -> Deferred[None]:
        self._page.listens(False)
        return super().stopService()


class Command(Node):
    """A node whose failure to start is one line, and which knows what signals mean."""

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[IStreamServerEndpoint],
        acceptor: Acceptor | Workers,
        pool: ThreadPool | Workers,
        *,
        reread: Callable[[], None] | None,
        grace: float,
        observe: events.Observer,
        behind: Commands | None = None,
    ) -> None:
        super().__init__(endpoints, acceptor, pool, grace=grace, observe=observe, behind=behind)
        self._signals = Signals(reactor, hasten=self.hasten, reread=reread)

    def startService(self) -> None:
        super().startService()
        self._signals.install()

    def stopService(self) -> Deferred[None]:
        self._signals.stopping()
        return super().stopService()

    async def _stop(self) -> None:
        try:
            await super()._stop()
        finally:
            self._signals.restore()

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            raise CannotStart(cannot_listen(error)) from None
        except OSError as error:
            # Of a lock, which is a link, the first is what it says, and the second where it is.
            path = error.filename2 or error.filename
            where = f" on {str(path).removesuffix('.lock')}" if path else ""
            raise CannotStart(f"cannot listen{where}: {error.strerror or error}") from None
        except CannotShare as error:
            why = "it has no socket that several processes could accept from"
            raise CannotStart(f"argument PORT: {error}: {why}; leave out --processes") from None


def makeService(options: Mapping[str, Any], *, relay: Relay | None = None) -> Command:
    """Return the service that ``options`` describe: an :class:`Options`, or any mapping with its keys.

    :param relay: takes the lines of the other processes, if there are several; by default they go where ours
        do.
    :raises CannotStart: when the output directory cannot be written, an endpoint not be made, or the policy
        file not be used.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Twisted types it as what all reactors have in common
    observe = LogObserver(options["log-level"], log=Logger("dicomnode", observer=_log_to(options)))
    observe(events.Started(__version__))
    directory = None if options["ignore"] else writable(options["output-directory"])
    if directory is not None:
        clean(directory, observe)
    policy_file = policy_file_of(options["policy"])
    limits = limits_of(options)
    allow_descriptors(limits, options["max-operations"])
    endpoints = [endpoint_of(reactor, description) for description in options["ports"]]
    reread = rereading(policy_file, endpoints, events.guarded(observe))
    if options["processes"] == 1:
        pool = threads()
        commands = commands_of(options, reactor, observe)
        slots = Slots(limits)
        acceptor = acceptor_of(
            options, reactor, pool, directory, policy_file, limits, slots, commands, observe
        )
        return Command(
            reactor,
            endpoints,
            acceptor,
            pool,
            reread=reread,
            grace=options["grace"],
            observe=observe,
            behind=commands,
        )
    commands = commands_of(options, reactor, observe)  # of which those upon reception are the workers'
    studies = commands.studies if commands is not None else None
    shared = [Shared(*pair) for pair in zip(endpoints, options["ports"], strict=True)]
    brief = Brief({**options, "output-directory": directory}, type(reactor).__module__, os.getcwd())

    def failed(why: str) -> None:
        CannotStart(why)  # which says so; to raise it would stop no reactor
        end_soon(reactor, 1)
        reactor.stop()

    def lost() -> None:
        with suppress(OSError):
            for name in remove_dead_parts(directory) if directory is not None else ():
                observe(events.PartRemoved(name))

    workers = Workers(
        reactor,
        shared,
        Ledger.make(options["processes"], most_associations(limits)),
        brief=lambda: replace(brief, policy=_text(policy_file), contents=tuple(map(_contents, endpoints))),
        relay=_relay_to(options) if relay is None else relay,
        failed=failed,
        lost=lost,
        gathering=Gathering(studies) if isinstance(studies, Studies) else None,
        observe=observe,
    )

    if reread is not None:
        reread = _reread_by_all(reread, workers, policy_file, endpoints)
    return Command(
        reactor,
        shared,
        workers,
        workers,
        reread=reread,
        grace=options["grace"],
        observe=observe,
        behind=commands,
    )


def make_worker(brief: Brief, reports: Reports) -> tuple[Worker, Callable[[Any], None]]:
    """Return the service of one of several processes, and what is told what is in force from now on.

    :param reports: by which it tells what arrives of studies.
    :raises CannotStart: when an endpoint cannot be made, as it could in the process that started this one.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    options = brief.options
    observe = LogObserver(options["log-level"], log=Logger("dicomnode", observer=globalLogPublisher))
    policy_file = None
    if brief.policy is not None:
        policy_file = PolicyFile(options["policy"], brief.policy)
    limits = limits_of(options)
    # Nobody knows who is the oldest of all: each has a share, in which it drops its own.
    page = brief.page()
    share = limits.half_open and max(1, limits.half_open // page.ledger.regions)
    limits = replace(limits, half_open=share)
    pool = threads()
    directory = options["output-directory"]
    slots = SharedSlots(limits, page)
    commands = commands_of(options, reactor, observe, reports)
    acceptor = acceptor_of(options, reactor, pool, directory, policy_file, limits, slots, commands, observe)

    def ours() -> bool:
        return page.connections <= page.ledger.fewest()

    try:
        endpoints = []
        for socket, contents in zip(brief.sockets, brief.contents or repeat(None)):  # noqa: B905
            with knowing(_octets(contents)):
                endpoints.append(inherited(reactor, *socket, ours))
    except Exception as error:  # as in endpoint_of()
        raise CannotStart(str(error)) from None

    def reread(in_force: tuple[str | None, Sequence[Mapping[str, str] | None]]) -> None:
        policy, contents = in_force
        if policy_file is not None and policy is not None and policy != policy_file.text:
            policy_file.use(policy)
        for endpoint, files in zip(endpoints, contents, strict=True):
            try:
                if files is not None and IShareable.providedBy(endpoint):
                    octets = _octets(files)
                    if octets != cast(IShareable, endpoint).contents:
                        cast(IShareable, endpoint).use(octets)
                elif IReadable.providedBy(endpoint):
                    cast(IReadable, endpoint).read()
            except (OSError, ValueError) as error:
                observe(events.CertificatesNotRead(cast(IReadable, endpoint).path, str(error)))

    service = Worker(endpoints, acceptor, pool, page=page, grace=options["grace"], behind=commands)
    return service, reread


def _reread_by_all(
    reread: Callable[[], None], workers: Workers, policy: PolicyFile | None, endpoints: Sequence[object]
) -> Callable[[], None]:
    """Return what reads again, and tells workers what is in force, unless that is what was."""
    theirs = any(IReadable.providedBy(one) and not IShareable.providedBy(one) for one in endpoints)

    def in_force() -> tuple[str | None, list[Mapping[str, str] | None]]:
        return _text(policy), [_contents(endpoint) for endpoint in endpoints]

    def reread_by_all() -> None:
        before = in_force()
        reread()
        after = in_force()
        if theirs or after != before:
            workers.order("reread", after)

    return reread_by_all


def _text(policy: PolicyFile | None) -> str | None:
    return None if policy is None else policy.text


def _contents(endpoint: object) -> Mapping[str, str] | None:
    """Return what is in force of an endpoint's files, as text: JSON has no octets."""
    if not IShareable.providedBy(endpoint):
        return None
    return {path: octets.decode("latin-1") for path, octets in endpoint.contents.items()}


def _octets(contents: Mapping[str, str] | None) -> dict[str, bytes]:
    return {path: text.encode("latin-1") for path, text in (contents or {}).items()}


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


def _relay_to(options: Mapping[str, Any]) -> Relay:
    """Return what passes on the lines of other processes to where ours go."""
    parent: Mapping[str, Any] | None = getattr(options, "parent", None)
    log = Logger("dicomnode.workers", observer=globalLogPublisher)
    if parent is None:
        return Relay(None, log)
    return Relay(sys.__stderr__, None if _is_stderr(_log_descriptor(parent)) else log)


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
