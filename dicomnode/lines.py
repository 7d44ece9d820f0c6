"""Which lines an event is given, and at which levels.

The lines of pynetdicom's ``storescp`` come first, to the letter, but for those in which it fails
itself; then what an operator would ask next: who, why, and what to do about it.
"""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from twisted.logger import LogLevel

from dicomnode import dumps, events, uids
from dicomnode.core.command import CEchoRQ, CStoreRQ, Response, Status, is_warning
from dicomnode.core.machine import Role
from dicomnode.core.pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    SERVICE_PROVIDER,
    UNEXPECTED_PDU_PARAMETER,
    USER_REJECTION,
    AnsweredContext,
    ProposedContext,
)
from dicomnode.interfaces import IAssociation, IOperation
from dicomnode.statuses import meaning
from dicomnode.visible import spoken, visible

if TYPE_CHECKING:
    from dicomnode.invocation import Invocation

#: Rejected presentation contexts of one association that are given a line each.
REJECTED_CONTEXTS = 3

# What the core says of the PDUs that it does not expect, and does not know.
_NOT_EXPECTED = re.compile(r"[A-Z-]+ received in Sta[0-9]+")
_UNKNOWN_TYPE = re.compile(r"unknown PDU type (0x[0-9A-F]{2})")

#: What pynetdicom calls the instances of some SOP Classes.
_KINDS = {"1.2.840.10008.5.1.4.1.1.2": ", (CT)", "1.2.840.10008.5.1.4.1.1.4": ", (MR)"}

_DEBUG, _INFO, _WARN, _ERROR = LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error

#: Says of an event what there is to say at one level. The event is of the type that the table names.
Words: TypeAlias = Callable[[Any], Iterable[str]]


class Said(NamedTuple):
    """What is said of the events of one type."""

    level: LogLevel  #: of the event, when nothing is said of it, or nothing above
    words: tuple[tuple[LogLevel, Words], ...]


def who(association: IAssociation) -> str:
    """Return the other end of an association: its titles as far as they are known, and its address."""
    address = spoken(association.peer)
    calling, called = visible(association.calling_ae_title), visible(association.called_ae_title)
    return f"{calling} at {address} calling {called}" if calling or called else address


def _from_requestor(association: IAssociation) -> str:
    return dumps.INCOMING if association.role is Role.ACCEPTOR else dumps.OUTGOING


def _from_acceptor(association: IAssociation) -> str:
    return dumps.OUTGOING if association.role is Role.ACCEPTOR else dumps.INCOMING


def _started(event: events.Started) -> Iterator[str]:
    yield f"dicomnode {event.version}"
    yield ""


def _listening(event: events.Listening) -> Iterator[str]:
    yield f"Listening on {spoken(event.address)}"


def _part_removed(event: events.PartRemoved) -> Iterator[str]:
    yield f"Removed what a dead process has left of a file: {visible(event.name)}"


def _policy_read(event: events.PolicyRead) -> Iterator[str]:
    yield f"Policy file read: {visible(event.path, 4096)}"


def _policy_not_read(event: events.PolicyNotRead) -> Iterator[str]:
    yield f"The policy stays as it was: {visible(event.why, 4096)}"


def _certificates_read(event: events.CertificatesRead) -> Iterator[str]:
    yield f"Certificates read: {visible(event.path, 4096)}"


def _certificates_not_read(event: events.CertificatesNotRead) -> Iterator[str]:
    yield f"The certificates stay as they were: {visible(event.why, 4096)}"


def _tls_failed(event: events.TLSFailed) -> Iterator[str]:
    yield f"TLS with {spoken(event.peer)} failed: {visible(event.why, 1024)}"


def _worker_started(event: events.WorkerStarted) -> Iterator[str]:
    yield f"Worker {event.worker} accepts associations (process {event.process})"


def _worker_ended(event: events.WorkerEnded) -> Iterator[str]:
    line = f"Worker {event.worker} (process {event.process}) has ended: {visible(event.why)}"
    if event.delay is not None:
        when = f"in {event.delay:g} s" if event.delay else "at once"
        line += f"; another takes its place {when}"
    yield line


