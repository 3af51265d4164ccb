"""From a question and images to an answer: the whole way, without ROS."""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from robobrain_ros.bounds import deadlines
from robobrain_ros.bounds.control_tokens import without_control_tokens
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import Fitted, FittedSize, PixelBudget, fit_image
from robobrain_ros.core.plans.checks import check_request
from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.prompt import context_in_words
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict
from robobrain_ros.core.plans.schema import PlanForm, plan_form
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.prompt_checks import check_prompt_texts
from robobrain_ros.core.query import Answer, Box, Defaults, ParsedAnswer, Point, Progress, Query, Report, RgbImage, Task
from robobrain_ros.core.reading.answers import AnswerParser
from robobrain_ros.engine.base import (
    DEFAULT_CONTEXT,
    DEFAULT_MAX_PIXELS,
    MOST_IMAGES,
    Constraint,
    Engine,
    EngineInfo,
    Generation,
    TextDelta,
)
from robobrain_ros.errors import (
    BadRequestError,
    CanceledError,
    EngineFailedError,
    NothingFoundError,
    RequestTimeoutError,
    RoboBrainError,
    UnparsableAnswerError,
)

LONGEST_TEXT = 8000
"""Characters a question may have: far more than anyone asks, far less than what fills a model's context."""

_AROUND_PROMPT = 64
"""Tokens that a chat template and the tags put around a prompt, at most."""
_PIXELS_WORTH_A_THREAD = 200_000
"""Images larger than this are resized beside the loop, which they would hold for milliseconds; the hand-over costs 0.3 ms."""

ProgressListener = Callable[[Progress], None]


@dataclass
class _Run:
    """One request on its way: what it asked for, with every default filled in, and what has become known of it."""

    query: Query
    think: bool
    max_tokens: int
    deadline: float
    on_progress: ProgressListener | None
    report: Report
    began: float
    images: list[Fitted] = field(default_factory=list)
    plan_form: PlanForm | None = None
    """What the answer is held to; None: a plan in words, or no plan."""

    @property
    def size(self) -> FittedSize:
        """Of the one image of a spatial task."""
        return self.images[0].size


