"""The public names: what somebody may have imported stays where it is."""

from __future__ import annotations

from importlib import import_module
from types import FunctionType

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass

import dicomnode

PACKAGE = """
    AcceptAny Acceptor All AssociationAborted AssociationLost AssociationProtocol AssociationRejected
    CalledAETitle CallingAETitle DicomNodeError Discard FileStorage IAssociation IAssociationPolicy
    IInstanceWriter IOperation IService IStorage Instance Limits LocalProtocolError OperationFailed
    PeerAddress PolicyFile Status Storage Timeouts Verification __version__
"""

#: The names that each public module is documented to have.
MODULES = {
    "acceptor": "Acceptor",
    "commits": "GroupCommit Sync",
    "core.association": """
        Aborted AssociateConfirmed AssociateRefused AssociateRequested Association DataSetFragments
        Indication MessageReceived ReleaseConfirmed ReleaseRequested
    """,
    "core.command": """
        CCancelRQ CEchoRQ CEchoRSP CFindRQ CFindRSP CGetRQ CGetRSP CMoveRQ CMoveRSP CStoreRQ CStoreRSP
        Command NActionRQ NActionRSP NCreateRQ NCreateRSP NDeleteRQ NDeleteRSP NEventReportRQ
        NEventReportRSP NGetRQ NGetRSP NSetRQ NSetRSP Request Response Status decode encode respond
    """,
    "core.dataset": "Walk",
    "core.items": "UserInformation",
    "core.machine": "ACTIONS Effect Event Role State TRANSITIONS step",
    "core.negotiation": "PresentationContext agreed answer",
    "core.pdu": "Abort AssociateAC AssociateRJ AssociateRQ ProposedContext",
    "core.stream": "PDUReader PDVFragment",
    "errors": """
        AssociationAborted AssociationLost AssociationRejected DicomNodeError InvalidCommand InvalidPDU
        LocalProtocolError OperationFailed
    """,
    "events": """
        AbortReceived AbortSent AssociationAccepted AssociationEnded AssociationRejected
        AssociationRequested Doubted Event Fanout InstanceKept InstanceNotKept Listening Observer
        OperationEnded OperationStarted Paused PolicyNotRead PolicyRead Resumed TimedOut TooManyHalfOpen
        Transition Unexpected ignore
    """,
    "filestore": "FileStorage FileWriter default_name",
    "implementation": "IMPLEMENTATION_CLASS_UID IMPLEMENTATION_VERSION_NAME __version__",
    "interfaces": """
        IAssociation IAssociationPolicy IInstanceWriter IOperation IService IStorage Instance
    """,
    "layout": "FIELDS FLAT Layout safe",
    "limits": "LOCAL_LIMIT_EXCEEDED Limits Slots",
    "networks": "Networks UNIX address host network",
    "node": "Node",
    "observers": "Counters JSONLines LogObserver TextLines",
    "operation": "Operation",
    "options": "Options storescp_parser",
    "part10": "part10_header",
    "partfile": "Kept OnDuplicate PartFile remove_dead_parts",
    "policies": """
        AcceptAny All CALLED_AE_TITLE_NOT_RECOGNIZED CALLING_AE_TITLE_NOT_RECOGNIZED CalledAETitle
        CallingAETitle InvalidPolicy NO_REASON_GIVEN PeerAddress PolicyFile
    """,
    "protocol": "AssociationProtocol",
    "timers": "Silence Timeouts Timer",
    "services": "Discard Storage Verification",
    "signals": "Signals end_soon",
    "tap": "CannotStart Options makeService",
    "contracts": "InstanceWriterContract",
    "testing": """
        MemoryStorage MemoryWriter Peer Pool Reactor Recorder Transport
    """,
    "uids": "STORAGE_SOP_CLASSES TRANSFER_SYNTAXES VERIFICATION file_name_prefix name preferred",
}


class ExportTests(SynchronousTestCase):
    """What is public is there."""

    def test_package(self) -> None:
        """The package exports these names, and no others."""
        self.assertEqual(sorted(dicomnode.__all__), sorted(PACKAGE.split()))
        self.assertEqual(len(set(dicomnode.__all__)), len(dicomnode.__all__))
        for name in dicomnode.__all__:
            self.assertTrue(hasattr(dicomnode, name), name)

    def test_modules(self) -> None:
        """Each public module has what it is documented to have."""
        for module, names in MODULES.items():
            found = vars(import_module(f"dicomnode.{module}"))
            self.assertEqual([name for name in names.split() if name not in found], [], module)

    def test_one_thing_one_name(self) -> None:
        """What the package exports is what its modules have."""
        homes = [import_module(f"dicomnode.{module}") for module in MODULES]
        for name in dicomnode.__all__:
            value = getattr(dicomnode, name)
            self.assertTrue(any(vars(home).get(name) is value for home in homes), name)

    def test_documented(self) -> None:
        """Each public module, class and function says what it is."""
        for module in MODULES:
            home = import_module(f"dicomnode.{module}")
            self.assertTrue(home.__doc__, module)
            for name in MODULES[module].split():
                value = vars(home)[name]
                if isinstance(value, type | FunctionType | InterfaceClass):
                    self.assertTrue(value.__doc__, f"{module}.{name}")