# Associations


def _too_many_half_open(event: events.TooManyHalfOpen) -> Iterator[str]:
    yield (
        f"More than {event.limit} connections without an association, {event.held} of them from "
        f"{visible(event.host)}: the oldest are dropped"
    )


def _requested(event: events.AssociationRequested) -> Iterator[str]:
    return dumps.associate_rq(event.request, _from_requestor(event.association))


def _logged_in(event: events.LoggedIn) -> Iterator[str]:
    yield f"User {visible(event.user)} has logged in" if event.user else "An anonymous user is let in"


def _accepting(event: events.AssociationAccepted) -> Iterator[str]:
    yield "Accepting Association" if event.association.role is Role.ACCEPTOR else "Association Accepted"


def _accepted(event: events.AssociationAccepted) -> Iterator[str]:
    return dumps.associate_ac(event.request, event.answer, _from_acceptor(event.association))


def _contexts_rejected(event: events.AssociationAccepted) -> Iterator[str]:
    rejected = [context for context in event.answer.contexts if context.result != ACCEPTANCE]
    if not rejected or event.association.role is Role.REQUESTOR:
        return
    proposed = {context.id: context for context in event.request.contexts}
    peer = who(event.association)
    for context in rejected[:REJECTED_CONTEXTS]:
        why = _why_rejected(context, proposed[context.id])
        yield f"Presentation context {context.id} rejected: {why} ({peer})"
    more = len(rejected) - REJECTED_CONTEXTS
    if more > 0:
        yield f"{more} more of {len(proposed)} presentation contexts rejected ({peer})"


def _why_rejected(context: AnsweredContext, proposed: ProposedContext) -> str:
    uid = proposed.abstract_syntax
    name = visible(uids.name(uid))
    if context.result == USER_REJECTION:
        return f"the policy does not let {name} be accepted"
    if context.result != ABSTRACT_SYNTAX_NOT_SUPPORTED:
        syntaxes = [visible(uids.name(syntax)) for syntax in proposed.transfer_syntaxes[:REJECTED_CONTEXTS]]
        more = len(proposed.transfer_syntaxes) - len(syntaxes)
        listed = ", ".join(syntax or "''" for syntax in syntaxes) + (f" and {more} more" if more > 0 else "")
        return f"{name} is not accepted in {listed}; propose Implicit VR Little Endian, too"
    if uid == uids.VERIFICATION:
        return f"{name} is switched off; start without --no-echo to accept it"
    if uid.startswith("1.2.840.10008.") and not uid.startswith("1.2.840.10008.5.1.4.1.1."):
        return f"no service here has the SOP Class {name}; propose it to another node"
    return f"the SOP Class {name} is not accepted; start with --accept-unknown to accept it"


def _version_not_supported(event: events.AssociationRejected) -> Iterator[str]:
    if _for_its_version(event):
        version = event.request.protocol_version
        yield f"A-ASSOCIATE-RQ: Unsupported protocol version '0x{version:04X}'"


def _rejecting(event: events.AssociationRejected) -> Iterator[str]:
    if not _for_its_version(event):
        ours = event.association.role is Role.ACCEPTOR
        yield "Rejecting Association" if ours else "Association Rejected"


def _for_its_version(event: events.AssociationRejected) -> bool:
    rejection = event.rejection
    return (rejection.source, rejection.reason) == (2, 2)


def _rejected(event: events.AssociationRejected) -> Iterator[str]:
    return dumps.associate_rj(event.rejection, _from_acceptor(event.association))


def _why_association_rejected(event: events.AssociationRejected) -> Iterator[str]:
    yield f"Association rejected: {visible(event.why)} ({who(event.association)})"


def _abort_received(event: events.AbortReceived) -> Iterator[str]:
    return dumps.abort(event.abort, dumps.INCOMING)


