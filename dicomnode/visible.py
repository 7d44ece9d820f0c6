"""Puts what comes from outside on one line of a log: bounded, and without a control character.

What a peer calls itself must not forge a line, clear a terminal or fill a disk. Everything that is
said about peers goes through :func:`visible`.
"""

from __future__ import annotations

from twisted.internet.interfaces import IAddress

#: Characters of one text of a peer's that are shown. A UID has 64, an AE title 16; a user name that
#: is an e-mail address, 254.
LIMIT = 256


def visible(text: str, limit: int = LIMIT) -> str:
    r"""Return ``text`` with what cannot be printed as an escape, such as ``\x1b``; cut to ``limit``.

    Line and paragraph separators, C1 controls, surrogates and what turns the direction of writing
    cannot be printed either. What is visible stays as it is, however often it is passed on.
    """
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text) - limit} more)"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(ord(character)) for character in text)


def _escape(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def spoken(address: IAddress) -> str:
    """Return an address as it is written: ``192.0.2.1:104``, ``[2001:db8::1]:104``, or a path."""
    host = getattr(address, "host", None)
    if host is not None:
        host = visible(str(host))
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"  # type: ignore[attr-defined]
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        return visible(name.decode("utf-8", "backslashreplace"))
    return "a local socket" if hasattr(address, "name") else visible(str(address))
