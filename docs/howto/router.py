"""A router: each instance goes on to two other nodes as it arrives, and is Success when it is to both.

``python router.py`` listens on port 11112. Nothing touches the disk, and memory does not depend on what
passes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IPushProducer, IStreamClientEndpoint
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    ContextNotAccepted,
    IAssociation,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
    Pipe,
    ServiceUser,
    Status,
    Storage,
    Verification,
    associate,
    plan,
)
from dicomnode.core.command import is_warning
from dicomnode.uids import VERIFICATION


@dataclass(frozen=True)
class Destination:
    """A node to which instances go on."""

    ae_title: str
    endpoint: IStreamClientEndpoint


@implementer(IStorage)
class Router:
    """Keeps nothing. For each association with us there is one with each destination, as long as it lasts."""

    def __init__(self, reactor: Any, destinations: Sequence[Destination]) -> None:
        self._reactor = reactor
        self._destinations = destinations
        self._onward: dict[IAssociation, dict[Destination, ServiceUser]] = {}
        self._numbers = count(1)

    async def open(self, instance: Instance) -> IInstanceWriter:
        """Nothing is read from the sender before both destinations are ready for it."""
        legs = [Pipe() for _ in self._destinations]
        opening = [
            leg.into(Deferred.fromCoroutine(self._forward(destination, instance, leg)))
            for destination, leg in zip(self._destinations, legs, strict=True)
        ]
        opened = await DeferredList(opening, consumeErrors=True)
        failures = [result for succeeded, result in opened if not succeeded]
        if failures:
            ready = [leg for (succeeded, _), leg in zip(opened, legs, strict=True) if succeeded]
            await DeferredList([leg.abort() for leg in ready])
            raise failures[0].value
        return Forwarding(legs)

    async def _forward(self, destination: Destination, instance: Instance, leg: Pipe) -> int:
        """Store an instance at a destination; the leg is what produces it."""
        try:
            user = await self._user(destination, instance.association)
            response = await user.store(
                leg,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
            )
        except ContextNotAccepted:
            status, why = int(Status.SOP_CLASS_NOT_SUPPORTED), "does not take this"
        except Exception as error:  # it cannot be reached, or does not want us; or the other leg has failed
            status, why = int(Status.OUT_OF_RESOURCES), str(error) or type(error).__name__
        else:
            status, why = response.status, response.error_comment or ""
            if status == Status.SUCCESS or is_warning(status):
                return status
        raise OperationFailed(status, f"{destination.ae_title}: {why}")

    async def _user(self, destination: Destination, association: IAssociation) -> ServiceUser:
        """Return an association with a destination: the one that there is, or another."""
        if association not in self._onward:
            self._onward[association] = {}
            association.when_ended().addBoth(lambda _: self._sender_gone(association))
        onward = self._onward[association]
        if destination in onward:
            return onward[destination]
        contexts = association.contexts.values()
        pairs = [(context.abstract_syntax, context.transfer_syntax) for context in contexts]
        user = await associate(
            self._reactor,
            destination.endpoint,
            calling_ae_title="ROUTER",
            called_ae_title=destination.ae_title,
            contexts=plan([pair for pair in pairs if pair[0] != VERIFICATION], defaults=False),
            number=next(self._numbers),
        )
        if association not in self._onward:  # it has ended meanwhile
            user.abort()
        else:
            onward[destination] = user
            # Once it is over, the next instance needs another.
            user.when_ended().addBoth(lambda _: onward.pop(destination))
        return user

    def _sender_gone(self, association: IAssociation) -> None:
        for user in list(self._onward.pop(association).values()):
            user.release().addErrback(lambda _: None)  # it has ended otherwise


@implementer(IInstanceWriter)
class Forwarding:
    """One instance that passes: what the sender brings goes to all legs; the slowest one sets the pace."""

    def __init__(self, legs: Sequence[Pipe]) -> None:
        self._legs = legs
        self._behind: set[Pipe] = set()
        self._sender: IPushProducer | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._sender = producer
        for leg in self._legs:
            leg.registerProducer(Pace(self, leg), True)

    def unregisterProducer(self) -> None:
        self._sender = None
        for leg in self._legs:
            leg.unregisterProducer()

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        octets = b"".join(data)
        for leg in self._legs:
            leg.write(octets)

    async def commit(self) -> int:
        """The instance is complete, and was found whole: let the legs end, and wait for the responses."""
        answers = await DeferredList([leg.commit() for leg in self._legs], consumeErrors=True)
        for succeeded, answer in answers:
            if not succeeded:
                raise answer.value
        return max(answer for _, answer in answers)  # a warning rather than Success

    async def abort(self) -> None:
        """Let no destination take what has come for an instance: the associations are aborted."""
        await DeferredList([leg.abort() for leg in self._legs])

    def set_behind(self, leg: Pipe, behind: bool) -> None:
        """Pause the sender while any leg is behind."""
        before = bool(self._behind)
        (self._behind.add if behind else self._behind.discard)(leg)
        if self._sender is not None and before is not bool(self._behind):
            if self._behind:
                self._sender.pauseProducing()
            else:
                self._sender.resumeProducing()


@implementer(IPushProducer)
class Pace:
    """The sender, as one leg sees it."""

    def __init__(self, forwarding: Forwarding, leg: Pipe) -> None:
        self._forwarding = forwarding
        self._leg = leg

    def pauseProducing(self) -> None:
        self._forwarding.set_behind(self._leg, True)

    def resumeProducing(self) -> None:
        self._forwarding.set_behind(self._leg, False)

    def stopProducing(self) -> None:
        """It is lost: the others go on without it, and commit says what has become of it."""
        self._forwarding.set_behind(self._leg, False)


async def main(reactor: Any, *descriptions: str) -> None:
    first, second = descriptions or ("tcp:archive.example.org:104", "tcp:research.example.org:11112")
    destinations = [
        Destination("ARCHIVE", clientFromString(reactor, first)),
        Destination("RESEARCH", clientFromString(reactor, second)),
    ]
    # What becomes of an instance is for the two others to say: support=None.
    storage = Storage(Router(reactor, destinations), support=None)
    acceptor = Acceptor(reactor, [Verification(), storage])
    await serverFromString(reactor, "tcp:11112").listen(acceptor)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main, sys.argv[1:])
