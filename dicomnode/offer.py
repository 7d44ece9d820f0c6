"""What services offer to a peer that requests an association: contexts, roles, and information of their own.

An acceptor's answer is made of this (PS3.7 Annex D.3). A service that has nothing to say of roles or
information says nothing, and then the defaults of the standard hold.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from itertools import filterfalse
from typing import Any, TypeAlias, cast

from dicomnode.core.items import ExtendedNegotiation, RoleSelection, UserInformation
from dicomnode.core.negotiation import answer
from dicomnode.core.pdu import ACCEPTANCE, AssociateAC, AssociateRQ
from dicomnode.interfaces import (
    ICommonExtendedNegotiation,
    IExtendedNegotiation,
    IRoleSelection,
    IService,
    IStorage,
)

#: Abstract syntaxes to transfer syntaxes, preferred first.
_Contexts: TypeAlias = Mapping[str, Sequence[str]]


class Served:
    """Finds the service for an abstract syntax, on one association: the first that has it."""

    __slots__ = ("_services", "general")

    def __init__(self, services: Sequence[IService]) -> None:
        self._services = services
        #: those of the SOP Classes that were accepted though nobody knows them
        self.general: Mapping[str, IService] = {}

    def __call__(self, abstract_syntax: str) -> IService | None:
        for service in self._services:
            if abstract_syntax in service.contexts:
                return service
        return self.general.get(abstract_syntax)


class Offer:
    """What several services offer. Where two have a SOP Class, the first does.

    :raises TypeError: when one is no service.
    """

    def __init__(self, services: Sequence[IService]) -> None:
        for service in services:
            if (
                isinstance(service, type)
                or not hasattr(service, "contexts")
                or not hasattr(service, "perform")
            ):
                hint = ": a storage is served by Storage" if IStorage.providedBy(service) else ""
                raise TypeError(f"{service!r} is no service{hint}")
        self._scus = [one for one in services if IRoleSelection.providedBy(one)]
        self._generals = [one for one in services if ICommonExtendedNegotiation.providedBy(one)]
        self._as_scp = _chained(service.contexts for service in services)
        self._as_scu = _chained(service.contexts_as_scu for service in self._scus)

    def answer(self, request: AssociateRQ, information: UserInformation, served: Served) -> AssociateAC:
        """Accept an association, and of what is proposed for it that which the services take.

        :param information: what we say about ourselves.
        :param served: is told who performs what nobody has in its contexts.
        """
        proposed = request.user_information
        if not (proposed.roles or proposed.extended or proposed.common_extended):
            return answer(request, self._as_scp, information)
        abstract_syntaxes = {context.abstract_syntax for context in request.contexts}
        as_scp = self._generalized(request, abstract_syntaxes, served)
        roles = {
            role.sop_class_uid: role for role in proposed.roles if role.sop_class_uid in abstract_syntaxes
        }
        accepted = answer(request, self._in_roles(roles, as_scp), information)
        agreed = _agreed(request, accepted)
        answers = tuple(self._roles(roles, as_scp, agreed))
        as_scu = {role.sop_class_uid for role in answers if not role.scu}
        extended = tuple(self._extended(request, agreed, as_scu, served))
        information = replace(accepted.user_information, roles=answers, extended=extended)
        return replace(accepted, user_information=information)

    def _generalized(self, request: AssociateRQ, proposed: set[str], served: Served) -> _Contexts:
        """Return what we take as SCP, with those SOP Classes that are taken for what is said of them."""
        taken: dict[str, Sequence[str]] = {}
        general: dict[str, IService] = {}
        for item in request.user_information.common_extended:
            uid = item.sop_class_uid
            if uid not in proposed or uid in self._as_scp or uid in taken:
                continue
            for service in self._generals:
                transfer_syntaxes = service.transfer_syntaxes_for(item)
                if transfer_syntaxes is not None:
                    taken[uid], general[uid] = transfer_syntaxes, service
                    break
        served.general = general
        return _chained((taken, self._as_scp)) if taken else self._as_scp

    def _in_roles(self, roles: Mapping[str, RoleSelection], as_scp: _Contexts) -> _Contexts:
        """Return what we take in the roles that are proposed."""
        other: dict[str, Sequence[str]] = {}
        for uid, role in roles.items():
            ours = self._as_scu.get(uid) if role.scp else None
            if ours is None:
                continue  # and then we are SCP, if anything
            theirs = as_scp.get(uid) if role.scu else None
            if theirs is None:
                other[uid] = ours
            else:  # what serves both ways, before what serves one
                mutual = frozenset(ours).__contains__
                other[uid] = [*filter(mutual, theirs), *filterfalse(mutual, theirs)]
        return _chained((other, as_scp)) if other else as_scp

    def _roles(
        self, roles: Mapping[str, RoleSelection], as_scp: _Contexts, agreed: Mapping[str, set[str]]
    ) -> Iterable[RoleSelection]:
        """Answer the proposed roles. Of what is not answered, the default roles hold (PS3.7 D.3.3.4)."""
        for uid, role in roles.items():
            scu = role.scu and uid in as_scp
            scp = role.scp and not agreed.get(uid, set()).isdisjoint(self._as_scu.get(uid, ()))
            if uid in agreed and (scu or scp):
                yield RoleSelection(uid, scu, scp)

    def _extended(
        self, request: AssociateRQ, agreed: Mapping[str, set[str]], as_scu: set[str], served: Served
    ) -> Iterable[ExtendedNegotiation]:
        """Answer the proposed information, each by the service that it is for."""
        proposed = {item.sop_class_uid: item for item in request.user_information.extended}
        for uid, item in proposed.items():
            if uid not in agreed:
                continue
            if uid in as_scu:
                service: IService | None = next(one for one in self._scus if uid in one.contexts_as_scu)
            else:
                service = served(uid)
            if service is not None and IExtendedNegotiation.providedBy(service):
                octets = service.application_information(uid, item.application_information)
                if octets is not None:
                    yield ExtendedNegotiation(uid, octets)


class _Chained(ChainMap[str, Sequence[str]]):
    def get(self, key: str, default: Any = None) -> Any:
        # ChainMap's own asks each mapping twice, and by exceptions.
        for contexts in self.maps:
            found = contexts.get(key)
            if found is not None:
                return found
        return default


def _chained(contexts: Iterable[_Contexts]) -> _Contexts:
    # ChainMap asks for mappings that could be changed, and changes only the first, if told to.
    return _Chained(*(cast(MutableMapping[str, Sequence[str]], one) for one in contexts))


def _agreed(request: AssociateRQ, accepted: AssociateAC) -> dict[str, set[str]]:
    """Return the abstract syntaxes that are accepted, with their transfer syntaxes."""
    agreed: dict[str, set[str]] = {}
    for proposed, answered in zip(request.contexts, accepted.contexts, strict=True):
        if answered.result == ACCEPTANCE:
            agreed.setdefault(proposed.abstract_syntax, set()).add(answered.transfer_syntax)
    return agreed