def _aborted(event: events.AbortReceived) -> Iterator[str]:
    provider = event.abort.source == SERVICE_PROVIDER
    yield f"Association Aborted{' (A-P-ABORT)' if provider else ''}"


def _fault(event: events.AbortSent) -> Iterator[str]:
    """By which fault of the peer's; none when its PDU was in order, but not expected."""
    why = visible(event.why)
    # The abort's reason does not tell: before there is an association, AA-1 gives none.
    if event.by_user or _NOT_EXPECTED.fullmatch(why):
        return
    unknown = _UNKNOWN_TYPE.fullmatch(why)
    if unknown is not None:
        yield f"Unknown PDU type received '{unknown[1]}'"
        return
    if event.abort.reason == UNEXPECTED_PDU_PARAMETER:
        yield "Received an invalid DIMSE message"
    else:
        yield "Unable to decode the received PDU data"
    yield why


def _aborting(event: events.AbortSent) -> Iterator[str]:
    if event.by_user:
        yield "Aborting Association"


def _abort_sent(event: events.AbortSent) -> Iterator[str]:
    return dumps.abort(event.abort, dumps.OUTGOING)


def _aborted_by_machine(event: events.AbortSent) -> Iterator[str]:
    # Before there was an association, the source of the abort is the service user (PS3.8, AA-1).
    if not event.by_user and event.abort.source == SERVICE_PROVIDER:
        yield "Association Aborted (A-P-ABORT)"


def _why_aborted(event: events.AbortSent) -> Iterator[str]:
    yield f"Aborted: {visible(event.why)} ({who(event.association)})"


def _timed_out(event: events.TimedOut) -> Iterator[str]:
    if event.what != "ACSE":
        yield f"{event.what[:1].upper()}{event.what[1:]} timeout reached"


def _acse_timed_out(event: events.TimedOut) -> Iterator[str]:
    # To connect and say nothing is what health checks do: that is no error.
    if event.what == "ACSE":
        yield f"ACSE timeout reached ({who(event.association)})"


def _released(event: events.AssociationReleased) -> Iterator[str]:
    yield "Association Released"


def _truncated(event: events.AssociationEnded) -> Iterator[str]:
    if event.truncated and event.how in ("lost", "never"):
        yield "Connection closed before the entire PDU was received"


def _lost(event: events.AssociationEnded) -> Iterator[str]:
    if event.how == "lost":
        yield "Association Aborted (A-P-ABORT)"


# Operations


def _command_set(event: events.OperationStarted | events.CancelReceived) -> Iterator[str]:
    yield dumps.read_data_set(uids.IMPLICIT_VR_LE)


def _received(event: events.OperationStarted) -> Iterator[str]:
    request = event.operation.request
    if isinstance(request, CStoreRQ):
        yield "Received Store Request"
    elif isinstance(request, CEchoRQ):
        yield f"Received Echo Request (MsgID {request.message_id})"


def _message(event: events.OperationStarted) -> Iterator[str]:
    operation = event.operation
    return dumps.message(operation.context.id, operation.request, operation.has_data_set)


def _cancel(event: events.CancelReceived) -> Iterator[str]:
    return dumps.message(event.context_id, event.request, False)


def _not_understood(response: Response | None, operation: IOperation) -> bool:
    understood = response is None or response.status != Status.CANNOT_UNDERSTAND
    return not understood and isinstance(operation.request, CStoreRQ)


def _data_set_read(event: events.OperationEnded) -> Iterator[str]:
    if event.octets and _not_understood(event.response, event.operation):
        yield dumps.read_data_set(event.operation.context.transfer_syntax)


def _not_decoded(event: events.OperationEnded) -> Iterator[str]:
    response = event.response
    if response is not None and _not_understood(response, event.operation):
        yield (
            "Unable to decode the received dataset or missing 'SOP Class UID' and/or "
            "'SOP Instance UID' elements"
        )
        yield visible(response.error_comment or "")


def _refused(event: events.OperationEnded) -> Iterator[str]:
    return _other_than_success(event, event.operation)


