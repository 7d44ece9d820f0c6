"""Tests for the drop-in with which ``twistd`` finds us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

import dicomnode

CHECKOUT = Path(dicomnode.__file__).parent.parent

#: Loads the drop-in as every twistd does, and says what that has imported of ours and of pydicom.
SCRIPT = """
import sys
from twisted.plugins import dicomnode_plugin
assert dicomnode_plugin.storescp.tapname == "storescp"
assert dicomnode_plugin.dicom_tls.prefix == "dicom-tls"
ours = {"dicomnode", "pydicom", "numpy", "OpenSSL", "cryptography"}
print(*sorted(name for name in sys.modules if name.split(".")[0] in ours))
"""


class PluginTests(SynchronousTestCase):
    """``twistd storescp`` is there, and costs nothing where it is not used."""

    def test_found(self) -> None:
        """Twisted finds the subcommand, once; what it names has what is needed."""
        (maker,) = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "storescp"]
        self.assertEqual(maker.module, "dicomnode.tap")
        self.assertIs(maker.options, dicomnode.options.Options)
        self.assertIs(maker.makeService, dicomnode.tap.makeService)
        self.assertTrue(maker.description.endswith("."))

    def test_imports_nothing(self) -> None:
        """To load the drop-in imports nothing of ours, nor pydicom."""
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        loaded = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment
        )
        self.assertEqual(loaded.stdout.split(), [])

    def test_namespace(self) -> None:
        """The folder of the drop-in is no package: it would hide Twisted's own plugins, or Twisted."""
        self.assertTrue((CHECKOUT / "twisted/plugins/dicomnode_plugin.py").is_file())
        self.assertEqual(list((CHECKOUT / "twisted").rglob("__init__.py")), [])
