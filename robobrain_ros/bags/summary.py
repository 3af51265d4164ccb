"""Count the replies about a bag, and print a table."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robobrain_ros.bags.answers import Reply
from robobrain_ros.errors import OutcomeCode

_MOST_NOTES = 20
"""Largest number of different notes that are counted, because they contain numbers and names from messages."""


class Summary:
    """Counts of all runs that wrote an output bag.

    :param counts: the result of `to_counts` of an earlier run, or empty.
    """

    def __init__(self, titles: Sequence[str], counts: Mapping[str, Any]) -> None:
        earlier = counts.get("outcomes", {})
        self.outcomes: dict[str, Counter[str]] = {title: Counter(earlier.get(title, {})) for title in titles}
        self.seconds: Counter[str] = Counter(counts.get("seconds", {}))
        self.notes: Counter[str] = Counter(counts.get("notes", {}))
        self.tokens = int(counts.get("tokens", 0))
        self.images = int(counts.get("images", 0))

    def add(self, replies: Sequence[Reply]) -> None:
        """Count the replies about one image."""
        self.images += 1
        for reply in replies:
            title = reply.question.title
            self.outcomes[title][reply.code.name] += 1
            self.tokens += reply.tokens
            if reply.code is OutcomeCode.OK:
                self.seconds[title] += reply.seconds  # type: ignore[assignment]
            note = reply.note or ("" if reply.code in (OutcomeCode.OK, OutcomeCode.NOTHING_FOUND) else reply.message)
            if note and (note in self.notes or len(self.notes) < _MOST_NOTES):
                self.notes[note] += 1

    def to_counts(self) -> dict[str, Any]:
        """Return all counts as JSON."""
        return {
            "images": self.images,
            "tokens": self.tokens,
            "outcomes": {title: dict(counts) for title, counts in self.outcomes.items()},
            "seconds": dict(self.seconds),
            "notes": dict(self.notes),
        }

    def to_lines(self) -> list[str]:
        """Return a table, one row for each question, and the notes."""
        width = max(len("question"), *(len(title) for title in self.outcomes))
        lines = [f"{'question':<{width}}  {'asked':>6}  {'answered':>8}  {'nothing':>7}  {'failed':>6}  {'mean time':>9}"]
        for title, counts in self.outcomes.items():
            asked, answered = sum(counts.values()), counts[OutcomeCode.OK.name]
            nothing = counts[OutcomeCode.NOTHING_FOUND.name]
            mean = f"{self.seconds[title] / answered:.2f} s" if answered else "-"
            lines.append(f"{title:<{width}}  {asked:>6}  {answered:>8}  {nothing:>7}  {asked - answered - nothing:>6}  {mean:>9}")
        lines += [f"{number} x {note}" for note, number in self.notes.most_common()]
        return lines


class Pace:
    """The progress of a run: its part of the bag, rate and remaining time.

    :param begin: time of the first message of the bag in ns. ``end``: that of the last one.
    """

    _BAR = 20

    def __init__(self, begin: int, end: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._begin, self._end = begin, end
        self._clock = clock
        self._started = clock()
        self._first: int | None = None
        self._images = 0

    @property
    def seconds(self) -> float:
        """Seconds since the begin of the run."""
        return self._clock() - self._started

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self._images / max(self.seconds, 1e-9)

    def line(self, at: int) -> str:
        """Count an image, which was recorded at this time in ns, and return the progress as a line."""
        self._images += 1
        if self._first is None:
            self._first = at
        part = min(max((at - self._begin) / max(self._end - self._begin, 1), 0.0), 1.0)
        done, left = at - self._first, self._end - at
        remaining = f", {_duration(self.seconds * left / done)} left" if done > 0 else ""
        bar = "#" * round(part * self._BAR)
        return f"[{bar:<{self._BAR}}] {part:4.0%}, {self._images} images, {self.rate:.1f} images/s{remaining}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
