"""A node and a web site in one process: instances arrive on port 11112, and are looked at on port 8080.

``python website.py`` runs it. The site has the files, and what the node has counted.
"""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import File

from dicomnode import Acceptor, FileStorage, Node, Storage, Verification, events
from dicomnode.observers import Counters, LogObserver

DIRECTORY = "incoming"


class Counted(Resource):
    """What a node has counted, as JSON."""

    isLeaf = True

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self._counters = counters

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(self._counters.snapshot()).encode()


def services(reactor: Any) -> MultiService:
    """Return both, as one service."""
    together = MultiService()

    os.makedirs(DIRECTORY, exist_ok=True)
    counters = Counters()
    observe = events.Fanout(counters, LogObserver("error"))
    files = FileStorage(DIRECTORY, reactor=reactor, observe=observe)
    acceptor = Acceptor(reactor, [Verification(), Storage(files)], observe=observe)
    dicom = serverFromString(reactor, "tcp:11112")
    Node([dicom], acceptor, grace=30).setServiceParent(together)

    root = File(DIRECTORY)
    root.putChild(b"counted", Counted(counters))
    http = serverFromString(reactor, "tcp:8080:interface=127.0.0.1")
    StreamServerEndpointService(http, Site(root)).setServiceParent(together)

    return together


async def main(reactor: Any) -> None:
    together = services(reactor)
    together.startService()
    reactor.addSystemEventTrigger("before", "shutdown", together.stopService)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main)
