"""The state of one request, from the query to the answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from robobrain_ros.core.imaging import Fitted
from robobrain_ros.core.plans.prompt import context_in_words
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.query import Answer, AnswerContent, Box, Defaults, ParsedAnswer, PartialAnswer, Point, Query, Report, Task
from robobrain_ros.core.reading.yes_or_no import begins_answer
from robobrain_ros.core.timed_images import sentence
from robobrain_ros.engine.base import TextDelta, TokenChoice
from robobrain_ros.errors import CanceledError, EngineFailedError

PartialAnswerListener = Callable[[PartialAnswer], None]


@dataclass
class Run:
    """One request with all defaults filled in, and its progress. Times are values of ``time.monotonic()`` in seconds."""

    query: Query
    profile: Profile
    defaults: Defaults
    think: bool
    max_tokens: int
    began: float
    deadline: float
    report: Report
    on_partial: PartialAnswerListener | None
    images: Sequence[Fitted] = ()
    """The query's images, resized for the model."""
    image_ids: Sequence[str] = ()
    """Names of these images in the engine's cache. It is empty if the images have no names."""
    choices: Sequence[TokenChoice] = ()
    """The likely tokens at the place where the answer to a condition begins. It is empty if the engine does not report them."""
    as_video: bool = False
    """Whether the images are the frames of a video."""
    plan_form: PlanForm | None = None
    """The form that constrains the answer. It is None for a plan as text and for other tasks."""

    @property
    def prompt_texts(self) -> tuple[str, ...]:
        """The texts of the user's message. See `Profile.prompt_texts`."""
        texts = list(self._question)
        if self.query.image_times and not self.as_video:
            texts[0] = f"{sentence(self.query.image_times)}\n{texts[0]}"
        texts[-1] += self.profile.request_to_think(self.think)
        return tuple(texts)

    @property
    def _question(self) -> tuple[str, ...]:
        query, profile = self.query, self.profile
        if query.plan is None or query.task is not Task.PLAN:
            return profile.prompt_texts(query.task, query.text)
        if self.plan_form is not None:
            return (profile.plan_prompt(query.text, query.plan),)
        context = context_in_words(query.plan)
        return ("\n".join(part for part in (context, profile.prompt(query.task, query.text)) if part),)

    def set_images(self, images: Sequence[Fitted]) -> None:
        """Set the resized images. Their names include their sizes, because the engine caches each size separately."""
        sizes = [(fitted.size.model_width, fitted.size.model_height) for fitted in images]
        self.images = images
        self.report.model_image_sizes = sizes
        named = zip(self.query.image_ids, sizes, strict=True) if self.query.image_ids else ()
        self.image_ids = [f"{name}@{width}x{height}" if name else "" for name, (width, height) in named]

    def count(self, delta: TextDelta, thinking: bool) -> None:
        """Add a piece of text to the report.

        :param thinking: whether the piece is part of the thinking.
        """
        report = self.report
        if not report.first_token_time and delta.tokens:
            report.first_token_time = time.monotonic() - self.began
        report.queue_time = report.queue_time or delta.queue_time
        report.prompt_tokens = max(report.prompt_tokens, delta.prompt_tokens)
        report.finish_reason = delta.finish_reason or report.finish_reason
        if thinking:
            report.thinking_tokens += delta.tokens
        else:
            report.answer_tokens += delta.tokens
            if self.query.condition and not self.choices:
                self.choices = next(filter(begins_answer, delta.choices), ())

    def publish(self, partial: PartialAnswer, normalized: bool) -> None:
        """Pass progress to the listener, with its parts in pixels of the query's image.

        :param normalized: whether coordinates are fractions of the image's width and height.
        """
        if not self.report.first_part_time and (partial.points or partial.boxes or partial.waypoints or partial.steps):
            self.report.first_part_time = time.monotonic() - self.began
        if self.on_partial is not None and partial.text:
            points, boxes, waypoints = self._in_image(partial, normalized)
            self.on_partial(replace(partial, points=points, boxes=boxes, waypoints=waypoints))

    def finish_reason(self) -> str:
        """Return why the last generation ended: "stop" or "length".

        :raises CanceledError: the engine aborted the generation.
        :raises EngineFailedError: the generation ended early.
        """
        reason = self.report.finish_reason
        if reason == "abort":
            raise CanceledError("The request was aborted.")
        if reason not in ("stop", "length"):
            raise EngineFailedError(f"The engine stopped the answer early ({reason or 'without a reason'}). Retry the request.")
        return reason

    def answer(self, parsed: ParsedAnswer) -> Answer:
        """Return the answer, with its parts in pixels of the query's image."""
        points, boxes, waypoints = self._in_image(parsed, parsed.normalized)
        content = {field.name: getattr(parsed, field.name) for field in fields(AnswerContent)}
        return Answer(**content | {"points": points, "boxes": boxes, "waypoints": waypoints}, report=self.report)

    def _in_image(
        self, parts: ParsedAnswer | PartialAnswer, normalized: bool
    ) -> tuple[tuple[Point, ...], tuple[Box, ...], tuple[Point, ...]]:
        """Convert points, boxes and waypoints from the model's coordinates to pixels of the query's image."""
        if not self.query.task.spatial:
            return (), (), ()
        size, rule = self.images[0].size, self.profile.coordinates
        return (
            tuple(size.to_image(point, rule, normalized) for point in parts.points),
            tuple(size.box_to_image(box, rule, normalized) for box in parts.boxes),
            tuple(size.to_image(point, rule, normalized) for point in parts.waypoints),
        )
