"""The grid check of the node: in the log, in /diagnostics, and as a condition of readiness."""

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes import ScriptedEngine
from ros_rig import rig
from target_engine import TargetEngine

from robobrain_ros.core.grids import Grid
from robobrain_ros.errors import EngineFailedError


def engine_entry(running) -> DiagnosticStatus:
    return running.node._diagnostics._engine("engine", running.node.model)


@pytest.mark.parametrize(
    ("engine", "level", "begin"),
    [
        (TargetEngine(), DiagnosticStatus.OK, "right: 4 of 4 answers hit their targets as pixels of the resized image."),
        (TargetEngine(grid=Grid.THOUSANDTHS), DiagnosticStatus.WARN, "wrong: the model answers in 0 to 1000 (4 of 4 targets"),
        (ScriptedEngine(["[(3, 3)]"]), DiagnosticStatus.WARN, "none fits: "),
        (ScriptedEngine(["[]"]), DiagnosticStatus.OK, "unclear: 0 of 4 answers have coordinates"),
    ],
    ids=["right", "wrong", "none fits", "unclear"],
)  # fmt: skip
def test_the_result_is_in_the_log_and_the_diagnostics_and_does_not_prevent_the_start(
    engine: ScriptedEngine, level: bytes, begin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with rig(engine, grid_check="warn", max_image_age=0.0) as running:
        running.until_ready()
        entry = engine_entry(running)
        values = {value.key: value.value for value in entry.values}
        assert values["grid_check"].startswith(begin)
        assert entry.level == level
        assert ("Grid check: " in entry.message) == (level == DiagnosticStatus.WARN)
        [line] = [line for line in capfd.readouterr().err.splitlines() if f"Grid check: {begin}" in line]
        assert ("[WARN]" in line) == (level == DiagnosticStatus.WARN)


@pytest.mark.parametrize(
    ("engine", "begin"),
    [
        (TargetEngine(grid=Grid.CAMERA_PIXELS), "wrong: the model answers in pixels of the original image"),
        (ScriptedEngine(["[]"]), "unclear: 0 of 4"),
    ],
    ids=["wrong", "unclear"],
)
def test_a_required_check_fails_the_start(engine: ScriptedEngine, begin: str) -> None:
    with rig(engine, grid_check="require") as running:
        running.until(lambda: running.node.model.health().state == "failed")
        assert f"grid_check is require, and the grid check of the model is {begin}" in running.node.model.health().message
        with pytest.raises(EngineFailedError):
            running.node.model.brain()


def test_a_required_check_lets_a_right_model_start() -> None:
    with rig(TargetEngine(), grid_check="require") as running:
        running.until_ready()
        assert running.node.model.grid is not None
