"""Which presentation contexts, and why not (PS3.8 7.1.1.13, 9.3.3.2); in which roles, and how many
operations at a time (PS3.7 D.3.3.3, D.3.3.4). Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicomnode.core.items import UserInformation
from dicomnode.core.pdu import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    AnsweredContext,
    AssociateAC,
    AssociateRQ,
    ProposedContext,
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
        contexts=tuple(_answer_context(context, offered) for context in request.contexts),
        user_information=information,
        echo=request.echo,
    )


def _answer_context(proposed: ProposedContext, offered: Mapping[str, Sequence[str]]) -> AnsweredContext:
    ours = offered.get(proposed.abstract_syntax)
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
