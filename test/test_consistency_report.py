"""The report of an evaluation: published scores, and the worst answers in HTML."""

import asyncio
import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_consistency import filled, large_where2place

from robobrain_ros.cli.consistency_html import page
from robobrain_ros.cli.consistency_report import published, published_model
from robobrain_ros.core.grids import Grid
from robobrain_ros.core.profiles import profile_for


@pytest.mark.parametrize(
    ("name", "think", "said"),
    [
        ("Where2Place", True, "69.58 -> 70.25"),
        ("All-Angles-Bench", False, "50.14 -> 49.62"),
        ("SAT", True, "86.67 -> 85.33"),
        ("tabletop", False, ""),
    ],
)
def test_published_figures(name: str, think: bool, said: str) -> None:
    assert published(name, think) == said


@pytest.mark.parametrize(
    "names",
    [
        ("Where2Place", "BLINK", "CV-Bench", "RoboSpatial-Home", "EmbSpatial-Bench", "All-Angles-Bench", "VSI-Bench", "SAT",
         "EgoPlan-Bench2", "ERQA"),
        ("Where2Place", "blink_val_ev", "cv_bench_test", "robo_spatial_home_all", "embspatial_bench", "all_angles_bench",
         "vsi_bench_tiny", "SAT", "egoplan_bench2", "erqa"),
    ],
    ids=["authors", "FlagEvalMM"],
)  # fmt: skip
def test_every_row_of_the_model_cards_is_shown(names: tuple[str, ...]) -> None:
    """The card of RoboBrain2.0-32B has ten benchmarks, each with thinking and without."""
    shown = {published(name, think) for name in names for think in (True, False)}
    assert len(shown) == 20
    assert "" not in shown
    assert all(published(name, False, "RoboBrain2.5-8B") for name in (*names, "EmbodiedVerse-Open-Sampled"))


def test_published_figures_of_the_models_own_card() -> None:
    assert published_model("/models/RoboBrain2.5-8B-NV") == "RoboBrain2.5-8B"
    assert published("Where2Place", False, "RoboBrain2.5-8B") == "1.22 -> 0.11"
    assert published("Where2Place", True, "RoboBrain2.5-8B") == ""


def test_the_html_report_shows_the_worst_answers_first(tmp_path: Path) -> None:
    benchmark = large_where2place(tmp_path / "Where2Place")
    column = asyncio.run(filled("native", ["[(10, 10)]", "[(900, 10)] <script>"], benchmark))
    text = page("Evaluation of x", [column], [benchmark], profile_for("qwen2_5_vl"), Grid.MODEL_PIXELS, "RoboBrain2.0-32B")
    assert text.index("<b>1</b>: 0 %") < text.index("<b>0</b>: 100 %")
    assert text.count("data:image/jpeg;base64,") == 2
    assert "<script>" not in text
    assert "73.59 → 72.58" in text


def test_the_html_report_draws_the_answer_and_the_right_area(tmp_path: Path) -> None:
    benchmark = large_where2place(tmp_path / "Where2Place")
    column = asyncio.run(filled("native", ["[(900, 350)]"], benchmark))
    text = page("x", [column], [benchmark], profile_for("qwen2_5_vl"), Grid.MODEL_PIXELS, "RoboBrain2.0-32B")
    data = base64.b64decode(text.split("data:image/jpeg;base64,")[1].split('"')[0])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    height, width = shown.shape[:2]
    # The mask is the left half of a gray image.
    red, green, _ = shown[height // 2, width // 4]
    assert green > red + 30
    model_width, model_height = column.results["Where2Place", False]["0"].model_size
    u, v = round(900 / model_width * width), round(350 / model_height * height)
    at_point, elsewhere = shown[v - 4 : v + 5, u - 4 : u + 5], shown[v - 4 : v + 5, u - 80 : u - 60]
    assert abs(at_point - 128).max() > 60
    assert abs(elsewhere - 128).max() < 10