def _other_than_success(
    event: events.OperationEnded | events.InvocationEnded, operation: IOperation | Invocation
) -> Iterator[str]:
    response = event.response
    what = dumps.message_type(operation.request).removesuffix(" RQ")
    if response is None:
        why = f"ended without a response after {event.octets} octets"
    elif response.status in (Status.SUCCESS, Status.CANCEL):
        return
    else:
        comment = visible(response.error_comment or "")
        how = "done with a warning," if is_warning(response.status) else "refused with"
        why = f"{how} status 0x{response.status:04X}{': ' if comment else ''}{comment}"
    yield f"{what} {why} ({_instance(operation)}{who(event.association)})"


def _instance(operation: IOperation | Invocation) -> str:
    request = operation.request
    uid = request.affected_sop_instance_uid if isinstance(request, CStoreRQ) else ""
    return f"SOP Instance UID {visible(uid)}, " if uid else ""


# Invocations: what pynetdicom's storescu says of them


def _sending(event: events.InvocationStarted) -> Iterator[str]:
    request = event.invocation.request
    if isinstance(request, CStoreRQ):
        kind = _KINDS.get(request.affected_sop_class_uid, "")
        yield f"Sending Store Request: MsgID {request.message_id}{kind}"
    elif isinstance(request, CEchoRQ):
        yield f"Sending Echo Request: MsgID {request.message_id}"


def _sent(event: events.InvocationStarted) -> Iterator[str]:
    invocation = event.invocation
    return dumps.message(invocation.context.id, invocation.request, invocation.has_data_set, dumps.OUTGOING)


def _response(event: events.InvocationEnded) -> Iterator[str]:
    if event.response is not None:
        what = dumps.message_type(event.invocation.request).removesuffix(" RQ")
        status = event.response.status
        name = {"C-STORE": "Store", "C-ECHO": "Echo"}.get(what, what)
        yield f"Received {name} Response (Status: 0x{status:04X} - {meaning(status)})"


def _not_done(event: events.InvocationEnded) -> Iterator[str]:
    return _other_than_success(event, event.invocation)


# Instances


def _data_set(event: events.InstanceKept) -> Iterator[str]:
    yield dumps.read_data_set(event.instance.transfer_syntax_uid)


def _storing(event: events.InstanceKept | events.InstanceNotKept) -> Iterator[str]:
    yield f"Storing DICOM file: {visible(event.name)}"


def _overwriting(event: events.InstanceKept) -> Iterator[str]:
    if event.dropped:
        yield "DICOM file already exists, keeping it"
    elif event.replaced:
        yield "DICOM file already exists, overwriting"


def _not_kept(event: events.InstanceNotKept) -> Iterator[str]:
    if event.error.errno == errno.ENOTDIR:
        yield "Unable to create the output directory:"
    else:
        yield "Could not write file to specified directory:"
    yield f"    {visible(event.directory, 4096)}"
    yield visible(str(event.error), 4096)


# Hooks


def _execution_ended(event: events.ExecutionEnded) -> Iterator[str]:
    if not event.why:
        yield f"{_executed(event)} has ended, after {event.seconds:.3f} s"


def _execution_failed(event: events.ExecutionEnded) -> Iterator[str]:
    if event.why:
        yield f"{_executed(event)} {visible(event.why)}"


def _executed(event: events.ExecutionEnded) -> str:
    process = f" (process {event.process})" if event.process else ""
    return f"Command {visible(shlex.join(event.arguments), 4096)}{process}"


def _execution_said(event: events.ExecutionSaid) -> Iterator[str]:
    yield f"Process {event.process}: {visible(event.line, 4096)}"


# The rest


def _transition(event: events.Transition) -> Iterator[str]:
    states = f"Sta{event.state.value} -> Sta{event.following.value}"
    yield f"Evt{event.event.value} {event.action} {states} (association {event.association.number})"


