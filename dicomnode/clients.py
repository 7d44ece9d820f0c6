"""The commands ``echo`` and ``store``: users of Verification and of Storage, that end when they are done.

What each does is a coroutine which returns the exit code; :class:`Foreground` runs it. A signal cancels it:
the association is aborted, and the other end told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from signal import SIGINT
from typing import Any, TextIO

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dicomnode import events
from dicomnode.core.pdu import ProposedContext
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationReleased,
    AssociationTimedOut,
    LocalProtocolError,
)
from dicomnode.interfaces import Progress as OnProgress
from dicomnode.observers import write
from dicomnode.outcomes import Report, answer, arrived, refused, why
from dicomnode.progress import Progress
from dicomnode.requestor import ServiceUser, associate
from dicomnode.selection import Batch, File, Selection, find
from dicomnode.signals import Signals
from dicomnode.timers import LINGER, Timeouts
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, VERIFICATION

#: Files that are looked at in one turn of the reactor.
FILES = 64

#: Upon these nothing more can be sent on an association, whoever has ended it.
_OVER = (
    events.AbortReceived,
    events.AbortSent,
    events.AssociationReleased,
    events.AssociationEnded,
)

#: By these an operation fails because its association has ended.
_ENDED = (AssociationAborted, AssociationLost, AssociationReleased, LocalProtocolError)


def endpoint_for(reactor: Any, where: tuple[str, int] | str, timeout: float) -> IStreamClientEndpoint:
    """Return what connects to a host and port, or what an endpoint's description says.

    :param timeout: of a connection to a host and port; 0 for none.
    """
    if isinstance(where, str):
        described: IStreamClientEndpoint = clientFromString(reactor, where)  # type: ignore[no-untyped-call]
        return described
    endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, *where, timeout or None)  # type: ignore[arg-type]
    return endpoint


class _Line:
    """An association that is to be, and what is known of it.

    :param options: of either command.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        options: Mapping[str, Any],
        observe: events.Observer,
    ) -> None:
        self.results: dict[int, int] = {}  #: by context: that of PS3.8 Table 9-18
        self.over = False  #: nothing can be sent any more
        self._reactor = reactor
        self._endpoint = endpoint
        self._options = options
        self._observe = observe
        self._connected = False
        self._closed: Deferred[None] = Deferred()

    async def associate(
        self, contexts: Mapping[str, tuple[str, ...]] | tuple[ProposedContext, ...], number: int = 1
    ) -> ServiceUser:
        """Request it; fail as :func:`dicomnode.requestor.associate` does."""
        options = self._options
        acse: float = options["acse-timeout"]
        try:
            associating = associate(
                self._reactor,
                self._endpoint,
                calling_ae_title=options["calling-aet"],
                called_ae_title=options["called-aet"],
                contexts=contexts,
                timeouts=Timeouts(acse, options["dimse-timeout"], options["network-timeout"]),
                max_length=options["max-pdu"],
                observe=self._observes,
                number=number,
            )
            if acse:
                # The answer is timed by itself; but a TLS handshake that comes to no end is not.
                associating.addTimeout(2 * acse, self._reactor)
            return await associating
        except DeferredTimeoutError:
            await self._close()
            raise AssociationTimedOut("ACSE", 2 * acse) from None
        except CancelledError:
            await self._close()
            raise

    async def release(self, association: ServiceUser) -> None:
        """End it in good order. If that does not succeed, nothing is lost by it."""
        with suppress(*_ENDED):
            await association.release()
        await self._close()

    async def abort(self, association: ServiceUser) -> None:
        """End it at once."""
        association.abort()
        await self._close()

    async def _close(self) -> None:
        """Wait until the connection is closed, for what was written last to be sent: but not for long."""
        if self._connected:
            with suppress(DeferredTimeoutError):
                await self._closed.addTimeout(LINGER, self._reactor)

    def _observes(self, event: events.Event) -> None:
        if isinstance(event, events.AssociationRequested):
            self._connected = True
        elif isinstance(event, events.AssociationAccepted):
            self.results = {context.id: context.result for context in event.answer.contexts}
        elif isinstance(event, _OVER):
            self.over = True
        if isinstance(event, events.AssociationEnded):
            self._connected = False
            self._closed.callback(None)
        self._observe(event)


