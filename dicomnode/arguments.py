"""What the options of all commands have in common: the parser, the general options, and types of values.

Each of the types raises an ArgumentTypeError, to which argparse adds the argument's name.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import NoReturn

from twisted.python import usage


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are those that ``twistd`` expects."""

    def error(self, message: str) -> NoReturn:
        raise usage.UsageError(" ".join(message.splitlines()))


class Version(argparse.Action):
    """Print the version and exit, whether or not a port is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        # Imported here, for ``dicomnode`` imports much that an option parser does not need.
        from dicomnode import __version__

        print(f"dicomnode {__version__}")
        parser.exit()


def log_level(verbosity: str | None, level: str | None) -> str:
    """Return the level that -q, -v or -d and --log-level amount to."""
    # As in pynetdicom, --log-level overrides -v and -d; nothing overrides -q.
    if verbosity == "none":
        return verbosity
    level = level or verbosity or "error"
    return "warn" if level == "warning" else level


def add_general(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that every command has, and return their group."""
    general = parser.add_argument_group("General")
    general.add_argument("-h", "--help", action="help", help="print this help and exit")
    general.add_argument(
        "--version", action=Version, nargs=0, default=argparse.SUPPRESS, help="print the version and exit"
    )
    verbosity = general.add_mutually_exclusive_group()
    for short, long, level, text in (
        ("-q", "--quiet", "none", "log nothing at all"),
        ("-v", "--verbose", "info", "log associations and operations"),
        ("-d", "--debug", "debug", "log what was negotiated and what every message says, too"),
    ):
        verbosity.add_argument(short, long, dest="verbosity", action="store_const", const=level, help=text)
    general.add_argument(
        "-ll",
        "--log-level",
        dest="log-level",
        metavar="LEVEL",
        choices=("critical", "error", "warning", "warn", "info", "debug"),
        help="log events of this level and above, whatever -v or -d say: %(choices)s (default: error)",
    )
    return general


def add_limits(group: argparse._ArgumentGroup, *, acse: str, dimse: str, network: str) -> None:
    """Add the timeouts, each with what is waited for, and the maximum length that is announced."""
    for short, long, text in (
        ("-ta", "--acse-timeout", acse),
        ("-td", "--dimse-timeout", dimse),
        ("-tn", "--network-timeout", network),
    ):
        group.add_argument(
            short,
            long,
            dest=long[2:],
            metavar="SECONDS",
            type=seconds,
            default=30.0,
            help=f"how long to wait for {text}; 0 for no limit (default: %(default)g)",
        )
    group.add_argument(
        "-pdu",
        "--max-pdu",
        dest="max-pdu",
        metavar="OCTETS",
        type=max_pdu,
        default=16382,
        help="the longest P-DATA-TF that is accepted: at least 128, or 0 for any (default: %(default)s)",
    )


def port_number(text: str) -> int:
    """Take a TCP port: 0 to 65535."""
    if not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number (0 to 65535)")
    return int(text)


def ae_title(text: str) -> str:
    """Take an AE title, without the spaces around it."""
    # PS3.5 Table 6.2-1: the default repertoire without backslash and control characters, 16 at most;
    # leading and trailing spaces do not count, and a title of nothing but spaces is not to be used.
    title = text.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an AE title (1 to 16 ASCII characters, no backslash, not all spaces)"
        )
    return title


def seconds(text: str) -> float:
    """Take a time: 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0 or more)")
    return found


def more_than_none(text: str) -> float:
    """Return a number of seconds that is more than none."""
    found = seconds(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (more than 0)")
    return found


def octets(text: str) -> int:
    """Return a number of octets, which may have a k, M, G or T behind it."""
    size = re.fullmatch(r"([0-9]{1,15})([kMGT]?)", text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of octets, such as 4096, 512k, 64M or 2G")
    return int(size[1]) << 10 * " kMGT".index(size[2] or " ")


def max_pdu(text: str) -> int:
    """Take the longest P-DATA-TF that is accepted, in octets."""
    # PS3.8 D.1: an unsigned 32-bit number, 0 for no limit. Below 128 a command set would come in so many
    # fragments that nobody can have meant it.
    octets = int(text) if re.fullmatch(r"\+?[0-9]{1,10}", text) else -1
    if octets != 0 and not 128 <= octets <= 2**32 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor a number from 128 to {2**32 - 1}")
    return octets


def count(text: str) -> int:
    """Take a number: 0 or more."""
    if not re.fullmatch(r"\+?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number (0 or more)")
    return int(text)
