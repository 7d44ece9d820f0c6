"""Tests for :mod:`dicomnode.signals`."""

from __future__ import annotations

import atexit
import os
import signal
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dicomnode import signals
from dicomnode.signals import PATIENCE, Signals, end_soon

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Reactor:
    """A reactor that handles signals, or does not."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []
        self.calls: list[Any] = []
        self.stopped: list[int] = []
        self._exitSignal: int | None = None

    def callWhenRunning(self, hook: Any) -> None:
        self.hooks.append(hook)

    def callFromThread(self, call: Any) -> None:
        self.calls.append(call)

    def sigTerm(self, number: int, frame: Any) -> None:
        self.stopped.append(number)
        self._exitSignal = number

    sigInt = sigTerm

    def run(self) -> None:
        """Do what was asked for."""
        for calls in (self.hooks, self.calls):
            while calls:
                calls.pop(0)()


class SignalsCase(SynchronousTestCase):
    """Tests of what signals lead to; none is sent."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.handlers: dict[int, Any] = {
            INT: self.reactor.sigInt,
            TERM: self.reactor.sigTerm,
            HUP: signal.SIG_DFL,
        }
        self.patch(signal, "getsignal", self.handlers.get)
        self.patch(signal, "signal", self.replace)
        self.done: list[Any] = []
        self.patch(signals, "end_soon", lambda reactor, code: self.done.append((reactor, code)))

    def replace(self, number: int, handler: Any) -> Any:
        replaced, self.handlers[number] = self.handlers[number], handler
        return replaced

    def sends(self, number: int) -> None:
        """Let a signal come, and the reactor do what that led to."""
        self.handlers[number](number, None)
        self.reactor.run()

    def signals(self, reread: bool = True) -> Signals:
        handling = Signals(
            self.reactor,
            hasten=lambda: self.done.append("hasten"),
            reread=(lambda: self.done.append("reread")) if reread else None,
        )
        handling.install()
        return handling


class SignalsTests(SignalsCase):
    """The second signal ends the process, and SIGHUP reads again."""

    def test_first(self) -> None:
        """The first signal is the reactor's."""
        for number in (INT, TERM):
            self.setUp()
            self.signals()
            self.reactor.run()
            self.sends(number)
            self.assertEqual((self.reactor.stopped, self.done), ([number], []))

    def test_second(self) -> None:
        """The second signal, of whichever kind, ends the process with 1; further ones do nothing."""
        for first in (INT, TERM):
            for second in (INT, TERM):
                self.setUp()
                self.signals()
                self.reactor.run()
                self.sends(first)
                self.sends(second)
                self.assertEqual(self.done, [(self.reactor, 1), "hasten"])
                self.sends(first)
                self.assertEqual(self.done, [(self.reactor, 1), "hasten"])
                self.assertEqual(self.reactor.stopped, [first])

    def test_in_the_reactor(self) -> None:
        """Nothing is done between two steps of anything else: it waits for the reactor."""
        self.signals()
        self.reactor.run()
        for number in (TERM, HUP):
            self.handlers[number](number, None)
        self.assertEqual(self.done, [])

    def test_without_the_reactor(self) -> None:
        """But the process ends though the reactor does nothing any more: it may wait for a thread."""
        self.signals()
        self.reactor.run()
        for number in (TERM, TERM):
            self.handlers[number](number, None)
        self.assertEqual(self.done, [(self.reactor, 1)])

    def test_stopped_otherwise(self) -> None:
        """Where the service is being stopped by something else than a signal, the first one ends it."""
        handling = self.signals()
        self.reactor.run()
        handling.stopping()
        self.sends(TERM)
        self.assertEqual((self.reactor.stopped, self.done), ([], [(self.reactor, 1), "hasten"]))

    def test_before_it_runs(self) -> None:
        """Until the reactor runs, signals are as they were."""
        before = dict(self.handlers)
        self.signals()
        self.assertEqual(self.handlers, before)

    def test_stopped_before_it_runs(self) -> None:
        """What is stopped before the reactor runs touches no signal."""
        before = dict(self.handlers)
        self.signals().stopping()
        self.reactor.run()
        self.assertEqual(self.handlers, before)

    def test_reread(self) -> None:
        """SIGHUP reads again, also while the service stops."""
        self.signals()
        self.reactor.run()
        self.sends(HUP)
        self.sends(TERM)
        self.sends(HUP)
        self.assertEqual(self.done, ["reread", "reread"])

    def test_nothing_to_read(self) -> None:
        """Where there is nothing to read again, SIGHUP is what it was."""
        self.signals(reread=False)
        self.reactor.run()
        self.assertIs(self.handlers[HUP], signal.SIG_DFL)
        self.assertIsNot(self.handlers[TERM], signal.SIG_DFL)

    def test_no_such_signal(self) -> None:
        """On a system without SIGHUP there is none to handle."""
        self.patch(signal, "SIGHUP", None)
        self.signals()
        self.reactor.run()
        self.assertIs(self.handlers[HUP], signal.SIG_DFL)

    def test_restored(self) -> None:
        """When the service has stopped, every signal is what it was."""
        before = dict(self.handlers)
        handling = self.signals()
        self.reactor.run()
        self.assertNotEqual(self.handlers, before)
        handling.restore()
        self.assertEqual(self.handlers, before)

    def test_again_before_it_runs(self) -> None:
        """What stops and starts before the reactor runs wants them once."""
        before = dict(self.handlers)
        handling = self.signals()
        handling.restore()
        handling.install()
        self.reactor.run()
        handling.restore()
        self.assertEqual(self.handlers, before)

    def test_again(self) -> None:
        """When it starts again, they are handled again; the first that comes then is the first."""
        handling = self.signals()
        self.reactor.run()
        handling.stopping()
        handling.restore()
        handling.install()
        self.reactor.run()
        self.sends(TERM)
        self.assertEqual((self.reactor.stopped, self.done), ([TERM], []))
        self.sends(TERM)
        self.assertEqual(self.done, [(self.reactor, 1), "hasten"])

    def test_not_the_reactors(self) -> None:
        """Signals that the reactor does not handle are left to whoever does: no one, or a debugger."""
        for handlers in (
            {INT: signal.default_int_handler, TERM: signal.SIG_DFL, HUP: signal.SIG_DFL},
            {INT: None, TERM: None, HUP: None},
            {INT: signal.SIG_IGN, TERM: print, HUP: print},
        ):
            self.handlers.update(handlers)
            self.signals()
            self.reactor.run()
            self.assertEqual(self.handlers, handlers)

    def test_only_one_is_the_reactors(self) -> None:
        """Where a debugger has SIGINT, SIGTERM is handled all the same."""
        self.handlers[INT] = print
        self.signals()
        self.reactor.run()
        self.assertIs(self.handlers[INT], print)
        self.sends(TERM)
        self.sends(TERM)
        self.assertEqual(self.done, [(self.reactor, 1), "hasten"])

    def test_reactor_without(self) -> None:
        """A reactor that knows nothing of signals is no reason to fail."""
        before = dict(self.handlers)
        self.patch(Reactor, "sigInt", None)
        self.patch(Reactor, "sigTerm", None)
        self.signals()
        self.reactor.run()
        self.assertEqual(self.handlers, before)