async def echo(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    options: Mapping[str, Any],
    *,
    stdout: TextIO | None,
    stderr: TextIO | None,
    observe: events.Observer = events.ignore,
) -> int:
    """Ask whether the other end is there. Return 0 if it has answered Success each time, else 1.

    :param options: see :func:`dicomnode.clientoptions.parse_echo`.
    :param stdout: is told each answer; None: nobody is.
    :param stderr: is told what went wrong.
    """
    syntaxes = (options["request"],) if options["request"] else (IMPLICIT_VR_LE, EXPLICIT_VR_LE)
    line = _Line(reactor, endpoint, options, observe)
    failed = 0
    try:
        association = await line.associate({VERIFICATION: syntaxes})
        try:
            for _ in range(options["repeat"]):
                began = reactor.seconds()
                response = await association.echo()
                failed += not arrived(response.status)
                milliseconds = 1000 * (reactor.seconds() - began)
                write(stdout, f"{answer(response)}, after {milliseconds:.1f} ms\n")
        except CancelledError:
            await line.abort(association)
            raise
        except Exception:
            await line.release(association)
            raise
        await (line.abort if options["abort"] else line.release)(association)
    except CancelledError:
        raise
    except Exception as error:
        write(stderr, f"dicomnode echo: error: {_why_not_echoed(error, line, syntaxes)}\n")
        return 1
    return 1 if failed else 0


def _why_not_echoed(error: Exception, line: _Line, syntaxes: tuple[str, ...]) -> str:
    results = [result for result in line.results.values() if result]
    return refused(VERIFICATION, syntaxes[0], results[0]) if results else why(error)


