"""Answer queries with a model. This module needs no ROS."""

import asyncio
import math
import time
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from robobrain_ros.bounds import deadlines
from robobrain_ros.bounds.control_tokens import without_control_tokens
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core import timed_images
from robobrain_ros.core.grammars import SCORE_PATTERN, YES_OR_NO, coordinate_pattern
from robobrain_ros.core.imaging import Fitted, PixelBudget, check_image, fit, fit_image
from robobrain_ros.core.plans.checks import check_request
from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict
from robobrain_ros.core.plans.schema import PlanForm, plan_form
from robobrain_ros.core.profiles import AnswerForm, Profile
from robobrain_ros.core.query import Answer, Defaults, ParsedAnswer, Query, Report, RgbImage, Task
from robobrain_ros.core.query_checks import check_query
from robobrain_ros.core.reading.answers import AnswerParser
from robobrain_ros.core.reading.yes_or_no import confidence_in, read_yes_or_no
from robobrain_ros.core.run import PartialAnswerListener, Run
from robobrain_ros.engine.base import (
    DEFAULT_CONTEXT,
    DEFAULT_MAX_PIXELS,
    MOST_CHOICES,
    Constraint,
    Engine,
    EngineInfo,
    Generation,
)
from robobrain_ros.errors import (
    BadRequestError,
    CanceledError,
    NothingFoundError,
    RequestTimeoutError,
    RoboBrainError,
    UnparsableAnswerError,
)

_TEMPLATE_TOKENS = 64
"""Most tokens that the chat template and the tags add to a prompt."""
_PIXELS_WORTH_A_THREAD = 200_000
"""Images with more pixels are resized in another thread, so that they do not block the event loop. A thread takes 0.3 ms."""


