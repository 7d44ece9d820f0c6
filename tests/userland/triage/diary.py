"""The diary: a line for each instance that was kept, and for each association that is over."""

from __future__ import annotations

from collections.abc import Callable

from dicomnode import events
from dicomnode.hooks import AssociationOver, InstanceReceived


class Diary:
    """Writes lines. It is a hook on instances and associations, and an observer.

    :param write: takes a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def received(self, received: InstanceReceived) -> None:
        self._write(f"kept {received.instance.sop_instance_uid}, {received.octets} octets")

    async def over(self, over: AssociationOver) -> None:
        self._write(f"{over.association.calling_ae_title} {over.how} after {over.instances} instances")

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.AssociationRejected(why=why):
                self._write(f"refused: {why}")
            case events.InvocationEnded(association=association, octets=octets):
                self._write(f"sent {octets} octets to {association.called_ae_title}")
