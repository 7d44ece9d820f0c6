"""Every exception of dicomnode.

Few, by whose fault it is: *you* called what the state of the association forbids
(:class:`LocalProtocolError`), *they* sent what the standard forbids (:class:`InvalidPDU`,
:class:`InvalidCommand`), an operation failed with a status (:class:`OperationFailed`), or the
association ended (the rest). Those that reach the wire carry the wire's own codes.
"""

from __future__ import annotations


class DicomNodeError(Exception):
    """The base of all the others."""


class LocalProtocolError(DicomNodeError):
    """You asked the upper layer for what the association's state does not allow."""


class InvalidPDU(DicomNodeError):
    """They sent a PDU that PS3.8 9.3 does not allow. It never leaves ``dicomnode.core``.

    :param reason: the reason of the A-ABORT that answers it (PS3.8 Table 9-26).
    """

    def __init__(self, message: str, reason: int = 6) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidCommand(DicomNodeError):
    """They sent a command set that cannot be read (PS3.7 6.3.1)."""


class AssociationRejected(DicomNodeError):
    """The association was, or is to be, refused (PS3.8 Table 9-21).

    :param result: 1 rejected permanent, 2 rejected transient.
    :param source: 1 service user, 2 service provider (ACSE), 3 service provider (presentation).
    :param reason: its meaning depends on the source.
    :param why: in words, for an operator; it is not sent.
    """

    def __init__(self, result: int, source: int, reason: int, why: str = "") -> None:
        super().__init__(why or f"result {result}, source {source}, reason {reason}")
        self.result = result
        self.source = source
        self.reason = reason


class AssociationAborted(DicomNodeError):
    """The association was aborted (PS3.8 Table 9-26).

    :param source: 0 service user, 2 service provider.
    :param reason: significant when the source is the provider.
    """

    def __init__(self, source: int, reason: int) -> None:
        super().__init__(f"association aborted (source {source}, reason {reason})")
        self.source = source
        self.reason = reason


class AssociationTimedOut(AssociationAborted):
    """We have aborted the association, because the other end was silent for too long.

    :param what: the timeout, ``"ACSE"``, ``"DIMSE"`` or ``"network"``.
    :param seconds: how long it is.
    """

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(0, 0)
        self.args = (f"{what} timeout: the other end was silent for {seconds:g} s",)
        self.what = what
        self.seconds = seconds


class AssociationLost(DicomNodeError):
    """The transport connection went away under the association."""


class AssociationReleased(DicomNodeError):
    """The other end released the association before it answered what we had invoked."""


class ContextNotAccepted(DicomNodeError):
    """The other end has accepted no presentation context in which this could be sent.

    :param abstract_syntax: of the context, as a UID: what was to be sent.
    :param transfer_syntax: as a UID: in which it was to be sent; empty for any.
    """

    def __init__(self, abstract_syntax: str, transfer_syntax: str = "") -> None:
        super().__init__(
            f"no context was accepted for {abstract_syntax} in {transfer_syntax or 'any syntax'}"
        )
        self.abstract_syntax = abstract_syntax
        self.transfer_syntax = transfer_syntax


class TooManyContexts(DicomNodeError):
    """An association has room for 128 presentation contexts: what is to be sent needs more.

    :param contexts: how many it needs.
    """

    def __init__(self, contexts: int) -> None:
        super().__init__(f"{contexts} presentation contexts are needed, and 128 may be proposed")
        self.contexts = contexts


class InvalidFile(DicomNodeError):
    """A file is not a DICOM file of PS3.10, or does not say what is in it."""


class OperationFailed(DicomNodeError):
    """An operation is to be answered with a failure status.

    :param status: the Status (0000,0900) of the response (PS3.7 Annex C).
    :param comment: the Error Comment (0000,0902); it is cut to the 64 characters of its VR.
    """

    def __init__(self, status: int, comment: str = "") -> None:
        super().__init__(f"0x{status:04X} {comment}".rstrip())
        self.status = status
        self.comment = comment
