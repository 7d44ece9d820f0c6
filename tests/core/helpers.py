"""What the tests of ``dicomnode.core`` share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st

_DUMP = re.compile(r"#.*|'([^']*)'|([0-9A-F]{2})(?=\s|$)|(\S+)")

#: The same examples in each run, and no clock: a slow machine is no failure.
stable = settings(derandomize=True, deadline=None, database=None, max_examples=100)


def octets(dump: str) -> bytes:
    """Read a dump: octets in hexadecimal, text in quotes; what follows # on a line is a remark."""
    parts = []
    for match in _DUMP.finditer(dump):
        text, octet, other = match.groups()
        if other is not None:
            raise ValueError(f"{other} is neither an octet nor text")
        if text is not None:
            parts.append(text.encode("ascii"))
        elif octet is not None:
            parts.append(bytes.fromhex(octet))
    return b"".join(parts)


def octet_by_octet(data: bytes) -> tuple[bytes, ...]:
    return tuple(bytes((octet,)) for octet in data)


def arrivals(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Yield the ways in which ``data`` may arrive: whole, octet by octet, and cut in two anywhere."""
    yield (data,)
    yield octet_by_octet(data)
    for cut in range(1, len(data)):
        yield data[:cut], data[cut:]


def cut_at(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut ``data`` at each of the places that lies inside it."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:end] for start, end in pairwise(places)]


def truncations(data: bytes) -> Iterator[bytes]:
    """Yield each beginning of ``data`` but the whole."""
    for end in range(len(data)):
        yield data[:end]


#: UIDs as they must be, and other octets that a careless peer may send instead.
uids = st.one_of(
    st.text("0123456789.", min_size=1, max_size=12),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), min_size=1, max_size=12),
)
