"""The codec of command sets: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1).

It writes, and reads, what the messages of ``dicomnode.core.command`` declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter, call, length_hint, methodcaller
from struct import Struct
from struct import error as _StructError
from typing import Any, NamedTuple

from dicomnode.core.command import (
    COMMANDS,
    ELEMENTS,
    RESPONSE,
    Command,
    Element,
    UnrecognizedRQ,
    UnrecognizedRSP,
)
from dicomnode.errors import InvalidCommand
from dicomnode.values import quick

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
#: So many forms are remembered at most. None is longer than its headers.
_FORMS = 256


#: The elements that :func:`encode` writes of a message with their values; and what returns these.
_WRITTEN = {
    message: sorted((*elements, Element(_COMMAND_FIELD, "command_field", "US", True)))
    for message, elements in ELEMENTS.items()
}
_VALUES = {message: attrgetter(*(item.name for item in items)) for message, items in _WRITTEN.items()}


class _Form(NamedTuple):
    """What is the same in command sets whose values are of the same types and lengths: all but the values."""

    template: bytes
    writers: tuple[Callable[[Any], bytes], ...]  #: of each value, present or not


#: By message, whether a data set follows, and the types and lengths of the values.
_forms: dict[tuple[Any, ...], _Form] = {}


def encode(command: Command, has_data_set: bool = False) -> bytes:
    """Return the command set of ``command``.

    :param has_data_set: does a data set follow it?
    """
    message = type(command)
    values = _VALUES[message](command)
    key = (message, has_data_set, *map(type, values), *map(length_hint, values))  # a number's length is 0
    form = _forms.get(key)
    if form is None:
        if len(_forms) == _FORMS:
            _forms.clear()
        form = _forms[key] = _formed(message, has_data_set, values)
    template, writers = form
    return template % tuple(map(call, writers, values))


def _formed(message: type[Command], has_data_set: bool, values: tuple[Any, ...]) -> _Form:
    """Return the form of a command set with such values."""
    data_set_type = _ELEMENT.pack(0, _DATA_SET_TYPE, 2) + _US.pack(
        _DATA_SET if has_data_set else _NO_DATA_SET
    )
    parts = [(_DATA_SET_TYPE, data_set_type)]
    size = len(data_set_type)
    writers: list[Callable[[Any], bytes]] = []
    for (number, _, vr, mandatory), value in zip(_WRITTEN[message], values, strict=True):
        # An empty list of attributes is an absent one: its VM is 1-n. A mandatory number cannot be absent.
        if (value is None or value == ()) and not (vr == "US" and mandatory):
            writers.append(_absent)
            parts.append((number, b"%b"))
            continue
        writers.append(_WRITERS[vr])
        length = 2 if vr == "US" else length_hint(value) * (4 if vr == "AT" else 1)
        header = _ELEMENT.pack(0, number, length + (length & 1))
        padding = _PADDING[vr] if length & 1 else b""
        parts.append((number, header.replace(b"%", b"%%") + b"%b" + padding))
        size += len(header) + length + len(padding)
    template = b"".join(part for _, part in sorted(parts))
    return _Form(_GROUP_LENGTH.pack(0, 0, 4, size).replace(b"%", b"%%") + template, tuple(writers))


def _absent(value: object) -> bytes:
    return b""


def _tags(value: tuple[int, ...]) -> bytes:
    return b"".join(_US.pack(tag >> 16) + _US.pack(tag & 0xFFFF) for tag in value)


_text_written = methodcaller("encode", "latin-1", "replace")  # an octet for each character
_WRITERS: dict[str, Callable[[Any], bytes]] = {
    "US": _US.pack,
    "AT": _tags,
    "UI": _text_written,
    "AE": _text_written,
    "LO": _text_written,
}


_decoded = methodcaller("decode", "latin-1")
_stripped = methodcaller("strip", " \0")


class _Layout(NamedTuple):
    """How a command set was laid out. What a peer says next is laid out so, too, but for its values.

    So it is taken apart in one step: octets that are the same again, a value, and so on.
    """

    the_same: Callable[[bytes], tuple[bytes, ...]]
    same: tuple[bytes, ...]
    numbers: Callable[[bytes], tuple[int, ...]]
    texts: Callable[[bytes], tuple[bytes, ...]]
    names: tuple[str, ...]  #: of the numbers, then of the texts
    make: type[Command]
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
        the_same, same, numbers, texts, names, make, has_data_set = layout
        if the_same(octets) == same:
            values = (*numbers(octets), *map(_stripped, map(_decoded, texts(octets))))
            return make(**dict(zip(names, values, strict=True))), has_data_set
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
    the_same, numbers, texts = "<", "<", "<"  # what of a command set each of them leaves out is padding to it
    number_names: list[str] = []
    text_names: list[str] = []
    behind = 0  # the last value
    for element, value, end in _walk(octets):
        name, vr = named.get(element, ("", ""))
        if not name:
            continue  # the same again, or the next is laid out in another way
        length = end - value
        if vr == "AT" or (vr == "US" and length != 2) or name in (*number_names, *text_names):
            return None
        before = value - behind
        the_same += f"{before}s{length}x"
        if vr == "US":
            numbers += f"{before}xH"
            texts += f"{before + length}x"
            number_names.append(name)
        else:
            numbers += f"{before + length}x"
            texts += f"{before}x{length}s"
            text_names.append(name)
        behind = end
    names = (*number_names, *text_names)
    if any(mandatory and name not in names for _, name, _, mandatory in ELEMENTS[message]):
        return None
    rest = len(octets) - behind
    unpack_same = Struct(f"{the_same}{rest}s").unpack
    return _Layout(
        unpack_same,
        unpack_same(octets),
        Struct(f"{numbers}{rest}x").unpack,
        Struct(f"{texts}{rest}x").unpack,
        names,
        quick(message),
        has_data_set,
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
    return str(_stripped(_decoded(value)))
