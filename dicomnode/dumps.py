"""What was negotiated and what messages say, in lines: those of pynetdicom, to the letter.

Only a debug log has them, so only that imports pydicom, for the names of UIDs. Secrets are not
shown, nor how long a passcode is. Lists that a peer can make as long as it likes are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import batched, islice
from typing import Any

from dicomnode import uids
from dicomnode.core import command as dimse
from dicomnode.core.items import CommonExtendedNegotiation, ExtendedNegotiation, RoleSelection, UserIdentity
from dicomnode.core.pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    NO_REASON,
    SERVICE_PROVIDER,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
)
from dicomnode.visible import visible
