"""A request that is ready to be sent: on which presentation context, and with which data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from dicomnode.core.command import Request
from dicomnode.core.negotiation import PresentationContext
from dicomnode.errors import ContextNotAccepted
from dicomnode.interfaces import Body
from dicomnode.reading import FileBody
from dicomnode.sending import Octets


@dataclass(frozen=True, slots=True)
class Message:
    """A request that is ready to be sent: on which context, and with which data set."""

    context: PresentationContext
    request: Request  #: its Message ID is not looked at
    body: Body | None = None

    def let_go(self) -> None:
        """Let go of what it holds, where we have opened that: it is not sent."""
        if isinstance(self.body, FileBody):
            self.body.stopProducing()


#: Returns a message once its turn has come, or a Deferred of it; it is given the clock by which its body may
#: take turns.
Prepare: TypeAlias = Callable[[IReactorTime], "Message | Deferred[Message]"]


def invoking(
    contexts: Mapping[int, PresentationContext],
    request: Request,
    data_set: bytes | Body | None,
    on: PresentationContext | int | str | None,
) -> Prepare:
    """Return what prepares a request: it finds its context, and a body for octets."""

    def prepare(clock: IReactorTime) -> Message:
        body = Octets(data_set) if isinstance(data_set, bytes) else data_set
        return Message(_context(contexts, request, on), request, body)

    return prepare


def _context(
    contexts: Mapping[int, PresentationContext], request: Request, on: PresentationContext | int | str | None
) -> PresentationContext:
    if isinstance(on, PresentationContext):
        on = on.id
    if isinstance(on, int):
        if on not in contexts:
            raise ContextNotAccepted(f"context {on}")
        return contexts[on]
    names = (getattr(request, f"{verb}_sop_class_uid", "") for verb in ("affected", "requested"))
    return find_context(contexts, on or next(filter(None, names), ""))


def find_context(
    contexts: Mapping[int, PresentationContext], abstract_syntax: str, transfer_syntax: str = ""
) -> PresentationContext:
    """Return the first context for an abstract syntax, in this transfer syntax if one is given.

    :raises ContextNotAccepted: when there is none.
    """
    for context in contexts.values():
        if context.abstract_syntax == abstract_syntax and transfer_syntax in ("", context.transfer_syntax):
            return context
    raise ContextNotAccepted(abstract_syntax, transfer_syntax)
