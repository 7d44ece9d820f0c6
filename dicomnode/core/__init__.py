"""The upper layer and DIMSE without I/O: standard library only, no Twisted, no clock, no file."""
