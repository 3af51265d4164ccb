"""Parse the text of an answer to points, boxes, waypoints or the steps of a plan. Errors name the fault.

The text passes three stages. Each stage reads every character once and keeps its state between pieces of text. The text may
therefore be cut anywhere, and the time is linear in its length:

1. `TagReader` separates the thinking from the answer.
2. `CoordinateReader` finds the coordinates in answers to spatial tasks. `FreePlanReader` finds the steps of a plan in free text.
   `StructuredPlanReader` finds the steps of a plan that was constrained to a JSON schema. `read_score` reads a score.
3. `AnswerParser` combines the results and validates the whole answer.

The rules:

- If a server declares pieces of text to be thinking, these pieces are thinking, and the pieces after them are the answer.
- All text up to the last closing think tag is thinking, even if no tag opened it. All text before an answer tag is thinking as
  well. Results are never read from thinking. An incomplete tag at the end of the text is dropped.
- A coordinate is a pair of round or square brackets with numbers. Two numbers are a point. Three numbers are a point and its
  depth in metres, in families that give depth. In other families, the third number is a confidence and is ignored. Four numbers
  are a box. A coordinate may also be an object with ``x`` and ``y`` or with ``x1``, ``y1``, ``x2`` and ``y2``. The coordinates in
  an object get its ``label`` (or ``name``).
- Numbers outside of brackets ("about 3, 4") and brackets with words ("(see 3, 4)") are prose. There is one exception: an answer
  that consists of nothing but two to four numbers is a coordinate.
- The separators between the numbers of a coordinate must be equal. Otherwise, a comma or blank may be part of a number, as in
  ``(1,000, 2,000)`` and ``(0,5, 0,25)``. This is an error. ``(1,024)`` and two numbers for one key (``{"x": 1,000}``) are errors
  for the same reason.
- The value of a key such as ``image_size``, ``color`` or ``score`` is not a coordinate. The size in a sentence such as "The image
  size is (640, 480)." is not a coordinate either. An object with ``x``, ``y``, ``width`` and ``height`` is an error, because
  ``x`` and ``y`` may be a corner or the centre.
- In families that put coordinates between tags such as ``<area>``, a pair of tags counts as the brackets of a list. The number of
  the image in ``<frame 5>:`` is ignored, because spatial tasks have one image.
- If the answer has a list, coordinates in the prose around it ("The image is (640, 480)") are ignored. Without a list, they are
  the answer.
- Equal points or boxes with equal labels count once, because models sometimes repeat themselves endlessly. A trajectory may
  return to an earlier waypoint, but equal consecutive waypoints count once.
- If the task needs boxes, two adjacent points are two opposite corners of a box, in any order.
- If the text ends within a coordinate, the complete coordinates count. It is an error if none is complete. An incomplete plan is
  always an error, because executing half a plan is dangerous.
- Some faults are errors because ignoring them would change what the robot does: a malformed coordinate in a list with valid
  ones, a number that is too long or too large, points instead of boxes or boxes instead of points, and fractions mixed with
  pixels.
- An empty list means that the model found nothing. A sentence without coordinates such as "There is no ..." (see `REFUSALS`)
  means the same. Instead of a plan, such a sentence must not begin like a command ("Check that there is no ...").
"""

from collections.abc import Sequence

from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.core.plans.structured import StructuredPlanReader
from robobrain_ros.core.profiles import AnswerForm, Profile
from robobrain_ros.core.query import Box, ParsedAnswer, PartialAnswer, PlanStep, Point, Task
from robobrain_ros.core.reading.coordinates import CoordinateReader
from robobrain_ros.core.reading.free_plans import FreePlanReader
from robobrain_ros.core.reading.marks import MarkReader
from robobrain_ros.core.reading.refusals import refuses_to_plan, reports_nothing_found
from robobrain_ros.core.reading.scores import read_score
from robobrain_ros.core.reading.tags import Segment, TagReader
from robobrain_ros.errors import UnparsableAnswerError


def parse_answer(
    task: Task, text: str, profile: Profile, *, thinking: bool = False, truncated: bool = False, constrained: bool = False
) -> ParsedAnswer:
    """Parse a whole answer. `AnswerParser` describes the arguments, `AnswerParser.finish` describes the result and the errors."""
    parser = AnswerParser(task, profile, thinking=thinking, constrained=constrained)
    parser.feed(text)
    return parser.finish(truncated=truncated)


