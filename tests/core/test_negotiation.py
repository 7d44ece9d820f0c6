"""Tests of :mod:`dicomnode.core.negotiation`: which presentation contexts, and why not."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.items import RoleSelection, UserInformation
from dicomnode.core.negotiation import PresentationContext, agreed, answer, narrower
from dicomnode.core.pdu import AnsweredContext, AssociateAC, AssociateRQ, ProposedContext

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

OFFERED = {
    VERIFICATION: (IMPLICIT,),
    CT_IMAGE: (EXPLICIT, IMPLICIT),
    MR_IMAGE: (),
}

# Results (PS3.8 Table 9-18)
ACCEPTED, REJECTED, NO_REASON, ABSTRACT_SYNTAX, TRANSFER_SYNTAXES = range(5)

#: What is proposed, and what is answered: result and transfer syntax.
PROPOSALS: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    (VERIFICATION, (IMPLICIT,), ACCEPTED, IMPLICIT),
    (VERIFICATION, (BIG, EXPLICIT, IMPLICIT), ACCEPTED, IMPLICIT),
    # Our order decides, not theirs.
    (CT_IMAGE, (EXPLICIT, IMPLICIT), ACCEPTED, EXPLICIT),
    (CT_IMAGE, (IMPLICIT, EXPLICIT), ACCEPTED, EXPLICIT),
    (CT_IMAGE, (BIG, IMPLICIT), ACCEPTED, IMPLICIT),
    (CT_IMAGE, (IMPLICIT, IMPLICIT), ACCEPTED, IMPLICIT),
    # Not offered: the abstract syntax is looked at first.
    ("1.2.3", (IMPLICIT,), ABSTRACT_SYNTAX, IMPLICIT),
    ("1.2.3", ("1.9", "1.8"), ABSTRACT_SYNTAX, "1.9"),
    (VERIFICATION + ".0", (IMPLICIT,), ABSTRACT_SYNTAX, IMPLICIT),
    # Offered, but in no transfer syntax that was proposed.
    (VERIFICATION, (EXPLICIT, BIG), TRANSFER_SYNTAXES, EXPLICIT),
    (CT_IMAGE, (BIG,), TRANSFER_SYNTAXES, BIG),
    (MR_IMAGE, (IMPLICIT,), TRANSFER_SYNTAXES, IMPLICIT),
)


def request(*contexts: ProposedContext, echo: bytes = b"") -> AssociateRQ:
    return AssociateRQ("ARCHIVE", "MODALITY", contexts, echo=echo)


def accept(*contexts: AnsweredContext) -> AssociateAC:
    return AssociateAC("ARCHIVE", "MODALITY", contexts)


class AnswerTests(SynchronousTestCase):
    """The acceptor's answer."""

    def test_each_proposal(self) -> None:
        """Each proposal is answered as the table says."""
        for abstract_syntax, transfer_syntaxes, result, transfer_syntax in PROPOSALS:
            proposed = request(ProposedContext(1, abstract_syntax, transfer_syntaxes))
            contexts = answer(proposed, OFFERED, UserInformation()).contexts
            self.assertEqual(contexts, (AnsweredContext(1, result, transfer_syntax),))

    def test_all_proposals(self) -> None:
        """Contexts are answered each by itself, with their ids, in the order of the proposal."""
        ids = range(255, 255 - 2 * len(PROPOSALS), -2)
        proposed = request(
            *(ProposedContext(number, *row[:2]) for number, row in zip(ids, PROPOSALS, strict=True))
        )
        expected = tuple(
            AnsweredContext(number, *row[2:]) for number, row in zip(ids, PROPOSALS, strict=True)
        )
        self.assertEqual(answer(proposed, OFFERED, UserInformation()).contexts, expected)

    def test_one_syntax_several_times(self) -> None:
        """An abstract syntax may be proposed in several contexts, each of which is answered."""
        proposed = request(
            ProposedContext(1, CT_IMAGE, (IMPLICIT,)), ProposedContext(3, CT_IMAGE, (EXPLICIT,))
        )
        self.assertEqual(
            answer(proposed, OFFERED, UserInformation()).contexts,
            (AnsweredContext(1, ACCEPTED, IMPLICIT), AnsweredContext(3, ACCEPTED, EXPLICIT)),
        )

    def test_nothing_offered(self) -> None:
        """Who offers nothing accepts the association, and no context of it."""
        proposed = request(ProposedContext(1, VERIFICATION, (IMPLICIT,)))
        expected = accept(AnsweredContext(1, ABSTRACT_SYNTAX, IMPLICIT))
        self.assertEqual(answer(proposed, {}, UserInformation()), expected)

    def test_ourselves(self) -> None:
        """The answer says about us what we were told to say, and in all else follows the request."""
        ours = UserInformation(
            max_length=1, implementation_class_uid="1.2", roles=(RoleSelection("1", True, True),)
        )
        proposed = request(ProposedContext(1, VERIFICATION, (IMPLICIT,)))
        answered = answer(proposed, OFFERED, ours)
        self.assertEqual(answered.user_information, ours)
        self.assertEqual(answered.called_ae_title, proposed.called_ae_title)
        self.assertEqual(answered.calling_ae_title, proposed.calling_ae_title)
        self.assertEqual(answered.protocol_version, 1)

    def test_echo(self) -> None:
        """Octets 11 to 74 of the request are in the answer, byte for byte (PS3.8 Table 9-17)."""
        titles = b"ARCHIVE\0        " + b"  MODALITY\0\0\0\0\0\0"
        sent = request(ProposedContext(1, VERIFICATION, (IMPLICIT,)), echo=titles + bytes(range(1, 33)))
        received = AssociateRQ.decode(memoryview(sent.encode())[6:])
        answered = answer(received, OFFERED, UserInformation())
        self.assertEqual(answered.encode()[10:74], sent.encode()[10:74])
        self.assertEqual(answered.called_ae_title, "ARCHIVE")


