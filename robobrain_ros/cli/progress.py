"""Messages of the command line programs, and the progress of loading on a terminal or in a log."""

import re
import sys
import time
from typing import TextIO


class ProgressPrinter:
    """Prints the progress of loading. On a terminal, it updates one line. In a log, it prints a few lines."""

    INTERVAL = 10.0
    """Seconds between two lines in a log that differ only in their numbers."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._on_terminal = self._stream.isatty()
        self._printed, self._kind, self._when = "", "", 0.0

    def update(self, progress: str) -> None:
        """Print the progress if it is new."""
        now, kind = time.monotonic(), re.sub(r"\d+", "", progress)
        if progress == self._printed or not (self._on_terminal or kind != self._kind or now - self._when > self.INTERVAL):
            return
        self._printed, self._kind, self._when = progress, kind, now
        line, end = (f"\r  {progress[:100]:<100}", "") if self._on_terminal else (f"  {progress}", "\n")
        print(line, end=end, file=self._stream, flush=True)

    def finish(self) -> None:
        """End the line if there is one, so that the next message does not continue it."""
        if self._on_terminal and self._printed:
            print(file=self._stream, flush=True)
        self._printed = ""


class Messages:
    """Prints all messages of a program to the standard error. The standard output contains only the answer.

    :param program: name of the program. Sentences begin with it.
    """

    def __init__(self, program: str) -> None:
        self._program = program

    def report(self, sentence: str) -> None:
        """Print a sentence about what happened, after the program's name."""
        self._print(f"{self._program}: {sentence}")

    def note(self, text: str) -> None:
        """Print a remark about the answer, in parentheses."""
        self._print(f"({text})")

    def progress(self) -> ProgressPrinter:
        """Return a printer for the progress of loading."""
        return ProgressPrinter(sys.stderr)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Bar:
    """Shows the number of answers and the time that is left.

    :param count: number of answers at the end, at least 1.
    """

    def __init__(self, messages: Messages, title: str, count: int) -> None:
        self._title, self._count, self._began = title, count, time.monotonic()
        self._printer = messages.progress()

    def show(self, done: int) -> None:
        """Show that this number of answers has arrived."""
        filled = 20 * done // self._count
        left = (time.monotonic() - self._began) / done * (self._count - done)
        bar = f" [{'#' * filled}{'.' * (20 - filled)}]" if sys.stderr.isatty() else ""
        self._printer.update(f"{self._title}{bar}: {done} of {self._count}, about {left:.0f} s left")

    def finish(self) -> None:
        """End the line."""
        self._printer.finish()
