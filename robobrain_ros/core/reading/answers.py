"""Read what the model wrote: as a person would read it, or an error that names the fault.

Text passes three stages, each of which looks at every character once and carries its state from piece to piece, so that text
may be cut anywhere and reading takes linear time:

1. `_TagReader` parts thinking from answer.
2. `_CoordinateReader` (spatial tasks) finds coordinates, or `PlanReader` (plans, in `core.planning`) finds steps.
3. `AnswerParser` puts them together and judges the whole.

What is read, and how:

- Pieces that a server has declared to be thinking are thinking, and what follows them is not.
- Everything up to the last closing think tag is thinking, whether opened or not; so is what stands before an answer tag. Results
  are never read from thinking. A tag cut at the end of the text is dropped.
- A coordinate is a pair of round or square brackets with two numbers (a point), three (a point and its depth in metres, in
  families that give depth; a confidence otherwise, which is not read) or four (a box), or an object with ``x`` and ``y``, or
  ``x1 y1 x2 y2``. An object's ``label`` (or ``name``) goes to the coordinates within. Numbers outside of brackets
  ("about 3, 4") and brackets with words ("(see 3, 4)") are prose, unless the whole answer is nothing but two to four numbers.
- The value of a key such as ``size`` or ``resolution`` is no coordinate.
- Where the answer holds a list, coordinates that prose names outside of it ("The image is (640, 480)") are not read. Without a
  list they are the answer.
- The same point or box, with the same label, counts once: models that find no end repeat themselves. A trajectory may come back
  to a waypoint, but not stay at it.
- Two points next to each other make a box where a box is asked for. Corners may come in any order.
- Text that ends in the middle of a coordinate: the complete ones count. None complete: an error. A plan that ends in the
  middle is always an error; half a plan is worse than none.
- A broken coordinate among good ones in the same list, a number without bound, points where a box is asked for (or the other
  way round), fractions among pixels: errors, because leaving something out changes what the robot does.
- An empty list, or a sentence such as "There is no ..." (see `REFUSALS`) without any coordinate, means nothing was found. In
  place of a plan, such a sentence must not begin like a command ("Check that there is no ...").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from robobrain_ros.core.plans.request import Verdict
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.core.plans.structured import StructuredPlanReader
from robobrain_ros.core.profiles import AnswerForm, Profile
from robobrain_ros.core.query import Box, ParsedAnswer, PlanStep, Point, Progress, Task
from robobrain_ros.core.reading.free_plans import PlanReader, unescaped
from robobrain_ros.errors import UnparsableAnswerError

REFUSALS = (
    "there is no ",
    "there is not ",
    "there isn't ",
    "there are no ",
    "there are not ",
    "there aren't ",
    "there does not ",
    "no such ",
    "not visible",
    "not present",
    "not in the image",
    "not in the picture",
    "not in the scene",
    "not on the table",
    "not found",
    "does not exist",
    "does not appear",
    "doesn't appear",
    "does not contain",
    "doesn't contain",
    "does not show",
    "cannot see",
    "can't see",
    "can not see",
    "do not see",
    "don't see",
    "cannot find",
    "can't find",
    "could not find",
    "couldn't find",
    "cannot be seen",
    "cannot be found",
    "unable to ",
    "nothing to ",
)
"""Phrases by which a model says, in a sentence without coordinates, that what was asked for is not there."""

STATEMENTS = ("there ", "i ", "i'", "it ", "no ", "the ", "a ", "an ", "this ", "sorry", "unfortunately")
"""How a sentence begins that is no command, and so no plan."""

_NOTHING = frozenset({"none", "null", "nothing", "n/a"})
_LONGEST_NUMBER = 24
_LARGEST_NUMBER = 1e9
_DEEPEST_NESTING = 32
_LONGEST_BARE_ANSWER = 128
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TAG = re.compile("|".join(_TAGS), re.IGNORECASE)
_PUNCTUATION = frozenset("()[]{},:\"'`")
_LOOKALIKES = dict(zip("（）［］【】，：−", "()[][],:-", strict=True))
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_BARE_NUMBERS = re.compile(r"[-+]?[0-9.]+(?:\s*,\s*[-+]?[0-9.]+){1,3}")
_LABEL_KEYS = frozenset({"label", "name"})
_OBJECT_KEYS = (("x1", "y1", "x2", "y2"), ("x_min", "y_min", "x_max", "y_max"), ("xmin", "ymin", "xmax", "ymax"), ("x", "y"))
_SIZE_KEYS = frozenset({"size", "image_size", "img_size", "imagesize", "resolution", "dimensions", "shape", "width", "height"})
"""Keys of an object whose numbers are the image's size, and no coordinates."""
_DEPTH_KEYS = ("d", "depth", "z")


