"""The texts of the page as HTML. Every text from a model, a node or a viewer is escaped."""

import time
from collections.abc import Iterable
from html import escape

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.live.feed import Entry, Question, Snapshot, Status, StepState

_LONGEST_LINE = 300
_MOST_PARTS = 12
_OLD = 2.0
"""Seconds after which an image counts as old."""
_GREY, _RED, _AMBER, _GREEN = "#868e96", "#e03131", "#e67700", "#2b8a3e"
_LEVELS = {"ok": _GREEN, "warn": _AMBER, "error": _RED}
_STATES = {"open": ("☐", _GREY), "running": ("▶", _AMBER), "done": ("☑", _GREEN)}


def _box(content: str) -> str:
    return f'<div style="font-size:13px;line-height:1.45;padding:2px 10px;overflow-wrap:anywhere">{content}</div>'


def _text(text: str, longest: int = _LONGEST_LINE) -> str:
    return escape(shortened(text, longest))


def _line(content: str, colour: str = "") -> str:
    return f'<div style="color:{colour}">{content}</div>' if colour else f"<div>{content}</div>"


def status_html(status: Status, notes: Iterable[str], viewers: int) -> str:
    """Return the state of the engine, the cameras and the requests."""
    lines = [_line(f"<b>● {_text(status.message, 600)}</b>", _LEVELS.get(status.level, _AMBER))]
    lines += [f'<div><span style="color:{_GREY}">{_text(name, 60)}:</span> {_text(value)}</div>' for name, value in status.rows]
    lines.append(_line(f"viewers: {viewers}", _GREY))
    lines += [_line(_text(note, 600), _AMBER) for note in notes]
    return _box("".join(lines))


def question_html(question: Question | None) -> str:
    """Return the question of a viewer and its answer so far."""
    if question is None:
        return _box(_line("No question yet.", _GREY))
    lines = [f"<div><b>{escape(question.task.value)}</b>: {_text(question.text)}</div>"]
    if question.written:
        style = f"color:{_GREY};font-style:italic;" if question.thinking and not question.finished else ""
        label = "thinking: " if style else ""
        lines.append(
            f'<div style="{style}white-space:pre-wrap;max-height:14em;overflow:auto">{label}{escape(question.written)}</div>'
        )
    if not question.finished:
        lines.append(_line("The model is answering ...", _AMBER))
    elif question.outcome == "OK":
        lines += _parts(question.answer)
        lines.append(_line(f"OK after {question.seconds:.2f} s. {_text(question.message, 600)}", _GREEN))
    else:
        lines.append(_line(f"{escape(question.outcome)}: {_text(question.message, 2000)}", _RED))
    return _box("".join(lines))


def _parts(answer: Answer | None) -> list[str]:
    if answer is None:
        return []
    parts = [
        f"({point.u:.0f}, {point.v:.0f}) {shortened(point.label, _LONGEST_LINE)}" for point in (*answer.points, *answer.waypoints)
    ]
    parts += [
        f"({box.u_min:.0f}, {box.v_min:.0f}) to ({box.u_max:.0f}, {box.v_max:.0f}) {shortened(box.label, _LONGEST_LINE)}"
        for box in answer.boxes
    ]
    if answer.task is Task.ASK:
        parts.append(shortened(answer.text, 1000))
    more = [f"and {len(parts) - _MOST_PARTS} more"] if len(parts) > _MOST_PARTS else []
    return [_line(escape(part)) for part in [*parts[:_MOST_PARTS], *more]]


def plan_html(task: str, plan: Iterable[StepState]) -> str:
    """Return the plan as a checklist."""
    lines = [f"<div><b>{_text(task)}</b></div>"] if task else [_line("No plan yet.", _GREY)]
    for state in plan:
        mark, colour = _STATES[state.state]
        step = state.step
        who = f"{step.robot}: " if step.robot else ""
        share = f" ({state.progress:.0%})" if state.progress is not None else ""
        skill = f' <span style="color:{_GREY}">{_text(f"{step.skill} {step.arguments}")}</span>' if step.skill else ""
        lines.append(
            f'<div><span style="color:{colour}">{mark}</span> {step.order}. {_text(who + step.text)}{skill}{escape(share)}</div>'
        )
    return _box("".join(lines))


def answers_html(snapshot: Snapshot) -> str:
    """Return the previous answers, the newest first."""
    entries = [_entry(entry) for entry in reversed(snapshot.entries)]
    return _box("".join(entries) or _line("No answer yet.", _GREY))


def _entry(entry: Entry) -> str:
    answer = entry.answer
    when = time.strftime("%H:%M:%S", time.localtime(entry.when))
    said = f'<span style="color:{_GREY}">{when} {_text(entry.source, 80)}</span>'
    parts = [*_parts(answer)[:3], *(_line(f"{step.order}. {_text(step.text)}") for step in answer.steps[:_MOST_PARTS])]
    return (
        f'<div style="margin-bottom:6px">{said}<div><b>{escape(answer.task.value)}</b>: {_text(entry.text)}</div>'
        f"{''.join(parts)}</div>"
    )


def caption_html(age: float | None, note: str) -> str:
    """Return the line below the image.

    :param age: age of the image in seconds, or None if there is no image or its age is unknown.
    :param note: why positions are not shown, or empty.
    """
    lines = [] if age is None else [_line(f"image: {age:.1f} s old", _AMBER if age > _OLD else _GREY)]
    return _box("".join([*lines, *([_line(_text(note, 600), _AMBER)] if note else [])]))


def progress_html(task: str, value: float | None) -> str:
    """Return the watched task and its newest progress."""
    return _box(_line("No task is watched.", _GREY) if value is None else f"<div><b>{_text(task)}</b>: {value:.0%}</div>")
