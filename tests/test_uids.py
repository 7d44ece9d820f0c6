"""Tests for :mod:`dicomnode.uids`; pydicom's dictionary is the oracle for names."""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary
from twisted.trial.unittest import SynchronousTestCase

from dicomnode import uids

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.50"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"

#: Newer than the dictionary of pydicom 3.0.2; a newer pydicom may have them.
NEWER_THAN_PYDICOM = {
    "1.2.840.10008.5.1.4.1.1.9.100.1",
    "1.2.840.10008.5.1.4.1.1.9.100.2",
    "1.2.840.10008.5.1.4.1.1.66.7",
    "1.2.840.10008.5.1.4.1.1.66.8",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.8.1",
}

#: In no dictionary, and what they were meant to be.
MISTYPED = {
    "1.2.840.10008.5.1.4.1.1.1.1.1.1": "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.1.4.1.1.3.1": "1.2.840.10008.5.1.4.1.1.1.3.1",
}

#: SOP Classes with "Storage" in the name that nobody stores with C-STORE.
NOT_STORED = {
    "1.2.840.10008.1.3.10": "the class of a DICOMDIR, which exists on media only (PS3.3 F)",
    "1.2.840.10008.1.20.1": "Storage Commitment, an N-ACTION service",
    "1.2.840.10008.1.20.2": "Storage Commitment by the pull model, retired",
}

#: Retired Transfer Syntaxes, which pynetdicom and DCMTK do not accept either.
NOT_ACCEPTED = {
    *(f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56)),
    *(f"1.2.840.10008.1.2.4.{number}" for number in range(58, 67)),
    "1.2.840.10008.1.2.6.1",
    "1.2.840.10008.1.2.6.2",
    "1.2.840.10008.1.20",
}

#: What the suffixes stand on, in the order of preference that a peer of pynetdicom's storescp meets.
SUFFIXES = """
    . .1 .1.99 .2
    .4.50 .4.51 .4.57 .4.70 .4.80 .4.81 .4.90 .4.91 .4.92 .4.93 .4.94 .4.95
    .4.100 .4.100.1 .4.101 .4.101.1 .4.102 .4.102.1 .4.103 .4.103.1 .4.104 .4.104.1 .4.105 .4.105.1
    .4.106 .4.106.1 .4.107 .4.108 .4.110 .4.111 .4.112 .4.201 .4.202 .4.203 .4.204 .4.205
    .5 .7.1 .7.2 .7.3 .8.1
"""

PREFIXES = {
    "Computed Radiography Image Storage": "CR",
    "CT Image Storage": "CT",
    "Enhanced CT Image Storage": "CTE",
    "Enhanced MR Image Storage": "MRE",
    "Enhanced PET Image Storage": "PTE",
    "Enhanced US Volume Storage": "USE",
    "Enhanced XA Image Storage": "XAE",
    "MR Image Storage": "MR",
    "Nuclear Medicine Image Storage": "NM",
    "Positron Emission Tomography Image Storage": "PT",
    "RT Dose Storage": "RD",
    "RT Image Storage": "RI",
    "RT Plan Storage": "RP",
    "RT Structure Set Storage": "RS",
    "Secondary Capture Image Storage": "SC",
    "Ultrasound Image Storage": "US",
    "X-Ray Angiographic Image Storage": "XA",
}

#: Retired classes that share their name with the class that replaced them.
RETIRED_NAMESAKES = {"1.2.840.10008.5.1.4.1.1.5", "1.2.840.10008.5.1.4.1.1.6"}


