"""The codec of command sets: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1).

It writes, and reads, what the messages of ``dicomnode.core.command`` declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as _StructError
from typing import Any, NamedTuple

from dicomnode.core.command import (
    COMMANDS,
    ELEMENTS,
    RESPONSE,
    Command,
    UnrecognizedRQ,
    UnrecognizedRSP,
)
from dicomnode.errors import InvalidCommand

#: Group, element and length of an element (PS3.5 7.1.3).
_ELEMENT = Struct("<HHI")
_US = Struct("<H")
#: Command Group Length (0000,0000), with its value.
_GROUP_LENGTH = Struct("<HHII")

_COMMAND_FIELD = 0x0100
_DATA_SET_TYPE = 0x0800
_NO_DATA_SET = 0x0101
#: Any other value says that there is one (PS3.7 E.1).
_DATA_SET = 0x0001

#: A command set longer than this is not read, in octets: every element but a list of attributes is
#: bounded by its VR.
LIMIT = 1 << 16

#: What pads a text to an even length (PS3.5 6.2).
_PADDING = {"UI": b"\0", "AE": b" ", "LO": b" "}

#: A command set that is longer is not remembered, in octets; and so many are at most.
_LONGEST_LAYOUT = 512
_LAYOUTS = 64


class _Step(NamedTuple):
    """An element to encode, and the octets before it that are the same each time."""

    same: bytes
    name: str
    number: int  #: 0 of one that is a mandatory number: its header is the same each time
    vr: str


def _steps(message: type[Command], has_data_set: bool) -> tuple[tuple[_Step, ...], bytes]:
    """Return what :func:`encode` writes, and the octets behind that."""
    steps = []
    same = b""
    elements = {number: (name, vr, mandatory) for number, name, vr, mandatory in ELEMENTS[message]}
    for number in sorted((*elements, _COMMAND_FIELD, _DATA_SET_TYPE)):
        header = _ELEMENT.pack(0, number, 2)
        name, vr, mandatory = elements.get(number, ("command_field", "US", True))
        if number == _DATA_SET_TYPE:
            same += header + _US.pack(_DATA_SET if has_data_set else _NO_DATA_SET)
        elif number == _COMMAND_FIELD and message in COMMANDS.values():
            same += header + _US.pack(message.command_field)
        else:
            fixed = vr == "US" and mandatory
            steps.append(_Step(same + header if fixed else same, name, 0 if fixed else number, vr))
            same = b""
    return tuple(steps), same


_STEPS = {
    (message, has_data_set): _steps(message, has_data_set)
    for message in ELEMENTS
    for has_data_set in (False, True)
}


def encode(command: Command, has_data_set: bool = False) -> bytes:
    """Return the command set of ``command``.

    :param has_data_set: does a data set follow it?
    """
    parts: list[bytes] = []
    steps, behind = _STEPS[type(command), has_data_set]
    for same, name, number, vr in steps:
        value = getattr(command, name)
        if not number:
            parts += (same, _US.pack(value))
            continue
        if same:
            parts.append(same)
        if value is not None and value != ():  # an empty list of attributes is an absent one: its VM is 1-n
            octets = _encode_value(vr, value)
            parts.append(_ELEMENT.pack(0, number, len(octets)) + octets)
    parts.append(behind)
    octets = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(octets)) + octets


def _encode_value(vr: str, value: Any) -> bytes:
    if vr == "US":
        return _US.pack(value)
    if vr == "AT":
        return b"".join(_US.pack(tag >> 16) + _US.pack(tag & 0xFFFF) for tag in value)
    octets: bytes = value.encode("latin-1", "replace")
    return octets + _PADDING[vr] if len(octets) & 1 else octets


class _Layout(NamedTuple):
    """How a command set was laid out. What a peer says next is laid out so, too, but for its values.

    So it is taken apart in one step: octets that are the same again, a value, and so on.
    """

    unpack: Callable[[bytes], tuple[Any, ...]]
    same: tuple[bytes, ...]
    names: tuple[str, ...]  #: of the values
    message: type[Command]
    has_data_set: bool


#: By length, and the length of the first element behind Command Group Length: of a C-STORE-RQ, how long the
#: UID of its SOP Class is.
_layouts: dict[tuple[int, bytes], _Layout] = {}


def decode(data: bytes | bytearray | memoryview) -> tuple[Command, bool]:
    """Return the command of a command set, and whether a data set follows it.

    :raises InvalidCommand: when ``data`` is not a command set, or lacks what no message can do without.
    """
    octets = bytes(data)
    key = (len(octets), octets[16:20])
    layout = _layouts.get(key)
    if layout is not None:
        fields = layout.unpack(octets)
        if fields[::2] == layout.same:
            values = [value if type(value) is int else _text(value) for value in fields[1::2]]
            return layout.message(**dict(zip(layout.names, values, strict=True))), layout.has_data_set
    elements = _split(octets)
    try:
        (code,) = _US.unpack(elements[_COMMAND_FIELD])
        (data_set_type,) = _US.unpack(elements[_DATA_SET_TYPE])
    except (KeyError, ValueError, _StructError):
        raise InvalidCommand("Command Field or Command Data Set Type is absent or malformed") from None
    message = COMMANDS.get(code)
    known: dict[str, Any] = {}
    if message is None:
        message = UnrecognizedRSP if code & RESPONSE else UnrecognizedRQ
        known["command_field"] = code
    for number, name, vr, mandatory in ELEMENTS[message]:
        value = elements.get(number)
        if value or (value is not None and vr != "US"):  # an empty number is no number
            known[name] = _decode_value(number, vr, value)
        elif mandatory:
            if vr == "US":
                raise InvalidCommand(f"(0000,{number:04X}) is absent")
            known[name] = ""
    has_data_set = data_set_type != _NO_DATA_SET
    command = message(**known)
    if len(octets) <= _LONGEST_LAYOUT and code in COMMANDS:
        if len(_layouts) == _LAYOUTS:
            _layouts.clear()
        layout = _laid_out(octets, message, has_data_set)
        if layout is not None:
            _layouts[key] = layout
    return command, has_data_set


def _laid_out(octets: bytes, message: type[Command], has_data_set: bool) -> _Layout | None:
    """Return how a command set is laid out; None where there is more to it than texts and numbers."""
    named = {number: (name, vr) for number, name, vr, _ in ELEMENTS[message]}
    form, same, names = "<", [], []
    behind = 0  # the last value
    for number, value, end in _walk(octets):
        name, vr = named.get(number, ("", ""))
        if not name:
            continue  # the same again, or the next is laid out in another way
        length = end - value
        if vr == "AT" or (vr == "US" and length != 2) or name in names:
            return None
        form += f"{value - behind}s" + ("H" if vr == "US" else f"{length}s")
        same.append(octets[behind:value])
        names.append(name)
        behind = end
    if any(mandatory and name not in names for _, name, _, mandatory in ELEMENTS[message]):
        return None
    same.append(octets[behind:])
    return _Layout(
        Struct(f"{form}{len(octets) - behind}s").unpack, tuple(same), tuple(names), message, has_data_set
    )


def _split(data: bytes) -> dict[int, bytes]:
    """Return the values of group 0000, by element number."""
    return {number: data[value:end] for number, value, end in _walk(data)}


def _walk(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the elements of group 0000: their numbers, and where their values begin and end."""
    position, end = 0, len(data)
    while position < end:
        value = position + _ELEMENT.size
        if value > end:
            raise InvalidCommand("a command set ends inside an element")
        group, number, length = _ELEMENT.unpack_from(data, position)
        position = value + length
        if position > end:
            raise InvalidCommand(f"({group:04X},{number:04X}) is longer than its command set")
        if group == 0:
            yield number, value, position


def _decode_value(number: int, vr: str, value: bytes) -> Any:
    if vr == "US":
        if len(value) != 2:
            raise InvalidCommand(f"(0000,{number:04X}) is not two octets long")
        return int.from_bytes(value, "little")
    if vr == "AT":
        numbers = value[: len(value) & ~3]
        pairs = Struct(f"<{len(numbers) // 2}H").unpack(numbers)
        return tuple(high << 16 | low for high, low in zip(pairs[::2], pairs[1::2], strict=True))
    return _text(value)


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")
