"""Fragments of a data set: what they cost while they wait for someone.

Each is a slice of what the transport has delivered, and keeps all of that.
"""

from __future__ import annotations

from collections.abc import Sequence

#: More fragments than ``MANY``, of less than ``SMALL`` octets on average, are handed on as one: what is
#: done for each costs more than copying it.
MANY = 16
SMALL = 512

#: So are those that are less than one part in so many of the read that they are of: the rest of it was
#: headers, and would be kept with them.
SPARSE = 8

#: What a fragment costs besides its octets: else a peer that sends PDVs of one octet would cost 200
#: times what is counted.
OVERHEAD = 256


def compact(fragments: list[memoryview], octets: int) -> list[memoryview]:
    """Return what is handed on in place of fragments of one read: mostly these.

    :param octets: that they have; there are some.
    """
    number = len(fragments)
    read = len(fragments[0].obj)  # type: ignore[arg-type]  # whatever is viewed has a length
    if octets * SPARSE >= read and (number <= MANY or octets >= SMALL * number):
        return fragments
    return [memoryview(b"".join(fragments))]


def cost(fragments: Sequence[bytes | memoryview]) -> int:
    """Return what fragments cost that wait, in octets."""
    return sum(map(len, fragments)) + OVERHEAD * len(fragments)
