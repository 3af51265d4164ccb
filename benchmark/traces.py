"""Measure the check of a trajectory against a depth image: `python benchmark/traces.py`.

Results: docs/results/node.md. Needs neither ROS, a model nor a GPU.
"""

import argparse
from statistics import median
from time import perf_counter

import numpy as np
from figures import plain_table

from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.traces.checks import Trace, TraceLimits, View, check_trace
from robobrain_ros.core.traces.space import Reach, Workspace

LIMITS = TraceLimits(
    Workspace("camera", (-1.0, -1.0, 0.1), (1.0, 1.0, 2.0)), Reach("camera", 2.0), step=0.2, speed=1.0, start=0.1
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500, help="checks of each trajectory")
    arguments = parser.parse_args()
    camera = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
    view = View(camera, DepthImage(np.full((480, 640), 1.0, np.float32)))
    rows: list[tuple[str, ...]] = [("waypoints", "length, m", "median, ms", "p95, ms")]
    for count in (2, 10, 50, 1000):
        places = np.linspace(0.0, 1.0, count)
        points = np.column_stack((places - 0.5, 0.2 * np.sin(4.0 * places), 0.9 - 0.4 * np.sin(np.pi * places)))
        trace = Trace(
            points, "camera", 10.0, points[0], np.array([0.0, 0.0, -1.0]), "Move the gripper 5 to 15 cm above the table."
        )
        times = []
        for _ in range(arguments.rounds):
            began = perf_counter()
            report = check_trace(trace, LIMITS, view)
            times.append(perf_counter() - began)
        assert not report.unchecked
        length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        numbers = (length, median(times) * 1e3, float(np.quantile(times, 0.95)) * 1e3)
        rows.append((str(count), *(f"{number:.2f}" for number in numbers)))
    print(plain_table(rows))


if __name__ == "__main__":
    main()
