"""An observer: what each calling AE title has sent, beside the usual log lines.

``python observer.py`` runs it on port 11112, keeps files in the current directory, and says every
minute who has sent how much.
"""

import sys
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall, react
from twisted.logger import Logger

from dicomnode import Acceptor, FileStorage, Status, Storage, Verification, events
from dicomnode.core.command import CStoreRQ
from dicomnode.observers import LogObserver, TextLines


class Received:
    """Counts the instances and octets that are kept, by calling AE title."""

    def __init__(self) -> None:
        self.instances: Counter[str] = Counter()
        self.octets: Counter[str] = Counter()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.OperationEnded(response=response) if response and response.status == Status.SUCCESS:
                if isinstance(event.operation.request, CStoreRQ):
                    self.instances[event.association.calling_ae_title] += 1
                    self.octets[event.association.calling_ae_title] += event.octets

    def say(self) -> None:
        for title, instances in self.instances.most_common():
            print(f"{title}: {instances} instances, {self.octets[title]} octets")


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    received = Received()
    lines = LogObserver("info", log=Logger("dicomnode", observer=TextLines(sys.stderr)))
    observe = events.Fanout(received, lines)
    files = FileStorage(".", reactor=reactor, observe=observe)
    acceptor = Acceptor(reactor, [Verification(), Storage(files)], observe=observe)
    minutes = LoopingCall(received.say)
    minutes.clock = reactor
    minutes.start(60, now=False)
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
