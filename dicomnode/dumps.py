"""What was negotiated and what messages say, in lines: those of pynetdicom, to the letter.

Only a debug log has them, so only that imports pydicom, for the names of UIDs. Secrets are not
shown, nor how long a passcode is. Lists that a peer can make as long as it likes are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import islice

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

#: Entries of one list that are shown. There are 70 transfer syntaxes, and 128 contexts at most.
MOST = 128

#: Octets of a SOP class's application information that are shown.
_OCTETS = 512

_NO_VALUE = "(no value available)"

#: Which way a PDU or a message went, and whose it is then.
INCOMING, OUTGOING = "INCOMING", "OUTGOING"
_WHOSE = {INCOMING: "Their", OUTGOING: "Our"}

# PS3.8 Table 9-21
_RESULTS = {1: "Rejected (Permanent)", 2: "Rejected (Transient)"}
_REJECTORS = {
    1: "DUL service-user",
    2: "DUL service-provider (ACSE related)",
    3: "DUL service-provider (presentation related)",
}
REJECTION_REASONS = {
    (1, 1): "No reason given",
    (1, 2): "Application context name not supported",
    (1, 3): "Calling AE title not recognised",
    (1, 7): "Called AE title not recognised",
    (2, 1): "No reason given",
    (2, 2): "Protocol version not supported",
    (3, 1): "Temporary congestion",
    (3, 2): "Local limit exceeded",
}

# PS3.8 Table 9-26
_ABORTERS = {0: "DUL service-user", 1: "Reserved", 2: "DUL service-provider"}
ABORT_REASONS = {
    0: "No reason given",
    1: "Unrecognised PDU",
    2: "Unexpected PDU",
    3: "Reserved",
    4: "Unrecognised PDU parameter",
    5: "Unexpected PDU parameter",
    6: "Invalid PDU parameter value",
}

# PS3.8 Table 9-18
_ANSWERS = {
    ACCEPTANCE: "Accepted",
    USER_REJECTION: "Rejected - User Rejection",
    NO_REASON: "Rejected - No Reason",
    ABSTRACT_SYNTAX_NOT_SUPPORTED: "Rejected - Abstract Syntax Not Supported",
    TRANSFER_SYNTAXES_NOT_SUPPORTED: "Rejected - Transfer Syntax Not Supported",
}

#: PS3.8 Annex D.3.3.4: by what the requestor proposes to be, SCU and SCP.
_ROLES = {(True, False): "SCU", (False, True): "SCP", (True, True): "SCP/SCU", (False, False): ""}

# PS3.7 Table D.3-14
_IDENTITIES = {
    1: "Username",
    2: "Username/Password",
    3: "Kerberos",
    4: "SAML",
    5: "JSON Web Token",
}
_TOKENS = {3: "Kerberos Service Ticket", 4: "SAML Assertion", 5: "JSON Web Token"}

_PRIORITIES = {dimse.MEDIUM: "Medium", dimse.HIGH: "High", dimse.LOW: "Low"}

_CONTEXT, _ID, _ANSWERED = "Presentation Context ID", "Message ID", "Message ID Being Responded To"
_AFFECTED = ("Affected SOP Class UID", "Affected SOP Instance UID")
_REQUESTED = ("Requested SOP Class UID", "Requested SOP Instance UID")

#: The rows of a message. One that names no element below says whether there is a data set.
_MESSAGES: Mapping[type[dimse.Command], tuple[str, tuple[str, ...]]] = {
    dimse.CEchoRQ: ("C-ECHO RQ", (_CONTEXT, _ID, "Data Set")),
    dimse.CStoreRQ: ("C-STORE RQ", (_CONTEXT, _ID, *_AFFECTED, "Move Originator", "Data Set", "Priority")),
    dimse.CFindRQ: ("C-FIND RQ", (_ID, _AFFECTED[0], "Identifier", "Priority")),
    dimse.CGetRQ: ("C-GET RQ", (_ID, _AFFECTED[0], "Identifier", "Priority")),
    # pynetdicom prints nothing for this one, by a defect.
    dimse.CMoveRQ: ("C-MOVE RQ", (_ID, _AFFECTED[0], "Move Destination", "Identifier", "Priority")),
    dimse.CCancelRQ: ("C-CANCEL RQ", (_ANSWERED,)),
    dimse.NEventReportRQ: ("N-EVENT-REPORT RQ", (_ID, *_AFFECTED, "Event Type ID", "Event Information")),
    dimse.NGetRQ: ("N-GET RQ", (_ID, *_REQUESTED, "Attribute Identifier List")),
    dimse.NSetRQ: ("N-SET RQ", (_ID, *_REQUESTED, "Modification List")),
    dimse.NActionRQ: ("N-ACTION RQ", (_ID, *_REQUESTED, "Action Type ID", "Action Information")),
    dimse.NCreateRQ: ("N-CREATE RQ", (_ID, *_AFFECTED, "Attribute List")),
    dimse.NDeleteRQ: ("N-DELETE RQ", (_ID, *_REQUESTED)),
}
_UNRECOGNIZED = (_CONTEXT, _ID, "Data Set")

#: The element that a row shows.
_ELEMENTS = {
    _ID: "message_id",
    _ANSWERED: "message_id_being_responded_to",
    _AFFECTED[0]: "affected_sop_class_uid",
    _AFFECTED[1]: "affected_sop_instance_uid",
    _REQUESTED[0]: "requested_sop_class_uid",
    _REQUESTED[1]: "requested_sop_instance_uid",
    "Move Originator": "move_originator_ae_title",
    "Move Destination": "move_destination",
    "Priority": "priority",
    "Event Type ID": "event_type_id",
    "Action Type ID": "action_type_id",
    "Attribute Identifier List": "attribute_identifier_list",
}


def uid_name(uid: str) -> str:
    """Return the name of a UID in the standard's registry, else the UID itself."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # it takes long to import

    entry = UID_dictionary.get(uid)
    return visible((entry and entry[0]) or uids.name(uid))