class RememberedTests(SynchronousTestCase):
    """Requests that have come before."""

    def setUp(self) -> None:
        proposed = request(ProposedContext(1, CT_IMAGE, (EXPLICIT, IMPLICIT)))
        self.request = AssociateRQ.decode(memoryview(proposed.encode())[6:])
        self.again = AssociateRQ.decode(memoryview(proposed.encode())[6:])

    def assertAnswered(self, proposed: AssociateRQ, offered: dict[str, list[str]], expected: str) -> None:
        answered = answer(proposed, offered, UserInformation())
        self.assertEqual(answered, accept(AnsweredContext(1, ACCEPTED, expected)))
        self.assertEqual(AssociateAC.decode(memoryview(answered.encode())[6:]).contexts, answered.contexts)
        self.assertEqual(
            agreed(proposed, answered), {1: PresentationContext(1, CT_IMAGE, expected, scu=True, scp=False)}
        )

    def test_as_before(self) -> None:
        """They are answered as before, by what was made of them then."""
        first = answer(self.request, OFFERED, UserInformation())
        self.assertIs(answer(self.again, OFFERED, UserInformation()).contexts, first.contexts)

    def test_offer(self) -> None:
        """By another who takes other things they are answered otherwise."""
        for _ in range(2):
            self.assertAnswered(self.request, {CT_IMAGE: [EXPLICIT]}, EXPLICIT)
            self.assertAnswered(self.again, {CT_IMAGE: [IMPLICIT]}, IMPLICIT)
        refused = answer(self.request, {}, UserInformation())
        self.assertEqual(refused, accept(AnsweredContext(1, ABSTRACT_SYNTAX, EXPLICIT)))
        self.assertEqual(agreed(self.request, refused), {})

    def test_changed_offer(self) -> None:
        """So they are by who takes other things than before, though its list is the same."""
        offered = {CT_IMAGE: [EXPLICIT]}
        self.assertAnswered(self.request, offered, EXPLICIT)
        offered[CT_IMAGE][:] = [IMPLICIT]
        self.assertAnswered(self.again, offered, IMPLICIT)

    def test_own_contexts(self) -> None:
        """What one association makes of its contexts is nothing to another."""
        answered = answer(self.request, OFFERED, UserInformation())
        agreed(self.request, answered).clear()
        self.assertEqual(list(agreed(self.again, answered)), [1])

    def test_roles(self) -> None:
        """Roles that are accepted are so on one association only."""
        answered = answer(self.request, OFFERED, UserInformation())
        self.assertTrue(agreed(self.request, answered)[1].scu)
        role = RoleSelection(CT_IMAGE, scu=False, scp=True)
        both = RoleSelection(CT_IMAGE, scu=True, scp=True)
        proposed = replace(self.request, user_information=UserInformation(roles=(both,)))
        as_scu = agreed(proposed, replace(answered, user_information=UserInformation(roles=(role,))))
        self.assertEqual(as_scu[1], PresentationContext(1, CT_IMAGE, EXPLICIT, scu=False, scp=True))
        self.assertTrue(agreed(self.again, answered)[1].scu)


