"""The program ``live``: a page in the browser that shows a node robobrain, or a model without ROS, and asks it questions."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from robobrain_ros.engine.base import ProgressCallback
from robobrain_ros.live.feed import Feed, Source

_NOT_INSTALLED = (
    "The live view needs the package viser, which is not installed ({}). Install it: pip install 'robobrain_ros[live]', or run "
    "make setup in the repository."
)
PORT = 8090


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Without --images, --demo or --model, the page shows a running node through its ROS topics. ROS arguments follow "
        "--ros-args. On another address than loopback, the page requires a token, which the program prints. The environment "
        "variable ROBOBRAIN_LIVE_TOKEN sets your own token.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=PORT, help="TCP port; 0: any free port (default: %(default)s)")
    parser.add_argument(
        "--rate",
        type=_rate,
        default=10.0,
        metavar="HZ",
        help="most images per second, 0.1 to 30 (default: %(default)g)",
    )
    parser.add_argument(
        "--points",
        type=_points,
        default=50_000,
        metavar="N",
        help="most points of the cloud (default: %(default)s)",
    )
    ros = parser.add_argument_group("with ROS")
    ros.add_argument("--node", default="robobrain", help="name of the node (default: %(default)s)")
    ros.add_argument("--depth-topic", default="", help="depth topic of the first camera (default: the topic of the node)")
    ros.add_argument("--info-topic", default="", help="camera_info topic of the first camera (default: beside its image topic)")
    local = parser.add_argument_group("without ROS")
    local.add_argument("--demo", action="store_true", help="show the demo's table, by default with the tabletop demo model")
    local.add_argument("--images", type=Path, metavar="FOLDER", help="show the images of a folder")
    local.add_argument("--model", default="", help="model: a preset, a folder, or a name on the hub (default: the demo model)")
    local.add_argument("--url", action="append", metavar="URL", help="use this OpenAI-compatible server; can be repeated")
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return number


def _rate(text: str) -> float:
    rate = float(text)
    if not 0.1 <= rate <= 30.0:
        raise argparse.ArgumentTypeError("the rate is 0.1 to 30 Hz")
    return rate


def _points(text: str) -> int:
    number = int(text)
    if not 100 <= number <= 200_000:
        raise argparse.ArgumentTypeError("the cloud has 100 to 200000 points")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Show the page until SIGINT or SIGTERM."""
    given = sys.argv[1:] if arguments is None else arguments
    position = given.index("--ros-args") if "--ros-args" in given else len(given)
    options = _parser().parse_args(given[:position])
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        from robobrain_ros.live.guard import Gate, LiveViewError
        from robobrain_ros.live.page import Page
    except ImportError as error:
        sys.exit(_NOT_INSTALLED.format(error))
    feed = Feed()
    source: Source | None = None
    page: Page | None = None
    try:
        gate = Gate(options.host, options.port)
        source = _open_source(options, given[position:], feed)
        page = Page(gate, source, feed, options.rate)
        print(f"Live view: {gate.address}", flush=True)
        ended.wait()
    except LiveViewError as error:
        sys.exit(str(error))
    finally:
        if page is not None:
            page.close()
        if source is not None:
            source.close()


def _open_source(options: argparse.Namespace, ros_arguments: list[str], feed: Feed) -> Source:
    from robobrain_ros.live.guard import LiveViewError

    if options.demo or options.images or options.model or options.url:
        if options.demo and options.images:
            raise LiveViewError("--demo and --images exclude each other.")
        from robobrain_ros.live.local_source import LocalSource, Views

        views = Views(options.images, options.points)
        return LocalSource(feed, views, lambda progress: _open_brain(options, progress))
    try:
        from robobrain_ros.live.ros_source import RosSource
    except ImportError as error:
        raise LiveViewError(
            f"This Python cannot use ROS 2 ({error}). Source ROS 2 and the workspace, or use --demo or --images FOLDER."
        ) from error
    return RosSource(feed, options.node, options.points, ros_arguments, depth=options.depth_topic, info=options.info_topic)


def _open_brain(options: argparse.Namespace, progress: ProgressCallback) -> Awaitable[Any]:
    from robobrain_ros.demo import DEMO_MODEL
    from robobrain_ros.local import open_brain

    if options.url:
        return open_brain(options.model, progress=progress, kind="remote", urls=tuple(options.url))
    return open_brain(options.model or str(DEMO_MODEL), progress=progress)


if __name__ == "__main__":
    main()