def message_type(command: dimse.Command) -> str:
    """Return what the standard calls a message, but with a space: ``C-STORE RQ``."""
    known = _MESSAGES.get(type(command))
    return known[0] if known is not None else f"0x{command.command_field:04X} RQ"


def read_data_set(transfer_syntax: str) -> str:
    """Return the line about a data set, or a command set, that is being read."""
    deflated = "Deflated " if transfer_syntax == uids.DEFLATED_EXPLICIT_VR_LE else ""
    order = "Big" if transfer_syntax == uids.EXPLICIT_VR_BE else "Little"
    vr = "Implicit" if transfer_syntax == uids.IMPLICIT_VR_LE else "Explicit"
    return f'pydicom.read_dataset() TransferSyntax="{deflated}{order} Endian {vr}"'


def associate_rq(request: AssociateRQ, direction: str = INCOMING) -> Iterator[str]:
    """Yield the lines about an A-ASSOCIATE-RQ that arrived, or was sent."""
    information = request.user_information
    whose = _WHOSE[direction]
    yield "Request Parameters:"
    yield _banner(f"{direction} A-ASSOCIATE-RQ PDU")
    yield f"{whose} Implementation Class UID:      {_or(information.implementation_class_uid, 'unknown')}"
    yield f"{whose} Implementation Version Name:   {_or(information.implementation_version_name, 'unknown')}"
    yield f"Application Context Name:    {_or(request.application_context, 'None')}"
    yield f"Calling Application Name:    {visible(request.calling_ae_title)}"
    yield f"Called Application Name:     {visible(request.called_ae_title)}"
    yield f"{f'{whose} Max PDU Receive Size:':<28} {information.max_length}"
    yield f"Presentation Context{_s(request.contexts)}:"
    roles = _roles(information.roles)
    for context in sorted(request.contexts, key=lambda context: context.id):
        yield f"  Context ID:        {context.id} (Proposed)"
        yield f"    Abstract Syntax: ={uid_name(context.abstract_syntax)}"
        yield f"    Proposed SCP/SCU Role: {roles.get(context.abstract_syntax, 'Default')}"
        yield f"    Proposed Transfer Syntax{'' if len(context.transfer_syntaxes) == 1 else 'es'}:"
        for uid in context.transfer_syntaxes[:MOST]:
            yield f"      ={uid_name(uid)}"
        yield from _more(context.transfer_syntaxes, "      ")
    yield from _extended("Requested", information.extended)
    yield from _common_extended(information.common_extended)
    yield from _window("Requested", information.asynchronous_operations_window)
    yield from _user_identity(information.user_identity)
    yield _banner("END A-ASSOCIATE-RQ PDU")


