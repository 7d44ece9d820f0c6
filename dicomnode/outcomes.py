"""What became of what was asked for, in words: for the people who gave the command."""

from __future__ import annotations

from typing import TextIO

from twisted.internet.error import ConnectError, DNSLookupError

from dicomnode.core.command import Response, Status, is_warning
from dicomnode.core.pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    SERVICE_PROVIDER,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
)
from dicomnode.dumps import ABORT_REASONS, REJECTION_REASONS
from dicomnode.errors import (
    AssociationAborted,
    AssociationRejected,
    AssociationTimedOut,
    ContextNotAccepted,
    DicomNodeError,
)
from dicomnode.observers import write
from dicomnode.statuses import meaning
from dicomnode.uids import name
from dicomnode.visible import visible

#: Of the octets of a path that are shown: as many as a path can have.
_PATH = 4096

_REFUSALS = {
    USER_REJECTION: "it does not want them",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "it does not support the SOP Class",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "it does not support the transfer syntax",
}


def arrived(status: int) -> bool:
    """Has what is answered with this status arrived? With a warning, it has (PS3.4 B.2.3)."""
    return status == Status.SUCCESS or is_warning(status)


def answer(response: Response) -> str:
    """Return what a response says: its status, its meaning and its comment."""
    comment = f" ({visible(response.error_comment)})" if response.error_comment else ""
    return f"0x{response.status:04X} {meaning(response.status)}{comment}"


def refused(abstract_syntax: str, transfer_syntax: str, result: int | None = None) -> str:
    """Say that a presentation context was not accepted, and why (PS3.8 Table 9-18)."""
    why = _REFUSALS.get(result or 0, "it gives no reason")
    what = f"{visible(name(abstract_syntax))} in {visible(name(transfer_syntax))}"
    return f"the peer does not take {what}: {why}"


def why(error: BaseException) -> str:
    """Return what went wrong, on one line."""
    if isinstance(error, AssociationRejected):
        reason = REJECTION_REASONS.get((error.source, error.reason), "reserved reason").lower()
        how = "permanently" if error.result == 1 else "for the time being"
        codes = f"{error.result}, {error.source}, {error.reason}"
        words = reason.replace("ae title", "AE title")
        return f"the association was rejected {how}: {words} ({codes})"
    if isinstance(error, AssociationTimedOut):
        return str(error)
    if isinstance(error, AssociationAborted):
        if error.source == SERVICE_PROVIDER:
            reason = ABORT_REASONS.get(error.reason, "reserved reason").lower().replace("pdu", "PDU")
            return f"the association was aborted: {reason} ({error.source}, {error.reason})"
        return "the association was aborted"
    if isinstance(error, ContextNotAccepted):
        return refused(error.abstract_syntax, error.transfer_syntax)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = visible(" ".join(str(error).split()), 1024)
    if isinstance(error, ConnectError | DNSLookupError):
        return f"there is no connection: {text.rstrip('.')}"
    return text if isinstance(error, DicomNodeError) else text or type(error).__name__


class Report:
    """Says what became of files: of each that has not arrived, and of all together.

    :param stream: where that goes; None: nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._said: list[str] = []
        self.arrived = 0
        self.octets = 0  #: of what has arrived
        self.failed = 0
        self.skipped = 0

    def has_arrived(self, path: str, octets: int, response: Response) -> None:
        """A file is where it was sent."""
        self.arrived += 1
        self.octets += octets
        if response.status != Status.SUCCESS:
            self._say(path, f"has arrived, with a warning: {answer(response)}")

    def has_failed(self, path: str, reason: str) -> None:
        """A file is not."""
        self.failed += 1
        self._say(path, reason)

    def is_skipped(self, path: str, reason: str) -> None:
        """What is no DICOM file was not to be sent."""
        self.skipped += 1
        self._say(path, f"skipped: {reason}")

    def _say(self, path: str, text: str) -> None:
        self._said.append(f"{visible(path, _PATH)}: {text}")

    def end(self, seconds: float, *, interrupted: int | None = None) -> int:
        """Say it, and return the exit code.

        :param interrupted: of so many files nothing is known, because nobody waited any longer.
        """
        files = self.arrived + self.failed + (interrupted or 0)
        line = f"{self.arrived} of {files} files have arrived ({amount(self.octets)} in {seconds:.1f} s)"
        if interrupted is not None:
            line = f"interrupted: {line}"
        if self.failed:
            line += f", {self.failed} failed"
        if self.skipped:
            line += f", {self.skipped} skipped"
        write(self._stream, "".join(f"{text}\n" for text in (*self._said, line)))
        return 0 if self.arrived and self.arrived == files and interrupted is None else 1


def amount(octets: int) -> str:
    """Return a number of octets, to be read by people."""
    size = float(octets)
    for unit in ("octets", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "octets" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
