"""Tests for :mod:`dicomnode.options`."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from twisted.application.app import ServerOptions
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

import dicomnode
from dicomnode.options import Options, storescp_parser

DEFAULTS = {
    "ports": ["tcp:11112"],
    "bind-address": "",
    "log-level": "error",
    "log-format": "text",
    "ae-title": "STORESCP",
    "require-called-aet": False,
    "allow-aet": [],
    "allow-from": [],
    "policy": None,
    "auth": [],
    "max-associations": 500,
    "max-associations-per-host": 0,
    "max-associations-per-aet": 0,
    "max-half-open": 1000,
    "max-operations": 1,
    "max-instance-size": 0,
    "acse-timeout": 30.0,
    "dimse-timeout": 30.0,
    "network-timeout": 30.0,
    "max-pdu": 16382,
    "grace": 30.0,
    "processes": 1,
    "no-echo": False,
    "prefer": None,
    "output-directory": ".",
    "layout": "{prefix}.{instance}",
    "on-duplicate": "replace",
    "sync": "full",
    "reserve": 64 << 20,
    "ignore": False,
    "accept-unknown": False,
    "no-check": False,
    "exec-on-reception": None,
    "exec-on-eostudy": None,
    "eostudy-timeout": 30.0,
    "exec-timeout": 3600.0,
    "exec-processes": 4,
}

#: The option strings of pynetdicom 3.0.4's storescp: every abbreviation that is unique there is to work here.
PYNETDICOM = """
    --help --version --quiet --verbose --debug --log-level --ae-title --acse-timeout --dimse-timeout
    --network-timeout --max-pdu --bind-address --prefer-uncompr --prefer-little --prefer-big --implicit
    --output-directory --ignore --no-echo
