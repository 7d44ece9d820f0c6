"""A storescp and a web site in one process, made of their parts: ``python multiservice.py``."""

from twisted.application.service import MultiService
from twisted.application.strports import service
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.server import Site
from twisted.web.static import File

from dicomnode import Acceptor, FileStorage, Storage, Verification


def services(reactor) -> MultiService:
    node = MultiService()
    files = FileStorage(".", reactor=reactor)
    acceptor = Acceptor(reactor, [Verification(), Storage(files)])
    service("tcp:11112", acceptor, reactor).setServiceParent(node)
    service("tcp:8080:interface=127.0.0.1", Site(File(".")), reactor).setServiceParent(node)
    return node


def main(reactor) -> Deferred[None]:
    services(reactor).startService()
    return Deferred()  # for ever


if __name__ == "__main__":
    react(main)
