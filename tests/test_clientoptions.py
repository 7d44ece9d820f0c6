"""Tests for :mod:`dicomnode.clientoptions`."""

from __future__ import annotations

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from dicomnode.clientoptions import parse_echo, parse_store
from dicomnode.uids import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE

COMMON = {
    "log-level": "error",
    "called-aet": "ANY-SCP",
    "acse-timeout": 30.0,
    "dimse-timeout": 30.0,
    "network-timeout": 30.0,
    "max-pdu": 16382,
    "request": None,
}

#: The options that both have in common, and what each gives.
SPELLINGS = [
    ("-q", "log-level", "none"),
    ("--quiet", "log-level", "none"),
    ("-v", "log-level", "info"),
    ("-d", "log-level", "debug"),
    ("-ll warning", "log-level", "warn"),
    ("--log-level info", "log-level", "info"),
    ("-aet US", "calling-aet", "US"),
    ("--calling-aet US", "calling-aet", "US"),
    ("-aec THEM", "called-aet", "THEM"),
    ("--called-aet THEM", "called-aet", "THEM"),
    ("-ta 1.5", "acse-timeout", 1.5),
    ("--acse-timeout 1", "acse-timeout", 1.0),
    ("-td 2", "dimse-timeout", 2.0),
    ("--dimse-timeout 2", "dimse-timeout", 2.0),
    ("-tn 3", "network-timeout", 3.0),
    ("--network-timeout=3", "network-timeout", 3.0),
    ("-pdu 0", "max-pdu", 0),
    ("--max-pdu 4096", "max-pdu", 4096),
    ("-xe", "request", EXPLICIT_VR_LE),
    ("--request-little", "request", EXPLICIT_VR_LE),
    ("-xb", "request", EXPLICIT_VR_BE),
    ("--request-big", "request", EXPLICIT_VR_BE),
    ("-xi", "request", IMPLICIT_VR_LE),
    ("--request-implicit", "request", IMPLICIT_VR_LE),
]


class ParseTests(SynchronousTestCase):
    """Options have pynetdicom's names, and the others may stand anywhere among them."""

    def test_defaults(self) -> None:
        """Without options there are the defaults."""
        self.assertEqual(
            parse_echo(["host", "104"]),
            {
                **COMMON,
                "calling-aet": "ECHOSCU",
                "repeat": 1,
                "abort": False,
                "where": ("host", 104),
            },
        )
        self.assertEqual(
            parse_store(["host", "104", "a", "b"]),
            {
                **COMMON,
                "calling-aet": "STORESCU",
                "recurse": False,
                "required-contexts": False,
                "where": ("host", 104),
                "paths": ["a", "b"],
            },
        )

    def test_spellings(self) -> None:
        """Each spelling is known to both."""
        for text, key, value in SPELLINGS:
            self.assertEqual(parse_echo(["host", *text.split(), "104"])[key], value)
            self.assertEqual(parse_store([*text.split(), "host", "104", "a"])[key], value)
        for text, key, value in (("--repeat 3", "repeat", 3), ("--abort", "abort", True)):
            self.assertEqual(parse_echo(["host", "104", *text.split()])[key], value)
        for text, key in (
            ("-r", "recurse"),
            ("--recurse", "recurse"),
            ("-cx", "required-contexts"),
            ("--required-contexts", "required-contexts"),
        ):
            self.assertIs(parse_store(["host", "104", "a", *text.split()])[key], True)

    def test_where(self) -> None:
        """An endpoint stands for host and port; an IPv6 address is a host."""
        for words, where in (
            (["::1", "104"], ("::1", 104)),
            (["tcp:host:104"], "tcp:host:104"),
            (["unix:/run/dicom.sock"], "unix:/run/dicom.sock"),
        ):
            self.assertEqual(parse_echo(words)["where"], where)
            self.assertEqual(parse_store([*words, "a"])["paths"], ["a"])

    def test_wrong(self) -> None:
        """What is wrong is one line that names it."""
        for parse, words, said in (
            (parse_echo, "", "no HOST"),
            (parse_echo, "host", "no PORT"),
            (parse_echo, "host x", "'x' is not a port"),
            (parse_echo, "host 0", "'0' is not a port"),
            (parse_echo, "host 70000", "'70000' is not a port"),
            (parse_echo, "host 104 more", "'more'"),
            (parse_echo, "host 104 --repeat 0", "--repeat"),
            (parse_echo, "host 104 -xe -xi", "not allowed with"),
            (parse_echo, "host 104 -cx", "-cx"),
            (parse_store, "host 104", "no PATH"),
            (parse_store, "host 104 a --repeat 2", "--repeat"),
            (parse_store, "host 104 a -ta x", "-ta"),
        ):
            with self.assertRaises(usage.UsageError) as raised:
                parse(words.split())
            self.assertIn(said, str(raised.exception))
            self.assertNotIn("\n", str(raised.exception))
