"""All of it together, as a service of Twisted's."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint

from dicomnode import Acceptor, All, CalledAETitle, IAssociationPolicy, IStorage, Node, Storage, Verification
from dicomnode.events import Fanout
from dicomnode.hooks import AssociationHooks, Hooked
from triage.availability import Availability
from triage.diary import Diary


def acceptor(
    reactor: IReactorTime, storage: IStorage, senders: IAssociationPolicy, write: Callable[[str], None]
) -> Acceptor:
    """Return what a triage node accepts, and does."""
    diary = Diary(write)
    kept = Storage(Hooked(storage, reactor, diary.received))
    return Acceptor(
        reactor,
        [Verification(), kept, Availability()],
        policy=All(CalledAETitle("TRIAGE"), senders),
        observe=Fanout(diary, AssociationHooks(diary.over)),
    )


def node(endpoint: IStreamServerEndpoint, accepting: Acceptor) -> Node:
    """Return the service that listens."""
    return Node([endpoint], accepting, grace=5.0)
