"""Tests of :mod:`dicomnode.policies`: who may associate."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

from OpenSSL.crypto import X509, Error
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.ssl import Certificate
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from dicomnode import events, lines, policies
from dicomnode.contracts import PolicyContract
from dicomnode.core.association import AssociateConfirmed
from dicomnode.core.machine import State
from dicomnode.core.pdu import AnsweredContext, AssociateAC, AssociateRJ, AssociateRQ, ProposedContext
from dicomnode.errors import AssociationRejected
from dicomnode.interfaces import IAssociationPolicy, ICertificatePolicy
from dicomnode.policies import (
    AcceptAny,
    CalledAETitle,
    CallingAETitle,
    CertificateSubject,
    InvalidPolicy,
    PeerAddress,
    PolicyFile,
    common_name,
)
from dicomnode.policies import All as AllOf
from dicomnode.services import Storage, Verification
from dicomnode.testing import Peer
from dicomnode.uids import EXPLICIT_VR_LE, VERIFICATION
from tests.cases import CT_IMAGE_STORAGE, FIND, IMPLICIT_VR_LE, ShellTestCase

CONTEXTS = (ProposedContext(1, VERIFICATION, (IMPLICIT_VR_LE,)),)

ADDRESS, CALLING, CALLED = (1, 1, 1), (1, 1, 3), (1, 1, 7)

UNIX_PEER: Any = UNIXAddress(None)

NOT_A_TITLE = "is not an AE title (at most 16 ASCII characters, no backslash)"

POLICY = """
[[allow]]
aet = "CT1"
from = "192.0.2.0/28"

