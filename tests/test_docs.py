"""Tests for the documentation: its examples work, and what it makes from the code is all of it."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import re
import sqlite3
import sys
import time
import unittest
from base64 import urlsafe_b64encode
from contextlib import closing, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pydicom import dcmread
from pydicom.data import get_testdata_file
from twisted.application.service import IServiceCollection, loadApplication
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from dicomnode import Acceptor, CalledAETitle, Status, Storage, associate, events
from dicomnode.core.command import CEchoRQ, CGetRQ, CStoreRQ, NCreateRQ, NSetRQ
from dicomnode.core.items import UserIdentity, UserInformation
from dicomnode.core.machine import TABLE_9_10, State
from dicomnode.node import Node
from dicomnode.options import storescp_parser
from dicomnode.testing import MemoryStorage, Network, Peer, Reactor, Recorder
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from tests.cases import QuickPool, QuickReactor
from tests.howtocases import CT_IMAGE_STORAGE, encoded

DOCS = Path(__file__).resolve().parent.parent / "docs"

DATA_SET = encoded(SOPClassUID=CT_IMAGE_STORAGE, SOPInstanceUID="1.2.3", PatientComments="x" * 1000)


class _DocsCase(SynchronousTestCase):
    def load(self, name: str, folder: str) -> ModuleType:
        """Import a module of the documentation, and forget it afterwards."""
        self.patch(sys, "path", [str(DOCS / folder), *sys.path])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(self._forget)
        return import_module(name)

    def _forget(self) -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(DOCS)):
                del sys.modules[name]


class ExampleTests(_DocsCase):
    """Every program in ``docs/examples`` does what the pages say of it."""

    def setUp(self) -> None:
        """What a program writes to the current directory goes to one of its own."""
        directory, before = self.mktemp(), os.getcwd()
        os.makedirs(directory)
        os.chdir(directory)
        self.addCleanup(os.chdir, before)

    def runs(self, name: str) -> tuple[ModuleType, Peer]:
        """Run a program in memory, and return a peer that is connected to its port."""
        example = self.load(name, "examples")
        self.reactor = QuickReactor()
        self.assertNoResult(example.main(self.reactor))
        port, acceptor, *_ = self.reactor.tcpServers[0]
        self.assertEqual(port, 11112)
        assert isinstance(acceptor, Acceptor)
        return example, Peer(acceptor)

    def test_each_is_tested(self) -> None:
        """There is no example without a test here."""
        tested = {"object_storage", "hashing_writer", "policy", "mpps_service", "observer", "multiservice"}
        tested |= {"send_files", "users", "hooks", "veto", "get_service"}
        programs = {path.stem for path in DOCS.glob("examples/*.py")}
        self.assertEqual(programs, tested | {"test_object_storage"})
        self.assertEqual([path.name for path in DOCS.glob("examples/*.tac")], ["web.tac"])

    def test_each_is_shown(self) -> None:
        """Each example is included in a page."""
        pages = "".join(page.read_text() for page in DOCS.glob("*.rst"))
        for path in DOCS.glob("examples/*.[pt]*"):
            self.assertIn(f".. literalinclude:: examples/{path.name}", pages)

    def test_object_storage(self) -> None:
        """The storage keeps an instance as an object."""
        _, peer = self.runs("object_storage")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", DATA_SET)
        self.assertEqual(peer.response.status, Status.SUCCESS)

    def test_example_test(self) -> None:
        """The test of the page on testing passes."""
        module = self.load("test_object_storage", "examples")
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
        self.assertEqual((result.failures, result.errors, result.skipped), ([], [], []))
        self.assertGreater(result.testsRun, 10)

    def test_hashing_writer(self) -> None:
        """The digest of what was sent is noted once the file is there, and only then."""
        _, peer = self.runs("hashing_writer")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        said = io.StringIO()
        with redirect_stdout(said):
            peer.stores("1.2.3", DATA_SET)
            peer.stores("1.2.4", DATA_SET)
        self.assertEqual(said.getvalue(), f"{hashlib.sha256(DATA_SET).hexdigest()} 1.2.3\n")
        self.assertTrue(Path("CT.1.2.3").read_bytes().endswith(DATA_SET))
        self.assertEqual(os.listdir(), ["CT.1.2.3"])

    def test_policy(self) -> None:
        """A peer is accepted by its title, its network, and the title that it calls; else rejected."""
        self.runs("policy")
        _, acceptor, *_ = self.reactor.tcpServers[0]
        for called, calling, rejection in (
            ("ARCHIVE", "CT1", None),
            ("ARCHIVE", "MR1", (1, 1, 3)),
            ("ARCHIVE", "PEER", (1, 1, 3)),
            ("ANY-SCP", "CT1", (1, 1, 7)),
        ):
            recorder = Recorder()
            self.patch(acceptor, "_observe", recorder)
            Peer(acceptor).associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]}, called=called, calling=calling)
            rejected = [event.rejection for event in recorder.of(events.AssociationRejected)]
            codes = [(pdu.result, pdu.source, pdu.reason) for pdu in rejected]
            self.assertEqual(codes, [] if rejection is None else [rejection])

    def test_users(self) -> None:
        """Who has a passcode, or a token that is signed and valid, is let in, and said to come and to go."""
        self.runs("users")
        key = b"of 32 octets or more, from a file"

        def token(key: bytes = key, alg: str = "HS256", **claims: object) -> bytes:
            parts = (json.dumps(part).encode() for part in ({"alg": alg}, claims))
            signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
            return signed + b"." + urlsafe_b64encode(hmac.digest(key, signed, "sha256")).rstrip(b"=")

        soon = time.time() + 60
        said = io.StringIO()
        for identity, name in (
            (UserIdentity(2, b"ct1", b"sesame"), "ct1"),
            (UserIdentity(2, b"ct1", b"other"), None),
            (UserIdentity(5, token(sub="alice", exp=soon)), "alice"),
            (UserIdentity(5, token(sub="alice", exp=0)), None),
            (UserIdentity(5, token(sub="alice")), None),
            (UserIdentity(5, token(b"another key", sub="alice", exp=soon)), None),
            (UserIdentity(5, token(alg="none", sub="alice", exp=soon)), None),
            (UserIdentity(5, b"no token"), None),
            (None, None),
        ):
            peer = Peer(self.reactor.tcpServers[0][1])
            with redirect_stdout(said):
                peer.associates(user_information=UserInformation(16382, user_identity=identity))
                peer.transport.lose()
            lines = [f"{name} has come from 192.0.2.1", f"{name} has gone"] if name else []
            self.assertEqual(said.getvalue().splitlines(), lines)
            said.truncate(said.seek(0))

    def test_mpps_service(self) -> None:
        """A step is created, set, and then is not set any more."""
        example, _ = self.runs("mpps_service")
        uid = example.MODALITY_PERFORMED_PROCEDURE_STEP
        for syntax in (IMPLICIT_VR_LE, EXPLICIT_VR_LE):
            peer = Peer(self.reactor.tcpServers[0][1])
            peer.associates({uid: [syntax]})
            step = f"1.2.{syntax}"
            creates = NCreateRQ(affected_sop_class_uid=uid, message_id=1, affected_sop_instance_uid=step)
            sets = NSetRQ(requested_sop_class_uid=uid, message_id=2, requested_sop_instance_uid=step)
            for request, said, status in (
                (sets, "COMPLETED", 0x0112),
                (creates, "IN PROGRESS", Status.SUCCESS),
                (creates, "IN PROGRESS", Status.DUPLICATE_SOP_INSTANCE),
                (sets, "COMPLETED", Status.SUCCESS),
                (sets, "DISCONTINUED", Status.PROCESSING_FAILURE),
            ):
                peer.invokes(
                    uid, request, encoded(syntax == IMPLICIT_VR_LE, PerformedProcedureStepStatus=said)
                )
                self.assertEqual(peer.response.status, status)
            stores = CStoreRQ(affected_sop_class_uid=uid, message_id=3, affected_sop_instance_uid="1.2.3")
            peer.invokes(uid, stores, DATA_SET)
            self.assertEqual(peer.response.status, Status.UNRECOGNIZED_OPERATION)

    def test_get_service(self) -> None:
        """What is asked for comes by C-STOREs, to who has proposed to be their SCP; the rest is not sent."""
        names = ("CT_small.dcm", "MR_small.dcm", "JPEG-lossy.dcm")
        for name in names:
            Path(name).write_bytes(Path(str(get_testdata_file(name, download=False))).read_bytes())
        ct, mr, jpeg = map(dcmread, names)
        example, _ = self.runs("get_service")
        reactor, storage = Reactor(), MemoryStorage()
        network = Network(reactor, self.reactor.tcpServers[0][1])
        associating = associate(
            reactor,
            network,
            contexts={example.STUDY_ROOT_GET: [IMPLICIT_VR_LE, EXPLICIT_VR_LE]}
            | {one.SOPClassUID: [EXPLICIT_VR_LE] for one in (ct, mr)},
            roles={ct.SOPClassUID: (False, True)},
            services=[Storage(storage)],
        )
        network.exchange()
        association = self.successResultOf(associating)
        for status, expected, keys in (
            (0, ct, {"StudyInstanceUID": ct.StudyInstanceUID}),
            (0, ct, {"SOPInstanceUID": ct.SOPInstanceUID}),
            (0xB000, ct, {"SOPInstanceUID": [ct.SOPInstanceUID, mr.SOPInstanceUID, jpeg.SOPInstanceUID]}),
            (0xA702, None, {"StudyInstanceUID": mr.StudyInstanceUID}),
            (0, None, {"StudyInstanceUID": "1.2.3"}),
            (0, None, {}),
        ):
            storage.instances.clear()
            request = CGetRQ(affected_sop_class_uid=example.STUDY_ROOT_GET, message_id=0)
            got = association.invoke(request, encoded(QueryRetrieveLevel="STUDY", **keys))
            network.exchange()
            self.assertEqual(self.successResultOf(got).status, status, keys)
            self.assertEqual([*storage.instances], [expected.SOPInstanceUID] if expected else [])
        os.unlink("CT_small.dcm")
        request = CGetRQ(affected_sop_class_uid=example.STUDY_ROOT_GET, message_id=0)
        got = association.invoke(request, encoded(StudyInstanceUID=ct.StudyInstanceUID))
        network.exchange()
        self.assertEqual(self.successResultOf(got).status, 0xA702)
        echoed = association.invoke(CEchoRQ(affected_sop_class_uid=example.STUDY_ROOT_GET, message_id=0))
        network.exchange()
        self.assertEqual(self.successResultOf(echoed).status, Status.UNRECOGNIZED_OPERATION)
        network.lose()

    def test_observer(self) -> None:
        """Every minute it is said who has sent how much, and the log lines are said as ever."""
        lines = io.StringIO()
        self.patch(sys, "stderr", lines)
        _, peer = self.runs("observer")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]}, calling="CT1")
        peer.stores("1.2.3", DATA_SET)
        peer.stores("1.2.4", DATA_SET)  # refused: it is another instance
        said = io.StringIO()
        with redirect_stdout(said):
            self.reactor.advance(60)
        self.assertEqual(said.getvalue(), f"CT1: 1 instances, {len(DATA_SET)} octets\n")
        self.assertIn("I: Storing DICOM file: CT.1.2.3\n", lines.getvalue())

    def test_hooks(self) -> None:
        """What has arrived is in the index before Success; studies and associations are told of."""
        _, peer = self.runs("hooks")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]}, calling="CT1")
        said = io.StringIO()
        with redirect_stdout(said):
            for uid in ("1.2.3", "1.2.4"):
                elements = {"SOPInstanceUID": uid, "StudyInstanceUID": "1.2", "PatientID": "P1"}
                peer.stores(uid, encoded(SOPClassUID=CT_IMAGE_STORAGE, **elements))
                self.assertEqual(peer.response.status, Status.SUCCESS)
            peer.transport.lose()
            self.assertEqual(said.getvalue(), "CT1: 2 stored, lost\n")
            self.reactor.advance(30)
        self.assertEqual(said.getvalue().splitlines()[1:], ["study 1.2: 2 instances from CT1"])
        with closing(sqlite3.connect("index.db")) as database:
            rows = database.execute("SELECT * FROM instances ORDER BY uid").fetchall()
            self.assertEqual(
                rows, [(uid, "1.2", "P1", os.path.abspath(f"CT.{uid}")) for uid in ("1.2.3", "1.2.4")]
            )
            database.execute("DROP TABLE instances")
            database.commit()
        peer = Peer(self.reactor.tcpServers[0][1])
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", DATA_SET)
        self.assertEqual(
            (peer.response.status, peer.response.error_comment), (0xA700, "the index is out of order")
        )
        self.assertTrue(os.path.exists("CT.1.2.3"))

    def test_veto(self) -> None:
        """Who is enrolled is let in, once that is known."""
        _, peer = self.runs("veto")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        for patient, modality, status in (
            ("TRIAL-001", "CT", Status.SUCCESS),
            ("TRIAL-003", "CT", 0x0124),
            ("TRIAL-001", "US", 0x0124),
        ):
            uids = {"SOPClassUID": CT_IMAGE_STORAGE, "SOPInstanceUID": "1.2.3"}
            peer.stores("1.2.3", encoded(**uids, PatientID=patient, Modality=modality))
            self.reactor.advance(0.1)
            peer.exchange()
            self.assertEqual(peer.response.status, status)
        self.assertEqual(os.listdir(), ["CT.1.2.3"])

    def test_multiservice(self) -> None:
        """One process listens for associations and for browsers."""
        _, peer = self.runs("multiservice")
        peer.associates({CT_IMAGE_STORAGE: [EXPLICIT_VR_LE]})
        peer.stores("1.2.3", DATA_SET)
        self.assertEqual(peer.response.status, Status.SUCCESS)
        port, site, *_ = self.reactor.tcpServers[1]
        self.assertEqual(port, 8080)
        self.assertIsInstance(site, Site)

    def test_send_files(self) -> None:
        """What is sent is said, file by file, and what cannot be sent costs the others nothing."""
        example = self.load("send_files", "examples")
        reactor, storage = Reactor(), MemoryStorage()
        reactor.pool = QuickPool()
        network = Network(reactor, Acceptor(reactor, [Storage(storage)]))
        ct, lossy = (
            str(get_testdata_file(name, download=False)) for name in ("CT_small.dcm", "JPEG-lossy.dcm")
        )
        Path("lost.dcm").write_bytes(Path(ct).read_bytes())
        said = io.StringIO()
        with redirect_stdout(said):
            sending = Deferred.fromCoroutine(example.send(reactor, network, [ct, "lost.dcm", lossy]))
            Path("lost.dcm").unlink()
            network.exchange()
        self.assertEqual(self.successResultOf(sending), 2)
        self.assertEqual(len(storage.instances), 2)
        first, second, third = said.getvalue().splitlines()
        self.assertEqual((first, third), (f"{ct}: 0x0000", f"{lossy}: 0x0000"))
        self.assertIn("No such file", second)

    def test_send_files_to_nobody(self) -> None:
        """The program tells the shell whether all have arrived."""
        example = self.load("send_files", "examples")
        ct = str(get_testdata_file("CT_small.dcm", download=False))
        reactor, storage = Reactor(), MemoryStorage()
        reactor.pool = QuickPool()
        for called, code in (("ARCHIVE", 0), ("NOBODY", "here: result 1, source 1, reason 7")):
            acceptor = Acceptor(reactor, [Storage(storage)], policy=CalledAETitle(called))
            network = Network(reactor, acceptor)
            self.patch(example, "HostnameEndpoint", lambda *_, network=network: network)
            with redirect_stdout(io.StringIO()):
                sending = example.main(reactor, "here", "104", ct)
                network.exchange()
            self.assertEqual(self.failureResultOf(sending, SystemExit).value.code, code)

    def test_tac(self) -> None:
        """The .tac file is an application with a node and a web site, in ten lines."""
        path = DOCS / "examples" / "web.tac"
        application = loadApplication(str(path), "python")
        node, _ = list(IServiceCollection(application))
        self.assertIsInstance(node, Node)
        self.assertEqual(os.listdir(), ["incoming"])
        _, _, program = path.read_text().partition('"""\n')
        code = [line for line in program.partition("\napplication")[2].splitlines() if line]
        self.assertLessEqual(len(code), 10)
        self.assertIn(f"```python\n{program.lstrip()}```", (DOCS.parent / "README.md").read_text())


