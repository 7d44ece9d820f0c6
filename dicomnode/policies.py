"""Who may associate: the stock policies, on what an A-ASSOCIATE-RQ says and where it comes from.

A policy file, as ``--policy`` names it, has the three together. It is TOML (https://toml.io), a list
of those who may associate; what an entry does not say may be anything::

    [[allow]]
    aet = "CT1"                          # the calling AE title, or a list of them
    from = "192.0.2.0/28"                # addresses and networks; "unix" for UNIX sockets

    [[allow]]
    aet = ["WS1", "WS2", ""]             # "": a device that leaves its title blank
    from = ["198.51.100.7", "2001:db8::/64"]
    called = "ARCHIVE"                   # the titles that it may call us by

    [[allow]]
    aet = "MR1"
    certificate = "mr1.example.org"      # the Common Names that its certificate may have

AE titles are compared without surrounding spaces and NULs, of which real devices send both. Who is
refused for its address or its certificate learns no more than that; the others are told whether it is
the calling or the called title.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from dicomnode.core.pdu import (
    USER_REJECTION,
    AnsweredContext,
    AssociateAC,
    AssociateRQ,
    ProposedContext,
)
from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IAssociationPolicy, ICertificatePolicy
from dicomnode.networks import Networks
from dicomnode.visible import spoken

if TYPE_CHECKING:
    from twisted.internet.ssl import Certificate

#: Result, source, reason of PS3.8 Table 9-21: rejected permanent, by the service user.
NO_REASON_GIVEN = (1, 1, 1)
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)

#: An AE title as it may be configured (PS3.5 Table 6.2-1); a device's may be blank.
_TITLE = re.compile(r"[ -\[\]-~]{0,16}")


@implementer(IAssociationPolicy)
class AcceptAny:
    """Accepts everyone."""

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        """Accept."""


@implementer(IAssociationPolicy)
class CalledAETitle:
    """Accepts who calls us by our name.

    The others are refused with *Called AE Title not recognized*.
    """

    def __init__(self, ae_title: str) -> None:
        self._ae_title = _title(ae_title)

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        called = _title(request.called_ae_title)
        if called != self._ae_title:
            why = f"it calls {_shown(called)}, and we are {_shown(self._ae_title)}"
            raise AssociationRejected(*CALLED_AE_TITLE_NOT_RECOGNIZED, why)


@implementer(IAssociationPolicy)
class CallingAETitle:
    """Accepts who calls itself by one of these names.

    The others are refused with *Calling AE Title not recognized*.
    """

    def __init__(self, *ae_titles: str) -> None:
        self._ae_titles = frozenset(map(_title, ae_titles))

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        calling = _title(request.calling_ae_title)
        if calling not in self._ae_titles:
            raise AssociationRejected(*CALLING_AE_TITLE_NOT_RECOGNIZED, _not_allowed_title(calling))


@implementer(IAssociationPolicy)
class PeerAddress:
    """Accepts who comes from some networks.

    The others are refused with *no reason given*: the standard has none for addresses.

    :param networks: as :class:`~dicomnode.networks.Networks` takes them.
    :raises ValueError: with what is wrong with one of them.
    """

    def __init__(self, *networks: str) -> None:
        self._networks = Networks(networks)

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        if peer not in self._networks:
            raise AssociationRejected(*NO_REASON_GIVEN, _not_allowed_address(peer))


@implementer(ICertificatePolicy)
class CertificateSubject:
    """Accepts whose certificate has one of these Common Names in its subject.

    The others are refused with *no reason given*; who has shown no certificate is among them.
    """

    def __init__(self, *common_names: str) -> None:
        self._common_names = frozenset(common_names)

    def consider(self, request: AssociateRQ, peer: IAddress, certificate: Certificate | None = None) -> None:
        if common_name(certificate) not in self._common_names:
            raise AssociationRejected(*NO_REASON_GIVEN, _not_allowed_certificate(certificate))


@implementer(ICertificatePolicy)
class All:
    """Accepts whom all of several policies accept, which are asked one after the other.

    One that lets only some presentation contexts be accepted leaves no others to those behind it.
    """

    def __init__(self, *policies: IAssociationPolicy) -> None:
        self._policies = policies

    async def consider(
        self, request: AssociateRQ, peer: IAddress, certificate: Certificate | None = None
    ) -> Sequence[ProposedContext] | None:
        narrowed = None
        for policy in self._policies:
            contexts = await ask(policy, request, peer, certificate)
            if contexts is not None:
                narrowed = contexts
                request = replace(request, contexts=tuple(contexts))
        return narrowed


async def ask(
    policy: IAssociationPolicy, request: AssociateRQ, peer: IAddress, certificate: Certificate | None
) -> Sequence[ProposedContext] | None:
    """Ask a policy, which sees the certificate if it provides ICertificatePolicy.

    :return: the presentation contexts that it lets be accepted; None for all.
    """
    consider: Callable[..., Any] = policy.consider
    if ICertificatePolicy.providedBy(policy):
        asked = consider(request, peer, certificate)
    else:
        asked = consider(request, peer)
    if asked is None:
        return None
    # All is a coroutine, and most policies are in one: a Deferred for it takes 50 us, for each association.
    contexts = await (asked if type(asked) is CoroutineType else maybeDeferred(lambda: asked))
    return None if contexts is None else _of(request, contexts)


def _of(request: AssociateRQ, allowed: Iterable[ProposedContext]) -> Sequence[ProposedContext]:
    """Return what is allowed of what was proposed: a policy can add nothing to that."""
    syntaxes = {context.id: context.transfer_syntaxes for context in allowed}
    contexts = (
        replace(
            context,
            transfer_syntaxes=tuple(uid for uid in context.transfer_syntaxes if uid in syntaxes[context.id]),
        )
        for context in request.contexts
        if context.id in syntaxes
    )
    return [context for context in contexts if context.transfer_syntaxes]


def without(answer: AssociateAC, request: AssociateRQ) -> AssociateAC:
    """Return the answer to a request of whose contexts a policy has let only some be answered.

    The others are rejected by the user (PS3.8 Table 9-18).
    """
    answered = {context.id: context for context in answer.contexts}
    contexts = (
        answered.get(proposed.id)
        or AnsweredContext(proposed.id, USER_REJECTION, proposed.transfer_syntaxes[0])
        for proposed in request.contexts
    )
    return replace(answer, contexts=tuple(contexts))


def certificate_of(transport: object) -> Certificate | None:
    """Return the certificate that the other end of a transport has shown, where it is TLS and has."""
    get = getattr(transport, "getPeerCertificate", None)
    original = None if get is None else get()
    if original is None:
        return None
    from twisted.internet.ssl import Certificate

    return Certificate(original)  # type: ignore[no-untyped-call]


def common_name(certificate: Certificate | None) -> str | None:
    """Return the Common Name of a certificate's subject, if it has one that can be read."""
    if certificate is None:
        return None
    from OpenSSL.crypto import Error

    try:  # Twisted's getSubject() would take no letter outside ASCII, anywhere in the subject
        name: str | None = certificate.original.get_subject().commonName
    except Error:
        return None
    return name


