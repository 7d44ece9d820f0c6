"""The options of ``storescp``: text in, typed values out.

One :class:`argparse.ArgumentParser` held by a :class:`twisted.python.usage.Options`, because the getopt
inside the latter reads ``-aet FOO`` as ``-a et`` and refuses what follows a port. Every
:class:`~twisted.python.usage.UsageError` is raised here; ``dicomnode.tap`` only reads the mapping.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python import usage

from dicomnode.arguments import (
    Parser,
    add_general,
    add_limits,
    ae_title,
    count,
    log_level,
    more_than_none,
    octets,
    seconds,
)
from dicomnode.checkers import checker_of, help_auth, help_auth_type
from dicomnode.commandline import ON_STUDY, CommandLine
from dicomnode.commits import Sync
from dicomnode.layout import FIELDS, FLAT, Layout
from dicomnode.networks import Networks
from dicomnode.partfile import OnDuplicate
from dicomnode.ports import endpoint_description, port_or_endpoint

#: Abbreviations of pynetdicom's options that our further ones would make ambiguous.
_ABBREVIATIONS = {
    "--ac": "--acse-timeout",
    "--h": "--help",
    "--he": "--help",
    "--hel": "--help",
    "--l": "--log-level",
    "--lo": "--log-level",
    "--log": "--log-level",
    "--log-": "--log-level",
    "--m": "--max-pdu",
    "--ma": "--max-pdu",
    "--max": "--max-pdu",
    "--max-": "--max-pdu",
    "--no": "--no-echo",
    "--no-": "--no-echo",
    "--o": "--output-directory",
    "--po": "--port",
    "-pd": "-pdu",
}


class Options(usage.Options):
    """The options of ``storescp`` as a mapping: the long name of an option to its typed value.

    ``options["ports"]`` is the list of endpoint descriptions to listen on.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parser = storescp_parser()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments, those of the process by default.

        :raises twisted.python.usage.UsageError: with one line that names the argument.
        :raises SystemExit: after ``--help`` and ``--version``.
        """
        arguments = sys.argv[1:] if options is None else options
        values = vars(self.parser.parse_intermixed_args([_written_out(argument) for argument in arguments]))
        ports = [*values.pop("positional-ports"), *values.pop("optional-ports")]
        if not ports:
            self.parser.error("no PORT given: a port number or an endpoint is needed")
        _agree(self.parser, values)
        self["ports"] = [endpoint_description(port, values["bind-address"]) for port in ports]
        self["log-level"] = log_level(values.pop("verbosity"), values.pop("log-level"))
        self.update(values)
        self.postOptions()  # type: ignore[no-untyped-call]

    def getUsage(self, width: int | None = None) -> str:
        """Return the usage, in a line: ``twistd`` prints it before a usage error. --help says all."""
        return self.parser.format_usage().strip()

    __str__ = getUsage


class _HelpAuth(argparse.Action):
    """Print the methods of ``--auth`` and exit, whether or not a port is given."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        if isinstance(values, str):
            try:
                help_auth_type(values)
            except usage.UsageError:
                raise argparse.ArgumentError(self, f"{values!r} is no method of authentication") from None
        else:
            help_auth()


def _written_out(argument: str) -> str:
    option, equals, value = argument.partition("=")
    return _ABBREVIATIONS.get(option, option) + equals + value