class Brain:
    """Answers queries with a model. A brain is immutable. `with_defaults` returns a new brain for the same engine.

    :param engine: a started engine. Await `run` on the engine's event loop.
    :param profile: the profile of the model family that the engine serves.
    :param info: the result of the engine's ``start``. Without it, the limits of the model family apply.
    :param max_pixels: pixel limit of each image for the model. A lower limit makes answers faster.
    :param defaults: settings that a query does not set.
    :param identified_by: how the profile was identified, for reports.
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
        identified_by: str = "",
    ) -> None:
        self.engine: Final = engine
        self.profile: Final = profile
        self.info: Final = info or EngineInfo(model="", model_type=profile.model_type, engine="", cell=profile.cell)
        self.defaults: Final = defaults or Defaults()
        self.budget: Final = PixelBudget.within(max_pixels, self.info.min_pixels, self.info.max_pixels, self._cell)
        self._max_pixels: Final = max_pixels
        self.identified_by: Final = identified_by

    def with_defaults(self, **changes: Any) -> "Brain":
        """Return a brain for the same engine with other defaults. Requests in flight keep their defaults.

        :param changes: fields of `Defaults`.
        """
        defaults = replace(self.defaults, **changes)
        return Brain(
            self.engine,
            self.profile,
            info=self.info,
            max_pixels=self._max_pixels,
            defaults=defaults,
            identified_by=self.identified_by,
        )

    def new_report(self) -> Report:
        """Return a report that names the model, its profile and the engine."""
        info = self.info
        profile = f"{self.profile.name} (identified by {self.identified_by})" if self.identified_by else self.profile.name
        return Report(info.model, info.engine, info.flagos_active, profile=profile)

    async def run(self, query: Query, on_partial: PartialAnswerListener | None = None) -> Answer:
        """Answer a query. Cancelling the task that awaits this aborts the request in the engine.

        :param on_partial: called on the event loop with each new piece of text and the parts that it completes, in the pixels
            of the query's image. These parts are preliminary. Only the returned answer is final.
        :returns: the answer, with all coordinates in the pixels of the query's image.
        :raises RoboBrainError: on every failure, with ``report``, and with ``raw_text`` if the model wrote something. One of:
            BadRequestError, UnsupportedTaskError, BadImageError, UnparsableAnswerError, NothingFoundError, InfeasiblePlanError,
            RequestTimeoutError, CanceledError (the engine aborted the request) and EngineFailedError.
        """
        began = time.monotonic()
        report = self.new_report()
        try:
            run = self._checked_run(query, on_partial, report, began)
            return await _within(self._answer(run), run.deadline)
        except RoboBrainError as error:
            report.total_time = time.monotonic() - began
            error.report = report
            error.raw_text = error.raw_text or report.raw_text
            raise
        finally:
            self._report_flagos(report)

    async def close(self) -> None:
        """Close the engine and release its memory and processes."""
        await self.engine.close()

    @property
    def _cell(self) -> int:
        return self.info.cell or self.profile.cell

    def _report_flagos(self, report: Report) -> None:
        """Report the FlagGems operators of the engine. They can change when the engine restarts."""
        health = self.engine.health()
        report.flagos_operators = health.flagos_operators
        if health.flagos_active is not None:
            report.flagos_active = health.flagos_active

    def _checked_run(self, query: Query, on_partial: PartialAnswerListener | None, report: Report, began: float) -> Run:
        """Check the query and fill in the defaults."""
        self.profile.form(query.task)
        check_query(query, self.info.special_tokens)
        timeout = self.defaults.timeout if query.timeout is None else query.timeout
        if not (math.isfinite(timeout) and timeout > 0):
            raise BadRequestError(f"The timeout is {timeout} s. It must be a positive number of seconds.")
        max_tokens = self.defaults.max_tokens if query.max_tokens is None else query.max_tokens
        if max_tokens < 1:
            raise BadRequestError(f"max_tokens is {max_tokens}. It must be at least 1.")
        can_think = self.profile.can_think and self.profile.uses_tags(query.task)
        think = self.defaults.think and can_think if query.think is None else query.think
        think = think or (can_think and self.profile.always_thinks)
        if think and not self.profile.can_think:
            raise BadRequestError(f"This {self.profile.family} checkpoint was not trained to think. Retry without thinking.")
        if think and not can_think:
            raise BadRequestError(f"No model was trained to think about the task {query.task.value}. Retry without thinking.")
        report.think = think
        return Run(query, self.profile, self.defaults, think, max_tokens, began, began + timeout, report, on_partial)

    async def _answer(self, run: Run) -> Answer:
        run.set_images(await self._fit_images(run))
        run.plan_form = await self._plan_form(run)
        parsed = await self._ask(run)
        run.report.total_time = time.monotonic() - run.began
        _require_found(parsed, run.query, run.report.raw_text)
        if run.plan_form is not None:
            check_feasible(parsed.steps, run.plan_form.request)
        return run.answer(parsed)

    def check_times_fit(self, query: Query, sizes: Sequence[tuple[int, int]]) -> None:
        """Check that images of different times fit into the model's context. It needs only their sizes, so none is decoded.

        :param query: the query. Its images are not used.
        :param sizes: width and height of each image in pixels.
        :raises BadRequestError: they do not fit. The message states the numbers of tokens.
        :raises BadImageError: a size cannot be fitted (see `imaging.fit`).
        """
        as_video = self._takes_video(query, sizes)
        budgets = self._budgets(query, len(sizes), as_video)
        fitted = [fit(size, each.min_pixels, each.max_pixels, each.cell) for size, each in zip(sizes, budgets, strict=True)]
        model_sizes = [(size.model_width, size.model_height) for size in fitted]
        visual = timed_images.visual_tokens(model_sizes, as_video, self._cell)
        text = self.info.count_tokens(query.text) if self.info.count_tokens else 0
        context = self.info.max_model_len or DEFAULT_CONTEXT
        if visual + text >= context:
            raise BadRequestError(
                f"{len(sizes)} images need {visual} visual tokens, and the question {text}; the context of the model has "
                f"{context}. Use fewer images, or raise engine.max_model_len."
            )

    def _takes_video(self, query: Query, sizes: Sequence[tuple[int, int]]) -> bool:
        """Return whether images of different times become a video."""
        return self.info.takes_video and timed_images.is_even(query.image_times) and len(set(sizes)) == 1

    def _budgets(self, query: Query, count: int, as_video: bool) -> list[PixelBudget]:
        """Return the pixel budget of each of ``count`` images."""
        budget = self.budget.narrowed(self.profile.image_limit(query.task))
        if query.image_times:
            budget = budget.narrowed(timed_images.pixel_limit(count, as_video, self._cell))
        return [budget.narrowed(limit) for limit in query.max_pixels or [0] * count]

    async def _fit_images(self, run: Run) -> list[Fitted]:
        query = run.query
        for image in query.images:
            check_image(image)
        sizes = [(image.shape[1], image.shape[0]) for image in query.images]
        if query.image_times:
            self.check_times_fit(query, sizes)
            run.as_video = self._takes_video(query, sizes)
        budgets = self._budgets(query, len(sizes), run.as_video)
        return [await _fit(image, budget) for image, budget in zip(query.images, budgets, strict=True)]

    async def _plan_form(self, run: Run) -> PlanForm | None:
        """Return the form that constrains a plan. Another thread makes the form, because a large request takes long."""
        request = run.query.plan
        if request is None or run.query.task is not Task.PLAN:
            return None
        if not _is_structured(request):
            await asyncio.to_thread(check_request, request)
            return None
        return await asyncio.to_thread(lambda: plan_form(request, self._free_context(run, request)))

    def _free_context(self, run: Run, request: PlanRequest) -> int:
        """Return the number of tokens in the model's context that are left for a plan."""
        check_request(request)  # This must happen before its texts become part of a prompt.
        count_tokens = self.info.count_tokens or _count_bytes
        prompt = count_tokens(self.profile.plan_prompt(run.query.text, request))
        images = sum(width * height // self._cell**2 for width, height in run.report.model_image_sizes)
        thinking = run.defaults.think_tokens if run.think else 0
        return (self.info.max_model_len or DEFAULT_CONTEXT) - prompt - images - thinking - _TEMPLATE_TOKENS

    async def _ask(self, run: Run) -> ParsedAnswer:
        """Ask the model. If its answer is empty, ask again without thinking.

        A checkpoint's files do not show whether the model can think. A model that cannot think gives an empty answer to a prompt
        with think tags. If the first request is without thinking, the second request has no tags. Tasks without
        tags are asked once, and so are families that always think.
        """
        tagged = self.profile.uses_tags(run.query.task)
        thinking = await self._think(run) if run.think else ""
        prefix_without_thinking = self.profile.assistant_prefix(think=False) if tagged else ""
        prefix = self.profile.prefix_after_thinking(thinking) if run.think else prefix_without_thinking
        parser, finish_reason = await self._write_answer(run, prefix)
        if tagged and not parser.text and not self.profile.always_thinks:
            prefix = "" if prefix == prefix_without_thinking else prefix_without_thinking
            thinking, run.report.think, run.report.raw_text = "", False, ""
            parser, finish_reason = await self._write_answer(run, prefix)
        try:
            parsed = parser.finish(truncated=finish_reason == "length")
        except UnparsableAnswerError as error:
            error.raw_text = run.report.raw_text
            raise
        parsed = replace(parsed, thinking=parsed.thinking or thinking.strip())
        return _judged(parsed, run) if run.query.condition else parsed

    async def _think(self, run: Run) -> str:
        """Let the model think up to the token limit. Return the thinking without tags and control tokens."""
        parser = AnswerParser(run.query.task, self.profile, thinking=True)
        prefix = self.profile.assistant_prefix(think=True)
        await self._generate(run, parser, prefix, run.defaults.think_tokens, stop=("</think>", "<answer>"))
        # A server with a reasoning parser may have added the answer. The answer is requested separately.
        thinking = parser.raw_text.partition("</think>")[0]
        run.report.raw_text = f"{thinking}{self.profile.end_of_thinking()}"
        # The model may have copied a control token, for example from a sign in the image. The next prompt must not contain it.
        return without_control_tokens(thinking, self.info.special_tokens)

    async def _write_answer(self, run: Run, prefix: str) -> tuple[AnswerParser, str]:
        """Let the model answer. Return the parser, which has the whole text, and the finish reason."""
        if run.plan_form is not None:
            parser = AnswerParser(run.query.task, self.profile, plan_form=run.plan_form)
            # The form limits the length. max_tokens does not apply, because a truncated plan is not valid.
            form = Constraint(json_schema=run.plan_form.text)
            return parser, await self._generate(run, parser, prefix, run.plan_form.tokens, (), form)
        stop = ("</answer>",) if prefix else ()
        constraint = self._constraint(run)
        parser = AnswerParser(run.query.task, self.profile, constrained=constraint is not None)
        return parser, await self._generate(run, parser, prefix, run.max_tokens, stop, constraint)

    def _constraint(self, run: Run) -> Constraint | None:
        """Return the constraint of the answer: a score, coordinates within the image, or yes or no. None: the answer is free."""
        task = run.query.task
        if self.profile.form(task) is AnswerForm.SCORE:
            return Constraint(regex=SCORE_PATTERN)
        if run.defaults.constrain_coordinates and run.query.condition:
            return Constraint(regex=YES_OR_NO)
        if not (run.defaults.constrain_coordinates and task.spatial):
            return None
        pattern = coordinate_pattern(task, self.profile, run.images[0].size)
        return Constraint(regex=pattern) if pattern else None

    async def _generate(
        self,
        run: Run,
        parser: AnswerParser,
        prefix: str,
        max_tokens: int,
        stop: Sequence[str],
        constraint: Constraint | None = None,
    ) -> str:
        """Run one generation, and pass its text to the parser, the report and the listener. Return the finish reason."""
        *text_before_images, user_text = run.prompt_texts
        generation = Generation(
            request_id=uuid.uuid4().hex,
            user_text=user_text,
            images=[fitted.image for fitted in run.images],
            max_tokens=max_tokens,
            image_ids=run.image_ids,
            text_before_images=text_before_images,
            video_times=run.query.image_times if run.as_video else (),
            assistant_prefix=prefix,
            stop=stop,
            priority=run.query.priority,
            constraint=constraint,
            choices=MOST_CHOICES if run.query.condition and not parser.in_thinking else 0,
        )
        earlier_text = run.report.raw_text
        run.report.finish_reason = ""
        try:
            async with aclosing(self.engine.generate(generation)) as stream:
                async for delta in stream:
                    run.count(delta, delta.thinking or (parser.in_thinking and not parser.server_declares_thinking))
                    partial = parser.feed(delta.text, delta.thinking)
                    run.publish(partial, parser.normalized)
        finally:
            run.report.raw_text = earlier_text + parser.raw_text
        return run.finish_reason()


def _is_structured(request: PlanRequest) -> bool:
    """Return whether a form constrains the answer: for a plan for robots, and for a check whether the task is done."""
    return bool(request.robots) or request.mode is PlanMode.CHECK


def _count_bytes(text: str) -> int:
    """Return an upper limit of the number of tokens of a text."""
    return len(text.encode("utf-8", "replace"))


async def _fit(image: RgbImage, budget: PixelBudget) -> Fitted:
    if getattr(image, "size", 0) // 3 > _PIXELS_WORTH_A_THREAD:
        return await asyncio.to_thread(fit_image, image, budget)
    return fit_image(image, budget)


def _require_found(parsed: ParsedAnswer, query: Query, raw_text: str) -> None:
    """Raise NothingFoundError if the model reports that it found nothing, or that the task is impossible.

    The model may name a different object than the request, so the message quotes both.
    """
    wanted = f'"{_shorten(query.text)}"'
    if parsed.verdict is PlanVerdict.IMPOSSIBLE:
        raise NothingFoundError(
            f'The model reports that {wanted} is impossible. The model\'s reason: "{parsed.reasoning}"', raw_text
        )
    if not parsed.nothing_found:
        return
    what = "made no plan for" if query.task is Task.PLAN else "found nothing in the image for"
    raise NothingFoundError(f'The model {what} {wanted}. The model\'s answer: "{_shorten(parsed.text)}"', raw_text)


def _judged(parsed: ParsedAnswer, run: Run) -> ParsedAnswer:
    """Return the answer to a condition with its verdict and confidence.

    :raises UnparsableAnswerError: the answer is neither yes nor no.
    """
    holds = read_yes_or_no(parsed.text)
    if holds is None:
        what = f'The answer "{_shorten(parsed.text)}" to a condition is neither yes nor no.'
        raise UnparsableAnswerError(f"{what} Rephrase the question.", run.report.raw_text)
    return replace(parsed, holds=holds, confidence=confidence_in(holds, run.choices))


def _shorten(text: str) -> str:
    """Return the text as one line of at most 80 characters."""
    return shortened(" ".join(text.split()), 80)


async def _within(work: Coroutine[Any, Any, Answer], deadline: float) -> Answer:
    """Await the work until the deadline. Then cancel the work, and wait briefly until the engine releases the request."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)  # Before the first await: this function may be cancelled while the work fails.
    try:
        await asyncio.wait({task}, timeout=max(deadline - time.monotonic(), 0.0))
        if task.cancelled():
            raise CanceledError("The engine's event loop stopped and canceled the request. Retry the request.")
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=deadlines.ENGINE_RELEASE)
    raise RequestTimeoutError(
        "The deadline passed before the model answered. Increase the timeout, or decrease max_pixels, which makes answers faster."
    )


def _retrieve(task: "asyncio.Task[Answer]") -> None:
    """Retrieve the exception of cancelled work. Otherwise, asyncio reports that it was never retrieved."""
    if not task.cancelled():
        task.exception()
