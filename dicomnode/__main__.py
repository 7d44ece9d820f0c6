"""``python -m dicomnode COMMAND``: the service in the foreground, with nothing but its own lines; clients."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

from twisted.python import usage

_USAGE = """\
usage: dicomnode COMMAND ...

commands:
  echo        ask an application entity whether it is there
  store       send DICOM files, and those in directories
  storescp    receive composite instances and keep them as files

'dicomnode COMMAND --help' lists the options of a command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit: with 0, with 1 when it cannot start, with 2 when its arguments are wrong."""
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before the reactor takes it
        sys.exit(128 + signal.SIGINT)


def _run(arguments: Sequence[str]) -> None:
    command, *rest = [*arguments, ""]
    if command in ("-h", "--help"):
        print(_USAGE)
    elif command == "--version":
        from dicomnode import __version__

        print(f"dicomnode {__version__}")
    elif command == "storescp":
        _storescp(rest[:-1])
    elif command in ("echo", "store"):
        _client(command, rest[:-1])
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

    from dicomnode.observers import Relay, begin_lines
    from dicomnode.tap import makeService

    begin_lines(options["log-format"], sys.stderr)
    service = makeService(options, relay=Relay(sys.stderr))
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


def _client(command: str, arguments: Sequence[str]) -> None:
    from dicomnode.clientoptions import parse_echo, parse_store

    def wrong(why: object) -> None:
        print(f"dicomnode {command}: error: {' '.join(str(why).split())}", file=sys.stderr)
        sys.exit(2)

    try:
        options = (parse_echo if command == "echo" else parse_store)(arguments)
    except usage.UsageError as error:
        wrong(error)

    from twisted.internet import reactor as installed
    from twisted.logger import Logger, globalLogPublisher

    from dicomnode.clients import Foreground, Store, echo, endpoint_for
    from dicomnode.observers import LogObserver, begin_lines, write
    from dicomnode.outcomes import Report
    from dicomnode.progress import Lines, Progress, progress_on

    reactor: Any = installed  # Twisted types it as what all reactors have in common
    try:
        endpoint = endpoint_for(reactor, options["where"], options["acse-timeout"])
    except Exception as error:  # whatever an endpoint's plugin makes of what it is given
        wrong(f"argument HOST: {options['where']!r} is no endpoint, and HOST is followed by PORT: {error}")
    begin_lines("text", sys.stderr)
    level = options["log-level"]
    log = Logger("dicomnode", observer=globalLogPublisher)
    observe = LogObserver(level, log=log)
    quiet, verbose = level == "none", level in ("info", "debug")
    stdout, stderr = (None, None) if quiet else (sys.stdout, sys.stderr)
    if command == "echo":
        foreground = Foreground(
            reactor, lambda: echo(reactor, endpoint, options, stdout=stdout, stderr=stderr, observe=observe)
        )
        sys.exit(foreground.run())

    def say(line: str) -> None:
        if verbose:
            log.info("{line}", line=line)

    def tell(text: str) -> None:
        write(stderr, text)

    progress = Progress()
    if verbose:
        progress = Lines(tell, reactor.seconds)  # a bar would be torn by what is logged
    elif not quiet and sys.stderr is not None:
        progress = progress_on(sys.stderr, tell, reactor.seconds)
    store = Store(
        reactor,
        endpoint,
        options,
        report=Report(stdout),
        progress=progress,
        stderr=stderr,
        log=say,
        observe=observe,
    )
    sys.exit(Foreground(reactor, store.run).run())


if __name__ == "__main__":
    main()
