"""A pipe: an instance is written in at one end, and comes out at the other as the body of a request.

For a storage that keeps nothing itself, but sends on what it is given: to another node, an HTTP API, a
queue. One end is an :class:`~dicomnode.interfaces.IInstanceWriter`, the other an ``IBodyProducer``::

    def open(self, instance):
        pipe = Pipe(part10_header(instance))
        request = self._agent.request(b"POST", self._url, headers, pipe)
        return pipe.into(request.addCallback(judge))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from dicomnode.core.command import Response, Status, is_warning
from dicomnode.errors import DicomNodeError, OperationFailed
from dicomnode.interfaces import IInstanceWriter

_R = TypeVar("_R", bound=Response | int | None)


@implementer(IInstanceWriter, IBodyProducer)
class Pipe:
    """Produces what it is written, as it is written: nothing is kept in between.

    While whoever takes its octets is paused, or has yet to ask for them, so is whoever writes. An instance
    that is aborted ends its body by a failure; what takes no more of the body, or fails, drops the rest of
    the instance.

    :param prefix: octets that come out first: the Part 10 header, for instance.
    """

    length: Any = UNKNOWN_LENGTH  # IBodyProducer declares it so

    def __init__(self, prefix: bytes = b"") -> None:
        self._held = [prefix] if prefix else []  # until it is asked for
        self._consumer: IConsumer | None = None
        self._produced: Deferred[None] = Deferred()
        self._producer: IPushProducer | None = None
        self._paused = True
        self._opening: Deferred[IInstanceWriter] | None = None
        self._sending: Deferred[Any] | None = None
        self._whole = False  # has all come, and gone?
        self._over = False
        self._ending: Deferred[int | None] = Deferred()

    def into(self, sending: Deferred[_R]) -> Deferred[IInstanceWriter]:
        """Return the writer, once its octets are asked for: that is what a storage's ``open`` returns.

        Commit fires with what ``sending`` does: None, a warning, or the response of a C-STORE; and fails as
        that fails, or with the status of that response. That an association has ended, or takes no such
        instance, is answered with 0xA700. An answer before all of the instance was sent is a failure,
        whatever it says. If what this returns is cancelled, so is ``sending``.

        :param sending: fires, or fails, when what was sent is answered.
        """
        opening: Deferred[IInstanceWriter] = Deferred(lambda _: sending.cancel())
        self._opening = opening
        self._sending = sending
        sending.addCallback(_kept).addBoth(self._answered)
        if self._consumer is not None:
            self._opens()
        return opening

    # IInstanceWriter

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._producer = cast(IPushProducer, producer)
        if self._over:
            self._producer.stopProducing()
        elif self._paused:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self.writeSequence((data,))

    def writeSequence(self, data: Sequence[bytes | memoryview]) -> None:
        octets = b"".join(data)
        if self._consumer is not None:
            self._consumer.write(octets)
        elif not self._over:
            self._held.append(octets)

    def commit(self) -> Deferred[int | None]:
        if not self._over:
            self._whole = True
            self._produced.callback(None)
        return self._ending

    def abort(self) -> Deferred[None]:
        if self._consumer is not None:
            self._produced.errback(_broken_off())
        elif self._sending is not None:  # and nobody has asked for it
            self.stopProducing()
            self._sending.cancel()
        return self._ending.addBoth(lambda _: None)

    # IBodyProducer

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        if self._over:
            return fail(_broken_off())
        self._consumer = consumer
        held, self._held = self._held, []
        self.resumeProducing()
        for octets in held:
            consumer.write(octets)
        self._opens()
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
        """Nobody takes its octets any more: what still comes is dropped."""
        self._consumer = None
        self._over = True
        self._held = []
        if self._producer is not None:
            self._producer.stopProducing()

    # Within

    def _opens(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.callback(self)

    def _answered(self, result: int | Failure | None) -> None:
        refusal: OperationFailed | None = None
        if not isinstance(result, Failure):
            if not self._whole:
                refusal = _refused("it was answered before it was sent whole")
        elif isinstance(result.value, DicomNodeError) and not isinstance(result.value, OperationFailed):
            refusal = _refused(str(result.value))
        opening, self._opening = self._opening, None
        if opening is not None:
            assert refusal is not None or isinstance(result, Failure)  # it cannot be whole
            opening.errback(refusal or cast(Failure, result))
            return
        if not self._over:
            self.stopProducing()
        if refusal is not None:
            self._ending.errback(refusal)
        else:
            self._ending.callback(result)


def _refused(why: str) -> OperationFailed:
    return OperationFailed(Status.OUT_OF_RESOURCES, why)


def _broken_off() -> DicomNodeError:
    return DicomNodeError("what was to be sent has come to no end")


def _kept(answer: Response | int | None) -> int | None:
    """Return what commit fires with, or raise what it fails with."""
    if not isinstance(answer, Response):
        return answer
    if answer.status != Status.SUCCESS and not is_warning(answer.status):
        raise OperationFailed(answer.status, answer.error_comment or "")
    return answer.status
