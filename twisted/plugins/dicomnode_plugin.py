"""Registers ``storescp`` with ``twistd``. Every ``twistd`` on the machine loads this: it imports no more."""

from twisted.application.service import ServiceMaker

storescp = ServiceMaker(
    "storescp",
    "dicomnode.tap",
    "A DICOM Storage SCP: receives composite instances and keeps them as files.",
    "storescp",
)
