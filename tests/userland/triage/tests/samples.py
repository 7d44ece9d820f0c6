"""What the tests send."""

from io import BytesIO

from pydicom import Dataset

CT = "1.2.840.10008.5.1.4.1.1.2"


def image(uid: str, octets: int = 0) -> Dataset:
    """Return an instance, with so many octets of a document in it."""
    image = Dataset()
    image.SOPClassUID = CT
    image.SOPInstanceUID = uid
    image.StudyInstanceUID = "1.2"
    image.EncapsulatedDocument = bytes(octets)
    return image


def octets(data_set: Dataset) -> bytes:
    """Return a data set in Explicit VR Little Endian."""
    buffer = BytesIO()
    data_set.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()