def _agree(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> None:
    """Refuse what does not go together."""
    for option in ("exec-on-reception", "exec-on-eostudy"):
        if values["ignore"] and values[option] is not None:
            parser.error(f"argument --{option}: not allowed with --ignore: there is no file")


# The types of the arguments. Each raises an ArgumentTypeError, to which argparse adds the argument's name.


def _command(text: str) -> str:
    try:
        CommandLine(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _study_command(text: str) -> str:
    try:
        CommandLine(text, ON_STUDY)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _processes(text: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,3}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes (1 to 999)")
    return int(text)


def _operations(text: str) -> int:
    if not re.fullmatch(r"\+?[0-9]{1,5}", text) or not 0 < int(text) <= 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of operations (1 to 65535)")
    return int(text)


def _network(text: str) -> str:
    try:
        Networks([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _auth(text: str) -> str:
    try:
        checker_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _layout(text: str) -> str:
    try:
        Layout(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def storescp_parser(prog: str = "storescp") -> argparse.ArgumentParser:
    """Return the parser of the options; the documentation and the shell completion are made from it."""
    parser = Parser(
        prog=prog,
        usage="%(prog)s [options] PORT [PORT ...]",
        description="Accept DICOM associations, store the composite instances that arrive, each as a file, "
        "and answer Verification.",
        epilog="Options may stand before or after a PORT, and long ones may be abbreviated.",
        add_help=False,
    )
    _add_general(parser)
    _add_network(parser)
    _add_who(parser)
    _add_limits(parser)
    _add_transfer_syntaxes(parser)
    _add_storage(parser)
    _add_hooks(parser)
    return parser


def _add_general(parser: argparse.ArgumentParser) -> None:
    general = add_general(parser)
    general.add_argument(
        "--log-format",
        dest="log-format",
        metavar="FORMAT",
        choices=("text", "json"),
        default="text",
        help="text, or json for one object a line (default: %(default)s)",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("Network")
    network.add_argument(
        "positional-ports",
        metavar="PORT",
        nargs="*",
        type=port_or_endpoint,
        help="where to listen: a TCP port number, 0 for any that is free, or a Twisted endpoint such as "
        "tcp6:11112 or unix:/run/dicom.sock",
    )
    network.add_argument(
        "-p",
        "--port",
        dest="optional-ports",
        metavar="PORT",
        action="append",
        default=[],
        type=port_or_endpoint,
        help="a PORT written as an option; may be given several times",
    )
    network.add_argument(
        "-ba",
        "--bind-address",
        dest="bind-address",
        metavar="ADDRESS",
        default="",
        help="listen to numeric ports on the interface with this IPv4 or IPv6 address only "
        "(default: all interfaces, IPv4)",
    )
    network.add_argument(
        "-aet",
        "--ae-title",
        dest="ae-title",
        metavar="TITLE",
        type=ae_title,
        default="STORESCP",
        help="the title of this application entity (default: %(default)s)",
    )
    add_limits(
        network,
        acse="the peer's association request, and for it to close the connection at the end",
        dimse="the rest of a message that has begun",
        network="anything from the peer on an established association",
    )
    network.add_argument(
        "--grace",
        metavar="SECONDS",
        type=seconds,
        default=30.0,
        help="how long outstanding operations may take to finish after SIGINT or SIGTERM; 0 to abort them at "
        "once (default: %(default)g)",
    )
    network.add_argument(
        "--processes",
        metavar="NUMBER",
        type=_processes,
        default=1,
        help="how many processes accept associations; the limits hold for all of them together "
        "(default: %(default)s)",
    )
    network.add_argument(
        "--no-echo", dest="no-echo", action="store_true", help="refuse the Verification SOP Class"
    )


def _add_who(parser: argparse.ArgumentParser) -> None:
    who = parser.add_argument_group(
        "Who may send", "By default everyone. Of these options, a peer must satisfy each that is given."
    )
    who.add_argument(
        "--require-called-aet",
        dest="require-called-aet",
        action="store_true",
        help="reject associations that call another title than --ae-title",
    )
    who.add_argument(
        "--allow-aet",
        dest="allow-aet",
        metavar="TITLE",
        action="append",
        default=[],
        type=ae_title,
        help="reject associations whose calling AE title is not this one; may be given several times",
    )
    who.add_argument(
        "--allow-from",
        dest="allow-from",
        metavar="CIDR",
        action="append",
        default=[],
        type=_network,
        help="reject associations from elsewhere than this IPv4 or IPv6 address or network, or the word unix "
        "for UNIX sockets, whose peers have no address; may be given several times",
    )
    who.add_argument(
        "--policy",
        metavar="FILE",
        default=None,
        help="reject associations that no entry of this TOML file allows; it is read again upon SIGHUP",
    )
    who.add_argument(
        "--auth",
        metavar="METHOD[:ARGUMENTS]",
        action="append",
        default=[],
        type=_auth,
        help="reject associations whose user this method does not let in, such as file:/etc/dicom.passwd; "
        "may be given several times, and then one of them must; anonymous lets in who names no user",
    )
    who.add_argument(
        "--help-auth",
        action=_HelpAuth,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the methods of --auth and exit",
    )
    who.add_argument(
        "--help-auth-type",
        action=_HelpAuth,
        metavar="METHOD",
        default=argparse.SUPPRESS,
        help="print what a method of --auth does and exit",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("Limits")
    for option, default, text in (
        ("--max-associations", 500, "associations at a time"),
        ("--max-associations-per-host", 0, "associations at a time with one address"),
        ("--max-associations-per-aet", 0, "associations at a time with one calling AE title"),
        ("--max-half-open", 1000, "connections on which there is no association; the oldest are dropped"),
    ):
        limits.add_argument(
            option,
            dest=option[2:],
            metavar="NUMBER",
            type=count,
            default=default,
            help=f"the most {text}; 0 for no limit (default: %(default)s)",
        )
    limits.add_argument(
        "--max-operations",
        dest="max-operations",
        metavar="NUMBER",
        type=_operations,
        default=1,
        help="the most operations of one association at a time, where the peer proposes an asynchronous "
        "operations window; with 1 none is answered (default: %(default)s)",
    )
    limits.add_argument(
        "--max-instance-size",
        dest="max-instance-size",
        metavar="OCTETS",
        type=octets,
        default=0,
        help="refuse instances whose data set is longer; k, M, G and T may follow the number, 0 is no limit "
        "(default: %(default)s)",
    )


def _add_transfer_syntaxes(parser: argparse.ArgumentParser) -> None:
    syntaxes = parser.add_argument_group(
        "Transfer Syntaxes",
        "Which of those that a peer proposes is accepted. By default: Implicit VR Little Endian, Explicit VR "
        "Little Endian, Deflated, Explicit VR Big Endian, then the others.",
    )
    prefer = syntaxes.add_mutually_exclusive_group()
    for short, long, preference, text in (
        (
            "-x=",
            "--prefer-uncompr",
            "uncompressed",
            "uncompressed first, Explicit VR in native byte order above all",
        ),
        ("-xe", "--prefer-little", "little", "Explicit VR Little Endian first"),
        ("-xb", "--prefer-big", "big", "Explicit VR Big Endian first"),
        ("-xi", "--implicit", "implicit", "Implicit VR Little Endian and no other"),
    ):
        prefer.add_argument(short, long, dest="prefer", action="store_const", const=preference, help=text)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    storage = parser.add_argument_group("Storage")
    storage.add_argument(
        "-od",
        "--output-directory",
        dest="output-directory",
        metavar="DIRECTORY",
        default=".",
        help="where the files go; made when it does not exist (default: %(default)s, the current directory)",
    )
    storage.add_argument(
        "--layout",
        metavar="TEMPLATE",
        type=_layout,
        default=FLAT,
        help="a file's name below the output directory, with slashes between directories; its fields are "
        + ", ".join(f"{{{field}}}" for field in FIELDS)
        + " (default: %(default)s)",
    )
    storage.add_argument(
        "--on-duplicate",
        dest="on-duplicate",
        choices=[choice.value for choice in OnDuplicate],
        default=OnDuplicate.REPLACE.value,
        help="what becomes of an instance whose name is taken: it replaces the other, is dropped and "
        "answered with Success (keep) or 0x0111 (refuse), or is kept beside it as NAME~1 "
        "(default: %(default)s)",
    )
    storage.add_argument(
        "--sync",
        choices=[choice.value for choice in Sync],
        default=Sync.FULL.value,
        help="what is on stable storage before Success is answered: the file and its name, the file, or "
        "nothing for certain (default: %(default)s)",
    )
    storage.add_argument(
        "--reserve",
        metavar="OCTETS",
        type=octets,
        default=64 << 20,
        help="refuse instances while less than this is free on the disk; k, M, G and T may follow the number "
        "(default: 64M)",
    )
    storage.add_argument(
        "--ignore", action="store_true", help="answer Success and write nothing; the directory is not used"
    )
    storage.add_argument(
        "--accept-unknown",
        dest="accept-unknown",
        action="store_true",
        help="store private SOP Classes, too, and Storage SOP Classes that are newer than this program",
    )
    storage.add_argument(
        "--no-check",
        dest="no-check",
        action="store_true",
        help="do not check that a data set is whole and that its UIDs are those of the command",
    )


def _add_hooks(parser: argparse.ArgumentParser) -> None:
    hooks = parser.add_argument_group(
        "Commands",
        "What is executed when something has arrived: a program with its arguments, without a shell. #p is "
        "replaced by the directory of the file, #f by its name there, #a by the calling AE title, #c by the "
        "called one, #r by the address of the peer.",
    )
    hooks.add_argument(
        "-xcr",
        "--exec-on-reception",
        dest="exec-on-reception",
        metavar="COMMAND",
        type=_command,
        default=None,
        help="execute this for each instance, once it is stored",
    )
    hooks.add_argument(
        "-xcs",
        "--exec-on-eostudy",
        dest="exec-on-eostudy",
        metavar="COMMAND",
        type=_study_command,
        default=None,
        help="execute this for each study, once nothing more comes of it; #p is the directory that has all "
        "of its files, and there is no #f",
    )
    hooks.add_argument(
        "-tos",
        "--eostudy-timeout",
        dest="eostudy-timeout",
        metavar="SECONDS",
        type=more_than_none,
        default=30.0,
        help="for how long nothing of a study must have come, from anyone, for it to be at its end "
        "(default: %(default)g)",
    )
    hooks.add_argument(
        "--exec-timeout",
        dest="exec-timeout",
        metavar="SECONDS",
        type=seconds,
        default=3600.0,
        help="how long a command may take before it is ended; 0 for no limit (default: %(default)g)",
    )
    hooks.add_argument(
        "--exec-processes",
        dest="exec-processes",
        metavar="NUMBER",
        type=_processes,
        default=4,
        help="how many commands are executed at a time; others wait for their turn (default: %(default)s)",
    )
