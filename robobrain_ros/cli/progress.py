"""Telling on a terminal or in a log how far something is that takes its time."""

import re
import sys
import time
from typing import TextIO


class Teller:
    """Tells how far loading is: on a terminal in one line, elsewhere in few."""

    EVERY = 10.0
    """Seconds between lines that differ in their numbers only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._on_terminal = self._stream.isatty()
        self._told, self._kind, self._when = "", "", 0.0

    def tell(self, progress: str) -> None:
        """Tell it, if it is new."""
        now, kind = time.monotonic(), re.sub(r"\d+", "", progress)
        if progress == self._told or not (self._on_terminal or kind != self._kind or now - self._when > self.EVERY):
            return
        self._told, self._kind, self._when = progress, kind, now
        line, end = (f"\r  {progress[:100]:<100}", "") if self._on_terminal else (f"  {progress}", "\n")
        print(line, end=end, file=self._stream, flush=True)

    def end(self) -> None:
        """Leave the line, so that the next does not write over it."""
        if self._on_terminal:
            print(file=self._stream)
