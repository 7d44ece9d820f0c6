"""Who we are: version, and the names by which PS3.7 D.3.3.2 has an implementation known."""

from __future__ import annotations

__version__ = "0.1.0"

#: Derived from a UUID, as PS3.5 B.2 allows: nobody has to be asked, and nobody else has it.
IMPLEMENTATION_CLASS_UID = "2.25.59600461093595608072488360627518283537"

#: At most 16 characters.
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{__version__}"[:16]