def _unexpected(event: events.Unexpected) -> Iterator[str]:
    failure = event.failure
    name, value = type(failure.value).__name__, failure.getErrorMessage()
    yield f"Failed {visible(event.doing)}: {name}: {visible(value)} ({who(event.association)})"


#: What is said of each event, in order.
SAID: Mapping[type[Any], Said] = {
    events.Started: Said(_INFO, ((_DEBUG, _started),)),
    events.Listening: Said(_INFO, ((_INFO, _listening),)),
    events.PartRemoved: Said(_WARN, ((_WARN, _part_removed),)),
    events.PolicyRead: Said(_INFO, ((_INFO, _policy_read),)),
    events.PolicyNotRead: Said(_ERROR, ((_ERROR, _policy_not_read),)),
    events.CertificatesRead: Said(_INFO, ((_INFO, _certificates_read),)),
    events.CertificatesNotRead: Said(_ERROR, ((_ERROR, _certificates_not_read),)),
    events.TLSFailed: Said(_WARN, ((_WARN, _tls_failed),)),
    events.WorkerStarted: Said(_INFO, ((_INFO, _worker_started),)),
    events.WorkerEnded: Said(_ERROR, ((_ERROR, _worker_ended),)),
    events.TooManyHalfOpen: Said(_WARN, ((_WARN, _too_many_half_open),)),
    events.AssociationRequested: Said(_DEBUG, ((_DEBUG, _requested),)),
    events.LoggedIn: Said(_INFO, ((_INFO, _logged_in),)),
    events.AssociationAccepted: Said(
        _INFO, ((_INFO, _accepting), (_DEBUG, _accepted), (_WARN, _contexts_rejected))
    ),
    events.AssociationRejected: Said(
        _INFO,
        (
            (_ERROR, _version_not_supported),
            (_INFO, _rejecting),
            (_DEBUG, _rejected),
            (_WARN, _why_association_rejected),
        ),
    ),
    events.AbortReceived: Said(_INFO, ((_DEBUG, _abort_received), (_INFO, _aborted))),
    events.AbortSent: Said(
        _INFO,
        (
            (_ERROR, _fault),
            (_INFO, _aborting),
            (_DEBUG, _abort_sent),
            (_INFO, _aborted_by_machine),
            (_WARN, _why_aborted),
        ),
    ),
    events.TimedOut: Said(_INFO, ((_ERROR, _timed_out), (_WARN, _acse_timed_out))),
    events.AssociationReleased: Said(_INFO, ((_INFO, _released),)),
    events.AssociationEnded: Said(_INFO, ((_ERROR, _truncated), (_INFO, _lost))),
    events.OperationStarted: Said(_INFO, ((_DEBUG, _command_set), (_INFO, _received), (_DEBUG, _message))),
    events.OperationEnded: Said(_INFO, ((_DEBUG, _data_set_read), (_ERROR, _not_decoded), (_WARN, _refused))),
    events.InvocationStarted: Said(_INFO, ((_INFO, _sending), (_DEBUG, _sent))),
    events.InvocationEnded: Said(_INFO, ((_INFO, _response), (_WARN, _not_done))),
    events.CancelReceived: Said(_INFO, ((_DEBUG, _command_set), (_DEBUG, _cancel))),
    events.InstanceKept: Said(_INFO, ((_DEBUG, _data_set), (_INFO, _storing), (_WARN, _overwriting))),
    events.InstanceNotKept: Said(_INFO, ((_INFO, _storing), (_ERROR, _not_kept))),
    events.ExecutionEnded: Said(_DEBUG, ((_ERROR, _execution_failed), (_DEBUG, _execution_ended))),
    events.ExecutionSaid: Said(_DEBUG, ((_DEBUG, _execution_said),)),
    events.Paused: Said(_DEBUG, ()),
    events.Resumed: Said(_DEBUG, ()),
    events.Transition: Said(_DEBUG, ((_DEBUG, _transition),)),
    events.Unexpected: Said(LogLevel.critical, ((LogLevel.critical, _unexpected),)),
}
