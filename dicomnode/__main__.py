"""``python -m dicomnode storescp ...``: the service in the foreground, with nothing but its own lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    globalLogBeginner,
)
from twisted.python import usage
from zope.interface import provider

_USAGE = """\
usage: dicomnode COMMAND ...

commands:
  storescp    receive composite instances and keep them as files

'dicomnode storescp --help' lists its options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit: with 0, with 1 when it cannot start, with 2 when its arguments are wrong."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in ("-h", "--help"):
        print(_USAGE)
    elif command == "--version":
        from dicomnode import __version__

        print(f"dicomnode {__version__}")
    elif command == "storescp":
        _storescp(rest[:-1])
    else:
        what = f"no such command: {command}" if command else "a command is needed"
        print(f"dicomnode: error: {what} (see dicomnode --help)", file=sys.stderr)
        sys.exit(2)


def _storescp(arguments: Sequence[str]) -> None:
    from dicomnode.options import Options

    options = Options()
    options.parser.prog = "dicomnode storescp"
    try:
        options.parseOptions(arguments)
    except usage.UsageError as error:
        print(f"dicomnode storescp: error: {error}", file=sys.stderr)
        sys.exit(2)

    from twisted.internet import reactor

    from dicomnode.observers import TextLines, lines_for
    from dicomnode.tap import makeService

    # What Twisted itself has to say is said only when something is wrong.
    wrong = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)
    others = FilteringLogObserver(TextLines(sys.stderr, namespace=None), [_not_ours, wrong])
    ours = lines_for(options["log-format"], sys.stderr)
    globalLogBeginner.beginLoggingTo([ours, others], redirectStandardIO=False)
    service = makeService(options)
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


@provider(ILogFilterPredicate)
def _not_ours(event: Mapping[str, Any]) -> Any:
    """What the service's LogObserver says has a level, and lines, of its own."""
    ours = event.get("log_namespace") == "dicomnode"
    return PredicateResult.no if ours else PredicateResult.maybe


if __name__ == "__main__":
    main()