class Store:
    """Sends files, one after the other.

    A file that cannot be sent, or is refused, costs the others nothing. If the association is not accepted,
    or ends, what has not been sent fails with that, and no other association is requested.

    :param options: see :func:`dicomnode.clientoptions.parse_store`.
    :param report: is told what becomes of each file.
    :param progress: is told how far it is.
    :param stderr: is told why nothing more is sent; None: nobody is.
    :param log: takes a line about each file.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        options: Mapping[str, Any],
        *,
        report: Report,
        progress: Progress,
        stderr: TextIO | None,
        log: Callable[[str], object],
        observe: events.Observer = events.ignore,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._options = options
        self._report = report
        self._progress = progress
        self._stderr = stderr
        self._log = log
        self._observe = observe
        self._selection = Selection(options["request"])
        self._files = 0  # that have come to their end
        self._octets = 0  # of these
        self._associations = 0
        self._broken = ""  # why nothing more is sent

    async def run(self) -> int:
        """Send them. Return 0 if there were any, and all have arrived, else 1."""
        began = self._reactor.seconds()
        unknown = None
        try:
            await self._select()
            self._progress.begins(self._selection.files, self._selection.octets)
            for batch in self._selection.batches:
                await self._send(batch)
        except CancelledError:
            unknown = self._selection.files - self._files
            raise
        finally:
            self._progress.ends()  # else it would be in the way of what is said
            if self._broken:
                write(self._stderr, f"dicomnode store: error: {self._broken}\n")
            code = self._report.end(self._reactor.seconds() - began, interrupted=unknown)
        return code

    async def _select(self) -> None:
        """Look at all files, some in each turn of the reactor."""
        found = find(self._options["paths"], recurse=self._options["recurse"])
        for number, item in enumerate(found, start=1):
            passed = self._selection.add(item) if isinstance(item, File) else item
            if passed is not None:
                tell = self._report.has_failed if passed.failed else self._report.is_skipped
                tell(passed.path, passed.why)
            if not number % FILES:
                self._progress.looks(number)
                await deferLater(self._reactor, 0)

    async def _send(self, batch: Batch) -> None:
        """Send what goes on one association: on another, where a file of ours has broken the first."""
        defaults = not self._options["required-contexts"] and self._options["request"] is None
        contexts = batch.contexts(defaults=defaults)
        files = deque(batch.files)
        while files and not self._broken:
            line = _Line(self._reactor, self._endpoint, self._options, self._observe)
            self._associations += 1
            try:
                association = await line.associate(contexts, self._associations)
            except CancelledError:
                raise
            except Exception as error:
                self._breaks(error)
                break
            results = {
                (context.abstract_syntax, context.transfer_syntaxes[0]): line.results.get(context.id)
                for context in contexts
            }
            try:
                while files and not self._broken and not line.over:
                    await self._store(association, files.popleft(), results)
            except CancelledError:
                await line.abort(association)
                raise
            await line.release(association)
        for file in files:
            self._fails(file, f"not sent: {self._broken}")

    async def _store(
        self, association: ServiceUser, file: File, results: Mapping[tuple[str, str], int | None]
    ) -> None:
        """Send one file, and report what becomes of it."""
        transfer_syntax = self._options["request"] or file.transfer_syntax_uid
        pair = (file.sop_class_uid, transfer_syntax)
        if results[pair] != 0:
            self._fails(file, refused(*pair, results[pair]))
            return
        self._log(f"Sending file: {file.path}")
        try:
            what = file.path if file.transfer_syntax_uid == transfer_syntax else _read(file.path)
            response = await association.store(what, progress=self._progress_of(file))
        except CancelledError:
            raise
        except _ENDED as error:
            self._fails(file, f"not answered: {why(error)}")
            self._breaks(error)
        except Exception as error:
            self._fails(file, why(error))
            # If the file has ended too early, the association will have ended by then.
            await deferLater(self._reactor, 0)
        else:
            if arrived(response.status):
                self._report.has_arrived(file.path, file.octets, response)
            else:
                self._report.has_failed(file.path, answer(response))
            self._is_done(file)

    def _progress_of(self, file: File) -> OnProgress:
        def progress(octets: int, _: int | None) -> None:
            self._progress.comes(self._files, self._octets + min(octets, file.octets))

        return progress

    def _fails(self, file: File, reason: str) -> None:
        self._log(f"{file.path}: {reason}")
        self._report.has_failed(file.path, reason)
        self._is_done(file)

    def _is_done(self, file: File) -> None:
        self._files += 1
        self._octets += file.octets
        self._progress.comes(self._files, self._octets)

    def _breaks(self, error: Exception) -> None:
        self._broken = why(error)


def _read(path: str) -> Any:
    """Read a whole file, that is to be encoded anew."""
    from pydicom import dcmread

    return dcmread(path)


class Foreground:
    """Does one thing in the reactor of a process, until that is done or a signal ends it.

    :param begin: returns the coroutine that does it, and returns the exit code.
    """

    log = Logger()

    def __init__(self, reactor: Any, begin: Callable[[], Coroutine[Any, Any, int]]) -> None:
        self._reactor = reactor
        self._begin = begin
        self._code = 1
        self._stopping = False
        self._signals = Signals(reactor, hasten=lambda: None)
        self._work: Deferred[None]
        self._ended: Deferred[None] = Deferred()

    def run(self) -> int:
        """Run the reactor. Return the exit code: of what a signal has ended, 128 and its number."""
        self._reactor.callWhenRunning(self._begins)
        self._signals.install()
        self._reactor.run()
        self._signals.restore()
        return self._code

    def _begins(self) -> None:
        self._work = Deferred.fromCoroutine(self._begin()).addCallbacks(self._done, self._failed)
        self._work.addBoth(self._ends)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)

    def _done(self, code: int) -> None:
        self._code = code

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError) and self._stopping:
            self._code = 128 + (getattr(self._reactor, "_exitSignal", None) or SIGINT)
        else:
            self.log.failure("Failed, as it should not", failure)

    def _ends(self, _: None) -> None:
        if not self._stopping:
            # It may have ended at once, before there is anything that would be told of a shutdown.
            self._reactor.callLater(0, self._stop_reactor)
        self._ended.callback(None)

    def _stop_reactor(self) -> None:
        if not self._stopping:
            self._reactor.stop()

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        self._signals.stopping()
        if not self._ended.called:
            self._work.cancel()
        return self._ended
