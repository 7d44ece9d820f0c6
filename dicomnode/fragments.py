"""Fragments of a data set: what they cost while they wait for someone.

Each is a slice of what the transport has delivered, and keeps all of that.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import cast

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
    few_for_each = len(fragments) > MANY and octets < SMALL * len(fragments)
    if few_for_each or octets * SPARSE < len(cast(Sized, fragments[0].obj)):
        return [memoryview(b"".join(fragments))]
    return fragments


def cost(fragments: Sequence[bytes | memoryview]) -> int:
    """Return what fragments cost that wait, in octets."""
    return sum(map(len, fragments)) + OVERHEAD * len(fragments)
