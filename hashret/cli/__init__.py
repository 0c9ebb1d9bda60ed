"""The command line: one file per command; parse, call, print.

A command is a module with `add_arguments(parser)` and `run(args) -> exit status`. Only the module of the command that was
typed is imported, so that `hashret query --code` starts without torch. A module may name VERBS: `hashret index verify` is
the module index_verify.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from hashret import __version__
from hashret.errors import HashretError, UsageError

COMMANDS = {
    "train": "train a hash model on a table of pictures",
    "index": "encode pictures and write an index",
    "query": "find the nearest pictures in an index",
    "show": "draw a picture and its nearest ones as one PNG",
    "dedup": "find groups of near-duplicates in an index or a folder",
    "evaluate": "score a model: float and hash side by side",
    "submit": "write the nearest other picture of every picture, one a line",
    "classify": "write the likeliest classes of every picture, -1 for strangers, as a competition takes them",
    "score": "the scores of such lists",
    "rethreshold": "set the thresholds of a model for pictures of a new domain",
    "protocol": "named protocols: list, show, run",
    "compare": "rank results of one protocol, query by query",
    "report": "one HTML page about a run: scores, curves, bits, mistakes; or several runs side by side",
    "data": "make, check and look at tables of pictures",
    "runs": "list training runs with their scores",
    "quickstart": "the whole way on a small data set made here",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    As usual with argparse, --help and flags that do not parse raise SystemExit with their status (0 and 2).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a label shows its code points; it is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
    except UsageError as error:
        return _failed(str(error), 2)
    except HashretError as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: not an error.
        _give_up_output()
        return 1
    except OSError as error:
        _give_up_output()
        return _failed(_in_words(error), 1)
    except MemoryError:
        return _failed("there is too little memory for this; close other programs, or ask for less at once", 1)
    return status


def _failed(sentence: str, status: int) -> int:
    print(f"hashret: {sentence}", file=sys.stderr)
    return status


def _in_words(error: OSError) -> str:
    """What the operating system refused, as one sentence."""
    reason = error.strerror or str(error) or f"the operating system refused ({type(error).__name__})"
    reason = reason[0].lower() + reason[1:]
    where = f"{error.filename}: " if error.filename else ""
    advice = {
        errno.ENOSPC: "make room, then run the same command again",
        errno.EACCES: "check its permissions",
        errno.EROFS: "choose a place that can be written",
    }.get(error.errno or 0)
    return f"{where}{reason}" + (f"; {advice}" if advice else "")


def _give_up_output() -> None:
    """If standard output takes nothing any more, send what is left nowhere: Python would complain once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _run(argv: list[str]) -> int:
    overview = _ExampleFirst(
        prog="hashret",
        description="Example:  hashret quickstart --out quickstart\n\n" + _overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="hashret COMMAND [options]   (hashret COMMAND --help explains each)",
    )
    overview.add_argument("--version", action="version", version=f"hashret {__version__}")
    overview.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    command = overview.parse_args(argv[:1] or ["--help"]).command
    module = importlib.import_module(f"hashret.cli.{command}")
    typed = 1
    if argv[1:2] and argv[1] in getattr(module, "VERBS", ()):
        command, typed = f"{command} {argv[1]}", 2
        module = importlib.import_module(f"hashret.cli.{command.replace(' ', '_')}")
    parser = _ExampleFirst(
        prog=f"hashret {command}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args = parser.parse_args(argv[typed:])
    with _log_shown():
        status: int = module.run(args)
    return status


class _ExampleFirst(argparse.ArgumentParser):
    """A parser whose help opens with the description, which opens with an example, and whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def format_help(self) -> str:
        description, self.description = self.description, None
        try:
            return f"{description}\n\n{super().format_help()}"
        finally:
            self.description = description


@contextlib.contextmanager
def _log_shown() -> Iterator[None]:
    """Send what the package reports of its work to standard error; standard output is for results."""
    logger = logging.getLogger("hashret")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [logging.StreamHandler(sys.stderr)], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "Deep hashing retrieval. Commands:\n" + "\n".join(
        f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()
    )
