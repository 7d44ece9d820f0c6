"""The options of ``echo`` and ``store``: text in, typed values out.

They have the names that pynetdicom's ``echoscu`` and ``storescu`` give them, and each does something.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TypeAlias

from twisted.internet.abstract import isIPv6Address

from dicomnode.arguments import (
    Parser,
    add_general,
    add_limits,
    ae_title,
    count,
    log_level,
    port_number,
)
from dicomnode.uids import EXPLICIT_VR_BE, EXPLICIT_VR_LE, IMPLICIT_VR_LE

#: To which to connect: a host and its port, or what describes an endpoint.
Where: TypeAlias = tuple[str, int] | str


def parse_echo(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options of ``echo``, and ``"where"``.

    :raises twisted.python.usage.UsageError: with one line that names the argument.
    :raises SystemExit: after ``--help`` and ``--version``.
    """
    parser = echo_parser()
    values, words = _parse(parser, arguments)
    values["where"], rest = _where(parser, words)
    if rest:
        parser.error(f"unrecognized argument: {rest[0]!r}")
    return values


def parse_store(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options of ``store``, ``"where"``, and ``"paths"``: as :func:`parse_echo`."""
    parser = store_parser()
    values, words = _parse(parser, arguments)
    values["where"], values["paths"] = _where(parser, words)
    if not values["paths"]:
        parser.error("no PATH given: a DICOM file or a directory is needed")
    return values


def _parse(parser: Parser, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    values = vars(parser.parse_intermixed_args(arguments))
    values["log-level"] = log_level(values.pop("verbosity"), values.pop("log-level"))
    return values, values.pop("words")


def _where(parser: Parser, words: Sequence[str]) -> tuple[Where, list[str]]:
    """Return to whom to connect, and the words behind that."""
    if not words:
        parser.error("no HOST given: a host and its port, or an endpoint, are needed")
    host, *rest = words
    if ":" in host and not isIPv6Address(host):
        return host, rest
    if not rest:
        parser.error("no PORT given: that of the host is needed")
    try:
        port = port_number(rest[0]) if rest[0].isascii() and rest[0].isdigit() else 0
    except argparse.ArgumentTypeError:
        port = 0
    if not port:
        parser.error(f"argument PORT: {rest[0]!r} is not a port number (1 to 65535)")
    return (host, port), rest[1:]


def echo_parser(prog: str = "dicomnode echo") -> Parser:
    """Return the parser of the options of ``echo``; the documentation is made from it."""
    parser = _parser(prog, "HOST PORT", "Ask an application entity whether it is there, by C-ECHO.")
    _add_network(parser, "ECHOSCU")
    _add_transfer_syntaxes(
        parser, "In which Verification is proposed. By default: Implicit and Explicit VR Little Endian."
    )
    echo = parser.add_argument_group("Echo")
    echo.add_argument(
        "--repeat", metavar="NUMBER", type=_times, default=1, help="how often to ask (default: %(default)s)"
    )
    echo.add_argument("--abort", action="store_true", help="abort the association instead of releasing it")
    return parser


def store_parser(prog: str = "dicomnode store") -> Parser:
    """Return the parser of the options of ``store``; the documentation is made from it."""
    parser = _parser(
        prog, "HOST PORT PATH [PATH ...]", "Send DICOM files, and those in directories, by C-STORE."
    )
    _add_network(parser, "STORESCU")
    _add_transfer_syntaxes(
        parser,
        "In which to send. By default: each file as it is. Otherwise files in Implicit or Explicit VR Little "
        "Endian are encoded anew where they are in the other, and those that are in neither are not sent.",
    )
    files = parser.add_argument_group("Files")
    files.add_argument(
        "-r",
        "--recurse",
        action="store_true",
        help="send what is in the directories below a directory, too; not what a symbolic link leads to",
    )
    files.add_argument(
        "-cx",
        "--required-contexts",
        dest="required-contexts",
        action="store_true",
        help="propose what the files need, and no more; otherwise Implicit VR Little Endian is proposed for "
        "each SOP Class, too, as PS3.5 10.1 asks",
    )
    return parser


def _parser(prog: str, words: str, description: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"%(prog)s [options] {words}",
        description=description,
        epilog="Options may stand before or after the others, and long ones may be abbreviated. Instead of "
        "HOST PORT there may be a Twisted endpoint, such as unix:/run/dicom.sock or "
        "dicom-tls:HOST:2762:trustRoots=ca.pem.",
        add_help=False,
    )
    add_general(parser)
    parser.set_defaults(verbosity=None)
    return parser


def _add_network(parser: Parser, title: str) -> None:
    network = parser.add_argument_group("Network")
    paths = " PATH" if title == "STORESCU" else ""
    network.add_argument(
        "words",
        metavar=f"HOST PORT{paths}",
        nargs="*",
        help="name or address of the peer, and its TCP port"
        + ("; then DICOM files, and directories of them" if paths else ""),
    )
    for short, long, whose, default in (
        ("-aet", "--calling-aet", "our AE title", title),
        ("-aec", "--called-aet", "the AE title of the peer", "ANY-SCP"),
    ):
        network.add_argument(
            short,
            long,
            dest=long[2:],
            metavar="TITLE",
            type=ae_title,
            default=default,
            help=f"{whose} (default: %(default)s)",
        )
    add_limits(
        network,
        acse="the connection, and the answer to an association or release request",
        dimse="the response to an operation",
        network="the peer to read what it is sent",
    )


def _add_transfer_syntaxes(parser: Parser, text: str) -> None:
    request = parser.add_argument_group("Transfer Syntaxes", text).add_mutually_exclusive_group()
    for short, long, uid, name in (
        ("-xe", "--request-little", EXPLICIT_VR_LE, "Explicit VR Little Endian"),
        ("-xb", "--request-big", EXPLICIT_VR_BE, "Explicit VR Big Endian"),
        ("-xi", "--request-implicit", IMPLICIT_VR_LE, "Implicit VR Little Endian"),
    ):
        request.add_argument(
            short, long, dest="request", action="store_const", const=uid, help=f"propose {name}, and no other"
        )


def _times(text: str) -> int:
    if not (times := count(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of times (1 or more)")
    return times
