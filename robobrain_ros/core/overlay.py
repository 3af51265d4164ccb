"""Draw an answer on its image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.imaging import check_image
from robobrain_ros.core.query import Answer, Box, Point, RgbImage, Task

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""


@dataclass(frozen=True)
class Palette:
    """Colours of the overlay and the markers. People with colour blindness can distinguish them."""

    point: Colour = (255, 61, 139)
    box: Colour = (255, 194, 10)
    start: Colour = (38, 191, 255)
    end: Colour = (255, 84, 26)
    fault: Colour = (230, 0, 0)
    approach: Colour = (0, 220, 180)
    edge: Colour = (18, 20, 26)
    text: Colour = (255, 255, 255)

    def along(self, part: float) -> Colour:
        """Return the colour at a part of a trajectory. Part 0 is the start, part 1 is the end."""
        red, green, blue = (round(a + (b - a) * part) for a, b in zip(self.start, self.end, strict=True))
        return red, green, blue


PALETTE = Palette()

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4
"""Fractional bits of drawing coordinates: OpenCV draws with a resolution of 1/16 pixel."""

Place = tuple[float, float]
"""u and v in pixels."""
Area = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


def draw(image: RgbImage, answer: Answer, *, instruction: str = "", thinking: bool = False) -> RgbImage:
    """Return a copy of the image with the answer drawn on it.

    Points are numbered in order. Boxes have their labels. A trajectory begins with a ring and ends with an arrow head. A caption
    shows the instruction, and below it the plan or the text answer. The caption is at the top or the bottom of the image,
    whichever covers less of the drawing.

    :param image: the image of the query: RGB, (height, width, 3), uint8.
    :param thinking: add the model's thinking to the caption, after the answer, if there is space.
    :raises BadImageError: the image has another shape or dtype.
    """
    check_image(image)
    canvas = _Canvas(np.array(image, order="C", copy=True))
    for box in answer.boxes:
        canvas.box(box)
    canvas.trajectory(answer.waypoints)
    for point in answer.points:
        canvas.point(point)
    canvas.labels(answer)
    name = answer.task.value
    title = f"{name}: {instruction}" if instruction.strip() else ""
    canvas.caption(title, _words_of(answer), f"thinking: {answer.thinking}" if thinking and answer.thinking.strip() else "")
    return canvas.image


def _words_of(answer: Answer) -> list[str]:
    """Return the paragraphs of the answer's text: the text of an ask answer, or the steps of a plan."""
    paragraphs = [answer.text] if answer.task is Task.ASK else []
    parallel = [step.order for step in answer.steps]
    for step in answer.steps:
        who = f"{step.robot}: " if step.robot else ""
        together = " (at once)" if parallel.count(step.order) > 1 else ""
        paragraphs.append(f"{step.order}. {who}{step.text}{together}")
    return paragraphs