[[allow]]
aet = ["WS1", "WS2", ""]
from = ["198.51.100.7", "unix"]
called = "ARCHIVE"
"""


def certificate(common_name: str | None, organization: str = "Hospital") -> Certificate:
    """Return a certificate with a subject, and nothing else."""
    original = X509()
    subject = original.get_subject()
    subject.organizationName = organization
    if common_name is not None:
        subject.commonName = common_name
    return Certificate(original)


class Unreadable:
    """A certificate whose subject is in no encoding that there is."""

    @property
    def commonName(self) -> str:
        raise Error

    def get_subject(self) -> Unreadable:
        return self


@implementer(IAssociationPolicy)
class Policy:
    """A policy that says what it was told to, and counts how often it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked = 0

    def consider(self, request: AssociateRQ, peer: object) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class StockTests(ShellTestCase):
    """The stock policies, asked by an acceptor."""

    def considers(self, policy: Any, **how: Any) -> Peer:
        """Return a peer at 192.0.2.1 whose request this policy considers."""
        self.accepts(Verification(), policy=policy)
        return self.associates(**how)

    def assertRejected(self, peer: Peer, codes: tuple[int, int, int], why: str) -> None:
        self.assertAnswered(peer, AssociateRJ(*codes))
        self.assertState(peer, State.STA13)
        self.assertEqual(self.last(events.AssociationRejected).why, why)

    def test_interfaces(self) -> None:
        """They are what their interface says."""
        for policy in (AcceptAny(), CalledAETitle("US"), CallingAETitle(), PeerAddress(), AllOf()):
            verifyObject(IAssociationPolicy, policy)

    def test_any(self) -> None:
        """Everyone may be accepted."""
        self.assertEstablished(self.considers(AcceptAny(), calling="", called=""))

    def test_called(self) -> None:
        """Who calls us by another name is told 1, 1, 7."""
        policy = CalledAETitle("ARCHIVE")
        self.assertEstablished(self.considers(policy, called="ARCHIVE"))
        peer = self.considers(policy, called="ARCHIVES")
        self.assertRejected(peer, CALLED, "it calls ARCHIVES, and we are ARCHIVE")
        self.assertRejected(
            self.considers(policy, called=""), CALLED, "it calls no title, and we are ARCHIVE"
        )

    def test_calling(self) -> None:
        """Who calls itself otherwise than is known is told 1, 1, 3."""
        policy = CallingAETitle("CT1", "MR1")
        for title in ("CT1", "MR1"):
            self.assertEstablished(self.considers(policy, calling=title))
        peer = self.considers(policy, calling="ct1")
        self.assertRejected(peer, CALLING, "ct1 is not an AE title that is allowed")
        peer = self.considers(policy, calling="")
        self.assertRejected(peer, CALLING, "no title is not an AE title that is allowed")

    def test_padding(self) -> None:
        """Titles are compared without the spaces and NULs that surround them, on either side."""
        for title in ("CT1", " CT1 ", "CT1\0\0\0", "CT1 \0", "\0CT1"):
            request = AssociateRQ(title, title, ())
            for policy in (CallingAETitle(" CT1 "), CalledAETitle("CT1\0")):
                policy.consider(request, UNIX_PEER)

    def test_padding_on_the_wire(self) -> None:
        """So they are when devices send them: NULs to the end, or spaces in front."""
        policy = AllOf(CallingAETitle("CT1"), CalledAETitle("ARCHIVE"))
        for called, calling in ((b"ARCHIVE".ljust(16, b"\0"), b"CT1".rjust(16)), (b" ARCHIVE\0", b"CT1\0 ")):
            octets = AssociateRQ(
                "", "", CONTEXTS, echo=called.ljust(16) + calling.ljust(16) + bytes(32)
            ).encode()
            self.accepts(Verification(), policy=policy)
            peer = self.connects()
            peer.transport.deliver(octets)
            self.assertState(peer, State.STA6)

    def test_address(self) -> None:
        """Who comes from elsewhere is told 1, 1, 1: there is no reason for addresses."""
        self.assertEstablished(self.considers(PeerAddress("192.0.2.0/24", "2001:db8::/64")))
        peer = self.considers(PeerAddress("198.51.100.0/24"))
        self.assertRejected(peer, ADDRESS, "192.0.2.1:50000 is not where anyone is allowed from")

    def test_unix(self) -> None:
        """Who is at a UNIX socket has no address: it is refused, unless such sockets are named."""
        request = AssociateRQ("", "", ())
        PeerAddress("192.0.2.0/24", "unix").consider(request, UNIX_PEER)
        self.assertRaises(AssociationRejected, PeerAddress("0.0.0.0/0", "::/0").consider, request, UNIX_PEER)

    def test_bad_network(self) -> None:
        """A network that is none is an error at once."""
        self.assertRaises(ValueError, PeerAddress, "192.0.2.0/33")

    def test_common_name(self) -> None:
        """A Common Name is text in any letters, whatever else is in the subject."""
        for name, organization in (
            ("ct1", "Klinikum München"),
            ("Gerät 1", "Hospital"),
            ("装置", "病院"),
            (None, "Klinikum München"),
        ):
            self.assertEqual(common_name(certificate(name, organization)), name)
        self.assertIsNone(common_name(Certificate(Unreadable())))
        self.assertIsNone(common_name(None))

    def test_certificate(self) -> None:
        """A policy that wants to see the certificate is shown it; without TLS there is none."""
        request = AssociateRQ("", "", ())
        seen: list[object] = []

        @implementer(ICertificatePolicy)
        class Curious:
            def consider(self, request: AssociateRQ, peer: IAddress, certificate: Any = None) -> None:
                seen.append(certificate)

        policy = AllOf(Curious(), Policy(), AllOf(Curious()))
        self.successResultOf(policy.consider(request, UNIX_PEER, certificate("ct1")))
        self.assertEqual([common_name(one) for one in seen], ["ct1", "ct1"])
        self.assertEstablished(self.considers(Curious()))
        self.assertIsNone(seen[-1])

    def test_subject(self) -> None:
        """The Common Name of the subject decides; who has none, or no certificate, is told 1, 1, 1."""
        request, policy = AssociateRQ("", "", ()), CertificateSubject("ct1", "mr1")
        verifyObject(ICertificatePolicy, policy)
        policy.consider(request, UNIX_PEER, certificate("mr1"))
        for shown, why in (
            (None, "it has shown no certificate"),
            (certificate("xx"), "xx is not one that is allowed"),
            (certificate(None), "a certificate without a Common Name is not one that is allowed"),
        ):
            with self.assertRaises(AssociationRejected) as raised:
                policy.consider(request, UNIX_PEER, shown)
            self.assertEqual(str(raised.exception), why)
        self.assertRejected(self.considers(policy), ADDRESS, "it has shown no certificate")

    def test_all(self) -> None:
        """Of several policies each must accept."""
        several = Policy(), Policy(succeed(None))
        self.assertEstablished(self.considers(AllOf(*several)))
        self.assertEqual([policy.asked for policy in several], [1, 1])

    def test_all_but_one(self) -> None:
        """The first of several policies that refuses does; the others are not asked."""
        several = Policy(), Policy(AssociationRejected(1, 1, 3, "no")), Policy()
        self.assertRejected(self.considers(AllOf(*several)), CALLING, "no")
        self.assertEqual([policy.asked for policy in several], [1, 1, 0])

    def test_all_is_cancelled(self) -> None:
        """When the peer leaves, that of several policies is cancelled which is being asked."""
        cancelled: list[object] = []
        several = Policy(), Policy(Deferred(cancelled.append)), Policy()
        self.considers(AllOf(*several)).transport.lose()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(several[2].asked, 0)


