"""Which presentation contexts, and why not (PS3.8 7.1.1.13, 9.3.3.2); in which roles, and how many
operations at a time (PS3.7 D.3.3.3, D.3.3.4). Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    AnsweredContext,
    AnsweredContexts,
    AssociateAC,
    AssociateRQ,
    ProposedContext,
    ProposedContexts,
)


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """A presentation context that both ends have agreed upon."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    # The roles of PS3.7 D.3.3.4, or the default ones; they are the same for all contexts of a SOP Class.
    scu: bool = True  #: the association-requestor may be SCU, and so the acceptor SCP
    scp: bool = False  #: the association-requestor may be SCP, and so the acceptor SCU


#: The transfer syntaxes that we take, of each context proposed; None: its abstract syntax is unknown.
_Ours: TypeAlias = tuple[Sequence[str] | None, ...]


class _Answered(AnsweredContexts):
    """The answers to the contexts of a request that is remembered."""

    ours: _Ours  #: when they were given
    agreed: dict[int, PresentationContext] | None = None  #: what they come to


def answer(
    request: AssociateRQ, offered: Mapping[str, Sequence[str]], information: UserInformation
) -> AssociateAC:
    """Accept an association, and each of its contexts that we can.

    The contexts are answered in the order in which they were proposed. The transfer syntax is the
    first of ours that was proposed too: the order of a proposal has no meaning (PS3.8 9.3.2.2).

    :param offered: the transfer syntaxes that we take for an abstract syntax, preferred first.
    :param information: what we say about ourselves.
    """
    return AssociateAC(
        called_ae_title=request.called_ae_title,
        calling_ae_title=request.calling_ae_title,
        contexts=_answer_contexts(request.contexts, offered),
        user_information=information,
        echo=request.echo,
    )


def _answer_contexts(
    proposed: tuple[ProposedContext, ...], offered: Mapping[str, Sequence[str]]
) -> AnsweredContexts:
    """Answer the contexts of a request; as the last time, if it is the same and so is what we take."""
    ours: _Ours = tuple([offered.get(context.abstract_syntax) for context in proposed])
    if not isinstance(proposed, ProposedContexts):
        return AnsweredContexts(map(_answer_context, proposed, ours))
    last = proposed.answered
    if not isinstance(last, _Answered) or last.ours != ours:
        last = proposed.answered = _Answered(map(_answer_context, proposed, ours))
        # A list may have changed until the next time: it is never what a tuple is, and so looked at anew.
        last.ours = tuple([one if one is None else tuple(one) for one in ours])
    return last


def _answer_context(proposed: ProposedContext, ours: Sequence[str] | None) -> AnsweredContext:
    first = proposed.transfer_syntaxes[0]
    if ours is None:
        return AnsweredContext(proposed.id, ABSTRACT_SYNTAX_NOT_SUPPORTED, first)
    theirs = frozenset(proposed.transfer_syntaxes)
    for transfer_syntax in ours:
        if transfer_syntax in theirs:
            return AnsweredContext(proposed.id, ACCEPTANCE, transfer_syntax)
    return AnsweredContext(proposed.id, TRANSFER_SYNTAXES_NOT_SUPPORTED, first)


def agreed(request: AssociateRQ, accept: AssociateAC) -> dict[int, PresentationContext]:
    """Return the contexts that were proposed and accepted, by their ids.

    An acceptance of what was not proposed is no agreement, and left out; so is that of a role.
    """
    answered = accept.contexts
    if (
        isinstance(answered, _Answered)
        and isinstance(request.contexts, ProposedContexts)
        and request.contexts.answered is answered
        and not accept.user_information.roles
    ):
        if answered.agreed is None:
            answered.agreed = _agreed(request, accept)
        return answered.agreed.copy()
    return _agreed(request, accept)


def _agreed(request: AssociateRQ, accept: AssociateAC) -> dict[int, PresentationContext]:
    proposed = {context.id: context for context in request.contexts}
    roles = _agreed_roles(request, accept) if accept.user_information.roles else {}
    return {
        context.id: PresentationContext(
            context.id,
            proposed[context.id].abstract_syntax,
            context.transfer_syntax,
            *roles.get(proposed[context.id].abstract_syntax, ()),
        )
        for context in accept.contexts
        if context.result == ACCEPTANCE
        and context.id in proposed
        and context.transfer_syntax in proposed[context.id].transfer_syntaxes
    }


def _agreed_roles(request: AssociateRQ, accept: AssociateAC) -> dict[str, tuple[bool, bool]]:
    """Return in which roles the requestor is, by SOP Class: those that were proposed and accepted."""
    proposed = {role.sop_class_uid: role for role in request.user_information.roles}
    return {
        role.sop_class_uid: (
            role.scu and proposed[role.sop_class_uid].scu,
            role.scp and proposed[role.sop_class_uid].scp,
        )
        for role in accept.user_information.roles
        if role.sop_class_uid in proposed
    }


def narrower(proposed: int, accepted: int) -> int:
    """Return what holds of what was proposed and accepted of a window: 0 is no limit (PS3.7 D.3.3.3)."""
    return min(proposed, accepted) if proposed and accepted else proposed or accepted