class InvalidPolicy(ValueError):
    """A policy file cannot be used. The message is one line that says which file, and why."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Someone who may associate; None is anything."""

    calling: frozenset[str] | None
    networks: Networks | None
    called: frozenset[str] | None
    common_names: frozenset[str] | None

    @classmethod
    def of(cls, values: object) -> _Entry:
        if not isinstance(values, Mapping) or not values:
            raise ValueError("it says none of aet, from, called, certificate")
        unknown = sorted(set(values) - {"aet", "from", "called", "certificate"})
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of aet, from, called, certificate")
        networks, common_names = _texts(values, "from"), _texts(values, "certificate")
        return cls(
            _titles(_texts(values, "aet")),
            None if networks is None else Networks(networks),
            _titles(_texts(values, "called")),
            None if common_names is None else frozenset(common_names),
        )


@implementer(ICertificatePolicy)
class PolicyFile:
    """Accepts whom a file allows; its form is that of this module's example.

    :param path: it is read at once, and again by :meth:`read`.
    :param text: what is in it, if that is known: then it is not read.
    :raises InvalidPolicy: when it cannot be used.
    """

    def __init__(self, path: str, text: str | None = None) -> None:
        self.path = path
        #: what is in force
        self.text = ""
        self._entries: tuple[_Entry, ...] = ()
        if text is None:
            self.read()
        else:
            self.use(text)

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def read(self) -> None:
        """Read the file again; associations that there are stay.

        :raises InvalidPolicy: when it cannot be used; what was read before stays in force.
        """
        try:
            with open(self.path, "rb") as file:
                self.use(file.read().decode())
        except OSError as error:
            raise InvalidPolicy(f"policy file {self.path!r}: {error.strerror or error}") from None
        except ValueError as error:  # not UTF-8, not TOML, or not as it should be
            raise InvalidPolicy(f"policy file {self.path!r}: {error}") from None

    def use(self, text: str) -> None:
        """Let what someone else has read be in force.

        :raises ValueError: when it cannot be used.
        """
        try:
            document = tomllib.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        self._entries = tuple(_entries(document))
        self.text = text

    def consider(self, request: AssociateRQ, peer: IAddress, certificate: Certificate | None = None) -> None:
        calling, called = _title(request.calling_ae_title), _title(request.called_ae_title)
        entries = [entry for entry in self._entries if entry.networks is None or peer in entry.networks]
        if not entries:
            raise AssociationRejected(*NO_REASON_GIVEN, _not_allowed_address(peer))
        name = common_name(certificate)
        entries = [entry for entry in entries if entry.common_names is None or name in entry.common_names]
        if not entries:
            raise AssociationRejected(*NO_REASON_GIVEN, _not_allowed_certificate(certificate))
        entries = [entry for entry in entries if entry.calling is None or calling in entry.calling]
        if not entries:
            raise AssociationRejected(*CALLING_AE_TITLE_NOT_RECOGNIZED, _not_allowed_title(calling))
        if not any(entry.called is None or called in entry.called for entry in entries):
            why = f"{_shown(calling)} may not call {_shown(called)}"
            raise AssociationRejected(*CALLED_AE_TITLE_NOT_RECOGNIZED, why)


