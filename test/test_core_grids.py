"""The grid check: it names the grid on which a model answers, and raises no false alarm."""

import asyncio
import random
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from fakes import Script, ScriptedEngine
from target_engine import TargetEngine

from robobrain_ros.core import Brain, profile_for
from robobrain_ros.core.grids import Grid, GridCheck, GridVerdict, check_grid, grid_of, require_grid
from robobrain_ros.core.grids.targets import IMAGES, ROUNDS
from robobrain_ros.core.grids.verdict import TargetAnswer, judge
from robobrain_ros.core.imaging import fit
from robobrain_ros.core.profiles import PROFILES, Profile
from robobrain_ros.core.query import ParsedAnswer, Point, Task
from robobrain_ros.errors import BadRequestError, EngineConfigError, EngineFailedError

SPATIAL = [profile for profile in PROFILES if any(task.spatial for task in profile.tasks)]
NOISE: dict[str, Any] = {"noise": 0.04, "misses": 0.36, "silent": 0.1}
"""Noise of a real model, on the safe side. In the answers of RoboBrain2.0-7B that its README shows, ten points fill the free area
between two mugs with a standard deviation of 4.0 % of the mean side of the image, and six points a room with 1.4 %. On
Where2Place, where the targets are free areas among real objects, RoboBrain2.5-8B reaches 66 % (arXiv 2606.20905, table 1), so
34 % of its points miss."""


def run(engine: ScriptedEngine, profile: Profile, **options: Any) -> GridCheck:
    brain = Brain(engine, profile, info=getattr(engine, "info", None))
    return asyncio.run(check_grid(brain, **options))


@pytest.mark.parametrize("profile", SPATIAL, ids=lambda profile: profile.name)
@pytest.mark.parametrize("grid", Grid)
def test_the_check_names_the_grid_on_which_the_engine_answers(profile: Profile, grid: Grid) -> None:
    result = run(TargetEngine(profile=profile, grid=grid), profile)
    right = grid is grid_of(profile)
    assert (result.verdict, result.fits) == (GridVerdict.RIGHT if right else GridVerdict.WRONG, grid)
    assert (result.asked, dict(result.hits)[grid], result.suspicious) == (4, 4, not right)
    if not right:
        assert grid.value in str(result)
        assert "Set model_profile" in str(result)


FORMS = {
    "qwen2.5-vl": '```json\n[{"bbox_2d": [X, Y, X, Y], "label": "disc"}]\n```',
    "qwen3-vl": '```json\n[{"point_2d": [X, Y], "label": "disc"}]\n```',
    "embodied-r1": "<think>The disc is not at [3, 3].</think><answer><point>[[X, Y]]</point></answer>",
    "embodied-r1.5": 'The disc is not at [3, 3].<answer>```json\n[{"point_2d": [X, Y]}]\n```</answer>',
    "rynnbrain": "Not (3, 3). <area> (X, Y) </area>",
    "cosmos-reason2": '```json\n[{"point_2d": [3, 3], "label": "start"}, {"point_2d": [X, Y], "label": "end"}]\n```',
    "mimo-embodied": '<think>\n</think>\n[{"points": [X, Y], "label": "the disc"}]',
}
"""Answers as each family writes them, some with coordinates that are not the answer."""


@pytest.mark.parametrize("name", FORMS)
def test_the_check_reads_the_form_of_the_family(name: str) -> None:
    profile = profile_for(name)
    own = grid_of(profile)
    assert run(TargetEngine(profile=profile, grid=own, form=FORMS[name]), profile).verdict is GridVerdict.RIGHT
    for other in {Grid.MODEL_PIXELS, Grid.CAMERA_PIXELS, Grid.THOUSANDTHS} - {own}:
        result = run(TargetEngine(profile=profile, grid=other, form=FORMS[name]), profile)
        assert (result.verdict, result.fits) == (GridVerdict.WRONG, other)


@pytest.mark.parametrize("cell", [28, 32])
@pytest.mark.parametrize(("written", "read"), list(permutations(Grid, 2)))
def test_no_right_answer_hits_on_another_grid(cell: int, written: Grid, read: Grid) -> None:
    for image, target in (question for questions in ROUNDS for question in questions):
        size = fit(image.size, 4 * cell * cell, 300_000, cell)
        (u, v), (width, height) = image.centre(target), image.size
        across, down = (u + 0.5) / width, (v + 0.5) / height
        extent = {
            Grid.MODEL_PIXELS: (size.model_width, size.model_height),
            Grid.CAMERA_PIXELS: image.size,
            Grid.THOUSANDTHS: (1000, 1000),
            Grid.FRACTIONS: (1, 1),
        }[written]
        point = Point(across * extent[0], down * extent[1])
        answer = TargetAnswer(
            image, target, size, ParsedAnswer(Task.POINT, points=(point,), normalized=written is Grid.FRACTIONS)
        )
        assert answer.hits(written)
        assert not answer.hits(read)


def test_each_image_shows_its_targets_apart() -> None:
    for image in IMAGES:
        assert image.render().shape == (image.size[1], image.size[0], 3)
        for one, other in permutations(image.places, 2):
            (u, v), (x, y) = image.centre(one), image.centre(other)
            assert (u - x) ** 2 + (v - y) ** 2 > (0.25 * image.mean_side) ** 2
    assert len({target for questions in ROUNDS for _, target in questions}) == 3
    assert len({(image.size, target) for questions in ROUNDS for image, target in questions}) == 12


