"""A PORT of the command line: a number, or the description of a Twisted endpoint."""

from __future__ import annotations

import argparse
import re

from twisted.internet.abstract import isIPv6Address
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from dicomnode.arguments import port_number

#: The endpoint types that Twisted knows without a plugin.
_BUILT_IN_ENDPOINTS = frozenset({"tcp", "unix", "ssl"})


def port_or_endpoint(text: str) -> int | str:
    """Return the number of a TCP port, or the description of an endpoint that could be one."""
    if re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        return port_number(text)
    kind, colon, rest = text.partition(":")
    if kind not in _BUILT_IN_ENDPOINTS and kind.lower() not in {
        str(parser.prefix).lower() for parser in getPlugins(IStreamServerEndpointStringParser)
    }:
        if colon:
            raise argparse.ArgumentTypeError(f"{text!r} has an unknown endpoint type, {kind!r}")
        raise argparse.ArgumentTypeError(f"{text!r} is neither a port number nor an endpoint")
    # Endpoints of these types are values until they listen. Others open files and adopt sockets as soon
    # as they are made, so that what is wrong with them shows at start.
    if kind in ("tcp", "tcp6", "unix"):
        try:
            serverFromString(None, text)  # type: ignore[no-untyped-call]
        except (RuntimeError, TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not an endpoint: {error}") from error
    number = re.match(r"(?:port=)?(-?[0-9]{1,9})(?::|$)", rest)
    if number and kind in ("tcp", "tcp6", "ssl", "dicom-tls"):
        port_number(number[1])
    return text


def endpoint_description(port: int | str, bind_address: str) -> str:
    """Return the endpoint description of a numeric port on an interface; others are descriptions already."""
    if isinstance(port, str):
        return port
    if not bind_address:
        return f"tcp:{port}"
    family = "tcp6" if isIPv6Address(bind_address) else "tcp"
    interface = quoteStringArgument(bind_address)  # type: ignore[no-untyped-call]
    return f"{family}:{port}:interface={interface}"
