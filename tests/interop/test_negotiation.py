"""What pynetdicom and DCMTK propose besides contexts, and what becomes of it: roles, information, windows."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from dicomnode import Storage, events
from dicomnode.core.command import CGetRQ
from dicomnode.testing import MemoryStorage
from dicomnode.uids import EXPLICIT_VR_LE, IMPLICIT_VR_LE, STORAGE_SERVICE_CLASS
from tests.interop.support import (
    LOOPBACK,
    NO_DELAY,
    InteropTestCase,
    Process,
    Storescp,
    eventually,
    find_program,
    free_port,
    missing_modules,
    missing_programs,
    run,
)
from tests.interop.test_requestor import RequestorTestCase, asynchronous

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
PRIVATE = "1.2.826.0.1.3680043.9.7433.1.99"

#: The example program, which performs C-GET with the files of its working directory.
GET_SERVICE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "get_service.py"


def example(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def instance(sop_class: str, uid: str) -> Dataset:
    """Return a small instance."""
    made = dcmread(example("CT_small.dcm"))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = sop_class
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    return made


class PynetdicomTests(InteropTestCase):
    """pynetdicom proposes, and ``storescp`` answers."""

    skip = missing_modules("pynetdicom")

    def associate(self, node: Storescp, *contexts: str, items: Any = ()) -> Any:
        from pynetdicom import AE

        entity = AE("SCU")
        for abstract_syntax in contexts:
            entity.add_requested_context(abstract_syntax, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = entity.associate(LOOPBACK, node.port, ext_neg=list(items))
        self.assertTrue(association.is_established)
        self.addCleanup(association.abort)
        return association

    def test_window(self) -> None:
        """A window is answered if there is one to be had, and not without being proposed."""
        from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

        for options, proposed, answered in (
            (("--max-operations", "10"), (20, 5), (10, 1)),
            (("--max-operations", "10"), (0, 0), (10, 1)),
            (("--max-operations", "10"), None, None),
            ((), (20, 5), None),
        ):
            node = self.storescp("-d", *options)
            items = []
            if proposed is not None:
                item = AsynchronousOperationsWindowNegotiation()
                item.maximum_number_operations_invoked, item.maximum_number_operations_performed = proposed
                items.append(item)
            association = self.associate(node, CT, items=items)
            window = association.acceptor.asynchronous_operations
            self.assertEqual(window, answered or (1, 1))
            self.assertEqual(
                "Accepted Asynchronous Operations Window Negotiation: None" in node.stderr, not answered
            )
            self.assertEqual(association.send_c_store(instance(CT, "1.2.3")).Status, 0)
            association.release()
            self.assertCalm(node.stderr)

    def test_roles(self) -> None:
        """``storescp`` is SCP and nothing else; who proposes to be SCP itself is told so, or nothing."""
        from pynetdicom import build_role

        node = self.storescp()
        for scu, scp, answered in (
            (True, True, (True, False)),
            (True, False, (True, False)),
            (False, True, None),
        ):
            association = self.associate(node, CT, MR, items=[build_role(CT, scu_role=scu, scp_role=scp)])
            roles = association.acceptor.role_selection
            found = {uid: (role.scu_role, role.scp_role) for uid, role in roles.items()}
            self.assertEqual(found, {} if answered is None else {CT: answered})
            self.assertEqual(association.send_c_store(instance(MR, "1.2.4")).Status, 0)
            association.release()
        self.assertCalm(node.stderr)

    def test_extended(self) -> None:
        """It says what it does with instances, to who asks; with ``--ignore`` it does not."""
        from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

        for options, said in (((), {CT: b"\2\0\3\0\0\0"}), (("--ignore",), {})):
            node = self.storescp(*options)
            for octets in (b"\3\0\0\0\2\0", b"\1", bytes(100)):
                items = []
                for uid in (CT, MR):
                    item = SOPClassExtendedNegotiation()
                    item.sop_class_uid, item.service_class_application_information = uid, octets
                    items.append(item)
                association = self.associate(node, CT, items=items)
                self.assertEqual(association.acceptor.sop_class_extended, said)
                association.release()
            association = self.associate(node, CT)
            self.assertEqual(association.acceptor.sop_class_extended, {})
            association.release()

    def test_common_extended(self) -> None:
        """A private class is stored that is said to be of the Storage Service Class, or related to CT."""
        from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation

        node = self.storescp()
        for service_class, related, accepted in (
            (STORAGE_SERVICE_CLASS, [], True),
            (STORAGE_SERVICE_CLASS, [CT], True),
            ("1.2.840.10008.4.2.1", ["1.2.3", CT], True),
            ("1.2.840.10008.4.2.1", ["1.2.3"], False),
            (None, None, False),
        ):
            items = []
            if service_class is not None:
                item = SOPClassCommonExtendedNegotiation()
                item.sop_class_uid, item.service_class_uid = PRIVATE, service_class
                item.related_general_sop_class_identification = related
                items.append(item)
            association = self.associate(node, CT, PRIVATE, items=items)
            contexts = {context.abstract_syntax for context in association.accepted_contexts}
            self.assertEqual(contexts, {CT, PRIVATE} if accepted else {CT}, (service_class, related))
            self.assertEqual(association.acceptor.sop_class_common_extended, {})
            if accepted:
                self.assertEqual(association.send_c_store(instance(PRIVATE, "1.2.5")).Status, 0)
                stored = dcmread(node.directory / "UN.1.2.5")
                self.assertEqual(stored.SOPClassUID, PRIVATE)
                (node.directory / "UN.1.2.5").unlink()
            association.release()
        self.assertCalm(node.stderr)


class WindowTests(RequestorTestCase):
    """Our own requestor has many operations outstanding at ``storescp``."""

    @asynchronous
    async def test_window(self) -> None:
        """As many as were negotiated are, and every instance is kept."""
        node = Storescp("-d", "--max-operations", "8")
        self.addCleanup(node.clean_up)
        self.port = node.port
        association = await self.associate(
            contexts={CT: [EXPLICIT_VR_LE]}, asynchronous_operations=(20, 1), observe=self.observe
        )
        self.outstanding = self.most = 0
        uids = [f"1.2.{number}" for number in range(100)]
        responses = await gatherResults([association.store(instance(CT, uid)) for uid in uids])
        await association.release()
        self.assertEqual({response.status for response in responses}, {0})
        self.assertEqual(self.most, 8)
        self.assertEqual(node.files(), sorted(f"CT.{uid}" for uid in uids))
        self.assertIn("Maximum Invoked Operations:     8", node.stderr)

    def observe(self, event: events.Event) -> None:
        if isinstance(event, events.InvocationStarted):
            self.outstanding += 1
            self.most = max(self.most, self.outstanding)
        elif isinstance(event, events.InvocationEnded):
            self.outstanding -= 1


class GetTests(RequestorTestCase):
    """C-GET by our requestor: the instances come in over its own association, and its service keeps them."""

    async def gets(self, called: str, **keys: str) -> tuple[list[int], MemoryStorage]:
        """Return the statuses of the responses, and what was sent."""
        storage = MemoryStorage()
        association = await self.associate(
            called_ae_title=called,
            contexts={GET: [IMPLICIT_VR_LE], CT: [EXPLICIT_VR_LE], MR: [EXPLICIT_VR_LE]},
            roles={CT: (False, True), MR: (False, True)},
            services=[Storage(storage)],
        )
        identifier, buffer = Dataset(), BytesIO()
        identifier.QueryRetrieveLevel = "STUDY"
        for key, value in keys.items():
            setattr(identifier, key, value)
        identifier.save_as(buffer, implicit_vr=True, little_endian=True)
        statuses: list[int] = []
        await association.invoke(
            CGetRQ(affected_sop_class_uid=GET, message_id=0),
            buffer.getvalue(),
            on_response=lambda response, _: statuses.append(response.status),
        )
        await association.release()
        return statuses, storage


class GetFromPynetdicomTests(GetTests):
    """pynetdicom is the SCP."""

    skip = missing_modules("pynetdicom")

    @asynchronous
    async def test_get(self) -> None:
        """Each instance arrives as it is, and the C-GET ends with Success."""
        from pynetdicom import AE, evt

        ct, mr = (dcmread(example(name)) for name in ("CT_small.dcm", "MR_small.dcm"))

        def get(event: Any) -> Any:
            yield 2
            yield 0xFF00, ct
            yield 0xFF00, mr

        entity = AE("SCP")
        entity.add_supported_context(GET)
        for uid in (CT, MR):
            entity.add_supported_context(uid, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        server = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=[(evt.EVT_C_GET, get)])
        self.addCleanup(server.shutdown)
        statuses, storage = await self.gets("ANY-SCP", StudyInstanceUID=ct.StudyInstanceUID)
        self.assertEqual(statuses, [0xFF00, 0xFF00, 0x0000])
        self.assertEqual({*storage.instances}, {ct.SOPInstanceUID, mr.SOPInstanceUID})
        self.assertEqual(storage.instances[ct.SOPInstanceUID][0].calling_ae_title, "DICOMNODE")


class GetFromDCMTKTests(GetTests):
    """DCMTK's ``dcmqrscp`` is the SCP."""

    skip = missing_programs("dcmqrscp", "storescu")

    def dcmqrscp(self) -> None:
        """Start it, with a place where it keeps what it is sent."""
        home = Path(self.mktemp()).resolve()
        (home / "QR").mkdir(parents=True)
        (home / "cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nQR {home / 'QR'} RW (9, 1024mb) ANY\nAETable END\n"
        )
        program = find_program("dcmqrscp")
        assert program is not None
        self.starts(program, "-c", str(home / "cfg"))

    @asynchronous
    async def test_get(self) -> None:
        """What was stored there comes back."""
        self.dcmqrscp()
        paths = [example(name) for name in ("CT_small.dcm", "MR_small.dcm")]
        stored = await deferToThread(
            run, "storescu", "-aec", "QR", LOOPBACK, str(self.port), *paths, **NO_DELAY
        )
        self.assertEqual(stored.code, 0, stored.stderr)
        for path in paths:
            sent = dcmread(path)
            statuses, storage = await self.gets("QR", StudyInstanceUID=sent.StudyInstanceUID)
            self.assertEqual(statuses[-1], 0x0000)
            (octets,) = (octets for _, octets in storage.instances.values())
            got = read_dataset(BytesIO(octets), is_implicit_VR=False, is_little_endian=True)
            self.assertEqual(got.SOPInstanceUID, sent.SOPInstanceUID)
            self.assertEqual(got.PixelData, sent.PixelData)