class SharedTests(SignalsCase):
    """Two services of one process share its signals."""

    def two(self) -> tuple[Signals, Signals]:
        first, second = (
            Signals(
                self.reactor,
                hasten=lambda name=name: self.done.append(f"hasten {name}"),  # type: ignore[misc]
                reread=lambda name=name: self.done.append(f"reread {name}"),  # type: ignore[misc]
            )
            for name in ("first", "second")
        )
        for one in (first, second):
            one.install()
        self.reactor.run()
        return first, second

    def test_both_reread(self) -> None:
        """Upon SIGHUP both read again."""
        self.two()
        self.sends(HUP)
        self.assertEqual(self.done, ["reread first", "reread second"])

    def test_one_rereads(self) -> None:
        """One that has something to read again does so, though it came behind one that has not."""
        self.signals(reread=False)
        self.signals()
        self.reactor.run()
        self.sends(HUP)
        self.assertEqual(self.done, ["reread"])

    def test_both_hasten(self) -> None:
        """The second signal hastens both, and the process ends once."""
        self.two()
        self.sends(TERM)
        self.assertEqual((self.reactor.stopped, self.done), ([TERM], []))
        self.sends(INT)
        self.sends(INT)
        self.assertEqual(self.done, [(self.reactor, 1), "hasten first", "hasten second"])
        self.assertEqual(self.reactor.stopped, [TERM])

    def test_one_stops(self) -> None:
        """While one of them is stopped by itself, the first signal is still the first."""
        for stopped in (0, 1):
            self.setUp()
            handling = self.two()
            handling[stopped].stopping()
            self.sends(TERM)
            self.assertEqual((self.reactor.stopped, self.done), ([TERM], []))

    def test_one_has_stopped(self) -> None:
        """Once one of them has stopped, whichever, the signals are the other's; then what they were."""
        for stopped in (0, 1):
            self.setUp()
            before = dict(self.handlers)
            handling = self.two()
            handling[stopped].restore()
            self.sends(HUP)
            self.assertEqual(self.done, ["reread second" if stopped == 0 else "reread first"])
            handling[1 - stopped].restore()
            self.assertEqual(self.handlers, before)


class EndTests(SynchronousTestCase):
    """The process ends with a code, and soon."""

    def test_end(self) -> None:
        """It exits with the code when it comes to its end, or after a while whatever holds it up."""
        asked: list[Any] = []
        self.patch(atexit, "register", lambda *call: asked.append(call))
        self.patch(signal, "signal", lambda *call: asked.append(call))
        self.patch(signal, "alarm", asked.append)
        self.patch(os, "_exit", asked.append)
        reactor = Reactor()
        reactor._exitSignal = TERM
        end_soon(reactor, 1)
        self.assertIsNone(reactor._exitSignal)
        (at_exit, code), (number, handler), seconds = asked
        self.assertEqual((at_exit, code, number, seconds), (os._exit, 1, signal.SIGALRM, PATIENCE))
        handler(signal.SIGALRM, None)
        self.assertEqual(asked[3:], [1])
