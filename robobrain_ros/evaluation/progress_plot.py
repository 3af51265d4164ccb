"""A plot of the estimated progress over a rollout, with the true progress and the disturbances."""

from collections.abc import Sequence
from pathlib import Path

from robobrain_ros.core.watching import WatchLimits
from robobrain_ros.evaluation.progress_measures import ALARM, FUSION, Course, first_alarm

MOST_PANELS = 4
"""Rollouts in one plot."""
_WIDTH, _HEIGHT = 6.0, 3.4
"""Inches of a panel."""


def plot(courses: Sequence[Course], path: Path, limits: WatchLimits = ALARM) -> None:
    """Plot the first `MOST_PANELS` rollouts: true progress, perspectives, fusion with its first alarm, and disturbances.

    :param path: image file. Its suffix chooses the format.
    :param limits: what counts as an alarm.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = courses[:MOST_PANELS]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(_WIDTH * columns, _HEIGHT * rows), squeeze=False)
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, course in zip(grid.flat, shown, strict=False):
        frames = range(len(course.truth))
        panel.plot(frames, course.truth, color="black", linewidth=2.5, alpha=0.5, label="true progress")
        for name, values in course.estimates.items():
            style = {"color": "tab:red", "linewidth": 2.0} if name == FUSION else {"linewidth": 1.0, "linestyle": "--"}
            panel.plot(frames, values, label=name, **style)
        for index, disturbance in enumerate(course.disturbances):
            if disturbance is not None:
                panel.axvline(index, color="grey", linestyle=":")
                place = {"ha": "center", "va": "center", "backgroundcolor": "white"}
                panel.annotate(disturbance.value, (index, 1.05), color="dimgrey", fontsize=8, **place)
        alarm = first_alarm(course.estimates[FUSION], limits)
        if alarm is not None:
            panel.plot([alarm], [course.estimates[FUSION][alarm]], "rv", markersize=9, label="alarm")
        panel.set_ylim(-0.05, 1.12)
        panel.set_title(course.task, fontsize=9, pad=10)
        panel.set_xlabel("frame")
        panel.set_ylabel("progress")
        panel.legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