class StorageSOPClassTests(SynchronousTestCase):
    """The table of Storage SOP Classes."""

    def test_names(self) -> None:
        """Each class has the name that pydicom's dictionary has, and is a SOP Class there."""
        for uid, name in uids.STORAGE_SOP_CLASSES.items():
            if uid not in UID_dictionary:
                self.assertIn(uid, NEWER_THAN_PYDICOM | MISTYPED.keys())
                continue
            self.assertEqual((name, "SOP Class"), UID_dictionary[uid][:2], uid)

    def test_complete(self) -> None:
        """Each SOP Class that pydicom's dictionary names "Storage" is accepted, or known not to be stored."""
        known = {
            uid
            for uid, (name, kind, *_) in UID_dictionary.items()
            if kind == "SOP Class" and "Storage" in name
        }
        self.assertEqual(set(), known - uids.STORAGE_SOP_CLASSES.keys() - NOT_STORED.keys())

    def test_not_stored(self) -> None:
        """Classes that are not stored are not accepted."""
        self.assertEqual(set(), uids.STORAGE_SOP_CLASSES.keys() & NOT_STORED.keys())

    def test_mistyped(self) -> None:
        """The two UIDs that the requirement mistypes are accepted beside the right ones, by the same name."""
        for mistyped, right in MISTYPED.items():
            self.assertEqual(uids.STORAGE_SOP_CLASSES[right], uids.STORAGE_SOP_CLASSES[mistyped])

    def test_number(self) -> None:
        """157 classes are required, 13 newer, 38 retired or of other trades, 2 mistyped; none twice."""
        self.assertEqual(157 + 13 + 38 + 2, len(uids.STORAGE_SOP_CLASSES))

    def test_read_only(self) -> None:
        """Nobody can change the table at run time."""
        with self.assertRaises(TypeError):
            uids.STORAGE_SOP_CLASSES["1.2.3"] = "Private"  # type: ignore[index]

    def test_verification(self) -> None:
        """Verification is no Storage SOP Class."""
        self.assertEqual("Verification SOP Class", UID_dictionary[uids.VERIFICATION][0])
        self.assertNotIn(uids.VERIFICATION, uids.STORAGE_SOP_CLASSES)