def parse_answer(task: Task, text: str, profile: Profile, *, thinking: bool = False, truncated: bool = False) -> ParsedAnswer:
    """Read a whole answer. Arguments, result and errors as of `AnswerParser` and its ``finish``."""
    parser = AnswerParser(task, profile, thinking=thinking)
    parser.feed(text)
    return parser.finish(truncated=truncated)


class AnswerParser:
    """Reads an answer while it is being written; the result is the same however the text is cut.

    :param thinking: the text begins within the thinking, because the opening tag was part of the prompt.
    :param plan: the text is a plan that the model was held to, and holds no tags: what looks like one is part of a name.
    :raises UnsupportedTaskError: the profile does not know the task.
    """

    def __init__(self, task: Task, profile: Profile, *, thinking: bool = False, plan: PlanForm | None = None) -> None:
        self.task = task
        self.form = profile.form(task)
        self._gives_depth = profile.gives_depth
        self._structure = plan
        self._began_in_thinking = thinking
        self._tags = _TagReader(thinking, deaf=plan is not None)
        self._raw: list[str] = []
        self._restart()

    @property
    def raw_text(self) -> str:
        """Everything fed so far."""
        return "".join(self._raw)

    @property
    def thinking(self) -> str:
        """The thinking so far, without tags."""
        return self._tags.thinking

    @property
    def in_thinking(self) -> bool:
        """Whether what comes next belongs to the thinking."""
        return self._tags.in_thinking

    @property
    def declared(self) -> bool:
        """Whether a server has declared the last piece to be thinking."""
        return self._tags.declared

    @property
    def text(self) -> str:
        """The answer so far, without thinking and tags."""
        return self._tags.answer

    @property
    def normalized(self) -> bool:
        """Whether the coordinates so far are fractions of the image."""
        return self._coordinates.scale is _Scale.FRACTIONS

    def feed(self, text: str, thinking: bool = False) -> Progress:
        """Read the next piece.

        :param thinking: a server has declared the piece to be thinking; tags in it mean nothing.
        :returns: the piece without tags, whether it belongs to the thinking (at its end), and the parts that it completes,
            coordinates as the model wrote them. An unopened ``</think>`` may later declare parts already given to be thinking.
        """
        if text and thinking != self._tags.declared and not (thinking and self._began_in_thinking):
            self._raw.append("<think>" if thinking else "</think>")  # What the server has taken out of the text.
        self._raw.append(text)
        return self._progress(self._tags.feed(text, thinking))

    def finish(self, truncated: bool = False) -> ParsedAnswer:
        """The whole answer.

        :param truncated: the text ends because the token limit was reached.
        :raises UnparsableAnswerError: the answer is empty or has not the task's form.
        """
        text = self.text
        if not text:
            raise UnparsableAnswerError(self._empty_message(truncated), self.raw_text)
        truncated = truncated and not self._tags.closed
        if self.form is AnswerForm.TEXT:
            return ParsedAnswer(self.task, text, self.thinking)
        if self.form is AnswerForm.STEPS:
            return self._finish_plan(text, truncated)
        return self._finish_spatial(text, truncated)

    def _restart(self) -> None:
        """Forget what was read: it turned out to be thinking."""
        self._coordinates = _CoordinateReader(self.form, self._gives_depth)
        self._plan = PlanReader()
        self._structured = StructuredPlanReader(self._structure) if self._structure else None

    def _progress(self, segments: Sequence["_Segment"]) -> Progress:
        points: list[Point] = []
        boxes: list[Box] = []
        steps: list[PlanStep] = []
        for segment in segments:
            if segment.restart:
                self._restart()
                points, boxes, steps = [], [], []
            if segment.thinking or not segment.text:
                continue
            if self.task.spatial:
                found = self._coordinates.feed(segment.text)
                points += [item for item in found if isinstance(item, Point)]
                boxes += [item for item in found if isinstance(item, Box)]
            elif self._structured is not None:
                steps += self._structured.feed(segment.text)
            elif self.form is AnswerForm.STEPS:
                steps += self._plan.feed(segment.text)
        text = "".join(segment.text for segment in segments)
        moving = self.form is AnswerForm.WAYPOINTS
        return Progress(
            text,
            self._tags.in_thinking,
            points=() if moving else tuple(points),
            boxes=tuple(boxes),
            waypoints=tuple(points) if moving else (),
            steps=tuple(steps),
        )

    def _empty_message(self, truncated: bool) -> str:
        if self._tags.declared:
            return (
                "The server sent reasoning and no answer: its reasoning parser took everything for thinking, or the token limit "
                "was reached. Allow more tokens (max_tokens), or start the server without a reasoning parser."
            )
        if truncated and self._tags.in_thinking:
            return "The model was still thinking when its token limit was reached; allow it more tokens or do not let it think."
        if self.thinking:
            return "The model thought and then answered nothing; ask again without thinking."
        return "The model's answer is empty; ask in other words."

    def _finish_plan(self, text: str, truncated: bool) -> ParsedAnswer:
        if truncated:
            raise UnparsableAnswerError("The plan was cut at the token limit; allow more tokens (max_tokens).", self.raw_text)
        if self._structured is not None:
            return self._finish_structured(self._structured, text)
        try:
            plan = self._plan.finish()
        except ValueError as error:
            raise UnparsableAnswerError(f"The plan cannot be read: {error}.", self.raw_text) from error
        if not plan.listed and text.lower().startswith((*STATEMENTS, *_NOTHING)) and _says_nothing_found(text):
            return ParsedAnswer(self.task, text, self.thinking, nothing_found=True)
        if not plan.steps:
            raise UnparsableAnswerError("The plan holds no steps; ask in other words.", self.raw_text)
        return ParsedAnswer(self.task, text, self.thinking, steps=plan.steps, reasoning=plan.reasoning)

    def _finish_structured(self, reader: StructuredPlanReader, text: str) -> ParsedAnswer:
        try:
            plan = reader.finish()
        except ValueError as error:
            raise UnparsableAnswerError(f"The plan cannot be read: {error}.", self.raw_text) from error
        return ParsedAnswer(
            self.task,
            text,
            self.thinking,
            steps=plan.steps,
            reasoning=plan.reasoning,
            verdict=plan.verdict,
            nothing_found=plan.verdict is Verdict.IMPOSSIBLE,
        )

    def _finish_spatial(self, text: str, truncated: bool) -> ParsedAnswer:
        reader = self._coordinates
        reader.finish(text, truncated)
        if not reader.items and not reader.fault and self._found_nothing(text):
            return ParsedAnswer(self.task, text, self.thinking, nothing_found=True)
        fault = reader.fault or self._fault_of_form(truncated)
        if fault:
            raise UnparsableAnswerError(f"The answer cannot be read: {fault}.", self.raw_text)
        points = tuple(item for item in reader.items if isinstance(item, Point))
        boxes = tuple(item for item in reader.items if isinstance(item, Box))
        moving = self.form is AnswerForm.WAYPOINTS
        return ParsedAnswer(
            self.task,
            text,
            self.thinking,
            points=() if moving else points,
            boxes=boxes,
            waypoints=points if moving else (),
            normalized=self.normalized,
        )

    def _found_nothing(self, text: str) -> bool:
        """An empty list that is cut may be the beginning of a full one."""
        return _says_nothing_found(text) or (self._coordinates.empty_list and not self._coordinates.cut)

    def _fault_of_form(self, truncated: bool) -> str:
        """Why the coordinates do not answer the task, or an empty string."""
        reader = self._coordinates
        if not reader.items:
            if reader.cut or truncated:
                return "it ends before the first coordinate is complete"
            return "it holds no coordinates"
        if self.form is AnswerForm.WAYPOINTS and any(isinstance(item, Box) for item in reader.items):
            return "a box is no waypoint"
        if self.task is Task.GROUND and any(isinstance(item, Point) for item in reader.items):
            return "it holds a point where a box was asked for"
        return ""


