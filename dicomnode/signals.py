"""What the signals of a process mean to its service, beyond what the reactor makes of them.

The reactor stops upon SIGINT and SIGTERM. Upon a second one of them this ends the process at once:
what is in flight is aborted, so that peers are told, and the exit code is 1. Upon SIGHUP what can
change without a restart is read again.

It does so only where the reactor handles signals: in an application that has its own ways with
them, these are not touched. It is for the main thread, in which the reactor runs, and the signals.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Whole seconds after which a process that is to end at once does, whatever holds it up.
PATIENCE = 3


def end_soon(reactor: Any, code: int) -> None:
    """See that the process ends with an exit code, and before long.

    Everything is cleaned up as when it ends otherwise, pid files included; a thread that waits for a
    disk is not waited for.
    """
    reactor._exitSignal = None  # else twistd and twist end by the signal, though it was not the last
    atexit.register(os._exit, code)
    # No thread of ours could be started here, in the middle of whatever the main thread does.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
    signal.alarm(PATIENCE)


class Signals:
    """Handles signals for a service; several services of one process share them.

    :param reactor: which it runs on.
    :param hasten: is called when a second signal says not to wait.
    :param reread: is called upon SIGHUP; None leaves SIGHUP alone.
    """

    def __init__(
        self, reactor: Any, *, hasten: Callable[[], object], reread: Callable[[], object] | None = None
    ) -> None:
        self.hasten = hasten
        self.reread = reread
        self.is_stopping = False
        self._reactor = reactor
        self._handlers: _Handlers | None = None

    def install(self) -> None:
        """Handle signals, as soon as the reactor does."""
        self.is_stopping = False
        self._reactor.callWhenRunning(self._install)

    def stopping(self) -> None:
        """The service stops: the next signal is not the first."""
        self.is_stopping = True

    def restore(self) -> None:
        """The service has stopped: leave signals to whom they were left before."""
        self.is_stopping = True
        handlers, self._handlers = self._handlers, None
        if handlers is not None:
            handlers.leave(self)

    def _install(self) -> None:
        if not self.is_stopping and self._handlers is None:
            self._handlers = _Handlers.of(self._reactor)
            self._handlers.join(self)


class _Handlers:
    """The handlers of a process, for all the services that have asked for them.

    Whoever comes second finds them where it looks for the reactor's: so there is no list of them elsewhere.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._services: list[Signals] = []
        self._replaced: dict[int, Any] = {}
        self._signalled = False
        self._hastened = False

    @classmethod
    def of(cls, reactor: Any) -> _Handlers:
        """Return those that are there, or others."""
        for number in (signal.SIGINT, signal.SIGTERM):
            owner = getattr(signal.getsignal(number), "__self__", None)
            if isinstance(owner, cls) and owner._reactor is reactor:
                return owner
        return cls(reactor)

    def join(self, service: Signals) -> None:
        self._services.append(service)
        ours = [getattr(self._reactor, name, None) for name in ("sigInt", "sigTerm")]
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None and handler in ours:
                self._replaced[number] = signal.signal(number, self._stop)
        hang_up = getattr(signal, "SIGHUP", None)  # there is none on Windows
        if hang_up is None or service.reread is None or hang_up in self._replaced:
            return
        if self._replaced:
            self._replaced[hang_up] = signal.signal(hang_up, self._hang_up)

    def leave(self, service: Signals) -> None:
        """Leave signals to whom they were left before, once nobody wants them any more."""
        self._services.remove(service)
        if not self._services:
            for number, handler in self._replaced.items():
                signal.signal(number, handler)
            self._replaced.clear()

    # Called between any two steps of the main thread: what is to be done waits for the reactor. But that
    # the process ends does not: the reactor may be waiting for a thread, and the thread for a disk.

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not (self._signalled or all(service.is_stopping for service in self._services)):
            self._signalled = True
            self._replaced[number](number, frame)
        elif not self._hastened:
            self._hastened = True
            end_soon(self._reactor, 1)
            for service in self._services:
                self._reactor.callFromThread(service.hasten)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        for service in self._services:
            if service.reread is not None:
                self._reactor.callFromThread(service.reread)
