"""A storage that posts each instance to an HTTP API while it arrives, and answers when that has answered.

``python http_api.py https://api.example.org/instances`` runs it on port 11112. What is posted is a DICOM
file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from dicomnode import (
    Acceptor,
    IInstanceWriter,
    Instance,
    IStorage,
    OperationFailed,
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
        post.goes(self._agent.request(b"POST", self._url, headers, post))
        return post.begun


@implementer(IInstanceWriter, IBodyProducer)
class Post:
    """A pipe: an instance is written in at one end, and the body of a request comes out at the other."""

    length = UNKNOWN_LENGTH

    def __init__(self, reactor: Any, header: bytes) -> None:
        self.begun: Deferred[IInstanceWriter] = Deferred()
        self._request: Deferred[IResponse]
        self._response: Deferred[IResponse] = Deferred(lambda _: self._request.cancel())
        self._reactor = reactor
        self._header = header
        self._body: IConsumer | None = None
        self._produced: Deferred[None] = Deferred()
        self._producer: IPushProducer | None = None
        self._paused = False

    def goes(self, request: Deferred[IResponse]) -> None:
        """The request is on its way; it may have begun."""
        self._request = request
        request.addCallbacks(self._response.callback, self._failed)

    def _failed(self, failure: Failure) -> None:
        """There is no connection, or not any more."""
        problem = OperationFailed(Status.OUT_OF_RESOURCES, f"the API failed: {failure.getErrorMessage()}")
        (self._response if self.begun.called else self.begun).errback(problem)

    # IInstanceWriter: for the operation

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        if self._paused:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        if self._body is not None:
            self._body.write(data)

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        self.write(b"".join(data))

    def commit(self) -> Deferred[None]:
        """Success is answered when this fires: when the API has answered."""
        if self._body is not None:
            self._produced.callback(None)
        kept: Deferred[None] = Deferred()  # of its own: who cancels it does not cancel the request
        Deferred.fromCoroutine(self._answered()).chainDeferred(kept)
        return kept

    def abort(self) -> Deferred[None]:
        """Break the request off in its middle: the API sees that it is not whole."""
        if self._body is not None:
            self._produced.errback(ConnectionAborted())
        gone: Deferred[None] = Deferred()
        self._response.addBoth(lambda _: None).chainDeferred(gone)
        return gone

    async def _answered(self) -> None:
        response = await self._response.addTimeout(PATIENCE, self._reactor)
        said = Said()
        response.deliverBody(said)
        text = await said.text
        if not 200 <= response.code < 300:
            raise OperationFailed(Status.OUT_OF_RESOURCES, f"the API said {response.code} {text}")

    # IBodyProducer: for the request

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._body = consumer
        consumer.write(self._header)
        self.begun.callback(self)
        return self._produced

    def pauseProducing(self) -> None:
        self._paused = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is gone: what still comes is dropped."""
        self._body = None
        if self._producer is not None:
            self._producer.stopProducing()


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
