"""Asks a node whether it is there, by C-ECHO: ``python echo_probe.py HOST PORT`` exits with 0 if it is."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.task import react

from dicomnode import Status, Timeouts, associate

SECONDS = 2.0  #: for each answer


async def main(reactor: Any, host: str, port: str) -> None:
    try:
        endpoint = HostnameEndpoint(reactor, host, int(port), timeout=SECONDS)
        timeouts = Timeouts(acse=SECONDS, dimse=SECONDS, network=SECONDS)
        association = await associate(reactor, endpoint, calling_ae_title="PROBE", timeouts=timeouts)
        response = await association.echo()
        await association.release()
    except Exception as error:  # whatever it is: it is not there
        sys.exit(f"{host}:{port}: {error}")
    if response.status != Status.SUCCESS:
        sys.exit(f"{host}:{port}: 0x{response.status:04X}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
