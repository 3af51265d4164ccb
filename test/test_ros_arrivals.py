"""Statistics of arriving images: rate, lost images, and steps of the camera's clock."""

import random
from itertools import accumulate

import pytest

from robobrain_ros.ros.cameras.arrivals import ArrivalStatistics


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.85])
def test_lost_images_are_counted_however_many_they_are(share: float) -> None:
    """Lost images are counted by the gaps between stamps. The stamps have a jitter of a fifth of the period."""
    dice = random.Random(1)
    sent = [1000.0 + number / 30 + dice.uniform(-0.1, 0.1) / 30 for number in range(1000)]
    come = [stamp for stamp in sent if dice.random() >= share]
    statistics = ArrivalStatistics()
    for stamp in come:
        statistics.add(stamp, stamp)
    lost = len(sent) - len(come)
    assert statistics.received == len(come)
    assert statistics.lost == pytest.approx(lost, rel=0.1) if lost else statistics.lost == 0
    assert statistics.lost_recent == pytest.approx(share, abs=0.1)
    assert statistics.rate(come[-1]) == pytest.approx(30 * (1 - share), rel=0.5)


def test_a_camera_that_becomes_slower_or_quicker_has_lost_nothing() -> None:
    """The rate changes as it does with a longer exposure in the dark."""
    statistics, stamp = ArrivalStatistics(), 1000.0
    for period in [1 / 30] * 100 + [1 / 10] * 100 + [1 / 30] * 100:
        stamp += period
        statistics.add(stamp, stamp)
        assert statistics.received
    assert statistics.lost < 35


@pytest.mark.parametrize(
    "gaps",
    [
        [*[0.1] * 60, *[4.0] * 20],
        [*[0.1] * 60, *[2.0] * 20],
        [*[4.0] * 20, *[0.1] * 60],
        [*[0.1] * 60, 5.0, *[0.1] * 20],
        [*[4.0] * 6, 3.0, *[0.1] * 9],
        [*[1 / 30] * 60, *[0.5] * 20],
    ],
    ids=["slower", "slower by less", "quicker", "a restart", "a restart with another rate", "from video to steps"],
)
@pytest.mark.parametrize("every", [1, 10])
def test_a_change_of_the_rate_or_a_restart_of_the_driver_is_no_loss(gaps: list[float], every: int) -> None:
    """The statistics are read after every image, or after several images."""
    statistics = ArrivalStatistics()
    for number, arrival in enumerate(accumulate(gaps, initial=1000.0)):
        statistics.add(arrival, arrival)
        if number % every == 0:
            assert statistics.received == number + 1
    assert statistics.lost_recent < 0.05
    assert statistics.lost == 0


def sent(*gaps: float) -> ArrivalStatistics:
    """Return the statistics of images that arrived with these gaps between them."""
    statistics = ArrivalStatistics()
    for arrival in accumulate(gaps, initial=1000.0):
        statistics.add(arrival, arrival)
    return statistics


def test_the_usual_interval_follows_a_change_of_the_rate() -> None:
    assert sent(*[0.1] * 60, *[4.0] * 3).interval == pytest.approx(4.0)
    assert sent(*[4.0] * 60, *[0.1] * 3).interval == pytest.approx(0.1)
    assert sent(*[0.1] * 60, 4.0).interval == pytest.approx(0.1)
    assert sent(4.0).interval == 4.0
    assert sent().interval == 0.0


def test_a_pause_is_known_when_it_recurs() -> None:
    assert sent(*[0.1] * 60, 4.0, 0.1, 4.0).pause == pytest.approx(4.0)
    assert sent(*[0.1] * 60, 3600.0).pause == pytest.approx(0.1), "the driver was restarted"
    assert sent(4.0).pause == 4.0
    assert sent().pause == 0.0


@pytest.mark.parametrize("gaps", [[4.0] * 3, [*[0.1] * 60, 4.0, 4.0], [0.03, 0.03, 4.0] * 9])
def test_the_rate_of_a_slow_camera_is_not_0_between_two_images(gaps: list[float]) -> None:
    statistics, last = sent(*gaps), 1000.0 + sum(gaps)
    assert statistics.rate(last + 3.9) > 0.0
    assert statistics.rate(last + 3 * 4.0) == 0.0


def test_what_has_no_stamps_has_no_losses() -> None:
    statistics = ArrivalStatistics()
    for number in range(100):
        statistics.add(number / 30, 0.0, late=number >= 90)
    assert (statistics.received, statistics.lost, statistics.late) == (100, 0, 10)
    assert statistics.late_recent == 0.1


DICE = random.Random(1)
TICKS = [1000.0 + number / 10 for number in range(100)]
NO_ONE_PERIOD = {
    "two drivers": sorted([*TICKS, *[tick + 0.012 for tick in TICKS]]),
    "two drivers at a whole part of the period": sorted([*TICKS, *[tick + 0.02 for tick in TICKS]]),
    "bursts of three": [tick + late for tick in TICKS for late in (0.0, 0.005, 0.01)],
    "bursts with jitter": [tick + late + DICE.uniform(0.0, 0.002) for tick in TICKS for late in (0.0, 0.005, 0.01)],
    "bursts with random pauses": list(accumulate(gap for _ in range(40) for gap in (DICE.uniform(0.2, 3.0), 0.01, 0.01, 0.01))),
    "jitter of 20 %": [tick + DICE.uniform(-0.02, 0.02) for tick in TICKS],
    "jitter of 30 %": [tick + DICE.uniform(-0.03, 0.03) for tick in TICKS],
    "a trigger at random": list(accumulate(DICE.expovariate(10.0) for _ in range(100))),
    "a long exposure every second image": list(accumulate([1 / 30, 1 / 15] * 60)),
    "a recording played twice": [*TICKS[:50], *TICKS[:50]],
    "each image twice": sorted([*TICKS, *TICKS]),
}


@pytest.mark.parametrize("case", NO_ONE_PERIOD)
@pytest.mark.parametrize("each", [1, 5, 10, 100])
def test_without_one_period_no_image_counts_as_lost(case: str, each: int) -> None:
    """This holds for any number of reads."""
    statistics = ArrivalStatistics()
    for number, stamp in enumerate(NO_ONE_PERIOD[case]):
        statistics.add(stamp, stamp)
        if number % each == 0:
            assert statistics.received == number + 1
    assert statistics.lost_recent == 0.0
    assert statistics.lost <= 0.05 * len(NO_ONE_PERIOD[case])


@pytest.mark.parametrize("step", [3600.0, -3600.0, 3.0])
def test_a_step_of_the_cameras_clock_is_no_loss(step: float) -> None:
    """The stamps jump, but the arrival times do not."""
    statistics = ArrivalStatistics()
    for number in range(200):
        statistics.add(number / 30, 1e6 + number / 30 + (step if number >= 100 else 0.0))
        assert statistics.received
    assert statistics.lost == 0