@implementer(IAssociationPolicy)
class Only:
    """Lets contexts be accepted as a function says, at once or later."""

    def __init__(self, allow: Any) -> None:
        self._allow = allow

    def consider(self, request: AssociateRQ, peer: IAddress) -> Any:
        return self._allow(request.contexts)


class NarrowingTests(ShellTestCase):
    """A policy may let no more than some presentation contexts be accepted."""

    def answers(self, *policies: Any) -> list[tuple[int, int]]:
        """Return the ids and results of contexts that four policies have been asked about."""
        policy = policies[0] if len(policies) == 1 else AllOf(*policies)
        self.accepts(Verification(), Storage(self.storage, check=False), policy=policy)
        peer = self.connects()
        syntaxes = [IMPLICIT_VR_LE, EXPLICIT_VR_LE]
        peer.associates({VERIFICATION: syntaxes, CT_IMAGE_STORAGE: syntaxes, FIND: syntaxes})
        (confirmed,) = peer.indications
        assert isinstance(confirmed, AssociateConfirmed)
        assert isinstance(confirmed.answer, AssociateAC)
        self.syntaxes = [context.transfer_syntax for context in confirmed.answer.contexts]
        return [(context.id, context.result) for context in confirmed.answer.contexts]

    def test_none(self) -> None:
        """Where it says nothing of them, the services decide."""
        for nothing in (None, succeed(None)):
            self.assertEqual(self.answers(Only(lambda _, nothing=nothing: nothing)), [(1, 0), (3, 0), (5, 3)])

    def test_some(self) -> None:
        """What it leaves out is rejected by the user; of the rest the services decide."""
        for later in (False, True):

            def allow(contexts: Any, later: bool = later) -> Any:
                allowed = [context for context in contexts if context.abstract_syntax != VERIFICATION]
                return succeed(allowed) if later else allowed

            self.assertEqual(self.answers(Only(allow)), [(1, 1), (3, 0), (5, 3)])

    def test_nothing(self) -> None:
        """It may leave nothing: there is an association all the same."""
        self.assertEqual(self.answers(Only(lambda _: ())), [(1, 1), (3, 1), (5, 1)])

    def test_transfer_syntaxes(self) -> None:
        """It may leave fewer transfer syntaxes, and add none; with none of them, nothing is left."""
        for allowed, results in (
            ([EXPLICIT_VR_LE], [(1, 0), (3, 0), (5, 3)]),
            (["1.2.840.10008.1.2.4.50", EXPLICIT_VR_LE], [(1, 0), (3, 0), (5, 3)]),
            ([], [(1, 1), (3, 1), (5, 1)]),
            (["1.2.840.10008.1.2.4.50"], [(1, 1), (3, 1), (5, 1)]),
        ):
            only = Only(
                lambda contexts, allowed=allowed: [
                    replace(context, transfer_syntaxes=tuple(allowed)) for context in contexts
                ]
            )
            self.assertEqual(self.answers(only), results)
            if EXPLICIT_VR_LE in allowed:
                self.assertEqual(self.syntaxes[:2], [EXPLICIT_VR_LE] * 2)

    def test_not_proposed(self) -> None:
        """What was not proposed is not accepted, though it says so."""
        contexts = [ProposedContext(7, CT_IMAGE_STORAGE, (IMPLICIT_VR_LE,))]
        self.assertEqual(self.answers(Only(lambda _: contexts)), [(1, 1), (3, 1), (5, 1)])

    def test_all(self) -> None:
        """Of several, each sees what those before it have left, and what all leave is left."""
        seen: list[int] = []

        def rest(contexts: Any) -> Any:
            seen.append(len(contexts))
            return contexts[1:]

        answers = self.answers(Only(rest), AcceptAny(), Only(rest))
        self.assertEqual((seen, answers), ([3, 2], [(1, 1), (3, 1), (5, 3)]))

    def test_said(self) -> None:
        """The log says that it was the policy."""
        context = ProposedContext(1, CT_IMAGE_STORAGE, (IMPLICIT_VR_LE,))
        self.assertEqual(
            lines._why_rejected(AnsweredContext(1, 1, IMPLICIT_VR_LE), context),
            "the policy does not let CT Image Storage be accepted",
        )


