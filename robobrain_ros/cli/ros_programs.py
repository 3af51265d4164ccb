"""The programs that need ROS. If Python cannot import ROS, they end with a sentence instead of a traceback or a signal."""

import sys
from collections.abc import Callable
from importlib import import_module

from robobrain_ros.engine.embedded import space

DOCUMENTATION = "docs/how-to/without_ros.md"
"""Page in the repository about the use without ROS."""


def robobrain() -> None:
    """Run the node."""
    _main_of("robobrain", "robobrain_ros.cli.robobrain")()


def demo_camera() -> None:
    """Run the camera of the demo."""
    _main_of("demo_camera", "robobrain_ros.demo.camera")()


def demo_executor() -> None:
    """Run the demo that executes plans."""
    _main_of("demo_executor", "robobrain_ros.demo.executor")()


def rviz() -> None:
    """Start RViz with the frame of a camera's images."""
    _main_of("rviz", "robobrain_ros.ros.views.rviz")()


def _main_of(program: str, module: str) -> Callable[[], None]:
    if full := space.shortage_for_ros():
        sys.exit(f"{program} cannot start: {full} ROS 2 needs some of it.")
    try:
        import rclpy  # noqa: F401

        import robobrain_ros.msg  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"{program} needs ROS 2, which this Python cannot use ({error}). Source ROS 2 and the workspace with robobrain_ros "
            "(source /opt/ros/<distro>/setup.bash, source install/setup.bash), or run `make build` and "
            "`. scripts/env.sh` in the repository. Without ROS, use the package from Python or run robobrain-ask --image: "
            f"{DOCUMENTATION}."
        )
    main: Callable[[], None] = import_module(module).main
    return main
