"""A storage that posts each instance to an HTTP API while it arrives, and answers when that has answered.

``python http_api.py https://api.example.org/instances`` runs it on port 11112. What is posted is a DICOM
file.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
    Pipe,
    Status,
    Storage,
    Verification,
)
from dicomnode.part10 import part10_header

PATIENCE = 60.0  #: seconds that the API may take to answer, once it has all of an instance


@implementer(IStorage)
class API:
    """Keeps instances by posting them."""

    def __init__(self, reactor: Any, agent: IAgent, url: str) -> None:
        self._reactor = reactor
        self._agent = agent
        self._url = url.encode()

    def open(self, instance: Instance) -> Deferred[IInstanceWriter]:
        """Fires when the API takes the request: until then, nothing is read from the peer."""
        post = Post(self._reactor, part10_header(instance))
        headers = Headers({"Content-Type": ["application/dicom"]})
        posting = self._agent.request(b"POST", self._url, headers, post)
        return post.into(posting.addCallbacks(judge, not_answered))


class Post(Pipe):
    """A pipe into a request, which does not wait for the response for ever."""

    def __init__(self, reactor: Any, header: bytes) -> None:
        super().__init__(header)
        self._reactor = reactor

    def into(self, sending: Deferred[Any]) -> Deferred[IInstanceWriter]:
        self._request = sending
        return super().into(sending)

    def commit(self) -> Deferred[int | None]:
        """Success is answered when this fires: when the API has answered."""
        patience = self._reactor.callLater(PATIENCE, self._request.cancel)

        def answered(result: Any) -> Any:
            if patience.active():
                patience.cancel()
            return result

        return super().commit().addBoth(answered)


def judge(response: IResponse) -> Deferred[None]:
    """Fires when the API has what was posted."""
    said = Said()
    response.deliverBody(said)

    def judged(text: str) -> None:
        if not 200 <= response.code < 300:
            raise OperationFailed(Status.OUT_OF_RESOURCES, f"the API said {response.code} {text}")

    return said.text.addCallback(judged)


def not_answered(failure: Failure) -> None:
    """There is no connection, or not any more."""
    raise OperationFailed(Status.OUT_OF_RESOURCES, f"the API failed: {failure.getErrorMessage()}")


class Said(Protocol):
    """Takes the body of a response, to its end: only then is the connection of use again."""

    def __init__(self) -> None:
        self.text: Deferred[str] = Deferred()  #: the first of it: an Error Comment has 64 characters
        self._text = b""

    def dataReceived(self, data: bytes) -> None:
        self._text = (self._text + data)[:64]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.text.callback(self._text.decode("ascii", "replace").strip())


async def main(reactor: Any, url: str = "http://127.0.0.1:8080/instances") -> None:
    agent = Agent(reactor, pool=HTTPConnectionPool(reactor), connectTimeout=10)
    acceptor = Acceptor(reactor, [Verification(), Storage(API(reactor, agent, url))])
    await serverFromString(reactor, "tcp:11112").listen(acceptor)
    await Deferred()  # for ever


if __name__ == "__main__":
    react(main, sys.argv[1:])
