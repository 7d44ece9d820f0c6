"""Tests for :mod:`dicomnode.layout`."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.dataset import Walk
from dicomnode.filestore import default_name
from dicomnode.layout import FIELDS, FLAT, LONGEST, Layout, safe
from tests.files import CT, EXPLICIT_VR_LE, instance

#: What a peer may say to get out of the directory, to hide, or to break a line.
UNSAFE = (
    ("..", "_."),
    (".", "_"),
    ("../../etc/passwd", "_._.._etc_passwd"),
    ("/etc/passwd", "_etc_passwd"),
    ("C:\\Windows", "C__Windows"),
    ("a\0b", "a_b"),
    ("a\nb\r\x1b[31m", "a_b___31m"),
    ("M\u00fcller^J\u00f6rg", "M_ller_J_rg"),
    ("\u202egnp", "_gnp"),
    ("\u0661\u0662", "__"),
    ("\udcff", "_"),
    ("~root", "_root"),
    ("-rf", "-rf"),
    ("$(x) `y` ;&|*?", "__x___y_______"),
    ("x" * 300, "x" * 64),
    (".hidden", "_hidden"),
    ("", "_"),
    (None, "_"),
    (" ", "_"),
)


class SafeTests(SynchronousTestCase):
    """No value leaves its place."""

    def test_unsafe(self) -> None:
        """What could harm becomes a _, and no more is kept than a name has room for."""
        for value, expected in UNSAFE:
            self.assertEqual(safe(value), expected)

    def test_harmless(self) -> None:
        """What does no harm stays as it is."""
        for value in ("1.2.840.10008", "CT", "PAT-0_1.x", "_"):
            self.assertEqual(safe(value), value)

    def test_any(self) -> None:
        """Whatever the value is, it is one short component that is not hidden."""

        @given(st.text())
        def check(value: str) -> None:
            self.assertRegex(safe(value), r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")

        check()


class NameTests(SynchronousTestCase):
    """Files are named as pynetdicom names them, unless told otherwise."""

    def test_prefix(self) -> None:
        """The prefix tells the modality; of a class without one it is UN."""
        for sop_class_uid, name in (
            (CT, "CT.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.4", "MR.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.2.1", "CTE.1.2.3"),
            ("1.2.840.10008.5.1.4.1.1.88.11", "UN.1.2.3"),
            ("1.2.3.4", "UN.1.2.3"),
        ):
            self.assertEqual(default_name(instance(sop_class_uid=sop_class_uid)), name)

    def test_one_component(self) -> None:
        """Whatever a UID holds, the name is one component: what could harm becomes a _."""
        for uid, name in (
            ("../../x", "CT._._.._x"),
            ("/etc/passwd", "CT._etc_passwd"),
            ("1.2\0.3", "CT.1.2_.3"),
            ("1.2\n", "CT.1.2_"),
            ("\u0661.\u0662", "CT._._"),
        ):
            self.assertEqual(default_name(instance(uid)), name)


class FieldTests(SynchronousTestCase):
    """Each field is what the association, the command or the data set says."""

    WALK = SimpleNamespace(
        study_instance_uid="1.2.4", series_instance_uid="1.2.5", patient_id="P/1", modality="CT"
    )

    def test_each(self) -> None:
        """Every field has its value."""
        what = instance(calling="MR 1", called="..", walk=self.WALK)
        for field, value in (
            ("prefix", "CT"),
            ("class", CT),
            ("instance", "1.2.3"),
            ("study", "1.2.4"),
            ("series", "1.2.5"),
            ("patient", "P_1"),
            ("modality", "CT"),
            ("calling", "MR_1"),
            ("called", "_."),
        ):
            self.assertEqual(Layout(f"{{{field}}}/{{instance}}")(what), f"{value}/1.2.3")
        self.patch(time, "strftime", lambda form: f"<{form}>")
        self.assertEqual(Layout("{date}/{instance}")(what), "__Y_m_d_/1.2.3")
        tested = "prefix class instance study series patient modality calling called date"
        self.assertEqual(sorted(FIELDS), sorted(tested.split()))

    def test_unsafe_values(self) -> None:
        """No value makes directories of its own, or leaves the one that it is in."""
        layout = Layout("{study}/{series}/{patient}/{modality}/{calling}/{called}/x{instance}.dcm")
        for value, expected in UNSAFE:
            walk = SimpleNamespace(
                study_instance_uid=value, series_instance_uid=value, patient_id=value, modality=value
            )
            name = layout(instance(value or "", calling=value or "", called=value or "", walk=walk))
            self.assertEqual(name, "/".join([expected] * 6 + [f"x{expected}.dcm"]))

    def test_not_walked(self) -> None:
        """Of a data set that nobody walked, its values are absent."""
        layout = Layout("{study}/{series}/{patient}-{modality}/{instance}")
        self.assertEqual(layout(instance()), "_/_/_-_/1.2.3")

    def test_walk_cut_short(self) -> None:
        """Of a walk that ended early, what it had seen by then is used."""
        walk = Walk(EXPLICIT_VR_LE)
        walk.feed(b"\x08\0\x60\0CS\x02\0MR" + b"\x20\0\x0d\0UI\x06\0" + b"1.2.4\0" + b"\x20\0\x0e\0UI\x06\0")
        layout = Layout("{modality}/{study}/{series}/{instance}")
        self.assertEqual(layout(instance(walk=walk)), "MR/1.2.4/_/1.2.3")
        walk.end()
        self.assertFalse(walk.whole)
        self.assertEqual(layout(instance(walk=walk)), "MR/1.2.4/_/1.2.3")


class TemplateTests(SynchronousTestCase):
    """A template is judged before it is used."""

    def test_text(self) -> None:
        """What is no field stays as it is, and braces are doubled."""
        what = instance()
        for template, name in (
            ("a/b c/{instance}", "a/b c/1.2.3"),
            ("{{{instance}}}", "{1.2.3}"),
            ("{instance}{instance}", "1.2.31.2.3"),
            ("100%/{instance}", "100%/1.2.3"),
            ("\u00fc/{instance}", "\u00fc/1.2.3"),
            ("x..y/{instance}..", "x..y/1.2.3.."),
            (FLAT, "CT.1.2.3"),
        ):
            self.assertEqual(Layout(template)(what), name)

    def test_needs_walk(self) -> None:
        """A template that names what only the data set says needs a walk."""
        for field in FIELDS:
            needs = field in ("study", "series", "patient", "modality")
            self.assertEqual(Layout(f"{{{field}}}/{{instance}}").needs_walk, needs, field)
        self.assertFalse(Layout().needs_walk)

    def test_errors(self) -> None:
        """What could not work, or would leave the directory, is refused in one line."""
        for template, why in (
            ("", "has no {instance}"),
            ("{study}", "has no {instance}"),
            ("{{instance}}", "has no {instance}"),
            ("{uid}/{instance}", "{uid} is none of called, calling, class, date, instance, "),
            ("{}{instance}", "{} is none of"),
            ("{0}{instance}", "{0} is none of"),
            ("{instance.x}", "{instance.x} is none of"),
            ("{instance[0]}", "{instance[0]} is none of"),
            ("{instance!r}", "{instance} is none of"),
            ("{instance:>9}", "{instance} is none of"),
            ("{instance", "expected '}'"),
            ("instance}", "Single '}'"),
            ("/{instance}", "empty or hidden"),
            ("/srv/{instance}", "empty or hidden"),
            ("{study}//{instance}", "empty or hidden"),
            ("{instance}/", "empty or hidden"),
            ("../{instance}", "empty or hidden"),
            ("a/../{instance}", "empty or hidden"),
            ("./{instance}", "empty or hidden"),
            (".{instance}", "empty or hidden"),
            ("a\\{instance}", "control character or a backslash"),
            ("a\0{instance}", "control character or a backslash"),
            ("a\n{instance}", "control character or a backslash"),
            ("{a\nb}{instance}", "control character or a backslash"),
            ("{instance}\x7f", "control character or a backslash"),
            ("{instance}{study}{series}{patient}", f"more than {LONGEST} octets"),
            ("x" * (LONGEST + 1) + "/{instance}", f"more than {LONGEST} octets"),
            ("\u00fc" * 100 + "{instance}", f"more than {LONGEST} octets"),
        ):
            error = self.assertRaises(ValueError, Layout, template)
            self.assertIn(why, str(error))
            self.assertTrue(re.fullmatch("[^\n\0\x7f]+", str(error)), template)

    def test_longest(self) -> None:
        """The longest that may be is a name that the file system takes."""
        for template in (
            "{calling}-{called}-{prefix}.{date}.{study}.{instance}",
            "x" * (LONGEST - 64) + "{instance}",
            "{study}-{series}-{instance}" + "y" * 51,
        ):
            name = Layout(template)(instance("1" * 64, walk=SimpleNamespace(study_instance_uid="2" * 99)))
            self.assertLessEqual(len(name), LONGEST)
