"""Read the coordinates of an answer on different grids."""

from dataclasses import replace
from enum import Enum

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import CoordinateRule, Profile
from robobrain_ros.core.query import Answer, Box, ParsedAnswer, Point, Task
from robobrain_ros.core.reading.answers import parse_answer
from robobrain_ros.errors import UnparsableAnswerError


class Grid(Enum):
    """A unit of coordinates. The value is its name in messages and reports."""

    MODEL_PIXELS = "pixels of the resized image"
    CAMERA_PIXELS = "pixels of the original image"
    THOUSANDTHS = "0 to 1000"
    FRACTIONS = "0 to 1"


def grid_of(profile: Profile) -> Grid:
    """Return the grid on which answers of a model family are read."""
    return Grid.THOUSANDTHS if profile.coordinates is CoordinateRule.THOUSANDTHS else Grid.MODEL_PIXELS


def raw_answer(task: Task, raw_text: str, profile: Profile) -> ParsedAnswer | None:
    """Return the answer with coordinates as the model wrote them, or None if the text cannot be read.

    :param raw_text: the text of the model in `core.query.Report`.
    """
    try:
        return parse_answer(task, raw_text, profile)
    except UnparsableAnswerError:
        return None


def read_as(parsed: ParsedAnswer, grid: Grid, size: FittedSize) -> Answer:
    """Return the answer with its coordinates read on a grid, in pixels of the original image.

    :param parsed: coordinates as the model wrote them.
    :param size: size of the image before and after resizing for the model.
    """
    if grid is Grid.CAMERA_PIXELS:
        size = FittedSize(size.width, size.height, size.width, size.height)
    rule = CoordinateRule.THOUSANDTHS if grid is Grid.THOUSANDTHS else CoordinateRule.PIXELS_OF_MODEL_IMAGE
    fractions = grid is Grid.FRACTIONS

    def point(each: Point) -> Point:
        return size.to_image(each, rule, fractions)

    def box(each: Box) -> Box:
        return size.box_to_image(each, rule, fractions)

    return Answer(
        parsed.task,
        parsed.text,
        points=tuple(map(point, parsed.points)),
        boxes=tuple(map(box, parsed.boxes)),
        waypoints=tuple(map(point, parsed.waypoints)),
    )


def centre(box: Box) -> Point:
    """Return the centre of a box."""
    return replace(Point((box.u_min + box.u_max) / 2, (box.v_min + box.v_max) / 2), clamped=box.clamped)
