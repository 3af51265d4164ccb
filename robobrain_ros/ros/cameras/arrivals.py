"""Rate, losses and delays of a stream of images, from arrival times and stamps."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

_RECENT = 100
"""Number of a camera's newest images for which recent losses and delays are counted."""
_NOTES = 50
"""Arrivals that are noted before their statistics are made."""
_SILENCE = 2.0
_PERIODS = 2.5
"""Seconds, or pauses if these are longer, without an image after which a camera's rate is 0."""
_USUAL = 5
"""Number of the last times between arrivals of which the median is the usual one."""

_FEWEST_GAPS = 6
"""Gaps between stamps from which on a period can be known."""
_WHOLE = 0.25
"""Part of the period by which a gap may miss a whole number of periods."""
_WHOLE_SHARE = 0.75
"""Share of the longer gaps that must be whole numbers of periods, so that images are missing in them. Half of random ones are."""
_LONGEST_CYCLE = 6
_CYCLE_SHARE = 0.8
"""Most gaps of a cycle, and the share of longer gaps that recur with it, where a camera sends in cycles (bursts, bracketing)."""
_OUTAGE, _OUTAGE_PERIODS = 2.0, 30
"""Seconds and periods. A gap that exceeds both is no loss of images: the driver restarted, or the camera paused."""
_SLOWER, _SLOWER_GAPS = 8, 3
"""Periods of a gap, and number of such gaps of equal length in a row, after which a camera counts as slower."""
_JUMP = 2.0
"""Seconds by which a gap between stamps may exceed that between arrivals; if it exceeds it by more, the clock has jumped."""


class ArrivalStatistics:
    """Rate, losses and delays of a stream. What arrives is only noted, and processed when a number is read.

    Losses are counted only where the stamps have one period: not for bursts, jitter, triggered cameras or several publishers.
    Numbers that end in ``recent`` are of the last `_RECENT` images.
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
        """Number of images that were sent and did not arrive, as far as gaps between stamps show."""
        self._process_noted()
        return self._lost

    @property
    def late(self) -> int:
        """Number of images that arrived late."""
        self._process_noted()
        return self._late

    @property
    def lost_recent(self) -> float:
        """Share of the sent images that did not arrive, 0 to 1; 0 where the stamps have no single period."""
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
        """The usual time between the last arrivals in seconds; 0: unknown. A camera may change its rate."""
        between = self._times_between()[-_USUAL:]
        return median(between) if between else 0.0

    @property
    def pause(self) -> float:
        """The longest time between arrivals that occurred twice lately, in seconds; 0: unknown.

        A single longer one is a restart of the driver, or the first image at a lower rate.
        """
        between = sorted(self._times_between())
        return between[-2] if len(between) > 1 else sum(between)

    def _times_between(self) -> list[float]:
        self._process_noted()
        return [later - earlier for earlier, later in pairwise(self._arrivals)]

    def rate(self, now: float) -> float:
        """Images per second, 0 when none came lately; ``now`` as of ``time.monotonic()``."""
        self._process_noted()
        if len(self._arrivals) < 2 or now - self._arrivals[-1] > max(_SILENCE, _PERIODS * self.pause):
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)

    def _process_noted(self) -> None:
        noted, self._noted = self._noted, []
        if not noted:
            return
        gaps = []
        # Gaps first: many at once tell the period better than few.
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
            self._take_back()
            period = 0.0
        if not period and len(self._gaps) >= _FEWEST_GAPS:
            self._take_back()
        for (arrival, _, late), gap in zip(noted, gaps, strict=True):
            self._arrivals.append(arrival)
            counts = period and gap <= max(_OUTAGE, _OUTAGE_PERIODS * period)
            lost = max(round(gap / period) - 1, 0) if counts else 0
            self._recent.append((lost, late))
            self._received += 1
            self._lost += lost
            self._late += late

    def _became_slower(self, period: float) -> bool:
        """Whether the last gaps are equally long multiples of the former period. Lost images leave gaps of many lengths."""
        multiples = {round(gap / period) for gap in list(self._gaps)[-_SLOWER_GAPS:]}
        return len(multiples) == 1 and min(multiples) >= _SLOWER

    def _take_back(self) -> None:
        """Uncount losses, because the gaps now show that they have no single period, or another one."""
        self._lost -= sum(lost for lost, _ in self._recent)
        self._recent = deque(((0, late) for _, late in self._recent), maxlen=_RECENT)


def period_of(gaps: Sequence[float]) -> float:
    """The time between a stream's stamps when none is missing; 0: not known, or there is no single period.

    :param gaps: seconds between successive stamps, all positive.
    """
    if len(gaps) < _FEWEST_GAPS:
        return 0.0
    latest = sorted(list(gaps)[-15:])
    usual = latest[len(latest) // 2]
    if latest[0] > 0.75 * usual and latest[-1] < 1.25 * usual:
        return usual  # All are alike, so none is missing: the camera may have become slower.
    period = _refined(gaps, _shortest(gaps))
    longer = [gap / period for gap in gaps if gap > 1.5 * period]
    whole = sum(abs(each - round(each)) <= _WHOLE for each in longer)
    if whole < _WHOLE_SHARE * len(longer) or _recurs(gaps, 1.5 * period):
        return 0.0
    return period


def _shortest(gaps: Sequence[float]) -> float:
    """The middle of the short gaps: where most images are lost, few gaps are of one period."""
    ordered = sorted(gaps)
    short = ordered[len(ordered) // 15]
    ordered = [gap for gap in ordered if short <= gap < 1.5 * short]
    return ordered[len(ordered) // 2]


def _refined(gaps: Sequence[float], period: float) -> float:
    """The period that fits the gaps as whole numbers of it, the short ones first: in long ones a small error adds up."""
    for most in (1.5, 2.5, 4.5, 8.5, 16.5):
        near = [gap for gap in gaps if gap < most * period]
        counted = sum(max(round(gap / period), 1) for gap in near)
        period = sum(near) / counted if counted else period
    return period


def _recurs(gaps: Sequence[float], longer_than: float) -> bool:
    """Whether the longer gaps recur in a cycle of two gaps or more, as no losses do."""
    gaps = list(gaps)
    for cycle in range(2, _LONGEST_CYCLE + 1):
        pairs = [(gaps[i - cycle], gaps[i]) for i in range(cycle, len(gaps)) if gaps[i] > longer_than]
        alike = sum(abs(before - now) <= _WHOLE * now for before, now in pairs)
        shorter = any(gap <= longer_than for gap in gaps[-cycle:])
        if len(pairs) >= 3 and shorter and alike >= _CYCLE_SHARE * len(pairs):
            return True
    return False
