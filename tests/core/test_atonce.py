"""What is taken at once is what would be read thing by thing."""

from __future__ import annotations

from dicomnode.core.machine import Role, State
from dicomnode.core.pdu import (
    DATA_HEADER,
    p_data_tf,
)
from dicomnode.core.stream import FRAGMENTS
from tests.core import test_association, test_messages
from tests.core.associationcases import (
    CONNECTED,
    CT,
    ECHO,
    ECHO_RQ,
    STORE_RQ,
    AssociationTestCase,
    End,
    established,
    message,
    pdu,
    pdv,
    reach,
)
from tests.core.helpers import octet_by_octet


class AtOnce(AssociationTestCase):
    """What is taken at once is what would be read thing by thing."""

    def setUp(self) -> None:
        self.patch(End, "at_once", True)
        super().setUp()


class AtOncePairTests(AtOnce, test_association.PairTests):
    """A requestor and an acceptor that take at once what they can."""


class AtOncePDUEventTests(AtOnce, test_association.PDUEventTests):
    """Table 9-10, driven by PDUs that are taken at once."""


class AtOnceLimitTests(AtOnce, test_messages.LimitTests):
    """What is limited is, taken at once."""


class AtOnceMessageTests(AtOnce, test_messages.MessageTests):
    """Messages that are taken at once."""

    def test_each_split(self) -> None:
        """However messages arrive in reads, and are cut into PDVs and PDUs, they are the same."""
        one = p_data_tf(CT, True, True, self.store_set)
        for octets in (
            one + p_data_tf(CT, False, True, b"data set"),
            one + p_data_tf(CT, False, False, b"data") + p_data_tf(CT, False, True, b" set"),
            one + pdu(4, pdv(CT, 0, b"data") + pdv(CT, 2, b" set")),
            one + p_data_tf(CT, False, False, b"data set") + p_data_tf(CT, False, True, b""),
            one + p_data_tf(CT, False, False, b"") + p_data_tf(CT, False, True, b"data set"),
        ):
            octets += message(ECHO, ECHO_RQ)
            for cut in range(len(octets) + 1):
                self.end.receives(octets[:cut], octets[cut:])
                self.assertIndicated(self.end, self.store, (b"data set", True), self.echo)
                self.assertFalse(self.end.core.begun)

    def test_runs(self) -> None:
        """PDUs that are alike are read the same however reads cut them, whatever is among and behind them."""
        ten = b"0123456789"
        like, end = p_data_tf(CT, False, False, ten), p_data_tf(CT, False, True, b"end")
        two = pdu(4, pdv(CT, 0, b"01") + pdv(CT, 0, b"23"))
        self.assertEqual(len(two), len(like))
        for among, last, data in (
            (b"", end, b"|end"),
            (b"", p_data_tf(CT, False, True, ten), b"|" + ten),
            (b"", p_data_tf(CT, False, True, b"something longer"), b"|something longer"),
            (b"", p_data_tf(CT, False, True, b""), b"|"),
            (b"", pdu(4, pdv(CT, 0, b"e") + pdv(CT, 2, b"nd")), b"|end"),
            (two, end, b"0123|end"),
            (pdu(4, pdv(CT, 0xFC, ten)), end, ten + b"|end"),
            (p_data_tf(CT, False, False, b"short"), end, b"short|end"),
            (p_data_tf(CT, False, False, b""), end, b"|end"),
        ):
            octets = (
                p_data_tf(CT, True, True, self.store_set)
                + like * 2
                + among
                + like * 2
                + last
                + message(ECHO, ECHO_RQ)
            )
            data_set = data.replace(b"|", ten * 2)
            for first in range(0, len(octets), 3):
                for second in range(first, len(octets), 5):
                    self.end.receives(octets[:first], octets[first:second], octets[second:])
                    self.assertIndicated(self.end, self.store, (ten * 2 + data_set, True), self.echo)
                    self.assertFalse(self.end.core.begun)

    def test_at_once(self) -> None:
        """A message that is there, and what is of a data set, leaves nothing to be read as it comes."""
        octets = message(CT, STORE_RQ, b"data set")
        for cut in range(octets.index(self.store_set) + len(self.store_set), len(octets) + 1):
            taken = self.end.core.receive_message(octets[:cut])
            assert taken is not None
            rest = bytes(taken[2]) + octets[cut:]
            self.assertLess(len(taken[2]), DATA_HEADER.size)
            self.end.receives(rest)
            self.end.forgets()

    def test_of_another(self) -> None:
        """What breaks the protocol is not taken, and ends the association as ever."""
        announced = p_data_tf(CT, True, True, self.store_set)
        for octets in (
            p_data_tf(99, True, True, self.store_set),
            p_data_tf(CT, True, True, b"no command set"),
            announced + p_data_tf(ECHO, False, True, b"data"),
            announced + announced,
            announced + pdu(4, pdv(CT, 2, b"data") + b"\0"),
            announced + pdu(9, b"data set"),
            announced + p_data_tf(CT, False, True, bytes(20000)),
            p_data_tf(CT, True, True, bytes(20000)),
            p_data_tf(CT, True, False, self.store_set) + announced[:1] + b"\0" * 40,
        ):
            expected = established(Role.ACCEPTOR)
            expected.at_once = False
            for end in (expected, self.end):
                end.receives(octets)
                end.collects()
            self.assertEqual(self.end.indicated, expected.indicated, octets[:200])
            self.assertEqual(self.end.sent, expected.sent)
            self.end = established(Role.ACCEPTOR)

    def test_empty_fragment_at_the_end_of_what_is_looked_at(self) -> None:
        """A fragment without octets is over though nothing else is looked at in that turn: see FRAGMENTS."""
        announced = p_data_tf(CT, True, True, self.store_set)
        pair = p_data_tf(CT, False, False, b"ab")
        for count in (FRAGMENTS - 2, FRAGMENTS - 1, FRAGMENTS, FRAGMENTS + 1):
            for last in (False, True):
                self.end.receives(announced + pair * count + p_data_tf(CT, False, last, b""))
                if not last:
                    self.end.receives(p_data_tf(CT, False, True, b"cd"))
                for octet in octet_by_octet(message(ECHO, ECHO_RQ)):
                    self.end.receives(octet)
                data_set = b"ab" * count + (b"" if last else b"cd")
                self.assertIndicated(self.end, self.store, (data_set, True), self.echo)

    def test_not_in_sta6(self) -> None:
        """Where the machine has something to say of it, nothing is taken."""
        octets = message(CT, STORE_RQ, b"data set")
        for role, state in CONNECTED:
            if state is not State.STA6:
                end = reach(role, state)
                self.assertIsNone(end.core.receive_message(octets), state)
                self.assertIsNone(end.core.receive_fragments(octets), state)
                self.assertIsNone(end.core.receive_pdu(octets), state)
        traced = established(Role.ACCEPTOR, trace=lambda *step: None)
        self.assertIsNone(traced.core.receive_message(octets))
