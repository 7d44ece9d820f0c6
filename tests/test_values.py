"""Values that are made quickly are what the others are, too."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field, replace

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.command import COMMANDS, CStoreRQ
from dicomnode.values import quick


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    name: str = field(default="p", compare=False)


class QuickTests(SynchronousTestCase):
    """What :func:`quick` returns."""

    def test_same(self) -> None:
        """What is made quickly is of the class, and equal to what that makes, default or not."""
        make = quick(Point)
        for quickly, slowly in (
            (make(1), Point(1)),
            (make(1, 3, "q"), Point(1, 3, "q")),
            (make(name="r", x=4), Point(4, name="r")),
        ):
            self.assertIs(type(quickly), Point)
            self.assertEqual((quickly, quickly.name), (slowly, slowly.name))
            self.assertEqual((hash(quickly), repr(quickly)), (hash(slowly), repr(slowly)))
            self.assertEqual(replace(quickly, y=7), replace(slowly, y=7))

    def test_once(self) -> None:
        """There is one for each class: to make it takes as long as to make a hundred instances."""
        self.assertIs(quick(Point), quick(Point))

    def test_frozen(self) -> None:
        """It does not change."""
        point = quick(Point)(1)
        with self.assertRaises(FrozenInstanceError):
            point.x = 2  # type: ignore[misc]
        with self.assertRaises(FrozenInstanceError):
            del point.x
        self.assertEqual(point, Point(1))

    def test_what_is_missing(self) -> None:
        """It is not made without what has no default, nor with what it has not."""
        with self.assertRaises(TypeError):
            quick(Point)()  # type: ignore[call-arg]
        with self.assertRaises(TypeError):
            quick(Point)(1, z=2)  # type: ignore[call-arg]

    def test_messages(self) -> None:
        """Every message can be made so, of which all elements are passed by name."""
        for message in COMMANDS.values():
            made = quick(message)
            self.assertTrue(issubclass(made, message))
        request = quick(CStoreRQ)(
            message_id=1, affected_sop_class_uid="1.2", affected_sop_instance_uid="1.2.3"
        )
        self.assertEqual(
            request, CStoreRQ(message_id=1, affected_sop_class_uid="1.2", affected_sop_instance_uid="1.2.3")
        )
