"""Tests for :mod:`dicomnode.executions`: so many at a time, none for ever, none unreported."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import events
from dicomnode.commandline import ON_STUDY, CommandLine
from dicomnode.executions import LINE, LINGER, PATIENCE, Executions, OnReception, OnStudy
from dicomnode.hooks import InstanceReceived
from dicomnode.interfaces import Instance
from dicomnode.studies import Because, StudyEnded
from dicomnode.testing import Recorder


class Process:
    """A process that is none: it says what is done to it."""

    def __init__(
        self, protocol: Any, program: bytes, arguments: Sequence[bytes], env: Mapping[Any, Any]
    ) -> None:
        self.protocol = protocol
        self.program = program
        self.arguments = [argument.decode() for argument in arguments]
        self.environment = env
        self.pid = 4711
        self.told: list[str] = []
        self.gone = False

    def closeStdin(self) -> None:
        self.told.append("stdin")

    def loseConnection(self) -> None:
        self.told.append("lose")

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.told.append(name)

    def exits(self, code: int | None = 0, signal: int | None = None) -> None:
        """It exits, and what it has written is still to be read."""
        self.gone = True
        self.reason = Failure(ProcessTerminated(code, signal) if code or signal else ProcessDone(0))
        self.protocol.processExited(self.reason)

    def ends(self, code: int | None = 0, signal: int | None = None) -> None:
        """It exits, and nothing is left to be read."""
        self.exits(code, signal)
        self.protocol.processEnded(self.reason)


class ProcessReactor(Clock):
    """A clock that spawns processes which are none."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.error: OSError | None = None

    def spawnProcess(
        self, protocol: Any, program: bytes, args: Sequence[bytes], env: Mapping[Any, Any]
    ) -> None:
        if self.error is not None:
            raise self.error
        process = Process(protocol, program, args, env)
        self.processes.append(process)
        protocol.makeConnection(process)


