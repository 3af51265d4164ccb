"""Compare models on a bag: ask them the same questions about the same images, one model after the other, and write a report."""

import asyncio
import json
import traceback
from argparse import Namespace
from collections.abc import AsyncGenerator, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from robobrain_ros.bags.answers import ask
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.frames import Frame
from robobrain_ros.bags.moments import Moment, Moments
from robobrain_ros.bags.questions import Question
from robobrain_ros.cli.compare_answers import CompareLog, Key, StoredAnswer, measured, stored
from robobrain_ros.cli.compare_html import draw_images, page
from robobrain_ros.cli.compare_options import DATA, LOG, PAGE, ComparedModel, Comparison, check_model, create_folder, prepare
from robobrain_ros.cli.compare_report import Results, Selected, results_of, text_tables, to_json
from robobrain_ros.cli.own_engine import INTERRUPTED, answers_alone, end_when_interrupted
from robobrain_ros.cli.progress import Bar, Messages
from robobrain_ros.core.brain import Brain
from robobrain_ros.demo import DemoError
from robobrain_ros.errors import NoImageError, OutcomeCode, RoboBrainError

_STOPPED = (OutcomeCode.ENGINE_FAILED, OutcomeCode.NOT_READY, OutcomeCode.BUSY, OutcomeCode.CANCELED)
"""Outcomes after which a comparison stops, because each further request would end like this."""
_LEAST_IMAGES = 4
"""Smallest value of ``engine.max_images``."""
_AGAIN = "Run the same command again to continue."
"""The end of sentences about a comparison that is not complete."""


class Work:
    """The work of one comparison: its selected images, and the answers so far."""

    def __init__(self, comparison: Comparison) -> None:
        self._it = comparison
        self._digests = [comparison.question_digest(question) for question in comparison.questions]
        self._models = {model.name: model.digest() for model in comparison.models}
        self.selected: list[Selected] = []

    def moments(self) -> Moments:
        """Return the selected images of the bag. The limit is not applied."""
        return Moments(self._it.source, self._it.cameras, self._it.questions)

    def select(self) -> None:
        """Read the bag once, and find the images.

        :raises BagError: the bag is damaged, no image is selected, or none can be decoded.
        """
        fault, readable = "", False
        seen: set[str] = set()
        for moment in self.moments():
            if not readable:
                try:
                    moment.frame.image()
                    readable = True
                except RoboBrainError as error:
                    fault = fault or error.message
            frame = f"{moment.camera.image}:{moment.frame.stamp}:{moment.frame.time}"
            while frame in seen:
                frame += "'"
            seen.add(frame)
            asked = tuple(self._it.questions.index(question) for question, _ in moment.questions)
            seconds = (moment.frame.time - self._it.source.begin) * 1e-9
            self.selected.append(Selected(moment.number, frame, moment.camera.name, seconds, moment.frame.stamp, asked))
            if len(self.selected) == self._it.limit:
                break
        if not self.selected:
            raise BagError(f"{self._it.source.path} has no image at the times of --every, --rate or --at.")
        if not readable:
            raise BagError(f"No selected image of {self._it.source.path} can be decoded: {fault}")
        for index, question in enumerate(self._it.questions):
            if not any(index in each.questions for each in self.selected):
                raise BagError(
                    f"No image is selected for the question {self._it.title(question)!r}. Change its times or --limit."
                )

    def key(self, model: ComparedModel, question: int, selected: Selected) -> Key:
        """Return the place of an answer in the log."""
        return model.name, self._models[model.name], self._digests[question], selected.frame

    def missing(self, model: ComparedModel, log: CompareLog) -> set[tuple[int, int]]:
        """Return the questions that are not answered yet: (number of the image, index of the question)."""
        return {
            (selected.number, question)
            for selected in self.selected
            for question in selected.questions
            if self.key(model, question, selected) not in log.answers
        }

    def results(self, log: CompareLog) -> Results:
        """Return the results. All questions must be answered."""
        answers = {
            (model.name, question, selected.frame): log.answers[self.key(model, question, selected)]
            for model in self._it.models
            for selected in self.selected
            for question in selected.questions
        }
        return results_of(self._it, self.selected, answers)


async def _each(moments: Moments) -> AsyncGenerator[Moment, None]:
    """Yield the images. A thread reads the bag."""
    reader = ThreadPoolExecutor(1, "bag-reader")
    try:
        iterator, loop = iter(moments), asyncio.get_running_loop()
        while (moment := await loop.run_in_executor(reader, next, iterator, None)) is not None:
            yield moment
    finally:
        reader.shutdown()


async def _ask_one(
    brain: Brain, question: Question, moment: Moment, frames: Sequence[Frame] | BagError, at_once: int
) -> StoredAnswer:
    """Ask one question about one image.

    :raises DemoError: the engine failed.
    """
    try:
        if isinstance(frames, BagError):
            raise NoImageError(str(frames))
        images = [await asyncio.to_thread(frame.image) for frame in frames]
        answer = await ask(brain, question, frames, images)
    except RoboBrainError as error:
        if error.code in _STOPPED:
            raise DemoError(f"{error.code.name}: {error.message} {_AGAIN}") from error
        known = measured(error.report) | {"text": error.raw_text}
        return StoredAnswer(error.code.name, error.message, at_once=at_once, **known)
    height, width = moment.frame.image().shape[:2]
    return stored(answer, (width, height), at_once)