class GetscuTests(InteropTestCase):
    """DCMTK's ``getscu`` gets from a service of ours, by C-STOREs on its own association."""

    skip = missing_programs("getscu")

    def serves(self, *names: str) -> int:
        """Start the example program with these files. Return its port."""
        directory, port = self.directory(), free_port()
        for name in names:
            shutil.copy(example(name), directory)
        program = (
            "import os, runpy, sys; from twisted.internet.task import react; "
            "os.chdir(sys.argv[2]); main = runpy.run_path(sys.argv[1])['main']; react(main, sys.argv[3:])"
        )
        node = Process([sys.executable, "-c", program, str(GET_SERVICE), str(directory), f"tcp:{port}"])
        self.addCleanup(node.clean_up)
        self.addCleanup(lambda: self.assertCalm(node.stderr))

        def listens() -> bool | None:
            try:
                socket.create_connection((LOOPBACK, port)).close()
            except ConnectionRefusedError:
                return None
            return True

        eventually("it listens", listens)
        return port

    def gets(self, port: int, *keys: str, options: Sequence[str] = ()) -> list[Dataset]:
        """Return what ``getscu`` was sent for these keys."""
        directory = self.directory()
        named = [argument for key in keys for argument in ("-k", key)]
        done = run("getscu", "-v", "-S", *options, "-od", directory, *named, LOOPBACK, f"{port}", **NO_DELAY)
        self.assertEqual(done.code, 0, done.stderr)
        return [dcmread(path) for path in sorted(directory.iterdir())]

    def test_getscu(self) -> None:
        """It is sent the files that it asks for, and no others."""
        port = self.serves("CT_small.dcm", "MR_small.dcm")
        ct, mr = (dcmread(example(name)) for name in ("CT_small.dcm", "MR_small.dcm"))
        for sent in (ct, mr):
            study = f"StudyInstanceUID={sent.StudyInstanceUID}"
            (got,) = self.gets(port, "QueryRetrieveLevel=STUDY", study)
            self.assertEqual(got, sent)
            self.assertEqual(got.file_meta.TransferSyntaxUID, sent.file_meta.TransferSyntaxUID)
        both = f"StudyInstanceUID={ct.StudyInstanceUID}\\\\{mr.StudyInstanceUID}"
        self.assertEqual(len(self.gets(port, "QueryRetrieveLevel=STUDY", both)), 2)
        self.assertEqual(self.gets(port, "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.3"), [])