class AgreedTests(SynchronousTestCase):
    """What both ends have agreed upon."""

    PROPOSED = request(
        ProposedContext(1, VERIFICATION, (IMPLICIT,)), ProposedContext(3, CT_IMAGE, (EXPLICIT, IMPLICIT))
    )

    def test_accepted(self) -> None:
        """The contexts that were proposed and accepted are agreed upon."""
        accepted = accept(AnsweredContext(3, ACCEPTED, IMPLICIT), AnsweredContext(1, ACCEPTED, IMPLICIT))
        self.assertEqual(
            agreed(self.PROPOSED, accepted),
            {
                1: PresentationContext(1, VERIFICATION, IMPLICIT),
                3: PresentationContext(3, CT_IMAGE, IMPLICIT),
            },
        )

    def test_not_accepted(self) -> None:
        """A context with any other result is not, whatever transfer syntax its answer names."""
        for result in (REJECTED, NO_REASON, ABSTRACT_SYNTAX, TRANSFER_SYNTAXES, 5, 255):
            self.assertEqual(agreed(self.PROPOSED, accept(AnsweredContext(1, result, IMPLICIT))), {})

    def test_not_proposed(self) -> None:
        """An acceptance of a context, or of a transfer syntax, that was not proposed is left out."""
        for context in (
            AnsweredContext(5, ACCEPTED, IMPLICIT),
            AnsweredContext(1, ACCEPTED, EXPLICIT),
            AnsweredContext(1, ACCEPTED, ""),
        ):
            self.assertEqual(agreed(self.PROPOSED, accept(context)), {})

    def test_not_answered(self) -> None:
        """A context without an answer is not agreed upon."""
        accepted = accept(AnsweredContext(3, ACCEPTED, EXPLICIT))
        self.assertEqual(list(agreed(self.PROPOSED, accepted)), [3])

    def test_both_ends(self) -> None:
        """The two ends come to the same agreement, the requestor from what it received."""
        contexts = tuple(ProposedContext(2 * number + 1, *row[:2]) for number, row in enumerate(PROPOSALS))
        sent = request(*contexts)
        answered = answer(AssociateRQ.decode(memoryview(sent.encode())[6:]), OFFERED, UserInformation())
        received = AssociateAC.decode(memoryview(answered.encode())[6:])
        self.assertEqual(agreed(sent, received), agreed(sent, answered))
        self.assertEqual(
            {number: context.transfer_syntax for number, context in agreed(sent, received).items()},
            {2 * number + 1: row[3] for number, row in enumerate(PROPOSALS) if row[2] == ACCEPTED},
        )

    def test_roles(self) -> None:
        """A role is agreed upon that was proposed and accepted; without an answer it is the default one."""
        context = ProposedContext(1, CT_IMAGE, (IMPLICIT,))
        for proposed, accepted, roles in (
            (None, None, (True, False)),
            ((False, True), None, (True, False)),
            ((False, True), (False, True), (False, True)),
            ((True, True), (True, True), (True, True)),
            ((True, True), (True, False), (True, False)),
            ((True, True), (False, False), (False, False)),
            # What was not proposed is not accepted, whatever the answer says (PS3.7 D.3.3.4).
            ((False, True), (True, True), (False, True)),
            ((True, False), (False, True), (False, False)),
            (None, (False, True), (True, False)),
        ):
            sent, answered = (
                UserInformation(roles=() if role is None else (RoleSelection(CT_IMAGE, *role),))
                for role in (proposed, accepted)
            )
            asked = AssociateRQ("ARCHIVE", "MODALITY", (context,), sent)
            accepts = AssociateAC("ARCHIVE", "MODALITY", (AnsweredContext(1, ACCEPTED, IMPLICIT),), answered)
            self.assertEqual(
                agreed(asked, accepts), {1: PresentationContext(1, CT_IMAGE, IMPLICIT, *roles)}, proposed
            )

    def test_roles_of_others(self) -> None:
        """The roles of one SOP Class are those of all its contexts, and of no other."""
        contexts = (
            ProposedContext(1, CT_IMAGE, (IMPLICIT,)),
            ProposedContext(3, CT_IMAGE, (EXPLICIT,)),
            ProposedContext(5, MR_IMAGE, (IMPLICIT,)),
        )
        information = UserInformation(roles=(RoleSelection(CT_IMAGE, False, True),))
        asked = AssociateRQ("ARCHIVE", "MODALITY", contexts, information)
        answers = tuple(AnsweredContext(one.id, ACCEPTED, one.transfer_syntaxes[0]) for one in contexts)
        found = agreed(asked, AssociateAC("ARCHIVE", "MODALITY", answers, information))
        roles = [(one.scu, one.scp) for one in found.values()]
        self.assertEqual(roles, [(False, True), (False, True), (True, False)])


class WindowTests(SynchronousTestCase):
    """The asynchronous operations window."""

    def test_narrower(self) -> None:
        """0 is no limit."""
        self.assertEqual([narrower(0, 0), narrower(0, 2), narrower(2, 0), narrower(2, 3)], [0, 2, 2, 2])
