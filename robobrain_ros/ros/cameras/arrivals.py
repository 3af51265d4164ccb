"""Rate, losses and delays of a stream of images, from arrival times and stamps."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

_RECENT = 100
"""Number of a camera's newest images for which recent losses and delays are counted."""
_NOTES = 50
"""Number of recorded arrivals after which they are evaluated."""
_SILENCE = 2.0
_PERIODS = 2.5
"""A camera's rate is 0 after `_SILENCE` seconds without an image, or after `_PERIODS` usual pauses if this is longer."""
_USUAL = 5
"""Number of the latest times between arrivals that `ArrivalStatistics.interval` uses."""

_FEWEST_GAPS = 6
"""Smallest number of gaps between stamps from which a period is determined."""
_WHOLE = 0.25
"""Allowed deviation of a gap from a whole number of periods, as a share of the period."""
_WHOLE_SHARE = 0.75
"""Smallest share of the longer gaps that must be whole numbers of periods. Otherwise, the stamps are not periodic. With random
gaps, the share is about half."""
_LONGEST_CYCLE = 6
_CYCLE_SHARE = 0.8
"""For cameras that send in cycles (bursts, exposure bracketing): most gaps of a cycle, and smallest share of the longer gaps that
must recur in each cycle."""
_OUTAGE, _OUTAGE_PERIODS = 2.0, 30
"""Seconds and periods. A gap that exceeds both is no loss of images: the driver restarted, or the camera paused."""
_SLOWER, _SLOWER_GAPS = 8, 3
"""A camera counts as slower after `_SLOWER_GAPS` equal gaps in a row of at least `_SLOWER` periods."""
_JUMP = 2.0
"""If a gap between stamps exceeds the gap between arrivals by more than these seconds, the camera's clock has jumped."""


class ArrivalStatistics:
    """Rate, losses and delays of a stream. Arrivals are only recorded, and evaluated when a value is read.

    Losses are counted only if the stamps are periodic: not for bursts, jitter, triggered cameras or several publishers.
    Properties that end in ``recent`` describe the last `_RECENT` images.
    """

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=30)
        self._noted: list[tuple[float, float, bool]] = []
        self._gaps: deque[float] = deque(maxlen=60)
        self._recent: deque[tuple[int, bool]] = deque(maxlen=_RECENT)
        self._last_stamp = self._last_arrival = 0.0
        self._received = self._lost = self._late = 0

    def add(self, arrival: float, stamp: float, late: bool = False) -> None:
        """Count an image that arrived at ``arrival`` (s, monotonic) with ``stamp`` (s; 0: none)."""
        self._noted.append((arrival, stamp, late))
        if len(self._noted) >= _NOTES:
            self._process_noted()

    def restart(self) -> None:
        """Drop the gaps between stamps, because time has jumped."""
        self._process_noted()
        self._gaps.clear()
        self._last_stamp = 0.0

    @property
    def received(self) -> int:
        """Number of images that arrived."""
        self._process_noted()
        return self._received

    @property
    def lost(self) -> int:
        """Number of images that did not arrive, according to the gaps between stamps."""
        self._process_noted()
        return self._lost

    @property
    def late(self) -> int:
        """Number of images that arrived late."""
        self._process_noted()
        return self._late

    @property
    def lost_recent(self) -> float:
        """Share of the published images that did not arrive, 0 to 1; 0 if the stamps are not periodic."""
        self._process_noted()
        lost = sum(lost for lost, _ in self._recent)
        return lost / (lost + len(self._recent)) if lost and period_of(self._gaps) else 0.0

    @property
    def late_recent(self) -> float:
        """Share of the images that arrived late, 0 to 1."""
        self._process_noted()
        return sum(late for _, late in self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def interval(self) -> float:
        """Median time between the last arrivals in seconds, because a camera can change its rate; 0: unknown."""
        between = self._times_between()[-_USUAL:]
        return median(between) if between else 0.0

    @property
    def pause(self) -> float:
        """The second longest recent time between arrivals in seconds; 0: unknown.

        The longest time can be a restart of the driver, or the first image at a lower rate.
        """
        between = sorted(self._times_between())
        return between[-2] if len(between) > 1 else sum(between)

    def _times_between(self) -> list[float]:
        self._process_noted()
        return [later - earlier for earlier, later in pairwise(self._arrivals)]

    def rate(self, now: float) -> float:
        """Return the images per second; 0 if no image arrived recently. ``now``: time of ``time.monotonic()``."""
        self._process_noted()
        if len(self._arrivals) < 2 or now - self._arrivals[-1] > max(_SILENCE, _PERIODS * self.pause):
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)

    def _process_noted(self) -> None:
        noted, self._noted = self._noted, []
        if not noted:
            return
        gaps = []
        # All gaps are computed first, because more gaps give a more exact period.
        for arrival, stamp, _ in noted:
            gap = stamp - self._last_stamp if stamp > self._last_stamp > 0.0 else 0.0
            if gap - (arrival - self._last_arrival) > _JUMP:
                gap = 0.0
                self._gaps.clear()
            gaps.append(gap)
            if gap:
                self._gaps.append(gap)
            self._last_stamp, self._last_arrival = stamp, arrival
        period = period_of(self._gaps)
        if period and self._became_slower(period):
            self._gaps = deque(list(self._gaps)[-_SLOWER_GAPS:], maxlen=self._gaps.maxlen)
            self._discard_losses()
            period = 0.0
        if not period and len(self._gaps) >= _FEWEST_GAPS:
            self._discard_losses()
        for (arrival, _, late), gap in zip(noted, gaps, strict=True):
            self._arrivals.append(arrival)
            counts = period and gap <= max(_OUTAGE, _OUTAGE_PERIODS * period)
            lost = max(round(gap / period) - 1, 0) if counts else 0
            self._recent.append((lost, late))
            self._received += 1
            self._lost += lost
            self._late += late

    def _became_slower(self, period: float) -> bool:
        """Return whether the last gaps are equal multiples of the former period. Lost images cause gaps of different lengths."""
        multiples = {round(gap / period) for gap in list(self._gaps)[-_SLOWER_GAPS:]}
        return len(multiples) == 1 and min(multiples) >= _SLOWER

    def _discard_losses(self) -> None:
        """Subtract the recent losses. They were wrong, because the period has changed or the stamps are not periodic."""
        self._lost -= sum(lost for lost, _ in self._recent)
        self._recent = deque(((0, late) for _, late in self._recent), maxlen=_RECENT)


