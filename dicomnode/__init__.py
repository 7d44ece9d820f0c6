"""A DICOM node on Twisted.

The public names, and where they are at home; ``docs/architecture`` has the picture:

- :mod:`dicomnode.acceptor`: associations requested of us;
- :mod:`dicomnode.requestor`: associations that we request;
- :mod:`dicomnode.policies`, :mod:`dicomnode.limits`: who may request them, and how many at a time;
- :mod:`dicomnode.services`: what is performed on them;
- :mod:`dicomnode.filestore`, :mod:`dicomnode.pipe`: where instances are kept, or go;
- :mod:`dicomnode.node`: the service that listens, and stops in good order;
- :mod:`dicomnode.hooks`, :mod:`dicomnode.studies`: who is told what has arrived;
- :mod:`dicomnode.interfaces`: what a third party can implement instead;
- :mod:`dicomnode.observers`, :mod:`dicomnode.events`: what can be seen of it all;
- :mod:`dicomnode.core`: the protocol without I/O, for other loops, and for the curious.
"""

from dicomnode import events
from dicomnode.acceptor import Acceptor
from dicomnode.core.command import Status
from dicomnode.errors import (
    AssociationAborted,
    AssociationLost,
    AssociationRejected,
    AssociationReleased,
    AssociationTimedOut,
    ContextNotAccepted,
    DicomNodeError,
    InvalidFile,
    LocalProtocolError,
    OperationFailed,
    TooManyContexts,
)
from dicomnode.filestore import FileStorage
from dicomnode.implementation import __version__
from dicomnode.interfaces import (
    IAssociation,
    IAssociationPolicy,
    ICertificatePolicy,
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IImmediateStorage,
    IInstanceWriter,
    Instance,
    IOperation,
    IRoleSelection,
    IService,
    IStorage,
    IUser,
)
from dicomnode.limits import Limits
from dicomnode.node import Node
from dicomnode.pipe import Pipe
from dicomnode.policies import (
    AcceptAny,
    All,
    CalledAETitle,
    CallingAETitle,
    CertificateSubject,
    PeerAddress,
    PolicyFile,
)
from dicomnode.protocol import AssociationProtocol
from dicomnode.requestor import ServiceUser, associate, plan
from dicomnode.services import Discard, Storage, StorageSupport, Verification
from dicomnode.timers import Timeouts

__all__ = [
    "AcceptAny",
    "Acceptor",
    "All",
    "AssociationAborted",
    "AssociationLost",
    "AssociationProtocol",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimedOut",
    "CalledAETitle",
    "CallingAETitle",
    "CertificateSubject",
    "ContextNotAccepted",
    "DicomNodeError",
    "Discard",
    "FileStorage",
    "IAssociation",
    "IAssociationPolicy",
    "ICertificatePolicy",
    "ICommonExtendedNegotiation",
    "IExtendedNegotiation",
    "IImmediateStorage",
    "IInstanceWriter",
    "IOperation",
    "IRoleSelection",
    "IService",
    "IStorage",
    "IUser",
    "Instance",
    "InvalidFile",
    "Limits",
    "LocalProtocolError",
    "Node",
    "OperationFailed",
    "PeerAddress",
    "Pipe",
    "PolicyFile",
    "ServiceUser",
    "Status",
    "Storage",
    "StorageSupport",
    "Timeouts",
    "TooManyContexts",
    "Verification",
    "__version__",
    "associate",
    "events",
    "plan",
]
