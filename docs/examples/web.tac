"""``twistd -ny web.tac``: instances arrive on port 11112, and their files are on a web site on port 8080."""

from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.server import Site
from twisted.web.static import File

from dicomnode.tap import Options, makeService

application = Application("radiology")
options = Options()
options.parseOptions(["--port", "11112", "--output-directory", "incoming"])
makeService(options).setServiceParent(application)
service("tcp:8080:interface=127.0.0.1", Site(File("incoming"))).setServiceParent(application)
