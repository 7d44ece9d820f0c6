"""A policy: who may associate, by the AE title it calls itself and the network it calls from.

``python policy.py`` runs it on port 11112, and keeps nothing.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress
from twisted.internet.task import react
from zope.interface import implementer

from dicomnode import Acceptor, All, AssociationRejected, CalledAETitle, Discard, IAssociationPolicy, Storage
from dicomnode.core.pdu import AssociateRQ

#: Result, source, reason of PS3.8 Table 9-21: rejected permanent, by the service user.
CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)


@implementer(IAssociationPolicy)
class KnownPeers:
    """Accepts a calling AE title from its own network only.

    :param peers: the networks, by AE title.
    """

    def __init__(self, peers: Mapping[str, str]) -> None:
        self._peers = {title: ip_network(network) for title, network in peers.items()}

    def consider(self, request: AssociateRQ, peer: IAddress) -> None:
        network = self._peers.get(request.calling_ae_title)
        if network is None or ip_address(peer.host) not in network:
            why = f"{request.calling_ae_title} at {peer.host} is not a known peer"
            raise AssociationRejected(*CALLING_AE_TITLE_NOT_RECOGNIZED, why)


def main(reactor, description: str = "tcp:11112") -> Deferred[None]:
    policy = All(CalledAETitle("ARCHIVE"), KnownPeers({"CT1": "192.0.2.0/28", "MR1": "198.51.100.7/32"}))
    acceptor = Acceptor(reactor, [Storage(Discard())], policy=policy)
    listening = serverFromString(reactor, description).listen(acceptor)
    return listening.addCallback(lambda port: Deferred())  # for ever


if __name__ == "__main__":
    react(main)
