"""Two AE titles on two ports, one of them TLS: ``twistd -ny two_titles.tac``."""

from twisted.application.service import Application

from dicomnode.tap import Options, makeService

TITLES = {
    "PARTNER": [
        *("--port", "dicom-tls:2762:privateKey=node.key:certKey=node.pem:trustRoots=ca.pem"),
        *("--output-directory", "partners", "--max-associations-per-host", "4"),
    ],
    "MODALITY": ["--port", "11112", "--output-directory", "modalities", "--allow-from", "127.0.0.0/8"],
}

application = Application("dicomnode")
for title, arguments in TITLES.items():
    options = Options()
    options.parseOptions(["-aet", title, "--require-called-aet", *arguments])
    makeService(options).setServiceParent(application)