@dataclass
class _Canvas:
    image: RgbImage
    anchors: list[Place] = field(default_factory=list)
    """Places that labels should not cover."""
    taken: list[Area] = field(default_factory=list)
    """Areas of the labels drawn so far."""

    def __post_init__(self) -> None:
        self.height, self.width = self.image.shape[:2]
        # The unit is 1 on a 640x480 image. It grows slower than the diagonal, so that details of large images stay visible.
        self.unit = max(0.35, (math.hypot(self.width, self.height) / 800) ** 0.85)
        self.line = max(1, round(2.5 * self.unit + 0.3))
        self.ring = max(1, round(1.8 * self.unit))
        self.edge = max(1, round(1.2 * self.unit))
        self.radius = max(3.0, 8.0 * self.unit)
        self.font = max(0.3, 0.5 * self.unit)
        self.stroke = max(1, round(1.1 * self.unit))

    def box(self, box: Box) -> None:
        corners = self._fixed((box.u_min, box.v_min)), self._fixed((box.u_max, box.v_max))
        left, top = max(0, math.floor(box.u_min)), max(0, math.floor(box.v_min))
        inside = self.image[top : math.ceil(box.v_max) + 1, left : math.ceil(box.u_max) + 1]
        inside[:] = (inside * 0.9 + np.array(PALETTE.box) * 0.1).astype(np.uint8)
        for colour, width in ((PALETTE.edge, self.line + 2 * self.edge), (PALETTE.box, self.line)):
            cv2.rectangle(self.image, *corners, colour, width, cv2.LINE_AA, _SHIFT)
        self.anchors.append(((box.u_min + box.u_max) / 2, (box.v_min + box.v_max) / 2))

    def point(self, point: Point) -> None:
        """Draw a dot at the point, and a ring around it. A point that was clamped to the image has no dot."""
        place = (point.u, point.v)
        self._ring(place, self.radius, PALETTE.point)
        if not point.clamped:
            self._dot(place, max(1.0, self.radius * 0.32), PALETTE.point)
        self.anchors.append(place)

    def trajectory(self, waypoints: Sequence[Point]) -> None:
        places = [(waypoint.u, waypoint.v) for waypoint in waypoints]
        self.anchors += places
        if not places:
            return
        segments = [segment for segment in pairwise(places) if math.dist(*segment) > 0.5]
        lengths = [math.dist(*segment) for segment in segments]
        for colour_of_edge in (True, False):
            done = 0.0
            for (start, end), length in zip(segments, lengths, strict=True):
                self._segment(start, end, (done, done + length, sum(lengths)), colour_of_edge)
                done += length
        for place in places[1:-1]:
            self._dot(place, self.line * 0.9, PALETTE.text)
        self._ring(places[0], self.radius, PALETTE.start)
        if segments:
            self._arrow_head(*segments[-1])
        else:
            self._dot(places[0], self.radius * 0.4, PALETTE.end)

    def labels(self, answer: Answer) -> None:
        """Draw the labels of points and boxes. If there are several, each label begins with a number."""
        for number, point in enumerate(answer.points, 1):
            parts = [str(number)] if len(answer.points) > 1 else []
            self._label(" ".join([*parts, point.label]), (point.u, point.v), PALETTE.point)
        for number, box in enumerate(answer.boxes, 1):
            parts = [str(number)] if len(answer.boxes) > 1 else []
            self._tag(" ".join([*parts, box.label]), box)

    def caption(self, instruction: str, paragraphs: Sequence[str], aside: str = "") -> None:
        """Draw text on a dark band at the bottom of the image, or at the top if the band covers less there.

        The band covers at most half of the image. If the text does not fit, the aside is cut first, then the instruction.
        """
        margin = max(2, round(7 * self.unit))
        line_height = self._text_size("Ag")[1]
        pitch = round(line_height * 1.75)
        title = self._wrap(_plain(instruction), self.width - 2 * margin)
        lines = [line for paragraph in paragraphs for line in self._wrap(_plain(paragraph), self.width - 2 * margin)]
        asides = self._wrap(_plain(aside), self.width - 2 * margin)
        room = self.height * (0.5 if lines or asides else 0.25)
        most = int((room - 2 * margin - line_height) // pitch) + 1
        if len(title) + len(lines) <= most or not lines:
            lines = [*title, *lines]
        if len(asides) > (left := max(most - len(lines), 0)):
            asides = [*asides[: left - 1], self._shortened(f"{asides[left - 1]} ...", self.width - 2 * margin)] if left else []
        lines += asides
        if not lines or most < 1:
            return
        if len(lines) > most:
            lines = [*lines[: most - 1], self._shortened(f"{lines[most - 1]} ...", self.width - 2 * margin)]
        height = (len(lines) - 1) * pitch + line_height + 2 * margin
        above = sum(v - self.radius < height for _, v in self.anchors)
        below = sum(v + self.radius > self.height - height for _, v in self.anchors)
        at_the_top = below > above
        top = 0 if at_the_top else self.height - height
        band = self.image[top : top + height]
        band[:] = (band * 0.28 + np.array(PALETTE.edge) * 0.72).astype(np.uint8)
        for number, line in enumerate(lines):
            self._text(line, (margin, top + margin + line_height + number * pitch), PALETTE.text)

    def _segment(self, start: Place, end: Place, way: tuple[float, float, float], edge: bool) -> None:
        """Draw one straight segment of a trajectory.

        :param way: length of the trajectory up to the segment's start and up to its end, and the whole length; in pixels.
        :param edge: draw the dark edge instead of the coloured line.
        """
        begins, ends, whole = way
        pieces = max(1, round((ends - begins) / max(whole, 1e-9) * 32))
        for piece in range(pieces):
            a, b = piece / pieces, (piece + 1) / pieces
            colour = PALETTE.edge if edge else PALETTE.along((begins + (ends - begins) * (a + b) / 2) / whole)
            width = self.line + 2 * self.edge if edge else self.line
            ends_of_piece = self._fixed(_between(start, end, a)), self._fixed(_between(start, end, b))
            cv2.line(self.image, *ends_of_piece, colour, width, cv2.LINE_AA, _SHIFT)

    def _arrow_head(self, start: Place, tip: Place) -> None:
        along = math.atan2(tip[1] - start[1], tip[0] - start[0])
        size = self.radius * 2.1
        back = (tip[0] - size * math.cos(along), tip[1] - size * math.sin(along))
        side = (-math.sin(along) * size * 0.5, math.cos(along) * size * 0.5)
        corners = [tip, (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])]
        shape = np.array([self._fixed(corner) for corner in corners], np.int32)
        cv2.polylines(self.image, [shape], True, PALETTE.edge, 2 * self.edge + 1, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.image, [shape], PALETTE.end, cv2.LINE_AA, _SHIFT)

    def _ring(self, place: Place, radius: float, colour: Colour) -> None:
        for ring_colour, width in ((PALETTE.edge, self.ring + 2 * self.edge), (colour, self.ring)):
            cv2.circle(self.image, self._fixed(place), round(radius * 2**_SHIFT), ring_colour, width, cv2.LINE_AA, _SHIFT)

    def _dot(self, place: Place, radius: float, colour: Colour) -> None:
        for dot_colour, size in ((PALETTE.edge, radius + self.edge), (colour, radius)):
            cv2.circle(self.image, self._fixed(place), round(size * 2**_SHIFT), dot_colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def _label(self, text: str, place: Place, colour: Colour) -> None:
        """Draw text next to a place, on the side where it covers least."""
        text = self._shortened(_plain(text), self.width * 0.5)
        if not text:
            return
        width, height = self._text_size(text)
        if height > self.height / 12:
            return  # On a small image, labels would cover too much.
        pad = max(1, round(2 * self.unit))
        width, height, gap = width + 2 * pad, height + 2 * pad, self.radius + 2 * self.edge
        near = gap * 0.5
        u, v = place
        right, left, above, below = u + near, u - near - width, v - near - height, v + near
        corners = [(right, above), (right, below), (left, above), (left, below)]
        corners += [(u + gap, v - height / 2), (u - gap - width, v - height / 2)]
        corners += [(u - width / 2, v - gap - height), (u - width / 2, v + gap)]
        areas = [self._inside((left, top, left + width, top + height)) for left, top in corners]
        area = min(areas, key=self._cost)
        self._plate(text, area, colour, pad)

    def _tag(self, text: str, box: Box) -> None:
        """Draw the label of a box at its upper edge."""
        text = self._shortened(_plain(text), self.width * 0.7)
        if not text:
            return
        width, height = self._text_size(text)
        pad = max(1, round(3 * self.unit))
        width, height, half = width + 2 * pad, height + 2 * pad, self.line / 2
        left = box.u_min - half
        tops = [box.v_min - height - half, box.v_max + half, box.v_min - half]
        areas = [self._inside((left, top, left + width, top + height)) for top in tops]
        self._plate(text, min(areas, key=self._cost), PALETTE.box, pad)

    def _plate(self, text: str, area: Area, colour: Colour, pad: int) -> None:
        left, top, right, bottom = (round(border) for border in area)
        cv2.rectangle(self.image, (left, top), (right, bottom), PALETTE.edge, cv2.FILLED, cv2.LINE_AA)
        cv2.rectangle(self.image, (left, top), (right, bottom), colour, max(1, self.edge // 2), cv2.LINE_AA)
        self._text(text, (left + pad, bottom - pad), PALETTE.text)
        self.taken.append(area)

    def _inside(self, area: Area) -> Area:
        """Return the area, moved into the image."""
        left = min(max(area[0], 0), max(self.width - 1 - (area[2] - area[0]), 0))
        top = min(max(area[1], 0), max(self.height - 1 - (area[3] - area[1]), 0))
        return left, top, left + area[2] - area[0], top + area[3] - area[1]

    def _cost(self, area: Area) -> float:
        """Return a measure of how much a label in this area would cover."""
        left, top, right, bottom = area
        reach = self.radius * 0.7
        hidden: int = sum(left - reach <= u <= right + reach and top - reach <= v <= bottom + reach for u, v in self.anchors)
        overlap: float = sum(
            max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(bottom, other[3]) - max(top, other[1]))
            for other in self.taken
        )
        return hidden + 3 * overlap / max((right - left) * (bottom - top), 1.0)

    def _wrap(self, text: str, width: float) -> list[str]:
        """Break text into lines of at most ``width`` pixels. Longer words are cut."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._text_size(longer)[0] <= width:
                lines[-1] = longer
            else:
                lines.append(self._shortened(word, width))
        return lines

    def _shortened(self, text: str, width: float) -> str:
        if self._text_size(text)[0] <= width:
            return text
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._text_size(text[:middle] + "...")[0] <= width:
                fits = middle
            else:
                too_long = middle
        return f"{text[:fits].rstrip(' .')}..."

    def _text(self, text: str, baseline: tuple[float, float], colour: Colour) -> None:
        place = round(baseline[0]), round(baseline[1])
        cv2.putText(self.image, text, place, _FONT, self.font, colour, self.stroke, cv2.LINE_AA)

    def _text_size(self, text: str) -> tuple[int, int]:
        (width, height), _ = cv2.getTextSize(text, _FONT, self.font, self.stroke)
        return width, height

    def _fixed(self, place: Place) -> tuple[int, int]:
        """Return a place in 1/16 pixel, limited to OpenCV's range."""
        u, v = (min(max(value, -1e6), 1e6) for value in place)
        return round(u * 2**_SHIFT), round(v * 2**_SHIFT)


def _between(start: Place, end: Place, part: float) -> Place:
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _plain(text: str) -> str:
    """Return the text as one line of at most 2000 characters. Before OpenCV 5, it is ASCII, because OpenCV draws nothing else."""
    line = " ".join(clean(text[:2000]).split())  # OpenCV 5 crashes with lone surrogates.
    if _DRAWS_ASCII_ONLY:
        line = "".join(_ASCII.get(character, character if character.isascii() else "?") for character in line)
    return line


_DRAWS_ASCII_ONLY = int(cv2.__version__.split(".")[0]) < 5
_ASCII = {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "•": "-", "×": "x", "°": " deg"}
