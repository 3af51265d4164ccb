"""The HTML report of check_consistency: the scores, and the worst answers drawn into their images."""

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from robobrain_ros.cli.consistency_report import Column, grid_warnings, published
from robobrain_ros.core.grids import Grid, raw_answer, read_as
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.query import RgbImage, Task
from robobrain_ros.evaluation.benchmark_item import Item, read_mask, read_pixels
from robobrain_ros.evaluation.benchmark_videos import read_frames
from robobrain_ros.evaluation.benchmarks import Benchmark, ItemResult

WORST = 12
"""Number of answers of each benchmark in the report."""
_WIDTH = 480
_RIGHT = (40, 200, 90)
_STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em;max-width:75em;color:#1b1e26}table{border-collapse:collapse}"
    "td,th{border:1px solid #c9ced8;padding:.3em .7em;text-align:left;vertical-align:top}th{background:#eef1f6}"
    ".warning{background:#fff2c9;padding:.6em 1em;border-left:4px solid #d39b00}"
    ".answers{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:30em;max-width:100%}img{max-width:100%}"
    "pre{white-space:pre-wrap;background:#f4f6fa;padding:.5em;max-height:12em;overflow:auto}"
)


def page(title: str, columns: Sequence[Column], benchmarks: Sequence[Benchmark], profile: Profile, grid: Grid, model: str) -> str:
    """Return the report as one HTML page without other files.

    :param grid: the grid of the profile.
    :param model: the model of the published scores.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>Model profile: {html.escape(profile.name)}. Grid: {grid.value}.</p>"]
    parts += [f'<p class="warning">{html.escape(sentence)}</p>' for sentence in grid_warnings(columns)]
    parts.append(_table(columns, model))
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    for column in columns:
        for (name, think), results in column.results.items():
            if name in by_name:
                heading = f"{column.title}: {name}{', thinking' if think else ''}"
                parts.append(f"<h2>{html.escape(heading)}: worst answers</h2>")
                parts.append(_worst(by_name[name], results, profile, grid))
    return document(title, parts)


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """Return a whole HTML page.

    :param parts: its content as HTML.
    :param style: further rules of CSS.
    """
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{style}</style></head><body>\n{body}\n</body></html>\n"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table.

    :param head: plain texts.
    :param rows: cells as HTML.
    """
    lines = ["".join(f"<th>{html.escape(text)}</th>" for text in head)]
    lines += ["".join(f"<td>{text}</td>" for text in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _table(columns: Sequence[Column], model: str) -> str:
    names = [grid.value for grid in Grid]
    head = ["questions", "engine", "of", "score (95 % interval)", *names, f"published: {model}, CUDA → FlagOS"]
    rows = []
    for column in columns:
        for (name, think, measure), cell in column.cells.items():
            known = published(name, think, model).replace("->", "→") if measure == "score" else ""
            question = f"{name}{', thinking' if think else ''}: {measure}"
            grids = [
                f"{'<b>' if grid == cell.grid else ''}{100 * cell.grids[grid]:.2f}{'</b>' if grid == cell.grid else ''}"
                if grid in cell.grids
                else ""
                for grid in names
            ]
            plain = [html.escape(text) for text in (question, column.title, str(cell.count), str(cell))]
            rows.append([*plain, *grids, html.escape(known)])
    return html_table(head, rows)


def _worst(benchmark: Benchmark, results: dict[str, ItemResult], profile: Profile, grid: Grid) -> str:
    items = sorted((item for item in benchmark.items if item.identity in results), key=lambda item: results[item.identity].score)
    figures = [_figure(item, results[item.identity], profile, grid) for item in items[:WORST]]
    return f'<div class="answers">{"".join(figures)}</div>'


def _figure(item: Item, result: ItemResult, profile: Profile, grid: Grid) -> str:
    images = [read_pixels(image) for image in item.images] or read_frames(item.clip, item.identity, 2)[0][-1:]  # type: ignore[arg-type]
    if item.kind == "point":
        images = [_drawn(images[0], item, result, profile, grid)]
    shown = "".join(f'<img alt="" src="data:image/jpeg;base64,{_jpeg(image)}">' for image in images)
    expected = f" Expected: {html.escape(item.answer)}." if item.answer else ""
    return (
        f"<figure>{shown}<figcaption><b>{html.escape(item.identity)}</b>: {100 * result.score:.0f} %.{expected}<br>"
        f"{html.escape(item.text)}<pre>{html.escape(result.text or '(no answer)')}</pre></figcaption></figure>"
    )


def _drawn(image: RgbImage, item: Item, result: ItemResult, profile: Profile, grid: Grid) -> RgbImage:
    """Return the image with the right area in green, and with the points of the answer."""
    height, width = image.shape[:2]
    area: npt.NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    if item.polygon:
        corners = np.array([(x * width, y * height) for x, y in item.polygon]).round().astype(np.int32)
        cv2.fillPoly(area, [corners], 1)
    elif item.mask is not None:
        area = read_mask(item).astype(np.uint8)
    shown, right = image.copy(), area > 0
    shown[right] = (0.55 * shown[right] + 0.45 * np.array(_RIGHT)).astype(np.uint8)
    parsed = raw_answer(Task.POINT, result.text, profile) if result.text and all(result.model_size) else None
    if parsed is None:
        return shown
    read = Grid.FRACTIONS if parsed.normalized else grid
    return draw(shown, read_as(parsed, read, FittedSize(width, height, *result.model_size)))


def _jpeg(image: RgbImage) -> str:
    return base64.b64encode(small_jpeg(image, _WIDTH)).decode()


def small_jpeg(image: RgbImage, most_width: int) -> bytes:
    """Return an image of at most this width in pixels as a JPEG file."""
    height, width = image.shape[:2]
    if width > most_width:
        size = most_width, max(1, round(height * most_width / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return data.tobytes()
