"""Registers ``storescp`` with ``twistd``, and ``dicom-tls:`` with Twisted's endpoint strings.

Every ``twistd`` on the machine loads this: it imports no more.
"""

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor)
class DicomTLS:
    """DICOM over TLS. What it needs is imported when it is used."""

    prefix = "dicom-tls"

    def parseStreamServer(self, reactor, *arguments, **keywords):
        return self._tls().server_endpoint(reactor, *arguments, **keywords)

    def parseStreamClient(self, reactor, *arguments, **keywords):
        return self._tls().client_endpoint(reactor, *arguments, **keywords)

    def _tls(self):
        try:
            import OpenSSL  # noqa: F401
        except ImportError:
            raise ValueError("TLS needs dicomnode[tls]: pip install 'dicomnode[tls]'") from None
        from dicomnode import tls

        return tls


storescp = ServiceMaker(
    "storescp",
    "dicomnode.tap",
    "A DICOM Storage SCP: receives composite instances and keeps them as files.",
    "storescp",
)
dicom_tls = DicomTLS()
