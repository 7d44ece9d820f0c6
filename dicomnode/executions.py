"""Runs commands upon what arrives: a program and its arguments, and never a shell.

What its placeholders stand for is made harmless (:func:`~dicomnode.commandline.plain`). As they were sent,
values are in its environment.

Nothing waits for a command. So many run at a time, others wait for their turn, and none runs for ever.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from dicomnode import events
from dicomnode.commandline import CommandLine, plain
from dicomnode.hooks import InstanceReceived
from dicomnode.networks import host
from dicomnode.studies import StudyEnded

#: Commands that run at a time.
MOST = 4
#: Commands that wait for their turn: a kilobyte each. Beyond that they are reported, and not run.
WAITING = 10_000
#: For how long one may run, in seconds. One that hangs would keep others from running.
TIMEOUT = 3600.0
#: From SIGTERM to SIGKILL, in seconds.
PATIENCE = 2.0
#: For how long the output is read of one that has ended, in seconds: what it has left running may hold it.
LINGER = 1.0
#: Octets of a line of output.
LINE = 8192


@dataclass(frozen=True, slots=True)
class Execution:
    """A program to be run."""

    program: str
    arguments: Sequence[str]  #: the name of the program first
    environment: Mapping[str, str]  #: besides our own


class OnReception:
    """A hook that has a command executed for each instance."""

    def __init__(self, command: CommandLine, executions: Executions) -> None:
        self._command = command
        self._executions = executions

    def __call__(self, received: InstanceReceived) -> None:
        instance = received.instance
        path = received.path or ""
        name = os.path.basename(path)
        peer = host(instance.association.peer)
        values = {
            "p": os.path.dirname(path),
            "f": f"./{name}" if name.startswith("-") else name,  # as part of a path, that is the same
            "a": plain(instance.calling_ae_title),
            "c": plain(instance.called_ae_title),
            "r": plain(peer),
        }
        environment = {
            "PATH": path,
            "CALLING_AE_TITLE": instance.calling_ae_title,
            "CALLED_AE_TITLE": instance.called_ae_title,
            "PEER": peer,
            "SOP_CLASS_UID": instance.sop_class_uid,
            "SOP_INSTANCE_UID": instance.sop_instance_uid,
            "TRANSFER_SYNTAX_UID": instance.transfer_syntax_uid,
        }
        self._executions.execute(self._command, values, environment)


class OnStudy:
    """A hook that has a command executed for each study."""

    def __init__(self, command: CommandLine, executions: Executions) -> None:
        self._command = command
        self._executions = executions

    def __call__(self, ended: StudyEnded) -> None:
        values = {
            "p": ended.directory or "",
            "a": plain(ended.calling_ae_titles[-1]),
            "c": plain(ended.called_ae_titles[-1]),
            "r": plain(ended.hosts[-1]),
        }
        environment = {
            "DIRECTORY": ended.directory or "",
            "CALLING_AE_TITLE": ended.calling_ae_titles[-1],
            "CALLED_AE_TITLE": ended.called_ae_titles[-1],
            "PEER": ended.hosts[-1],
            "STUDY_INSTANCE_UID": ended.study_instance_uid,
            "INSTANCES": str(ended.instances),
            "BECAUSE": ended.because.value,
        }
        self._executions.execute(self._command, values, environment)


class Executions:
    """Executes commands, so many at a time; the others wait for their turn.

    :param reactor: which spawns processes, and handles SIGCHLD.
    :param most: how many run at a time.
    :param waiting: how many wait, at most; others are reported, and not run.
    :param timeout: for how long one may run, in seconds: then it is sent SIGTERM, and after
        ``PATIENCE`` SIGKILL; 0 is no limit. What it has started itself is left alone.
    :param observe: is told what becomes of each.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        most: int = MOST,
        waiting: int = WAITING,
        timeout: float = TIMEOUT,
        observe: events.Observer = events.ignore,
    ) -> None:
        self.reactor = reactor
        self.timeout = timeout
        self.observe = events.guarded(observe)
        self.tells_what_is_said = events.wants(observe, events.ExecutionSaid)
        self._most = most
        self._most_waiting = waiting
        self._waiting: deque[Execution] = deque()
        self._running: set[_Child] = set()
        self._stopping: IDelayedCall | None = None
        self._stopped = False
        self._finished: Deferred[None] | None = None

    def execute(
        self, command: CommandLine, values: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        """Execute a command, as soon as it is its turn.

        :param values: of its placeholders.
        :param environment: of the program, besides our own; ``DICOMNODE_`` is put before the names.
        """
        arguments = command.arguments(values)
        named = {f"DICOMNODE_{name}": value for name, value in environment.items()}
        execution = Execution(command.program or arguments[0], arguments, named)
        if self._stopped:
            self.not_run(execution, "not run: the service stops")
        elif len(self._waiting) >= self._most_waiting:
            self.not_run(execution, f"not run: {self._most_waiting} wait already")
        else:
            self._waiting.append(execution)
            self._next()

    def start(self) -> None:
        """Run commands, as from the beginning: again, where that has ended."""
        self._stopped = False

    def stop_within(self, seconds: float) -> None:
        """Run commands for so long; then end those that run, and report those that wait."""
        if self._stopping is not None and self._stopping.active():
            self._stopping.cancel()
        if seconds > 0:
            self._stopped = False
            self._stopping = self.reactor.callLater(seconds, self._stop)
        else:
            self._stop()

    def finished(self) -> Deferred[None]:
        """Fire when none runs and none waits; from then on none is run."""
        if not self._running and not self._waiting:
            self._end()
            return succeed(None)
        self._finished = Deferred()
        return self._finished

    def not_run(self, execution: Execution, why: str) -> None:
        """Report what was not run."""
        self.observe(events.ExecutionEnded(tuple(execution.arguments), 0, why, 0.0))

    def ended(self, child: _Child) -> None:
        """One has ended."""
        self._running.discard(child)
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._most:
            child = _Child(self, self._waiting.popleft())
            if child.start():
                self._running.add(child)
        if self._finished is not None and not self._running:
            finished, self._finished = self._finished, None
            self._end()
            finished.callback(None)

    def _stop(self) -> None:
        self._stopped = True
        waiting, self._waiting = self._waiting, deque()
        for execution in waiting:
            self.not_run(execution, "not run: the service stops")
        for child in [*self._running]:
            child.end("the service stops")

    def _end(self) -> None:
        self._stopped = True
        if self._stopping is not None and self._stopping.active():
            self._stopping.cancel()


class _Child(ProcessProtocol):
    """A process that executes a command."""

    transport: Any

    def __init__(self, executions: Executions, execution: Execution) -> None:
        self._executions = executions
        self._execution = execution
        self._process = 0
        self._began = executions.reactor.seconds()
        self._why = ""  # we have ended it
        self._exited = False
        self._timer: IDelayedCall | None = None
        self._output = {1: b"", 2: b""}  # the line that is being written, by descriptor
        self._said = ""  # last, on stderr

    def start(self) -> bool:
        """Start it, if it can be."""
        environment = {
            os.fsencode(name): value.replace("\0", "").encode("utf-8", "surrogateescape")
            for name, value in self._execution.environment.items()
        }
        try:
            self._executions.reactor.spawnProcess(
                self,
                os.fsencode(self._execution.program),
                [os.fsencode(argument) for argument in self._execution.arguments],
                env={**os.environb, **environment},
            )
        except OSError as error:  # no process, no descriptors, or no such program any more
            self._executions.not_run(self._execution, f"cannot be run: {error.strerror}")
            return False
        return True

    def end(self, why: str) -> None:
        """End it, for it has not ended itself."""
        if self._exited:
            self.transport.loseConnection()
        elif not self._why:
            self._why = why
            self._signal("TERM")
            self._wait(PATIENCE, self._signal, "KILL")

    def connectionMade(self) -> None:
        self._process = self.transport.pid
        self.transport.closeStdin()
        if self._executions.timeout:
            self._wait(self._executions.timeout, self.end, f"it took {self._executions.timeout:g} s")

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._output[childFD] + data).split(b"\n")
        self._output[childFD] = rest[:LINE]  # what is longer is not worth the memory
        for line in lines:
            self._say(childFD, line)

    def processExited(self, reason: Failure) -> None:
        self._exited = True
        self._wait(LINGER, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        self._wait(None)
        for descriptor, rest in self._output.items():
            if rest:
                self._say(descriptor, rest)
        status: Any = reason.value
        why = self._why and f"was ended: {self._why}"
        if not why and getattr(status, "signal", None) is not None:
            why = f"ended with signal {status.signal}"
        elif not why and status.exitCode:
            why = f"ended with exit code {status.exitCode}"
        if why and self._said:
            why += f": {self._said}"
        seconds = self._executions.reactor.seconds() - self._began
        arguments = tuple(self._execution.arguments)
        self._executions.observe(events.ExecutionEnded(arguments, self._process, why, seconds))
        self._executions.ended(self)

    def _say(self, descriptor: int, line: bytes) -> None:
        text = line[:LINE].decode("utf-8", "backslashreplace").rstrip()
        if descriptor == 2 and text:
            self._said = text
        if self._executions.tells_what_is_said:
            self._executions.observe(events.ExecutionSaid(self._process, text))

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def _wait(self, seconds: float | None, then: Any = None, *arguments: object) -> None:
        """Do something in a while, instead of what there was to do then."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = self._executions.reactor.callLater(seconds, then, *arguments)