class Brain:
    """Answers queries with a model. A brain does not change; `with_defaults` returns another one for the same engine.

    :param engine: a started engine. Await `run` on the engine's event loop.
    :param profile: the profile of the model family that the engine serves.
    :param info: the result of the engine's ``start``. Without it the limits of the model family apply.
    :param max_pixels: pixel limit of each image that the model sees. A lower limit is faster.
    :param defaults: settings for everything that a query leaves open.
    :raises EngineConfigError: ``max_pixels`` is too low for any image.
    """

    def __init__(
        self,
        engine: Engine,
        profile: Profile,
        *,
        info: EngineInfo | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        defaults: Defaults | None = None,
    ) -> None:
        self.engine: Final = engine
        self.profile: Final = profile
        self.info: Final = info or EngineInfo(model="", model_type=profile.model_type, engine="", cell=profile.cell)
        self.defaults: Final = defaults or Defaults()
        self.budget: Final = PixelBudget.within(
            max_pixels, self.info.min_pixels, self.info.max_pixels, self.info.cell or profile.cell
        )
        self._max_pixels: Final = max_pixels

    def with_defaults(self, **changes: Any) -> "Brain":
        """A brain for the same engine with other defaults. Requests in flight keep the defaults that they began with.

        :param changes: fields of `Defaults`.
        """
        defaults = replace(self.defaults, **changes)
        return Brain(self.engine, self.profile, info=self.info, max_pixels=self._max_pixels, defaults=defaults)

    async def run(self, query: Query, on_progress: ProgressListener | None = None) -> Answer:
        """Answer a query.

        :param on_progress: called on the loop with each new piece of text and the parts that it completes, in the pixels of
            the query's own image. What is given there is preliminary; the answer is what counts.
        :returns: the answer, all coordinates in the pixels of the query's own image.
        :raises RoboBrainError: every failure, with ``report`` (how far it got) and, once the model wrote, ``raw_text``. By name:
            BadRequestError, UnsupportedTaskError, BadImageError, UnparsableAnswerError, NothingFoundError,
            RequestTimeoutError, CanceledError (the engine was told to abort), EngineFailedError.

        Cancelling the task that awaits this aborts the request in the engine.
        """
        began = time.monotonic()
        report = Report(model=self.info.model, engine=self.info.engine, flagos_active=self.info.flagos_active)
        try:
            run = self._prepare(query, on_progress, report, began)
            return await _within(self._answer(run), run.deadline)
        except RoboBrainError as error:
            report.total_time = time.monotonic() - began
            error.report = report
            error.raw_text = error.raw_text or report.raw_text
            raise
        finally:
            self._note_flagos(report)

    async def close(self) -> None:
        """Close the engine: give back its memory and processes."""
        await self.engine.close()

    def _note_flagos(self, report: Report) -> None:
        """Say which FlagGems operators the engine has; one that was built again may have others than at first."""
        health = self.engine.health()
        report.flagos_operators = health.flagos_operators
        if health.flagos_active is not None:
            report.flagos_active = health.flagos_active

    def _prepare(self, query: Query, on_progress: ProgressListener | None, report: Report, began: float) -> _Run:
        """Check the query and fill in what it leaves open."""
        self.profile.form(query.task)
        if not query.text.strip():
            raise BadRequestError("The question is empty; say what is asked for.")
        if len(query.text) > LONGEST_TEXT:
            raise BadRequestError(f"The question has {len(query.text)} characters; at most {LONGEST_TEXT} are allowed.")
        check_prompt_texts(query, self.info.special_tokens)
        _check_image_count(query)
        timeout = self.defaults.timeout if query.timeout is None else query.timeout
        if not (math.isfinite(timeout) and timeout > 0):
            raise BadRequestError(f"The timeout is {timeout} s; it must be a positive number of seconds.")
        max_tokens = self.defaults.max_tokens if query.max_tokens is None else query.max_tokens
        if max_tokens < 1:
            raise BadRequestError(f"max_tokens is {max_tokens}; an answer needs at least 1.")
        think = self.defaults.think and self.profile.can_think if query.think is None else query.think
        if think and not self.profile.can_think:
            raise BadRequestError(f"This {self.profile.family} checkpoint was not trained to think; ask without thinking.")
        report.think = think
        return _Run(query, think, max_tokens, began + timeout, on_progress, report, began)

    async def _answer(self, run: _Run) -> Answer:
        limits = run.query.max_pixels or [0] * len(run.query.images)
        budgets = [self.budget.narrowed(limit) for limit in limits]
        run.images = [await _fit(image, budget) for image, budget in zip(run.query.images, budgets, strict=True)]
        run.report.model_image_sizes = [(fitted.size.model_width, fitted.size.model_height) for fitted in run.images]
        run.plan_form = await self._plan_form(run)
        parsed = await self._ask_until_answered(run)
        run.report.total_time = time.monotonic() - run.began
        if parsed.verdict is PlanVerdict.IMPOSSIBLE:
            raise NothingFoundError(f'The model says that the task cannot be done: "{parsed.reasoning}"', run.report.raw_text)
        if parsed.nothing_found:
            raise NothingFoundError(
                f'The model says that what was asked for is not there: "{_shorten(parsed.text)}"', run.report.raw_text
            )
        if run.plan_form is not None:
            check_feasible(parsed.steps, run.plan_form.request)
        return _to_answer(parsed, run, self.profile)

    async def _plan_form(self, run: _Run) -> PlanForm | None:
        """What a plan is held to, made in another thread: a large request takes a while, and others are answered meanwhile."""
        request = run.query.plan
        if request is None or run.query.task is not Task.PLAN:
            return None
        if not _is_structured(request):
            await asyncio.to_thread(check_request, request)
            return None
        return await asyncio.to_thread(lambda: plan_form(request, self._room(run, request)))

    def _room(self, run: _Run, request: PlanRequest) -> int:
        """Tokens that the model's context has left for an answer."""
        check_request(request)  # Before its texts are put into a prompt.
        count = self.info.count_tokens or _count_bytes
        prompt = count(self.profile.plan_prompt(run.query.text, request))
        cell = self.info.cell or self.profile.cell
        images = sum(width * height // cell**2 for width, height in run.report.model_image_sizes)
        thinking = self.defaults.think_tokens if run.think else 0
        return (self.info.max_model_len or DEFAULT_CONTEXT) - prompt - images - thinking - _AROUND_PROMPT

    async def _ask_until_answered(self, run: _Run) -> ParsedAnswer:
        """Ask; when nothing comes, once more without thinking.

        Whether a checkpoint can think cannot be read off it, and one that cannot answers nothing to the tags of those that
        can. So where it did not think, the second try leaves the tags out.
        """
        thinking = await self._think(run) if run.think else ""
        without_thinking = self.profile.assistant_prefix(think=False)
        prefix = self.profile.prefix_after_thinking(thinking) if run.think else without_thinking
        parser, finish_reason = await self._write(run, prefix)
        if not parser.text:
            prefix = "" if prefix == without_thinking else without_thinking
            thinking, run.report.think, run.report.raw_text = "", False, ""
            parser, finish_reason = await self._write(run, prefix)
        try:
            parsed = parser.finish(truncated=finish_reason == "length")
        except UnparsableAnswerError as error:
            error.raw_text = run.report.raw_text
            raise
        return replace(parsed, thinking=parsed.thinking or thinking.strip())

    async def _think(self, run: _Run) -> str:
        """Let the model think within its budget; gives what it thought."""
        parser = AnswerParser(run.query.task, self.profile, thinking=True)
        prefix = self.profile.assistant_prefix(think=True)
        await self._generate(run, parser, prefix, self.defaults.think_tokens, stop=("</think>", "<answer>"))
        # A server with a reasoning parser may have continued with the answer, which is requested separately.
        thought = parser.raw_text.partition("</think>")[0]
        run.report.raw_text = f"{thought}</think><answer>"
        # The model may have written a control token, for example from a sign in the image. In the prompt it would be a real one.
        return without_control_tokens(thought, self.info.special_tokens)

    async def _write(self, run: _Run, prefix: str) -> tuple[AnswerParser, str]:
        """Let the model answer; gives the parser, fed, and the finish reason."""
        parser = AnswerParser(run.query.task, self.profile, plan_form=run.plan_form)
        if run.plan_form is not None:
            # A plan must not be cut: its form bounds it, and max_tokens does not.
            constraint = Constraint(json_schema=run.plan_form.text)
            return parser, await self._generate(run, parser, prefix, run.plan_form.tokens, (), constraint)
        stop = ("</answer>",) if prefix else ()
        return parser, await self._generate(run, parser, prefix, run.max_tokens, stop, self._coordinates_alone(run))

    def _coordinates_alone(self, run: _Run) -> Constraint | None:
        """What the answer to a spatial task is held to."""
        task = run.query.task
        if not (self.defaults.constrain_coordinates and task.spatial):
            return None
        return Constraint(regex=coordinate_pattern(task, self.profile, run.size))

    async def _generate(
        self,
        run: _Run,
        parser: AnswerParser,
        prefix: str,
        max_tokens: int,
        stop: Sequence[str],
        constraint: Constraint | None = None,
    ) -> str:
        """Run one generation to its end, feed the parser and the listener, count; gives the finish reason."""
        generation = Generation(
            request_id=uuid.uuid4().hex,
            user_text=self._prompt(run),
            images=[fitted.image for fitted in run.images],
            max_tokens=max_tokens,
            image_ids=_fitted_ids(run),
            assistant_prefix=prefix,
            stop=stop,
            priority=run.query.priority,
            constraint=constraint,
        )
        already_written = run.report.raw_text
        run.report.finish_reason = ""
        try:
            async with aclosing(self.engine.generate(generation)) as stream:
                async for delta in stream:
                    _count(delta, run, delta.thinking or (parser.in_thinking and not parser.server_declares_thinking))
                    progress = parser.feed(delta.text, delta.thinking)
                    _note_first_part(progress, run)
                    if run.on_progress is not None and progress.text:
                        run.on_progress(self._map(progress, run, parser.normalized))
        finally:
            run.report.raw_text = already_written + parser.raw_text
        return _checked_finish_reason(run.report)

    def _prompt(self, run: _Run) -> str:
        query = run.query
        if query.plan is None or query.task is not Task.PLAN:
            return self.profile.prompt(query.task, query.text)
        if run.plan_form is not None:
            return self.profile.plan_prompt(query.text, query.plan)
        known = context_in_words(query.plan)
        return "\n".join(part for part in (known, self.profile.prompt(query.task, query.text)) if part)

    def _map(self, progress: Progress, run: _Run, normalized: bool) -> Progress:
        points, boxes, waypoints = _to_image(progress, run, self.profile, normalized)
        return replace(progress, points=points, boxes=boxes, waypoints=waypoints)


def _is_structured(request: PlanRequest) -> bool:
    """Whether the answer is held to a form: what robots shall do, and whether a task is done."""
    return bool(request.robots) or request.mode is PlanMode.CHECK


def _count_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


async def _fit(image: RgbImage, budget: PixelBudget) -> Fitted:
    if getattr(image, "size", 0) // 3 > _PIXELS_WORTH_A_THREAD:
        return await asyncio.to_thread(fit_image, image, budget)
    return fit_image(image, budget)


def _count(delta: TextDelta, run: _Run, thinking: bool) -> None:
    report = run.report
    if not report.first_token_time and delta.tokens:
        report.first_token_time = time.monotonic() - run.began
    report.queue_time = report.queue_time or delta.queue_time
    report.prompt_tokens = max(report.prompt_tokens, delta.prompt_tokens)
    report.finish_reason = delta.finish_reason or report.finish_reason
    if thinking:
        report.thinking_tokens += delta.tokens
    else:
        report.answer_tokens += delta.tokens


def _note_first_part(progress: Progress, run: _Run) -> None:
    if not run.report.first_part_time and (progress.points or progress.boxes or progress.waypoints or progress.steps):
        run.report.first_part_time = time.monotonic() - run.began


def _checked_finish_reason(report: Report) -> str:
    """A stream that did not end as it should has not given the whole answer."""
    if report.finish_reason == "abort":
        raise CanceledError("The request was aborted.")
    if report.finish_reason not in ("stop", "length"):
        raise EngineFailedError(f"The engine broke the answer off ({report.finish_reason or 'without a reason'}); ask again.")
    return report.finish_reason


def _check_image_count(query: Query) -> None:
    count = len(query.images)
    if query.task.spatial and count != 1:
        raise BadRequestError(f"The task {query.task.value} takes exactly one image, not {count}.")
    if not 1 <= count <= MOST_IMAGES:
        raise BadRequestError(f"The task {query.task.value} takes 1 to {MOST_IMAGES} images, not {count}.")
    if query.image_ids and len(query.image_ids) != count:
        raise BadRequestError(f"There are {len(query.image_ids)} image ids for {count} images.")
    if query.max_pixels and (len(query.max_pixels) != count or min(query.max_pixels) < 0):
        raise BadRequestError(f"max_pixels is {list(query.max_pixels)}; it must be one number, 0 or more, for each image.")


def _fitted_ids(run: _Run) -> list[str]:
    """The names of the images as fitted: the same image at another size is another one for the engine's cache."""
    if not run.query.image_ids:
        return []
    named = zip(run.query.image_ids, run.report.model_image_sizes, strict=True)
    return [f"{name}@{width}x{height}" if name else "" for name, (width, height) in named]


def _to_answer(parsed: ParsedAnswer, run: _Run, profile: Profile) -> Answer:
    points, boxes, waypoints = _to_image(parsed, run, profile, parsed.normalized)
    return Answer(
        task=parsed.task,
        text=parsed.text,
        thinking=parsed.thinking,
        points=points,
        boxes=boxes,
        waypoints=waypoints,
        steps=parsed.steps,
        reasoning=parsed.reasoning,
        verdict=parsed.verdict,
        report=run.report,
    )


def _to_image(
    parts: ParsedAnswer | Progress, run: _Run, profile: Profile, normalized: bool
) -> tuple[tuple[Point, ...], tuple[Box, ...], tuple[Point, ...]]:
    """Points, boxes and waypoints mapped from the model's coordinates into the pixels of the query's own image."""
    if not run.query.task.spatial:
        return (), (), ()
    size, rule = run.size, profile.coordinates
    return (
        tuple(size.to_image(point, rule, normalized) for point in parts.points),
        tuple(size.box_to_image(box, rule, normalized) for box in parts.boxes),
        tuple(size.to_image(point, rule, normalized) for point in parts.waypoints),
    )


def _shorten(text: str) -> str:
    """One line of at most 80 characters, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


async def _within(work: Coroutine[Any, Any, Answer], deadline: float) -> Answer:
    """Await within a deadline. Given up, the work is cancelled, and has a moment to let go of what it holds."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)  # Now: the work may fail in the very moment in which whoever awaits it is cancelled.
    try:
        await asyncio.wait({task}, timeout=max(deadline - time.monotonic(), 0.0))
        if task.cancelled():
            raise CanceledError("The request was canceled with the engine's loop; ask again.")
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=deadlines.RELEASE)
    raise RequestTimeoutError("The request's deadline has passed; allow more time, or let the model see fewer pixels.")


def _retrieve(task: "asyncio.Task[Answer]") -> None:
    """Whatever a given-up request ends with has no reader any more."""
    if not task.cancelled():
        task.exception()
