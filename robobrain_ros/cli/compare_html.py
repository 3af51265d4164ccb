"""The HTML report of a comparison: the answers of all models side by side, drawn into the images."""

import html
from collections.abc import Iterable
from pathlib import Path

from robobrain_ros.bags.moments import Moment
from robobrain_ros.cli.compare_answers import StoredAnswer
from robobrain_ros.cli.compare_options import IMAGES
from robobrain_ros.cli.compare_report import (
    MODEL_HEAD,
    NOT_CORRECTNESS,
    PAIR_HEAD,
    FrameResult,
    Results,
    measure_of,
    model_row,
    pair_row,
)
from robobrain_ros.cli.consistency_html import document, html_table, small_jpeg
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.query import Answer, AnswerContent, Task
from robobrain_ros.errors import OutcomeCode, RoboBrainError

_WIDTH = 640
"""Largest width of an image in the report, in pixels."""
_LONGEST = 2000
"""Characters of an answer in the report. report.json has the whole text."""
_STYLE = (
    "body{max-width:none}td{overflow-wrap:anywhere}"
    ".frame{display:flex;flex-wrap:wrap;gap:1em;margin:.4em 0 2em}figure{width:26em}h3{margin:0}"
    "figcaption b{font-size:1.05em}.bad{color:#a33}.head{color:#555}"
)


def draw_images(results: Results, moments: Iterable[Moment], folder: Path) -> None:
    """Draw the answers into the images of the bag, and write them into the folder of the report. Existing files are replaced.

    An image that cannot be decoded has no file.

    :raises OSError: a file cannot be written.
    """
    by_image = {(frame.selected.number, index): frame for index, frames in enumerate(results.frames) for frame in frames}
    last = max(number for number, _ in by_image)
    for moment in moments:
        if moment.number > last:
            break
        try:
            image = moment.frame.image()
        except RoboBrainError:
            continue
        plain = False
        for index, _ in enumerate(results.frames):
            frame = by_image.get((moment.number, index))
            for answer in () if frame is None else frame.answers.values():
                plain = plain or not _is_drawn(answer)
            for name, answer in () if frame is None else frame.answers.items():
                if answer.content is not None and _is_drawn(answer):
                    path = folder / _file(results, frame, index, name)  # type: ignore[arg-type]
                    path.write_bytes(small_jpeg(draw(image, _answer(answer.content)), _WIDTH))
        if plain:
            (folder / _plain_file(moment.number)).write_bytes(small_jpeg(image, _WIDTH))


def _answer(content: AnswerContent) -> Answer:
    return Answer(**{name: getattr(content, name) for name in AnswerContent.__dataclass_fields__})


def _is_drawn(answer: StoredAnswer) -> bool:
    """Whether the answer has a drawing. Texts and plans are below the image instead."""
    return answer.is_answer and answer.content is not None and answer.content.task.spatial


def _file(results: Results, frame: FrameResult, question: int, model: str) -> str:
    number = next(index for index, each in enumerate(results.models) if each.model.name == model)
    return f"{IMAGES}/{frame.selected.number:06d}_question{question + 1}_model{number + 1}.jpg"


def _plain_file(number: int) -> str:
    return f"{IMAGES}/{number:06d}.jpg"


def page(results: Results, folder: Path) -> str:
    """Return the report as HTML. It refers to the images in the folder."""
    comparison = results.comparison
    title = f"Comparison of {', '.join(model.name for model in comparison.models)}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>Bag: {html.escape(str(comparison.source.path))}</p>"]
    parts.append(f'<p class="warning">{html.escape(NOT_CORRECTNESS)}</p>')
    parts += ["<h2>Models</h2>", _models(results), "<h2>Agreement by task</h2>", _tasks(results)]
    for index, question in enumerate(comparison.questions):
        parts.append(f"<h2>{html.escape(comparison.title(question))}</h2>")
        text = f"Task {question.task.value}: {question.text}. Agreement: {measure_of(question.task)}."
        parts.append(f"<p>{html.escape(text)}</p>")
        parts.append(html_table(PAIR_HEAD, [[html.escape(cell) for cell in pair_row(pair)] for pair in results.questions[index]]))
        parts.append("<p>The images with the least agreement come first.</p>")
        parts += [_frame(results, frame, index, folder) for frame in results.frames[index]]
    return document(title, parts, _STYLE)


def _models(results: Results) -> str:
    rows, origins = [], []
    for result in results.models:
        model, engine, profile = result.served
        options = ", ".join(f"{name}={value}" for name, value in result.model.engine.items())
        at_once = " and ".join(map(str, result.at_once))
        rows.append([html.escape(cell) for cell in (*model_row(result), at_once)])
        origins.append([html.escape(cell) for cell in (result.model.name, result.model.where, model, engine, profile, options)])
    head = ("model", "named as", "name in the reports", "engine", "profile", "options")
    return f"{html_table((*MODEL_HEAD, 'requests at once'), rows)}<br>{html_table(head, origins)}"


def _tasks(results: Results) -> str:
    rows = [
        [html.escape(cell) for cell in (task.value, measure_of(task), *pair_row(pair))]
        for task, pairs in results.tasks.items()
        for pair in pairs
    ]
    return html_table(("task", "agreement means", *PAIR_HEAD), rows)


def _frame(results: Results, frame: FrameResult, question: int, folder: Path) -> str:
    selected = frame.selected
    share = "no answers to compare" if frame.share is None else f"agreement {frame.share:.0%}"
    camera = f", {html.escape(selected.camera)}" if len(results.comparison.cameras) > 1 else ""
    figures = [_figure(results, frame, question, name, answer, folder) for name, answer in frame.answers.items()]
    return (
        f"<h3>{selected.seconds:.2f} s: {share}</h3>"
        f'<div class="head">image {selected.number + 1}, stamp {selected.stamp / 1e9:.3f}{camera}</div>'
        f'<div class="frame">{"".join(figures)}</div>'
    )


def _figure(results: Results, frame: FrameResult, question: int, name: str, answer: StoredAnswer, folder: Path) -> str:
    file = _file(results, frame, question, name) if _is_drawn(answer) else _plain_file(frame.selected.number)
    image = f'<img alt="" loading="lazy" src="{file}">' if (folder / file).exists() else "<p>The image cannot be read.</p>"
    outcome = "" if answer.is_answer else f'<br><span class="bad">{html.escape(f"{answer.code}: {answer.message}")}</span>'
    text = f"<pre>{html.escape(_words(answer)[:_LONGEST])}</pre>" if _words(answer) else ""
    latency = f", {answer.seconds:.2f} s" if answer.seconds else ""
    return f"<figure>{image}<figcaption><b>{html.escape(name)}</b>{latency}{outcome}{text}</figcaption></figure>"


def _words(answer: StoredAnswer) -> str:
    """Return the text to show: the answer or the steps, or what the model wrote instead."""
    content = answer.content
    if content is None or not answer.is_answer:
        return answer.text if answer.code in (OutcomeCode.UNPARSABLE_ANSWER.name, OutcomeCode.INFEASIBLE_PLAN.name) else ""
    if content.task is Task.PLAN:
        steps = [f"{step.order}. {f'{step.robot}: ' if step.robot else ''}{step.text}" for step in content.steps]
        return "\n".join(steps) or content.verdict.value
    return content.text if content.task is Task.ASK else ""
