"""The User Information of an association (PS3.8 9.3.2.3, Annex D; PS3.7 Annex D.3).

Its sub-items are flattened into one value, since nobody wants item soup. Sub-items not recognised
are ignored (PS3.8 9.3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from dicomnode.errors import InvalidPDU

#: Item type, reserved, length of what follows: of items and sub-items alike.
ITEM = Struct(">BxH")
_LENGTH = Struct(">H")
_MAX_LENGTH = Struct(">I")
_WINDOW = Struct(">HH")

#: Items, or sub-items of one, that are read: eight times as many as there can be presentation contexts. A
#: quarter of a MiB of empty ones would take a tenth of a second.
ITEMS = 1024

# Sub-item types
MAXIMUM_LENGTH = 0x51
IMPLEMENTATION_CLASS_UID = 0x52
ASYNCHRONOUS_OPERATIONS_WINDOW = 0x53
ROLE_SELECTION = 0x54
IMPLEMENTATION_VERSION_NAME = 0x55
EXTENDED_NEGOTIATION = 0x56
COMMON_EXTENDED_NEGOTIATION = 0x57
USER_IDENTITY_RQ = 0x58
USER_IDENTITY_AC = 0x59


def encode_item(item: int, value: bytes) -> bytes:
    """Return an item: its header and its value."""
    return ITEM.pack(item, len(value)) + value


def read_items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the value of each item in ``data``.

    :raises InvalidPDU: when an item does not end where its length says, or there are more than ``ITEMS``.
    """
    position = 0
    end = len(data)
    left = ITEMS
    while position < end:
        if not left:
            raise InvalidPDU("there are too many items")
        left -= 1
        if end - position < ITEM.size:
            raise InvalidPDU("an item ends inside its header")
        item, length = ITEM.unpack_from(data, position)
        position += ITEM.size
        if end - position < length:
            raise InvalidPDU(f"item {item:02X}H is longer than what holds it")
        yield item, data[position : position + length]
        position += length


def read_uid(value: bytes | memoryview) -> str:
    """Return a UID; devices pad it with NUL or space, though PS3.8 F.1 forbids padding."""
    return bytes(value).decode("latin-1").rstrip("\0 ")


class _Cursor:
    """Takes length-prefixed fields off a sub-item, never past its end."""

    def __init__(self, data: memoryview) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        if len(self.rest) < count:
            raise InvalidPDU("a sub-item ends inside one of its fields")
        taken = bytes(self.rest[:count])
        self.rest = self.rest[count:]
        return taken

    def octet(self) -> int:
        return self.take(1)[0]

    def field(self) -> bytes:
        (length,) = _LENGTH.unpack(self.take(2))
        return self.take(length)

    def uid(self) -> str:
        return read_uid(self.field())


