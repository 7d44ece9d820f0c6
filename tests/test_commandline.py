"""Tests for :mod:`dicomnode.commandline`: arguments stay arguments, whatever a peer calls itself."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

import os
import re
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.commandline import ON_STUDY, CommandLine, plain

VALUES = {"p": "/data/x y", "f": "CT.1.2.3", "a": "CT1", "c": "HERE", "r": "192.0.2.1"}


class CommandLineTests(SynchronousTestCase):
    """A command is split once, and what is put in thereafter stays where it is."""

    def assert_arguments(self, text: str, *arguments: str) -> None:
        self.assertEqual(CommandLine(text).arguments(VALUES), list(arguments))

    def test_split(self) -> None:
        """It is split as a shell would, and nothing else is done to it that a shell does."""
        self.assert_arguments(
            "echo 'a b' c\\ d \"e'f\" $HOME * ; rm", "echo", "a b", "c d", "e'f", "$HOME", "*", ";", "rm"
        )

    def test_placeholders(self) -> None:
        """Each is replaced, wherever it is, and however often; what is no placeholder stays."""
        self.assert_arguments(
            "x #p/#f -a#a,#c '#r #a'", "x", "/data/x y/CT.1.2.3", "-aCT1,HERE", "192.0.2.1 CT1"
        )
        self.assert_arguments("x # #x #P ##f", "x", "#", "#x", "#P", "#CT.1.2.3")

    def test_replaced_once(self) -> None:
        """What is put in is not looked at again, and makes no argument of its own."""
        arguments = CommandLine("x #f").arguments({**VALUES, "f": "#p '; rm -rf ~' #a"})
        self.assertEqual(arguments, ["x", "#p '; rm -rf ~' #a"])

    def test_refused(self) -> None:
        """What cannot be split, names no program, or lets a peer name it, is refused."""
        for text, why in (
            ("", "names no program"),
            ("  ", "names no program"),
            ("'' x", "names no program"),
            ("x 'y", "No closing quotation"),
            ("x \0", "NUL"),
            ("#p/run x", "in the name of the program"),
            ("run-#a", "in the name of the program"),
        ):
            error = self.assertRaises(ValueError, CommandLine, text)
            self.assertIn(why, str(error))
        error = self.assertRaises(ValueError, CommandLine, "x #p #f", ON_STUDY)
        self.assertIn("#f", str(error))
        CommandLine("x #p #a #c #r", ON_STUDY)

    def test_program(self) -> None:
        """Where the program is, is known from the start, if it is there."""
        self.assertEqual(CommandLine(f"'{sys.executable}' #f").program, sys.executable)
        found = CommandLine("sh -c x").program
        assert found is not None
        self.assertTrue(os.path.isabs(found))
        self.assertIsNone(CommandLine("no-such-program-here").program)


class PlainTests(SynchronousTestCase):
    """What a peer says is put in without what could harm."""

    def test_plain(self) -> None:
        """What is harmless stays; what is not, is an underscore."""
        for value, expected in (
            ("CT1", "CT1"),
            ("CT 1", "CT_1"),
            ("2001:db8::1", "2001:db8::1"),
            ("-rf", "_rf"),
            ("..", "_."),
            ("../../etc", "_./.._etc".replace("/", "_")),
            ("$(reboot)", "__reboot_"),
            ("a;b|c&d>e`f'g\"h\\i\nj", "a_b_c_d_e_f_g_h_i_j"),
            ("", "_"),
            ("\xc4\u2028", "__"),
        ):
            self.assertEqual(plain(value), expected)

    @given(st.text(max_size=40))
    def test_any(self, value: str) -> None:
        """It is never empty, nor an option, nor hidden, and holds nothing but these."""
        self.assertRegex(plain(value), re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:-]*\Z"))
        self.assertEqual(plain(plain(value)), plain(value))
