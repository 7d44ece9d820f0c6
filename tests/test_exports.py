"""The public names: what somebody may have imported stays where it is."""

from __future__ import annotations

from importlib import import_module
from types import FunctionType

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass

import dicomnode

PACKAGE = """
    AcceptAny Acceptor All AssociationAborted AssociationLost AssociationProtocol AssociationRejected
    AssociationReleased AssociationTimedOut CalledAETitle CallingAETitle CertificateSubject
    ContextNotAccepted DicomNodeError Discard FileStorage IAssociation IAssociationPolicy
    ICertificatePolicy ICommonExtendedNegotiation IExtendedNegotiation IImmediateStorage
    IInstanceWriter IOperation
    IRoleSelection IService IStorage IUser Instance InvalidFile Limits LocalProtocolError Node OperationFailed
    PeerAddress Pipe PolicyFile ServiceUser Status Storage StorageSupport Timeouts TooManyContexts
    Verification __version__ associate events plan
"""

#: The names that each public module is documented to have.
MODULES = {
    "acceptor": "Acceptor",
    "checkers": "checker_of help_auth help_auth_type",
    "commits": "GroupCommit IStorageReactor Sync",
    "commandline": "CommandLine ON_RECEPTION ON_STUDY plain",
    "considering": "Consider Considering",
    "core.association": """
        Aborted AssociateConfirmed AssociateRefused AssociateRequested Association DataSetFragments
        Indication MessageContinued MessageReceived ReleaseConfirmed ReleaseRequested
    """,
    "core.codec": "decode encode",
    "core.command": """
        CCancelRQ CEchoRQ CEchoRSP CFindRQ CFindRSP CGetRQ CGetRSP CMoveRQ CMoveRSP CStoreRQ CStoreRSP
        Command NActionRQ NActionRSP NCreateRQ NCreateRSP NDeleteRQ NDeleteRSP NEventReportRQ
        NEventReportRSP NGetRQ NGetRSP NSetRQ NSetRSP Request Response Status respond
    """,
    "core.dataset": "Walk",
    "core.items": """
        CommonExtendedNegotiation ExtendedNegotiation RoleSelection UserIdentity UserInformation
    """,
    "core.machine": "ACTIONS Effect Event Role State TRANSITIONS step",
    "core.negotiation": "PresentationContext agreed answer",
    "core.pdu": "Abort AssociateAC AssociateRJ AssociateRQ ProposedContext",
    "core.stream": "PDUReader PDVFragment",
    "credentials": """
        IJSONWebToken IKerberosServiceTicket INTERFACES ISAMLAssertion IUsername JSONWebToken
        KerberosServiceTicket SAMLAssertion Username UsernamePasscode credentials_of described
    """,
    "errors": """
        AssociationAborted AssociationLost AssociationRejected AssociationReleased AssociationTimedOut
        ContextNotAccepted DicomNodeError InvalidCommand InvalidFile InvalidPDU LocalProtocolError
        OperationFailed TooManyContexts
    """,
    "events": """
        AbortReceived AbortSent AssociationAccepted AssociationEnded AssociationRejected
        AssociationRequested CertificatesNotRead CertificatesRead Event ExecutionEnded
        ExecutionSaid Fanout InstanceKept InstanceNotKept InvocationEnded InvocationStarted
        Listening LoggedIn Observer OperationEnded
        OperationStarted Paused PolicyNotRead PolicyRead Resumed TLSFailed TimedOut TooManyHalfOpen
        Transition Unexpected ignore
    """,
    "executions": "Executions OnReception OnStudy",
    "filestore": "FileStorage FileWriter default_name",
    "identity": """
        AUTHENTICATION_FAILED AUTHENTICATION_NOT_POSSIBLE CheckerFailed Login LoginNotPossible Portal
        TEMPORARY_CONGESTION User Users log_in log_out
    """,
    "hooks": "Arrivals AssociationHooks AssociationOver Hook Hooked InstanceReceived tell",
    "implementation": "IMPLEMENTATION_CLASS_UID IMPLEMENTATION_VERSION_NAME __version__",
    "interfaces": """
        Body IAssociation IAssociationPolicy ICertificatePolicy ICommonExtendedNegotiation
        IExtendedNegotiation IImmediateStorage IInstanceWriter IOperation IReadable IRoleSelection IService
        IShareable IStorage IUser Instance OnResponse Progress
    """,
    "layout": "FIELDS FLAT Layout safe",
    "ledger": "Ledger Page SharedSlots",
    "limits": "LOCAL_LIMIT_EXCEEDED Limits Slots",
    "networks": "Networks UNIX address host network",
    "node": "Node",
    "observers": "Counters JSONLines LogObserver Relay TextLines begin_lines lines_for",
    "operation": "Operation",
    "options": "Options storescp_parser",
    "part10": "FileMeta part10_header read_file_meta",
    "ports": "endpoint_description port_or_endpoint",
    "partfile": "Kept OnDuplicate PartFile remove_dead_parts",
    "pipe": "Pipe",
    "pem": "InvalidCertificates certificates crls private_key trust_roots",
    "profiles": "Profile",
    "tls": "ClientCertificate InvalidCertificates Profile ServerOptions TLSServerEndpoint client_options",
    "policies": """
        AcceptAny All CALLED_AE_TITLE_NOT_RECOGNIZED CALLING_AE_TITLE_NOT_RECOGNIZED CalledAETitle
        CallingAETitle CertificateSubject InvalidPolicy NO_REASON_GIVEN PeerAddress PolicyFile ask
        certificate_of common_name
    """,
    "protocol": "AssociationProtocol",
    "sources": "Storable plan",
    "reports": "Gathering Reporter Reports",
    "requestor": "ServiceUser associate plan",
    "reading": "FileBody threads",
    "sending": "FileBody Octets Sending",
    "invocation": "Invocation",
    "message": "Message",
    "timers": "Silence Timeouts Timer Watch",
    "services": "Discard Storage StorageSupport Verification",
    "studies": "Arrived Because Studies StudyEnded study_of",
    "signals": "Signals end_soon",
    "tap": "CannotStart Options makeService",
    "contracts": "InstanceWriterContract PolicyContract ServiceContract",
    "samples": "data_set dicom_file",
    "testing": """
        CalledPeer MemoryStorage MemoryWriter Network Peer Pool Reactor Recorder Transport data_set dicom_file
    """,
    "turns": "Adopting Inherited Turns inherited",
    "workers": "Brief CannotShare Shared Workers",
    "uids": """
        STORAGE_SERVICE_CLASS STORAGE_SOP_CLASSES TRANSFER_SYNTAXES VERIFICATION file_name_prefix name
        preferred
    """,
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
