"""Orthanc as a peer: a server that stores what it is sent, and sends what it is told to."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from tests.interop.support import LOOPBACK, PATIENCE, Process, eventually, find_program, free_port

#: No proxy is between two ports of this machine, whatever the environment says.
_opener = build_opener(ProxyHandler({}))


#: Debian has it where the paths of ordinary users do not lead.
_PROGRAM = find_program("Orthanc") or shutil.which("/usr/sbin/Orthanc")


def missing_orthanc() -> str | None:
    """Say that it is not installed: a reason to skip, or None."""
    return None if _PROGRAM else "not installed: Orthanc"


class Orthanc(Process):
    """Orthanc, listening for DICOM and HTTP; its index and its files are in a directory of its own."""

    def __init__(self) -> None:
        assert _PROGRAM is not None
        self.port, self._http = free_port(), free_port()
        self._kept = tempfile.TemporaryDirectory(prefix="dicomnode-orthanc-")
        configuration = Path(self._kept.name, "orthanc.json")
        configuration.write_text(
            json.dumps(
                {
                    "DicomPort": self.port,
                    "HttpPort": self._http,
                    "StorageDirectory": self._kept.name,
                    "IndexDirectory": self._kept.name,
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowStore": True,
                    "AuthenticationEnabled": False,
                    "Plugins": [],
                }
            )
        )
        super().__init__([_PROGRAM, str(configuration)])
        try:
            eventually("it listens", self._listens)
        except AssertionError:
            self.clean_up()
            raise

    def clean_up(self) -> None:
        super().clean_up()
        self._kept.cleanup()

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended: {self.stderr}")
        try:
            return bool(self.get("system"))
        except URLError:
            return False

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask its REST API for something.

        :raises AssertionError: when it answers that it could not.
        """
        request = Request(f"http://{LOOPBACK}:{self._http}/{path}", body, method=method)
        try:
            with _opener.open(request, timeout=PATIENCE) as response:
                answer: bytes = response.read()
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {error}: {error.read()[:500]!r}") from None
        return answer

    def get(self, path: str) -> Any:
        return json.loads(self.ask("GET", path))

    def file(self, instance: str) -> bytes | None:
        """Return the file that it keeps of an instance, by its SOP Instance UID."""
        found = json.loads(self.ask("POST", "tools/lookup", instance.encode()))
        return self.ask("GET", f"instances/{found[0]['ID']}/file") if found else None

    def modality(self, port: int) -> None:
        """Tell it that its ``peer`` is at a port of this machine."""
        modality = {"AET": "STORESCP", "Host": LOOPBACK, "Port": port}
        self.ask("PUT", "modalities/peer", json.dumps(modality).encode())

    def send(self, paths: list[Path], port: int) -> dict[str, Any]:
        """Have it send files to a port of this machine, and forget them. Return what it says of it."""
        self.modality(port)
        resources = [json.loads(self.ask("POST", "instances", path.read_bytes()))["ID"] for path in paths]
        sending = {"Resources": resources, "Synchronous": True}
        said: dict[str, Any] = json.loads(
            self.ask("POST", "modalities/peer/store", json.dumps(sending).encode())
        )
        for resource in {*resources}:
            self.ask("DELETE", f"instances/{resource}")
        return said
