"""What waits for someone slow. Whoever brings it is to be paused when that is too much."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.fragments import cost


class Total:
    """What waits for the same, of all.

    :param most: octets, above which who has anything waiting brings no more before that is done.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.octets = 0


class Backlog:
    """Fragments of one data set that wait for someone who takes all of them at a time.

    It is true while there are some to be taken.

    :param high: octets above which they are too much.
    :param low: octets below which they are little.
    :param total: what they are part of.
    """

    def __init__(self, high: int, low: int, total: Total) -> None:
        self._high = high
        self._low = low
        self._total = total
        self._fragments: list[bytes | memoryview] = []
        self._octets = 0  # what these, and what was taken, cost
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self._fragments)

    @property
    def too_much(self) -> bool:
        """Is it more than one may have, or some of what is more than all may have?"""
        crowded = self._total.octets > self._total.most
        return self._octets > (0 if crowded else self._high)

    @property
    def little(self) -> bool:
        """Is it so little that more may come?"""
        return self._octets < self._low and not self.too_much

    def add(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Have these wait behind the others."""
        self._fragments += fragments
        self._weigh(cost(fragments))

    def take(self) -> list[bytes | memoryview]:
        """Take all of them. They count until :meth:`done`, before which nothing else is taken."""
        batch, self._fragments = self._fragments, []
        self._taken = cost(batch)
        return batch

    def done(self) -> None:
        """What was taken does not wait any more."""
        self._weigh(-self._taken)
        self._taken = 0

    def forget(self) -> None:
        """Drop what has not been taken."""
        self._weigh(self._taken - self._octets)
        self._fragments = []

    def clear(self) -> None:
        """Drop all of it: nobody is going to say that it is done."""
        self.forget()
        self.done()

    def _weigh(self, octets: int) -> None:
        self._octets += octets
        self._total.octets += octets
