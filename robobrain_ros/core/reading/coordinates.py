"""Find points and boxes in the text of an answer. `core.reading.answers` describes the rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from robobrain_ros.core.profiles import AnswerForm
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.reading.brackets import Bracket, holds_no_coordinates
from robobrain_ros.core.reading.tokens import Lexer, Token, TokenKind

_AMBIGUOUS = "the commas or blanks in one of its coordinates may be thousands separators or decimal commas"
_DEEPEST_NESTING = 32
_LONGEST_BARE_ANSWER = 128
_BARE_NUMBERS = re.compile(r"[-+]?[0-9.]+(?:\s*,\s*[-+]?[0-9.]+){1,3}")
_LABEL_KEYS = frozenset({"label", "name"})
_COORDINATE_KEYS = (("x1", "y1", "x2", "y2"), ("x_min", "y_min", "x_max", "y_max"), ("xmin", "ymin", "xmax", "ymax"), ("x", "y"))
_DEPTH_KEYS = ("d", "depth", "z")
_EXTENT_KEYS = ("w", "h", "width", "height")
_SIZE_WORDS = frozenset({"size", "resolution", "dimensions"})
_NEAR_SIZE_WORD = 2
"""Most words between one of `_SIZE_WORDS` and a size, as in "The image size is (640, 480)"."""


class _Scale(Enum):
    """The unit of the coordinates in an answer."""

    UNKNOWN = "unknown"
    FRACTIONS = "fractions of the image"
    GRID = "coordinates of the profile's own grid"


class _FoundItems:
    """The points and boxes of an answer in their order, each once. A trajectory may return to an earlier waypoint."""

    def __init__(self, trajectory: bool) -> None:
        self.items: list[Point | Box] = []
        self._trajectory = trajectory
        self._known: set[Point | Box] = set()
        self._new: list[Point | Box] = []

    def add(self, items: Sequence[Point | Box]) -> None:
        for item in items:
            if item == self.items[-1] if self._trajectory and self.items else item in self._known:
                continue
            if not self._trajectory:
                self._known.add(item)
            self.items.append(item)
            self._new.append(item)

    def take_new(self) -> list[Point | Box]:
        """Return the items added since the last call."""
        new, self._new = self._new, []
        return new


@dataclass
class _Prose:
    """The text outside of lists. Its coordinates are the answer only if the text has no list."""

    has_words: bool = False
    list_seen: bool = False
    items: list[Point | Box] = field(default_factory=list)
    fault: str = ""
    words_after_size: int = _NEAR_SIZE_WORD + 1
    """Number of words since the last one of `_SIZE_WORDS`."""

    def read_word(self, word: str) -> None:
        self.has_words = self.has_words or any(character.isalpha() for character in word)
        names_size = word.strip("*.").lower() in _SIZE_WORDS
        self.words_after_size = 0 if names_size else self.words_after_size + 1

    def take_size(self) -> bool:
        """Return whether the coordinate that was just read is a size, and forget the last word for a size."""
        is_size = self.words_after_size <= _NEAR_SIZE_WORD
        self.words_after_size = _NEAR_SIZE_WORD + 1
        return is_size

    def add(self, items: Sequence[Point | Box]) -> None:
        if not self.list_seen:
            self.items += items

    def note_list(self) -> None:
        self.list_seen = True
        self.items = []
        self.fault = ""


@dataclass
class _AdjacentPoints:
    """Points next to each other outside of any bracket. If the task needs boxes, two of them are the corners of a box."""

    points: list[Point] = field(default_factory=list)
    in_prose: bool = False
    continues: bool = False
    """Whether a comma follows the last point. The next line may then continue the points."""


class CoordinateReader:
    """Finds points and boxes in text that arrives in pieces. Each closing bracket completes a point, a box, or a part of a list.

    :param form: the form of the answer. If it is boxes, two adjacent points are the corners of a box.
    :param gives_depth: a third number is the depth in metres. Otherwise, it is a confidence and is ignored.
    :param constrained: a grammar constrained the text to coordinates of whole numbers. Their separators may differ.
    """

    def __init__(self, form: AnswerForm, gives_depth: bool, constrained: bool = False) -> None:
        self.fault = ""
        """Why the whole text is invalid, or an empty string if it is valid so far."""
        self.ends_in_bracket = False
        """Whether the text ended within a bracket. Set by `finish`."""
        self.has_empty_list = False
        self._fault_without_items = ""
        """A fault that is reported only if the text has no valid coordinate."""
        self._wants_boxes = form is AnswerForm.BOXES
        self._gives_depth = gives_depth
        self._constrained_length = (4 if self._wants_boxes else 3 if gives_depth else 2) if constrained else 0
        """Number of numbers in a coordinate that the grammar allows; 0: there is no grammar."""
        self._lexer = Lexer()
        self._brackets: list[Bracket] = []
        self._too_deep = False
        self._scale = _Scale.UNKNOWN
        self._found = _FoundItems(trajectory=form is AnswerForm.WAYPOINTS)
        self._prose = _Prose()
        self._adjacent = _AdjacentPoints()
        self._lone_corners: list[Point] = []
        """If the task needs boxes: points without an adjacent point."""

    @property
    def items(self) -> list[Point | Box]:
        """The points and boxes found so far."""
        return self._found.items

    @property
    def normalized(self) -> bool:
        """Whether the coordinates so far are fractions of the image."""
        return self._scale is _Scale.FRACTIONS

    def feed(self, text: str) -> list[Point | Box]:
        """Read the next piece and return the points and boxes that it completes."""
        if not self._too_deep:
            for token in self._lexer.feed(text):
                self._read(token)
                if self._too_deep:
                    break
        return self._found.take_new()

    def finish(self, text: str, truncated: bool) -> None:
        """Complete the items, the fault and the other attributes. Some of them depend on the end of the text.

        :param text: the whole text that was fed.
        :param truncated: the text was cut at the token limit.
        """
        for token in self._lexer.finish():
            self._read(token)
        self.ends_in_bracket = bool(self._brackets)
        cut = self.ends_in_bracket or truncated
        self._finish_open_brackets()
        self._end_adjacent(cut)
        if not self.items and not self.has_empty_list and not cut and _is_bare(text):
            self.feed(f"({text})")
            self._end_adjacent(cut=False)
        if not self._prose.list_seen:
            self._add_coordinates_in_prose()
        self._finish_lone_corners(cut)
        if not self.items and not self.fault:
            self.fault = self._fault_without_items

    def _finish_open_brackets(self) -> None:
        for bracket in self._brackets:
            self._check_for_broken_coordinates(bracket)
            self._found.add([item for item in bracket.unlabelled if not self._is_corner(item)])
        if self._brackets and len(self._brackets[-1].corners) == 2 and not self._brackets[-1].numbers:
            self._found.add([_box_of(*self._brackets[-1].corners)])  # Only the list's closing bracket is missing.

    def _add_coordinates_in_prose(self) -> None:
        for item in self._prose.items:
            self._note_scale([item.u, item.v] if isinstance(item, Point) else [item.u_min, item.v_min, item.u_max, item.v_max])
            if self._wants_boxes and isinstance(item, Point):
                self._lone_corners.append(item)
            else:
                self._found.add([item])
        self.fault = self.fault or self._prose.fault
        self._prose.items = []

    def _finish_lone_corners(self, cut: bool) -> None:
        if len(self._lone_corners) == 2 and not self.items:
            self._found.add([_box_of(*self._lone_corners)])
        elif len(self._lone_corners) != 1 or not cut:  # In an incomplete text, a single corner may be the first of two.
            self._found.add(self._lone_corners)

    def _read(self, token: Token) -> None:
        kind = token.kind
        if kind is TokenKind.OPENING:
            self._open(token.text)
        elif kind is TokenKind.CLOSING:
            self._close()
        elif kind is TokenKind.COMMA:
            self._read_comma()
        elif not self._brackets:
            self._read_outside_brackets(token)
        elif kind is TokenKind.STRING:
            self._read_string(self._brackets[-1], token.text)
        elif kind is TokenKind.COLON:
            self._brackets[-1].read_colon()
        elif kind is not TokenKind.NEWLINE:
            self._read_number_or_word(self._brackets[-1], token)

    def _read_outside_brackets(self, token: Token) -> None:
        if token.kind is TokenKind.NEWLINE and self._adjacent.continues:
            return
        self._end_adjacent(cut=False)
        if token.kind is TokenKind.WORD:
            self._prose.read_word(token.text)

    def _read_number_or_word(self, bracket: Bracket, token: Token) -> None:
        if token.kind is TokenKind.WORD:
            bracket.only_numbers = False
            bracket.word = token.text
        elif token.kind is TokenKind.UNBOUNDED_NUMBER:
            bracket.only_numbers = False
            self._fault_without_items = f"the number {token.text[:12]}... is too long or too large"
        elif bracket.is_object:
            bracket.add_value(token)
        else:
            bracket.add_number(token)

    def _read_string(self, bracket: Bracket, text: str) -> None:
        bracket.only_numbers = False
        if bracket.is_object and bracket.key in _LABEL_KEYS:
            bracket.label = text
        bracket.word = text

    def _read_comma(self) -> None:
        self._adjacent.continues = True
        if self._brackets:
            bracket = self._brackets[-1]
            bracket.key = bracket.word = None
            bracket.comma_read = True

    def _open(self, opening: str) -> None:
        if len(self._brackets) == _DEEPEST_NESTING:
            self.fault = f"its brackets are nested more than {_DEEPEST_NESTING} deep"
            self._too_deep = True
            return
        bracket = Bracket(opening)
        if self._brackets:
            outer = self._brackets[-1]
            bracket.is_other_value = outer.is_other_value or (outer.key is not None and holds_no_coordinates(outer.key))
            outer.has_brackets |= not bracket.is_other_value
        self._brackets.append(bracket)

    def _close(self) -> None:
        if not self._brackets:
            self._end_adjacent(cut=False)
            return
        bracket = self._brackets.pop()
        self._adjacent.continues = False
        if bracket.is_other_value:
            return
        if bracket.is_object:
            self._close_object(bracket)
        elif bracket.has_brackets:
            self._close_list(bracket)
        else:
            self._close_numbers(bracket)

    def _close_numbers(self, bracket: Bracket) -> None:
        numbers = bracket.numbers
        if bracket.only_numbers and 2 <= len(numbers) <= 4:
            self._close_coordinate(bracket)
            return
        if bracket.only_numbers and not numbers:
            self.has_empty_list = True
            if bracket.opening == "[" and (self._prose.items or self._prose.fault):
                self._prose.note_list()
            return
        self._mark_outer(valid=False)
        if bracket.only_numbers and len(numbers) > 4:
            self._fault_without_items = f"a list of {len(numbers)} numbers is neither a point nor a box"

    def _close_coordinate(self, bracket: Bracket) -> None:
        numbers = bracket.numbers
        ambiguous = self._is_ambiguous(bracket)
        self._mark_outer(valid=not ambiguous)
        is_wanted_box = self._wants_boxes and bracket.opening == "[" and len(numbers) == 4
        in_prose = not is_wanted_box and self._stands_in_prose()
        if is_wanted_box or any(outer.opening != "(" for outer in self._brackets):
            self._prose.note_list()
        if ambiguous:
            self._note_ambiguous(in_prose)
        elif not in_prose:
            self._note_scale(numbers if len(numbers) == 4 else numbers[:2])
            self._add(self._item_of(numbers))
        elif not self._prose.take_size():
            self._add_in_prose(self._item_of(numbers))

    def _is_ambiguous(self, bracket: Bracket) -> bool:
        separators_tell = len(bracket.numbers) != self._constrained_length
        return bracket.is_ambiguous or (separators_tell and len(bracket.separators) > 1)

    def _note_ambiguous(self, in_prose: bool) -> None:
        if not in_prose:
            self.fault = self.fault or _AMBIGUOUS
        elif not self._prose.list_seen:
            self._prose.fault = _AMBIGUOUS

    def _close_list(self, bracket: Bracket) -> None:
        self._check_for_broken_coordinates(bracket)
        if bracket.has_coordinates or bracket.has_broken_coordinates:
            self._mark_outer(bracket.has_coordinates)
        if len(bracket.corners) == 2:
            self._add(_box_of(*bracket.corners))
        else:
            self._lone_corners += bracket.corners

    def _close_object(self, bracket: Bracket) -> None:
        item = self._item_of_fields(bracket.fields)
        if item is not None:
            self._prose.note_list()
            bracket.unlabelled.append(item)
            if bracket.is_ambiguous:
                self._note_ambiguous(in_prose=False)
        else:
            bracket.unlabelled = [_with_depth(item, bracket.fields) for item in bracket.unlabelled]
        if bracket.unlabelled or bracket.has_coordinates:
            self._mark_outer(valid=True)
        elif bracket.has_keys:
            self._mark_outer(valid=False)
        labelled = [replace(item, label=bracket.label) for item in bracket.unlabelled]
        self._found.add([item for item in labelled if not self._is_corner(item)])
        self._lone_corners += [item for item in labelled if isinstance(item, Point) and self._wants_boxes]

    def _check_for_broken_coordinates(self, bracket: Bracket) -> None:
        is_prose = bracket.opening == "(" and not bracket.only_numbers
        broken = bracket.has_broken_coordinates or bool(bracket.numbers)
        if not bracket.is_object and not is_prose and bracket.has_coordinates and broken:
            self.fault = self.fault or "one of its coordinates is malformed"

    def _mark_outer(self, valid: bool) -> None:
        """Mark the surrounding bracket: it contains a valid or a malformed coordinate."""
        if self._brackets:
            self._brackets[-1].has_coordinates |= valid
            self._brackets[-1].has_broken_coordinates |= not valid

    def _item_of(self, numbers: Sequence[float]) -> Point | Box:
        if len(numbers) == 4:
            return _box_of(Point(numbers[0], numbers[1]), Point(numbers[2], numbers[3]))
        return Point(numbers[0], numbers[1], numbers[2] if len(numbers) == 3 and self._gives_depth else None)

    def _item_of_fields(self, fields: dict[str, float]) -> Point | Box | None:
        for keys in _COORDINATE_KEYS:
            if all(key in fields for key in keys):
                numbers = [fields[key] for key in keys]
                if len(keys) == 2 and any(key in fields for key in _EXTENT_KEYS):
                    self.fault = self.fault or "it contains a width and a height, and x and y may be a corner or the centre"
                self._note_scale(numbers)
                item = self._item_of(numbers)
                return _with_depth(item, fields)
        return None

    def _note_scale(self, coordinates: Sequence[float]) -> None:
        """Use the first unambiguous coordinates to decide whether all are fractions. 0.5 is a fraction; 0 and 1 are ambiguous."""
        whole = all(value.is_integer() for value in coordinates)
        inside = all(0 <= value <= 1 for value in coordinates)
        if self._scale is _Scale.UNKNOWN and not (whole and inside):
            self._scale = _Scale.FRACTIONS if inside else _Scale.GRID
        elif self._scale is _Scale.FRACTIONS and not all(-1 <= value <= 2 for value in coordinates):
            self.fault = self.fault or "it mixes fractions of the image with larger coordinates"

    def _stands_in_prose(self) -> bool:
        """Return whether the coordinate that was just read is in prose and not in a list."""
        if any(bracket.opening != "(" for bracket in self._brackets) or (self._brackets and self._wants_boxes):
            return False
        return self._prose.has_words or any(not bracket.only_numbers for bracket in self._brackets)

    def _is_corner(self, item: Point | Box) -> bool:
        return self._wants_boxes and isinstance(item, Point)

    def _add(self, item: Point | Box) -> None:
        """Add an item to the bracket that may label it or combine it to a box. Without such a bracket, add it to the results."""
        innermost = self._brackets[-1] if self._brackets else None
        if self._wants_boxes and isinstance(item, Point):
            if innermost is None:
                self._add_adjacent(item, in_prose=False)
            elif innermost.is_object:
                innermost.unlabelled.append(item)
            else:
                innermost.corners.append(item)
            return
        labelling = next((bracket for bracket in reversed(self._brackets) if bracket.is_object), None)
        if labelling is None:
            self._found.add([item])
        else:
            labelling.unlabelled.append(item)

    def _add_in_prose(self, item: Point | Box) -> None:
        if self._wants_boxes and isinstance(item, Point):
            self._add_adjacent(item, in_prose=True)
        else:
            self._prose.add([item])

    def _add_adjacent(self, point: Point, in_prose: bool) -> None:
        self._adjacent.in_prose = in_prose
        self._adjacent.points.append(point)

    def _end_adjacent(self, cut: bool) -> None:
        """End a run of adjacent points.

        :param cut: the text is incomplete and ends after these points, so a second corner may be missing.
        """
        adjacent, self._adjacent = self._adjacent, _AdjacentPoints()
        box = [_box_of(*adjacent.points)] if len(adjacent.points) == 2 else []
        if adjacent.in_prose:
            self._prose.add(box or ([] if cut else adjacent.points))
        elif box:
            self._found.add(box)
        elif not cut:
            self._lone_corners += adjacent.points


def _with_depth(item: Point | Box, fields: dict[str, float]) -> Point | Box:
    """Return the point with the depth of its object. A key states that the number is a depth, so this holds for all families."""
    depth = next((fields[key] for key in _DEPTH_KEYS if key in fields), None)
    return replace(item, depth=depth) if isinstance(item, Point) and depth is not None else item


def _is_bare(text: str) -> bool:
    """Return whether the text consists of nothing but two to four numbers."""
    return len(text) <= _LONGEST_BARE_ANSWER and _BARE_NUMBERS.fullmatch(text) is not None


def _box_of(corner: Point, opposite: Point) -> Box:
    return Box(min(corner.u, opposite.u), min(corner.v, opposite.v), max(corner.u, opposite.u), max(corner.v, opposite.v))