"""

#: Command lines (the port 11112 is appended or put first), and the key and value that each is to give.
SPELLINGS = [
    ("-q", "log-level", "none"),
    ("--quiet", "log-level", "none"),
    ("-v", "log-level", "info"),
    ("--verbose", "log-level", "info"),
    ("--verb", "log-level", "info"),
    ("-d", "log-level", "debug"),
    ("--debug", "log-level", "debug"),
    ("-ll critical", "log-level", "critical"),
    ("-ll error", "log-level", "error"),
    ("-ll warning", "log-level", "warn"),
    ("-ll warn", "log-level", "warn"),
    ("-ll=info", "log-level", "info"),
    ("-l debug", "log-level", "debug"),
    ("--log-level debug", "log-level", "debug"),
    ("--log-level=debug", "log-level", "debug"),
    ("--log debug", "log-level", "debug"),
    ("--log=debug", "log-level", "debug"),
    ("-v -ll error", "log-level", "error"),
    ("-ll error -d", "log-level", "error"),
    ("-q -ll debug", "log-level", "none"),
    ("--log-format json", "log-format", "json"),
    ("--log-format=text", "log-format", "text"),
    ("-aet FOO", "ae-title", "FOO"),
    ("-aet=FOO", "ae-title", "FOO"),
    ("-aet=A=B", "ae-title", "A=B"),
    ("-ae FOO", "ae-title", "FOO"),
    ("-a FOO", "ae-title", "FOO"),
    ("--ae-title FOO", "ae-title", "FOO"),
    ("--ae-title=FOO", "ae-title", "FOO"),
    ("--ae FOO", "ae-title", "FOO"),
    ("-aet SIXTEEN_LETTERS_", "ae-title", "SIXTEEN_LETTERS_"),
    ("-ta 5", "acse-timeout", 5.0),
    ("-ta=5", "acse-timeout", 5.0),
    ("-ta 0", "acse-timeout", 0.0),
    ("-ta .5", "acse-timeout", 0.5),
    ("--acse-timeout 5", "acse-timeout", 5.0),
    ("--ac 5", "acse-timeout", 5.0),
    ("-td 1e1", "dimse-timeout", 10.0),
    ("--dimse-timeout=2", "dimse-timeout", 2.0),
    ("--di 2", "dimse-timeout", 2.0),
    ("-tn 60", "network-timeout", 60.0),
    ("--network-timeout 60", "network-timeout", 60.0),
    ("--net 60", "network-timeout", 60.0),
    ("-pdu 0", "max-pdu", 0),
    ("-pdu=0", "max-pdu", 0),
    ("-pd 0", "max-pdu", 0),
    ("-pd=128", "max-pdu", 128),
    ("-pdu 128", "max-pdu", 128),
    ("-pdu 4294967295", "max-pdu", 4294967295),
    ("--max-pdu 65536", "max-pdu", 65536),
    ("--max 0", "max-pdu", 0),
    ("--max-=0", "max-pdu", 0),
    ("--m 0", "max-pdu", 0),
    ("--ma 0", "max-pdu", 0),
    ("-ba ::1", "bind-address", "::1"),
    ("-b 127.0.0.1", "bind-address", "127.0.0.1"),
    ("--bind-address=127.0.0.1", "bind-address", "127.0.0.1"),
    ("--bind 127.0.0.1", "bind-address", "127.0.0.1"),
    ("-x=", "prefer", "uncompressed"),
    ("--prefer-uncompr", "prefer", "uncompressed"),
    ("--prefer-u", "prefer", "uncompressed"),
    ("-xe", "prefer", "little"),
    ("--prefer-little", "prefer", "little"),
    ("-xb", "prefer", "big"),
    ("--prefer-big", "prefer", "big"),
    ("-xi", "prefer", "implicit"),
    ("--implicit", "prefer", "implicit"),
    ("--im", "prefer", "implicit"),
    ("-od /tmp/x", "output-directory", "/tmp/x"),
    ("-od=/tmp/x", "output-directory", "/tmp/x"),
    ("-o /tmp/x", "output-directory", "/tmp/x"),
    ("--output-directory /tmp/a=b", "output-directory", "/tmp/a=b"),
    ("--out /tmp/x", "output-directory", "/tmp/x"),
    ("--ignore", "ignore", True),
    ("--ignore -od /tmp/x", "ignore", True),
    ("--no-echo", "no-echo", True),
    ("--no", "no-echo", True),
    ("--no-check", "no-check", True),
    ("--accept-unknown", "accept-unknown", True),
    ("--require-called-aet", "require-called-aet", True),
    ("--req", "require-called-aet", True),
    ("--allow-aet CT1", "allow-aet", ["CT1"]),
    ("--allow-aet CT1 --allow-aet=MR1", "allow-aet", ["CT1", "MR1"]),
    ("--allow-from 192.0.2.0/24", "allow-from", ["192.0.2.0/24"]),
    ("--allow-from ::1 --allow-from unix", "allow-from", ["::1", "unix"]),
    ("--policy /etc/policy.toml", "policy", "/etc/policy.toml"),
    ("--max-associations 20", "max-associations", 20),
    ("--max-associations=0", "max-associations", 0),
    ("--max-associations-per-host 4", "max-associations-per-host", 4),
    ("--max-associations-per-aet 4", "max-associations-per-aet", 4),
    ("--max-half-open +50", "max-half-open", 50),
    ("--o x", "output-directory", "x"),
    ("--layout {study}/{instance}", "layout", "{study}/{instance}"),
    ("--la {instance}.dcm", "layout", "{instance}.dcm"),
    ("--on-duplicate keep", "on-duplicate", "keep"),
    ("--on-duplicate=refuse", "on-duplicate", "refuse"),
    ("--on rename", "on-duplicate", "rename"),
    ("--on-duplicate replace", "on-duplicate", "replace"),
    ("-xcr=x", "exec-on-reception", "x"),
    ("--exec-on-reception=x", "exec-on-reception", "x"),
    ("-xcs x", "exec-on-eostudy", "x"),
    ("--exec-on-eostudy x", "exec-on-eostudy", "x"),
    ("-tos 5", "eostudy-timeout", 5.0),
    ("--eostudy-timeout=.5", "eostudy-timeout", 0.5),
    ("--exec-timeout 0", "exec-timeout", 0.0),
    ("--exec-processes 1", "exec-processes", 1),
    ("--sync full", "sync", "full"),
    ("--sync=file", "sync", "file"),
    ("--sync none", "sync", "none"),
    ("--reserve 0", "reserve", 0),
    ("--reserve 4096", "reserve", 4096),
    ("--reserve 10k", "reserve", 10 << 10),
    ("--reserve=5G", "reserve", 5 << 30),
    ("--reserve 1T", "reserve", 1 << 40),
    ("--max-operations 10", "max-operations", 10),
    ("--max-o=+65535", "max-operations", 65535),
    ("--max-instance-size 4096", "max-instance-size", 4096),
    ("--max-instance-size 2k", "max-instance-size", 2048),
    ("--max-instance-size 2G", "max-instance-size", 1 << 31),
    ("--auth anonymous", "auth", ["anonymous"]),
    ("--auth=memory:a:b --auth memory:c:d", "auth", ["memory:a:b", "memory:c:d"]),
    ("--processes 4", "processes", 4),
    ("--proc=+2", "processes", 2),
    ("--grace 0", "grace", 0.0),
    ("--grace=2.5", "grace", 2.5),
]

#: Command lines that give several ports, and the endpoints.
PORTS = [
    ("11112", ["tcp:11112"]),
    ("0", ["tcp:0"]),
    ("65535", ["tcp:65535"]),
    ("-p 11112", ["tcp:11112"]),
    ("-p11112", ["tcp:11112"]),
    ("-p=11112", ["tcp:11112"]),
    ("--port 11112", ["tcp:11112"]),
    ("--port=11112", ["tcp:11112"]),
    ("--po 11112", ["tcp:11112"]),
    ("-- 11112", ["tcp:11112"]),
    ("11112 104", ["tcp:11112", "tcp:104"]),
    ("11112 -v 104", ["tcp:11112", "tcp:104"]),
    ("-p 1 2 -p 3 4", ["tcp:2", "tcp:4", "tcp:1", "tcp:3"]),
    ("11112 -ba 127.0.0.1", ["tcp:11112:interface=127.0.0.1"]),
    ("-ba localhost -p 11112", ["tcp:11112:interface=localhost"]),
    ("11112 -ba ::1", [r"tcp6:11112:interface=\:\:1"]),
    ("11112 tcp:104 -ba ::", [r"tcp6:11112:interface=\:\:", "tcp:104"]),
    ("tcp:11112", ["tcp:11112"]),
    ("tcp:port=11112:backlog=5", ["tcp:port=11112:backlog=5"]),
    ("TCP6:11112", ["TCP6:11112"]),
    (r"tcp6:11112:interface=\:\:1", [r"tcp6:11112:interface=\:\:1"]),
    ("unix:/run/dicom.sock", ["unix:/run/dicom.sock"]),
    ("-p unix:address=/run/dicom.sock:mode=660", ["unix:address=/run/dicom.sock:mode=660"]),
    ("systemd:domain=INET:index=0", ["systemd:domain=INET:index=0"]),
    ("haproxy:tcp:11112", ["haproxy:tcp:11112"]),
    ("ssl:2762:privateKey=/nowhere", ["ssl:2762:privateKey=/nowhere"]),
    ("tcp:11112:", ["tcp:11112:"]),
    ("stdio", ["stdio"]),
]

NOT_A_PORT = "is not a port number (0 to 65535)"
NOT_SECONDS = "is not a number of seconds (0 or more)"
NOT_A_TITLE = "is not an AE title (1 to 16 ASCII characters, no backslash, not all spaces)"
NOT_A_PDU = "is neither 0 nor a number from 128 to 4294967295"
NOT_A_COUNT = "is not a whole number (0 or more)"
NOT_OPERATIONS = "is not a number of operations (1 to 65535)"
EXCLUSIVE = "not allowed with argument"

#: Arguments that are refused, and what the one line of the error has in it.
REFUSED = [
    ([], "no PORT given"),
    (["-v"], "no PORT given"),
    (["abc"], "argument PORT: 'abc' is neither a port number nor an endpoint"),
    ([""], "argument PORT: '' is neither a port number nor an endpoint"),
    (["70000"], f"argument PORT: '70000' {NOT_A_PORT}"),
    (["-1"], f"argument PORT: '-1' {NOT_A_PORT}"),
    (["9" * 5000], "is neither a port number nor an endpoint"),
    (["tcp:" + "9" * 5000], "is not an endpoint: "),
    (["-p", "abc"], "argument -p/--port: 'abc' is neither a port number nor an endpoint"),
    (["-p", "65536"], f"argument -p/--port: '65536' {NOT_A_PORT}"),
    (["-p", "-1"], f"argument -p/--port: '-1' {NOT_A_PORT}"),
    (["-p"], "argument -p/--port: expected one argument"),
    (["foo:11112"], "argument PORT: 'foo:11112' has an unknown endpoint type, 'foo'"),
    (["TCP:11112"], "argument PORT: 'TCP:11112' has an unknown endpoint type, 'TCP'"),
    ([":11112"], "argument PORT: ':11112' has an unknown endpoint type, ''"),
    (["tcp"], "argument PORT: 'tcp' is not an endpoint: "),
    (["tcp:abc"], "argument PORT: 'tcp:abc' is not an endpoint: "),
    (["tcp:70000"], f"argument PORT: '70000' {NOT_A_PORT}"),
    (["dicom-tls:70000"], f"argument PORT: '70000' {NOT_A_PORT}"),
    (["tcp6:port=-1:backlog=5"], f"argument PORT: '-1' {NOT_A_PORT}"),
    (["tcp:11112:interface=::1"], "argument PORT: 'tcp:11112:interface=::1' is not an endpoint: "),
    (["tcp:11112:colour=red"], "argument PORT: 'tcp:11112:colour=red' is not an endpoint: "),
    (["tcp:11112\\"], "argument PORT: 'tcp:11112\\\\' is not an endpoint: "),
    (["unix:/x:mode=999"], "argument PORT: 'unix:/x:mode=999' is not an endpoint: "),
    (["a\nb"], "argument PORT: 'a\\nb'"),
    (["11112", "--allow-aet", " "], f"argument --allow-aet: ' ' {NOT_A_TITLE}"),
    (
        ["11112", "--allow-from", "192.0.2.1/24"],
        "argument --allow-from: '192.0.2.1/24' is an address inside a network; the network is 192.0.2.0/24",
    ),
    (["11112", "--allow-from", "ct1"], "argument --allow-from: 'ct1' is not an IP address or network"),
    (["11112", "-xcr", "x 'y"], 'argument -xcr/--exec-on-reception: "x \'y": No closing quotation'),
    (["11112", "-xcr", "#p/x"], "argument -xcr/--exec-on-reception: '#p/x' has a placeholder in the name"),
    (["11112", "-xcs", "x #f"], "argument -xcs/--exec-on-eostudy: 'x #f' has #f, which is not known here"),
    (["11112", "-xcs", ""], "argument -xcs/--exec-on-eostudy: '' names no program"),
    (["11112", "-xcr", "x", "--ignore"], "argument --exec-on-reception: not allowed with --ignore"),
    (["11112", "-xcs", "x", "--ignore"], "argument --exec-on-eostudy: not allowed with --ignore"),
    (["11112", "-tos", "0"], "argument -tos/--eostudy-timeout: '0' is not a number of seconds (more than 0)"),
    (["11112", "-tos", "-1"], f"argument -tos/--eostudy-timeout: '-1' {NOT_SECONDS}"),
    (["11112", "--exec-processes", "0"], "argument --exec-processes: '0' is not a number of processes"),
    (["11112", "--max-associations", "-1"], f"argument --max-associations: '-1' {NOT_A_COUNT}"),
    (["11112", "--max-associations", "many"], f"argument --max-associations: 'many' {NOT_A_COUNT}"),
    (["11112", "--max-half-open", "1.5"], f"argument --max-half-open: '1.5' {NOT_A_COUNT}"),
    (["11112", "--max-operations", "0"], f"argument --max-operations: '0' {NOT_OPERATIONS}"),
    (["11112", "--max-operations", "65536"], f"argument --max-operations: '65536' {NOT_OPERATIONS}"),
    (["11112", "--max-operations=many"], f"argument --max-operations: 'many' {NOT_OPERATIONS}"),
    (["11112", "--max-instance-size", "4K"], "argument --max-instance-size: '4K' is not a number of octets"),
    (["11112", "-q", "-v"], f"argument -v/--verbose: {EXCLUSIVE} -q/--quiet"),
    (["-v", "11112", "-d"], f"argument -d/--debug: {EXCLUSIVE} -v/--verbose"),
    (["11112", "-dv"], f"argument -v/--verbose: {EXCLUSIVE} -d/--debug"),
    (["11112", "-x=", "-xe"], f"argument -xe/--prefer-little: {EXCLUSIVE} -x=/--prefer-uncompr"),
    (["11112", "-xb", "-xi"], f"argument -xi/--implicit: {EXCLUSIVE} -xb/--prefer-big"),
    (["11112", "-xi", "-x="], f"argument -x=/--prefer-uncompr: {EXCLUSIVE} -xi/--implicit"),
    (["11112", "-x"], "-x"),
    (["11112", "-x=e"], "-x=e"),
    (["11112", "-xx"], "-xx"),
    (["11112", "--bogus"], "unrecognized arguments: --bogus"),
    (["11112", "--bo\ngus"], "unrecognized arguments: --bo gus"),
    (["11112", "-aetFOO"], "unrecognized arguments: -aetFOO"),
    (["11112", "--verbose=yes"], "argument -v/--verbose: ignored explicit argument 'yes'"),
    (["11112", "--p", "1"], "ambiguous option: --p"),
    (["11112", "--pref"], "ambiguous option: --pref"),
    (["11112", "-t", "5"], "ambiguous option: -t"),
    (["11112", "-ll", "loud"], "argument -ll/--log-level: invalid choice: 'loud'"),
    (["11112", "-ll"], "argument -ll/--log-level: expected one argument"),
    (["11112", "--log-format", "xml"], "argument --log-format: invalid choice: 'xml'"),
    (["11112", "-aet", ""], f"argument -aet/--ae-title: '' {NOT_A_TITLE}"),
    (["11112", "-aet", "    "], f"argument -aet/--ae-title: '    ' {NOT_A_TITLE}"),
    (["11112", "-aet", "SEVENTEEN_LETTERS"], f"argument -aet/--ae-title: 'SEVENTEEN_LETTERS' {NOT_A_TITLE}"),
    (["11112", "-aet", "A\\B"], f"argument -aet/--ae-title: 'A\\\\B' {NOT_A_TITLE}"),
    (["11112", "-aet", "A\nB"], f"argument -aet/--ae-title: 'A\\nB' {NOT_A_TITLE}"),
    (["11112", "-aet", "A\x7f"], NOT_A_TITLE),
    (["11112", "-aet", "RÖNTGEN"], NOT_A_TITLE),
    (["11112", "-aet"], "argument -aet/--ae-title: expected one argument"),
    (["11112", "-ta", "-1"], f"argument -ta/--acse-timeout: '-1' {NOT_SECONDS}"),
    (["11112", "-td", "nan"], f"argument -td/--dimse-timeout: 'nan' {NOT_SECONDS}"),
    (["11112", "-tn", "inf"], f"argument -tn/--network-timeout: 'inf' {NOT_SECONDS}"),
    (["11112", "-tn=-inf"], f"argument -tn/--network-timeout: '-inf' {NOT_SECONDS}"),
    (["11112", "-tn", "soon"], f"argument -tn/--network-timeout: 'soon' {NOT_SECONDS}"),
    (["11112", "--auth", "pam:s3cret"], "argument --auth: 'pam' is no method of authentication; --help-auth"),
    (["11112", "--auth", "file:/no/such"], "argument --auth: file: '/no/such': No such file or directory"),
    (["11112", "--auth", "memory:alice"], "argument --auth: memory: argstring must be in format U:P:..."),
    (["--help-auth-type", "pam"], "argument --help-auth-type: 'pam' is no method of authentication"),
    (["11112", "--processes", "0"], "argument --processes: '0' is not a number of processes (1 to 999)"),
    (["11112", "--processes", "1000"], "argument --processes: '1000' is not a number of processes"),
    (["11112", "--grace", "-5"], f"argument --grace: '-5' {NOT_SECONDS}"),
    (["11112", "-pdu", "3"], f"argument -pdu/--max-pdu: '3' {NOT_A_PDU}"),
    (["11112", "-pdu", "127"], f"argument -pdu/--max-pdu: '127' {NOT_A_PDU}"),
    (["11112", "-pdu", "-1"], f"argument -pdu/--max-pdu: '-1' {NOT_A_PDU}"),
    (["11112", "-pdu", "4294967296"], f"argument -pdu/--max-pdu: '4294967296' {NOT_A_PDU}"),
    (["11112", "-pdu", "9" * 5000], NOT_A_PDU),
    (["11112", "-pdu", "16k"], f"argument -pdu/--max-pdu: '16k' {NOT_A_PDU}"),
    (["11112", "--layout", "{study}"], "argument --layout: '{study}' has no {instance}"),
    (["11112", "--layout", "../{instance}"], "argument --layout: '../{instance}' has a component"),
    (["11112", "--layout", "{instance}\n"], "argument --layout: '{instance}\\n' has a control character"),
    (["11112", "--layout", "{uid}{instance}"], "argument --layout: {uid} is none of called, calling, class"),
    (["11112", "--layout", "{instance"], "argument --layout: '{instance': expected '}' before end of string"),
    (["11112", "--on-duplicate", "drop"], "argument --on-duplicate: invalid choice: 'drop'"),
    (["11112", "--sync", "yes"], "argument --sync: invalid choice: 'yes'"),
    (["11112", "--reserve", "-1"], "argument --reserve: '-1' is not a number of octets, such as 4096"),
    (["11112", "--reserve", "1.5G"], "argument --reserve: '1.5G' is not a number of octets"),
    (["11112", "--reserve", "9" * 5000], "is not a number of octets"),
    (["11112", "-pdu0"], "argument -p/--port: 'du0'"),
]


def parsed(*arguments: str) -> dict[str, object]:
    """Return what some arguments are parsed to."""
    options = Options()
    options.parseOptions(arguments)
    return dict(options)


class SpellingTests(SynchronousTestCase):
    """What is accepted."""

    def test_defaults(self) -> None:
        """With nothing but a port, every key has its default."""
        self.assertEqual(DEFAULTS, parsed("11112"))

    def test_spellings(self) -> None:
        """Every spelling of an option is understood before and after the port, as a value with its type."""
        for line, key, value in SPELLINGS:
            for arguments in ([*line.split(), "11112"], ["11112", *line.split()]):
                result = parsed(*arguments)
                self.assertEqual((value, type(value)), (result[key], type(result[key])), arguments)

    def test_nothing_else_changes(self) -> None:
        """An option changes its own key, and -ba and --ignore -od the one other that they say."""
        for line, key, _ in SPELLINGS:
            result = parsed("11112", *line.split())
            changed = {name for name in DEFAULTS if result[name] != DEFAULTS[name]}
            self.assertLessEqual(changed, {key, "ports", "output-directory"}, line)
            self.assertEqual(DEFAULTS.keys(), result.keys(), line)

    def test_abbreviations(self) -> None:
        """Each abbreviation of a long option that pynetdicom takes is taken for the same option."""
        values = {
            "--log-level": "info",
            "--ae-title": "X",
            "--bind-address": "::1",
            "--output-directory": "x",
        }
        pynetdicom = PYNETDICOM.split()
        for option in pynetdicom[2:]:
            takes_value = option in values or option.endswith(("-timeout", "-pdu"))
            value = [values.get(option, "500")] if takes_value else []
            expected = parsed("1", option, *value)
            for length in range(3, len(option)):
                short = option[:length]
                if [other for other in pynetdicom if other.startswith(short)] == [option]:
                    self.assertEqual(expected, parsed("1", short, *value), short)

    def test_title_without_padding(self) -> None:
        """The spaces around an AE title are not significant, and go."""
        self.assertEqual("MY TITLE", parsed("11112", "-aet", " MY TITLE         ")["ae-title"])

    def test_own_arguments(self) -> None:
        """Without arguments, those of the process are parsed."""
        self.patch(sys, "argv", ["storescp", "104", "--no"])
        options = Options()
        options.parseOptions()
        self.assertEqual((["tcp:104"], True), (options["ports"], options["no-echo"]))

    def test_instances_are_apart(self) -> None:
        """The ports of one parse are not those of the next."""
        options = Options()
        options.parseOptions(["-p", "1"])
        options.parseOptions(["-p", "2"])
        self.assertEqual(["tcp:2"], options["ports"])


class PortTests(SynchronousTestCase):
    """Where to listen."""

    def test_ports(self) -> None:
        """Ports are numbers or endpoints, arguments or options, one or several."""
        for line, expected in PORTS:
            self.assertEqual(expected, parsed(*line.split())["ports"], line)

    def test_interfaces(self) -> None:
        """The descriptions made from numbers lead to the interface that was given."""
        for address in ("127.0.0.1", "::1", "::", "fe80::1%lo"):
            reactor = MemoryReactor()
            options = Options()
            options.parseOptions(["11112", "-ba", address])
            serverFromString(reactor, options["ports"][0]).listen(Factory())
            port, _, _, interface = reactor.tcpServers[0]
            self.assertEqual((11112, address), (port, interface))


class RefusedTests(SynchronousTestCase):
    """What is not accepted."""

    def test_refused(self) -> None:
        """What cannot be used is refused with one line that names the argument."""
        for arguments, expected in REFUSED:
            error = self.assertRaises(usage.UsageError, parsed, *arguments)
            self.assertIn(expected, str(error))
            self.assertEqual(1, len(str(error).splitlines()), arguments)


class HelpTests(SynchronousTestCase):
    """The help and the version."""

    #: What asks for the help.
    HELP = (["--help"], ["-h"], ["11112", "--help"], ["--he"], ["-v", "-h"])
    #: What asks for the version.
    VERSION = (["--version"], ["--vers"], ["11112", "--version"])

    def printed(self, options: usage.Options, arguments: Sequence[str]) -> str:
        """Return what is printed by arguments that end the program well."""
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        exit = self.assertRaises(SystemExit, options.parseOptions, arguments)
        self.assertIn(exit.code, (None, 0))
        return output.getvalue()

    def test_help(self) -> None:
        """--help and -h print the help, with or without a port, under twistd as well."""
        for arguments in self.HELP:
            self.assertEqual(storescp_parser().format_help(), self.printed(Options(), arguments))
            self.assertEqual(
                storescp_parser().format_help(), self.printed(Twistd(), ["storescp", *arguments])
            )

    def test_version(self) -> None:
        """--version needs no port, and under twistd it is not Twisted's."""
        self.patch(dicomnode, "__version__", "1.2.3")
        for arguments in self.VERSION:
            self.assertEqual("dicomnode 1.2.3\n", self.printed(Options(), arguments))
            self.assertEqual("dicomnode 1.2.3\n", self.printed(Twistd(), ["storescp", *arguments]))

    def test_str(self) -> None:
        """The text of the options is their usage, a line."""
        self.assertEqual("usage: storescp [options] PORT [PORT ...]", str(Options()))
        self.assertEqual(Options().getUsage(), str(Options()))

    def test_every_option(self) -> None:
        """Every option string is in the help, and every default of note."""
        help = storescp_parser().format_help()
        for action in storescp_parser()._actions:
            for option in action.option_strings:
                self.assertIn(option, help)
        for default in ("STORESCP", "16382", "30", "error", "text", "."):
            self.assertIn(f"(default: {default}", " ".join(help.split()))

    def test_prog(self) -> None:
        """The usage line has the name that the caller gives."""
        self.assertIn("usage: storescp [options] PORT", storescp_parser().format_help())
        self.assertIn("usage: here [options] PORT", storescp_parser("here").format_help())