def _entries(document: Mapping[str, Any]) -> Iterable[_Entry]:
    unknown = sorted(set(document) - {"allow"})
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; there is only [[allow]]")
    allowed = document.get("allow")
    if not isinstance(allowed, list) or not allowed:
        raise ValueError("there is no [[allow]]: no one could associate")
    for number, values in enumerate(allowed, start=1):
        try:
            yield _Entry.of(values)
        except ValueError as error:
            raise ValueError(f"[[allow]] number {number}: {error}") from None


def _texts(values: Mapping[str, Any], key: str) -> list[str] | None:
    """Return what an entry says under a key: a string, or some."""
    value = values.get(key)
    if value is None:
        return None
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is neither a string nor a list of strings")
    return texts


def _titles(texts: list[str] | None) -> frozenset[str] | None:
    if texts is None:
        return None
    titles = frozenset(map(_title, texts))
    for title in sorted(titles):
        if not _TITLE.fullmatch(title):
            raise ValueError(f"{title!r} is not an AE title (at most 16 ASCII characters, no backslash)")
    return titles


def _title(text: str) -> str:
    return text.strip(" \0")


def _shown(title: str) -> str:
    return title or "no title"


def _not_allowed_title(calling: str) -> str:
    return f"{_shown(calling)} is not an AE title that is allowed"


def _not_allowed_address(peer: IAddress) -> str:
    return f"{spoken(peer)} is not where anyone is allowed from"


def _not_allowed_certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return "it has shown no certificate"
    return f"{common_name(certificate) or 'a certificate without a Common Name'} is not one that is allowed"