def _says_nothing_found(text: str) -> bool:
    lowered = text.lower().replace("’", "'")
    return lowered.strip(" .!`*\"'\n") in _NOTHING or any(phrase in lowered for phrase in REFUSALS)


@dataclass(frozen=True)
class _Segment:
    """A run of text of one kind; ``restart``: all answer text before it turned out to be thinking."""

    text: str
    thinking: bool
    restart: bool = False


def _held_length(text: str) -> int:
    """How many characters at the end may be the beginning of a tag."""
    opening = text.rfind("<", -len("</answer>") + 1)
    rest = text[opening:].lower() if opening >= 0 else ""
    return len(rest) if rest and any(tag.startswith(rest) and tag != rest for tag in _TAGS) else 0


class _TagReader:
    """Parts thinking from answer. Tags may be cut, missing, or repeated.

    :param deaf: there are no tags.
    """

    def __init__(self, thinking: bool, deaf: bool = False) -> None:
        self.in_thinking = thinking
        self.declared = False
        """Whether the last piece was declared to be thinking."""
        self._deaf = deaf
        self.closed = False
        self._held = ""
        self._thinking: list[str] = []
        self._answer: list[str] = []
        self._after: list[str] = []
        self._answered = False

    @property
    def thinking(self) -> str:
        return "".join(self._thinking + self._after).strip()

    @property
    def answer(self) -> str:
        return "".join(self._answer).strip()

    def feed(self, text: str, thinking: bool = False) -> list[_Segment]:
        segments: list[_Segment] = []
        if thinking and not self.declared:
            self._take(self._held, segments)  # What looked like the beginning of a tag was none.
            self._held = ""
        if text and (thinking or self.declared):
            self.declared = self.in_thinking = thinking
        if self._deaf or thinking:
            self._take(text, segments)
            return segments
        text = self._held + text
        end = len(text) - _held_length(text)
        start = 0
        for tag in _TAG.finditer(text):
            self._take(text[start : tag.start()], segments)
            self._turn(tag[0].lower(), segments)
            start = tag.end()
        self._take(text[start:end], segments)
        self._held = text[end:]
        return segments

    def _take(self, text: str, segments: list[_Segment]) -> None:
        if not text or self.closed:
            return
        if not self.in_thinking:
            self._answer.append(text)
            self._answered = self._answered or not text.isspace()
        elif self._answer:
            self._after.append(text)
        else:
            self._thinking.append(text)
        segments.append(_Segment(text, self.in_thinking))

    def _turn(self, tag: str, segments: list[_Segment]) -> None:
        if self.closed:
            return
        if tag == "</answer>":
            self.closed = self._answered
        elif tag == "<think>":
            self.in_thinking = True
        else:
            self._declare_thinking(segments)

    def _declare_thinking(self, segments: list[_Segment]) -> None:
        """All that came before ``</think>`` or ``<answer>`` is thinking, opened or not."""
        self._thinking += [*self._answer, *self._after, "\n"]
        self._answer = []
        self._after = []
        self._answered = False
        self.in_thinking = False
        segments.append(_Segment("", False, restart=True))


