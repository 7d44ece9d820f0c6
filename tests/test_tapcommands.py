"""Tests for :mod:`dicomnode.tap`: commands that are executed upon what arrives."""

from __future__ import annotations

import os
from functools import partial

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from twisted.internet.testing import MemoryReactorClock

from dicomnode.tap import makeService
from tests.servicecases import CT
from tests.tapcases import TapCase
from tests.test_executions import ProcessReactor


class CommandTests(TapCase):
    """Commands are executed upon what arrives."""

    class Reactor(MemoryReactorClock, ProcessReactor):
        """A reactor in memory, whose processes are none."""

        def __init__(self) -> None:
            MemoryReactorClock.__init__(self)
            self.processes = []
            self.error = None

    def setUp(self) -> None:
        super().setUp()
        self.reactor: CommandTests.Reactor
        self.install(self.Reactor())

    def stores(self, uid: str, study: str = "1.2") -> None:
        values = Dataset()
        values.SOPClassUID, values.SOPInstanceUID, values.StudyInstanceUID = CT, uid, study
        output = DicomBytesIO()
        output.is_little_endian, output.is_implicit_VR = True, False
        write_dataset(output, values)
        peer = self.associate()
        peer.stores(uid, output.getvalue())
        self.assertEqual(peer.response.status, 0)
        peer.releases()
        peer.transport.lose()

    def executed(self) -> list[list[str]]:
        """Return the arguments of what has been executed."""
        return [process.arguments for process in self.reactor.processes]

    def ends(self) -> None:
        for process in self.reactor.processes:
            if not process.gone:
                process.ends()

    def test_on_reception(self) -> None:
        """One for each instance, with its file."""
        self.start("-xcr", "sh -c x #p/#f #a #c #r", "--layout", "{study}/{instance}")
        self.stores("1.2.3")
        self.stores("1.2.4")
        path = os.path.abspath(self.directory)
        for arguments, uid in zip(self.executed(), ("1.2.3", "1.2.4"), strict=True):
            self.assertEqual(arguments[3:], [f"{path}/1.2/{uid}", "PEER", "ANY-SCP", "192.0.2.1"])
        self.ends()

    def test_on_eostudy(self) -> None:
        """One for each study, when it has been quiet; though nothing is checked."""
        self.start("-xcs", "sh -c x #p", "-tos", "5", "--no-check")
        for uid in ("1.2.3", "1.2.4"):
            self.stores(uid)
            self.reactor.advance(4)
        self.assertEqual(self.executed(), [])
        self.reactor.advance(1)
        self.assertEqual(self.executed(), [["sh", "-c", "x", os.path.abspath(self.directory)]])
        self.assertEqual(self.reactor.processes[0].environment[b"DICOMNODE_INSTANCES"], b"2")
        self.ends()

    def test_bounds(self) -> None:
        """So many at a time, for so long."""
        self.start("-xcr", "sh #f", "--exec-processes", "1", "--exec-timeout", "7")
        self.stores("1.2.3")
        self.stores("1.2.4")
        self.assertEqual(self.executed(), [["sh", "CT.1.2.3"]])
        self.reactor.advance(7)
        (process,) = self.reactor.processes
        self.assertEqual(process.told[-1], "TERM")
        process.ends(None, 15)
        self.assertEqual(self.executed()[1:], [["sh", "CT.1.2.4"]])
        self.ends()
        self.assertIn("sh CT.1.2.3 (process 4711) was ended: it took 7 s", self.stderr.getvalue())

    def test_again(self) -> None:
        """A service that has stopped and is started again executes commands again."""
        service = self.start("-xcr", "sh #f")
        for number in (1, 2):
            self.stores(f"1.2.{number}")
            self.assertEqual(self.executed()[number - 1 :], [["sh", f"CT.1.2.{number}"]])
            self.ends()
            self.stop(service)
            self.reactor.tcpServers.clear()
            service.startService()

    def test_stop(self) -> None:
        """When the service stops, studies end, and what is executed has the grace to finish."""
        service = self.start("-xcs", "sh #p", "--grace", "5")
        self.stores("1.2.3")
        stopping = service.stopService()
        self.assertEqual(len(self.executed()), 1)
        self.assertNoResult(stopping)
        self.reactor.advance(5)
        (process,) = self.reactor.processes
        self.assertEqual(process.told[-1], "TERM")
        self.assertNoResult(stopping)
        process.ends(None, 15)
        self.assertIsNone(self.successResultOf(stopping))

    def test_hasten(self) -> None:
        """Upon a second signal it has not."""
        service = self.start("-xcr", "sh #p")
        self.stores("1.2.3")
        stopping = service.stopService()
        service.hasten()
        self.ends()
        self.assertIsNone(self.successResultOf(stopping))

    def test_no_program(self) -> None:
        """A program that is not there is an error at start, with one process or several."""
        for more in ((), ("--processes", "2")):
            self.stderr.truncate(0)
            self.stderr.seek(0)
            options = self.options("-xcr", "no-such-program-here #f", *more)
            self.assert_cannot_start(
                "argument --exec-on-reception: 'no-such-program-here #f': there is no such program",
                partial(makeService, options),
            )
