"""What an event says, as names and values: for logs that programs read.

Passcodes, tickets and tokens are in none of them; lists and texts of a peer's are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from dicomnode import events
from dicomnode.core.pdu import ACCEPTANCE
from dicomnode.dumps import MOST, message_type, user_name
from dicomnode.interfaces import IAssociation, IOperation
from dicomnode.visible import LIMIT, spoken

if TYPE_CHECKING:
    from dicomnode.invocation import Invocation

Record: TypeAlias = dict[str, Any]


def record(event: events.Event) -> Record:
    """Return what ``event`` says: names to values that JSON can express."""
    values: Record = {"event": type(event).__name__}
    association: IAssociation | None = getattr(event, "association", None)
    if association is not None:
        values["association"] = association.number
        values["peer"] = spoken(association.peer)
        values["calling_ae_title"] = _cut(association.calling_ae_title)
        values["called_ae_title"] = _cut(association.called_ae_title)
    values.update(_VALUES[type(event)](event))
    return values


def _cut(text: str) -> str:
    return text[:LIMIT]


def _nothing(event: events.Event) -> Record:
    return {}


def _started(event: events.Started) -> Record:
    return {"version": event.version}


def _listening(event: events.Listening) -> Record:
    return {"address": spoken(event.address)}


def _part_removed(event: events.PartRemoved) -> Record:
    return {"name": event.name}


def _policy_read(event: events.PolicyRead) -> Record:
    return {"path": event.path}


def _policy_not_read(event: events.PolicyNotRead) -> Record:
    return {"path": event.path, "why": event.why}


def _certificates_read(event: events.CertificatesRead) -> Record:
    return {"path": event.path}


def _certificates_not_read(event: events.CertificatesNotRead) -> Record:
    return {"path": event.path, "why": event.why}


def _tls_failed(event: events.TLSFailed) -> Record:
    return {"peer": spoken(event.peer), "why": event.why}


def _worker_started(event: events.WorkerStarted) -> Record:
    return {"worker": event.worker, "process": event.process}


def _worker_ended(event: events.WorkerEnded) -> Record:
    values: Record = {"worker": event.worker, "process": event.process}
    return values | {"why": _cut(event.why), "delay": event.delay}


def _too_many_half_open(event: events.TooManyHalfOpen) -> Record:
    return {"limit": event.limit, "host": event.host, "held": event.held}


def _requested(event: events.AssociationRequested) -> Record:
    request = event.request
    information = request.user_information
    values: Record = {
        "implementation_class_uid": _cut(information.implementation_class_uid),
        "implementation_version_name": _cut(information.implementation_version_name),
        "max_length": information.max_length,
        "contexts": [
            {
                "id": context.id,
                "abstract_syntax": _cut(context.abstract_syntax),
                "transfer_syntaxes": [_cut(uid) for uid in context.transfer_syntaxes[:MOST]],
            }
            for context in request.contexts
        ],
    }
    identity = information.user_identity
    if identity is not None:
        values["user_identity_type"] = identity.type
        if identity.type in (1, 2):
            values["user"] = user_name(identity)
    return values


def _logged_in(event: events.LoggedIn) -> Record:
    return {"user": _cut(event.user)}


def _accepted(event: events.AssociationAccepted) -> Record:
    proposed = {context.id: _cut(context.abstract_syntax) for context in event.request.contexts}
    contexts = event.answer.contexts
    return {
        "accepted": [
            {
                "id": item.id,
                "abstract_syntax": proposed.get(item.id, ""),
                "transfer_syntax": item.transfer_syntax,
            }
            for item in contexts
            if item.result == ACCEPTANCE
        ],
        "rejected": [
            {"id": item.id, "abstract_syntax": proposed.get(item.id, ""), "result": item.result}
            for item in contexts
            if item.result != ACCEPTANCE
        ],
    }


def _rejected(event: events.AssociationRejected) -> Record:
    rejection = event.rejection
    return {
        "result": rejection.result,
        "source": rejection.source,
        "reason": rejection.reason,
        "why": _cut(event.why),
    }


def _abort_received(event: events.AbortReceived) -> Record:
    return {"source": event.abort.source, "reason": event.abort.reason}


def _abort_sent(event: events.AbortSent) -> Record:
    values = {"source": event.abort.source, "reason": event.abort.reason}
    return values | {"why": _cut(event.why), "by_user": event.by_user}


def _timed_out(event: events.TimedOut) -> Record:
    return {"what": event.what, "seconds": event.seconds}


def _ended(event: events.AssociationEnded) -> Record:
    return {"how": event.how, "seconds": round(event.seconds, 6), "truncated": event.truncated}


def _operation(operation: IOperation | Invocation) -> Record:
    request, context = operation.request, operation.context
    values: Record = {
        "operation": message_type(request).removesuffix(" RQ"),
        "message_id": request.message_id,
        "context": context.id,
        "transfer_syntax": _cut(context.transfer_syntax),
    }
    for level in ("class", "instance"):
        for verb in ("affected", "requested"):
            uid = getattr(request, f"{verb}_sop_{level}_uid", None)
            if uid:
                values[f"sop_{level}_uid"] = _cut(uid)
    return values


def _operation_started(event: events.OperationStarted) -> Record:
    return _operation(event.operation) | {"data_set": event.operation.has_data_set}


def _operation_ended(event: events.OperationEnded) -> Record:
    return _ended_with(event, event.operation)


def _invocation_started(event: events.InvocationStarted) -> Record:
    return _operation(event.invocation) | {"data_set": event.invocation.has_data_set}


def _invocation_ended(event: events.InvocationEnded) -> Record:
    return _ended_with(event, event.invocation)


def _ended_with(
    event: events.OperationEnded | events.InvocationEnded, operation: IOperation | Invocation
) -> Record:
    response = event.response
    values = _operation(operation) | {"octets": event.octets, "seconds": round(event.seconds, 6)}
    if response is None:
        return values | {"status": None}
    values["status"] = f"0x{response.status:04X}"
    if response.error_comment:
        values["error_comment"] = _cut(response.error_comment)
    return values


def _cancel(event: events.CancelReceived) -> Record:
    return {"message_id": event.request.message_id_being_responded_to, "context": event.context_id}


def _instance(event: events.InstanceKept | events.InstanceNotKept) -> Record:
    instance = event.instance
    return {
        "sop_class_uid": _cut(instance.sop_class_uid),
        "sop_instance_uid": _cut(instance.sop_instance_uid),
        "transfer_syntax": _cut(instance.transfer_syntax_uid),
        "name": _cut(event.name),
    }


def _kept(event: events.InstanceKept) -> Record:
    return _instance(event) | {"replaced": event.replaced, "dropped": event.dropped}


def _not_kept(event: events.InstanceNotKept) -> Record:
    return _instance(event) | {"directory": event.directory, "error": str(event.error)}


def _execution_ended(event: events.ExecutionEnded) -> Record:
    values: Record = {"arguments": list(event.arguments), "process": event.process or None}
    return values | {"why": _cut(event.why), "seconds": round(event.seconds, 6)}


def _execution_said(event: events.ExecutionSaid) -> Record:
    return {"process": event.process, "line": event.line}


def _transition(event: events.Transition) -> Record:
    return {
        "state": event.state.name,
        "protocol_event": event.event.name,
        "action": event.action,
        "following": event.following.name,
    }


def _unexpected(event: events.Unexpected) -> Record:
    return {"doing": event.doing}


_VALUES: Mapping[type[Any], Callable[[Any], Record]] = {
    events.Started: _started,
    events.Listening: _listening,
    events.PartRemoved: _part_removed,
    events.PolicyRead: _policy_read,
    events.PolicyNotRead: _policy_not_read,
    events.CertificatesRead: _certificates_read,
    events.CertificatesNotRead: _certificates_not_read,
    events.TLSFailed: _tls_failed,
    events.WorkerStarted: _worker_started,
    events.WorkerEnded: _worker_ended,
    events.TooManyHalfOpen: _too_many_half_open,
    events.AssociationRequested: _requested,
    events.LoggedIn: _logged_in,
    events.AssociationAccepted: _accepted,
    events.AssociationRejected: _rejected,
    events.AbortReceived: _abort_received,
    events.AbortSent: _abort_sent,
    events.TimedOut: _timed_out,
    events.AssociationReleased: _nothing,
    events.AssociationEnded: _ended,
    events.OperationStarted: _operation_started,
    events.OperationEnded: _operation_ended,
    events.InvocationStarted: _invocation_started,
    events.InvocationEnded: _invocation_ended,
    events.CancelReceived: _cancel,
    events.InstanceKept: _kept,
    events.InstanceNotKept: _not_kept,
    events.ExecutionEnded: _execution_ended,
    events.ExecutionSaid: _execution_said,
    events.Paused: _nothing,
    events.Resumed: _nothing,
    events.Transition: _transition,
    events.Unexpected: _unexpected,
}