class ExecutionCase(SynchronousTestCase):
    """Tests of executions on a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = ProcessReactor()
        self.recorder = Recorder()
        self.executions = self.make()

    def make(self, **options: Any) -> Executions:
        return Executions(self.reactor, **{"most": 2, "observe": self.recorder, **options})

    def executes(self, *arguments: str, **environment: str) -> None:
        command = CommandLine(" ".join(("sh", *arguments)))
        self.executions.execute(command, {}, environment)

    def running(self) -> list[str]:
        """Return the last argument of each that runs."""
        return [process.arguments[-1] for process in self.reactor.processes if not process.gone]

    def ended(self) -> list[tuple[str, str]]:
        """Return, and forget, the last argument of each that has ended, and why."""
        ended = [(event.arguments[-1], event.why) for event in self.recorder.of(events.ExecutionEnded)]
        self.recorder.events.clear()
        return ended


class ExecutionTests(ExecutionCase):
    """A command is executed, and what becomes of it is told."""

    def test_executes(self) -> None:
        """It is a program with arguments and an environment, and nothing to read."""
        self.executes("-c", "x", NAME="value", ODD="\xe4\0\udce4")
        (process,) = self.reactor.processes
        self.assertTrue(process.program.endswith(b"/sh"))
        self.assertEqual(process.arguments, ["sh", "-c", "x"])
        self.assertEqual(process.environment[b"DICOMNODE_NAME"], b"value")
        self.assertEqual(process.environment[b"DICOMNODE_ODD"], b"\xc3\xa4\xe4")
        self.assertEqual(process.environment[b"PATH"], os.environb[b"PATH"])
        self.assertEqual(process.told, ["stdin"])
        self.reactor.advance(1.5)
        process.ends()
        (event,) = self.recorder.of(events.ExecutionEnded)
        self.assertEqual(event, events.ExecutionEnded(("sh", "-c", "x"), 4711, "", 1.5))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_fails(self) -> None:
        """What it ended with is told, and what it said last."""
        for code, signal, output, why in (
            (3, None, b"", "ended with exit code 3"),
            (None, 11, b"", "ended with signal 11"),
            (1, None, b"first\nlast \n\n", "ended with exit code 1: last"),
            (1, None, b"first\nlast", "ended with exit code 1: last"),
        ):
            self.executes("x")
            process = self.reactor.processes[-1]
            process.protocol.childDataReceived(1, b"output\n")
            process.protocol.childDataReceived(2, output)
            process.ends(code, signal)
            self.assertEqual(self.ended(), [("x", why)])

    def test_output(self) -> None:
        """What it writes is told line by line, as far as anyone keeps lines apart."""
        self.executes("x")
        (process,) = self.reactor.processes
        for descriptor, data in (
            (1, b"one\ntw"),
            (2, b"\xff\n"),
            (1, b"o\n" + b"y" * 3 * LINE),
            (1, b"z\nend"),
        ):
            process.protocol.childDataReceived(descriptor, data)
        process.ends()
        said = [event.line for event in self.recorder.of(events.ExecutionSaid)]
        self.assertEqual(said, ["one", "\\xff", "two", "y" * LINE, "end"])

    def test_nobody_listens(self) -> None:
        """Lines that nobody wants to be told of are not told."""

        class Choosy(Recorder):
            def wants(self, kind: type[Any]) -> bool:
                return kind is events.ExecutionEnded

        choosy = Choosy()
        self.executions = self.make(observe=choosy)
        self.executes("x")
        (process,) = self.reactor.processes
        process.protocol.childDataReceived(2, b"oops\n")
        process.ends(1)
        self.assertEqual([type(event) for event in choosy.events], [events.ExecutionEnded])

    def test_cannot_be_run(self) -> None:
        """What cannot be run is told, and others have their turn; however many there are."""
        self.executes("a")
        self.executes("b")
        for _ in range(2000):
            self.executes("c")
        self.reactor.error = OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.reactor.processes[0].ends()
        ended = self.ended()
        self.assertEqual(len(ended), 2001)
        self.assertEqual(ended[-1], ("c", "cannot be run: Resource temporarily unavailable"))
        self.reactor.error = None
        self.executes("d")
        self.assertEqual(self.running(), ["b", "d"])

    def test_no_program(self) -> None:
        """A program that is not there is looked for by its name."""
        self.executions.execute(CommandLine("no-such-program-here"), {}, {})
        self.assertEqual(self.reactor.processes[0].program, b"no-such-program-here")


class BoundTests(ExecutionCase):
    """There are bounds to how many, and for how long."""

    def test_turns(self) -> None:
        """So many run at a time; the others have their turn in order."""
        for name in "abcd":
            self.executes(name)
        self.assertEqual(self.running(), ["a", "b"])
        self.reactor.processes[1].ends()
        self.assertEqual(self.running(), ["a", "c"])
        self.reactor.processes[0].ends(1)
        self.assertEqual(self.running(), ["c", "d"])

    def test_too_many(self) -> None:
        """Where too many wait, no more are taken, and that is told."""
        self.executions = self.make(waiting=1)
        for name in "abcd":
            self.executes(name)
        self.assertEqual(self.ended(), [("d", "not run: 1 wait already")])
        self.reactor.processes[0].ends()
        self.assertEqual(self.running(), ["b", "c"])

    def test_timeout(self) -> None:
        """One that takes too long is asked to end, and then made to."""
        self.executions = self.make(timeout=60.0)
        self.executes("a")
        (process,) = self.reactor.processes
        self.reactor.advance(60)
        self.assertEqual(process.told, ["stdin", "TERM"])
        self.reactor.advance(PATIENCE)
        self.assertEqual(process.told, ["stdin", "TERM", "KILL"])
        process.ends(None, 9)
        self.assertEqual(self.ended(), [("a", "was ended: it took 60 s")])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_timeout(self) -> None:
        """With 0, it may take for ever."""
        self.executions = self.make(timeout=0)
        self.executes("a")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lingers(self) -> None:
        """What it has left running is not waited for, though it holds the output."""
        self.executes("a")
        (process,) = self.reactor.processes
        process.exits()
        self.reactor.advance(LINGER)
        self.assertEqual(process.told, ["stdin", "lose"])
        process.protocol.processEnded(process.reason)
        self.assertEqual(self.ended(), [("a", "")])


class StopTests(ExecutionCase):
    """When the service stops, what there is to execute is executed in time, or reported."""

    def test_nothing(self) -> None:
        """Without anything to execute it is finished at once, and then executes nothing any more."""
        self.executions.stop_within(10)
        self.assertIsNone(self.successResultOf(self.executions.finished()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.executes("a")
        self.assertEqual(self.ended(), [("a", "not run: the service stops")])
        self.assertEqual(self.reactor.processes, [])

    def test_in_time(self) -> None:
        """What runs, waits and comes is executed, and then it is finished."""
        for name in "abc":
            self.executes(name)
        self.executions.stop_within(10)
        self.executes("d")
        finished = self.executions.finished()
        for number in range(4):
            self.assertNoResult(finished)
            self.reactor.processes[number].ends()
        self.assertIsNone(self.successResultOf(finished))
        self.assertEqual(self.ended(), [(name, "") for name in "abcd"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_too_late(self) -> None:
        """What waits then is reported, what runs is ended; and it is finished once that has ended."""
        for name in "abc":
            self.executes(name)
        self.executions.stop_within(10)
        finished = self.executions.finished()
        self.reactor.advance(10)
        self.assertEqual(self.ended(), [("c", "not run: the service stops")])
        self.executes("d")
        self.assertEqual(self.ended(), [("d", "not run: the service stops")])
        for process in self.reactor.processes:
            self.assertEqual(process.told, ["stdin", "TERM"])
            self.assertNoResult(finished)
            process.ends(None, 15)
        self.assertIsNone(self.successResultOf(finished))
        self.assertEqual(self.ended(), [(name, "was ended: the service stops") for name in "ab"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_told_again(self) -> None:
        """It may be told to be quicker; what is being ended is not ended twice."""
        self.executes("a")
        self.executions.stop_within(10)
        self.executions.stop_within(0)
        self.executions.stop_within(0)
        (process,) = self.reactor.processes
        self.assertEqual(process.told, ["stdin", "TERM"])
        process.gone = True  # which is not known yet
        self.reactor.advance(PATIENCE)
        process.ends(None, 15)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_exited(self) -> None:
        """What one has left running is waited for no longer."""
        self.executes("a")
        (process,) = self.reactor.processes
        self.executions.stop_within(10)
        process.exits()
        self.executions.stop_within(0)
        self.assertEqual(process.told, ["stdin", "lose"])
        finished = self.executions.finished()
        process.protocol.processEnded(process.reason)
        self.assertIsNone(self.successResultOf(finished))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class HookTests(ExecutionCase):
    """The hooks put in what there is to say, and it stays where it is put."""

    def test_on_reception(self) -> None:
        """For an instance: its file, who has sent it, and whence."""
        association = cast(Any, SimpleNamespace(peer=IPv4Address("TCP", "192.0.2.1", 50000)))
        instance = Instance("1.2.840", "1.2.3", "1.2.1", "-rf $(x)", "HE RE", association)
        hook = OnReception(CommandLine("sh -c x sh #p/#f #a '#c #r'"), self.executions)
        self.assertIsNone(hook(InstanceReceived(instance, 100, 0.0, "/data/a b/CT.1.2.3")))
        (process,) = self.reactor.processes
        self.assertEqual(
            process.arguments, ["sh", "-c", "x", "sh", "/data/a b/CT.1.2.3", "_rf___x_", "HE_RE 192.0.2.1"]
        )
        said = {name: value for name, value in process.environment.items() if name.startswith(b"DICOMNODE_")}
        self.assertEqual(
            said,
            {
                b"DICOMNODE_PATH": b"/data/a b/CT.1.2.3",
                b"DICOMNODE_CALLING_AE_TITLE": b"-rf $(x)",
                b"DICOMNODE_CALLED_AE_TITLE": b"HE RE",
                b"DICOMNODE_PEER": b"192.0.2.1",
                b"DICOMNODE_SOP_CLASS_UID": b"1.2.840",
                b"DICOMNODE_SOP_INSTANCE_UID": b"1.2.3",
                b"DICOMNODE_TRANSFER_SYNTAX_UID": b"1.2.1",
            },
        )

    def test_name_like_an_option(self) -> None:
        """A file whose name begins like an option's is still a file, with its directory and without."""
        association = cast(Any, SimpleNamespace(peer=IPv4Address("TCP", "192.0.2.1", 50000)))
        instance = Instance("1.2.840", "1.2.3", "1.2.1", "CT1", "HERE", association)
        hook = OnReception(CommandLine("sh #f #p/#f"), self.executions)
        hook(InstanceReceived(instance, 100, 0.0, "/data/-rf.1.2.3"))
        self.assertEqual(self.reactor.processes[0].arguments, ["sh", "./-rf.1.2.3", "/data/./-rf.1.2.3"])

    def test_without_file(self) -> None:
        """An instance without a file has no path."""
        association = cast(Any, SimpleNamespace(peer=IPv4Address("TCP", "192.0.2.1", 50000)))
        instance = Instance("1.2.840", "1.2.3", "1.2.1", "CT1", "HERE", association)
        OnReception(CommandLine("sh '#p' '#f'"), self.executions)(InstanceReceived(instance, 100, 0.0))
        self.assertEqual(self.reactor.processes[0].arguments, ["sh", "", ""])

    def test_on_study(self) -> None:
        """For a study: the directory, and who was heard last."""
        hook = OnStudy(CommandLine("sh #p #a #c #r", ON_STUDY), self.executions)
        for directory in ("/data/1.2", None):
            hook(
                StudyEnded(
                    "1.2.3; x",
                    ("CT1", "MR1"),
                    ("HERE", "THERE"),
                    ("192.0.2.1", "2001:db8::1"),
                    12,
                    3456,
                    directory,
                    0.0,
                    1.0,
                    Because.STOPPED,
                )
            )
        one, other = self.reactor.processes
        self.assertEqual(one.arguments, ["sh", "/data/1.2", "MR1", "THERE", "2001:db8::1"])
        self.assertEqual(one.environment[b"DICOMNODE_STUDY_INSTANCE_UID"], b"1.2.3; x")
        self.assertEqual(one.environment[b"DICOMNODE_INSTANCES"], b"12")
        self.assertEqual(one.environment[b"DICOMNODE_BECAUSE"], b"stopped")
        self.assertEqual(one.environment[b"DICOMNODE_DIRECTORY"], b"/data/1.2")
        self.assertEqual(other.arguments[1], "")