class ReferenceTests(_DocsCase):
    """What the pages make from the code."""

    def setUp(self) -> None:
        self.reference = self.load("reference", "_ext")

    def test_options(self) -> None:
        """Every option of the parser is in the reference, in each of its spellings, and so is its help."""
        text = self.reference.options()
        for action in storescp_parser()._actions:
            spellings = ", ".join(self.reference.spellings(action))
            self.assertIn(f".. option:: {spellings}\n", text)
        self.assertNotIn("%(", text)
        self.assertEqual(text.count(".. option::"), len(storescp_parser()._actions))

    def test_generated(self) -> None:
        """Everything that is made is used on a page, and every page uses only what is made."""
        figure = self.load("machine_figure", "_ext")
        pages = "".join(page.read_text() for page in DOCS.glob("*.rst"))
        used = re.findall(r"^\.\. generated:: (\S+)$", pages, re.MULTILINE)
        self.assertEqual(set(used), {*self.reference.GENERATED, *figure.GENERATED})

    def test_sop_classes(self) -> None:
        """Every SOP Class and every Transfer Syntax that is accepted is listed."""
        text = self.reference.sop_classes()
        for uid in STORAGE_SOP_CLASSES:
            self.assertIn(f"``{uid}``", text)
        text = self.reference.transfer_syntaxes()
        for uid in TRANSFER_SYNTAXES:
            self.assertIn(f"``{uid}``", text)

    def test_statuses(self) -> None:
        """Every status has a meaning."""
        text = self.reference.statuses()
        for status in Status:
            self.assertIn(f"``{status.value:04X}``", text)
        self.assertEqual(set(self.reference.MEANINGS), set(Status))

    def test_settings(self) -> None:
        """The defaults are the parser's."""
        text = self.reference.settings()
        parser = storescp_parser()
        parser.set_defaults(**{"max-pdu": 4711})
        self.patch(self.reference, "storescp_parser", lambda: parser)
        self.assertEqual(self.reference.settings(), text.replace("``16382``", "``4711``"))

    def test_misspelt_uids(self) -> None:
        """The two UIDs that the conformance statement calls misspellings are accepted ones."""
        page = (DOCS / "conformance.rst").read_text()
        for uid in ("1.2.840.10008.5.1.4.1.1.1.1.1.1", "1.2.840.10008.5.1.1.4.1.1.3.1"):
            self.assertIn(f"``{uid}``", page)
            self.assertIn(uid, STORAGE_SOP_CLASSES)


