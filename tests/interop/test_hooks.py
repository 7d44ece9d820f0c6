"""Commands that the real command executes, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from tests.interop import wire
from tests.interop.support import TWISTD, InteropTestCase, Storescp, eventually
from tests.interop.wire import CT_IMAGE_STORAGE, DATA, LAST_COMMAND, LAST_DATA, Peer, p_data, pdv, store_rq

#: Writes down what it was given, one line each, in one piece.
RECORD = """
import json, os, sys
said = {name: value for name, value in os.environ.items() if name.startswith("DICOMNODE_")}
line = json.dumps([sys.argv[2:], said, sys.stdin.read()]) + "\\n"
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(descriptor, line.encode())
"""


def in_study(uid: str, study: str) -> bytes:
    """Return a data set in Explicit VR Little Endian."""
    values = Dataset()
    values.SOPClassUID, values.SOPInstanceUID, values.StudyInstanceUID = CT_IMAGE_STORAGE, uid, study
    values.PixelData, values.BitsAllocated = bytes(1000), 16
    output = DicomBytesIO()
    output.is_little_endian, output.is_implicit_VR = True, False
    write_dataset(output, values)
    return output.getvalue()


class HookTests(InteropTestCase):
    """What has arrived is told to a program."""

    def setUp(self) -> None:
        super().setUp()
        directory = self.directory()
        self.script, self.record = directory / "record it.py", directory / "record"
        self.script.write_text(RECORD)

    def command(self, arguments: str) -> str:
        return f"'{sys.executable}' -I '{self.script}' '{self.record}' {arguments}"

    def recorded(self, number: int) -> list[Any]:
        """Wait until so many have been executed, and return what they were given."""

        def lines() -> list[str] | None:
            found = self.record.read_text().splitlines() if self.record.exists() else []
            return found if len(found) >= number else None

        return [json.loads(line) for line in eventually(f"{number} executions", lines)]

    def stores(self, node: Storescp, uid: str, study: str, **titles: str) -> None:
        with Peer(node.address) as peer:
            peer.associate(**titles)
            self.assertEqual(peer.store(uid, in_study(uid, study))[wire.STATUS], 0)
            peer.release()

    def test_on_reception(self) -> None:
        """One for each instance, with its file; what a peer calls itself stays an argument."""
        for more in ((), ("--processes", "2")):
            node = self.storescp("-xcr", self.command("#p/#f '#a' #c #r '$(id)'"), *more)
            self.stores(node, "1.2.3", "1.2", calling="-rf;`id` $(id)", called="A 'B")
            self.stores(node, "1.2.4", "1.2", calling="CT1")
            records = sorted(self.recorded(2))
            home = os.path.realpath(node.home)
            self.assertEqual(
                [(os.path.realpath(path), *others) for (path, *others), *_ in records],
                [
                    (f"{home}/CT.1.2.3", "_rf__id____id_", "A__B", "127.0.0.1", "$(id)"),
                    (f"{home}/CT.1.2.4", "CT1", "STORESCP", "127.0.0.1", "$(id)"),
                ],
            )
            _, environment, stdin = records[0]
            self.assertEqual(environment["DICOMNODE_CALLING_AE_TITLE"], "-rf;`id` $(id)")
            self.assertEqual(stdin, "")
            self.assertCalm(node.stop().stderr)
            self.record.unlink()

    def test_on_eostudy(self) -> None:
        """One for each study, once, though several associations have sent of it."""
        node = self.storescp("-xcs", self.command("#p #a"), "-tos", "1")
        for uid, study, calling in (
            ("1.2.3", "1.2", "CT1"),
            ("1.3.3", "1.3", "CT1"),
            ("1.2.4", "1.2", "MR1"),
        ):
            self.stores(node, uid, study, calling=calling)
        self.assertFalse(self.record.exists())
        records = self.recorded(2)
        time.sleep(1.5)
        self.assertEqual(len(self.recorded(2)), 2)
        said = sorted(
            (environment["DICOMNODE_STUDY_INSTANCE_UID"], arguments[1], environment["DICOMNODE_INSTANCES"])
            for arguments, environment, _ in records
        )
        self.assertEqual(said, [("1.2", "MR1", "2"), ("1.3", "CT1", "1")])
        self.assertCalm(node.stop().stderr)

    def test_processes(self) -> None:
        """One for a study of which several processes receive, after its last; though one of them dies."""
        node = self.storescp("--processes", "2", "-xcs", self.command("#p #a"), "-tos", "1", "-v")
        eventually("both accept", lambda: node.stderr.count("accepts associations") == 2)
        with Peer(node.address) as one, Peer(node.address) as other:
            one.associate(calling="CT1")
            other.associate(calling="MR1")
            self.assertEqual(one.store("1.2.3", in_study("1.2.3", "1.2"))[wire.STATUS], 0)
            octets = in_study("1.2.4", "1.2")
            other.send(p_data(pdv(1, LAST_COMMAND, store_rq("1.2.4"))), p_data(pdv(1, DATA, octets[:500])))
            time.sleep(2.5)
            self.assertFalse(self.record.exists())
            other.send(p_data(pdv(1, LAST_DATA, octets[500:])))
            self.assertEqual(other.response()[wire.STATUS], 0)
            other.release()
            (worker,) = re.findall(r"^I: \[(\d+)\] Accepting Association$", node.stderr, re.MULTILINE)[:1]
            (process,) = re.findall(rf"Worker {worker} accepts .*\(process (\d+)\)", node.stderr)
            os.kill(int(process), SIGKILL)
        self.assertFalse(self.record.exists())
        self.recorded(1)
        time.sleep(1.5)
        ((arguments, environment, _),) = self.recorded(1)
        self.assertEqual(arguments, [os.path.realpath(node.home), "MR1"])
        self.assertEqual(environment["DICOMNODE_STUDY_INSTANCE_UID"], "1.2")
        self.assertEqual(environment["DICOMNODE_INSTANCES"], "2")
        self.assertEqual(environment["DICOMNODE_BECAUSE"], "quiet")
        self.assertCalm(node.stop().stderr)

    def test_stop(self) -> None:
        """When it stops, studies end, and what is executed for them is waited for."""
        for how, more in (({}, ()), ({"how": TWISTD}, ()), ({}, ("--processes", "2"))):
            node = self.storescp("-xcs", self.command("#p"), "-v", *more, **how)
            self.stores(node, "1.2.3", "1.2")
            node.stop(SIGTERM)
            ((_, environment, _),) = self.recorded(1)
            self.assertEqual(environment["DICOMNODE_BECAUSE"], "stopped")
            self.record.unlink()

    def test_grace(self) -> None:
        """What takes longer than the grace is ended, and that is said."""
        node = self.storescp("-xcr", f"'{sys.executable}' -c 'import time; time.sleep(60)'", "--grace", "0.5")
        self.stores(node, "1.2.3", "1.2")
        began = time.monotonic()
        ended = node.stop()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(ended.code, 0)
        self.assertIn("was ended: the service stops", ended.stderr)

    def test_left_behind(self) -> None:
        """What a command has left running in the background keeps nothing up."""
        left = (
            "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'])"
        )
        node = self.storescp("-xcr", f"'{sys.executable}' -c \"{left}\"", "--exec-processes", "1", "-d")
        for uid in ("1.2.3", "1.2.4"):
            self.stores(node, uid, "1.2")
        eventually("both have ended", lambda: node.stderr.count("has ended, after") == 2, 7)
        node.stop()

    def test_fails(self) -> None:
        """One that fails is said to, on one line, with what it said last; none is left a zombie."""
        fails = "import sys; print('one'); sys.exit('no such \\x1b patient')"
        node = self.storescp("-xcr", f"'{sys.executable}' -c \"{fails}\"", "-d")
        for uid in ("1.2.3", "1.2.4"):
            self.stores(node, uid, "1.2")
        ending = "ended with exit code 1: no such \\x1b patient"
        eventually("both have ended", lambda: node.stderr.count(ending) == 2)
        self.assertEqual(node.stderr.count(": one\n"), 2)
        children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children")
        if children.exists():
            self.assertEqual(children.read_text(), "")
        node.stop()
