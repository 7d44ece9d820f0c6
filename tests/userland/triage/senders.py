"""Senders: a directory knows which AE titles may associate, and for what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from dicomnode import AssociationRejected, IAssociationPolicy
from dicomnode.core.pdu import AssociateRQ, ProposedContext


@implementer(IAssociationPolicy)
class Senders:
    """Asks a directory which SOP Classes a calling AE title may use.

    :param allowed: takes its time; of whom it does not know, it knows no SOP Class.
    """

    def __init__(self, allowed: Callable[[str], Deferred[Collection[str]]]) -> None:
        self._allowed = allowed

    async def consider(self, request: AssociateRQ, peer: IAddress) -> Sequence[ProposedContext]:
        allowed = await self._allowed(request.calling_ae_title)
        if not allowed:
            raise AssociationRejected(1, 1, 3, f"{request.calling_ae_title} is in no directory")
        return [context for context in request.contexts if context.abstract_syntax in allowed]