def start(rng: random.Random, grid: Grid, profile: Profile, noise: float, misses: float, silent: float) -> GridVerdict:
    """Return the verdict about a model that answers on a grid with noise. `NOISE` describes the parameters."""
    answers: list[TargetAnswer] = []
    for number, questions in enumerate(ROUNDS, 1):
        for image, target in questions:
            size = fit(image.size, 4 * profile.cell**2, 300_000, profile.cell)
            (u, v), (width, height) = image.centre(target), image.size
            if rng.random() < silent:
                answers.append(TargetAnswer(image, target, fault="The model refuses."))
                continue
            if rng.random() < misses:
                u, v = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
            u, v = rng.gauss(u, noise * image.mean_side), rng.gauss(v, noise * image.mean_side)
            across, down = (min(max((value + 0.5) / side, 0), 1) for value, side in ((u, width), (v, height)))
            extent = {
                Grid.MODEL_PIXELS: (size.model_width, size.model_height),
                Grid.CAMERA_PIXELS: image.size,
                Grid.THOUSANDTHS: (1000, 1000),
                Grid.FRACTIONS: (1, 1),
            }[grid]
            fractions = grid is Grid.FRACTIONS
            digits = 3 if fractions else 0
            point = Point(round(across * extent[0], digits), round(down * extent[1], digits))
            answers.append(TargetAnswer(image, target, size, ParsedAnswer(Task.POINT, points=(point,), normalized=fractions)))
        result = judge(answers, grid_of(profile), profile.name, last=number == len(ROUNDS))
        if result is not None:
            return result.verdict
    raise AssertionError("the last round always has a result")


def starts(count: int, grid: Grid, profile: Profile) -> Counter[GridVerdict]:
    rng = random.Random(f"{profile.name} {grid.name}")
    return Counter(start(rng, grid, profile, **NOISE) for _ in range(count))


@pytest.mark.parametrize("name", ["robobrain2.0", "robobrain2.5"])
@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.thorough)])
def test_realistic_noise_raises_no_false_alarm(name: str, count: int) -> None:
    profile = profile_for(name)
    verdicts = starts(count, grid_of(profile), profile)
    assert verdicts[GridVerdict.WRONG] == 0
    assert verdicts[GridVerdict.NONE_FITS] <= count // 1000  # None of 200.
    assert verdicts[GridVerdict.RIGHT] >= 0.95 * count


@pytest.mark.parametrize("name", ["robobrain2.0", "robobrain2.5"])
def test_a_wrong_grid_is_found_despite_the_noise(name: str) -> None:
    profile = profile_for(name)
    for grid in Grid:
        if grid is not grid_of(profile):
            verdicts = starts(100, grid, profile)
            assert verdicts[GridVerdict.WRONG] >= 90
            assert GridVerdict.RIGHT not in verdicts


def test_noise_of_a_whole_engine_raises_no_false_alarm() -> None:
    profile = profile_for("robobrain2.0")
    results = [run(TargetEngine(profile=profile, seed=seed, **NOISE), profile) for seed in range(5)]
    assert not any(result.suspicious for result in results)


@pytest.mark.parametrize("rescale", [0.5, 0.71, 1.4])
def test_a_server_that_resizes_images_again_is_named(rescale: float) -> None:
    result = run(TargetEngine(rescale=rescale), profile_for("robobrain2.0"))
    assert (result.verdict, result.suspicious) == (GridVerdict.NONE_FITS, True)
    assert result.scale == pytest.approx(rescale, abs=0.03)
    assert f"{result.scale:.2f} times the size" in str(result)


def test_coordinates_that_hit_nothing_fit_no_grid() -> None:
    result = run(ScriptedEngine(["[(3, 3)]"]), profile_for("robobrain2.0"))
    assert (result.verdict, result.located, result.asked) == (GridVerdict.NONE_FITS, 12, 12)
    assert "on every grid" in str(result)


@pytest.mark.parametrize(
    ("script", "fault", "time_limit"),
    [
        ("[]", "found nothing", 60.0),
        ("I cannot help with that.", "it contains no coordinates", 60.0),
        ("", "The model's answer is empty", 60.0),
        (Script([BadRequestError("The server rejects images.")]), "The server rejects images.", 60.0),
        (Script([asyncio.Event()]), "The deadline passed|did not end within", 0.3),
    ],
)
def test_answers_without_coordinates_are_unclear_and_no_alarm(script: Script | str, fault: str, time_limit: float) -> None:
    result = run(ScriptedEngine([script]), profile_for("robobrain2.0"), time_limit=time_limit)
    assert (result.verdict, result.located, result.asked) == (GridVerdict.UNCLEAR, 0, 4)
    assert not result.suspicious
    assert not result.acceptable
    with pytest.raises(EngineConfigError, match=f"grid_check is require.* unclear: 0 of 4 answers have coordinates.*({fault})"):
        require_grid(result)


def test_a_dead_engine_is_an_error() -> None:
    engine = ScriptedEngine([Script([EngineFailedError("The GPU is gone.")])])
    engine.state = "failed"
    with pytest.raises(EngineFailedError):
        run(engine, profile_for("robobrain2.0"))


def test_a_family_without_coordinates_needs_no_check() -> None:
    engine = ScriptedEngine(["+0%"])
    result = run(engine, profile_for("grm-8b"))
    require_grid(result)
    assert (result.verdict, engine.generations) == (GridVerdict.NO_COORDINATES, [])


def test_the_questions_are_not_constrained_to_the_grid_of_the_profile() -> None:
    engine = TargetEngine()
    run(engine, profile_for("robobrain2.0"))
    assert [generation.constraint for generation in engine.generations] == [None] * 4
