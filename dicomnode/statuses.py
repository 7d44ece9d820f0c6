"""What the values of Status (0000,0900) mean, in words: PS3.7 Annex C, PS3.4 B.2.3."""

from __future__ import annotations

from dicomnode.core.command import Status

_MEANINGS = {
    Status.SUCCESS: "Success",
    0x0001: "Warning",
    0x0105: "No such attribute",
    Status.INVALID_ATTRIBUTE_VALUE: "Invalid attribute value",
    0x0107: "Attribute list error",
    Status.PROCESSING_FAILURE: "Processing failure",
    Status.DUPLICATE_SOP_INSTANCE: "Duplicate SOP Instance",
    Status.NO_SUCH_SOP_INSTANCE: "No such SOP Instance",
    0x0116: "Attribute value out of range",
    Status.INVALID_OBJECT_INSTANCE: "Invalid SOP Instance",
    Status.NO_SUCH_SOP_CLASS: "No such SOP Class",
    Status.CLASS_INSTANCE_CONFLICT: "Class-Instance conflict",
    Status.MISSING_ATTRIBUTE: "Missing attribute",
    Status.SOP_CLASS_NOT_SUPPORTED: "SOP Class not supported",
    Status.NO_SUCH_ACTION: "No such action",
    Status.NOT_AUTHORIZED: "Not authorized",
    Status.DUPLICATE_INVOCATION: "Duplicate invocation",
    Status.UNRECOGNIZED_OPERATION: "Unrecognized operation",
    0x0212: "Mistyped argument",
    Status.RESOURCE_LIMITATION: "Resource limitation",
    Status.COERCION_OF_DATA_ELEMENTS: "Coercion of data elements",
    Status.ELEMENTS_DISCARDED: "Elements discarded",
    Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING: "Data set does not match SOP Class",
}

_RANGES = (
    (0xA700, 0xA7FF, "Refused: Out of resources"),
    (0xA900, 0xA9FF, "Data set does not match SOP Class"),
    (0xB000, 0xBFFF, "Warning"),
    (0xC000, 0xCFFF, "Cannot understand"),
)


def meaning(status: int) -> str:
    """Return what a status means: "Failure", where the standard does not say for any service."""
    ranges = (words for first, last, words in _RANGES if first <= status <= last)
    return _MEANINGS.get(status) or next(ranges, "Failure")