class TransferSyntaxTests(SynchronousTestCase):
    """The table of Transfer Syntaxes."""

    def test_names(self) -> None:
        """Each has the name that pydicom's dictionary has, and is a Transfer Syntax there."""
        for uid, name in uids.TRANSFER_SYNTAXES.items():
            if uid not in UID_dictionary:
                self.assertIn(uid, NEWER_THAN_PYDICOM)
                continue
            self.assertEqual((name, "Transfer Syntax"), UID_dictionary[uid][:2], uid)

    def test_complete(self) -> None:
        """Each Transfer Syntax of pydicom's dictionary is accepted, or retired."""
        known = {uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
        self.assertEqual(NOT_ACCEPTED, known - uids.TRANSFER_SYNTAXES.keys())
        self.assertEqual({"Retired"}, {UID_dictionary[uid][3] for uid in NOT_ACCEPTED})

    def test_order(self) -> None:
        """The order of preference is pynetdicom's, and what pynetdicom lacks comes last."""
        expected = [f"1.2.840.10008.1.2{suffix}".rstrip(".") for suffix in SUFFIXES.split()]
        self.assertEqual([*expected, ENCAPSULATED_UNCOMPRESSED], list(uids.TRANSFER_SYNTAXES))

    def test_constants(self) -> None:
        """The four constants are the syntaxes that they are named for."""
        self.assertEqual(
            [
                "Implicit VR Little Endian",
                "Explicit VR Little Endian",
                "Deflated Explicit VR Little Endian",
                "Explicit VR Big Endian",
            ],
            [
                uids.name(uid)
                for uid in (
                    uids.IMPLICIT_VR_LE,
                    uids.EXPLICIT_VR_LE,
                    uids.DEFLATED_EXPLICIT_VR_LE,
                    uids.EXPLICIT_VR_BE,
                )
            ],
        )


class NameTests(SynchronousTestCase):
    """The names of UIDs and the prefixes of files."""

    def test_name(self) -> None:
        """A UID of any of the tables has a name."""
        self.assertEqual("CT Image Storage", uids.name(CT))
        self.assertEqual("JPEG Baseline (Process 1)", uids.name(JPEG))
        self.assertEqual("Verification SOP Class", uids.name(uids.VERIFICATION))

    def test_no_name(self) -> None:
        """The name of an unknown UID is the UID."""
        self.assertEqual("1.2.3", uids.name("1.2.3"))

    def test_prefix(self) -> None:
        """Seventeen SOP Classes have a file name prefix, and all others share UN."""
        for uid, name in uids.STORAGE_SOP_CLASSES.items():
            expected = "UN" if uid in RETIRED_NAMESAKES else PREFIXES.get(name, "UN")
            self.assertEqual(expected, uids.file_name_prefix(uid), name)
        self.assertEqual(17, len({uids.file_name_prefix(uid) for uid in uids.STORAGE_SOP_CLASSES} - {"UN"}))

    def test_prefix_of_unknown(self) -> None:
        """An unknown SOP Class has the prefix UN."""
        self.assertEqual("UN", uids.file_name_prefix("1.2.3"))


class PreferredTests(SynchronousTestCase):
    """The Transfer Syntaxes in order of preference."""

    def selected(self, preference: str | None, *proposed: str, byte_order: str = "little") -> str | None:
        """Return the first of the preferred syntaxes that a peer proposes."""
        return next((uid for uid in uids.preferred(preference, byte_order) if uid in proposed), None)

    def test_selection(self) -> None:
        """What is selected from some usual proposals, by preference."""
        implicit, little, big = uids.IMPLICIT_VR_LE, uids.EXPLICIT_VR_LE, uids.EXPLICIT_VR_BE
        deflated = uids.DEFLATED_EXPLICIT_VR_LE
        preferences = (None, "uncompressed", "little", "big", "implicit")
        for proposed, expected in (
            ((implicit, little, big, deflated, JPEG), (implicit, little, little, big, implicit)),
            ((big, little), (little, little, little, big, None)),
            ((deflated, little, big), (little, little, little, big, None)),
            ((deflated, big), (deflated, big, deflated, big, None)),
            ((JPEG, implicit), (implicit,) * 5),
            ((JPEG,), (JPEG, JPEG, JPEG, JPEG, None)),
        ):
            selected = tuple(self.selected(preference, *proposed) for preference in preferences)
            self.assertEqual(expected, selected, proposed)

    def test_default(self) -> None:
        """Without a preference the order is the table's."""
        self.assertEqual(tuple(uids.TRANSFER_SYNTAXES), uids.preferred(None))

    def test_nothing_is_lost(self) -> None:
        """A preference moves syntaxes to the front and loses none, nor the order of the rest."""
        for preference, moved in (("uncompressed", 3), ("little", 1), ("big", 1)):
            order = uids.preferred(preference)
            self.assertEqual(len(uids.TRANSFER_SYNTAXES), len(order))
            rest = [uid for uid in uids.TRANSFER_SYNTAXES if uid not in order[:moved]]
            self.assertEqual(rest, list(order[moved:]))

    def test_native_byte_order(self) -> None:
        """Preferring uncompressed starts with the byte order of the machine, and ends with Implicit VR."""
        little, big = uids.EXPLICIT_VR_LE, uids.EXPLICIT_VR_BE
        self.assertEqual((little, big, uids.IMPLICIT_VR_LE), uids.preferred("uncompressed", "little")[:3])
        self.assertEqual((big, little, uids.IMPLICIT_VR_LE), uids.preferred("uncompressed", "big")[:3])

    def test_implicit_only(self) -> None:
        """The preference "implicit" leaves nothing else."""
        self.assertEqual((uids.IMPLICIT_VR_LE,), uids.preferred("implicit"))

    def test_unknown_preference(self) -> None:
        """A preference that does not exist is an error of the caller."""
        self.assertRaises(ValueError, uids.preferred, "loud")
