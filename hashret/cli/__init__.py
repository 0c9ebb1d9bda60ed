"""The command line: one file per command; parse, call, print.

A command is a module with `add_arguments(parser)` and `run(args) -> exit status`. Only the module of the command that was
typed is imported, so that `hashret query --code` starts without torch.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from hashret import __version__
from hashret.errors import HashretError, UsageError

COMMANDS = {
    "train": "train a hash model on a table of pictures",
    "index": "encode pictures and write an index",
    "query": "find the nearest pictures in an index",
    "evaluate": "score a model: float and hash side by side",
    "data": "make, check and look at tables of pictures",
    "runs": "list training runs with their scores",
    "quickstart": "the whole way on a small data set made here",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # torch's threads would spin while they wait, on the cores that the workers which read pictures need: measured 22-64
    # pictures/s instead of 180 on a busy machine. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        return _run(argv)
    except UsageError as error:
        print(f"hashret: {error}", file=sys.stderr)
        return 2
    except HashretError as error:
        print(f"hashret: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hashret: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: not an error. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    overview = argparse.ArgumentParser(
        prog="hashret",
        description="Example:  hashret quickstart --out quickstart\n\n" + _overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="hashret COMMAND [options]   (hashret COMMAND --help explains each)",
    )
    overview.add_argument("--version", action="version", version=f"hashret {__version__}")
    overview.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    command = overview.parse_args(argv[:1] or ["--help"]).command
    module = importlib.import_module(f"hashret.cli.{command}")
    parser = _ExampleFirst(
        prog=f"hashret {command}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _show_log()
    status: int = module.run(parser.parse_args(argv[1:]))
    return status


class _ExampleFirst(argparse.ArgumentParser):
    """A parser whose help opens with the description, which opens with an example; usage and flags follow."""

    def format_help(self) -> str:
        description, self.description = self.description, None
        try:
            return f"{description}\n\n{super().format_help()}"
        finally:
            self.description = description


def _show_log() -> None:
    """Send what the package reports of its work to standard error; standard output is for results."""
    logger = logging.getLogger("hashret")
    logger.handlers[:] = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "Deep hashing retrieval. Commands:\n" + "\n".join(
        f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()
    )