def associate_ac(request: AssociateRQ, answer: AssociateAC, direction: str = OUTGOING) -> Iterator[str]:
    """Yield the lines about the A-ASSOCIATE-AC that answers a request: it was sent, or arrived."""
    information = answer.user_information
    proposed = {context.id: context.abstract_syntax for context in request.contexts}
    roles = _roles(information.roles)
    whose = _WHOSE[direction]
    class_uid = _or(information.implementation_class_uid, "unknown")
    version_name = _or(information.implementation_version_name, "unknown")
    yield "Accept Parameters:"
    yield _banner(f"{direction} A-ASSOCIATE-AC PDU")
    yield f"{f'{whose} Implementation Class UID:':<34} {class_uid}"
    yield f"{f'{whose} Implementation Version Name:':<34} {version_name}"
    yield f"Application Context Name:    {_or(answer.application_context, 'None')}"
    if direction == OUTGOING:
        yield f"Responding Application Name: {visible(answer.called_ae_title)}"
    else:
        yield f"Calling Application Name:    {visible(answer.calling_ae_title)}"
        yield f"Called Application Name:     {visible(answer.called_ae_title)}"
    yield f"{f'{whose} Max PDU Receive Size:':<28} {information.max_length}"
    yield "Presentation Contexts:"
    for context in sorted(answer.contexts, key=lambda context: context.id):
        abstract_syntax = proposed.get(context.id, "")
        yield f"  Context ID:        {context.id} ({_ANSWERS.get(context.result, 'Rejected')})"
        yield f"    Abstract Syntax: ={uid_name(abstract_syntax)}"
        if context.result == ACCEPTANCE:
            yield f"    Accepted SCP/SCU Role: {roles.get(abstract_syntax, 'Default')}"
            yield f"    Accepted Transfer Syntax: ={uid_name(context.transfer_syntax)}"
    yield from _extended("Accepted", information.extended)
    yield from _window("Accepted", information.asynchronous_operations_window)
    response = information.user_identity_response
    shown = "None" if response is None else f"(not dumped) length: {len(response)}"
    yield f"User Identity Negotiation Response: {shown}"
    yield _banner("END A-ASSOCIATE-AC PDU")


def associate_rj(rejection: AssociateRJ, direction: str = OUTGOING) -> Iterator[str]:
    """Yield the lines about an A-ASSOCIATE-RJ that was sent, or arrived."""
    reason = REJECTION_REASONS.get((rejection.source, rejection.reason), "Reserved")
    yield "Reject Parameters:"
    yield _banner(f"{direction} A-ASSOCIATE-RJ PDU")
    yield f"Result:    {_RESULTS.get(rejection.result, _NO_VALUE)}"
    yield f"Source:    {_REJECTORS.get(rejection.source, _NO_VALUE)}"
    yield f"Reason:    {reason}"
    yield _banner("END A-ASSOCIATE-RJ PDU")


def abort(pdu: Abort, direction: str) -> Iterator[str]:
    """Yield the lines about an A-ABORT that arrived, or was sent."""
    reasons = ABORT_REASONS if pdu.source == SERVICE_PROVIDER else {}
    yield "Abort Parameters:"
    yield _banner(f"{direction} A-ABORT PDU")
    yield f"Abort Source: {_ABORTERS.get(pdu.source, _NO_VALUE)}"
    yield f"Abort Reason: {reasons.get(pdu.reason, _NO_VALUE)}"
    yield _banner("END A-ABORT PDU")