def _field(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection for one SOP Class (PS3.7 Tables D.3-9 and D.3-10)."""

    sop_class_uid: str
    scu: bool  #: the requestor proposes to be, or is accepted as, SCU
    scp: bool

    def encode(self) -> bytes:
        return _field(self.sop_class_uid.encode("latin-1")) + bytes((self.scu, self.scp))

    @classmethod
    def decode(cls, value: memoryview) -> RoleSelection:
        cursor = _Cursor(value)
        return cls(cursor.uid(), bool(cursor.octet()), bool(cursor.octet()))


@dataclass(frozen=True, slots=True)
class ExtendedNegotiation:
    """SOP Class extended negotiation (PS3.7 Table D.3-11)."""

    sop_class_uid: str
    application_information: bytes  #: as the service class defines it

    def encode(self) -> bytes:
        return _field(self.sop_class_uid.encode("latin-1")) + self.application_information

    @classmethod
    def decode(cls, value: memoryview) -> ExtendedNegotiation:
        cursor = _Cursor(value)
        return cls(cursor.uid(), bytes(cursor.rest))


@dataclass(frozen=True, slots=True)
class CommonExtendedNegotiation:
    """SOP Class common extended negotiation (PS3.7 Table D.3-12)."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_class_uids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        related = b"".join(_field(uid.encode("latin-1")) for uid in self.related_general_sop_class_uids)
        uids = (self.sop_class_uid, self.service_class_uid)
        return b"".join(_field(uid.encode("latin-1")) for uid in uids) + _field(related)

    @classmethod
    def decode(cls, value: memoryview) -> CommonExtendedNegotiation:
        cursor = _Cursor(value)
        sop_class, service_class = cursor.uid(), cursor.uid()
        related = _Cursor(memoryview(cursor.field()))
        uids: list[str] = []
        while related.rest:
            if len(uids) == ITEMS:
                raise InvalidPDU("there are too many related general SOP classes")
            uids.append(related.uid())
        # What follows is reserved for later versions (Table D.3-12).
        return cls(sop_class, service_class, tuple(uids))


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The identity of the requestor's user (PS3.7 Table D.3-14)."""

    type: int  #: 1 username, 2 with passcode, 3 Kerberos, 4 SAML, 5 JSON Web Token
    primary: bytes = field(repr=False)
    secondary: bytes = field(default=b"", repr=False)  #: the passcode, of type 2 alone
    response_requested: bool = False

    def encode(self) -> bytes:
        head = bytes((self.type, self.response_requested))
        return head + _field(self.primary) + _field(self.secondary)

    @classmethod
    def decode(cls, value: memoryview) -> UserIdentity:
        cursor = _Cursor(value)
        type_, response = cursor.octet(), cursor.octet()
        return cls(type_, cursor.field(), cursor.field(), bool(response))


@dataclass(frozen=True, slots=True)
class UserInformation:
    """What the two ends tell each other besides the contexts (PS3.8 Table 9-16)."""

    max_length: int | None = None  #: octets of a P-DATA-TF that its sender accepts; 0 is no limit
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    asynchronous_operations_window: tuple[int, int] | None = None  #: invoked, performed; 0 is no limit
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[ExtendedNegotiation, ...] = ()
    common_extended: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None
    #: of an A-ASSOCIATE-AC; it may be a Kerberos ticket or a SAML response
    user_identity_response: bytes | None = field(default=None, repr=False)
    #: An acceptor says the same to everyone. What another is made of (``replace``) does not have it.
    _encoded: bytes = field(default=b"", init=False, compare=False, repr=False)

    def encode(self) -> bytes:
        """Return the sub-items, in ascending order of their types (PS3.7 D.3.3)."""
        if not self._encoded:
            object.__setattr__(self, "_encoded", self._encode())  # which does not change what it is
        return self._encoded

    def _encode(self) -> bytes:
        items: list[tuple[int, bytes]] = []
        if self.max_length is not None:
            items.append((MAXIMUM_LENGTH, _MAX_LENGTH.pack(self.max_length)))
        if self.implementation_class_uid:
            items.append((IMPLEMENTATION_CLASS_UID, self.implementation_class_uid.encode("latin-1")))
        if self.asynchronous_operations_window is not None:
            window = _WINDOW.pack(*self.asynchronous_operations_window)
            items.append((ASYNCHRONOUS_OPERATIONS_WINDOW, window))
        items += [(ROLE_SELECTION, role.encode()) for role in self.roles]
        if self.implementation_version_name:
            items.append((IMPLEMENTATION_VERSION_NAME, self.implementation_version_name.encode("latin-1")))
        items += [(EXTENDED_NEGOTIATION, negotiation.encode()) for negotiation in self.extended]
        items += [(COMMON_EXTENDED_NEGOTIATION, common.encode()) for common in self.common_extended]
        if self.user_identity is not None:
            items.append((USER_IDENTITY_RQ, self.user_identity.encode()))
        if self.user_identity_response is not None:
            items.append((USER_IDENTITY_AC, _field(self.user_identity_response)))
        return b"".join(encode_item(item, value) for item, value in items)

    @classmethod
    def decode(cls, data: memoryview) -> UserInformation:
        values: dict[str, Any] = {}
        roles: list[RoleSelection] = []
        extended: list[ExtendedNegotiation] = []
        common_extended: list[CommonExtendedNegotiation] = []
        for item, value in read_items(data):
            if item == MAXIMUM_LENGTH:
                values["max_length"] = _unpack(_MAX_LENGTH, value)[0]
            elif item == IMPLEMENTATION_CLASS_UID:
                values["implementation_class_uid"] = read_uid(value)
            elif item == ASYNCHRONOUS_OPERATIONS_WINDOW:
                values["asynchronous_operations_window"] = _unpack(_WINDOW, value)
            elif item == ROLE_SELECTION:
                roles.append(RoleSelection.decode(value))
            elif item == IMPLEMENTATION_VERSION_NAME:
                values["implementation_version_name"] = read_uid(value)
            elif item == EXTENDED_NEGOTIATION:
                extended.append(ExtendedNegotiation.decode(value))
            elif item == COMMON_EXTENDED_NEGOTIATION:
                common_extended.append(CommonExtendedNegotiation.decode(value))
            elif item == USER_IDENTITY_RQ:
                values["user_identity"] = UserIdentity.decode(value)
            elif item == USER_IDENTITY_AC:
                values["user_identity_response"] = _Cursor(value).field()
        return cls(
            roles=tuple(roles), extended=tuple(extended), common_extended=tuple(common_extended), **values
        )


def _unpack(layout: Struct, value: memoryview) -> tuple[int, ...]:
    if len(value) != layout.size:
        raise InvalidPDU(f"a sub-item is {len(value)} octets long, not {layout.size}")
    return layout.unpack(value)