def period_of(gaps: Sequence[float]) -> float:
    """Return the period of a stream's stamps in seconds; 0: unknown, or the stamps are not periodic.

    :param gaps: seconds between successive stamps, all positive.
    """
    if len(gaps) < _FEWEST_GAPS:
        return 0.0
    latest = sorted(list(gaps)[-15:])
    usual = latest[len(latest) // 2]
    if latest[0] > 0.75 * usual and latest[-1] < 1.25 * usual:
        return usual  # The latest gaps are equal, so no image is missing. The camera may have become slower.
    period = _refined(gaps, _shortest(gaps))
    longer = [gap / period for gap in gaps if gap > 1.5 * period]
    whole = sum(abs(each - round(each)) <= _WHOLE for each in longer)
    if whole < _WHOLE_SHARE * len(longer) or _recurs(gaps, 1.5 * period):
        return 0.0
    return period


def _shortest(gaps: Sequence[float]) -> float:
    """Return the median of the short gaps. If most images are lost, only a few gaps are one period long."""
    ordered = sorted(gaps)
    short = ordered[len(ordered) // 15]
    ordered = [gap for gap in ordered if short <= gap < 1.5 * short]
    return ordered[len(ordered) // 2]


def _refined(gaps: Sequence[float], period: float) -> float:
    """Return the period of which the gaps are whole multiples. Short gaps are used first, because long gaps add up errors."""
    for most in (1.5, 2.5, 4.5, 8.5, 16.5):
        near = [gap for gap in gaps if gap < most * period]
        counted = sum(max(round(gap / period), 1) for gap in near)
        period = sum(near) / counted if counted else period
    return period


def _recurs(gaps: Sequence[float], longer_than: float) -> bool:
    """Return whether the longer gaps recur in a cycle of two or more gaps. Losses do not recur in this way."""
    gaps = list(gaps)
    for cycle in range(2, _LONGEST_CYCLE + 1):
        pairs = [(gaps[i - cycle], gaps[i]) for i in range(cycle, len(gaps)) if gaps[i] > longer_than]
        alike = sum(abs(before - now) <= _WHOLE * now for before, now in pairs)
        shorter = any(gap <= longer_than for gap in gaps[-cycle:])
        if len(pairs) >= 3 and shorter and alike >= _CYCLE_SHARE * len(pairs):
            return True
    return False