async def _ask_model(
    brain: Brain, model: ComparedModel, work: Work, it: Comparison, missing: Collection[tuple[int, int]], log: CompareLog,
    bar: Bar,
) -> None:  # fmt: skip
    """Ask a model all missing questions.

    :raises DemoError: the engine failed, or the disk is full.
    :raises BagError: the bag is damaged.
    """
    tasks: set[asyncio.Task[None]] = set()
    done, last = 0, max(number for number, _ in missing)

    async def one(question: int, asked: Question, moment: Moment, frames: Sequence[Frame] | BagError) -> None:
        nonlocal done
        answer = await _ask_one(brain, asked, moment, frames, it.at_once)
        log.add(work.key(model, question, work.selected[moment.number]), answer)
        done += 1
        bar.show(done)

    try:
        async with aclosing(_each(work.moments())) as moments:
            async for moment in moments:
                if moment.number > last:
                    break
                for question, frames in moment.questions:
                    index = it.questions.index(question)
                    if (moment.number, index) not in missing:
                        continue
                    while len(tasks) >= it.at_once:
                        ended, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                        for task in ended:
                            task.result()
                    tasks.add(asyncio.create_task(one(index, _askable(question, brain), moment, frames)))
        await asyncio.gather(*tasks)
    finally:
        bar.finish()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _askable(question: Question, brain: Brain) -> Question:
    """Return the question without thinking, if the model was not trained to think about it."""
    can_think = brain.profile.can_think and brain.profile.uses_tags(question.task)
    return question if can_think or not question.think else replace(question, think=False)


def _most_images(questions: Sequence[Question]) -> int:
    counts = [question.history_frames if question.history_seconds else len(question.cameras) for question in questions]
    return max(_LEAST_IMAGES, *counts)


async def compare(options: Namespace, messages: Messages) -> Results:
    """Compare the models of the options, and write the report.

    :raises BagError: an option, the bag or a model is wrong. No model was loaded.
    :raises DemoError: an engine failed, or the disk is full. The answers so far are kept.
    :raises EngineConfigError: a model cannot be loaded. The answers so far are kept.
    """
    it = await asyncio.to_thread(prepare, options)
    try:
        work = Work(it)
        await asyncio.to_thread(work.select)
        create_folder(it.output)
        bag = [str(it.source.path.resolve()), it.source.count, it.source.begin, it.source.end]
        log = CompareLog(it.output / LOG, {"bag": bag})
        try:
            missing = {model.name: work.missing(model, log) for model in it.models}
            total = sum(len(each.questions) for each in work.selected)
            messages.report(f"{len(work.selected)} images, {total} questions for each of {len(it.models)} models.")
            if kept := total * len(it.models) - sum(map(len, missing.values())):
                messages.report(f"{kept} answers of an earlier run are in {it.output}. Only the others are asked.")
            for model in it.models:
                if missing[model.name]:
                    with _loading(messages) as progress:
                        await check_model(model, progress)
            for model in it.models:
                if missing[model.name]:
                    await _run_model(model, work, it, missing[model.name], log, messages)
        finally:
            log.close()
        results = work.results(log)
        await asyncio.to_thread(_write, results, work, options.json)
        return results
    finally:
        it.source.close()


@contextmanager
def _loading(messages: Messages) -> Any:
    printer = messages.progress()
    try:
        yield lambda progress: printer.update(progress.message)
    finally:
        printer.finish()


async def _run_model(
    model: ComparedModel, work: Work, it: Comparison, missing: set[tuple[int, int]], log: CompareLog, messages: Messages
) -> None:
    """Load a model, ask it, and release it."""
    from robobrain_ros.local import open_brain

    limits = {"max_num_seqs": it.at_once, "max_images": _most_images(it.questions)}
    with _loading(messages) as progress:
        brain: Brain = await open_brain(model_profile=model.profile, progress=progress, **{**limits, **model.keywords()})
    try:
        said = f"{brain.profile.name}, identified by {brain.identified_by}" if brain.identified_by else brain.profile.name
        messages.report(f"{model.name}: {brain.info.model}, profile {said}. {brain.info.engine}.")
        if any(_askable(question, brain) != question for question in it.questions):
            messages.report(f"{model.name} was not trained to think about all questions. It answers them without thinking.")
        await _ask_model(brain, model, work, it, missing, log, Bar(messages, model.name, len(missing)))
    finally:
        await brain.close()


def _write(results: Results, work: Work, also: Path | None) -> None:
    """Write the report.

    :raises DemoError: a file cannot be written.
    """
    folder = results.comparison.output
    try:
        draw_images(results, work.moments(), folder)
        content = json.dumps(to_json(results), indent=1) + "\n"
        for path in (folder / DATA, *([also] if also else [])):
            path.write_text(content, encoding="utf-8")
        (folder / PAGE).write_text(page(results, folder), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DemoError(f"The report in {folder} cannot be written: {error.strerror}. {_AGAIN}") from error


def main(options: Namespace, messages: Messages) -> int:
    """Compare the models of the options, and return the exit code."""

    async def run() -> Results:
        end_when_interrupted(messages)
        return await compare(options, messages)

    try:
        with answers_alone() as stream:
            results = asyncio.run(run())
            print(text_tables(results), file=stream, flush=True)
    except (KeyboardInterrupt, asyncio.CancelledError):
        messages.report(f"interrupted. {_AGAIN}")
        return INTERRUPTED
    except (BagError, DemoError, RoboBrainError) as error:
        messages.report(str(error))
        return 1
    except Exception as error:
        with suppress(Exception):
            traceback.print_exc()
        messages.report(f"Unexpected {type(error).__name__}. Please report it with the lines above.")
        return 1
    messages.note(f"Models that agree can be wrong together. The report is the file {results.comparison.output / PAGE}")
    return 0
