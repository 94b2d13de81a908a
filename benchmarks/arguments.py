"""Command lines of the benchmarks. The standard library alone, as every runner imports it."""

import argparse
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Help(argparse.HelpFormatter):
    """Paragraphs as wide as the terminal; what is indented, a command, stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs)


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Of `python -m module`. `description`: its docstring."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=description, formatter_class=_Help)


def count(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return number


def new_file(text: str) -> Path:
    """Where a file can be made, found out before an hour has passed. Raises ArgumentTypeError."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"no file can be made at {text}: " + ("it is a folder" if path.is_dir() else f"no folder {path.parent}")
        )
    return path


@contextmanager
def refusing(parser: argparse.ArgumentParser, *errors: type[Exception]) -> Iterator[None]:
    """What the caller got wrong ends the command with a sentence."""
    try:
        yield
    except errors as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