def message(
    context_id: int, command: dimse.Command, has_data_set: bool, direction: str = INCOMING
) -> Iterator[str]:
    """Yield the lines about a request that arrived, or was sent."""
    _, rows = _MESSAGES.get(type(command), ("", _UNRECOGNIZED))
    yield _banner(f"{direction} DIMSE MESSAGE")
    yield f"{'Message Type':<30}: {message_type(command)}"
    for label in rows:
        element = _ELEMENTS.get(label)
        if label is _CONTEXT:
            value = str(context_id)
        elif element is None:
            value = "Present" if has_data_set else "None"
        elif (found := getattr(command, element)) is None:
            continue
        else:
            value = _value(element, found)
        yield f"{label:<30}: {value}"
    yield _banner("END DIMSE MESSAGE")


def _value(element: str, value: object) -> str:
    if element.endswith("sop_class_uid"):
        return uid_name(str(value))
    if element == "priority":
        return _PRIORITIES.get(value, str(value))  # type: ignore[call-overload, no-any-return]
    if isinstance(value, tuple):
        return f"({len(value)} Attribute Tag(s))" if value else "None"
    return visible(str(value))


def _banner(title: str) -> str:
    return f"{f' {title} ':=^76}"


def _or(value: str, absent: str) -> str:
    return visible(value) or absent


def _s(items: Sized) -> str:
    return "" if len(items) == 1 else "s"


def _more(items: Sized, indent: str) -> Iterator[str]:
    if len(items) > MOST:
        yield f"{indent}... {len(items) - MOST} more"


def _roles(selections: Sequence[RoleSelection]) -> dict[str, str]:
    return {role.sop_class_uid: _ROLES[role.scu, role.scp] for role in selections}


def _extended(verb: str, items: Sequence[ExtendedNegotiation]) -> Iterator[str]:
    yield f"{verb} Extended Negotiation:{'' if items else ' None'}"
    for item in items[:MOST]:
        yield f"  SOP Class: ={visible(item.sop_class_uid)}"
        octets = item.application_information
        if len(octets) > _OCTETS:
            yield f"    Only dumping {_OCTETS} bytes."
        for start in range(0, min(len(octets), _OCTETS), 16):
            yield f"    {'  '.join(f'{octet:02x}' for octet in islice(octets, start, start + 16))}"
    yield from _more(items, "  ")


def _common_extended(items: Sequence[CommonExtendedNegotiation]) -> Iterator[str]:
    yield f"Requested Common Extended Negotiation:{'' if items else ' None'}"
    for item in items[:MOST]:
        yield f"  SOP Class: ={uid_name(item.sop_class_uid)}"
        yield f"    Service Class: ={uid_name(item.service_class_uid)}"
        related = item.related_general_sop_class_uids
        if not related:
            yield "    Related General SOP Classes: None"
            continue
        yield "    Related General SOP Class(es):"
        for uid in related[:MOST]:
            yield f"      ={uid_name(uid)}"
        yield from _more(related, "      ")
    yield from _more(items, "  ")


def _window(verb: str, window: tuple[int, int] | None) -> Iterator[str]:
    yield f"{verb} Asynchronous Operations Window Negotiation:{'' if window else ' None'}"
    if window:
        yield f"  Maximum Invoked Operations:     {window[0]}"
        yield f"  Maximum Performed Operations:   {window[1]}"


def _user_identity(identity: UserIdentity | None) -> Iterator[str]:
    yield f"Requested User Identity Negotiation:{'' if identity else ' None'}"
    if identity is None:
        return
    yield f"  Authentication Mode: {identity.type} - {_IDENTITIES.get(identity.type, _NO_VALUE)}"
    if identity.type in (1, 2):
        yield f"  Username: [{user_name(identity)}]"
    if identity.type == 2:
        yield "  Password: [********]"
    if identity.type in _TOKENS:
        yield f"  {_TOKENS[identity.type]} (not dumped) length: {len(identity.primary)}"
    yield f"  Positive Response Requested: {'Yes' if identity.response_requested else 'None'}"


def user_name(identity: UserIdentity) -> str:
    """Return the name of a user who has one, types 1 and 2."""
    return visible(identity.primary.decode("utf-8", "backslashreplace"))