class _Scale(Enum):
    """What the coordinates so far are: fractions of the image, or of the profile's own grid."""

    UNKNOWN = "unknown"
    FRACTIONS = "fractions"
    PLAIN = "plain"


@dataclass
class _Frame:
    """An open bracket: what was found in it so far."""

    opening: str
    numbers: list[float] = field(default_factory=list)
    pure: bool = True
    """Only numbers and commas so far."""
    children: bool = False
    good: bool = False
    bad: bool = False
    of_size: bool = False
    """It is the value of one of `_SIZE_KEYS`."""
    points: list[Point] = field(default_factory=list)
    """Points that may be corners of a box."""
    items: list[Point | Box] = field(default_factory=list)
    """An object's coordinates, waiting for its label."""
    fields: dict[str, float] = field(default_factory=dict)
    """An object's numbers, by their keys."""
    keyed: bool = False
    key: str | None = None
    word: str | None = None
    label: str = ""


class _CoordinateReader:
    """Finds coordinates in text.

    :param form: what the items are. Of boxes, two points side by side are the corners.
    :param gives_depth: a third number is the depth.

    ``items``: what was found. ``fault``: why the text as a whole cannot be trusted, or empty. ``cut``: it ended within brackets.
    ``empty_list``: it holds an empty list.
    """

    def __init__(self, form: AnswerForm, gives_depth: bool) -> None:
        self.items: list[Point | Box] = []
        self.fault = ""
        self.cut = False
        self.empty_list = False
        self.scale = _Scale.UNKNOWN
        self._boxes = form is AnswerForm.BOXES
        self._moving = form is AnswerForm.WAYPOINTS
        self._gives_depth = gives_depth
        self._known: set[Point | Box] = set()
        self._prose = False
        """Whether there was a word outside of brackets."""
        self._listed = False
        """Whether there was a list, which makes asides of the coordinates in prose."""
        self._asides: list[Point | Box] = []
        """Coordinates in prose, not weighed yet; of boxes, two points side by side are one."""
        self._stack: list[_Frame] = []
        self._token: list[str] = []
        self._token_overlong = False
        self._quote = ""
        self._string: list[str] = []
        self._escaped = False
        self._objects = 0
        self._group: list[Point] = []
        self._group_open = False
        self._prose_group = False
        """Whether the points side by side stand in prose."""
        self._loose: list[Point] = []
        self._weak_fault = ""
        self._dead = False
        self._new: list[Point | Box] = []

    def feed(self, text: str) -> list[Point | Box]:
        """Read the next piece; gives the coordinates that it completes."""
        for character in text:
            if self._dead:
                break
            self._read(character)
        new, self._new = self._new, []
        return new

    def finish(self, text: str, truncated: bool) -> None:
        """Judge the whole; ``text`` is all that was fed, ``truncated`` when more was to come."""
        self._read(" ")
        self.cut = bool(self._stack)
        for frame in self._stack:
            self._check_mixture(frame)
            self._publish([item for item in frame.items if not self._is_corner(item)])
        if self._stack and len(self._stack[-1].points) == 2 and not self._stack[-1].numbers:
            self._publish([_box_of(*self._stack[-1].points)])  # Only the list's own bracket is missing.
        self._end_group(cut=self.cut or truncated)
        if not self.items and not self.empty_list and not self.cut and not truncated and self._is_bare(text):
            self.feed(f"({text})")
            self._end_group(cut=False)
        if not self._listed:
            self._read_asides()
        if len(self._loose) == 2 and not self.items:
            self._publish([_box_of(*self._loose)])
        elif len(self._loose) != 1 or not (self.cut or truncated):  # Half a box is no point.
            self._publish(self._loose)
        if not self.items and not self.fault:
            self.fault = self._weak_fault

    def _read_asides(self) -> None:
        """There is no list: what prose names is the answer."""
        asides, self._asides = self._asides, []
        for item in asides:
            self._weigh([item.u, item.v] if isinstance(item, Point) else [item.u_min, item.v_min, item.u_max, item.v_max])
            if self._is_corner(item):
                self._loose.append(item)  # type: ignore[arg-type]
            else:
                self._publish([item])

    def _is_bare(self, text: str) -> bool:
        return len(text) <= _LONGEST_BARE_ANSWER and _BARE_NUMBERS.fullmatch(text) is not None

    def _read(self, character: str) -> None:
        if self._quote:
            self._read_string(character)
            return
        character = _LOOKALIKES.get(character, character)
        apostrophe = character == "'" and self._token
        if apostrophe or (character not in _PUNCTUATION and not character.isspace()):
            self._read_token(character)
            return
        self._end_token()
        if character in "([{":
            self._open(character)
        elif character in ")]}":
            self._close()
        elif character in "\"'" and self._objects:
            self._quote = character
        elif character == ",":
            self._comma()
        elif character == ":":
            self._colon()
        elif character == "\n" and not self._stack and not self._group_open:
            self._end_group(cut=False)

    def _read_token(self, character: str) -> None:
        if len(self._token) < _LONGEST_NUMBER:
            self._token.append(character)
        else:
            self._token_overlong = True

    def _end_token(self) -> None:
        if not self._token:
            return
        token, overlong = "".join(self._token), self._token_overlong
        self._token, self._token_overlong = [], False
        if not self._stack:
            self._end_group(cut=False)
            self._prose = self._prose or any(character.isalpha() for character in token)
            return
        frame = self._stack[-1]
        if not _NUMBER.fullmatch(token):
            frame.pure = False
            frame.word = token
            return
        number = float(token)
        if overlong or not abs(number) <= _LARGEST_NUMBER:
            frame.pure = False
            self._weak_fault = f"the number {token[:12]}... has no bounds"
        elif frame.opening != "{":
            frame.numbers.append(number)
        elif frame.key is not None:
            frame.fields[frame.key] = number

    def _read_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
            self._string.append(character)
        elif character == "\\":
            self._escaped = True
            self._string.append(character)
        elif character in (self._quote, "\n"):
            self._quote = ""
            self._end_string(unescaped("".join(self._string)))
            self._string = []
        else:
            self._string.append(character)

    def _end_string(self, text: str) -> None:
        frame = self._stack[-1]
        frame.pure = False
        if frame.opening == "{" and frame.key in _LABEL_KEYS:
            frame.label = text
        frame.word = text

    def _comma(self) -> None:
        self._group_open = True
        if self._stack:
            self._stack[-1].key = self._stack[-1].word = None

    def _colon(self) -> None:
        if not self._stack:
            self._end_group(cut=False)
            return
        frame = self._stack[-1]
        frame.pure = False
        if frame.opening == "{" and frame.word is not None:
            frame.key, frame.word = frame.word.strip().lower(), None
            frame.keyed = True

    def _open(self, opening: str) -> None:
        if len(self._stack) == _DEEPEST_NESTING:
            self.fault = f"its brackets are nested more than {_DEEPEST_NESTING} deep"
            self._dead = True
            return
        frame = _Frame(opening)
        if self._stack:
            outer = self._stack[-1]
            frame.of_size = outer.of_size or (outer.opening == "{" and outer.key in _SIZE_KEYS)
            outer.children |= not frame.of_size
        self._stack.append(frame)
        self._objects += opening == "{"

    def _close(self) -> None:
        """Any closing bracket closes the innermost open one: models mix the styles."""
        if not self._stack:
            self._end_group(cut=False)
            return
        frame = self._stack.pop()
        self._group_open = False
        self._objects -= frame.opening == "{"
        if frame.of_size:
            return
        if frame.opening == "{":
            self._close_object(frame)
        elif frame.children:
            self._close_list(frame)
        else:
            self._close_numbers(frame)

    def _close_numbers(self, frame: _Frame) -> None:
        numbers = frame.numbers
        if frame.pure and 2 <= len(numbers) <= 4:
            self._mark_parent(good=True)
            asked_for = self._boxes and frame.opening == "[" and len(numbers) == 4
            self._note_list(asked_for or any(outer.opening != "(" for outer in self._stack))
            aside = not asked_for and self._is_aside()
            self._emit(self._item(numbers, weigh=not aside), aside)
            return
        if frame.pure and not numbers:
            self.empty_list = True
            self._note_list(frame.opening == "[" and bool(self._asides))
            return
        self._mark_parent(good=False)
        if frame.pure and len(numbers) > 4:
            self._weak_fault = f"a list of {len(numbers)} numbers is neither a point nor a box"

    def _close_list(self, frame: _Frame) -> None:
        self._check_mixture(frame)
        if frame.good or frame.bad:
            self._mark_parent(frame.good)
        if len(frame.points) == 2:
            self._emit(_box_of(*frame.points))
        else:
            self._loose += frame.points

    def _check_mixture(self, frame: _Frame) -> None:
        prose = frame.opening == "(" and not frame.pure
        if frame.opening != "{" and not prose and frame.good and (frame.bad or frame.numbers):
            self.fault = self.fault or "a broken coordinate stands among good ones"

    def _close_object(self, frame: _Frame) -> None:
        item = self._item_of_fields(frame.fields)
        self._note_list(item is not None)
        if item is not None:
            frame.items.append(item)
        if frame.items or frame.good:
            self._mark_parent(good=True)
        elif frame.keyed:
            self._mark_parent(good=False)
        self._publish([replace(item, label=frame.label) for item in frame.items if not self._is_corner(item)])
        self._loose += [replace(item, label=frame.label) for item in frame.items if isinstance(item, Point) and self._boxes]

    def _mark_parent(self, good: bool) -> None:
        if self._stack:
            self._stack[-1].good |= good
            self._stack[-1].bad |= not good

    def _item_of_fields(self, fields: dict[str, float]) -> Point | Box | None:
        for keys in _OBJECT_KEYS:
            if all(key in fields for key in keys):
                numbers = [fields[key] for key in keys]
                depth = next((fields[key] for key in _DEPTH_KEYS if key in fields), None)
                item = self._item(numbers)
                return replace(item, depth=depth) if isinstance(item, Point) else item  # A key says that it is a depth.
        return None

    def _note_list(self, listed: bool) -> None:
        """A list, or coordinates within one: what prose names was beside the answer."""
        if listed:
            self._listed = True
            self._asides = []

    def _is_aside(self) -> bool:
        """Whether the coordinates that end here stand in prose, and in no list."""
        if any(frame.opening != "(" for frame in self._stack) or (self._stack and self._boxes):
            return False
        return self._prose or any(not frame.pure for frame in self._stack)

    def _item(self, numbers: list[float], weigh: bool = True) -> Point | Box:
        if weigh:
            self._weigh(numbers if len(numbers) == 4 else numbers[:2])
        if len(numbers) == 4:
            return _box_of(Point(numbers[0], numbers[1]), Point(numbers[2], numbers[3]))
        return Point(numbers[0], numbers[1], numbers[2] if len(numbers) == 3 and self._gives_depth else None)

    def _weigh(self, coordinates: list[float]) -> None:
        """The first coordinates that leave no doubt decide whether all are fractions: 0.5 is one, 0 or 1 may be either."""
        whole = all(value.is_integer() for value in coordinates)
        inside = all(0 <= value <= 1 for value in coordinates)
        if self.scale is _Scale.UNKNOWN and not (whole and inside):
            self.scale = _Scale.FRACTIONS if inside else _Scale.PLAIN
        elif self.scale is _Scale.FRACTIONS and not all(-1 <= value <= 2 for value in coordinates):
            self.fault = self.fault or "it mixes fractions of the image with larger coordinates"

    def _is_corner(self, item: Point | Box) -> bool:
        return self._boxes and isinstance(item, Point)

    def _emit(self, item: Point | Box, aside: bool = False) -> None:
        """Pass an item on: to the object that may label it, to the points that may make a box, or out."""
        if aside and not self._is_corner(item):
            if not self._listed:
                self._asides.append(item)
            return
        innermost = self._stack[-1] if self._stack else None
        if isinstance(item, Point) and self._boxes:
            if innermost is None:
                self._prose_group = aside
                self._group.append(item)
            elif innermost.opening == "{":
                innermost.items.append(item)
            else:
                innermost.points.append(item)
            return
        holder = next((frame for frame in reversed(self._stack) if frame.opening == "{"), None)
        if holder is None:
            self._publish([item])
        else:
            holder.items.append(item)

    def _end_group(self, cut: bool) -> None:
        """The points side by side outside of any list end here: two make a box."""
        group, self._group, self._group_open = self._group, [], False
        if self._prose_group:
            self._prose_group = False
            box = [_box_of(*group)] if len(group) == 2 else []
            if not self._listed and (box or not cut):
                self._asides += box or group
        elif len(group) == 2:
            self._publish([_box_of(*group)])
        elif not cut:
            self._loose += group

    def _publish(self, items: Sequence[Point | Box]) -> None:
        """Give items out, each once; a trajectory may come back to a waypoint."""
        for item in items:
            if item == self.items[-1] if self._moving and self.items else item in self._known:
                continue
            if not self._moving:
                self._known.add(item)
            self.items.append(item)
            self._new.append(item)


def _box_of(corner: Point, opposite: Point) -> Box:
    return Box(min(corner.u, opposite.u), min(corner.v, opposite.v), max(corner.u, opposite.u), max(corner.v, opposite.v))