class AnswerParser:
    """Parses an answer that arrives in pieces. The result does not depend on where the text is cut.

    :param thinking: the text begins within the thinking, because the opening tag was part of the prompt.
    :param plan_form: the text is a plan that was constrained to this form. It has no tags. Text that looks like a tag is part of
        a name.
    :param constrained: the text was constrained to `core.grammars.coordinate_pattern`, so its separators may differ.
    :raises UnsupportedTaskError: the profile does not support the task.
    """

    def __init__(
        self,
        task: Task,
        profile: Profile,
        *,
        thinking: bool = False,
        plan_form: PlanForm | None = None,
        constrained: bool = False,
    ) -> None:
        self.task = task
        self.form = profile.form(task)
        self._gives_depth = profile.gives_depth
        self._mark_names = profile.marks
        self._constrained = constrained
        self._plan_form = plan_form
        self._began_in_thinking = thinking
        self._tags = TagReader(thinking, ignore_tags=plan_form is not None)
        self._raw: list[str] = []
        self._discard_results()

    @property
    def raw_text(self) -> str:
        """The whole text so far, with tags around the pieces that a server declared to be thinking."""
        return "".join(self._raw)

    @property
    def thinking(self) -> str:
        """The thinking so far, without tags."""
        return self._tags.thinking

    @property
    def in_thinking(self) -> bool:
        """Whether the next text belongs to the thinking."""
        return self._tags.in_thinking

    @property
    def server_declares_thinking(self) -> bool:
        """Whether a server declared the last piece to be thinking."""
        return self._tags.server_declares_thinking

    @property
    def text(self) -> str:
        """The answer so far, without thinking and tags."""
        return self._tags.answer

    @property
    def normalized(self) -> bool:
        """Whether the coordinates so far are fractions of the image."""
        return self._coordinates.normalized

    def feed(self, text: str, thinking: bool = False) -> PartialAnswer:
        """Read the next piece.

        :param thinking: a server declared the piece to be thinking, so tags in it are ordinary text.
        :returns: the piece without tags, whether its end belongs to the thinking, and the parts that it completes, with
            coordinates as the model wrote them. These parts are preliminary. A later ``</think>`` without an opening tag turns
            them into thinking.
        """
        if text and thinking != self.server_declares_thinking and not (thinking and self._began_in_thinking):
            self._raw.append("<think>" if thinking else "</think>")  # The server removed the tag from the text.
        self._raw.append(text)
        return self._partial(self._tags.feed(text, thinking))

    def finish(self, truncated: bool = False) -> ParsedAnswer:
        """Return the whole answer, with coordinates as the model wrote them.

        :param truncated: the text was cut at the token limit.
        :raises UnparsableAnswerError: the answer is empty or does not have the task's form.
        """
        text = self.text
        if not text:
            raise UnparsableAnswerError(self._empty_message(truncated), self.raw_text)
        truncated = truncated and not self._tags.answer_closed
        if self.form is AnswerForm.TEXT:
            return ParsedAnswer(self.task, text, self.thinking)
        if self.form is AnswerForm.STEPS:
            return self._finish_plan(text, truncated)
        if self.form is AnswerForm.SCORE:
            return self._finish_score(text)
        return self._finish_spatial(text, truncated)

    def _discard_results(self) -> None:
        """Start again with new readers, because the text so far was thinking."""
        self._coordinates = CoordinateReader(self.form, self._gives_depth, self._constrained)
        self._marks = MarkReader(self._mark_names)
        self._free_plan = FreePlanReader()
        self._structured_plan = None if self._plan_form is None else StructuredPlanReader(self._plan_form)

    def _partial(self, segments: Sequence[Segment]) -> PartialAnswer:
        items: list[Point | Box] = []
        steps: list[PlanStep] = []
        for segment in segments:
            if segment.retracts_answer:
                self._discard_results()
                items, steps = [], []
            if segment.thinking or not segment.text:
                continue
            if self.task.spatial:
                items += self._coordinates.feed(self._marks.feed(segment.text))
            elif self.form is AnswerForm.STEPS:
                steps += (self._structured_plan or self._free_plan).feed(segment.text)
        text = "".join(segment.text for segment in segments)
        points, boxes, waypoints = self._by_kind(items)
        return PartialAnswer(text, self.in_thinking, points=points, boxes=boxes, waypoints=waypoints, steps=tuple(steps))

    def _by_kind(self, items: Sequence[Point | Box]) -> tuple[tuple[Point, ...], tuple[Box, ...], tuple[Point, ...]]:
        """Separate points, boxes and waypoints. In a trajectory, points are waypoints."""
        points = tuple(item for item in items if isinstance(item, Point))
        boxes = tuple(item for item in items if isinstance(item, Box))
        return ((), boxes, points) if self.form is AnswerForm.WAYPOINTS else (points, boxes, ())

    def _empty_message(self, truncated: bool) -> str:
        if self.server_declares_thinking:
            return (
                "The server sent reasoning but no answer. Its reasoning parser took the whole text for thinking, or the model "
                "reached the token limit. Increase max_tokens, or start the server without a reasoning parser."
            )
        if truncated and self.in_thinking:
            return "The model was still thinking when it reached the token limit. Increase max_tokens or disable thinking."
        if self.thinking:
            return "The model answered nothing after thinking. Retry without thinking."
        return "The model's answer is empty. Rephrase the question."

    def _finish_plan(self, text: str, truncated: bool) -> ParsedAnswer:
        if truncated:
            raise UnparsableAnswerError("The plan was cut at the token limit. Increase max_tokens.", self.raw_text)
        try:
            if self._structured_plan is not None:
                return self._structured_answer(self._structured_plan, text)
            plan = self._free_plan.finish()
        except ValueError as error:
            raise UnparsableAnswerError(f"The plan cannot be read: {error}.", self.raw_text) from error
        if not plan.is_list and refuses_to_plan(text):
            return ParsedAnswer(self.task, text, self.thinking, nothing_found=True)
        if not plan.steps:
            raise UnparsableAnswerError("The plan has no steps. Rephrase the task.", self.raw_text)
        return ParsedAnswer(self.task, text, self.thinking, steps=plan.steps, reasoning=plan.reasoning)

    def _structured_answer(self, reader: StructuredPlanReader, text: str) -> ParsedAnswer:
        plan = reader.finish()
        return ParsedAnswer(
            self.task,
            text,
            self.thinking,
            steps=plan.steps,
            reasoning=plan.reasoning,
            verdict=plan.verdict,
            nothing_found=plan.verdict is PlanVerdict.IMPOSSIBLE,
        )

    def _finish_score(self, text: str) -> ParsedAnswer:
        try:
            return ParsedAnswer(self.task, text, self.thinking, score=read_score(text))
        except ValueError as error:
            raise UnparsableAnswerError(f"The score cannot be read: {error}. Retry the request.", self.raw_text) from error

    def _finish_spatial(self, text: str, truncated: bool) -> ParsedAnswer:
        reader = self._coordinates
        reader.feed(self._marks.finish())
        reader.finish(text, truncated)
        if not reader.items and not reader.fault and self._found_nothing(text):
            return ParsedAnswer(self.task, text, self.thinking, nothing_found=True)
        fault = reader.fault or self._fault_of_form(truncated)
        if fault:
            raise UnparsableAnswerError(f"The answer cannot be read: {fault}.", self.raw_text)
        points, boxes, waypoints = self._by_kind(reader.items)
        return ParsedAnswer(
            self.task,
            text,
            self.thinking,
            points=points,
            boxes=boxes,
            waypoints=waypoints,
            normalized=self.normalized,
        )

    def _found_nothing(self, text: str) -> bool:
        """Return whether the answer reports that nothing was found.

        An empty list in an incomplete answer does not count, because more items may have followed.
        """
        return reports_nothing_found(text) or (self._coordinates.has_empty_list and not self._coordinates.ends_in_bracket)

    def _fault_of_form(self, truncated: bool) -> str:
        """Return why the coordinates are no answer to the task, or an empty string if they are an answer."""
        reader = self._coordinates
        if not reader.items:
            if reader.ends_in_bracket or truncated:
                return "it ends before the first coordinate is complete"
            return "it contains no coordinates"
        if self.form is AnswerForm.WAYPOINTS and any(isinstance(item, Box) for item in reader.items):
            return "it contains a bounding box instead of waypoints"
        if self.task is Task.GROUND and any(isinstance(item, Point) for item in reader.items):
            return "it contains a point instead of a bounding box"
        return ""