class MachineFigureTests(_DocsCase):
    """The figures of the protocol machine."""

    def setUp(self) -> None:
        self.figure = self.load("machine_figure", "_ext")

    def test_grid(self) -> None:
        """The grid has the 123 cells of the table, each in its place."""
        rows = re.findall(r"<tr>(.*?)</tr>", self.figure.grid())
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]
        self.assertEqual(sum(bool(cell) for row in cells for cell in row), 123)
        table = [line.split()[1:] for line in TABLE_9_10.strip().splitlines()[1:]]
        self.assertEqual(cells, [[cell.replace(".", "") for cell in row] for row in table])

    def test_diagram(self) -> None:
        """The diagram has the thirteen states, and every action of the table."""
        svg = self.figure.diagram()
        for state in State:
            self.assertRegex(svg, rf'class="name">Sta{state.value}(?! again)\b')
        for action in set(TABLE_9_10.split()):
            if re.fullmatch(r"[AD][AERT]-[0-9]+", action):
                self.assertRegex(svg, rf"{action}(?![0-9])")

    def test_transitions(self) -> None:
        """What is drawn as a line is what the table has, and nothing else has a place."""
        self.assertEqual(set(self.figure.transitions()), set(self.figure.EDGES))
        drawn = sum(len(labels) for labels in self.figure.transitions().values())
        # The release collision leads a requestor and an acceptor apart; a bad version leads past Sta3.
        self.assertEqual(drawn, len(_regular()) + 2)

    def test_inside(self) -> None:
        """Nothing is drawn outside of the picture."""
        for edge in self.figure.EDGES.values():
            for x, y in (*edge.points, edge.label):
                self.assertTrue(0 <= x <= self.figure.WIDTH and 0 <= y <= self.figure.HEIGHT)


def _regular() -> list[str]:
    """Return the cells of Table 9-10 that are no aborts."""
    cells = [cell for line in TABLE_9_10.strip().splitlines()[1:] for cell in line.split()[1:]]
    return [cell for cell in cells if cell != "." and not cell.startswith("AA-")]


class PageTests(SynchronousTestCase):
    """What the pages themselves must be."""

    def test_conf(self) -> None:
        """The version is the package's, and nothing is fetched from elsewhere."""
        conf = (DOCS / "conf.py").read_text()
        self.assertIn("from dicomnode import __version__", conf)
        self.assertNotIn("intersphinx", conf)

    def test_linked(self) -> None:
        """Every page is in the table of contents."""
        index = (DOCS / "index.rst").read_text()
        for page in DOCS.glob("*.rst"):
            if page.stem != "index":
                self.assertRegex(index, rf"(?m)^   {page.stem}$")