class Twistd(ServerOptions):
    """The options of twistd, with one subcommand and no plugins."""

    subCommands = [("storescp", None, Options, "A Storage SCP.")]

    def test_methods_of_authentication(self) -> None:
        """The methods of authentication are listed, and each has a help of its own."""
        for arguments, words in (
            (["--help-auth"], "ArgString format"),
            (["11112", "--help-auth"], "memory"),
            (["--help-auth-type", "file"], "username:password"),
        ):
            self.assertIn(words, self.printed(Options(), arguments))


class TwistdTests(SynchronousTestCase):
    """As a subcommand of twistd."""

    def test_subcommand(self) -> None:
        """twistd leaves what follows the name of the subcommand to it."""
        twistd = Twistd()
        twistd.parseOptions(["storescp", "11112", "-d", "-aet", "FOO"])
        self.assertFalse(twistd["debug"])
        self.assertEqual({**DEFAULTS, "log-level": "debug", "ae-title": "FOO"}, dict(twistd.subOptions))

    def test_error(self) -> None:
        """Before a usage error twistd prints the usage of the subcommand, and not its help."""
        twistd = Twistd()
        self.assertRaises(usage.UsageError, twistd.parseOptions, ["storescp", "abc"])
        self.assertEqual(Options().getUsage(), str(twistd).splitlines()[-1])