class PolicyFileTests(SynchronousTestCase):
    """A file says who may associate."""

    def setUp(self) -> None:
        self.path = self.mktemp()

    def write(self, text: str | bytes) -> None:
        with open(self.path, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def policy(self, text: str | bytes = POLICY) -> PolicyFile:
        self.write(text)
        return PolicyFile(self.path)

    def answer(self, policy: PolicyFile, calling: str, called: str, peer: str = "", shown: Any = None) -> Any:
        """Return the codes of the refusal of a request; None where it is accepted."""
        where: Any = IPv4Address("TCP", peer, 50000) if peer else UNIX_PEER
        try:
            policy.consider(AssociateRQ(called, calling, ()), where, shown)
        except AssociationRejected as error:
            self.why = str(error)
            return error.result, error.source, error.reason
        return None

    def assert_invalid(self, why: str) -> None:
        error = self.assertRaises(InvalidPolicy, PolicyFile, self.path)
        self.assertEqual(str(error), f"policy file {self.path!r}: {why}")

    def test_interface(self) -> None:
        """It is a policy, and knows how many entries it has."""
        policy = self.policy()
        verifyObject(IAssociationPolicy, policy)
        self.assertEqual(len(policy), 2)

    def test_entries(self) -> None:
        """Who satisfies one entry may associate; another is told what is wrong, its address first."""
        policy = self.policy()
        for calling, called, peer, codes in (
            ("CT1", "WHATEVER", "192.0.2.1", None),
            ("CT1\0\0", "", "192.0.2.15", None),
            ("WS1", "ARCHIVE", "198.51.100.7", None),
            (" WS2", "ARCHIVE ", "", None),
            ("", "ARCHIVE", "198.51.100.7", None),
            ("CT1", "ARCHIVE", "192.0.2.16", ADDRESS),
            ("XX", "XX", "203.0.113.1", ADDRESS),
            ("WS1", "ARCHIVE", "192.0.2.1", CALLING),
            ("", "ARCHIVE", "192.0.2.1", CALLING),
            ("WS1", "STORESCP", "", CALLED),
            ("WS1", "", "", CALLED),
        ):
            self.assertEqual(self.answer(policy, calling, called, peer), codes, (calling, called, peer))

    def test_why(self) -> None:
        """The refusal says who is meant."""
        policy = self.policy()
        for calling, called, peer, why in (
            ("CT1", "A", "203.0.113.1", "203.0.113.1:50000 is not where anyone is allowed from"),
            ("CT1", "A", "198.51.100.7", "CT1 is not an AE title that is allowed"),
            ("WS1", "A", "198.51.100.7", "WS1 may not call A"),
            ("", "", "198.51.100.7", "no title may not call no title"),
        ):
            self.answer(policy, calling, called, peer)
            self.assertEqual(self.why, why)

    def test_what_is_not_said(self) -> None:
        """What an entry does not say may be anything."""
        policy = self.policy('[[allow]]\naet = "CT1"\n[[allow]]\ncalled = "ARCHIVE"')
        self.assertIsNone(self.answer(policy, "CT1", "X", "203.0.113.1"))
        self.assertIsNone(self.answer(policy, "X", "ARCHIVE"))
        self.assertEqual(self.answer(policy, "X", "X"), CALLED)

    def test_certificates(self) -> None:
        """An entry may say whose certificate there must be, for which titles."""
        policy = self.policy(
            '[[allow]]\naet = "CT1"\ncertificate = "ct1"\n'
            '[[allow]]\naet = "MR1"\ncertificate = ["mr1", "mr2"]'
        )
        verifyObject(ICertificatePolicy, policy)
        for calling, name, codes in (
            ("CT1", "ct1", None),
            ("MR1", "mr2", None),
            ("CT1", "mr1", CALLING),
            ("CT1", "xx", ADDRESS),
        ):
            self.assertEqual(self.answer(policy, calling, "X", shown=certificate(name)), codes)
        self.assertEqual(self.answer(policy, "CT1", "X"), ADDRESS)
        self.assertEqual(self.why, "it has shown no certificate")

    def test_example(self) -> None:
        """The example of the module's documentation can be used."""
        text = re.search(r"::\n\n(.*?)\n\nAE titles", policies.__doc__ or "", re.DOTALL)
        assert text
        policy = self.policy(text[1].replace("\n    ", "\n").strip())
        self.assertEqual(len(policy), 3)
        self.assertIsNone(self.answer(policy, "", "ARCHIVE", "198.51.100.7"))

    def test_invalid(self) -> None:
        """A file that cannot be used says in one line why not."""
        number_1 = "[[allow]] number 1: "
        for text, why in (
            ("", "there is no [[allow]]: no one could associate"),
            ("allow = []", "there is no [[allow]]: no one could associate"),
            ('[allow]\naet = "CT1"', "there is no [[allow]]: no one could associate"),
            ("allow = " + "[" * 5000, "it is nested too deeply"),
            ("deny = 1", "'deny' is not known; there is only [[allow]]"),
            ("[[allow]]", f"{number_1}it says none of aet, from, called, certificate"),
            ("allow = [1]", f"{number_1}it says none of aet, from, called, certificate"),
            ("[[allow]]\naets = 'CT1'", f"{number_1}'aets' is none of aet, from, called, certificate"),
            ("[[allow]]\naet = 1", f"{number_1}aet is neither a string nor a list of strings"),
            ("[[allow]]\naet = []", f"{number_1}aet is neither a string nor a list of strings"),
            ("[[allow]]\nfrom = ['::', 1]", f"{number_1}from is neither a string nor a list of strings"),
            (
                "[[allow]]\nfrom = 'unix'\n[[allow]]\nfrom = '192.0.2.1/24'",
                "[[allow]] number 2: '192.0.2.1/24' is an address inside a network; "
                "the network is 192.0.2.0/24",
            ),
            (
                "[[allow]]\ncalled = 'SEVENTEEN LETTERS'",
                f"{number_1}'SEVENTEEN LETTERS' {NOT_A_TITLE}",
            ),
            (
                r"[[allow]]" "\n" r"aet = 'A\B'",
                f"{number_1}'A\\\\B' {NOT_A_TITLE}",
            ),
        ):
            self.write(text)
            self.assert_invalid(why)

    def test_not_toml(self) -> None:
        """What is not TOML at all, or not even UTF-8, is one line, too."""
        for content in (b"[[allow", b"aet = \xff", b"a = 1\na = 2"):
            self.write(content)
            error = self.assertRaises(InvalidPolicy, PolicyFile, self.path)
            self.assertRegex(str(error), r"\Apolicy file '[^\n]+': [^\n]+\Z")

    def test_no_file(self) -> None:
        """A file that is not there, or is none, says so."""
        self.assert_invalid("No such file or directory")
        os.mkdir(self.path)
        self.assert_invalid("Is a directory")

    def test_read_again(self) -> None:
        """When it is read again, what it says now is in force."""
        policy = self.policy()
        self.assertEqual(self.answer(policy, "MR1", "", "192.0.2.1"), CALLING)
        self.write("[[allow]]\naet = 'MR1'")
        self.assertEqual(self.answer(policy, "MR1", "", "192.0.2.1"), CALLING)
        policy.read()
        self.assertIsNone(self.answer(policy, "MR1", "", "192.0.2.1"))
        self.assertEqual(self.answer(policy, "CT1", "", "192.0.2.1"), CALLING)

    def test_read_again_in_vain(self) -> None:
        """When it cannot be used any more, what it said before stays in force."""
        policy = self.policy()
        for text in ("", "[[allow]]\naet = 'MR1'\n[[allow]]\nfrom = 'here'"):
            self.write(text)
            self.assertRaises(InvalidPolicy, policy.read)
            self.assertIsNone(self.answer(policy, "CT1", "", "192.0.2.1"))
        os.remove(self.path)
        self.assertRaises(InvalidPolicy, policy.read)
        self.assertEqual(len(policy), 2)


class StockContractTests(PolicyContract, SynchronousTestCase):
    """A stock policy keeps the contract of policies."""

    def make_policy(self) -> Any:
        return CalledAETitle("ARCHIVE")

    def accepted(self) -> Any:
        return [self.request(called="ARCHIVE")]

    def refused(self) -> Any:
        return [self.request()]


class AllContractTests(StockContractTests):
    """So do several together, of which one takes its time, and looks at certificates."""

    def setUp(self) -> None:
        self.turns: list[Deferred[None]] = []

    def make_policy(self) -> Any:
        return AllOf(super().make_policy(), Only(self.decide))

    def decide(self, contexts: Any) -> Any:
        self.turns.append(Deferred())
        return self.turns[-1].addCallback(lambda _: contexts[:1])

    def settle(self) -> None:
        for turn in self.turns:
            if not turn.called:
                turn.callback(None)


class PolicyContractTests(SynchronousTestCase):
    """The contract can be broken."""

    def test_broken(self) -> None:
        """A policy that refuses by a bug, or with codes that there are not, does not keep it."""
        contract = StockContractTests()

        def refuse(error: Exception) -> Any:
            def consider(contexts: Any) -> Any:
                raise error

            return lambda: Only(consider)

        for error in (KeyError("a bug"), AssociationRejected(1, 1, 9), AssociationRejected(3, 1, 1)):
            contract.make_policy = refuse(error)  # type: ignore[method-assign]
            self.assertRaises(self.failureException, contract.test_refuses)
        self.assertRaises(self.failureException, contract.test_accepts)

    def test_who_it_is_about(self) -> None:
        """It asks for a policy, and for whom that lets in."""
        contract = PolicyContract()
        self.assertRaises(NotImplementedError, contract.make_policy)
        self.assertRaises(NotImplementedError, contract.accepted)
        self.assertEqual(contract.refused(), ())
        contract.settle()
